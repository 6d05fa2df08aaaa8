"""Topics in the durable state: settings, rules, copies and what is scheduled come back."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.types import Described, Long, ULong
from servicebus_emulator.broker.model import (
    FOREVER,
    AuthorizationRule,
    Draft,
    QueueSettings,
    Status,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import (
    CORRELATION,
    CorrelationFilter,
    FalseFilter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
)
from servicebus_emulator.broker.sql import duration_of, time_at
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.errors import ServiceBusError
from servicebus_emulator.gateway.message import read_message
from servicebus_emulator.gateway.rules import pack_rule, unpack_rule
from tests.unit.test_store import Kept, draft, facts, kept

__all__ = ["kept"]  # the fixture

PARAMETERS = {"@n": 1, "@t": datetime(2026, 1, 2, 3, 4, 5), "@d": timedelta(hours=1), "@f": 1.5}
RULES = [
    Rule("always", TrueFilter()),
    Rule("by-sql", SqlFilter("a = @n OR b > @t", PARAMETERS), SqlAction("SET x = @d", PARAMETERS)),
    Rule("correlated", CorrelationFilter({"label": "l"}, {"s": "v", "b": True, "n": 5})),
    Rule("never", FalseFilter()),
]


def test_topics_subscriptions_and_rules_come_back(kept: Kept) -> None:
    key = AuthorizationRule("n", ("Send",), "k")
    wanted = TopicSettings(
        default_time_to_live=60.0,
        status=Status.SEND_DISABLED,
        support_ordering=False,
        authorization_rules=(key,),
    )
    topics = kept.namespace.topics
    topics.create("a/Subscriptions/odd", wanted, 1)
    chosen = SubscriptionSettings(
        requires_session=True, dead_lettering_on_filter_evaluation_exceptions=False
    )
    topics.subscribe("a/Subscriptions/odd", "Mine", chosen, 2, RULES)
    kept.namespace.create("q", QueueSettings(), 3)
    topics = kept.again(4).topics
    topic = topics.get("a/subscriptions/odd")
    assert topic.settings == wanted
    mine = topic.get("mine")
    assert (mine.settings, mine.times.created_at) == (chosen, 2)
    assert [(rule.name, rule.created_at) for rule in mine.rules] == [
        ("always", 2),
        ("by-sql", 2),
        ("correlated", 2),
        ("never", 2),
    ]
    assert [(rule.filter, rule.action) for rule in mine.rules] == [
        (rule.filter, rule.action) for rule in RULES
    ]
    mine.remove_rule("never", 5)
    mine.update_rule(Rule("always", FalseFilter()), 5)
    assert [rule.name for rule in kept.again(6).topics.get(topic.name).get("mine").rules] == [
        "always",
        "by-sql",
        "correlated",
    ]
    kept.namespace.topics.delete("A/Subscriptions/odd", 7)
    assert len(kept.again(8).topics) == 0
    assert "q" in kept.namespace


def subscription(kept: Kept, name: str) -> Subscription:
    return kept.namespace.topics.get("t").get(name)


def test_copies_and_what_is_scheduled_come_back(kept: Kept) -> None:
    remembers = TopicSettings(requires_duplicate_detection=True)
    topic = kept.namespace.topics.create("t", remembers, 0)
    for name in ("a", "b"):
        kept.namespace.topics.subscribe("t", name, SubscriptionSettings(), 0)
    topic.send_all([draft(message_id="1"), draft(message_id="2", scheduled_for=50.0)], 1)
    kept.again(2)
    delivery = subscription(kept, "a").receive(3)
    assert delivery is not None
    assert delivery.lock is not None
    subscription(kept, "b").receive_and_delete(3)
    before = facts(delivery.message)
    kept.again(4)
    assert [facts(m) for m in subscription(kept, "a").peek(0, 9, 4)] == [before]
    assert subscription(kept, "b").counts().total == 0
    topic = kept.namespace.topics.get("t")
    assert topic.counts().scheduled == 1
    assert topic.send(draft(message_id="1"), 5) == 0  # known still
    subscription(kept, "a").complete(delivery.lock.token, 6)
    kept.namespace.advance(50)
    kept.again(51)
    for name in ("a", "b"):
        assert [m.message_id for m in subscription(kept, name).peek(0, 9, 51)] == ["2"]
    assert kept.namespace.topics.get("t").counts().total == 0
    assert kept.namespace.topics.get("t").send(draft(), 52) == 4  # no number twice


def test_a_dead_letter_of_a_subscription_comes_back(kept: Kept) -> None:
    topic = kept.namespace.topics.create("t", TopicSettings(), 0)
    needs = SubscriptionSettings(requires_session=True)
    kept.namespace.topics.subscribe("t", "s", needs, 0)
    topic.send(draft(), 1)
    kept.again(2)
    letters = subscription(kept, "s").dead_letters
    assert letters is not None
    [letter] = letters.peek(0, 9, 2)
    assert letter.properties is not None
    assert letter.properties["DeadLetterReason"] == "Session ID is null"


def test_one_write_keeps_a_topic_made_changed_and_used(kept: Kept) -> None:
    topic = kept.namespace.topics.create("t", TopicSettings(), 0)
    subscribed = kept.namespace.topics.subscribe("t", "s", SubscriptionSettings(), 0)
    kept.namespace.topics.update("t", TopicSettings(default_time_to_live=9.0), 1)
    subscribed.add_rule(Rule("r"), 1)
    topic.send(draft(), 1)
    kept.again(2)
    assert kept.namespace.topics.get("t").settings.default_time_to_live == 9
    assert subscription(kept, "s").counts().total == 1


Values = st.one_of(
    st.text(max_size=9),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.uuids(),
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(
        lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
    ),
    st.integers(0, 10**9).map(lambda seconds: timedelta(seconds=seconds)),
)
Given = st.dictionaries(st.text(max_size=9), Values, max_size=4)
Filters = st.one_of(
    st.just(TrueFilter()),
    st.just(FalseFilter()),
    Given.map(lambda values: SqlFilter("a = 1", values)),
    st.builds(
        CorrelationFilter,
        st.dictionaries(st.sampled_from(CORRELATION), st.text(max_size=9), min_size=1),
        Given,
    ),
)
Rules = st.builds(
    Rule,
    st.text(max_size=9),
    Filters,
    st.one_of(st.none(), Given.map(lambda values: SqlAction("REMOVE a", values))),
    st.floats(0, 1e10),
)


@settings(deadline=None)  # other work may take the processor away
@given(Rules)
def test_rules_are_unpacked_as_they_were_packed(rule: Rule) -> None:
    assert unpack_rule(pack_rule(rule)) == rule


@pytest.mark.parametrize("value", [UUID(int=5), duration_of(FOREVER), time_at(1e15)])
def test_extreme_values_are_kept(value: object) -> None:
    kept = unpack_rule(pack_rule(Rule("r", CorrelationFilter(properties={"v": value})))).filter
    assert isinstance(kept, CorrelationFilter)
    if isinstance(value, timedelta):
        held = kept.properties["v"]
        assert isinstance(held, timedelta)
        assert abs(held - value) <= timedelta(milliseconds=1)
    else:
        assert kept.properties == {"v": value}


# --- whatever happened ---------------------------------------------------------------------------

STEPS = (
    *("send", "send", "schedule", "receive", "receive", "complete", "abandon", "rule", "unrule"),
    *("subscribe", "unsubscribe", "later", "write", "again", "remake"),
)
NAMES = ("a", "b", "c")
BODY = Described(ULong(0x75), b"body")


def whole(namespace: Namespace) -> list[object]:
    """Every topic with its subscriptions: what has to come back."""
    found: list[object] = []
    for queue in namespace.entities():
        for part in (queue, queue.dead_letters):
            if part is None or isinstance(part, Topic):
                found.append((queue.name, queue.settings, queue.last_number, queue.counts()))
            else:
                messages = [facts(message) for message in part.peek(0, 1_000, -1.0)]
                found.append((part.name, part.settings, part.last_number, messages))
        if isinstance(queue, Subscription):
            found.append(queue.rules)
    return found


def real(n: int) -> Draft:
    """A message whose properties the rules can read."""
    properties = Described(ULong(0x73), ["id", None, None, "l"])
    application = Described(ULong(0x74), {"a": Long(n), "s": "v", "b": True, "n": Long(5)})
    return read_message(encoded(properties) + encoded(application) + encoded(BODY))


class Steps:
    """A topic, the time, and what may be done."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.now = 0.0
        self.remake()

    @property
    def topic(self) -> Topic:
        return self.kept.namespace.topics.get("t")

    def remake(self) -> None:
        topics = self.kept.namespace.topics
        if topics.find("t") is not None:
            topics.delete("t", self.now)
        topics.create("t", TopicSettings(requires_duplicate_detection=True), self.now)

    def run(self, step: str, choice: int) -> None:
        topics, name = self.kept.namespace.topics, NAMES[choice % 3]
        one = self.topic.find(name)
        tokens = [] if one is None else [lock.token for lock in one.locks()]
        match step:
            case "send":
                self.topic.send(replace(real(choice), message_id=str(choice)), self.now)
            case "schedule":
                later = self.now + choice
                self.topic.send(replace(real(choice), scheduled_for=later), self.now)
            case "subscribe" if one is None:
                short = SubscriptionSettings(lock_duration=5.0, max_delivery_count=2)
                topics.subscribe("t", name, short, self.now)
            case "unsubscribe" if one is not None:
                topics.unsubscribe("t", name, self.now)
            case "receive" if one is not None:
                one.receive(self.now)
            case "complete" if one is not None and tokens:
                one.complete(tokens[0], self.now)
            case "abandon" if one is not None and tokens:
                one.abandon(tokens[0], self.now)
            case "rule" if one is not None and len(one.rules) < 3:
                one.add_rule(RULES[len(one.rules)], self.now)
            case "unrule" if one is not None and one.rules:
                one.remove_rule(one.rules[0].name, self.now)
            case "later":
                self.now += 2 * choice
                self.kept.namespace.advance(self.now)
            case "write":
                self.kept.write()
            case "again":
                self.kept.again(self.now)
            case "remake":
                self.remake()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 5)), max_size=40))
def test_whatever_happened_comes_back(steps: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        kept = Kept(Path(folder) / "state.db")
        work = Steps(kept)
        for step, choice in steps:
            with contextlib.suppress(ServiceBusError):
                work.run(step, choice)
        before = whole(kept.namespace)
        assert whole(kept.again(work.now)) == before
        kept.store.close()
