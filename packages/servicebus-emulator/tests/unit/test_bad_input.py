"""Clients that break the rules or hang: theirs is the connection that ends, nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from servicebus_emulator import server as module
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.connection import AMQP_HEADER, SASL_HEADER, Connection, Limits
from servicebus_emulator.amqp.types import Described, Int, Long, ULong
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.gateway import hub
from servicebus_emulator.server import Server
from servicebus_emulator.settings import Settings
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

BODY = encoded(Described(ULong(0x75), b"x"))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture
async def server(tls: Path) -> AsyncIterator[Server]:
    running = Server(Settings(host="127.0.0.1", amqp_port=0, admin_port=0, tls_dir=tls))
    await running.start()
    running.namespace.create("q", QueueSettings(), running.clock())
    yield running
    await running.stop()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(server: Server, *, admin: bool = False) -> Streams:
    port = server.admin_port if admin else server.amqp_port
    return await asyncio.open_connection("127.0.0.1", port)


async def left(streams: Streams) -> bytes:
    """What the server says until it hangs up."""
    reader, writer = streams
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        await gone(writer)


async def gone(writer: asyncio.StreamWriter) -> None:
    """Hang up."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def condition(streams: Streams) -> str | None:
    """What the server closes the connection with."""
    last = frames(await left(streams))[-1][0]
    assert isinstance(last, p.Close)
    return last.error.condition if last.error is not None else None


async def until(reader: asyncio.StreamReader, kind: type) -> None:
    """Read up to a frame of that kind."""
    data = b""
    while not any(isinstance(item, kind) for item, _ in whole_frames(data)):
        data += await asyncio.wait_for(reader.read(65_536), 10)


def whole_frames(data: bytes) -> list[tuple[p.Performative | bytes, bytes]]:
    """The frames in data that may end within one."""
    end = 0
    while len(data) >= end + 8:
        size = 8 if data[end:].startswith(b"AMQP") else int.from_bytes(data[end : end + 4], "big")
        if len(data) < end + size:
            break
        end += size
    return frames(data[:end])


async def is_served(server: Server) -> None:
    """Another client sends a message and gets it."""
    reader, writer = await connect(server)
    writer.write(hello() + frame(sender("s", "q")) + frame(receiver("r", "q")) + frame(credit(1)))
    await until(reader, p.Flow)
    writer.write(frame(p.Transfer(0, 0, b"t", 0, True), BODY))
    await until(reader, p.Transfer)
    writer.write(frame(p.Disposition(p.RECEIVER, 0, 0, True, p.Accepted())) + frame(p.Close()))
    await left((reader, writer))


def _header(size: int, offset: int = 2, kind: int = 0) -> bytes:
    return struct.pack(">IBBH", size, offset, kind, 0)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (hello() + _header(7), "amqp:connection:framing-error"),
        (hello() + _header(65_537), "amqp:connection:framing-error"),
        (hello() + _header(0xFFFFFFFF), "amqp:connection:framing-error"),
        (hello() + _header(8, 1), "amqp:connection:framing-error"),
        (hello() + _header(16, 5), "amqp:connection:framing-error"),
        (hello() + _header(8, 2, 1), "amqp:connection:framing-error"),
        (hello() + _header(11) + b"\x00\x53\x99", "amqp:decode-error"),
        (hello() + _header(12) + b"\x00\x53\x77\x45", "amqp:decode-error"),
        (hello() + _header(12) + b"\x00\x53\x12\x45", "amqp:decode-error"),
        (hello() + frame(p.Open("again")), "amqp:not-allowed"),
        (hello() + frame(p.Begin(None, 0, 1, 1)), "amqp:not-allowed"),
        (hello() + frame(p.Begin(None, 0, 1, 1), channel=5_000), "amqp:not-allowed"),
        (hello() + frame(p.Transfer(0, 0, b"t", 0), channel=9), "amqp:not-allowed"),
        (hello() + frame(sender("s", "q", 5_000)), "amqp:connection:framing-error"),
        (AMQP_HEADER + frame(p.Begin(None, 0, 1, 1)), "amqp:not-allowed"),
        (AMQP_HEADER + frame(p.Open("me", max_frame_size=511)), "amqp:invalid-field"),
    ],
)
async def test_who_breaks_the_protocol_is_told_and_hung_up_on(
    server: Server, data: bytes, told: str
) -> None:
    streams = await connect(server)
    streams[1].write(data)
    assert await condition(streams) == told
    await is_served(server)
    assert not server.hub.peers


async def test_what_is_no_amqp_gets_the_header_that_was_expected(server: Server) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64):
        streams = await connect(server)
        streams[1].write(garbage)
        assert await left(streams) == SASL_HEADER
    assert not server.hub.peers


async def test_a_client_that_never_opens_is_hung_up_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_WITHIN", 0.2)
    _, writer = await connect(server)
    silent = await connect(server)
    silent[1].write(SASL_HEADER + frame(p.SaslInit("ANONYMOUS")) + AMQP_HEADER)
    for octet in hello():  # byte by byte, and too slowly
        if writer.transport.is_closing():
            break
        writer.write(bytes((octet,)))
        await asyncio.sleep(0.01)
    await is_served(server)
    await gone(writer)
    assert await condition(silent) == "amqp:connection:forced"
    assert not server.hub.peers


