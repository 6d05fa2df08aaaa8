"""Links against the broker, over bytes: who gets what, and what a receiver is told."""

from __future__ import annotations

from uuid import UUID

import pytest

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import decode_all, encoded
from servicebus_emulator.amqp.types import Array, Described, Int, Symbol, UInt, ULong
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.gateway.hub import Hub, Peer
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

BODY = encoded(Described(ULong(0x75), b"hello"))
SESSION = "com.microsoft:session-filter"
NEXT = {Symbol(SESSION): None}


@pytest.fixture
def hub(namespace: Namespace) -> Hub:
    namespace.create("q", QueueSettings(lock_duration=10.0), 0)
    namespace.create("s", QueueSettings(lock_duration=10.0, requires_session=True), 0)
    return Hub(namespace)


def connect(hub: Hub, *performatives: p.Performative) -> Peer:
    peer = hub.connect()
    peer.receive(hello() + b"".join(map(frame, performatives)), 0)
    peer.connection.take_output()
    return peer


def told(peer: Peer) -> list[tuple[p.Performative | bytes, bytes]]:
    return frames(peer.connection.take_output())


def transfers(peer: Peer) -> list[p.Transfer]:
    return [item for item, _ in told(peer) if isinstance(item, p.Transfer)]


def send(hub: Hub, count: int = 1) -> None:
    peer = connect(hub, sender("s", "amqp://host/q"))
    data = b"".join(frame(p.Transfer(0, i, b"t", 0, False), BODY) for i in range(count))
    peer.receive(data, 0)
    accepted = [item for item, _ in told(peer) if isinstance(item, p.Disposition)]
    assert [item.state for item in accepted] == [p.Accepted()] * count


def settle(first: int, state: object, last: int | None = None) -> bytes:
    return frame(p.Disposition(p.RECEIVER, first, last, False, state))


def test_a_message_goes_from_a_sender_to_a_receiver_and_is_completed(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "amqps://host:5671/q"), credit(5))
    send(hub)
    [(transfer, payload)] = [pair for pair in told(peer) if isinstance(pair[0], p.Transfer)]
    assert isinstance(transfer, p.Transfer)
    assert transfer.delivery_tag == UUID(int=1).bytes_le
    assert payload.endswith(BODY)
    peer.receive(settle(0, p.Accepted()), 1)
    assert told(peer) == [(p.Disposition(p.SENDER, 0, 0, True, p.Accepted()), b"")]
    assert hub.namespace.get("q").counts().total == 0


@pytest.mark.parametrize(
    ("state", "echo"),
    [
        (p.Modified(True, False), p.Modified(True, False)),
        (p.Modified(True, True), p.Modified(True, True)),
        (p.Rejected(p.Error("com.microsoft:dead-letter", None, {})), p.Rejected(None)),
        (p.Released(), p.Released()),
    ],
)
def test_outcomes_are_echoed(hub: Hub, state: object, echo: object) -> None:
    peer = connect(hub, receiver("r", "q"), credit(1))
    send(hub)
    told(peer)
    peer.receive(settle(0, state), 1)
    [item] = [item for item, _ in told(peer) if isinstance(item, p.Disposition)]
    assert (item.role, item.settled, item.state) == (p.SENDER, True, echo)


def test_a_lost_lock_is_told_with_all_three_fields(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "q"), credit(1))
    send(hub)
    told(peer)
    hub.advance(10)
    peer.receive(settle(0, p.Accepted()), 10)
    data = peer.connection.take_output()
    [(item, _)] = frames(data)
    assert isinstance(item, p.Disposition)
    assert isinstance(item.state, p.Rejected)
    assert item.state.error is not None
    assert item.state.error.condition == "com.microsoft:message-lock-lost"


def test_an_expired_lock_redelivers_to_whoever_has_credit(hub: Hub) -> None:
    first = connect(hub, receiver("r", "q"), credit(1))
    send(hub)
    assert len(transfers(first)) == 1
    second = connect(hub, receiver("r", "q"), credit(1))
    hub.advance(9.9)
    assert transfers(second) == []
    hub.advance(10)
    assert len(transfers(second)) == 1
    assert second in hub.take_dirty()


def test_receivers_take_turns(hub: Hub) -> None:
    peers = [connect(hub, receiver("r", "q"), credit(100)) for _ in range(4)]
    send(hub, 40)
    assert [len(transfers(peer)) for peer in peers] == [10] * 4


def test_a_paused_receiver_gets_nothing_until_it_resumes(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "q"), credit(5))
    peer.pause()
    send(hub, 2)
    assert transfers(peer) == []
    peer.resume(0)
    assert len(transfers(peer)) == 2


def test_messages_of_a_receiver_that_left_stay_locked(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "q"), credit(1))
    send(hub)
    peer.lost(1)
    other = connect(hub, receiver("r", "q"), credit(1))
    assert transfers(other) == []
    hub.advance(10)
    assert len(transfers(other)) == 1


