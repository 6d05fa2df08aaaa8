"""A queue against a model of it: whatever is done in whatever order, at whatever time.

No message is lost, none is held by two receivers, and every count is right.
"""

from __future__ import annotations

from itertools import count
from uuid import UUID

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import MessageLockLost
from tests.unit.conftest import draft

LOCK = 10.0
MAX_DELIVERIES = 3


class QueueMachine(RuleBasedStateMachine):
    """The model: where each message is, how often it failed, and who holds it until when."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        numbers = count(1)
        self.namespace = Namespace(new_token=lambda: UUID(int=next(numbers)))
        self.now = 0.0
        self.queue = self.namespace.create(
            "q", QueueSettings(lock_duration=LOCK, max_delivery_count=MAX_DELIVERIES), 0
        )
        self.waiting: set[int] = set()
        self.deferred: set[int] = set()
        self.dead: set[int] = set()
        self.held: dict[UUID, tuple[int, float]] = {}
        self.failures: dict[int, int] = {}

    def expire(self) -> None:
        for token, (number, until) in list(self.held.items()):
            if until <= self.now:
                del self.held[token]
                self.failed(number)

    def failed(self, number: int) -> None:
        self.failures[number] += 1
        if self.failures[number] >= MAX_DELIVERIES:
            self.dead.add(number)
            self.deferred.discard(number)
        elif number not in self.deferred:
            self.waiting.add(number)

    @rule(many=st.integers(1, 3))
    def send(self, many: int) -> None:
        for number in self.queue.send_all([draft() for _ in range(many)], self.now):
            self.waiting.add(number)
            self.failures[number] = 0

    @rule(target=tokens)
    def receive(self) -> object:
        delivery = self.queue.receive(self.now)
        if not self.waiting:
            assert delivery is None
            return multiple()
        assert delivery is not None
        assert delivery.lock is not None
        number = min(self.waiting)
        assert delivery.message.sequence_number == number
        assert delivery.message.delivery_count == self.failures[number]
        self.waiting.remove(number)
        self.held[delivery.lock.token] = (number, self.now + LOCK)
        return delivery.lock.token

    @rule(target=tokens)
    def receive_deferred(self) -> object:
        held = {number for number, _ in self.held.values()}
        free = sorted(self.deferred - held)
        if not free:
            return multiple()
        [delivery] = self.queue.receive_deferred([free[0]], self.now, lock=True)
        assert delivery.lock is not None
        self.held[delivery.lock.token] = (free[0], self.now + LOCK)
        return delivery.lock.token

    @rule(
        token=consumes(tokens),
        how=st.sampled_from(["complete", "abandon", "release", "defer", "dead_letter"]),
    )
    def settle(self, token: UUID, how: str) -> None:
        try:
            getattr(self.queue, how)(token, self.now)
        except MessageLockLost:
            assert token not in self.held
            return
        number, until = self.held.pop(token)
        assert until > self.now
        if how == "complete":
            self.deferred.discard(number)
            del self.failures[number]
        elif how == "abandon":
            self.failed(number)
        elif how == "release":
            if number not in self.deferred:
                self.waiting.add(number)
        elif how == "defer":
            self.deferred.add(number)
        else:
            self.deferred.discard(number)
            self.dead.add(number)

    @rule(token=tokens)
    def renew(self, token: UUID) -> None:
        try:
            until = self.queue.renew(token, self.now)
        except MessageLockLost:
            assert token not in self.held
            return
        self.held[token] = (self.held[token][0], until)

    @rule(seconds=st.sampled_from([0.0, 1.0, LOCK / 2, LOCK, 3 * LOCK]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.namespace.advance(self.now)
        self.expire()

    @invariant()
    def nothing_is_due_before_it_is_said_to_be(self) -> None:
        before = self.namespace.due_not_before()
        due = self.namespace.next_due()
        assert due is None or before <= due

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.queue.dead_letters is not None
        counts = self.queue.counts()
        assert counts.locked == len(self.held)
        assert counts.dead_letter == len(self.dead)
        assert counts.deferred == len(self.deferred)
        held = {number for number, _ in self.held.values()}
        assert len(held) == len(self.held)
        assert counts.active == len(self.waiting | (held - self.deferred))
        peeked = {message.sequence_number for message in self.queue.peek(0, 1_000, self.now)}
        assert peeked == self.waiting | held | self.deferred


QueueMachine.TestCase.settings = hypothesis_settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestQueueMachine = QueueMachine.TestCase
