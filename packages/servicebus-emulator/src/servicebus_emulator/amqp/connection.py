"""A connection as the server sees it: bytes in, events out; calls in, bytes out. No I/O, no clock.

The life of a connection (AMQP 1.0, part 2.4 and part 5.3). An input that has no line in the table
breaks the protocol: the peer gets a close frame with the error; other connections are unaffected.

============ ================================ ============================================
state        input                            becomes
============ ================================ ============================================
START        header AMQP.3.1.0.0              SASL: mechanisms are offered
START        header AMQP.0.1.0.0              HEADER: a peer without SASL is anonymous
SASL         sasl-init                        SASL_DONE: outcome 0
SASL_DONE    header AMQP.0.1.0.0              HEADER
HEADER       open                             OPEN: open is answered
OPEN         begin attach flow transfer       OPEN
             disposition detach end, empty
OPEN         close                            CLOSED: close is answered
CLOSE_SENT   close                            CLOSED; everything else is discarded
CLOSED       -                                nothing is read or written any more
============ ================================ ============================================

A session is known by the peer's channel number and a link by the peer's handle; both are answered
with the same number, so no second numbering has to be kept. A link goes from REQUESTED (the peer
attached; whoever handles the event accepts or refuses it, at once or later) to ATTACHED, and from
there to GONE, by way of DETACH_SENT where this side ends it. Frames for a link in DETACH_SENT are
discarded, for they crossed our detach.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from servicebus_emulator.amqp.codec import DecodeError
from servicebus_emulator.amqp.performatives import (
    RECEIVER,
    SENDER,
    SETTLED,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Target,
    Transfer,
    read_performative,
    read_usual_disposition,
    read_usual_transfer,
    write_disposition,
    write_performative,
    write_transfer,
)
from servicebus_emulator.amqp.types import Array, Symbol

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
HEARTBEAT = b"\x00\x00\x00\x08\x02\x00\x00\x00"

SERIAL = 0xFFFFFFFF
"""Delivery counts and transfer ids wrap at 32 bits (RFC 1982)."""

_frame_header = struct.Struct(">IBBH")
_TRANSFER, _DISPOSITION = b"\x00\x53\x14", b"\x00\x53\x15"


class ProtocolError(Exception):
    """The peer broke the protocol; ``condition`` goes into the close frame."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition


class LocalProtocolError(Exception):
    """This side was about to break the protocol: a defect of the caller."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer is told, and held to.

    The frame size and the idle time-out are Azure's. ``window`` bounds the transfers that may be
    on their way to us in one session, ``credit`` those on one link; both are topped up at half.
    ``links`` bounds a connection's links over all its sessions, and ``unfinished`` the bytes of
    messages of which the end has not arrived.
    """

    max_frame_size: int = 65_536
    channel_max: int = 4_999
    handle_max: int = 4_999
    idle_time_out_ms: int = 240_000
    window: int = 5_000
    credit: int = 1_000
    max_message_size: int = 262_144
    links: int = 5_000
    unfinished: int = 16 << 20


class State(Enum):
    """Of a connection; see the table at the top."""

    START = "start"
    SASL = "sasl"
    SASL_DONE = "sasl-done"
    HEADER = "header"
    OPEN = "open"
    CLOSE_SENT = "close-sent"
    CLOSED = "closed"


class LinkState(Enum):
    """Of a link; see the last paragraph at the top."""

    REQUESTED = "requested"
    ATTACHED = "attached"
    DETACH_SENT = "detach-sent"
    GONE = "gone"


# What is asked for with every message: in Python 3.11 to read a member off its class costs as
# much as to call a function.
_SASL, _OPEN, _CLOSED, _ATTACHED = State.SASL, State.OPEN, State.CLOSED, LinkState.ATTACHED