def test_receive_and_delete_is_settled_by_being_sent(hub: Hub) -> None:
    send(hub)
    peer = hub.connect()
    peer.receive(hello() + frame(receiver("r", "q", settled=True)) + frame(credit(1)), 0)
    assert [item.settled for item in transfers(peer)] == [True]
    assert hub.namespace.get("q").counts().total == 0


def test_draining_an_empty_queue_returns_the_credit(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "q"))
    peer.receive(frame(credit(5, drain=True)), 0)
    [(flow, _)] = told(peer)
    assert isinstance(flow, p.Flow)
    assert (flow.link_credit, flow.delivery_count) == (0, 5)


@pytest.mark.parametrize(
    ("attach", "condition"),
    [
        (receiver("r", "nowhere"), "amqp:not-found"),
        (sender("r", "nowhere", 1), "amqp:not-found"),
        (sender("r", "q/$DeadLetterQueue", 1), "amqp:not-allowed"),
        (receiver("r", "s"), "amqp:not-allowed"),
        (receiver("r", "q", filters=NEXT), "amqp:not-allowed"),
        (receiver("r", "s", filters={Symbol(SESSION): 1}), "com.microsoft:argument-error"),
        (p.Attach("r", 1, p.SENDER), "amqp:not-implemented"),
    ],
)
def test_links_are_refused(hub: Hub, attach: p.Attach, condition: str) -> None:
    peer = connect(hub)
    peer.receive(frame(attach), 0)
    items = [item for item, _ in told(peer)]
    assert isinstance(items[0], p.Attach)
    assert isinstance(items[1], p.Detach)
    assert items[1].error is not None
    assert items[1].error.condition == condition


def test_a_deleted_queue_ends_its_receivers(hub: Hub) -> None:
    peer = connect(hub, receiver("r", "q"), credit(1))
    hub.namespace.delete("q", 1)
    hub.settle_up(1)
    [(detach, _)] = told(peer)
    assert isinstance(detach, p.Detach)
    assert detach.error is not None
    assert detach.error.condition == "amqp:not-found"


def test_what_is_no_message_is_rejected_and_the_link_lives(hub: Hub) -> None:
    peer = connect(hub, sender("s", "q"))
    peer.receive(frame(p.Transfer(0, 0, b"t", 0), b"\x99"), 0)
    peer.receive(frame(p.Transfer(0, 1, b"t", 0), BODY), 0)
    states = [item.state for item, _ in told(peer) if isinstance(item, p.Disposition)]
    assert isinstance(states[0], p.Rejected)
    assert states[1] == p.Accepted()


def test_the_next_free_session_is_waited_for(hub: Hub) -> None:
    waiting = connect(hub, receiver("r", "s", filters=NEXT))
    assert told(waiting) == []
    producer = connect(hub, sender("x", "s"))
    message = encoded(Described(ULong(0x73), [*[None] * 10, "A"])) + BODY
    producer.receive(frame(p.Transfer(0, 0, b"t", 0, True), message), 1)
    [(attach, _)] = told(waiting)
    assert isinstance(attach, p.Attach)
    assert attach.source is not None
    assert attach.source.filter == {"com.microsoft:session-filter": "A"}
    assert attach.properties is not None
    until = attach.properties["com.microsoft:locked-until-utc"]
    assert until == 621_355_968_000_000_000 + 11 * 10_000_000
    waiting.receive(frame(credit(1)), 1)
    assert len(transfers(waiting)) == 1

    hub.advance(11)
    assert told(waiting) == []
    assert hub.next_due() == 12
    hub.advance(12)
    [(detach, _)] = told(waiting)
    assert isinstance(detach, p.Detach)
    assert detach.error is not None
    assert detach.error.condition == "com.microsoft:session-lock-lost"


def test_who_asks_for_transactions_is_told_that_there_are_none_and_loses_nothing_else(
    hub: Hub,
) -> None:
    peer = connect(hub, sender("s", "q", 0))
    peer.receive(frame(p.Attach("c", 1, p.SENDER, target=p.Coordinator())), 0)
    _, (detach, _) = told(peer)
    assert isinstance(detach, p.Detach)
    assert detach.error is not None
    assert detach.error.condition == "amqp:not-implemented"
    peer.receive(frame(p.Transfer(0, 0, b"t", 0), BODY), 0)
    [(disposition, _)] = told(peer)
    assert isinstance(disposition, p.Disposition)


