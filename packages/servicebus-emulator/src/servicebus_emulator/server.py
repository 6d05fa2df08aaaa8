"""The only sockets and the only clock.

Everything that listens here answers plain and TLS on the same port: the first byte of a
connection tells which it is (0x16 opens a TLS handshake, and neither AMQP nor HTTP), and it is
looked at before a transport takes the socket over. One timer is set for what is due next.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, cast

from servicebus_emulator import certificates
from servicebus_emulator.admin.control import Control
from servicebus_emulator.admin.http import HttpPeer
from servicebus_emulator.admin.metrics import write_metrics
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.amqp.connection import State
from servicebus_emulator.amqp.performatives import Error
from servicebus_emulator.broker.changes import Changes
from servicebus_emulator.broker.journal import Event
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.config import read_config
from servicebus_emulator.errors import StartupError
from servicebus_emulator.gateway.hub import Hub, Peer
from servicebus_emulator.gateway.tokens import AcceptAll, Policy, SharedKeys
from servicebus_emulator.identity import Identity
from servicebus_emulator.settings import Settings
from servicebus_emulator.store import Store, StoreFailed
from servicebus_emulator.websocket import WebSocketPeer, could_be_websocket, is_websocket

FIRST_BYTE_WITHIN = 15.0
"""Seconds in which a client has to say something after it connected, TLS included."""

OPEN_WITHIN = 30.0
"""Seconds in which a client has to open its AMQP connection, be it byte by byte."""

REQUEST_WITHIN = 120.0
"""Seconds in which the next request over HTTP has to be complete."""

CLOSED_WITHIN = 5.0
"""Seconds in which a client has to take what it is told at the end."""

STREAM_EVERY = 0.2
"""Seconds between looks at what those who follow the timeline have to be told."""

OUTPUT_LIMIT = 4 << 20
"""Bytes that may wait for a client to read them; above that nothing more is read from it."""

READ_AT_ONCE = 1 << 18
"""Bytes that are taken from a socket in one read."""

DUE_AT_ONCE = 250
"""Locks and the like that end before clients have their turn again: some 10 ms of work."""

EVENTS_WITHIN = 0.25
"""Seconds in which the log tells what happened to a message."""

GARBAGE = 20_000, 5, 100
"""When Python looks for unreachable cycles: seldom, as hardly anything but a connection's end makes
one, and a look at every message that is stored takes longer the more there are."""

log = logging.getLogger("servicebus")

Clock = Callable[[], float]


def steady_clock() -> Clock:
    """Seconds since 1970 that never jump: today's date, and from then on a monotonic clock.

    A lock has to last its duration even where the system's clock is being set.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class Server:
    """One emulator: a namespace, its gateway, its administration, and what they listen on."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self._ahead = 0.0
        steady = clock or steady_clock()
        self.clock: Clock = lambda: steady() + self._ahead
        self.is_durable = settings.state != "memory"
        changes = Changes() if self.is_durable else None
        self.namespace = Namespace(tier=settings.tier, changes=changes)
        self.identity = Identity() if settings.identity else None
        policy: Policy = AcceptAll()
        if settings.auth == "sas":
            policy = SharedKeys(
                settings.keys, self.namespace.authorization_rules, self.identity or AcceptAll()
            )
        self.hub = Hub(self.namespace, policy=policy)
        self.administration = Administration(
            self.namespace,
            self.clock,
            policy,
            Control(self, self.hub.faults) if settings.control else None,
            lambda: write_metrics(self.hub),
            self.identity,
        )
        self.amqp_port = 0
        self.amqps_port: int | None = None
        self.admin_port = 0
        self.authority: bytes | None = None
        self.input = memoryview(bytearray(READ_AT_ONCE))
        self._tls: ssl.SSLContext | None = None
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: dict[asyncio.Transport, None] = {}
        self._peers: dict[Peer, _AmqpTransport] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._store: Store | None = None
        self._is_flushing = False
        self.failed: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Listen; raises :class:`~servicebus_emulator.errors.StartupError` where it cannot."""
        settings = self.settings
        self.failed = asyncio.get_running_loop().create_future()
        try:
            if self.is_durable:
                self._store = Store(Path(settings.state))
                self._store.load(self.namespace, self.clock())
            self._make_entities()
            self._commit()
            self._tls = self._make_tls()
            self.amqp_port = self._listen(settings.amqp_port, self._make_amqp)
            if settings.amqps_port is not None:
                self.amqps_port = self._listen(settings.amqps_port, self._make_amqp)
            self.admin_port = self._listen(settings.admin_port, self._make_http)
        except BaseException:
            await self.stop()
            raise
        self.wake()
        log.info(
            "ready: AMQP on %s:%d, administration on %s:%d",
            settings.host,
            self.amqp_port,
            settings.host,
            self.admin_port,
        )

    def _make_entities(self) -> None:
        """Those of the file; the state may know them, and what became of them."""
        settings = self.settings
        if settings.config is not None:
            read_config(settings.config, settings.tier).make(self.namespace, self.clock())

    # --- what a tester may do --------------------------------------------------------------------

    def now(self) -> float:
        """See :class:`~servicebus_emulator.admin.control.Controlled`."""
        return self.clock()

    def ahead(self) -> float:
        """See :class:`~servicebus_emulator.admin.control.Controlled`."""
        return self._ahead

    def advance(self, seconds: float) -> None:
        """See :class:`~servicebus_emulator.admin.control.Controlled`."""
        self._ahead += seconds
        if self._timer is not None:
            self._timer.cancel()
        self.tick(most=None)

    def restart(self, *, keep: bool) -> None:
        """See :class:`~servicebus_emulator.admin.control.Controlled`."""
        for peer in list(self.hub.peers):
            self.hub.drop(peer)
        if not keep:
            self.namespace.clear(self.clock())
            self._make_entities()
        self.flush()

    async def stop(self) -> None:
        """Close everything at once."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for transport in list(self._transports):
            transport.abort()
        while self._transports:
            await asyncio.sleep(0)
        if self._store is not None:
            with contextlib.suppress(StoreFailed):
                self._commit()
            self._store.close()
            self._store = None

    # --- listening -------------------------------------------------------------------------------

    def _make_tls(self) -> ssl.SSLContext:
        settings = self.settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        names = (*certificates.DEFAULT_NAMES, *settings.tls_names)

        def use(certificate: Path, key: Path) -> None:
            context.load_cert_chain(certificate, key)
            if self.identity is not None:
                self.identity.use_key(key.read_bytes())

        try:
            if settings.tls_cert is not None and settings.tls_key is not None:
                use(settings.tls_cert, settings.tls_key)
            elif settings.tls_dir is not None:
                use(*certificates.ensure(settings.tls_dir, names))
                self.authority = (settings.tls_dir / "ca.pem").read_bytes()
            else:
                with tempfile.TemporaryDirectory() as folder:
                    use(*certificates.ensure(Path(folder), names))
                    self.authority = (Path(folder) / "ca.pem").read_bytes()
        except (OSError, ValueError) as error:
            raise StartupError(
                f"the TLS certificate cannot be used: {error}",
                remedy="correct --tls-cert and --tls-key, or --tls-dir and --tls-name",
            ) from None
        return context

    def _listen(self, port: int, factory: Callable[[], asyncio.BaseProtocol]) -> int:
        host = self.settings.host
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=1_024)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error)
            raise StartupError(
                f"cannot listen on {host}:{port}: {reason}",
                remedy="choose another --host, --amqp-port, --amqps-port or --admin-port, "
                "or stop what listens there",
            ) from None
        listener.setblocking(False)
        self._listeners.append(listener)
        self._spawn(self._accept(listener, factory))
        return int(listener.getsockname()[1])

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(
        self, listener: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # too many open files: the others have to end first
                log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            self._spawn(self._serve(connection, factory))

    async def _serve(
        self, connection: socket.socket, factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = await asyncio.wait_for(_first_byte(connection), FIRST_BYTE_WITHIN)
            if not first:
                connection.close()
                return
            tls = self._tls if first == b"\x16" else None
            await loop.connect_accepted_socket(
                factory,
                connection,
                ssl=tls,
                ssl_handshake_timeout=FIRST_BYTE_WITHIN if tls else None,
            )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            log.debug("a connection failed before it began: %s", error)
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise

    def _make_amqp(self) -> asyncio.BaseProtocol:
        return _AmqpTransport(self)

    def _make_http(self) -> asyncio.BaseProtocol:
        return _HttpTransport(self)

    # --- time and output -------------------------------------------------------------------------

    def flush(self) -> None:
        """See that all is written; with a store once everything that came in by now is kept."""
        if self._store is None:
            self._flush()
        elif not self._is_flushing:
            self._is_flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if self._store is not None and not self.commit():
            return
        while dirty := self.hub.take_dirty():
            for peer in dirty:
                transport = self._peers.get(peer)
                if transport is None:
                    continue
                transport.write_out()
                if peer.held_back and not peer.paused and not peer.connection.pending:
                    peer.resume(self.clock())
                    if self._store is not None and not self.commit():
                        return
        self.wake()

    def commit(self) -> bool:
        """Keep what changed; where that fails, everything ends before anybody is told."""
        try:
            self._commit()
        except StoreFailed as error:
            if self.failed is not None and not self.failed.done():
                self.failed.set_exception(error)
            for transport in list(self._transports):
                transport.abort()
            return False
        return self.failed is None or not self.failed.done()

    def _commit(self) -> None:
        if self._store is not None and self.namespace.changes is not None:
            self._store.write(self.namespace.changes)

    def wake(self) -> None:
        """Set the timer for what is due next."""
        if self._timer is not None and self._timer_at <= self.hub.due_not_before():
            return  # it fires in time, and is set anew then
        due = self.hub.next_due()
        if self._timer is not None:
            if due is not None and self._timer_at <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            delay = max(0.0, due - self.clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tick)

    def tick(self, most: int | None = DUE_AT_ONCE) -> None:
        """Do what is due; the timer calls this, and so may whoever moved the clock.

        Of very much only a part is done, and the timer set to call again at once.
        """
        self._timer = None
        self.hub.advance(self.clock(), most)
        self.flush()


async def _first_byte(connection: socket.socket) -> bytes:
    """The first byte that a client sends; it stays in the socket."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        readable = loop.create_future()
        loop.add_reader(connection, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(connection)


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


class _AmqpTransport(asyncio.BufferedProtocol, asyncio.Protocol):
    """Carries one peer's bytes.

    asyncio's own loop lets all peers read into the server's one buffer, for what was read is
    consumed at once. (For a plain protocol it allocates 256 KiB for every read: at that size, a
    mapping of its own.) uvloop has such a buffer itself, and takes this for a plain protocol.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._peer = server.hub.connect()
        self._transport: asyncio.Transport | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._made_at = self._heard_at = 0.0
        self._frames = 0
        self._is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derive from nothing
        self._server._transports[self._transport] = None
        self._server._peers[self._peer] = self
        self._made_at = self._heard_at = time.monotonic()
        self._set_watch()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.input

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._server.input[:nbytes]))

    def data_received(self, data: bytes) -> None:
        server, connection = self._server, self._peer.connection
        self._peer.receive(data, server.clock())
        if connection.frames != self._frames:  # a part of a frame is no sign of life
            self._frames = connection.frames
            self._heard_at = time.monotonic()
            if not self._is_open and connection.state is State.OPEN:
                self._is_open = True
                self._set_watch()
        server.flush()
        if self._heartbeat is None and connection.remote_idle_ms:
            self._set_heartbeat()

    def write_out(self) -> None:
        """Write what the peer has to be told; hang up where it is over."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._peer.is_dropped:
            self._transport.abort()
            return
        if self._peer.is_silent:
            return
        data = self._peer.connection.take_output()
        if data:
            self._write(data)
            if self._peer.paused and self._transport.get_write_buffer_size() > OUTPUT_LIMIT:
                self._transport.pause_reading()
        if self._peer.closed:
            self._hang_up()

    def _hang_up(self) -> None:
        assert self._transport is not None
        self._transport.close()
        loop = asyncio.get_running_loop()
        self._end = loop.call_later(CLOSED_WITHIN, self._transport.abort)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def pause_writing(self) -> None:
        self._peer.pause()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()
        self._peer.resume(self._server.clock())
        self._server.flush()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._heartbeat, self._watch, self._end):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._server._transports.pop(self._transport, None)
        self._server._peers.pop(self._peer, None)
        self._peer.lost(self._server.clock())
        if self._server._listeners:
            self._server.flush()

    def _set_heartbeat(self) -> None:
        idle = (self._peer.connection.remote_idle_ms or 0) / 1000
        loop = asyncio.get_running_loop()
        self._heartbeat = loop.call_later(max(idle / 2, 0.05), self._beat)

    def _beat(self) -> None:
        self._peer.connection.heartbeat()
        self._server.hub.mark(self._peer)
        self._server.flush()
        self._set_heartbeat()

    def _set_watch(self) -> None:
        """A peer that does not open in time, or is silent for twice our idle time-out, is gone."""
        if self._watch is not None:
            self._watch.cancel()
        idle = 2 * self._server.hub.limits.idle_time_out_ms / 1000
        patience, since = (idle, self._heard_at) if self._is_open else (OPEN_WITHIN, self._made_at)
        left = since + patience - time.monotonic()
        if left <= 0:
            said = "no frame came" if self._is_open else "it was not opened"
            error = Error(
                "amqp:connection:forced", f"The connection ends: {said} in {patience:g} s."
            )
            self._peer.fail(error, self._server.clock())
            self._server.flush()
            return
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(left, self._set_watch)


