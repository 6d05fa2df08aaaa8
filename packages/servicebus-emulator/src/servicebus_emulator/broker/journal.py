"""What has happened, as data: logs and the timeline are drawn from it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

KEPT = 20_000
"""Events that are kept for whoever asks; at some 250 bytes each this is 5 MB."""

NOTABLE = frozenset(
    {
        "queue-created",
        "queue-updated",
        "queue-deleted",
        "topic-created",
        "topic-updated",
        "topic-deleted",
        "subscription-created",
        "subscription-updated",
        "subscription-deleted",
        "rule-set",
        "rule-deleted",
        "lock-expired",
        "session-lock-expired",
        "redelivered",
        "dead-lettered",
        "expired",
        "duplicate-dropped",
        "fault",
    }
)
"""What the log prints at its usual level; the rest is each message's ordinary way."""


class Event(NamedTuple):
    """One thing that happened to a queue or a message."""

    number: int
    at: float
    kind: str
    queue: str
    sequence_number: int | None = None
    message_id: str | None = None
    delivery_count: int | None = None
    detail: str | None = None

    def as_json(self) -> dict[str, object]:
        """Without what does not apply."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class Journal:
    """The latest :data:`KEPT` events, numbered from 1 without gaps."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._events: deque[tuple[object, ...]] = deque(maxlen=kept)  # Events, when asked for
        self._number = 0
        self.totals: defaultdict[tuple[str, str], int] = defaultdict(int)
        """How often each kind of event happened to each queue."""
        self.listener: Callable[[Event], None] | None = None

    def record(
        self,
        at: float,
        kind: str,
        queue: str,
        sequence_number: int | None = None,
        message_id: str | None = None,
        delivery_count: int | None = None,
        detail: str | None = None,
    ) -> None:
        """Add an event."""
        self._number += 1
        self.totals[queue, kind] += 1
        number, count = self._number, delivery_count
        event = (number, at, kind, queue, sequence_number, message_id, count, detail)
        self._events.append(event)
        if kind in NOTABLE and self.listener is not None:
            self.listener(Event._make(event))

    @property
    def last(self) -> int:
        """The number of the latest event; 0 before the first."""
        return self._number

    def forget(self, queue: str) -> None:
        """A queue is gone: its totals go with it, so that they cannot grow without end."""
        for key in [key for key in self.totals if key[0] == queue]:
            del self.totals[key]

    def after(self, number: int, *, limit: int = KEPT, queue: str | None = None) -> list[Event]:
        """The events that came after event ``number``, oldest first."""
        first = self._number - len(self._events)
        found: list[Event] = []
        for index in range(max(0, number - first), len(self._events)):
            if len(found) >= limit:
                break
            event = Event._make(self._events[index])
            if queue is None or event.queue.partition("/$")[0].lower() == queue.lower():
                found.append(event)
        return found
