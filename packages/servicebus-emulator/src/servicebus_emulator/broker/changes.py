"""What is different since it was last asked: the way from the rules to a store, and no I/O.

A queue notes *which* of its parts changed, not how. Whoever keeps them reads their present state
when it collects, so a message that was sent, locked and completed in between costs one deletion.
The way back is :meth:`Queue.restore` and :meth:`Namespace.restore`.

The locks of sessions are not kept: like the end of its receiver's link, a restart frees a session
and returns what was received under it uncounted. The locks of messages are, with their times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servicebus_emulator.broker.queue import Queue


@dataclass(slots=True)
class Changes:
    """The parts that changed. Of a queue that was deleted, nothing else counts."""

    deleted: list[Queue] = field(default_factory=list)
    queues: dict[Queue, None] = field(default_factory=dict)
    messages: dict[Queue, dict[int, bool]] = field(default_factory=dict)
    """Sequence numbers; True where the message came in under this number since."""
    sessions: dict[tuple[Queue, str], None] = field(default_factory=dict)
    seen: dict[tuple[Queue, str], float | None] = field(default_factory=dict)
    """Message ids for duplicate detection: until when, or None where that is over."""

    def __bool__(self) -> bool:
        return bool(self.deleted or self.queues or self.messages or self.sessions or self.seen)

    def message(self, queue: Queue, number: int, *, new: bool = False) -> None:
        """A message came, changed or went."""
        numbers = self.messages.get(queue)
        if numbers is None:
            numbers = self.messages[queue] = {}
        numbers[number] = new or numbers.get(number, False)

    def take(self) -> Changes:
        """All of it, once."""
        taken = Changes(self.deleted, self.queues, self.messages, self.sessions, self.seen)
        self.deleted, self.queues, self.messages = [], {}, {}
        self.sessions, self.seen = {}, {}
        return taken