class _WebSocketTransport(_AmqpTransport):
    """Carries one peer's bytes inside WebSocket messages."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._websocket = WebSocketPeer()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        amqp, out, over = self._websocket.receive(data)
        if out:
            self._transport.write(out)
        if amqp:
            super().data_received(amqp)
        if over:
            self._hang_up()

    def _write(self, data: bytes) -> None:
        super()._write(self._websocket.wrap(data))


class _HttpTransport(asyncio.Protocol):
    """Carries one administration connection's bytes; a WebSocket takes it over."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._first: bytes | None = b""
        self._http = HttpPeer(server.administration.handle)
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._answered = 0
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derive from nothing
        self._server._transports[self._transport] = None
        self._set_watch()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._first is not None:
            self._first = data = self._first + data
            if could_be_websocket(data):
                if is_websocket(data):
                    self.connection_lost(None)
                    taker = _WebSocketTransport(self._server)
                    self._transport.set_protocol(taker)
                    taker.connection_made(self._transport)
                    taker.data_received(data)
                return
            self._first = None
        self._answer(*self._http.receive(data))

    def _answer(self, out: bytes, over: bool) -> None:
        assert self._transport is not None
        if not self._server.commit():
            return
        if self._http.answered != self._answered:
            self._answered = self._http.answered
            self._set_watch()
        if out:
            self._transport.write(out)
        if over:
            self._transport.close()
        elif self._http.is_streaming:
            self._set_watch(STREAM_EVERY, self._stream)
        elif self._is_full or self._http.has_more:
            self._transport.pause_reading()  # until this has been written
            if not self._is_full:
                asyncio.get_running_loop().call_soon(self._proceed)
        self._server.hub.settle_up(self._server.clock())
        self._server.flush()

    def _proceed(self) -> None:
        if self._transport is None or self._transport.is_closing() or self._is_full:
            return
        if self._http.has_more:
            self._answer(*self._http.proceed())
        else:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._proceed()

    def _stream(self) -> None:
        """Tell more, unless what was told is still to be read."""
        if self._is_full:
            self._set_watch(STREAM_EVERY, self._stream)
        else:
            out, over = self._http.stream()
            if not self._http.is_streaming:
                self._set_watch()
            self._answer(out, over)

    def _set_watch(
        self, within: float | None = None, then: Callable[[], None] | None = None
    ) -> None:
        """Wait for the next request, but not for ever; or for what else is next."""
        if self._watch is not None:
            self._watch.cancel()
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(within or REQUEST_WITHIN, then or self._time_out)

    def _time_out(self) -> None:
        assert self._transport is not None
        self._transport.write(self._http.time_out())
        self._transport.close()
        self._watch = asyncio.get_running_loop().call_later(CLOSED_WITHIN, self._transport.abort)

    def connection_lost(self, error: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._server._transports.pop(self._transport, None)


# --- the program ---------------------------------------------------------------------------------


class _JsonLines(logging.Handler):
    """One JSON object a line, written when the event loop comes round and not one by one."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str | tuple[float, Event]] = []
        self._is_due = False

    def emit(self, record: logging.LogRecord) -> None:
        line: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = logging.Formatter().formatException(record.exc_info)
        self._lines.append(json.dumps(line))
        if not self._is_due:
            self._is_due = True
            self._flush_within(0.0)

    def put_event(self, event: Event) -> None:
        """As if it were logged. 10,000 locks may end at once: messages first, then the log."""
        self._lines.append((time.time(), event))
        if len(self._lines) == 1:
            self._flush_within(EVENTS_WITHIN)

    def _flush_within(self, seconds: float) -> None:
        try:
            asyncio.get_running_loop().call_later(seconds, self.flush)
        except RuntimeError:
            self.flush()

    def flush(self) -> None:
        self._is_due = False
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        text = "\n".join(line if isinstance(line, str) else _line(*line) for line in lines)
        with contextlib.suppress(OSError):  # a closed output must not end the server
            self._stream.write(text + "\n")
            self._stream.flush()


def _line(at: float, event: Event) -> str:
    """An event as JSON; an encoder that takes anything takes four times as long."""
    _, _, kind, queue, sequence_number, message_id, delivery_count, detail = event
    line = f'{{"at": {at:.3f}, "level": "info", "message": {_text(kind)}, '
    line += f'"kind": {_text(kind)}, "queue": {_text(queue)}'
    if sequence_number is not None:
        line += f', "sequence_number": {sequence_number}'
    if message_id is not None:
        line += f', "message_id": {_text(message_id)}'
    if delivery_count is not None:
        line += f', "delivery_count": {delivery_count}'
    if detail is not None:
        line += f', "detail": {_text(detail)}'
    return line + "}"


_text = json.encoder.encode_basestring_ascii


def set_up_log(level: str, stream: TextIO) -> Callable[[Event], None] | None:
    """Log one JSON object a line; what logs an event so, where that level is asked for."""
    handler = _JsonLines(stream)
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level.upper())
    return handler.put_event if log.isEnabledFor(logging.INFO) else None


async def serve(settings: Settings, on_event: Callable[[Event], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; ``on_event`` is told what happens."""
    server = Server(settings)
    server.namespace.journal.listener = on_event
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    await server.start()
    assert server.failed is not None
    ended = loop.create_task(stopped.wait())
    try:
        await asyncio.wait((ended, server.failed), return_when=asyncio.FIRST_COMPLETED)
        if server.failed.done():
            server.failed.result()
    finally:
        ended.cancel()
        await server.stop()
        log.info("stopped")


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where that is installed: it costs less per message than asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(settings: Settings) -> int:
    """The program: its exit code."""
    on_event = set_up_log(settings.log_level, sys.stdout)
    gc.freeze()  # what was imported stays
    gc.set_threshold(*GARBAGE)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(serve(settings, on_event))
    except StartupError as error:
        print(f"error: {error}. To resolve it: {error.remedy}.", file=sys.stderr)
        return error.exit_code
    except StoreFailed as error:
        print(f"error: {error}. To resolve it: make room for --state.", file=sys.stderr)
        return 3
    return 0
