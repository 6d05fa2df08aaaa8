"""Queues by name, their settings, forwarding, and what is due when."""

from __future__ import annotations

from dataclasses import replace
from uuid import RFC_4122, UUID

import pytest

from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace, random_tokens
from servicebus_emulator.errors import ArgumentError, EntityExists, EntityNotFound
from tests.unit.conftest import draft

PLAIN = QueueSettings()


def test_names_do_not_depend_on_case(namespace: Namespace) -> None:
    queue = namespace.create("Some/Queue", PLAIN, 0)
    assert namespace.get("some/queue") is queue
    assert namespace.resolve("/SOME/queue/$deadletterqueue") is queue.dead_letters
    assert namespace.resolve("some/queue/$Transfer/$DeadLetterQueue").parent is queue
    with pytest.raises(EntityExists):
        namespace.create("SOME/QUEUE", PLAIN, 0)
    with pytest.raises(EntityNotFound):
        namespace.resolve("some/queue/$other")
    with pytest.raises(EntityNotFound):
        namespace.resolve("other")


@pytest.mark.parametrize("name", ["", "a" * 261, "a b", "-a", "a/", "a//b", "a\n", "$a", "ä"])
def test_bad_names_are_refused(namespace: Namespace, name: str) -> None:
    with pytest.raises(ArgumentError):
        namespace.create(name, PLAIN, 0)


@pytest.mark.parametrize("name", ["a", "txt/.-_123", "a" * 260, "A.b-c_d"])
def test_good_names_are_taken(namespace: Namespace, name: str) -> None:
    assert namespace.create(name, PLAIN, 0).name == name


@pytest.mark.parametrize(
    "change",
    [
        {"lock_duration": 4.999},
        {"lock_duration": 300.001},
        {"max_delivery_count": 0},
        {"max_delivery_count": 2001},
        {"default_time_to_live": 0.0},
        {"duplicate_detection_window": 1.0},
        {"duplicate_detection_window": 604_801.0},
        {"auto_delete_on_idle": 299.0},
        {"max_size_in_megabytes": 0},
        {"max_message_size_in_kilobytes": 1024},
        {"user_metadata": "x" * 1025},
    ],
    ids=str,
)
def test_settings_outside_azure_s_limits_are_refused(
    namespace: Namespace, change: dict[str, object]
) -> None:
    with pytest.raises(ArgumentError):
        namespace.create("q", replace(PLAIN, **change), 0)  # type: ignore[arg-type]
    assert "q" not in namespace


@pytest.mark.parametrize("seconds", [5.0, 300.0])
def test_the_limits_of_the_lock_duration_are_taken(namespace: Namespace, seconds: float) -> None:
    namespace.create("q", QueueSettings(lock_duration=seconds), 0)


def test_a_changed_lock_duration_holds_for_the_next_lock(namespace: Namespace) -> None:
    queue = namespace.create("q", PLAIN, 0)
    queue.send_all([draft(), draft()], 0)
    first = queue.receive(0)
    namespace.update("q", QueueSettings(lock_duration=10.0), 0)
    second = queue.receive(0)
    assert first is not None
    assert second is not None
    assert first.lock is not None
    assert second.lock is not None
    assert (first.lock.until, second.lock.until) == (60, 10)


def test_what_is_fixed_cannot_be_changed(namespace: Namespace) -> None:
    namespace.create("q", PLAIN, 0)
    with pytest.raises(ArgumentError):
        namespace.update("q", QueueSettings(requires_session=True), 0)


def test_forwarding_moves_with_a_new_number(namespace: Namespace) -> None:
    source = namespace.create("source", QueueSettings(forward_to="target"), 0)
    target = namespace.create("target", PLAIN, 0)
    target.send(draft("first"), 0)
    source.send(draft("second"), 0)
    assert source.counts().total == 0
    target.receive(0)
    delivery = target.receive(0)
    assert delivery is not None
    assert delivery.message.content == "second"
    assert delivery.message.sequence_number == 2
    assert delivery.message.enqueued_sequence_number == 1


def test_a_ring_of_forwards_ends_in_the_transfer_dead_letters(namespace: Namespace) -> None:
    one = namespace.create("one", QueueSettings(forward_to="two"), 0)
    two = namespace.create("two", QueueSettings(forward_to="one"), 0)
    one.send(draft(), 0)
    letters = [queue.counts().transfer_dead_letter for queue in (one, two)]
    assert sum(letters) == 1
    assert one.counts().active == two.counts().active == 0


def test_dead_letters_can_be_forwarded(namespace: Namespace) -> None:
    settings = QueueSettings(max_delivery_count=1, forward_dead_lettered_messages_to="target")
    source = namespace.create("source", settings, 0)
    target = namespace.create("target", PLAIN, 0)
    source.send(draft(), 0)
    delivery = source.receive(0)
    assert delivery is not None
    assert delivery.lock is not None
    source.abandon(delivery.lock.token, 0)
    moved = target.receive(0)
    assert moved is not None
    assert moved.message.dead_letter_source == "source"


def test_an_idle_queue_deletes_itself(namespace: Namespace) -> None:
    queue = namespace.create("q", QueueSettings(auto_delete_on_idle=300.0), 0)
    queue.send(draft(), 200)
    namespace.advance(300)
    assert "q" in namespace
    namespace.advance(500)
    assert "q" not in namespace
    assert queue in namespace.take_deleted()


def test_a_deleted_queue_has_nothing_due(namespace: Namespace) -> None:
    queue = namespace.create("q", PLAIN, 0)
    queue.send(draft(), 0)
    queue.receive(0)
    namespace.delete("q", 1)
    assert namespace.next_due() is None


def test_of_much_that_is_due_a_part_can_be_done(namespace: Namespace) -> None:
    queue = namespace.create("q", PLAIN, 0)
    queue.send_all([draft() for _ in range(5)], 0)
    for _ in range(5):
        assert queue.receive(0) is not None
    namespace.advance(60, most=2)
    assert queue.counts().locked == 3
    assert namespace.next_due() == 60
    namespace.advance(60)
    assert queue.counts().locked == 0


def test_settled_locks_leave_no_timers_behind(namespace: Namespace) -> None:
    queue = namespace.create("q", PLAIN, 0)
    for _ in range(25_000):
        queue.send(draft(), 0)
        delivery = queue.receive(0)
        assert delivery is not None
        assert delivery.lock is not None
        queue.complete(delivery.lock.token, 0)
    assert len(namespace._timers) <= 10_001


def test_the_journal_tells_a_message_s_way(namespace: Namespace) -> None:
    queue = namespace.create("q", QueueSettings(max_delivery_count=1), 0)
    queue.send(draft(message_id="m"), 1)
    queue.receive(2)
    namespace.advance(62)
    events = namespace.journal.after(0)
    assert [(event.kind, event.at) for event in events] == [
        ("queue-created", 0),
        ("enqueued", 1),
        ("delivered", 2),
        ("lock-expired", 62),
        ("dead-lettered", 62),
    ]
    assert [event.number for event in namespace.journal.after(3)] == [4, 5]
    assert namespace.journal.after(0, queue="other") == []
    assert "message_id" not in events[0].as_json()


def test_lock_tokens_are_random_uuids_that_differ() -> None:
    new_token = random_tokens()
    tokens = [new_token() for _ in range(1_000)]
    assert len(set(tokens)) == len({str(token) for token in tokens}) == len(tokens)
    assert {(token.version, token.variant) for token in tokens} == {(4, RFC_4122)}
    assert all(UUID(bytes=token.bytes) == token for token in tokens)
