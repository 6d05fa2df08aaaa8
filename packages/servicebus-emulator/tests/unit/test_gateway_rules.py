"""Rules over ``$management``, and what they read and change in a message's bytes."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import decode_all, encoded
from servicebus_emulator.amqp.types import Char, Described, Int, Long, Symbol, Timestamp, ULong
from servicebus_emulator.broker.model import SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import Fields
from servicebus_emulator.broker.sql import FilterError
from servicebus_emulator.gateway.hub import Hub
from servicebus_emulator.gateway.message import Content, read_message
from tests.unit.peer import credit, frame, receiver, sender
from tests.unit.test_gateway_hub import ask, connect, told

SUB = "t/Subscriptions/s"


@pytest.fixture
def hub(namespace: Namespace) -> Hub:
    namespace.topics.create("t", TopicSettings(), 0)
    namespace.topics.subscribe("t", "s", SubscriptionSettings(lock_duration=10.0), 0)
    return Hub(namespace)


def section(code: int, value: object) -> bytes:
    return encoded(Described(ULong(code), value))


def message(**application: object) -> bytes:
    properties = ["id", None, "to", "label", None, UUID(int=3), Symbol("x/y")]
    annotations: dict[object, object] = {Symbol("x-opt-partition-key"): "p"}
    return (
        section(0x72, annotations)
        + section(0x73, properties)
        + section(0x74, application)
        + section(0x75, b"body")
    )


def content(**application: object) -> Content:
    found = read_message(message(**application)).content
    assert isinstance(found, Content)
    return found


def test_rules_are_added_listed_and_removed(hub: Hub) -> None:
    sql = {"sql-filter": {"expression": "a > 1"}, "sql-rule-action": {"expression": "REMOVE a"}}
    correlation = {
        "correlation-filter": {
            "correlation-id": "c",
            "label": "l",
            "properties": {"n": 1, "at": Timestamp(1000)},
        }
    }
    never = {"sql-filter": {"expression": "1=0"}}
    for name, description in (("c", correlation), ("n", never), ("q", sql)):
        wanted = {"rule-name": name, "rule-description": description}
        assert ask(hub, "add-rule", wanted, SUB)[0] == 200
        assert ask(hub, "add-rule", wanted, SUB)[:2] == (
            409,
            "com.microsoft:entity-already-exists",
        )
    status, _, body = ask(hub, "enumerate-rules", {"skip": Int(0), "top": Int(3)}, SUB)
    assert status == 200
    assert isinstance(body, dict)
    described = [rule["rule-description"] for rule in body["rules"]]
    assert {rule.descriptor for rule in described} == {ULong(0x137_0000_0004)}
    listed = [(rule.value[2], rule.value[0].value, rule.value[1].value) for rule in described]
    assert listed == [
        ("$Default", ["1=1", 20], []),
        (
            "c",
            ["c", None, None, None, "l", None, None, None, {"n": 1, "at": Timestamp(1000)}],
            [],
        ),
        ("n", ["1=0", 20], []),
    ]
    assert [hex(rule.value[0].descriptor) for rule in described] == [
        "0x1370000007",
        "0x1370000009",
        "0x1370000008",
    ]
    _, _, body = ask(hub, "enumerate-rules", {"skip": Int(3), "top": Int(3)}, SUB)
    assert isinstance(body, dict)
    [rule] = [rule["rule-description"].value for rule in body["rules"]]
    assert (rule[0].value[0], rule[1].descriptor, rule[1].value) == (
        "a > 1",
        0x137_0000_0006,
        ["REMOVE a", 20],
    )
    assert ask(hub, "enumerate-rules", {"skip": Int(4), "top": Int(3)}, SUB)[0] == 204
    assert ask(hub, "remove-rule", {"rule-name": "Q"}, SUB)[0] == 200
    assert ask(hub, "remove-rule", {"rule-name": "Q"}, SUB)[0] == 404


@pytest.mark.parametrize(
    ("operation", "body", "entity", "status"),
    [
        ("add-rule", {}, SUB, 400),
        ("add-rule", {"rule-name": "r"}, SUB, 400),
        ("add-rule", {"rule-name": "a b", "rule-description": {}}, SUB, 400),
        ("add-rule", {"rule-name": "r", "rule-description": {"sql-filter": "x"}}, SUB, 400),
        (
            "add-rule",
            {"rule-name": "r", "rule-description": {"sql-filter": {"expression": "x"}}},
            SUB,
            400,
        ),
        (
            "add-rule",
            {"rule-name": "r", "rule-description": {"correlation-filter": {}}},
            SUB,
            400,
        ),
        (
            "add-rule",
            {
                "rule-name": "r",
                "rule-description": {"correlation-filter": {"properties": {"a": b"x"}}},
            },
            SUB,
            400,
        ),
        ("remove-rule", {}, SUB, 400),
        ("enumerate-rules", {"skip": "x"}, SUB, 400),
        ("enumerate-rules", {"skip": Int(-1)}, SUB, 400),
        ("enumerate-rules", {}, "t", 400),
        ("peek-message", {"from-sequence-number": 0, "message-count": 1}, "t", 400),
    ],
)
def test_management_says_what_is_wrong(
    hub: Hub, operation: str, body: object, entity: str, status: int
) -> None:
    assert ask(hub, operation, body, entity)[0] == status
    subscription = hub.namespace.topics.get("t").get("s")
    assert [rule.name for rule in subscription.rules] == ["$Default"]


@pytest.mark.parametrize(
    ("link", "condition"),
    [
        (receiver("r", "t"), "amqp:not-allowed"),
        (sender("s", SUB), "amqp:not-allowed"),
        (sender("s", f"{SUB}/$DeadLetterQueue"), "amqp:not-allowed"),
        (receiver("r", "t/Subscriptions/other"), "amqp:not-found"),
    ],
)
def test_links_are_refused(hub: Hub, link: p.Attach, condition: str) -> None:
    peer = hub.connect()
    connected = connect(hub)
    connected.receive(frame(link), 0)
    [detach] = [item for item, _ in told(connected) if isinstance(item, p.Detach)]
    assert detach.error is not None
    assert detach.error.condition == condition
    assert peer.closed is False


def test_a_message_goes_from_a_topic_s_sender_to_a_subscription_s_receiver(hub: Hub) -> None:
    reader = connect(hub, receiver("r", "amqps://host/t/Subscriptions/s"), credit(5))
    writer = connect(hub, sender("s", "amqp://host/t"))
    writer.receive(frame(p.Transfer(0, 0, b"t", 0, False), message(a=Long(1))), 0)
    [(transfer, payload)] = [pair for pair in told(reader) if isinstance(pair[0], p.Transfer)]
    assert isinstance(transfer, p.Transfer)
    assert payload.endswith(section(0x75, b"body"))
    sections = {i.descriptor: i.value for i in decode_all(payload) if isinstance(i, Described)}
    annotations = sections[ULong(0x72)]
    assert isinstance(annotations, dict)
    assert annotations["x-opt-enqueue-sequence-number"] == 1


def test_what_rules_read() -> None:
    found = content(
        n=Int(5),
        at=Timestamp(1_500),
        span=Described(Symbol("com.microsoft:timespan"), Long(36_000_000_000)),
        offset=Described(
            Symbol("com.microsoft:datetime-offset"), Long(621_355_968_000_000_000 + 10_000_000)
        ),
        char=Char(0x41),
        odd=Char(0x7FFF_FFFF),
        uri=Described(Symbol("com.microsoft:uri"), "http://x"),
    ).fields()
    assert found.system == {
        "messageid": "id",
        "to": "to",
        "label": "label",
        "correlationid": str(UUID(int=3)),
        "contenttype": "x/y",
        "partitionkey": "p",
    }
    assert found.user == {
        "n": 5,
        "at": datetime(1970, 1, 1, 0, 0, 1, 500_000),
        "span": timedelta(hours=1),
        "offset": datetime(1970, 1, 1, 0, 0, 1),
        "char": "A",
        "odd": 0x7FFF_FFFF,
        "uri": "http://x",
    }


def test_what_an_action_changes_and_what_it_leaves() -> None:
    before = content(keep=Int(5), gone="x")
    changes = Fields(
        {"label": "new", "sessionid": "s", "to": None},
        {"gone": None, "n": 1, "at": datetime(1970, 1, 1, 0, 0, 1), "d": timedelta(seconds=1)},
    )
    after = before.changed(changes)
    assert (after.body, after.annotations) == (before.body, before.annotations)
    found = after.fields()
    assert {key: found.system.get(key) for key in ("label", "sessionid", "to", "messageid")} == {
        "label": "new",
        "sessionid": "s",
        "to": None,
        "messageid": "id",
    }
    assert found.user == {"keep": 5, "n": 1, **{k: changes.user[k] for k in ("at", "d")}}
    [described] = decode_all(after.application_properties)
    assert isinstance(described, Described)
    assert isinstance(described.value, dict)
    assert isinstance(described.value["keep"], Int)  # as its sender wrote it
    assert before.changed(Fields({}, {})) == before


def test_a_message_without_properties_can_get_some_and_lose_all() -> None:
    bare = Content(False, 4, None, b"", 0, b"", b"", section(0x75, b"body"))
    assert bare.fields() == Fields({}, {})
    rich = bare.changed(Fields({"messageid": "m"}, {"a": 1}))
    assert rich.fields() == Fields({"messageid": "m"}, {"a": 1})
    assert rich.changed(Fields({}, {"a": None})).application_properties == b""


def test_what_cannot_be_written_is_an_error_of_the_rule() -> None:
    with pytest.raises(FilterError):
        content().changed(Fields({}, {"n": 1 << 80}))
