"""Which checks run when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest

from ci.cli import selftest
from ci.cli.session import Session
from ci.results import Outcome
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.tools.wait import SystemClock

REPORTS = Path("/reports")


def names(*, quick: bool = False, matrix: bool | None = None) -> list[str]:
    return [c.name for c in selftest.checks("/bin/python", REPORTS, quick=quick, matrix=matrix)]


def test_everything_runs_unless_a_part_is_asked_for() -> None:
    assert names(matrix=True) == ["matrix"]
    assert names() == [*names(matrix=False), "matrix"]
    assert "matrix" not in names(quick=True)
    assert "matrix" not in names(matrix=False)
    for real in ("compatibility", "flow", "parts"):
        assert real in names()
        assert real not in names(quick=True)


def test_every_tested_case_is_counted_from_its_report() -> None:
    for check in selftest.checks("/bin/python", REPORTS, quick=False):
        written = f"--junitxml={REPORTS / check.name}.xml" in check.argv
        assert written == check.counted


def test_the_quick_part_of_azures_tests_runs_where_there_is_time() -> None:
    assert "conformance" in names()
    assert "conformance" not in names(quick=True)


class Said(NamedTuple):
    """What a program said."""

    status: int
    stdout: str
    stderr: str


class EndsBadly:
    """Programs of which each writes a report without a failure, and ends with 3."""

    def __init__(self, report: Path) -> None:
        self._report = report

    def run(self, *_: object, **__: object) -> Said:
        self._report.write_text('<testsuite><testcase name="good"/></testsuite>')
        return Said(3, "stopped half-way", "")


def test_what_failed_is_an_event_of_a_failure_and_the_counts_are_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = selftest.Check("oracle", "a reason", ("program",), counted=True)
    monkeypatch.setattr(selftest, "checks", lambda *_, **__: (check,))
    reports = tmp_path / "reports"
    session = SimpleNamespace(
        events=Events(SystemClock()),
        programs=EndsBadly(reports / "oracle.xml"),
        root=tmp_path,
        run_dir=tmp_path,
        folder=RunFolder(tmp_path),
    )
    found = selftest.run(cast(Session, session), "auto", quick=True)
    assert not found.passed
    assert [case.outcome for case in found.cases] == [Outcome.PASSED, Outcome.FAILED]
    assert found.outputs == (("oracle", "stopped half-way"),)
    failed = [e.text for e in session.events.all if e.kind == "run.failed"]
    assert failed == ["oracle: oracle failed with status 3"]


def test_a_check_that_ends_badly_has_failed_whatever_its_report_says(tmp_path: Path) -> None:
    check = selftest.Check("conformance", "a reason", ("program",), counted=True)
    session = SimpleNamespace(
        events=Events(SystemClock()),
        programs=EndsBadly(tmp_path / "conformance.xml"),
        root=tmp_path,
    )
    cases, output = selftest._run(cast(Session, session), check, tmp_path, "auto")
    assert output == "stopped half-way", "it is shown at the end"
    assert [(case.name, case.outcome) for case in cases] == [
        ("good", Outcome.PASSED),
        ("conformance", Outcome.FAILED),
    ]
