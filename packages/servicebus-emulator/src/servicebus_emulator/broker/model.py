"""What a queue is made of. Times are seconds since 1970 in UTC, durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import NamedTuple
from uuid import UUID

FOREVER = 922_337_203_685.4775807
"""Azure's longest duration, .NET's TimeSpan.MaxValue; it means "never"."""

MIN_LOCK_DURATION = 5.0
MAX_LOCK_DURATION = 300.0
MAX_NAME_LENGTH = 260


class Status(Enum):
    """What a queue lets through; the values are Azure's."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    def __init__(self, value: str) -> None:
        self.sends = value in ("Active", "ReceiveDisabled")
        """Messages may be sent to the queue."""
        self.receives = value in ("Active", "SendDisabled")
        """Messages may be received from the queue."""


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the owner of a queue chooses; the defaults are Azure's."""

    lock_duration: float = 60.0
    max_delivery_count: int = 10
    default_time_to_live: float = FOREVER
    dead_lettering_on_message_expiration: bool = False
    requires_session: bool = False
    requires_duplicate_detection: bool = False
    duplicate_detection_window: float = 600.0
    max_size_in_megabytes: int = 1024
    max_message_size_in_kilobytes: int | None = None
    status: Status = Status.ACTIVE
    forward_to: str | None = None
    forward_dead_lettered_messages_to: str | None = None
    auto_delete_on_idle: float = FOREVER
    enable_batched_operations: bool = True
    enable_partitioning: bool = False
    enable_express: bool = False
    user_metadata: str | None = None
    authorization_rules: tuple[AuthorizationRule, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicSettings(QueueSettings):
    """What the owner of a topic chooses; what only a queue has stays at its default."""

    support_ordering: bool = True
    filtering_messages_before_publishing: bool = False
    enable_subscription_partitioning: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionSettings(QueueSettings):
    """What the owner of a subscription chooses: a queue's settings, but those of its topic."""

    dead_lettering_on_filter_evaluation_exceptions: bool = True


@dataclass(frozen=True, slots=True)
class AuthorizationRule:
    """A key to one queue and what it allows."""

    key_name: str
    rights: tuple[str, ...]
    primary_key: str | None = None
    secondary_key: str | None = None
    claim_type: str | None = None
    claim_value: str | None = None
    created_at: float = 0.0
    modified_at: float = 0.0


class MessageState(IntEnum):
    """As the wire knows them; a locked message is active."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


ACTIVE = MessageState.ACTIVE
"""What is asked for with every message: in Python 3.11 to read it off its class costs as much as
to call a function."""


@dataclass(slots=True)
class Draft:
    """A message as it is sent. ``content`` is the wire's business and opaque here."""

    content: object
    size: int = 0
    message_id: str | None = None
    session_id: str | None = None
    time_to_live: float | None = None
    scheduled_for: float | None = None


@dataclass(slots=True, eq=False)
class Message:
    """A message in a queue.

    ``properties`` are application properties that the broker or a receiver added: why a message
    was dead-lettered, or what an abandon changed.
    """

    sequence_number: int
    content: object
    size: int
    message_id: str | None
    session_id: str | None
    enqueued_at: float
    expires_at: float | None
    time_to_live: float | None
    state: MessageState = ACTIVE
    scheduled_for: float | None = None
    delivery_count: int = 0
    lock: Lock | None = None
    properties: dict[str, object] | None = None
    enqueued_sequence_number: int | None = None
    dead_letter_source: str | None = None


@dataclass(slots=True, eq=False)
class Lock:
    """A message held by one receiver until ``until``; ``session`` where the session holds it."""

    token: UUID
    message: Message
    until: float
    session: SessionLock | None = None


@dataclass(slots=True, eq=False)
class SessionLock:
    """A session held by one receiver. ``lost`` is set when it expires or is given up."""

    session_id: str
    until: float
    lost: bool = False


@dataclass(slots=True, eq=False)
class SessionRecord:
    """What is kept of a session beyond its messages."""

    session_id: str
    state: bytes | None = None
    lock: SessionLock | None = None
    updated_at: float = 0.0


class Delivery(NamedTuple):
    """A message handed to a receiver; without a lock it is gone from the queue."""

    message: Message
    lock: Lock | None


@dataclass(slots=True)
class Counts:
    """The runtime numbers of a queue, as the administration shows them."""

    active: int = 0
    dead_letter: int = 0
    scheduled: int = 0
    transfer: int = 0
    transfer_dead_letter: int = 0
    deferred: int = 0
    locked: int = 0
    size_in_bytes: int = 0
    total: int = 0


@dataclass(slots=True)
class Times:
    """When a queue was made, changed and used last."""

    created_at: float
    updated_at: float
    accessed_at: float = field(default=0.0)