async def test_a_frame_that_does_not_end_is_no_sign_of_life(server: Server) -> None:
    server.hub.limits = Limits(idle_time_out_ms=400)
    streams = await connect(server)
    streams[1].write(hello() + _header(60_000))
    began = time.monotonic()
    ended = asyncio.create_task(condition(streams))
    for _ in range(2):
        await asyncio.sleep(0.3)
        streams[1].write(b"x")
    assert await ended == "amqp:connection:forced"
    assert time.monotonic() - began < 1.3  # 0.8 s after the last frame, not after the last byte


async def test_a_client_that_vanishes_in_a_frame_leaves_nothing(server: Server) -> None:
    for _ in range(20):
        _, writer = await connect(server)
        writer.write(hello() + frame(receiver("r", "q")) + frame(credit(5)) + _header(100))
        await writer.drain()
        await gone(writer)
    async with asyncio.timeout(5):
        while server.hub.peers or server._transports:
            await asyncio.sleep(0.01)
    await is_served(server)


def reading(writer: asyncio.StreamWriter) -> asyncio.Transport:
    """The whole transport, of which a writer shows but half."""
    return cast(asyncio.Transport, writer.transport)  # uvloop's derive from nothing


async def deaf(server: Server) -> tuple[Streams, asyncio.Transport]:
    """A client that opens and then reads nothing, and the server's end of it."""
    reader, writer = await connect(server)
    writer.write(hello())
    await asyncio.wait_for(reader.readexactly(8), 5)
    [transport] = server._transports
    for end, option in ((writer, socket.SO_RCVBUF), (transport, socket.SO_SNDBUF)):
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 262_144)
    reading(writer).pause_reading()
    return (reader, writer), transport


