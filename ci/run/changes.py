"""Where a target stands, from the ``change`` events of a run. Pure.

The same function reads a run that goes on and one that was killed, so both say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ci.model import ChangeRecord


def latest(events: Iterable[Mapping[str, Any]]) -> ChangeRecord | None:
    """The last state of the target, with all that was said of it; ``None`` without any event.

    ``events`` are the data of the ``change`` events, in their order. One that cannot be
    understood is passed over. A promotion of several targets changes none itself.
    """
    known: dict[str, Any] = {}
    found: ChangeRecord | None = None
    for event in events:
        merged = {**known, **{name: event[name] for name in _fields() if name in event}}
        try:
            found = _adapter().validate_python(merged)
        except ValidationError:
            continue
        known = merged
    return found


@cache
def _adapter() -> TypeAdapter[ChangeRecord]:
    return TypeAdapter(ChangeRecord)


@cache
def _fields() -> tuple[str, ...]:
    return tuple(ChangeRecord.__dataclass_fields__)
