"""The durable state: what comes back, and that nothing acknowledged is lost when it is killed."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servicebus_emulator.amqp.types import Int, Symbol
from servicebus_emulator.broker.changes import Changes
from servicebus_emulator.broker.model import (
    AuthorizationRule,
    Draft,
    Message,
    QueueSettings,
    Status,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.errors import MessageLockLost, ServiceBusError, StartupError
from servicebus_emulator.gateway.message import Content
from servicebus_emulator.store import Store, StoreFailed
from tests.unit.crash import QUEUE, TOPIC, Route, kill_under_load, left_in

STEPS = (
    *("send", "send", "schedule", "receive", "receive", "complete", "abandon", "defer"),
    *("dead_letter", "renew", "later", "write", "again", "delete"),
)
CONTENT = Content(True, 7, 60_000, b"\x40\x40", 2, b"p", b"a", b"body")


def draft(**options: object) -> Draft:
    return Draft(CONTENT, 8, **options)  # type: ignore[arg-type]


class Kept:
    """A namespace with its store, which can be opened again as after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open(0.0)

    def open(self, now: float) -> None:
        self.store = Store(self.path)
        self.namespace = Namespace(changes=Changes())
        self.store.load(self.namespace, now)

    def write(self) -> None:
        assert self.namespace.changes is not None
        self.store.write(self.namespace.changes)
        assert not self.namespace.changes

    def again(self, now: float = 0.0) -> Namespace:
        """As what was written says."""
        self.write()
        self.store.close()
        self.open(now)
        return self.namespace


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "state.db")


def facts(message: Message) -> tuple[object, ...]:
    lock = message.lock
    return (
        message.sequence_number,
        message.content,
        message.size,
        message.message_id,
        message.session_id,
        message.enqueued_at,
        message.expires_at,
        message.time_to_live,
        message.state,
        message.scheduled_for,
        message.delivery_count,
        message.properties,
        message.enqueued_sequence_number,
        message.dead_letter_source,
        None if lock is None or lock.session is not None else (lock.token, lock.until),
    )


def whole(namespace: Namespace) -> list[object]:
    """Everything that has to come back."""
    found: list[object] = []
    for queue in namespace:
        for part in (queue, queue.dead_letters, queue.transfer_dead_letters):
            assert part is not None
            messages = [facts(message) for message in part.peek(0, 1_000, -1.0)]
            used = part.last_number > 0
            found.append((part.name, part.settings, part.last_number, messages))
            if used or part is queue:
                found.append(part.times)
    return found


def test_settings_come_back(kept: Kept) -> None:
    rule = AuthorizationRule("n", ("Send", "Listen"), "k", created_at=1.5)
    chosen = QueueSettings(
        lock_duration=7.5,
        status=Status.SEND_DISABLED,
        forward_to="b",
        user_metadata="ä",
        authorization_rules=(rule,),
    )
    kept.namespace.create("Tasks", chosen, 5)
    before = whole(kept.namespace)
    again = kept.again(9)
    assert whole(again) == before
    assert again.get("tasks").settings == chosen
    again.update("tasks", replace(chosen, lock_duration=10.0), 20)
    again.create("gone", QueueSettings(), 20)
    again = kept.again(20)
    again.delete("gone", 21)
    again.create("gone", QueueSettings(lock_duration=99.0), 21)
    again = kept.again(30)
    assert again.get("tasks").settings.lock_duration == 10
    assert again.get("gone").settings.lock_duration == 99


def test_a_lock_comes_back_with_its_time(kept: Kept) -> None:
    queue = kept.namespace.create("q", QueueSettings(lock_duration=30.0), 0)
    queue.send(draft(), 0)
    queue.send(draft(), 0)
    first, second = queue.receive(0), queue.receive(1)
    assert first is not None
    assert second is not None
    assert first.lock is not None
    assert second.lock is not None
    again = kept.again(2)
    queue = again.get("q")
    assert queue.receive(2) is None
    assert again.next_due() == 30
    queue.renew(first.lock.token, 2)
    queue.complete(second.lock.token, 2)
    again = kept.again(3)
    queue = again.get("q")
    again.advance(31)
    assert queue.receive(31) is None
    again.advance(32)
    delivery = queue.receive(32)
    assert delivery is not None
    assert delivery.message.sequence_number == 1
    assert delivery.message.delivery_count == 1
    with pytest.raises(MessageLockLost):
        queue.complete(second.lock.token, 32)


def test_what_waits_for_its_time_still_does(kept: Kept) -> None:
    queue = kept.namespace.create("q", QueueSettings(dead_lettering_on_message_expiration=True), 0)
    queue.send(draft(scheduled_for=50.0), 0)
    queue.send(draft(time_to_live=20.0), 0)
    again = kept.again(1)
    again.advance(20)
    assert again.get("q").counts().dead_letter == 1
    again = kept.again(21)
    again.advance(50)
    delivery = again.get("q").receive(50)
    assert delivery is not None
    assert delivery.message.sequence_number == 3
    assert again.get("q").counts().dead_letter == 1


def test_numbers_are_not_given_twice(kept: Kept) -> None:
    queue = kept.namespace.create("q", QueueSettings(), 0)
    assert queue.send(draft(), 0) == 1
    queue.receive_and_delete(0)
    assert kept.again().get("q").send(draft(), 0) == 2