@dataclass(slots=True, eq=False)
class Link:
    """One direction of messages. ``peer_receives`` says which: from us to the peer, or to us."""

    session: Session
    name: str
    handle: int
    peer_receives: bool
    attach: Attach
    state: LinkState = LinkState.REQUESTED
    credit: int = 0
    delivery_count: int = 0
    drain: bool = False
    unsettled: dict[int, tuple[bytes, object]] = field(default_factory=dict)
    context: object = None
    _first: tuple[int | None, int | None, bool | None] | None = None
    _parts: bytearray = field(default_factory=bytearray)
    _flow_seen: Flow | None = None
    max_message_size: int = 0

    @property
    def sends_settled(self) -> bool:
        """Receive-and-delete: what is sent is settled by being sent."""
        return self.attach.snd_settle_mode == SETTLED

    @property
    def ready(self) -> bool:
        """A message may be sent now."""
        session = self.session
        return (
            self.credit > 0
            and self.state is _ATTACHED
            and session.remote_window > 0
            and not session.outbox
        )


@dataclass(slots=True, eq=False)
class Session:
    """A pair of numbered streams of transfers with their windows."""

    connection: Connection
    channel: int
    next_incoming_id: int
    incoming_window: int
    remote_window: int
    next_outgoing_id: int = 0
    links: dict[int, Link] = field(default_factory=dict)
    unsettled: dict[int, Link] = field(default_factory=dict)
    outbox: deque[bytes] = field(default_factory=deque)
    end_sent: bool = False


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer's open has been answered."""

    open: Open


@dataclass(frozen=True, slots=True)
class LinkRequested:
    """To be answered with :meth:`Connection.accept` or :meth:`Connection.refuse`."""

    link: Link


@dataclass(frozen=True, slots=True)
class CreditChanged:
    """The peer's flow arrived: send what there is, then call :meth:`Connection.drained`."""

    link: Link


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """A session takes transfers again: any of its links may be able to send."""

    session: Session


class MessageReceived(NamedTuple):  # as below: much cheaper to make than a frozen dataclass
    """A whole message; unless ``settled``, answer with :meth:`Connection.settle_incoming`."""

    link: Link
    delivery_id: int
    message_format: int
    settled: bool
    payload: bytes


class Settlement(NamedTuple):
    """The peer says what became of a delivery; unless ``settled``, it waits for the echo.

    ``key`` is what :meth:`Connection.send` was told to know the delivery by.
    """

    link: Link
    delivery_id: int
    tag: bytes
    key: object
    state: object
    settled: bool


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The link is gone: detached by the peer, or with its session or connection."""

    link: Link


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection has ended; ``error`` is what it ended with, from either side."""

    error: Error | None


Event = (
    Opened
    | LinkRequested
    | CreditChanged
    | WindowOpened
    | MessageReceived
    | Settlement
    | LinkClosed
    | Closed
)