@pytest.mark.parametrize("asked", [None, "A"])
def test_a_session_is_named_in_the_form_in_which_it_was_asked_for(
    hub: Hub, asked: str | None
) -> None:
    code = ULong(0x137_0000_000C)
    peer = connect(hub, sender("x", "s"))
    message = encoded(Described(ULong(0x73), [*[None] * 10, "A"])) + BODY
    peer.receive(frame(p.Transfer(0, 0, b"t", 0, True), message), 1)
    filters = {Symbol(SESSION): Described(code, asked)}
    peer.receive(frame(receiver("r", "s", filters=filters)), 1)
    [(attach, _)] = told(peer)
    assert isinstance(attach, p.Attach)
    assert attach.source is not None
    assert attach.source.filter == {SESSION: Described(code, "A")}


def test_waiting_for_a_session_ends_in_time(hub: Hub) -> None:
    attach = receiver("r", "s", filters=NEXT)
    attach.properties = {Symbol("com.microsoft:timeout"): UInt(2_000)}
    peer = connect(hub, attach)
    assert hub.next_due() == 2
    hub.advance(2)
    items = [item for item, _ in told(peer)]
    assert isinstance(items[1], p.Detach)
    assert items[1].error is not None
    assert items[1].error.condition == "com.microsoft:timeout"


def request(operation: str, body: object) -> bytes:
    return (
        encoded(Described(ULong(0x73), [UUID(int=9), None, None, None, "m"]))
        + encoded(Described(ULong(0x74), {"operation": f"com.microsoft:{operation}"}))
        + encoded(Described(ULong(0x77), body))
    )


def ask(hub: Hub, operation: str, body: object, entity: str = "q") -> tuple[int, str, object]:
    """Status, error condition and body of a management response."""
    node = f"amqp://host/{entity}/$management"
    peer = connect(hub, sender("m", node, 0), receiver("m", node, 1), credit(5))
    peer.receive(frame(p.Transfer(0, 0, b"t", 0, True), request(operation, body)), 5)
    [payload] = [payload for item, payload in told(peer) if isinstance(item, p.Transfer)]
    found = [item for item in decode_all(payload) if isinstance(item, Described)]
    assert isinstance(found[0].value, list)
    assert found[0].value[5] == UUID(int=9)
    application = found[1].value
    assert isinstance(application, dict)
    return (
        application["statusCode"],
        str(application.get("errorCondition", "")),
        found[2].value,
    )


def test_management_peeks_renews_and_settles(hub: Hub) -> None:
    assert ask(hub, "peek-message", {"from-sequence-number": 0, "message-count": 1})[0] == 204
    peer = connect(hub, receiver("r", "q"), credit(1))
    send(hub)
    told(peer)
    status, _, body = ask(hub, "peek-message", {"from-sequence-number": 0, "message-count": 1})
    assert status == 200
    assert isinstance(body, dict)
    assert len(body["messages"]) == 1
    tokens = Array([UUID(int=1)], UUID)
    status, _, body = ask(hub, "renew-lock", {"lock-tokens": tokens})
    assert status == 200
    assert body == {"expirations": [15_000]}
    done = {"disposition-status": "completed", "lock-tokens": tokens}
    assert ask(hub, "update-disposition", done)[0] == 200
    assert ask(hub, "update-disposition", done)[:2] == (410, "com.microsoft:message-lock-lost")
    assert ask(hub, "renew-lock", {"lock-tokens": tokens})[0] == 410


@pytest.mark.parametrize(
    ("operation", "body", "status", "condition"),
    [
        ("unheard-of", {}, 501, "amqp:not-implemented"),
        ("peek-message", {}, 400, "com.microsoft:argument-error"),
        ("renew-lock", {"lock-tokens": ["x"]}, 400, "com.microsoft:argument-error"),
        ("schedule-message", {"messages": [{"message": b"\x99"}]}, 400, ""),
        (
            "receive-by-sequence-number",
            {"sequence-numbers": [1], "receiver-settle-mode": UInt(1)},
            404,
            "com.microsoft:message-not-found",
        ),
        ("get-session-state", [], 400, "com.microsoft:argument-error"),
    ],
)
def test_management_says_what_is_wrong(
    hub: Hub, operation: str, body: object, status: int, condition: str
) -> None:
    found, told_condition, _ = ask(hub, operation, body)
    assert found == status
    assert not condition or told_condition == condition


def test_a_token_is_put(hub: Hub) -> None:
    peer = connect(hub, sender("c", "$cbs", 0), receiver("c", "$cbs", 1), credit(5))
    asked = (
        encoded(Described(ULong(0x73), ["id"]))
        + encoded(Described(ULong(0x74), {"operation": "put-token", "type": "jwt"}))
        + encoded(Described(ULong(0x77), "token"))
    )
    peer.receive(frame(p.Transfer(0, 0, b"t", 0, True), asked), 0)
    [payload] = [payload for item, payload in told(peer) if isinstance(item, p.Transfer)]
    found = [item.value for item in decode_all(payload) if isinstance(item, Described)]
    assert isinstance(found[1], dict)
    assert found[1]["status-code"] == Int(202)
