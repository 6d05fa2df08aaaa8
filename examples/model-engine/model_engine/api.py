"""What requests may say. The limits of a queue's lock are Service Bus's own (5 s to 5 min)."""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SHORTEST_LOCK = 5
LONGEST_LOCK = 300
DEFAULT_LOCK = 60
DEFAULT_MAX_DELIVERY_COUNT = 10

LockSeconds = Annotated[int, Field(ge=SHORTEST_LOCK, le=LONGEST_LOCK)]
MaxDeliveryCount = Annotated[int, Field(ge=1, le=2000)]
TaskSeconds = Annotated[float, Field(ge=0, le=900)]


class _Request(BaseModel):
    """Unknown fields are refused: a mistyped time-out must not become the default one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _QueueOptions(_Request):
    """``null`` is the same as not given. Both spellings of the time-out mean the same."""

    queue_message_timeout_duration: LockSeconds | None = None
    queue_message_timeout_seconds: LockSeconds | None = None
    max_delivery_count: MaxDeliveryCount | None = None

    @model_validator(mode="after")
    def _spellings_agree(self) -> Self:
        one, other = self.queue_message_timeout_duration, self.queue_message_timeout_seconds
        if one is not None and other is not None and one != other:
            raise ValueError(
                "queue_message_timeout_duration and queue_message_timeout_seconds are the same "
                f"setting, and were given as {one} and {other}"
            )
        return self

    @property
    def lock_seconds(self) -> int | None:
        """The time-out that was asked for, under whichever name."""
        if self.queue_message_timeout_duration is not None:
            return self.queue_message_timeout_duration
        return self.queue_message_timeout_seconds


class CreateEndpoint(_QueueOptions):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]


class UpdateEndpoint(_QueueOptions):
    """What is not given stays as it is."""

    name: str | None = None
    """May be repeated, and must then be the endpoint's own."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.lock_seconds is None and self.max_delivery_count is None:
            raise ValueError("give queue_message_timeout_duration or max_delivery_count")
        return self


class TaskSpec(_Request):
    """A task whose processing time is chosen by the caller."""

    seconds: TaskSeconds = 0.0
    """Processing time of the first delivery."""
    then_seconds: TaskSeconds | None = None
    """Processing time of every later delivery; ``null`` means the same as the first."""
    renew: bool = False
    """Renew the lock for as long as the task runs."""
    fail: bool = False
    """End every delivery in failure: the message is abandoned."""
    payload: Any = None

    @field_validator("payload")
    @classmethod
    def _fits(cls, payload: Any) -> Any:
        if len(json.dumps(payload)) > 64 * 1024:
            raise ValueError("payload is larger than 64 KiB")
        return payload

    def seconds_of(self, delivery: int) -> float:
        """Processing time of the ``delivery``-th delivery, counted from 1."""
        if delivery > 1 and self.then_seconds is not None:
            return self.then_seconds
        return self.seconds


def queue_name(endpoint_name: str) -> str:
    """The queue that belongs to an endpoint."""
    return f"launch-endpoint-{endpoint_name}"


def cache_key(endpoint_name: str) -> str:
    """Where the cacher writes an endpoint's record in Redis."""
    return f"model-engine:endpoints:{endpoint_name}"
