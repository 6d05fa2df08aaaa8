"""The state of a target, from the ``change`` events of a run. Pure.

The same function reads the events of a running and of a killed run, so that both agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ci.model import ChangeRecord


def latest(events: Iterable[Mapping[str, Any]]) -> ChangeRecord | None:
    """The last state of the target, with the details of all events; ``None`` without any event.

    ``events`` are the data of the ``change`` events, in their order. One that is not valid is
    ignored. A run that promotes to several targets has no such events itself.
    """
    merged_fields: dict[str, Any] = {}
    record: ChangeRecord | None = None
    for event in events:
        merged = {**merged_fields, **{name: event[name] for name in _fields() if name in event}}
        try:
            record = _adapter().validate_python(merged)
        except ValidationError:
            continue
        merged_fields = merged
    return record


@cache
def _adapter() -> TypeAdapter[ChangeRecord]:
    return TypeAdapter(ChangeRecord)


@cache
def _fields() -> tuple[str, ...]:
    return tuple(ChangeRecord.__dataclass_fields__)
