"""The failure matrix's own book-keeping: how a case ended, against what it promised."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import (
    EvidenceRefused,
    Locked,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    RollbackFailed,
)
from ci.results import CauseId, ChangeState, VerdictId
from ci.run.context import Context
from ci.run.events import Events
from ci.tools.wait import SystemClock
from tests.failure_injection.rig import Row, cells, ended, table, write


def context(*states: ChangeState) -> Context:
    events = Events(SystemClock())
    for state in states:
        events.changed("matrix", state)
    return cast(Context, SimpleNamespace(events=events, run_dir=Path("run-1")))


@pytest.mark.parametrize(
    ("command", "problem", "states", "verdict"),
    [
        ("promote", PlanRefused("x"), (ChangeState.UNTOUCHED,), VerdictId.REFUSED),
        ("promote", Locked("x"), (ChangeState.UNTOUCHED,), VerdictId.NOT_PROMOTED),
        ("promote", EvidenceRefused("x"), (), VerdictId.NOT_PROMOTED),
        (
            "promote",
            PromotionFailed("x"),
            (ChangeState.UNTOUCHED, ChangeState.UNDER_WAY, ChangeState.ROLLED_BACK),
            VerdictId.ROLLED_BACK,
        ),
        ("promote", PromotionFailed("x"), (ChangeState.UNTOUCHED,), VerdictId.UPGRADE_NOT_BEGUN),
        (
            "promote",
            RollbackFailed("x"),
            (ChangeState.UNDER_WAY, ChangeState.ROLLBACK_FAILED),
            VerdictId.ROLLBACK_FAILED,
        ),
        ("rollback", PlanRefused("x"), (ChangeState.UNTOUCHED,), VerdictId.REFUSED),
    ],
)
def test_a_command_that_failed_is_named_as_its_report_would_be(
    command: str, problem: PipelineError, states: tuple[ChangeState, ...], verdict: VerdictId
) -> None:
    assert ended(command, context(*states), problem) is verdict


@pytest.mark.parametrize(
    ("command", "state", "verdict"),
    [
        ("promote", ChangeState.PROMOTED, VerdictId.PROMOTED),
        ("promote", ChangeState.ALREADY_SERVED, VerdictId.ALREADY_SERVED),
        ("rollback", ChangeState.ROLLED_BACK, VerdictId.RETURNED),
        ("rollback", ChangeState.ALREADY_SERVED, VerdictId.ALREADY_RETURNED),
        ("rehearse", None, VerdictId.REHEARSED),
    ],
)
def test_a_command_that_succeeded_is_named_by_its_result(
    command: str, state: ChangeState | None, verdict: VerdictId
) -> None:
    assert ended(command, context(), None, state) is verdict


def row(**given: Any) -> Row:
    return Row("a case", **given)


REFUSED, PROMOTED, RETURNED = VerdictId.REFUSED, VerdictId.PROMOTED, VerdictId.RETURNED


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        (row(promised=(REFUSED,), ended=[REFUSED]), True),
        (row(promised=(REFUSED, RETURNED), ended=[REFUSED, RETURNED]), True),
        (row(promised=(REFUSED, RETURNED), ended=[REFUSED]), False),
        (row(promised=(REFUSED,), ended=[PROMOTED]), False),
        (row(promised=(REFUSED,), ended=[]), False),
        (row(promised=(PROMOTED, REFUSED), either=True, ended=[REFUSED]), True),
        (row(promised=(PROMOTED, REFUSED), either=True, ended=[PROMOTED, REFUSED]), False),
        (row(ended=[PROMOTED]), True),
    ],
)
def test_a_case_keeps_its_promise_when_every_change_ends_so(made: Row, kept: bool) -> None:
    assert made.kept is kept


def test_the_table_is_made_of_ids_and_shows_failed_cases_first(tmp_path: Path) -> None:
    good = row(promised=(REFUSED,), ended=[REFUSED], exit_codes=[31], serves="v1", revision=1)
    good.status, good.passed, good.sent = "deployed", True, 90
    bad = Row("b case", (PROMOTED,), ended=[VerdictId.ROLLED_BACK], cause=CauseId.WRONG_DIGEST)
    for each in (good, bad):
        write(tmp_path, each)
    assert cells(json.loads(json.dumps(asdict(good)))) == [
        "a case", "refused", "refused", "31", "-", "v1 at revision 1, deployed", "0 of 90", "0",
        True,
    ]  # fmt: skip
    _, _, first, second = table(tmp_path, tmp_path).splitlines()
    assert first.startswith("| b case | promoted | rolled-back | - | wrong-digest |")
    assert second.endswith("| yes |")