async def test_who_sends_and_does_not_read_is_not_read_from(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTPUT_LIMIT", 100_000)
    (reader, writer), transport = await deaf(server)
    writer.write(frame(p.Flow(0, 10, 0, 10, echo=True)) * 50_000)  # and each is answered
    async with asyncio.timeout(10):
        while transport.is_reading():
            await asyncio.sleep(0.01)
    assert transport.get_write_buffer_size() < 1_000_000
    await is_served(server)
    [peer] = server.hub.peers
    reading(writer).resume_reading()  # it goes on when the client reads again
    async with asyncio.timeout(20):
        while peer.connection.frames < 50_000:
            await reader.read(1 << 20)
    await gone(writer)


async def test_who_does_not_even_read_the_close_is_cut_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSED_WITHIN", 0.1)
    (_, writer), _ = await deaf(server)
    writer.write(frame(p.Flow(0, 10, 0, 10, echo=True)) * 50_000 + _header(7))
    async with asyncio.timeout(10):
        while server._transports:
            await asyncio.sleep(0.01)
    await gone(writer)


async def test_one_connection_too_many_is_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_CONNECTIONS", 2)
    others = [await connect(server) for _ in range(2)]
    for reader, writer in others:
        writer.write(hello())
        await asyncio.wait_for(reader.readexactly(8), 5)
    third = await connect(server)
    third[1].write(hello())
    assert await condition(third) == "amqp:resource-limit-exceeded"
    others[0][1].write(frame(p.Close()))
    await left(others[0])
    await is_served(server)
    await gone(others[1][1])


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_thousand_connections_at_once(server: Server) -> None:
    loop, count, before = asyncio.get_running_loop(), 1_000, resident()
    with contextlib.ExitStack() as stack:
        everyone = [stack.enter_context(socket.socket()) for _ in range(count)]
        for number, client in enumerate(everyone):
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", server.amqp_port))
            said = hello() + frame(receiver("r", "q")) + frame(credit(1))
            # Every tenth stays in the middle of a frame.
            await loop.sock_sendall(client, said + (_header(100) if number % 10 == 9 else b""))
        async with asyncio.timeout(30):
            while sum(len(waiting) for waiting in server.hub._consumers.values()) < count:
                await asyncio.sleep(0.05)
        assert resident() - before < 100_000_000
        reader, writer = await connect(server)
        writer.write(hello() + frame(sender("s", "q")))
        await until(reader, p.Flow)
        writer.write(b"".join(frame(p.Transfer(0, n, b"t", 0, True), BODY) for n in range(count)))
        for client in everyone:  # a message for each of them
            data = b""
            while not any(isinstance(item, p.Transfer) for item, _ in whole_frames(data)):
                data += await asyncio.wait_for(loop.sock_recv(client, 65_536), 10)
        writer.write(frame(p.Close()))
        await left((reader, writer))
    async with asyncio.timeout(10):
        while server.hub.peers:
            await asyncio.sleep(0.05)


async def test_a_tls_handshake_that_does_not_end_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BYTE_WITHIN", 0.1)
    streams = await connect(server)
    streams[1].write(b"\x16\x03\x01\x02\x00\x01")
    assert await left(streams) == b""


# --- one connection's memory ---------------------------------------------------------------------


def last_error(connection: Connection) -> p.Error:
    last = frames(connection.take_output())[-1][0]
    assert isinstance(last, p.Close | p.Detach)
    assert last.error is not None
    return last.error


def test_links_without_end_end_the_connection() -> None:
    connection = Connection("server", Limits(links=50))
    connection.receive(hello() + frame(p.Begin(None, 0, 1, 1), channel=1))
    for handle in range(60):
        attach = frame(receiver("r", "q", handle // 2), channel=handle % 2)
        connection.receive(attach)
    assert last_error(connection).condition == "amqp:resource-limit-exceeded"


def test_links_that_ended_do_not_count() -> None:
    connection = Connection("server", Limits(links=2))
    connection.receive(hello())
    for _ in range(10):
        connection.receive(frame(receiver("r", "q", 1)) + frame(p.Detach(1, True)))
    assert connection.receive(frame(receiver("r", "q", 1)))


def test_messages_without_their_end_lose_the_link_that_has_one_too_many() -> None:
    connection = Connection("server", Limits(unfinished=100_000))
    connection.receive(hello())
    for handle in range(3):
        for event in connection.receive(frame(sender("s", "q", handle))):
            connection.accept(event.link)  # type: ignore[union-attr]
    part = p.Transfer(0, 0, b"t", 0, more=True)
    for handle in (0, 1, 0, 1):
        part.handle = handle
        connection.receive(frame(part, b"x" * 30_000))
    assert last_error(connection).condition == "amqp:resource-limit-exceeded"
    [whole] = connection.receive(frame(p.Transfer(0), b"end"))
    assert len(whole.payload) == 60_003  # type: ignore[union-attr]
    part.handle = 2  # one alone may be as large as a message may be
    for _ in range(4):
        assert connection.receive(frame(part, b"x" * 30_000)) == []
    assert connection.receive(frame(p.Transfer(2), b"end"))


async def test_answers_that_nobody_takes_lose_the_link_of_the_requests(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "REPLIES_WAITING", 1_000)
    reader, writer = await connect(server)
    writer.write(hello() + frame(sender("m", "q/$management", 0)))
    writer.write(frame(receiver("m", "q/$management", 1)))
    asked = {"from-sequence-number": Long(0), "message-count": Int(1)}
    await until(reader, p.Flow)
    request = (
        encoded(Described(ULong(0x73), ["id"]))
        + encoded(Described(ULong(0x74), {"operation": "com.microsoft:peek-message"}))
        + encoded(Described(ULong(0x77), asked))
    )
    for number in range(50):
        writer.write(frame(p.Transfer(0, number, b"t", 0, True), request))
    data = b""
    while not any(isinstance(item, p.Detach) for item, _ in frames(data)):
        data += await asyncio.wait_for(reader.read(65_536), 5)
    [told] = [item for item, _ in frames(data) if isinstance(item, p.Detach)]
    assert told.error is not None
    assert told.error.condition == "amqp:resource-limit-exceeded"
    await gone(writer)


# --- the administration --------------------------------------------------------------------------


async def test_a_request_that_does_not_end_is_answered_408(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REQUEST_WITHIN", 0.1)
    idle = await connect(server, admin=True)
    idle[1].write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
    for begun in (b"GET /health HT", b"PUT /q HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx"):
        streams = await connect(server, admin=True)
        streams[1].write(begun)
        assert (await left(streams)).startswith(b"HTTP/1.1 408 ")
    assert (await left(idle)).count(b"HTTP/1.1") == 1
    assert not server._transports


async def test_a_pipeline_that_nobody_reads_waits(server: Server) -> None:
    for number in range(2_000):
        server.namespace.record(0.0, "fault", "q", detail=f"{number} {'x' * 200}")
    reader, writer = await connect(server, admin=True)
    reading(writer).pause_reading()
    asked = b"GET /$emulator/timeline HTTP/1.1\r\nHost: h\r\n\r\n"
    writer.write(asked * 200)  # answers of 100 MB
    async with asyncio.timeout(5):
        while not server._transports:
            await asyncio.sleep(0.01)
        [transport] = server._transports
        while transport.is_reading():
            await asyncio.sleep(0.01)
    assert transport.get_write_buffer_size() < 4 << 20
    await is_served(server)
    reading(writer).resume_reading()
    data, found = b"", 0
    async with asyncio.timeout(60):
        while found < 200:
            data += await reader.read(1 << 20)
            found += data.count(b"HTTP/1.1 200 ")
            data = data[-12:]
    await gone(writer)


@pytest.mark.parametrize(
    ("line", "status"), [(b"CONNECT /health", b"405"), (b"GET http://[", b"400")]
)
async def test_a_request_that_makes_no_sense_is_refused(
    server: Server, line: bytes, status: bytes
) -> None:
    streams = await connect(server, admin=True)
    streams[1].write(line + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert (await left(streams)).startswith(b"HTTP/1.1 " + status)
