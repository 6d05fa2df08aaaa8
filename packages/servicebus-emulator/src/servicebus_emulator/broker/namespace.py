"""The queues and topics by name, and what is due when.

Nothing here looks at a clock. :meth:`Namespace.next_due` says when something is due, and
:meth:`Namespace.advance` does it; whoever owns the clock calls both.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from random import Random
from urllib.parse import urlsplit
from uuid import UUID, SafeUUID

from servicebus_emulator.broker.changes import Changes
from servicebus_emulator.broker.checks import TIERS, check_name, check_settings
from servicebus_emulator.broker.journal import Journal
from servicebus_emulator.broker.model import (
    FOREVER,
    AuthorizationRule,
    Message,
    QueueSettings,
    SessionLock,
)
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.broker.topics import Topics
from servicebus_emulator.errors import ArgumentError, EntityExists, EntityNotFound

DEAD_LETTER_QUEUE = "$DeadLetterQueue"
TRANSFER_DEAD_LETTER_QUEUE = "$Transfer/$DeadLetterQueue"
MAX_HOPS = 4
"""A message is forwarded at most so often, as in Azure: a ring ends in the dead letters."""


class Namespace:
    """All queues and topics of one emulator."""

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        new_token: Callable[[], UUID] | None = None,
        tier: str = "standard",
        changes: Changes | None = None,
    ) -> None:
        self.changes = changes
        self.journal = journal or Journal()
        self.tier = tier
        self.max_message_size = TIERS[tier]
        self.new_token = new_token or random_tokens()
        self.record = self.journal.record
        self._queues: dict[str, Queue] = {}
        self.topics = Topics(self)
        self._timers: list[tuple[float, int, Queue, str, object]] = []
        self._order = count()
        self.touched_queues: dict[Queue, None] = {}
        self.lost_sessions: list[tuple[Queue, SessionLock]] = []
        self.deleted_queues: list[Queue] = []
        self._hops = 0
        self._compact_at = 10_000

    # --- queues ----------------------------------------------------------------------------------

    def create(self, name: str, settings: QueueSettings, now: float) -> Queue:
        """Make a queue and its sub-queues."""
        check_name(name)
        check_settings(settings, self.tier)
        self.check_free(name)
        queue = self.restore(name, settings, now)
        self.record(
            now, "queue-created", name, detail=f"lock duration {settings.lock_duration:g} s"
        )
        return queue

    def restore(self, name: str, settings: QueueSettings, now: float) -> Queue:
        """Put a queue back that had been created before, with its sub-queues, empty."""
        queue = Queue(name, settings, self, now)
        self.add_sub_queues(queue, now)
        self._queues[name.lower()] = queue
        self.defined(queue, now)
        return queue

    def check_free(self, name: str) -> None:
        """Raise where a queue or a topic has that name."""
        if name in self or self.topics.find(name) is not None:
            raise EntityExists(f"The messaging entity '{name}' already exists.")

    def add_sub_queues(self, queue: Queue, now: float) -> None:
        """Give a queue or a subscription a place for its dead letters."""
        settings = _of_sub_queue(queue.settings)
        queue.dead_letters = Queue(
            f"{queue.name}/{DEAD_LETTER_QUEUE}", settings, self, now, parent=queue
        )
        queue.transfer_dead_letters = Queue(
            f"{queue.name}/{TRANSFER_DEAD_LETTER_QUEUE}", settings, self, now, parent=queue
        )

    def defined(self, queue: Queue, now: float) -> None:
        """An entity is there, or has other settings."""
        if self.changes is not None:
            self.changes.queues[queue] = None
        if queue.settings.auto_delete_on_idle < FOREVER:
            self.at(now + queue.settings.auto_delete_on_idle, queue, "idle", None)

    def update(self, name: str, settings: QueueSettings, now: float) -> Queue:
        """Change a queue; what cannot change in Azure cannot change here."""
        queue = self.get(name)
        self.change(queue, settings, now)
        self.record(
            now, "queue-updated", name, detail=f"lock duration {settings.lock_duration:g} s"
        )
        return queue

    def change(self, queue: Queue, settings: QueueSettings, now: float) -> None:
        """Give a queue, a topic or a subscription other settings."""
        check_settings(settings, self.tier)
        before = queue.settings
        for fixed in ("requires_session", "requires_duplicate_detection", "enable_partitioning"):
            if getattr(before, fixed) != getattr(settings, fixed):
                raise ArgumentError(
                    f"The value for the {fixed} property of an existing entity cannot be changed."
                )
        queue.settings = settings
        for sub in (queue.dead_letters, queue.transfer_dead_letters):
            if sub is not None:
                sub.settings = _of_sub_queue(settings)
        queue.times.updated_at = now
        self.defined(queue, now)
        self.touched(queue)

    def delete(self, name: str, now: float) -> None:
        """Remove a queue with all that is in it."""
        queue = self.get(name)
        del self._queues[queue.name.lower()]
        self.gone(queue)
        self.record(now, "queue-deleted", queue.name)

    def gone(self, queue: Queue) -> None:
        """An entity is there no longer, nor is what was in it."""
        for part in (queue, queue.dead_letters, queue.transfer_dead_letters):
            if part is not None:
                part.deleted = True
                self.touched_queues.pop(part, None)
                self.deleted_queues.append(part)
                if self.changes is not None:
                    self.changes.deleted.append(part)
                self.journal.forget(part.name)

    def clear(self, now: float) -> None:
        """Remove everything."""
        for queue in self:
            self.delete(queue.name, now)
        for topic in self.topics:
            self.topics.delete(topic.name, now)

    def get(self, name: str) -> Queue:
        """The queue of that name; names do not depend on case."""
        queue = self._queues.get(name.lower())
        if queue is None:
            raise EntityNotFound(f"The messaging entity '{name}' could not be found.")
        return queue

    def resolve(self, path: str) -> Queue:
        """A queue, a topic, a subscription or a sub-queue by its path."""
        name, marker, sub = path.strip("/").partition("/$")
        queue = self._queues.get(name.lower()) or self.topics.resolve(name)
        if not marker:
            return queue
        found = {
            DEAD_LETTER_QUEUE.lower(): queue.dead_letters,
            TRANSFER_DEAD_LETTER_QUEUE.lower(): queue.transfer_dead_letters,
        }.get(f"${sub}".lower())
        if found is None:
            raise EntityNotFound(f"The messaging entity '{path}' could not be found.")
        return found

    def authorization_rules(self, path: str) -> tuple[AuthorizationRule, ...]:
        """The keys to a queue or a topic, which hold for all below it; none where there is none."""
        name = path.partition("/$")[0]
        topic = name.lower().partition("/subscriptions/")[0]
        found = self._queues.get(name.lower()) or self.topics.find(topic)
        return () if found is None else found.settings.authorization_rules

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._queues

    def __iter__(self) -> Iterator[Queue]:
        """By name."""
        return iter([self._queues[key] for key in sorted(self._queues)])

    def __len__(self) -> int:
        return len(self._queues)

    def entities(self) -> Iterator[Queue]:
        """Queues, then each topic with its subscriptions, by name."""
        yield from self
        for topic in self.topics:
            yield topic
            yield from topic.subscriptions

    # --- what queues need ------------------------------------------------------------------------

    def at(self, when: float, queue: Queue, kind: str, key: object) -> None:
        """See :class:`~servicebus_emulator.broker.queue.Surroundings`."""
        heapq.heappush(self._timers, (when, next(self._order), queue, kind, key))
        if len(self._timers) > self._compact_at:
            self._compact()

    def touched(self, queue: Queue) -> None:
        """See :class:`~servicebus_emulator.broker.queue.Surroundings`."""
        self.touched_queues[queue] = None

    def session_lost(self, queue: Queue, lock: SessionLock) -> None:
        """See :class:`~servicebus_emulator.broker.queue.Surroundings`."""
        self.lost_sessions.append((queue, lock))

    def forward(self, source: Queue, target: str, message: Message, now: float) -> bool:
        """See :class:`~servicebus_emulator.broker.queue.Surroundings`."""
        name = url_path(target).strip("/")
        queue = self._queues.get(name.lower()) or self.topics.find(name)
        if self._hops >= MAX_HOPS or queue is None or not queue.settings.status.sends:
            transfer = source.transfer_dead_letters
            if transfer is None:
                return False
            message.properties = {
                **(message.properties or {}),
                "DeadLetterReason": (
                    "MaxTransferHopCountExceeded"
                    if self._hops >= MAX_HOPS
                    else "MessagingEntityNotFound"
                ),
            }
            transfer.take_in(_copy(message), now, renumber=False)
            return True
        self._hops += 1
        try:
            queue.take_in(_copy(message), now, renumber=True)
        finally:
            self._hops -= 1
        return True

    # --- what the gateway collects ---------------------------------------------------------------

    def take_touched(self) -> Iterable[Queue]:
        """Queues where something may have become receivable, once."""
        touched, self.touched_queues = self.touched_queues, {}
        return touched

    def take_lost_sessions(self) -> list[tuple[Queue, SessionLock]]:
        """Session locks that expired, once."""
        lost, self.lost_sessions = self.lost_sessions, []
        return lost

    def take_deleted(self) -> list[Queue]:
        """Queues that were deleted, sub-queues included, once."""
        deleted, self.deleted_queues = self.deleted_queues, []
        return deleted

    # --- time ------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When :meth:`advance` has something to do next."""
        timers = self._timers
        while timers:
            when, _, queue, kind, key = timers[0]
            if not queue.deleted and (kind == "idle" or not queue.outdated(kind, key)):
                return when
            heapq.heappop(timers)
        return None

    def due_not_before(self) -> float:
        """What :meth:`next_due` returns at the earliest, void timers not looked at."""
        return self._timers[0][0] if self._timers else FOREVER

    def advance(self, now: float, most: int | None = None) -> None:
        """Do what is due: all of it, or so many things."""
        timers = self._timers
        while timers and timers[0][0] <= now and most != 0:
            _, _, queue, kind, key = heapq.heappop(timers)
            if queue.deleted:
                continue
            if most is not None:
                most -= 1
            later = self._idle_due(queue, now) if kind == "idle" else queue.due(kind, key, now)
            if later is not None:
                self.at(later, queue, kind, key)

    def _idle_due(self, queue: Queue, now: float) -> float | None:
        if queue.settings.auto_delete_on_idle >= FOREVER:
            return None
        until = queue.used_at + queue.settings.auto_delete_on_idle
        if until > now:
            return until
        if isinstance(queue, Subscription):
            self.topics.unsubscribe(queue.topic.name, queue.short_name, now)
        elif isinstance(queue, Topic):
            self.topics.delete(queue.name, now)
        else:
            self.delete(queue.name, now)
        return None

    def _compact(self) -> None:
        """Most locks are settled long before they expire: forget their timers."""
        self._timers[:] = [
            timer
            for timer in self._timers
            if not timer[2].deleted
            and (timer[3] == "idle" or not timer[2].outdated(timer[3], timer[4]))
        ]
        heapq.heapify(self._timers)
        self._compact_at = max(10_000, 2 * len(self._timers))


