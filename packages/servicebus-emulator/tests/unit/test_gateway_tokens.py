"""Shared access signatures: as the SDK signs them, and nothing else."""

from __future__ import annotations

import pytest
from azure.servicebus._pyamqp.utils import generate_sas_token

from servicebus_emulator.admin.http import Request
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.types import Described, ULong
from servicebus_emulator.broker.model import (
    AuthorizationRule,
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import Unauthorized
from servicebus_emulator.gateway.hub import Hub
from servicebus_emulator.gateway.tokens import (
    RIGHTS,
    AcceptAll,
    Grant,
    Key,
    SharedKeys,
    resource_path,
)
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

KEYS = SharedKeys((Key("name", "key+/="),))


def token(name: str = "name", key: str = "key+/=", expiry: int = 2_000) -> str:
    return generate_sas_token("amqps://host/queue", name, key, expiry)  # type: ignore[no-any-return, no-untyped-call]


def test_a_good_signature_holds_until_its_end() -> None:
    KEYS.check(token(), 1_999)
    with pytest.raises(Unauthorized, match="expired"):
        KEYS.check(token(), 2_000)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        token(name="other"),
        token(key="other"),
        token().replace("queue", "other"),
        token().replace("2000", "9000"),
        "SharedAccessSignature nonsense",
    ],
)
def test_a_bad_signature_does_not(bad: str) -> None:
    with pytest.raises(Unauthorized):
        KEYS.check(bad, 1_000)


def test_in_development_everything_holds() -> None:
    AcceptAll().check("", 0)


def test_a_token_names_its_entity() -> None:
    assert resource_path("sb%3a%2f%2fhost%2fSome%2fQueue%2f%24management") == "some/queue"
    assert resource_path("https://host:1/") == ""
    assert resource_path("amqps://host/$cbs") == "$cbs"
    grant = KEYS.check(token(), 0)
    assert grant == Grant("queue", RIGHTS)
    assert grant.allows("Send", "QUEUE/$DeadLetterQueue")
    assert not grant.allows("Send", "queue2")
    assert Grant("", frozenset({"Listen"})).allows("Listen", "any")
    assert not Grant("", frozenset({"Listen"})).allows("Send", "any")
    assert Grant("", frozenset({"Manage"})).allows("Send", "any")


@pytest.mark.parametrize(
    ("signed", "path", "status"),
    [
        ("https://host/", "/$Resources/queues", 200),
        ("https://host/$resources/queues?api-version=1&$top=5", "/$Resources/Queues", 200),
        ("https://host/$resources/topics", "/$Resources/queues", 401),
        ("https://host/queue", "/$Resources/queues", 401),
        ("https://host/queue", "/queue", 200),
    ],
)
def test_a_token_for_a_listing_may_name_all_of_its_address(
    signed: str, path: str, status: int
) -> None:
    namespace = Namespace()
    namespace.create("queue", QueueSettings(), 0)
    routes = Administration(namespace, lambda: 0.0, KEYS)
    given = generate_sas_token(signed, "name", "key+/=", 2_000)  # type: ignore[no-untyped-call]
    assert routes.handle(Request("GET", path, {}, {"authorization": given})).status == status


def test_a_queue_s_own_keys_hold_for_it() -> None:
    rule = AuthorizationRule("rule", ("Send",), "first", "second")
    keys = SharedKeys((), lambda path: (rule,) if path == "queue" else ())
    for key in ("first", "second"):
        assert keys.check(token("rule", key), 0) == Grant("queue", frozenset({"Send"}))
    with pytest.raises(Unauthorized):
        keys.check(token("rule", "third"), 0)


def test_a_topic_s_own_keys_hold_for_its_subscriptions(namespace: Namespace) -> None:
    rule = AuthorizationRule("rule", ("Listen",), "first")
    namespace.topics.create("Queue", TopicSettings(authorization_rules=(rule,)), 0)
    namespace.topics.subscribe("Queue", "S", SubscriptionSettings(), 0)
    keys = SharedKeys((), namespace.authorization_rules)
    grant = keys.check(token("rule", "first"), 0)
    for name in ("Queue", "Queue/Subscriptions/S", "queue/subscriptions/s/$DeadLetterQueue"):
        assert grant.allows("Listen", name)
        assert namespace.authorization_rules(name) == (rule,)
    assert namespace.authorization_rules("other/subscriptions/s") == ()


def test_links_wait_for_a_good_token(namespace: Namespace) -> None:
    namespace.create("q", QueueSettings(), 0)
    namespace.create("queue", QueueSettings(), 0)
    peer = Hub(namespace, policy=KEYS).connect()
    peer.receive(hello() + frame(receiver("r", "q", 5)), 0)
    detach = frames(peer.connection.take_output())[-1][0]
    assert isinstance(detach, p.Detach)
    assert detach.error is not None
    assert detach.error.condition == "amqp:unauthorized-access"
    asked = (
        encoded(Described(ULong(0x73), ["id"]))
        + encoded(Described(ULong(0x74), {"operation": "put-token"}))
        + encoded(Described(ULong(0x77), token()))
    )
    peer.receive(frame(sender("c", "$cbs", 0)) + frame(receiver("c", "$cbs", 1)), 0)
    peer.receive(frame(credit(1)) + frame(p.Transfer(0, 0, b"t", 0, True), asked), 1_000)
    peer.connection.take_output()
    peer.receive(frame(receiver("r", "queue", 6)), 1_000)
    assert isinstance(frames(peer.connection.take_output())[-1][0], p.Attach)
    peer.receive(frame(receiver("r", "q", 7)), 1_000)
    assert isinstance(frames(peer.connection.take_output())[-1][0], p.Detach)
