"""The server's half of a connection: what it answers, event by event, whatever it is fed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.connection import (
    AMQP_HEADER,
    HEARTBEAT,
    SASL_HEADER,
    Closed,
    Connection,
    CreditChanged,
    Event,
    Limits,
    Link,
    LinkClosed,
    LinkRequested,
    LocalProtocolError,
    MessageReceived,
    Opened,
    Settlement,
    State,
    WindowOpened,
)
from tests.unit.peer import credit, frame, frames, hello, receiver, sender


def connected(**options: int) -> Connection:
    connection = Connection("server", Limits(max_message_size=10_000))
    connection.receive(hello(**options))
    connection.take_output()
    return connection


def attached(connection: Connection, attach: p.Attach) -> Link:
    events = connection.receive(frame(attach))
    link = next(event.link for event in events if isinstance(event, LinkRequested))
    connection.accept(link)
    connection.take_output()
    return link


def written(connection: Connection) -> list[p.Performative | bytes]:
    return [performative for performative, _ in frames(connection.take_output())]


def kinds(events: list[Event]) -> list[type]:
    return [type(event) for event in events]


def test_the_handshake_may_come_in_one_piece() -> None:
    connection = Connection("server")
    assert kinds(connection.receive(hello(idle=60_000))) == [Opened]
    out = written(connection)
    assert out[0] == SASL_HEADER
    assert isinstance(out[1], p.SaslMechanisms)
    assert out[2] == p.SaslOutcome(0)
    assert out[3] == AMQP_HEADER
    assert isinstance(out[4], p.Open)
    assert isinstance(out[5], p.Begin)
    assert out[5].remote_channel == 0
    assert connection.remote_idle_ms == 60_000


def test_a_peer_may_do_without_sasl() -> None:
    connection = Connection("server")
    assert kinds(connection.receive(AMQP_HEADER + frame(p.Open("me")))) == [Opened]


CONVERSATION = (
    hello()
    + frame(sender("s", "q"))
    + frame(receiver("r", "q"))
    + frame(credit(5))
    + frame(p.Detach(1, True))
    + HEARTBEAT
    + frame(p.End())
    + frame(p.Close())
)


def test_byte_by_byte_is_the_same_as_at_once() -> None:
    whole, pieces = Connection("server"), Connection("server")
    at_once = whole.receive(CONVERSATION)
    one_by_one: list[Event] = []
    for index in range(len(CONVERSATION)):
        one_by_one += pieces.receive(CONVERSATION[index : index + 1])
    assert kinds(at_once) == kinds(one_by_one)
    assert whole.take_output() == pieces.take_output()
    assert kinds(at_once)[-1] is Closed


@given(st.binary(max_size=300))
def test_garbage_closes_the_connection_at_most(data: bytes) -> None:
    connection = connected()
    connection.receive(data)
    connection.take_output()
    if connection.state is State.CLOSED:
        assert connection.receive(data) == []


@given(st.data())
def test_a_conversation_with_one_wrong_byte(data: st.DataObject) -> None:
    spoilt = bytearray(CONVERSATION)
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    connection = Connection("server")
    connection.receive(bytes(spoilt))
    connection.take_output()


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (struct.pack(">IBBH", 7, 2, 0, 0), "amqp:connection:framing-error"),
        (struct.pack(">IBBH", 1 << 30, 2, 0, 0), "amqp:connection:framing-error"),
        (struct.pack(">IBBH", 12, 1, 0, 0) + b"\x40" * 4, "amqp:connection:framing-error"),
        (struct.pack(">IBBH", 12, 2, 9, 0) + b"\x40" * 4, "amqp:connection:framing-error"),
        (struct.pack(">IBBH", 12, 2, 0, 0) + b"\x99" * 4, "amqp:decode-error"),
        (frame(p.Open("again")), "amqp:not-allowed"),
        (frame(p.Begin()), "amqp:not-allowed"),
        (frame(sender("s", "q"), channel=3), "amqp:not-allowed"),
        (frame(p.SaslOutcome(0)), "amqp:not-allowed"),
    ],
)
def test_a_breach_is_answered_with_a_close(data: bytes, condition: str) -> None:
    connection = connected()
    events = connection.receive(data)
    assert kinds(events) == [Closed]
    last = written(connection)[-1]
    assert isinstance(last, p.Close)
    assert last.error is not None
    assert last.error.condition == condition


def test_a_wrong_header_is_answered_with_the_right_one() -> None:
    connection = Connection("server")
    assert kinds(connection.receive(b"GET / HTTP/1.1\r\n")) == [Closed]
    assert connection.take_output() == SASL_HEADER


def test_a_link_that_is_refused_is_attached_without_terminus_and_detached() -> None:
    connection = connected()
    events = connection.receive(frame(receiver("r", "nowhere")))
    assert isinstance(events[0], LinkRequested)
    connection.refuse(events[0].link, p.Error("amqp:not-found", "no"))
    attach, detach = written(connection)
    assert isinstance(attach, p.Attach)
    assert attach.source is None
    assert attach.target is None
    assert detach == p.Detach(1, True, p.Error("amqp:not-found", "no"))
    assert kinds(connection.receive(frame(p.Detach(1, True)))) == [LinkClosed]
    assert written(connection) == []


def test_credit_that_came_before_the_answer_counts() -> None:
    connection = connected()
    events = connection.receive(frame(receiver("r", "q")) + frame(credit(3)))
    assert isinstance(events[0], LinkRequested)
    link = events[0].link
    assert kinds(connection.accept(link)) == [CreditChanged]
    assert link.credit == 3


def test_a_stale_delivery_count_is_no_debt() -> None:
    connection = connected()
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(credit(2)))
    connection.send(link, b"t", b"m")
    connection.send(link, b"u", b"m")
    connection.receive(frame(credit(1, delivery_count=0)))
    assert link.credit == 0
    connection.receive(frame(credit(1, delivery_count=2)))
    assert link.credit == 1


def test_draining_uses_up_the_credit() -> None:
    connection = connected()
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(credit(5, drain=True)))
    connection.drained(link)
    flow = written(connection)[-1]
    assert isinstance(flow, p.Flow)
    assert (flow.link_credit, flow.delivery_count, flow.drain) == (0, 5, True)


def test_without_credit_nothing_is_sent() -> None:
    connection = connected()
    link = attached(connection, receiver("r", "q"))
    with pytest.raises(LocalProtocolError):
        connection.send(link, b"t", b"m")


def test_a_message_is_split_to_the_peer_s_frame_size() -> None:
    connection = connected(max_frame_size=512)
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(credit(1)))
    payload = bytes(range(256)) * 8
    connection.send(link, b"t" * 16, payload)
    data = connection.take_output()
    pieces = frames(data)
    transfers = [f for f, _ in pieces if isinstance(f, p.Transfer)]
    assert b"".join(piece for _, piece in pieces) == payload
    assert [t.more for t in transfers] == [True] * (len(transfers) - 1) + [False]
    sizes = []
    while data:
        size = struct.unpack_from(">I", data)[0]
        sizes.append(size)
        data = data[size:]
    assert max(sizes) <= 512


def test_a_closed_window_holds_frames_back() -> None:
    connection = connected(max_frame_size=512, window=2)
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(p.Flow(0, 2, 0, 1_000, 1, 0, 10)))
    connection.send(link, b"t", b"x" * 2_000)
    assert len(frames(connection.take_output())) == 2
    assert not link.ready
    events = connection.receive(frame(p.Flow(2, 100, 0, 1_000)))
    assert kinds(events) == [WindowOpened]
    assert len(frames(connection.take_output())) == 3
    assert link.ready


def test_a_message_may_come_in_pieces() -> None:
    connection = connected()
    attached(connection, sender("s", "q"))
    data = frame(p.Transfer(0, 0, b"t", 0, more=True), b"one ")
    assert connection.receive(data) == []
    events = connection.receive(frame(p.Transfer(0), b"two"))
    assert isinstance(events[0], MessageReceived)
    assert events[0].payload == b"one two"
    assert not events[0].settled


def test_an_aborted_message_never_was() -> None:
    connection = connected()
    attached(connection, sender("s", "q"))
    connection.receive(frame(p.Transfer(0, 0, b"t", 0, more=True), b"one "))
    assert connection.receive(frame(p.Transfer(0, aborted=True))) == []
    events = connection.receive(frame(p.Transfer(0, 1, b"u", 0), b"two"))
    assert isinstance(events[0], MessageReceived)
    assert events[0].payload == b"two"


def test_a_message_without_end_loses_its_link() -> None:
    connection = connected()
    attached(connection, sender("s", "q"))
    piece = b"x" * 60_000
    for index in range(30):
        connection.receive(frame(p.Transfer(0, index or 0, b"t", 0, more=True), piece))
    detach = [f for f in written(connection) if isinstance(f, p.Detach)]
    assert detach[0].error is not None
    assert detach[0].error.condition == "amqp:link:message-size-exceeded"


def test_more_messages_than_credit_are_taken() -> None:
    connection = connected()
    attached(connection, sender("s", "q"))
    count = 0
    for index in range(3_000):
        events = connection.receive(frame(p.Transfer(0, index, b"t", 0, True), b"m"))
        count += len(events)
    assert count == 3_000
    flows = [f for f in written(connection) if isinstance(f, p.Flow)]
    assert any(flow.link_credit == 1_000 for flow in flows)


def test_a_settlement_waits_for_its_echo() -> None:
    connection = connected()
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(credit(3)))
    ids = [connection.send(link, bytes([i]), b"m") for i in range(3)]
    connection.take_output()
    done = p.Disposition(p.RECEIVER, 0, 1, False, p.Accepted())
    events = connection.receive(frame(done))
    assert [(e.delivery_id, e.tag) for e in events if isinstance(e, Settlement)] == [
        (0, b"\x00"),
        (1, b"\x01"),
    ]
    connection.settle_outgoing(link, 0, p.Accepted())
    assert written(connection) == [p.Disposition(p.SENDER, 0, 0, True, p.Accepted())]
    assert set(link.unsettled) == set(ids) - {0}


def test_a_range_of_four_billion_costs_nothing() -> None:
    connection = connected()
    link = attached(connection, receiver("r", "q"))
    connection.receive(frame(credit(1)))
    connection.send(link, b"t", b"m")
    events = connection.receive(frame(p.Disposition(p.RECEIVER, 0, 0xFFFFFFFE, True, p.Accepted())))
    assert kinds(events) == [Settlement]


def test_frames_for_a_link_that_ended_are_discarded() -> None:
    connection = connected()
    link = attached(connection, sender("s", "q"))
    connection.detach(link, p.Error("amqp:not-found"))
    assert connection.receive(frame(p.Transfer(0, 0, b"t", 0), b"m")) == []
    assert kinds(connection.receive(frame(p.Detach(0, True)))) == [LinkClosed]
    assert kinds(connection.receive(frame(p.Close()))) == [Closed]


def test_a_detach_may_come_after_the_end() -> None:
    connection = connected()
    attached(connection, receiver("r", "q"))
    assert kinds(connection.receive(frame(p.End()))) == [LinkClosed]
    assert connection.receive(frame(p.Detach(1, True))) == []
    assert connection.state is State.OPEN


def test_a_transfer_without_a_link_ends_the_session() -> None:
    connection = connected()
    connection.receive(frame(p.Transfer(9, 0, b"t", 0), b"m"))
    end = written(connection)[-1]
    assert isinstance(end, p.End)
    assert end.error is not None
    assert end.error.condition == "amqp:session:unattached-handle"
    assert connection.receive(frame(sender("s", "q"))) == []


def test_what_is_lost_ends_its_links() -> None:
    connection = connected()
    attached(connection, receiver("r", "q"))
    assert kinds(connection.lost()) == [LinkClosed, Closed]
    assert connection.lost() == []
