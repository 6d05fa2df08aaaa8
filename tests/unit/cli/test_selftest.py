"""Which checks run when."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, cast

import pytest

from ci.cli import app, selftest
from ci.cli.session import Session
from ci.model import SelfTest
from ci.results import Outcome
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.tools.wait import SystemClock

ROOT = Path(__file__).resolve().parents[3]
REPORTS = Path("/reports")


def names(*, quick: bool = False, failure_injection: bool | None = None) -> list[str]:
    chosen = selftest.checks(
        "/bin/python", REPORTS, quick=quick, failure_injection=failure_injection
    )
    return [check.name for check in chosen]


def test_everything_runs_unless_a_part_is_asked_for() -> None:
    assert names(failure_injection=True) == ["failure-injection"]
    assert names() == [*names(failure_injection=False), "failure-injection"]
    assert "failure-injection" not in names(quick=True)
    assert "failure-injection" not in names(failure_injection=False)
    for real in ("compatibility", "acceptance", "integration"):
        assert real in names()
        assert real not in names(quick=True)


@pytest.mark.parametrize(
    ("words", "chosen", "warning"),
    [
        ([], None, ""),
        (["--failure-injection"], True, ""),
        (["--no-failure-injection"], False, ""),
        (["--matrix"], True, "--matrix is deprecated"),
        (["--no-matrix"], False, "use --no-failure-injection"),
        (["--matrix", "--no-failure-injection"], False, "--matrix is deprecated"),
    ],
)
def test_failure_injection_is_chosen_by_its_name_and_for_one_version_by_its_old_one(
    words: list[str],
    chosen: bool | None,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[object] = []

    def run(_session: object, _origin: str, **how: object) -> SelfTest:
        asked.append(how)
        return SelfTest(())

    def quickly(_common: object, body: Callable[[object], app.Answer], **_: object) -> app.Answer:
        return body(None)

    monkeypatch.setattr(selftest, "run", run)
    monkeypatch.setattr(app, "_quick", quickly)
    app.main(["test", *words])
    assert asked == [{"quick": False, "failure_injection": chosen}]
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == bool(warning)
    assert warning in "".join(warned)


def test_a_deprecated_option_is_not_offered(capsys: pytest.CaptureFixture[str]) -> None:
    app.main(["test", "--help"])
    offered = capsys.readouterr().out
    assert "--failure-injection" in offered
    assert "--matrix" not in offered


def test_what_the_kinds_of_tests_are_given_is_what_they_read(tmp_path: Path) -> None:
    given: dict[str, str] = {}

    class Programs:
        def run(self, *_: object, env: dict[str, str], **__: object) -> Said:
            given.update(env)
            return Said(0, "", "")

    session = SimpleNamespace(events=Events(SystemClock()), programs=Programs(), root=tmp_path)
    selftest._run(
        cast(Session, session), selftest.Check("one", "a reason", ("program",)), tmp_path, "auto"
    )
    read: set[str] = set()
    for kind in ("acceptance", "failure_injection"):
        for file in (ROOT / "tests" / kind).glob("*.py"):
            text = file.read_text(encoding="utf-8")
            read |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", text))
    assert given
    assert set(given) <= read


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