class Connection:
    """The state of one connection; see the table at the top."""

    def __init__(self, container_id: str, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.state = State.START
        self.remote_idle_ms: int | None = None
        self._container_id = container_id
        self._remote_frame_size = 512
        self._sessions: dict[int, Session] = {}
        self._buffer = bytearray()
        self._awaited = 0  # bytes that the buffer has to hold before there is anything in it
        self._out: list[bytes] = []
        self.pending = 0
        self.frames = 0
        self._links = 0
        self._unfinished = 0
        self._events: list[Event] = []

    # --- bytes in, events out --------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Everything that ``data``, together with what came before, amounts to.

        Never raises on what a peer sent: a breach ends in a :class:`Closed` event.
        """
        if self.state is _CLOSED:
            return []
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._awaited:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        self._events = []
        try:
            self._consume(data)
        except ProtocolError as error:
            self._fail(Error(error.condition, str(error)))
        except DecodeError as error:
            self._fail(Error("amqp:decode-error", str(error)))
        events, self._events = self._events, []
        return events

    def fail(self, error: Error) -> list[Event]:
        """End it from this side, without waiting for the peer's close."""
        self._events = []
        if self.state is not State.CLOSED:
            self._fail(error)
        events, self._events = self._events, []
        return events

    def _fail(self, error: Error) -> None:
        self.close(error)
        self._gone(error)

    def lost(self) -> list[Event]:
        """The transport is gone without a close frame."""
        self._events = []
        if self.state is not State.CLOSED:
            self._gone(None)
        events, self._events = self._events, []
        return events

    def take_output(self) -> bytes:
        """The bytes to be written, once."""
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self.pending = 0
        return data

    def _consume(self, buffer: bytes) -> None:
        position = 0
        end = len(buffer)
        limit = self.limits.max_frame_size
        while self.state is not _CLOSED:
            if end - position < 8:
                self._awaited = 8
                break
            if self.state is not _OPEN and self.state in _AWAITS_HEADER:
                self._on_header(buffer[position : position + 8])
                position += 8
                continue
            size, offset, kind, channel = _frame_header.unpack_from(buffer, position)
            if size < 8 or size > limit:
                raise ProtocolError("amqp:connection:framing-error", f"a frame of {size} bytes")
            if offset < 2 or offset * 4 > size:
                raise ProtocolError("amqp:connection:framing-error", f"a data offset of {offset}")
            if kind != (self.state is _SASL):
                raise ProtocolError("amqp:connection:framing-error", f"a frame of type {kind}")
            if end - position < size:
                self._awaited = size
                break
            start = position + 4 * offset
            position += size
            self.frames += 1
            if start < position:
                self._on_frame(channel, buffer, start, position)
        if position < end and self.state is not _CLOSED:
            self._buffer += buffer[position:]

    def _on_header(self, header: bytes) -> None:
        following = _HEADERS.get((self.state, header))
        if following is None:
            # The specification's answer to a wrong header: the right one, then hang up.
            self._out.append(SASL_HEADER if self.state is State.START else AMQP_HEADER)
            self._gone(Error("amqp:connection:framing-error", f"the header {header!r}"))
            return
        self.state = following
        self._out.append(header)
        if following is State.SASL:
            offered = [Symbol(name) for name in ("ANONYMOUS", "PLAIN", "EXTERNAL", "MSSBCBS")]
            self._write(0, SaslMechanisms(Array(offered, Symbol)), kind=1)

    def _on_frame(self, channel: int, data: bytes, start: int, end: int) -> None:
        """The frame whose body is ``data[start:end]``."""
        if self.state is _OPEN:
            if data.startswith(_TRANSFER, start):
                transfer = read_usual_transfer(data, start, end)
                if transfer is not None:
                    handle, delivery_id, _, rest, at = transfer
                    message_format, settled, more, _, _, _, aborted, _ = rest
                    about = delivery_id, message_format, settled
                    self._transferred(channel, handle, about, more, aborted, data[at:end])
                    return
            elif data.startswith(_DISPOSITION, start):
                disposition = read_usual_disposition(data, start, end)
                if disposition is not None:
                    role, first, last, (settled, state, _) = disposition
                    self._disposed(channel, role, first, last, settled, state)
                    return
        body = data[start:end]
        performative, at = read_performative(body)
        if self.state is State.CLOSE_SENT and type(performative) is not Close:
            return
        handler = _FRAMES.get((self.state, type(performative)))
        if handler is None:
            raise ProtocolError(
                "amqp:not-allowed",
                f"{type(performative).__name__} while the connection is {self.state.value}",
            )
        handler(self, channel, performative, body[at:])

    # --- the connection --------------------------------------------------------------------------

    def _on_sasl_init(self, channel: int, frame: SaslInit, payload: bytes) -> None:
        self.state = State.SASL_DONE
        self._write(0, SaslOutcome(0), kind=1)

    def _on_open(self, channel: int, frame: Open, payload: bytes) -> None:
        if frame.max_frame_size < 512:
            raise ProtocolError("amqp:invalid-field", "max-frame-size must be at least 512")
        self._remote_frame_size = min(frame.max_frame_size, 1 << 20)
        self.remote_idle_ms = frame.idle_time_out or None
        self.state = State.OPEN
        self._write(
            0,
            Open(
                container_id=self._container_id,
                max_frame_size=self.limits.max_frame_size,
                channel_max=self.limits.channel_max,
                idle_time_out=self.limits.idle_time_out_ms,
                properties={},
            ),
        )
        self._events.append(Opened(frame))

    def _on_close(self, channel: int, frame: Close, payload: bytes) -> None:
        if self.state is State.OPEN:
            self._write(0, Close())
        self._gone(frame.error)

    def close(self, error: Error | None = None) -> None:
        """Say goodbye; what still arrives is discarded until the peer answers."""
        if self.state in (State.CLOSED, State.CLOSE_SENT):
            return
        if self.state is State.HEADER:  # a close must not come before an open
            self._write(0, Open(container_id=self._container_id))
        if self.state in (State.OPEN, State.HEADER):
            self._write(0, Close(error))
        self.state = State.CLOSE_SENT

    def _gone(self, error: Error | None) -> None:
        self.state = State.CLOSED
        self._buffer.clear()
        for session in self._sessions.values():
            self._drop_links(session)
        self._sessions.clear()
        self._events.append(Closed(error))

    def heartbeat(self) -> None:
        """An empty frame, so that the peer does not take us for dead."""
        if self.state is State.OPEN:
            self._out.append(HEARTBEAT)

    # --- sessions --------------------------------------------------------------------------------

    def _on_begin(self, channel: int, frame: Begin, payload: bytes) -> None:
        if channel > self.limits.channel_max:
            raise ProtocolError("amqp:not-allowed", f"channel {channel} is above channel-max")
        if channel in self._sessions:
            raise ProtocolError("amqp:not-allowed", f"channel {channel} is in use")
        self._sessions[channel] = Session(
            connection=self,
            channel=channel,
            next_incoming_id=frame.next_outgoing_id,
            incoming_window=self.limits.window,
            remote_window=frame.incoming_window,
        )
        self._write(
            channel,
            Begin(
                remote_channel=channel,
                incoming_window=self.limits.window,
                outgoing_window=self.limits.window,
                handle_max=self.limits.handle_max,
            ),
        )

    def _on_end(self, channel: int, frame: End, payload: bytes) -> None:
        session = self._sessions.pop(channel, None)
        if session is None:
            return
        self._drop_links(session)
        if not session.end_sent:
            self._write(channel, End())

    def end(self, session: Session, error: Error) -> None:
        """End a session that broke its rules."""
        if not session.end_sent:
            session.end_sent = True
            self._drop_links(session)
            self._write(session.channel, End(error))

    def _drop_links(self, session: Session) -> None:
        for link in list(session.links.values()):
            self._drop_link(link)

    def _drop_link(self, link: Link) -> None:
        known = link.state is not LinkState.GONE
        link.state = LinkState.GONE
        self._links -= known
        self._forget_parts(link)
        if link.session.links.get(link.handle) is link:
            del link.session.links[link.handle]
        for delivery_id in link.unsettled:
            link.session.unsettled.pop(delivery_id, None)
        link.unsettled.clear()
        if known:
            self._events.append(LinkClosed(link))

    def _session(self, channel: int) -> Session | None:
        """The session, or None where frames for it are to be discarded."""
        session = self._sessions.get(channel)
        return None if session is None or session.end_sent else session

    def _demand_session(self, channel: int) -> Session | None:
        if channel not in self._sessions:
            raise ProtocolError("amqp:not-allowed", f"channel {channel} has no session")
        return self._session(channel)

    def _on_flow(self, channel: int, frame: Flow, payload: bytes) -> None:
        session = self._session(channel)
        if session is None:
            return
        session.next_incoming_id = frame.next_outgoing_id
        base = 0 if frame.next_incoming_id is None else frame.next_incoming_id
        window = (base + frame.incoming_window - session.next_outgoing_id) & SERIAL
        was_closed = session.remote_window <= 0 or bool(session.outbox)
        session.remote_window = window if window < 0x80000000 else 0
        while session.outbox and session.remote_window > 0:
            self._out.append(session.outbox.popleft())
            session.remote_window -= 1
        if was_closed and session.remote_window > 0 and not session.outbox:
            self._events.append(WindowOpened(session))
        if frame.handle is None:
            if frame.echo:
                self._write_flow(session, None)
            return
        link = session.links.get(frame.handle)
        if link is None:
            if frame.link_credit:
                self.end(session, Error("amqp:session:unattached-handle", "flow without a link"))
            return
        if link.state is LinkState.REQUESTED:
            link._flow_seen = frame  # the peer did not wait for our attach
        elif link.state is LinkState.ATTACHED:
            self._on_link_flow(link, frame)

    def _on_link_flow(self, link: Link, frame: Flow) -> None:
        if link.peer_receives:
            count = 0 if frame.delivery_count is None else frame.delivery_count
            credit = (count + (frame.link_credit or 0) - link.delivery_count) & SERIAL
            link.credit = credit if credit < 0x80000000 else 0  # a stale count is not a debt
            link.drain = frame.drain
            self._events.append(CreditChanged(link))
        elif frame.delivery_count is not None:
            link.delivery_count = frame.delivery_count
        if frame.echo:
            self._write_flow(link.session, link)

    # --- links -----------------------------------------------------------------------------------

    def _on_attach(self, channel: int, frame: Attach, payload: bytes) -> None:
        session = self._demand_session(channel)
        if session is None:
            return
        if frame.handle > self.limits.handle_max:
            raise ProtocolError(
                "amqp:connection:framing-error", f"handle {frame.handle} is above handle-max"
            )
        if frame.handle in session.links:
            self.end(session, Error("amqp:session:handle-in-use", f"handle {frame.handle}"))
            return
        if self._links >= self.limits.links:
            raise ProtocolError("amqp:resource-limit-exceeded", f"more than {self._links} links")
        self._links += 1
        link = Link(session, frame.name, frame.handle, frame.role is RECEIVER, frame)
        link.max_message_size = self.limits.max_message_size
        session.links[frame.handle] = link
        self._events.append(LinkRequested(link))

    def accept(
        self,
        link: Link,
        *,
        source: Source | None = None,
        properties: dict[object, object] | None = None,
        max_message_size: int | None = None,
    ) -> list[Event]:
        """Answer an attach. Returns the events of a flow that came before the answer."""
        if link.state is not LinkState.REQUESTED:
            raise LocalProtocolError(f"the link is {link.state.value}")
        asked = link.attach
        if max_message_size is not None:
            link.max_message_size = max_message_size
        link.state = LinkState.ATTACHED
        link.delivery_count = 0 if link.peer_receives else (asked.initial_delivery_count or 0)
        self._write(
            link.session.channel,
            Attach(
                name=asked.name,
                handle=link.handle,
                role=SENDER if link.peer_receives else RECEIVER,
                snd_settle_mode=asked.snd_settle_mode,
                rcv_settle_mode=asked.rcv_settle_mode,
                source=source or asked.source or Source(),
                target=asked.target or Target(),
                initial_delivery_count=0 if link.peer_receives else None,
                max_message_size=link.max_message_size,
                properties={} if properties is None else properties,
            ),
        )
        if not link.peer_receives:
            self._grant(link)
        self._events = []
        if link._flow_seen is not None:
            seen, link._flow_seen = link._flow_seen, None
            self._on_link_flow(link, seen)
        events, self._events = self._events, []
        return events

    def refuse(self, link: Link, error: Error) -> None:
        """Answer an attach with no: an attach without its terminus, then a detach that says why.

        Without the detach pyamqp waits for ever.
        """
        if link.state is not LinkState.REQUESTED:
            raise LocalProtocolError(f"the link is {link.state.value}")
        self._write(
            link.session.channel,
            Attach(
                name=link.attach.name,
                handle=link.handle,
                role=SENDER if link.peer_receives else RECEIVER,
                snd_settle_mode=link.attach.snd_settle_mode,
                rcv_settle_mode=link.attach.rcv_settle_mode,
                initial_delivery_count=0 if link.peer_receives else None,
                max_message_size=link.max_message_size,
                properties={},
            ),
        )
        link.state = LinkState.DETACH_SENT
        self._write(link.session.channel, Detach(link.handle, True, error))

    def detach(self, link: Link, error: Error | None) -> None:
        """End a link from this side."""
        if link.state is not LinkState.ATTACHED:
            return
        link.state = LinkState.DETACH_SENT
        self._forget_parts(link)
        for delivery_id in link.unsettled:
            link.session.unsettled.pop(delivery_id, None)
        link.unsettled.clear()
        self._write(link.session.channel, Detach(link.handle, True, error))

    def _on_detach(self, channel: int, frame: Detach, payload: bytes) -> None:
        session = self._session(channel)  # a detach may come after end
        link = session.links.get(frame.handle) if session else None
        if link is None:
            return
        answered = link.state is LinkState.DETACH_SENT
        self._drop_link(link)
        if not answered:
            self._write(channel, Detach(frame.handle, True))

    def _grant(self, link: Link) -> None:
        link.credit = self.limits.credit
        self._write_flow(link.session, link)

    def _write_flow(self, session: Session, link: Link | None) -> None:
        self._write(
            session.channel,
            Flow(
                next_incoming_id=session.next_incoming_id,
                incoming_window=session.incoming_window,
                next_outgoing_id=session.next_outgoing_id,
                outgoing_window=self.limits.window,
                handle=link.handle if link else None,
                delivery_count=link.delivery_count if link else None,
                link_credit=link.credit if link else None,
                available=0 if link and link.peer_receives else None,
                drain=link.drain if link else False,
            ),
        )

    # --- deliveries ------------------------------------------------------------------------------

    def _on_transfer(self, channel: int, frame: Transfer, payload: bytes) -> None:
        about = frame.delivery_id, frame.message_format, frame.settled
        self._transferred(channel, frame.handle, about, frame.more, frame.aborted, payload)

    def _transferred(
        self,
        channel: int,
        handle: int,
        about: tuple[int | None, int | None, bool | None],
        more: bool,
        aborted: bool,
        payload: bytes,
    ) -> None:
        """A transfer; ``about`` is its delivery-id, its format, and whether it is settled."""
        session = self._sessions.get(channel)
        if session is None or session.end_sent:
            self._demand_session(channel)
            return
        session.next_incoming_id = (session.next_incoming_id + 1) & SERIAL
        session.incoming_window -= 1
        if session.incoming_window <= self.limits.window // 2:
            session.incoming_window = self.limits.window
            self._write_flow(session, None)
        link = session.links.get(handle)
        if link is None or link.peer_receives:
            self.end(session, Error("amqp:session:unattached-handle", "a transfer without a link"))
            return
        if link.state is not _ATTACHED:
            return
        delivery_id, message_format, settled = link._first or about
        if delivery_id is None:
            raise ProtocolError("amqp:not-allowed", "a delivery without a delivery-id")
        if aborted:
            self._forget_parts(link)
            return
        # One megabyte may arrive before a too large message is turned away: clients want the
        # rejection of the message, not the loss of the link, as long as memory stays bounded.
        if len(link._parts) + len(payload) > link.max_message_size + (1 << 20):
            self.detach(
                link,
                Error(
                    "amqp:link:message-size-exceeded",
                    f"The message exceeds the limit of {link.max_message_size} bytes.",
                ),
            )
            return
        if more:
            link._first = delivery_id, message_format, settled
            link._parts += payload
            self._unfinished += len(payload)
            # One link alone may have a message as large as its entity takes.
            if self._unfinished > self.limits.unfinished and self._unfinished > len(link._parts):
                self.detach(
                    link,
                    Error(
                        "amqp:resource-limit-exceeded",
                        f"{self._unfinished} bytes of messages are without their end.",
                    ),
                )
            return
        if link._parts:
            payload = bytes(link._parts + payload)
        if link._first is not None:
            self._forget_parts(link)
        link.delivery_count = (link.delivery_count + 1) & SERIAL
        link.credit -= 1
        self._events.append(
            MessageReceived(
                link,
                delivery_id,
                message_format or 0,
                bool(settled or about[2]),
                payload,
            )
        )
        if link.credit <= self.limits.credit // 2:
            self._grant(link)

    def _forget_parts(self, link: Link) -> None:
        link._first = None
        self._unfinished -= len(link._parts)
        link._parts.clear()

    def settle_incoming(self, link: Link, delivery_id: int, state: object) -> None:
        """Tell a sender what became of its message."""
        if link.state is _ATTACHED:
            body = write_disposition(RECEIVER, delivery_id, delivery_id, state)
            self._out.append(_frame_header.pack(8 + len(body), 2, 0, link.session.channel) + body)

    def send(self, link: Link, tag: bytes, payload: bytes, key: object = None) -> int:
        """Send a message on a link that is :attr:`Link.ready`; the delivery's id.

        ``key`` comes back with its :class:`Settlement`.
        """
        if not link.ready:
            raise LocalProtocolError("the link has no credit, or is not attached")
        session, channel = link.session, link.session.channel
        delivery_id = session.next_outgoing_id
        settled = link.attach.snd_settle_mode == SETTLED
        if not settled:
            link.unsettled[delivery_id] = tag, key
            session.unsettled[delivery_id] = link
        link.credit -= 1
        link.delivery_count = (link.delivery_count + 1) & SERIAL
        room = self._remote_frame_size - 80 - len(tag)
        at = 0
        while True:
            piece = payload[at : at + room]  # the very payload, where all of it fits
            at += room
            more = at < len(payload)
            head = write_transfer(link.handle, delivery_id, tag, settled, more)
            size = 8 + len(head) + len(piece)
            frame = b"".join((_frame_header.pack(size, 2, 0, channel), head, piece))
            session.next_outgoing_id = (session.next_outgoing_id + 1) & SERIAL
            if session.remote_window > 0 and not session.outbox:
                session.remote_window -= 1
                self._out.append(frame)
                self.pending += len(frame)
            else:
                session.outbox.append(frame)
            if not more:
                return delivery_id

    def drained(self, link: Link) -> None:
        """There is nothing (more) to send: use up the credit of a peer that asked to drain."""
        if link.drain and link.state is LinkState.ATTACHED:
            link.delivery_count = (link.delivery_count + link.credit) & SERIAL
            link.credit = 0
            self._write_flow(link.session, link)
            link.drain = False

    def _on_disposition(self, channel: int, frame: Disposition, payload: bytes) -> None:
        self._disposed(channel, frame.role, frame.first, frame.last, frame.settled, frame.state)

    def _disposed(
        self, channel: int, role: bool, first: int, last: int | None, settled: bool, state: object
    ) -> None:
        """The deliveries from ``first`` to ``last`` have come to ``state``."""
        session = self._session(channel)
        if session is None or role is not RECEIVER:
            return
        count = 1 if last is None else ((last - first) & SERIAL) + 1
        if count == 1:
            ids = [first]
        elif count > len(session.unsettled):  # both ends are the peer's: walk what we hold
            ids = [i for i in session.unsettled if (i - first) & SERIAL < count]
        else:
            ids = [(first + i) & SERIAL for i in range(count)]
        for delivery_id in ids:
            link = session.unsettled.get(delivery_id)
            if link is None:
                continue
            tag, key = link.unsettled[delivery_id]
            if settled:
                del link.unsettled[delivery_id], session.unsettled[delivery_id]
            self._events.append(Settlement(link, delivery_id, tag, key, state, settled))

    def settle_outgoing(self, link: Link, delivery_id: int, state: object) -> None:
        """Echo a settlement; the client waits for exactly this."""
        if link.session.unsettled.pop(delivery_id, None) is None:
            return
        del link.unsettled[delivery_id]
        self._frame(
            link.session.channel, write_disposition(SENDER, delivery_id, delivery_id, state)
        )

    # --- writing ---------------------------------------------------------------------------------

    def _write(self, channel: int, frame: Performative, kind: int = 0) -> None:
        self._frame(channel, write_performative(frame), kind)

    def _frame(self, channel: int, body: bytes, kind: int = 0) -> None:
        if self.state is _CLOSED:
            return
        self._out.append(_frame_header.pack(8 + len(body), 2, kind, channel) + body)


_AWAITS_HEADER = (State.START, State.SASL_DONE)

_HEADERS: dict[tuple[State, bytes], State] = {
    (State.START, SASL_HEADER): State.SASL,
    (State.START, AMQP_HEADER): State.HEADER,
    (State.SASL_DONE, AMQP_HEADER): State.HEADER,
}

_FRAMES: dict[tuple[State, type], Callable[..., None]] = {
    (State.SASL, SaslInit): Connection._on_sasl_init,
    (State.HEADER, Open): Connection._on_open,
    (State.OPEN, Begin): Connection._on_begin,
    (State.OPEN, Attach): Connection._on_attach,
    (State.OPEN, Flow): Connection._on_flow,
    (State.OPEN, Transfer): Connection._on_transfer,
    (State.OPEN, Disposition): Connection._on_disposition,
    (State.OPEN, Detach): Connection._on_detach,
    (State.OPEN, End): Connection._on_end,
    (State.OPEN, Close): Connection._on_close,
    (State.CLOSE_SENT, Close): Connection._on_close,
}
