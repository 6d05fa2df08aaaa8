"""Topics under a clock that is moved by hand: who gets which copies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.broker.model import (
    Message,
    QueueSettings,
    Status,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import (
    CorrelationFilter,
    FalseFilter,
    Fields,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
)
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.errors import (
    ArgumentError,
    EntityDisabled,
    EntityExists,
    EntityNotFound,
    MessageTooLarge,
    NotAllowed,
    QuotaExceeded,
)
from tests.unit.conftest import draft

START = 1_000.0


@dataclass
class Content:
    """What a sender wrote, as rules read it."""

    system: dict[str, object] = field(default_factory=dict)
    user: dict[str, object] = field(default_factory=dict)

    def fields(self) -> Fields:
        return Fields(self.system, self.user)

    def changed(self, changes: Fields) -> Content:
        def merged(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
            return {key: value for key, value in {**one, **other}.items() if value is not None}

        return Content(merged(self.system, changes.system), merged(self.user, changes.user))


@pytest.fixture
def topic(namespace: Namespace) -> Topic:
    return namespace.topics.create("t", TopicSettings(), START)


def subscribe(namespace: Namespace, name: str, *rules: Rule, **settings: Any) -> Subscription:
    return namespace.topics.subscribe(
        "t", name, SubscriptionSettings(**settings), START, rules or None
    )


def send(topic: Topic, now: float = START, /, label: str | None = None, **user: object) -> int:
    system: dict[str, object] = {} if label is None else {"label": label}
    return topic.send(replace(draft(), content=Content(system, user)), now)


def taken(queue: Queue | None, now: float = START) -> list[Message]:
    assert queue is not None
    found = []
    while delivery := queue.receive_and_delete(now):
        found.append(delivery.message)
    return found


def users(queue: Queue | None, now: float = START) -> list[dict[str, object]]:
    found = []
    for message in taken(queue, now):
        assert isinstance(message.content, Content)
        found.append(message.content.user)
    return found


# --- names and settings --------------------------------------------------------------------------


def test_names_do_not_depend_on_case_and_are_shared_with_queues(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(namespace, "Mine")
    assert namespace.resolve("T") is topic
    assert namespace.resolve("t/subscriptions/MINE") is mine
    assert namespace.resolve("t/Subscriptions/mine/$DeadLetterQueue") is mine.dead_letters
    assert mine.name == "t/Subscriptions/Mine"
    with pytest.raises(EntityExists):
        namespace.create("T", QueueSettings(), START)
    with pytest.raises(EntityExists):
        namespace.topics.create("T", TopicSettings(), START)
    with pytest.raises(EntityExists):
        subscribe(namespace, "MINE")
    for path in ("t/subscriptions/other", "t/$DeadLetterQueue", "other", "o/subscriptions/mine"):
        with pytest.raises(EntityNotFound):
            namespace.resolve(path)


@pytest.mark.parametrize("name", ["", "a/b", "a" * 51, "a b", "$a"])
def test_bad_names_of_subscriptions_are_refused(
    namespace: Namespace, topic: Topic, name: str
) -> None:
    with pytest.raises(ArgumentError):
        subscribe(namespace, name)


def test_what_cannot_change_cannot_change(namespace: Namespace, topic: Topic) -> None:
    subscribe(namespace, "s")
    changed = namespace.topics.update("t", TopicSettings(default_time_to_live=60.0), START)
    assert changed.settings.default_time_to_live == 60
    with pytest.raises(ArgumentError):
        namespace.topics.update("t", TopicSettings(requires_duplicate_detection=True), START)
    with pytest.raises(ArgumentError):
        namespace.topics.update_subscription(
            "t", "s", SubscriptionSettings(requires_session=True), START
        )
    with pytest.raises(ArgumentError):
        subscribe(namespace, "short", lock_duration=4.0)


def test_a_topic_goes_with_its_subscriptions(namespace: Namespace, topic: Topic) -> None:
    mine = subscribe(namespace, "s")
    namespace.topics.delete("T", START)
    assert topic.deleted
    assert mine.deleted
    assert {queue.name for queue in namespace.take_deleted()} >= {"t", "t/Subscriptions/s"}
    with pytest.raises(EntityNotFound):
        namespace.resolve("t/subscriptions/s")
    namespace.topics.create("t", TopicSettings(), START)


def test_everything_can_be_removed_at_once(namespace: Namespace, topic: Topic) -> None:
    subscribe(namespace, "s")
    namespace.create("q", QueueSettings(), START)
    namespace.clear(START)
    assert list(namespace.entities()) == []
    assert len(namespace.topics) == 0


# --- fan-out -------------------------------------------------------------------------------------


def test_every_subscription_gets_its_own_copy(namespace: Namespace, topic: Topic) -> None:
    one, other = subscribe(namespace, "one"), subscribe(namespace, "other", lock_duration=10.0)
    assert send(topic, a=1) == 1
    assert topic.counts().total == 0
    first, second = one.receive(START), other.receive(START)
    assert first is not None
    assert second is not None
    assert first.lock is not None
    assert second.lock is not None
    assert (first.lock.until, second.lock.until) == (START + 60, START + 10)
    one.complete(first.lock.token, START)
    namespace.advance(START + 10)
    again = other.receive(START + 10)
    assert again is not None
    assert again.message.delivery_count == 1
    assert one.counts().total == 0


def test_without_a_matching_rule_there_is_no_copy(namespace: Namespace, topic: Topic) -> None:
    none = subscribe(namespace, "none", Rule(filter=FalseFilter()))
    some = subscribe(namespace, "some", Rule(filter=SqlFilter("n > 1")))
    bare = subscribe(namespace, "bare")
    bare.remove_rule("$Default", START)
    for n in range(4):
        send(topic, n=n)
    assert users(none) == users(bare) == []
    assert users(some) == [{"n": 2}, {"n": 3}]


def test_rules_without_actions_make_one_copy_and_each_with_an_action_one_more(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(
        namespace,
        "s",
        Rule("a", TrueFilter()),
        Rule("b", SqlFilter("n = 1")),
        Rule("c", TrueFilter(), SqlAction("SET n = n + 10; SET sys.Label = 'c'")),
        Rule("d", SqlFilter("n = 1"), SqlAction("REMOVE n; SET was = N")),
    )
    send(topic, n=1)
    assert users(mine) == [{"n": 1}, {"n": 11}, {}]
    send(topic, n=2)
    copies = taken(mine)
    assert [m.content.user for m in copies] == [{"n": 2}, {"n": 12}]  # type: ignore[attr-defined]
    assert copies[1].content.system == {"label": "c"}  # type: ignore[attr-defined]


def test_an_action_may_set_the_session(namespace: Namespace, topic: Topic) -> None:
    by_color = Rule("r", TrueFilter(), SqlAction("SET sys.SessionId = color"))
    mine = subscribe(namespace, "s", by_color, requires_session=True)
    send(topic, color="red")
    lock = mine.accept_session("red", START)
    assert lock is not None
    delivery = mine.receive(START, lock)
    assert delivery is not None
    assert delivery.message.session_id == "red"


def test_a_message_without_a_session_is_a_dead_letter_where_one_is_needed(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(namespace, "s", requires_session=True)
    send(topic)
    [letter] = taken(mine.dead_letters)
    assert letter.properties is not None
    assert letter.properties["DeadLetterReason"] == "Session ID is null"


@pytest.mark.parametrize("kept", [True, False])
def test_where_a_filter_fails_the_message_is_a_dead_letter_or_gone(
    namespace: Namespace, topic: Topic, kept: bool
) -> None:
    broken = Rule("r", SqlFilter("1 / n = 1"))
    mine = subscribe(namespace, "s", broken, dead_lettering_on_filter_evaluation_exceptions=kept)
    fine = subscribe(namespace, "fine")
    send(topic, n=0)
    letters = taken(mine.dead_letters)
    assert len(letters) == kept
    for letter in letters:
        assert letter.properties is not None
        assert letter.properties["DeadLetterReason"] == "FilterEvaluationException"
        assert "does not exist" in str(letter.properties["DeadLetterErrorDescription"])
    assert taken(mine) == []
    assert len(taken(fine)) == 1


@pytest.mark.parametrize(
    ("given", "matches"),
    [
        (CorrelationFilter({"label": "x"}), True),
        (CorrelationFilter({"label": "X"}), False),
        (CorrelationFilter({"label": "x"}, {"n": 1}), True),
        (CorrelationFilter({"label": "x", "to": "y"}), False),
        (CorrelationFilter(properties={"n": 1, "s": "v"}), True),
        (CorrelationFilter(properties={"n": "1"}), False),
        (CorrelationFilter(properties={"n": True}), False),
        (CorrelationFilter(properties={"absent": 1}), False),
    ],
)
def test_correlation(
    namespace: Namespace, topic: Topic, given: CorrelationFilter, matches: bool
) -> None:
    mine = subscribe(namespace, "s", Rule("r", given))
    send(topic, label="x", n=1, s="v")
    assert bool(taken(mine)) is matches


def test_a_correlation_names_something() -> None:
    with pytest.raises(ArgumentError):
        CorrelationFilter()


def test_what_the_broker_knows_can_be_asked_for(namespace: Namespace, topic: Topic) -> None:
    text = "sys.Size = 1 AND sys.DeliveryCount = 0 AND sys.TimeToLive < @day AND sys.Subject = 'x'"
    day = {"@day": timedelta(days=1)}
    mine = subscribe(namespace, "s", Rule("r", SqlFilter(text, day)))
    topic.send(replace(draft(time_to_live=60.0), content=Content({"label": "x"})), START)
    assert len(taken(mine)) == 1


# --- rules ---------------------------------------------------------------------------------------


def test_rules_hold_for_what_comes_later(namespace: Namespace, topic: Topic) -> None:
    mine = subscribe(namespace, "s")
    send(topic, n=1)
    mine.add_rule(Rule("even", SqlFilter("n % 2 = 0")), START)
    mine.remove_rule("$default", START)
    send(topic, n=2)
    send(topic, n=3)
    assert users(mine) == [{"n": 1}, {"n": 2}]
    mine.update_rule(Rule("EVEN", SqlFilter("n % 2 = 1")), START + 1)
    send(topic, n=5)
    assert users(mine) == [{"n": 5}]
    assert [(rule.name, rule.created_at) for rule in mine.rules] == [("EVEN", START)]
    with pytest.raises(EntityExists):
        mine.add_rule(Rule("Even"), START)
    for call in (mine.remove_rule, lambda name, now: mine.update_rule(Rule(name), now)):
        with pytest.raises(EntityNotFound):
            call("odd", START)


# --- the topic as a queue ------------------------------------------------------------------------


def test_a_topic_is_sent_to_and_a_subscription_received_from(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(namespace, "s")
    with pytest.raises(NotAllowed):
        topic.check_receive()
    with pytest.raises(NotAllowed):
        mine.send(draft(), START)
    with pytest.raises(MessageTooLarge):
        topic.send(replace(draft(), size=300_000), START)


def test_a_disabled_topic_takes_nothing_and_a_disabled_subscription_gives_nothing(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(namespace, "s", status=Status.RECEIVE_DISABLED)
    send(topic)
    with pytest.raises(EntityDisabled):
        mine.check_receive()
    assert mine.counts().active == 1
    for status in (Status.DISABLED, Status.SEND_DISABLED):
        namespace.topics.update("t", TopicSettings(status=status), START)
        with pytest.raises(EntityDisabled):
            send(topic)


def test_scheduled_messages_wait_in_the_topic(namespace: Namespace, topic: Topic) -> None:
    mine = subscribe(namespace, "s")
    numbers = topic.send_all([draft(scheduled_for=START + 10), draft(scheduled_for=START + 20)], 0)
    assert topic.counts().scheduled == 2
    topic.cancel_scheduled(numbers[1:], START)
    assert taken(mine) == []
    late = subscribe(namespace, "late")  # made in time for what is scheduled
    namespace.advance(START + 30)
    assert [m.enqueued_at for m in taken(mine, START + 30)] == [START + 30]
    assert len(taken(late, START + 30)) == 1
    assert topic.counts().total == 0


def test_duplicates_are_dropped_by_the_topic(namespace: Namespace) -> None:
    settings = TopicSettings(requires_duplicate_detection=True, duplicate_detection_window=60.0)
    topic = namespace.topics.create("t", settings, START)
    mine = subscribe(namespace, "s")
    for now in (START, START + 59, START + 61):
        topic.send(draft(message_id="m"), now)
    assert len(taken(mine, START + 61)) == 2


def test_the_shorter_time_to_live_counts(namespace: Namespace) -> None:
    topic = namespace.topics.create("t", TopicSettings(default_time_to_live=30.0), START)
    short = subscribe(namespace, "short", default_time_to_live=10.0)
    letters = subscribe(namespace, "letters", dead_lettering_on_message_expiration=True)
    topic.send_all([draft(), draft(time_to_live=20.0)], START)
    namespace.advance(START + 10)
    assert short.counts().total == 0
    namespace.advance(START + 20)
    assert (letters.counts().active, letters.counts().dead_letter) == (1, 1)
    namespace.advance(START + 30)
    assert (letters.counts().active, letters.counts().dead_letter) == (0, 2)


def test_a_topic_is_full_when_its_subscriptions_are(namespace: Namespace) -> None:
    topic = namespace.topics.create("t", TopicSettings(max_size_in_megabytes=1), START)
    mine, other = subscribe(namespace, "a"), subscribe(namespace, "b")
    big = replace(draft(), size=250_000)
    for _ in range(2):
        topic.send(big, START)
    assert topic.counts().size_in_bytes == 1_000_000
    with pytest.raises(QuotaExceeded):
        topic.send(big, START)
    taken(mine)
    topic.send(big, START)
    assert len(taken(other)) == 3


def test_too_many_deliveries_end_in_the_subscription_s_dead_letters(
    namespace: Namespace, topic: Topic
) -> None:
    mine = subscribe(namespace, "s", max_delivery_count=1)
    send(topic)
    delivery = mine.receive(START)
    assert delivery is not None
    assert delivery.lock is not None
    mine.abandon(delivery.lock.token, START)
    assert mine.counts().dead_letter == 1
    assert len(taken(namespace.resolve("t/subscriptions/s/$deadletterqueue"))) == 1


def test_messages_are_forwarded_to_topics_and_from_subscriptions(
    namespace: Namespace, topic: Topic
) -> None:
    end = namespace.create("end", QueueSettings(), START)
    start = namespace.create("start", QueueSettings(forward_to="t"), START)
    subscribe(namespace, "s", Rule("r", SqlFilter("n = 1")), forward_to="sb://ns/end")
    for n in (1, 2):
        start.send(replace(draft(), content=Content({}, {"n": n})), START)
    [message] = taken(end)
    assert message.enqueued_sequence_number == 1
    assert start.counts().total == topic.counts().total == 0


def test_a_ring_ends(namespace: Namespace, topic: Topic) -> None:
    mine = subscribe(namespace, "s", forward_to="t")
    send(topic)
    assert mine.counts().transfer_dead_letter == 1


def test_dead_letters_may_be_forwarded(namespace: Namespace, topic: Topic) -> None:
    letters = namespace.create("letters", QueueSettings(), START)
    mine = subscribe(namespace, "s", forward_dead_lettered_messages_to="letters")
    send(topic)
    delivery = mine.receive(START)
    assert delivery is not None
    assert delivery.lock is not None
    mine.dead_letter(delivery.lock.token, START, reason="r")
    [letter] = taken(letters)
    assert letter.dead_letter_source == "t/Subscriptions/s"


def test_idle_entities_go(namespace: Namespace) -> None:
    topic = namespace.topics.create("t", TopicSettings(auto_delete_on_idle=600.0), START)
    subscribe(namespace, "s", auto_delete_on_idle=300.0)
    send(topic, START + 250)  # keeps the topic, not the subscription
    namespace.advance(START + 300)
    assert topic.subscriptions == []
    namespace.advance(START + 600)
    assert namespace.topics.find("t") is topic
    namespace.advance(START + 850)
    assert namespace.topics.find("t") is None


@settings(deadline=None)  # other work may take the processor away
@given(
    st.lists(st.integers(0, 5), max_size=12),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=5),
)
def test_copies_are_as_many_as_the_rules_say(
    sent: list[int], rules: list[tuple[int, bool]]
) -> None:
    namespace = Namespace()
    topic = namespace.topics.create("t", TopicSettings(), START)
    named = [
        Rule(f"r{place}", SqlFilter(f"n >= {least}"), SqlAction("SET x = 1") if acts else None)
        for place, (least, acts) in enumerate(rules)
    ]
    mine = namespace.topics.subscribe("t", "s", SubscriptionSettings(), START, named)
    for n in sent:
        send(topic, n=n)
    expected = sum(
        any(n >= least for least, acts in rules if not acts)
        + sum(n >= least for least, acts in rules if acts)
        for n in sent
    )
    assert len(taken(mine)) == expected
    assert topic.counts().total == 0
