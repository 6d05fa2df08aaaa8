"""The shell: sockets, TLS by the first byte, the timer, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from servicebus_emulator import __main__ as program
from servicebus_emulator import server as module
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.connection import HEARTBEAT, Limits
from servicebus_emulator.amqp.types import Described, ULong
from servicebus_emulator.broker.journal import Event
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.errors import StartupError
from servicebus_emulator.server import Server, new_loop, run, serve, set_up_log
from servicebus_emulator.settings import Settings
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

LOCAL = Settings(host="127.0.0.1", amqp_port=0, admin_port=0)
BODY = encoded(Described(ULong(0x75), b"x"))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture
async def server(tls: Path) -> AsyncIterator[Server]:
    running = Server(replace(LOCAL, tls_dir=tls))
    await running.start()
    yield running
    await running.stop()


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


async def http(port: int, path: str, context: ssl.SSLContext | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data.partition(b"\r\n\r\n")[2]


async def until_credit(reader: asyncio.StreamReader) -> bytes:
    """What arrives up to the credit that a sender has to wait for."""
    data = b""
    while not any(isinstance(item, p.Flow) for item, _ in frames(data)):
        data += await asyncio.wait_for(reader.read(65_536), 5)
    return data


async def test_the_administration_answers_http_and_https(server: Server, tls: Path) -> None:
    for context in (None, trusting(tls)):
        told = json.loads(await http(server.admin_port, "/health", context))
        assert told == {"status": "ok", "queues": 0}


async def test_amqp_is_answered_plain_and_over_tls(server: Server, tls: Path) -> None:
    for context in (None, trusting(tls)):
        reader, writer = await asyncio.open_connection("localhost", server.amqp_port, ssl=context)
        writer.write(hello() + frame(p.Close()))
        items = [item for item, _ in frames(await reader.read())]
        assert isinstance(items[-1], p.Close)
        writer.close()
        await writer.wait_closed()


async def test_a_lock_expires_on_time_and_the_message_is_redelivered(server: Server) -> None:
    queue = server.namespace.create("q", QueueSettings(), server.clock())
    queue.settings = replace(queue.settings, lock_duration=0.3)  # shorter than Azure allows
    reader, writer = await asyncio.open_connection("localhost", server.amqp_port)
    writer.write(hello() + frame(receiver("r", "q")) + frame(credit(2)))
    writer.write(frame(sender("s", "q")))
    data = await until_credit(reader)
    sent = time.monotonic()
    writer.write(frame(p.Transfer(0, 0, b"t", 0, True), BODY))
    seen: list[float] = []
    while len(seen) < 2:
        data += await asyncio.wait_for(reader.read(65_536), 5)
        transfers = [item for item, _ in frames(data) if isinstance(item, p.Transfer)]
        seen += [time.monotonic()] * (len(transfers) - len(seen))
    assert seen[1] - sent >= 0.3  # from before it was locked: its client may have been slow
    assert seen[1] - seen[0] < 0.6
    writer.close()
    await writer.wait_closed()
    told = json.loads(await http(server.admin_port, "/$emulator/queues"))
    assert told["queues"][0]["locks"][0]["delivery_count"] == 1


async def test_a_silent_peer_is_kept_alive_with_heartbeats(server: Server) -> None:
    reader, writer = await asyncio.open_connection("localhost", server.amqp_port)
    writer.write(hello(idle=200))
    data = b""
    while HEARTBEAT not in data:
        data += await asyncio.wait_for(reader.read(65_536), 5)
    writer.close()
    await writer.wait_closed()


async def test_a_peer_that_falls_silent_is_dropped(server: Server) -> None:
    server.hub.limits = Limits(idle_time_out_ms=50)
    reader, writer = await asyncio.open_connection("localhost", server.amqp_port)
    writer.write(hello())
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert not server.hub.peers


async def test_a_client_that_says_nothing_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_WITHIN", 0.05)
    reader, writer = await asyncio.open_connection("localhost", server.admin_port)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await writer.wait_closed()


async def test_a_broken_tls_handshake_harms_nobody(server: Server) -> None:
    reader, writer = await asyncio.open_connection("localhost", server.admin_port)
    writer.write(b"\x16\x03\x01" + b"\xff" * 100)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert await http(server.admin_port, "/health")


async def test_a_slow_reader_does_not_fill_the_memory(server: Server) -> None:
    queue = server.namespace.create("q", QueueSettings(), server.clock())
    reader, writer = await asyncio.open_connection("localhost", server.amqp_port)
    writer.write(hello(window=100_000) + frame(sender("s", "q")))
    await until_credit(reader)
    body = encoded(Described(ULong(0x75), b"x" * 50_000))
    for number in range(200):
        writer.write(frame(p.Transfer(0, number, b"t", 0, True), body))
    await writer.drain()
    async with asyncio.timeout(5):
        while queue.counts().total < 200:
            await asyncio.sleep(0.01)
    writer.write(frame(receiver("r", "q")))
    writer.write(frame(p.Flow(0, 100_000, 0, 1_000, 1, 0, 10_000)))
    await asyncio.sleep(0.2)
    assert queue.counts().locked < 200
    got = 0
    while got < 200 * 50_000:
        got += len(await asyncio.wait_for(reader.read(1 << 20), 5))
    assert queue.counts().locked == 200
    writer.close()
    await writer.wait_closed()


async def test_a_port_in_use_is_told_with_a_remedy(server: Server, tls: Path) -> None:
    other = Server(replace(LOCAL, tls_dir=tls, admin_port=server.amqp_port))
    with pytest.raises(StartupError, match=r"cannot listen on 127\.0\.0\.1:.*in use") as caught:
        await other.start()
    assert "--admin-port" in caught.value.remedy


async def test_a_bad_certificate_is_told(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(StartupError, match="certificate"):
        await Server(replace(LOCAL, tls_cert=bad, tls_key=bad)).start()


async def test_queues_from_a_file_are_there_at_the_start(tmp_path: Path, tls: Path) -> None:
    file = tmp_path / "q.toml"
    file.write_text('[[queue]]\nname = "tasks"\nlock_duration = 30\n')
    server = Server(replace(LOCAL, tls_dir=tls, config=file))
    await server.start()
    assert server.namespace.get("tasks").settings.lock_duration == 30
    await server.stop()


async def test_sigterm_stops_with_connections_open(tls: Path) -> None:
    task = asyncio.create_task(serve(replace(LOCAL, tls_dir=tls)))
    await asyncio.sleep(0.2)
    assert not task.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 2)


def test_the_program_ends_with_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(replace(LOCAL, config=tmp_path / "none.toml")) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--config" in told
    monkeypatch.setattr("sys.argv", ["emulator", "--amqp-port", "x"])
    assert program.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_uvloop_it_is_asyncios_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(new_loop()) as loop:
        assert isinstance(loop, uvloop.Loop)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with contextlib.closing(new_loop()) as loop:
        assert isinstance(loop, asyncio.SelectorEventLoop)


@pytest.mark.parametrize(
    "event",
    [
        Event(1, 2.5, "lock-expired", "q", 7, 'an "id" of \u00fc', 0),
        Event(2, 2.5, "queue-created", "q\\\n", detail="lock duration 5 s"),
    ],
)
def test_an_event_is_logged_as_json(event: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    log = logging.getLogger("servicebus")
    for name in ("handlers", "propagate", "level"):  # as they were, afterwards
        monkeypatch.setattr(log, name, getattr(log, name))
    log.handlers = []
    put = set_up_log("info", stream)
    assert put is not None
    put(event)
    line = json.loads(stream.getvalue())
    assert time.time() - 60 < line.pop("at") <= time.time() + 1
    told = event.as_json()
    del told["number"], told["at"]
    assert line == {"level": "info", "message": event.kind, **told}