def random_tokens() -> Callable[[], UUID]:
    """What makes lock tokens as :func:`uuid.uuid4` does, without asking the kernel each time.

    They have to be unique, not secret: 122 random bits, from a generator that the kernel seeds.
    """
    random_bits, unknown = Random().getrandbits, SafeUUID.unknown

    def new_token() -> UUID:
        token = UUID.__new__(UUID)  # its __init__ costs four times as much
        bits = random_bits(128) & ~(0xF000 << 64 | 0xC000 << 48) | 4 << 76 | 0x8000 << 48
        object.__setattr__(token, "int", bits)
        object.__setattr__(token, "is_safe", unknown)
        return token

    return new_token


def url_path(address: str) -> str:
    """The path of an entity that is named by a URL or by its bare path."""
    try:
        return urlsplit(address).path if "://" in address else address
    except ValueError:  # a host that is none, as in ``http://[``: then it is a name nobody has
        return address


def _copy(message: Message) -> Message:
    """A message that moves: the queue it leaves still holds the old one for a moment."""
    return replace(message, lock=None)


def _of_sub_queue(settings: QueueSettings) -> QueueSettings:
    return QueueSettings(
        lock_duration=settings.lock_duration,
        status=settings.status,
        max_size_in_megabytes=settings.max_size_in_megabytes,
    )
