"""ISO 8601 durations and points in time, as Azure writes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from servicebus_emulator.broker.model import FOREVER
from servicebus_emulator.errors import ArgumentError

FOREVER_TEXT = "P10675199DT2H48M5.4775807S"

_DURATION = re.compile(
    r"P(?:(?P<years>\d+)Y)?(?:(?P<months>\d+)M)?(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {
    "years": 31_536_000,
    "months": 2_592_000,
    "weeks": 604_800,
    "days": 86_400,
    "hours": 3_600,
    "minutes": 60,
    "seconds": 1,
}


def read_duration(text: str) -> float:
    """Seconds; Azure's longest duration, and what rounding makes of it, is FOREVER."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or text.strip().endswith(("P", "T")):
        raise ArgumentError(f"'{text}' is not a duration such as PT1M30S.")
    total = sum(float(value) * _SECONDS[unit] for unit, value in match.groupdict("0").items())
    return FOREVER if total >= FOREVER - 1 else total


def write_duration(seconds: float) -> str:
    """The text of a duration."""
    if seconds >= FOREVER - 1:
        return FOREVER_TEXT
    whole = int(seconds)
    fraction = f"{seconds - whole:.6f}"[1:].rstrip("0").rstrip(".")
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, last = divmod(rest, 60)
    day = f"{days}D" if days else ""
    time = "".join(f"{value}{unit}" for value, unit in ((hours, "H"), (minutes, "M")) if value)
    if last or fraction:
        time += f"{last}{fraction}S"
    if not day and not time:
        time = "0S"
    return f"P{day}{'T' if time else ''}{time}"


def write_time(seconds: float) -> str:
    """A point in time in UTC, with seven digits as .NET writes them."""
    if seconds <= 0:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
