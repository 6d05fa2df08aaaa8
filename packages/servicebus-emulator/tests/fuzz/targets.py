"""What is fuzzed: functions that take any bytes and raise only where something is wrong.

A target swallows the errors that the specification of what it calls names, and checks what must
hold whatever came in: reading ends where skipping ends, the same bytes in pieces mean the same,
what the server writes can be read, and another client does not notice.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from itertools import count
from uuid import UUID

from servicebus_emulator.admin.control import Control
from servicebus_emulator.admin.http import HttpPeer
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import DecodeError, EncodeError, decode, encoded, skip
from servicebus_emulator.amqp.connection import Connection
from servicebus_emulator.amqp.types import Described, Long, Symbol, ULong
from servicebus_emulator.broker.model import (
    Draft,
    Message,
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import SqlAction, SqlFilter, View
from servicebus_emulator.broker.sql import FilterError
from servicebus_emulator.errors import ArgumentError, Unauthorized
from servicebus_emulator.gateway.hub import SESSION_FILTER, Hub, Peer
from servicebus_emulator.gateway.message import (
    BATCH_FORMAT,
    pack_content,
    read_batch,
    read_message,
    read_request,
    unpack_content,
    write_message,
)
from servicebus_emulator.gateway.tokens import Key, SharedKeys
from servicebus_emulator.websocket import WebSocketPeer
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

NOW = 1_700_000_000.0
BODY = encoded(Described(ULong(0x75), b"x"))


def codec(data: bytes) -> None:
    """Values and performatives."""
    with contextlib.suppress(DecodeError):
        p.read_performative(data)
    end = None
    with contextlib.suppress(DecodeError):
        end = skip(data, 0)
    try:
        value, position = decode(data)
    except DecodeError:
        return
    assert position == end, "reading and skipping end at different places"
    with contextlib.suppress(EncodeError):
        again = encoded(value)
        assert encoded(decode(again)[0]) == again, "written, read, and not the same"


def connection(data: bytes) -> None:
    """A connection from its first byte on: at once, and in two pieces."""
    whole, pieces = Connection("server"), Connection("server")
    at_once = whole.receive(data)
    middle = len(data) // 2
    one_by_one = pieces.receive(data[:middle]) + pieces.receive(data[middle:])
    assert [type(event) for event in at_once] == [type(event) for event in one_by_one]
    assert whole.state is pieces.state
    written = whole.take_output()
    assert written == pieces.take_output()
    frames(written)


def namespace() -> Namespace:
    """A queue, one with sessions, one that forwards, and a topic with a subscription."""
    numbers = count(1)
    made = Namespace(new_token=lambda: UUID(int=next(numbers)))
    made.create("q", QueueSettings(max_delivery_count=2), NOW)
    made.create("s", QueueSettings(requires_session=True), NOW)
    made.create("f", QueueSettings(forward_to="q"), NOW)
    made.topics.create("t", TopicSettings(), NOW)
    made.topics.subscribe("t", "a", SubscriptionSettings(), NOW)
    return made


def _node(path: str, handle: int) -> bytes:
    return b"".join(
        (
            frame(sender(path, path, handle)),
            frame(receiver(path, path, handle + 1)),
            frame(credit(20, handle=handle + 1)),
        )
    )


_ORDINARY = frame(sender("send", "q", 0)) + frame(receiver("out", "q", 1)) + frame(credit(20))
_SESSIONS = frame(sender("sends", "s", 8)) + frame(
    receiver("outs", "s", 9, filters={Symbol(SESSION_FILTER): None})
)
_LINKS = {
    0: _ORDINARY,
    1: _ORDINARY,
    2: _ORDINARY,
    3: _node("q/$management", 2),
    4: _node("$cbs", 4),
    5: _node("s/$management", 6) + _SESSIONS,
    8: _node("t/Subscriptions/a/$management", 10),
    9: frame(sender("publish", "t", 12)) + frame(receiver("hear", "t/Subscriptions/a", 13)),
}
"""What is attached before the first step, by the kinds of steps that there are."""
_TRANSFERS = {1: 0, 2: 0, 3: 2, 4: 4, 5: 6, 8: 10, 9: 12}
"""Kinds of steps that are messages, and the handles of their links."""
_HELLO = hello()


def gateway(data: bytes) -> None:
    """Steps against open links: a byte that says what, two of length, and as many bytes.

    0 is the body of a frame, 1 a message, 2 a batch, 3 to 5 requests to ``$management`` of a queue,
    ``$cbs`` and ``$management`` of a queue with sessions, 6 lets seconds pass, 7 are bytes as they
    are, 8 a request to ``$management`` of a subscription, and 9 a message to its topic.
    """
    hub = Hub(namespace())
    peer, other = hub.connect(), hub.connect()
    now = NOW
    steps = _steps(data)
    links = dict.fromkeys(_LINKS.get(kind, b"") for kind, _ in steps)
    peer.receive(_HELLO + b"".join(links), now)
    for number, (kind, given) in enumerate(steps):
        if kind == 6:
            now += len(given) / 10
            hub.advance(now)
        else:
            peer.receive(_bytes(kind, given, number), now)
        while hub.take_dirty():
            frames(peer.connection.take_output())
    hub.next_due()
    peer.lost(now)
    hub.advance(now + 1_000)
    _still_serves(hub, other, now + 1_000)


def _steps(data: bytes) -> list[tuple[int, bytes]]:
    steps = []
    while len(data) >= 3:
        end = 3 + int.from_bytes(data[1:3], "big")
        steps.append((data[0] % 10, data[3:end]))
        data = data[end:]
    return steps


def _bytes(kind: int, given: bytes, number: int) -> bytes:
    if kind == 0:
        return struct.pack(">IBBH", 8 + len(given), 2, 0, 0) + given
    if kind in _TRANSFERS:
        form = BATCH_FORMAT if kind == 2 else 0
        return frame(p.Transfer(_TRANSFERS[kind], number, b"t", form), given)
    return given


_ATTACHES = hello() + frame(sender("s", "other")) + frame(receiver("r", "other"))
_SENDS_AND_RECEIVES = frame(credit(1)) + frame(p.Transfer(0, 0, b"t", 0), BODY)


def _still_serves(hub: Hub, other: Peer, now: float) -> None:
    """A client that did nothing wrong sends and receives, unless the queue is gone."""
    hub.namespace.create("other", QueueSettings(), now)
    other.receive(_ATTACHES, now)
    other.receive(_SENDS_AND_RECEIVES, now)
    told = frames(other.connection.take_output())
    assert any(isinstance(item, p.Transfer) for item, _ in told), "another client is not served"


def message(data: bytes) -> None:
    """Messages, batches and requests: read, kept, and written for a receiver."""
    with contextlib.suppress(DecodeError):
        read_request(data)
    with contextlib.suppress(DecodeError, ArgumentError):
        read_batch(data)
    try:
        draft = read_message(data)
    except DecodeError:
        return
    assert unpack_content(pack_content(draft.content)) == draft.content
    again = read_message(write_message(_stored(draft), UUID(int=1), NOW))
    assert (again.message_id, again.session_id) == (draft.message_id, draft.session_id)


def _stored(draft: Draft) -> Message:
    return Message(
        sequence_number=1,
        content=draft.content,
        size=draft.size,
        message_id=draft.message_id,
        session_id=draft.session_id,
        enqueued_at=NOW,
        expires_at=None,
        time_to_live=draft.time_to_live,
        scheduled_for=draft.scheduled_for,
        properties={"DeadLetterReason": "x"},
    )


_PROPERTIES = b"".join(
    encoded(Described(ULong(code), value))
    for code, value in (
        (0x73, ["id", b"user", "to", "label", "reply", "c", *[None] * 4, "session"]),
        (0x74, {"color": "blue", "n": Long(5), "x": 1.5, "yes": True}),
        (0x75, b"body"),
    )
)


def rules(data: bytes) -> None:
    """The SQL of rules: a condition where the first byte is ``c``, else an action."""
    text = data[1:].decode("utf-8", "replace")
    with contextlib.suppress(ArgumentError, FilterError):
        view = View(_stored(read_message(_PROPERTIES)))
        if data[:1] == b"c":
            SqlFilter(text, {"@p": 5}).matches(view)
        else:
            SqlAction(text, {"@p": "x"}).apply(view)


_HANDSHAKE = (
    b"GET /$servicebus/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n"
)


def websocket(data: bytes) -> None:
    """A WebSocket: from the first byte, and after a handshake that went well."""
    WebSocketPeer().receive(data)
    peer = WebSocketPeer()
    assert not peer.receive(_HANDSHAKE)[2]
    peer.wrap(b"x")
    amqp, _, over = peer.receive(data)
    Connection("server").receive(amqp)
    peer.wrap(b"y")
    if not over:
        peer.receive(data)


_ENTRY = (
    b'<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    b'<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/'
    b'connect">%b</QueueDescription></content></entry>'
)


class _Clock:
    """What the tester controls, here to no effect."""

    def now(self) -> float:
        """Always the same."""
        return NOW

    def ahead(self) -> float:
        """Never."""
        return 0.0

    def advance(self, seconds: float) -> None:
        """Nothing to do."""

    def restart(self, *, keep: bool) -> None:
        """Nothing to do."""


def administration(data: bytes) -> None:
    """HTTP; by the first byte: a whole connection, a body, a description's inside, a target."""
    made = namespace()
    hub = Hub(made)
    routes = Administration(made, lambda: NOW, control=Control(_Clock(), hub.faults))
    kind, given = data[:1], data[1:]
    if kind == b"d":
        given = _put(b"/d", _ENTRY % given) + b"GET /d HTTP/1.1\r\nhost: h\r\n\r\n"
    elif kind == b"b":
        given = _put(b"/b", given) + b"GET /b HTTP/1.1\r\nhost: h\r\n\r\n"
    elif kind == b"f":
        given = _put(b"/$emulator/faults", given, b"POST")
    elif kind == b"t":
        given = b"GET " + given + b" HTTP/1.1\r\nhost: h\r\n\r\n"
    elif kind == b"a":
        with contextlib.suppress(Unauthorized):
            keys = SharedKeys((Key("k", "secret"),))
            keys.check("SharedAccessSignature " + given.decode("latin-1"), NOW)
        return
    http = HttpPeer(routes.handle)
    out, over = http.receive(given)
    assert not out or out.startswith(b"HTTP/1.1 "), "no response"
    if not over:
        http.receive(b"")
    hub.advance(NOW + 400)


def _put(path: bytes, body: bytes, method: bytes = b"PUT") -> bytes:
    length = str(len(body)).encode()
    return (
        method
        + b" "
        + path
        + b" HTTP/1.1\r\nhost: h\r\ncontent-length: "
        + length
        + (b"\r\n\r\n" + body)
    )


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (codec, connection, gateway, message, rules, websocket, administration)
}
