"""Texts are for people: with every one of them worded otherwise, verdicts, exit codes and files
stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import pytest
from defusedxml.ElementTree import fromstring

from ci import texts
from ci.report import files, html, junit, verdict, wording
from ci.report.record import Record, read
from ci.results import (
    CauseId,
    ChangeState,
    CheckGroup,
    CheckId,
    Outcome,
    Phase,
    RunRef,
    StepId,
    Tone,
    VerdictId,
    failed,
    passed,
    unmet,
)
from tests.unit.renaming import SENTENCES, TABLES, other_words
from tests.unit.report.folders import (
    CHANGE,
    CHECKS_FAILED,
    GROUPS,
    REFUSED,
    Folder,
    broken,
    promoted,
)

NOW = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)


def refused(path: Path) -> None:
    folder = Folder(path)
    folder.change(ChangeState.UNTOUCHED)
    folder.leave(REFUSED)
    change = replace(CHANGE, state=ChangeState.UNTOUCHED)
    folder.summary(command="promote", outcome=Outcome.FAILED, exit_code=31, change=change)


def served(path: Path) -> None:
    Folder(path).summary(
        command="promote", change=replace(CHANGE, state=ChangeState.ALREADY_SERVED)
    )


def not_verified(path: Path) -> None:
    groups = (*GROUPS[:2], CheckGroup(Phase.AFTER, CHECKS_FAILED))
    Folder(path).summary(outcome=Outcome.FAILED, exit_code=34, change=CHANGE, groups=groups)


def verified(path: Path) -> None:
    Folder(path).summary(command="verify", groups=GROUPS[2:])


def killed(path: Path) -> None:
    folder = Folder(path)
    folder.promotion_steps("", None)
    folder.check(Phase.BEFORE, GROUPS[0].checks[0])
    folder.change(ChangeState.UNDER_WAY)


def killed_early(path: Path) -> None:
    Folder(path).step(StepId.BUILD, 0, None)


def of_targets(path: Path) -> None:
    checks = (
        passed(CheckId.TARGET_PROMOTED, RunRef("1", 0, 5.0, ChangeState.PROMOTED), subject="a"),
        failed(CheckId.TARGET_PROMOTED, RunRef("2", 32, 5.0), subject="b"),
    )
    folder = Folder(path)
    folder.step(StepId.PROMOTE_TARGET, 0, 5, subject="a")
    folder.summary(
        command="promote",
        outcome=Outcome.FAILED,
        exit_code=32,
        groups=(CheckGroup(Phase.TARGETS, checks),),
    )


def returned(path: Path) -> None:
    Folder(path).summary(command="rollback", change=replace(CHANGE, state=ChangeState.ROLLED_BACK))


def self_test(path: Path) -> None:
    folder = Folder(path)
    folder.step(StepId.SELF_TEST, 0, 1, "ended with 1", subject="ruff")
    folder.summary(command="test", outcome=Outcome.FAILED, exit_code=1)


def rolled_back(path: Path) -> None:
    broken(path, 32, "any words", cause=CauseId.SOAK_BREACHED)


def rollback_failed(path: Path) -> None:
    broken(path, 33, "any words", state=ChangeState.ROLLBACK_FAILED, back=False)


def interrupted(path: Path) -> None:
    broken(path, 130, "any words")


def not_begun(path: Path) -> None:
    broken(path, 32, "any words", state=ChangeState.UNTOUCHED)


def promoted_run(path: Path) -> None:
    promoted(path)


RUNS: Mapping[Callable[[Path], None], VerdictId] = {
    promoted_run: VerdictId.PROMOTED,
    refused: VerdictId.REFUSED,
    rolled_back: VerdictId.ROLLED_BACK,
    rollback_failed: VerdictId.ROLLBACK_FAILED,
    not_begun: VerdictId.UPGRADE_NOT_BEGUN,
    served: VerdictId.ALREADY_SERVED,
    killed: VerdictId.UNFINISHED_UNDER_WAY,
    killed_early: VerdictId.UNFINISHED,
    not_verified: VerdictId.PROMOTED_NOT_VERIFIED,
    verified: VerdictId.VERIFIED,
    of_targets: VerdictId.NOT_EVERYWHERE,
    interrupted: VerdictId.INTERRUPTED_ROLLED_BACK,
    returned: VerdictId.RETURNED,
    self_test: VerdictId.CHECKS_FAILED,
}


def data_of(record: Record) -> tuple[object, ...]:
    """All that a program can read of a run."""
    run = record.run
    id = verdict.identify(run, finished=record.finished)
    cases = [
        (element.tag, element.get("name"), element.get("type"))
        for element in fromstring(junit.render(run.groups)).iter()
    ]
    return (
        id,
        verdict.tone(id),
        run.exit_code,
        json.dumps(files.plain(run), sort_keys=True),
        [(step.id, step.subject, step.failed) for step in record.steps],
        cases,
        unmet(run.checks, ("*",)),
        record.unreadable,
    )


@pytest.mark.parametrize("make", RUNS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_other_words_change_no_verdict_no_exit_code_and_no_file(
    make: Callable[[Path], None], seed: int, tmp_path: Path
) -> None:
    folder, again = tmp_path / "1", tmp_path / "again" / "1"
    make(folder)
    found, worded, shown = data_of(read(folder)), said(folder), html.render(read(folder), NOW)
    assert found[0] is RUNS[make]
    with other_words(seed):
        make(again)  # the files, too, are written with the other words
        assert without_folder(data_of(read(again)), again) == without_folder(found, folder)
        other = said(again)
        assert (other.id, other.tone) == (worded.id, worded.tone)
        assert other.word != worded.word
        assert html.render(read(again), NOW) != shown
    assert said(folder) == worded


def said(folder: Path) -> wording.Verdict:
    record = read(folder)
    return wording.of(record.run, record.steps, finished=record.finished)


def without_folder(data: tuple[object, ...], folder: Path) -> str:
    return repr(data).replace(str(folder), "FOLDER")


def test_every_text_is_renamed() -> None:
    """Every text of the module is in a table or a constant that the test above renames."""
    assert {"CHECK_TITLES", "STEP_TITLES", "VERDICTS", "REASONS", "CAUSES"} <= set(TABLES)
    assert {"TURNED_OFF", "WHERE_STEP"} <= set(SENTENCES)


@pytest.mark.parametrize("name", TABLES)
def test_every_id_has_a_text(name: str) -> None:
    table: Mapping[Enum, object] = getattr(texts, name)
    ids = type(next(iter(table)))
    missing = set(ids) - set(table)
    assert not missing or name in ("CHECKLIST", "REMEDIES"), "these are of some checks only"


def test_every_verdict_has_a_tone() -> None:
    assert {verdict.tone(id) for id in VerdictId} == set(Tone)
