"""What the canary asks of a target's queues, and the error where they do not answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol


class BrokerUnavailable(Exception):
    """Service Bus does not answer as it should; the message says how. Never leaves the promotion's
    account of its tasks."""


class Queues(Protocol):
    """What Service Bus itself says of queues. Raises :class:`BrokerUnavailable`."""

    def lock_duration(self, name: str) -> timedelta | None:
        """``None`` for a queue that is not there."""

    def messages(self, name: str) -> tuple[int, int]:
        """How many messages are active (locked ones included) and dead-lettered."""

    def undelivered(self, name: str) -> str:
        """Why the first dead letter could not be delivered."""

    def states(self) -> list[str]:
        """A line for every queue: its name, status, lock duration and counts."""
