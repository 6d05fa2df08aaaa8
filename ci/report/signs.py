"""The signs that outcomes and events are drawn with: one table, keyed by what happened.

Nothing here is a default for "anything else" but a note: an event that is not known to have
failed is never drawn as a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ci.results import Outcome


class Sign(StrEnum):
    """What a sign stands for. The outcomes have the values of :class:`ci.results.Outcome`."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Turned off by a setting."""
    UNKNOWN = "unknown"
    """Asked, and no answer."""
    NOTE = "note"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Glyph:
    """How a sign looks; every frame is one column wide. More than one frame turns with time."""

    frames: str
    ascii_frames: str
    """Where the encoding is not UTF-8."""
    style: str
    """Of :mod:`rich`."""


GLYPHS: Mapping[Sign, Glyph] = {
    Sign.PASSED: Glyph("✓", "+", "green"),
    Sign.FAILED: Glyph("✗", "!", "red"),
    Sign.SKIPPED: Glyph("\N{EN DASH}", "-", "yellow"),
    Sign.UNKNOWN: Glyph("?", "?", "magenta"),
    Sign.NOTE: Glyph("•", "*", "cyan"),
    Sign.RUNNING: Glyph("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", ".oOo", "cyan"),
}

FRAMES_PER_SECOND = 4

EVENTS: Mapping[str, Sign] = {
    "step.started": Sign.RUNNING,
    "step.finished": Sign.PASSED,
    "step.failed": Sign.FAILED,
    "run.passed": Sign.PASSED,
    "run.failed": Sign.FAILED,
    "run.skipped": Sign.SKIPPED,
    "run.unknown": Sign.UNKNOWN,
    "run.note": Sign.NOTE,
    "run.cancelled": Sign.NOTE,
}
"""By :attr:`ci.run.events.Event.kind`."""


def of_event(kind: str) -> Sign:
    """The sign of an event; a note's for a kind that has none of its own."""
    return EVENTS.get(kind, Sign.NOTE)


def of_outcome(outcome: Outcome) -> Sign:
    return Sign(outcome.value)


def symbol(sign: Sign, *, ascii_only: bool = False, at: float = 0.0) -> str:
    """One character; ``at`` is a time in seconds, for a sign that turns."""
    glyph = GLYPHS[sign]
    frames = glyph.ascii_frames if ascii_only else glyph.frames
    return frames[int(at * FRAMES_PER_SECOND) % len(frames)]
