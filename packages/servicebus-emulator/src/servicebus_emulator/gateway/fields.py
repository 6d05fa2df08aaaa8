"""A message's properties as rules read and change them (:mod:`servicebus_emulator.broker.rules`).

The wire has more types than rules know: a timestamp is read as ``datetime``, .NET's time span as
``timedelta``, and what has no counterpart equals nothing. What a rule does not change keeps its
type, byte by byte.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta

from servicebus_emulator.amqp.codec import EncodeError, decode, decode_all, encoded
from servicebus_emulator.amqp.types import Char, Described, Long, Symbol, Timestamp, ULong
from servicebus_emulator.broker.rules import Fields
from servicebus_emulator.broker.sql import FilterError, duration_of, time_at

PROPERTIES, APPLICATION_PROPERTIES = 0x73, 0x74
TIME_SPAN = "com.microsoft:timespan"
DATE_TIME_OFFSET = "com.microsoft:datetime-offset"
PARTITION_KEY = "x-opt-partition-key"
_TICKS = 10_000_000  # .NET's steps of 100 ns in a second
_LONGEST = (1 << 63) - 1
_TICKS_AT_1970 = 621_355_968_000_000_000

_PLACES = {
    "messageid": 0,
    "to": 2,
    "label": 3,
    "replyto": 4,
    "correlationid": 5,
    "contenttype": 6,
    "sessionid": 10,
    "replytosessionid": 12,
}
"""Where AMQP's properties section has them."""


def read_fields(properties: bytes, application: bytes, annotations: bytes) -> Fields:
    """From the two sections, and the message annotations without their map's head."""
    listed, mapped = _listed(properties), _mapped(application)
    system: dict[str, object] = {}
    for name, place in _PLACES.items():
        value = listed[place] if place < len(listed) else None
        if value is not None:
            system[name] = value.hex() if isinstance(value, bytes) else str(value)
    held = decode_all(annotations)
    for key, value in zip(held[::2], held[1::2], strict=True):
        if key == PARTITION_KEY and isinstance(value, str):
            system["partitionkey"] = value
    return Fields(system, {str(key): to_plain(value) for key, value in mapped.items()})


def change_properties(section: bytes, changes: dict[str, object]) -> bytes:
    """The properties section with other values; None removes one."""
    if not changes:
        return section
    listed = _listed(section)
    listed += [None] * (13 - len(listed))
    for name, value in changes.items():
        listed[_PLACES[name]] = value
    return _section(PROPERTIES, listed)


def change_application(section: bytes, changes: dict[str, object]) -> bytes:
    """The application properties with other values; None removes one."""
    if not changes:
        return section
    mapped = _mapped(section)
    for name, value in changes.items():
        if value is None:
            mapped.pop(name, None)
        else:
            mapped[name] = to_wire(value)
    return _section(APPLICATION_PROPERTIES, mapped) if mapped else b""


def to_plain(value: object) -> object:
    """A value of the wire as rules compare it."""
    if isinstance(value, Timestamp):
        return time_at(value / 1000)
    if isinstance(value, Char) and value <= sys.maxunicode:
        return chr(value)
    if isinstance(value, Described) and isinstance(value.value, int):
        if value.descriptor == TIME_SPAN:
            return duration_of(value.value / _TICKS)
        if value.descriptor == DATE_TIME_OFFSET:
            return time_at((value.value - _TICKS_AT_1970) / _TICKS)
    if isinstance(value, Described) and isinstance(value.value, str):
        return value.value
    return value


def to_wire(value: object) -> object:
    """A value of a rule as the wire has it."""
    if isinstance(value, datetime):
        return Timestamp(round((value - datetime(1970, 1, 1)) / timedelta(milliseconds=1)))
    if isinstance(value, timedelta):
        ticks = value // timedelta(microseconds=1) * 10
        return Described(Symbol(TIME_SPAN), Long(min(ticks, _LONGEST)))
    return value


def _listed(section: bytes) -> list[object]:
    described = decode(section)[0] if section else None
    value = described.value if isinstance(described, Described) else None
    return list(value) if isinstance(value, list) else []


def _mapped(section: bytes) -> dict[object, object]:
    described = decode(section)[0] if section else None
    value = described.value if isinstance(described, Described) else None
    return dict(value) if isinstance(value, dict) else {}


def _section(code: int, value: object) -> bytes:
    try:
        return encoded(Described(ULong(code), value))
    except EncodeError as error:
        raise FilterError(f"What the action sets cannot be written: {error}.") from None