def test_duplicates_stay_known_as_long_as_they_would(kept: Kept) -> None:
    chosen = QueueSettings(requires_duplicate_detection=True, duplicate_detection_window=20.0)
    kept.namespace.create("q", chosen, 0).send(draft(message_id="a"), 0)
    queue = kept.again(10).get("q")
    assert queue.send(draft(message_id="a"), 10) == 0
    queue = kept.again(20).get("q")
    assert queue.send(draft(message_id="a"), 20) == 2


def test_a_session_keeps_its_state_and_loses_its_receiver(kept: Kept) -> None:
    queue = kept.namespace.create("q", QueueSettings(requires_session=True), 0)
    queue.send(draft(session_id="s"), 0)
    lock = queue.accept_session("s", 0)
    queue.receive(0, lock)
    queue.set_session_state("s", b"state", 0)
    queue.set_session_state("t", b"gone", 0)
    queue.set_session_state("t", None, 0)
    queue = kept.again(1).get("q")
    assert queue.session_state("s") == b"state"
    assert queue.session_state("t") is None
    delivery = queue.receive(1, queue.accept_session(None, 1))
    assert delivery is not None
    assert delivery.message.delivery_count == 0


def test_deferred_changed_and_dead_lettered_messages_come_back(kept: Kept) -> None:
    queue = kept.namespace.create("q", QueueSettings(), 0)
    for _ in range(2):
        queue.send(draft(), 0)
    first, second = queue.receive(0), queue.receive(0)
    assert first is not None
    assert second is not None
    assert first.lock is not None
    assert second.lock is not None
    queue.defer(first.lock.token, 0, {"k": Int(1), "s": Symbol("x"), "u": UUID(int=1)})
    queue.dead_letter(second.lock.token, 0, reason="r", description="d")
    before = whole(kept.namespace)
    again = kept.again()
    assert whole(again) == before
    assert again.get("q").receive_deferred([1], 0, lock=True)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(STEPS),
            st.integers(0, 5),
        ),
        max_size=40,
    )
)
def test_whatever_happened_comes_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    kept = Kept(tmp_path_factory.mktemp("s") / "state.db")
    names = ("a", "b")
    for name in names:
        kept.namespace.create(name, QueueSettings(max_delivery_count=2, lock_duration=5.0), 0)
    now = 0.0
    for step, number in steps:
        queue = kept.namespace.get(names[number % 2])
        tokens = [lock.token for lock in queue.locks()]
        with contextlib.suppress(ServiceBusError):
            act(queue, step, number, tokens, now)
        if step == "later":
            now += number
            kept.namespace.advance(now)
        elif step == "write":
            kept.write()
        elif step == "delete":
            kept.namespace.delete(queue.name, now)
            kept.namespace.create(queue.name, QueueSettings(max_delivery_count=2), now)
        elif step == "again":
            before = whole(kept.namespace)
            assert whole(kept.again(now)) == before
    before = whole(kept.namespace)
    assert whole(kept.again(now)) == before
    kept.store.close()


def act(queue: Queue, step: str, number: int, tokens: list[UUID], now: float) -> None:
    if step == "send":
        queue.send(draft(time_to_live=None if number else 9.0), now)
    elif step == "schedule":
        queue.send(draft(scheduled_for=now + number), now)
    elif step == "receive":
        queue.receive(now)
    elif tokens and step in ("complete", "abandon", "defer", "dead_letter", "renew"):
        getattr(queue, step)(tokens[number % len(tokens)], now)


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, kept: Kept) -> None:
    (tmp_path / "bad").write_bytes(b"no database, and longer than its header would be " * 50)
    for path in (tmp_path / "no" / "file", tmp_path / "bad", tmp_path, kept.path):
        with pytest.raises(StartupError, match="cannot be used") as caught:
            Store(path)
        assert "--state" in caught.value.remedy
    other = tmp_path / "other"
    with sqlite3.connect(other) as db:
        db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(StartupError, match="another version"):
        Store(other)
    kept.store.close()


def test_after_a_failed_write_nothing_more_is_written(kept: Kept) -> None:
    kept.namespace.create("q", QueueSettings(), 0)
    kept.store._db.execute("drop table queues")
    for _ in range(2):
        with pytest.raises(StoreFailed):
            kept.write()
    kept.store.close()


@pytest.mark.program
@pytest.mark.parametrize(("route", "rounds"), [(QUEUE, 3), (TOPIC, 2)])
async def test_nothing_acknowledged_is_lost_when_it_is_killed(
    tmp_path: Path, route: Route, rounds: int
) -> None:
    told = await kill_under_load(tmp_path, route, rounds=rounds, enough=150)
    kept = Kept(tmp_path / "state.db")
    left = left_in(kept.namespace, route.source)
    assert told.accepted - told.completing <= left <= told.sent - told.completed
    assert len(told.completed) >= rounds * 150
    assert kept.namespace.resolve(route.source).counts().locked
    if route.untouched is not None:
        assert told.accepted <= left_in(kept.namespace, route.untouched) <= told.sent
    kept.store.close()
