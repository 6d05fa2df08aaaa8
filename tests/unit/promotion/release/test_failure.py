"""An error that is made of checks names what failed, and carries all of them."""

from __future__ import annotations

from ci import texts
from ci.errors import PlanRefused
from ci.promotion.release.failure import failure
from ci.results import Because, CheckId, Phase, Problem, failed, passed, unknown

GOOD = passed(CheckId.RELEASE_DEPLOYED)
BAD = failed(CheckId.PODS_READY, Problem("a pod waits"))
OPEN = unknown(CheckId.LOGS_NO_ERRORS, Because.FORBIDDEN)


def test_it_names_what_failed_and_carries_every_check() -> None:
    error = failure(PlanRefused, Phase.BEFORE, (GOOD, BAD, OPEN), remedy="wait")
    assert str(error) == texts.sentence(BAD)
    assert error.remedy == "wait"
    assert [group.phase for group in error.groups] == [Phase.BEFORE]
    assert error.groups[0].checks == (GOOD, BAD, OPEN)


def test_without_a_failed_one_it_names_what_is_unknown() -> None:
    error = failure(PlanRefused, Phase.BEFORE, (GOOD, OPEN), context="launch")
    assert str(error) == f"launch: {texts.sentence(OPEN)}"
