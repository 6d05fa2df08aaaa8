"""Ids are stable and used, outcomes are counted apart, and required checks cannot be left out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ci
from ci import texts
from ci.results import (
    REQUIRED_BY_DEFAULT,
    Because,
    Check,
    CheckId,
    Outcome,
    ProbePlace,
    StepId,
    Tally,
    failed,
    passed,
    required,
    skipped,
    unknown,
    unmet,
)

SKIPPED = skipped(CheckId.API_COMPATIBLE, "service.openapi_path")
UNKNOWN = unknown(CheckId.LOGS_NO_ERRORS, Because.FORBIDDEN)


def used(kind: str) -> set[str]:
    """Members of an enumeration that the pipeline's code names."""
    found = set()
    for file in Path(ci.__file__).parent.rglob("*.py"):
        if file.name in ("results.py", "texts.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
                continue
            if node.value.id == kind:
                found.add(node.attr)
    return found


def test_every_step_is_taken_somewhere() -> None:
    assert used("StepId") == set(StepId.__members__)


def test_no_step_is_named_by_a_text() -> None:
    """Ids alone: a title may be worded otherwise at any time."""
    for file in Path(ci.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in ("step", "beside", "cleanup") and node.args:
                assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), file


@pytest.mark.parametrize("title", texts.STEP_TITLES.values())
def test_a_step_is_a_phrase_that_fits_a_narrow_terminal(title: str) -> None:
    assert title[0].islower()
    assert len(title) <= 45
    assert not title.endswith(".")


def test_outcomes_are_counted_apart() -> None:
    checks = [passed(CheckId.PODS_READY), failed(CheckId.API_ANSWERS), SKIPPED, UNKNOWN, UNKNOWN]
    tally = Tally.of(check.outcome for check in checks)
    assert tally == Tally(1, 1, 1, 2)
    assert texts.tally(tally) == "1 passed, 1 failed, 1 skipped, 2 unknown"
    assert texts.tally(Tally.of([Outcome.PASSED])) == "1 passed"


@pytest.mark.parametrize("check", [SKIPPED, UNKNOWN])
def test_what_is_required_and_not_checked_is_named_with_its_reason(check: Check) -> None:
    others = [passed(CheckId.PODS_READY), failed(CheckId.API_ANSWERS)]
    assert unmet([*others, check], REQUIRED_BY_DEFAULT) == (check,)
    line = texts.unmet([check])
    assert texts.title(check) in line
    assert texts.why(check) in line
    assert "\n" not in line


def test_the_last_glob_that_matches_decides() -> None:
    assert required(CheckId.LOGS_NO_ERRORS, ["logs.*"])
    assert not required(CheckId.LOGS_NO_ERRORS, ["logs.*", "!logs.no-errors"])
    assert required(CheckId.LOGS_NO_ERRORS, ["!logs.*", "logs.no-errors"])
    assert not required(CheckId.TEAM_NOTIFIED, REQUIRED_BY_DEFAULT)


def test_the_place_of_a_prober_is_said_in_words() -> None:
    check = passed(CheckId.REQUESTS_ANSWERED, subject=ProbePlace.IN_CLUSTER.value)
    assert texts.title(check).endswith("(from a pod in the cluster)")
