"""Which sign stands for what."""

from __future__ import annotations

import pytest
from rich.cells import cell_len
from rich.style import Style

from ci.report import signs
from ci.report.signs import GLYPHS, Sign
from ci.results import Outcome


def test_every_sign_is_drawn_otherwise_than_the_others_in_one_column() -> None:
    assert set(GLYPHS) == set(Sign)
    for frames in ("frames", "ascii_frames"):
        drawn = [frame for glyph in GLYPHS.values() for frame in getattr(glyph, frames)]
        if frames == "ascii_frames":
            assert "".join(drawn).isascii()
        assert all(cell_len(frame) == 1 for frame in drawn)
        first = [getattr(glyph, frames)[0] for glyph in GLYPHS.values()]
        assert len(set(first)) == len(first)
    for glyph in GLYPHS.values():
        Style.parse(glyph.style)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_own(outcome: Outcome) -> None:
    assert signs.of_outcome(outcome).value == outcome.value
    assert signs.of_event(f"run.{outcome}") is signs.of_outcome(outcome)


def test_only_a_failure_is_drawn_as_one() -> None:
    failed = {kind for kind, sign in signs.EVENTS.items() if sign is Sign.FAILED}
    assert failed == {"step.failed", "run.failed"}
    assert signs.of_event("run.cancelled") is Sign.NOTE
    assert signs.of_event("run.of_another_kind") is Sign.NOTE


def test_what_runs_turns_and_what_ended_does_not() -> None:
    several = {signs.symbol(Sign.RUNNING, at=at / 4) for at in range(20)}
    assert several == set(GLYPHS[Sign.RUNNING].frames)
    assert {signs.symbol(Sign.PASSED, at=at / 4) for at in range(20)} == {"✓"}
    assert signs.symbol(Sign.PASSED, ascii_only=True) == "+"
