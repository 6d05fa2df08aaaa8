"""The client's half of a connection, as plain as can be, for the tests of the server's half."""

from __future__ import annotations

import struct

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.connection import AMQP_HEADER, HEARTBEAT, SASL_HEADER


def frame(performative: p.Performative, payload: bytes = b"", *, channel: int = 0) -> bytes:
    """One frame."""
    kind = 1 if isinstance(performative, p.SaslInit) else 0
    body = p.write_performative(performative) + payload
    return struct.pack(">IBBH", 8 + len(body), 2, kind, channel) + body


def hello(*, max_frame_size: int = 65_536, window: int = 1_000, idle: int | None = None) -> bytes:
    """Everything up to a session on channel 0, pipelined as clients do."""
    return (
        SASL_HEADER
        + frame(p.SaslInit("ANONYMOUS"))
        + AMQP_HEADER
        + frame(p.Open("test", max_frame_size=max_frame_size, idle_time_out=idle))
        + frame(p.Begin(None, 0, window, window))
    )


def frames(data: bytes) -> list[tuple[p.Performative | bytes, bytes]]:
    """What a server wrote: performatives with payloads, headers and heartbeats as bytes."""
    found: list[tuple[p.Performative | bytes, bytes]] = []
    while data:
        if data.startswith(b"AMQP"):
            found.append((data[:8], b""))
            data = data[8:]
            continue
        size = struct.unpack_from(">I", data)[0]
        body, data = data[8:size], data[size:]
        if not body:
            found.append((HEARTBEAT, b""))
        else:
            performative, end = p.read_performative(body)
            found.append((performative, body[end:]))
    return found


def sender(name: str, address: str, handle: int = 0) -> p.Attach:
    """A link from the client to an entity."""
    return p.Attach(
        name,
        handle,
        p.SENDER,
        source=p.Source("here"),
        target=p.Target(address),
        initial_delivery_count=0,
    )


def receiver(
    name: str, address: str, handle: int = 1, *, settled: bool = False, filters: object = None
) -> p.Attach:
    """A link from an entity to the client."""
    return p.Attach(
        name,
        handle,
        p.RECEIVER,
        p.SETTLED if settled else p.UNSETTLED,
        p.SECOND,
        source=p.Source(address, filter=filters if isinstance(filters, dict) else None),
        target=p.Target(name),
    )


def credit(count: int, *, handle: int = 1, delivery_count: int = 0, drain: bool = False) -> p.Flow:
    """Credit for a link."""
    return p.Flow(0, 1_000, 0, 1_000, handle, delivery_count, count, drain=drain)
