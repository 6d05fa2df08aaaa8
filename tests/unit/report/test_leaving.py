"""A report that cannot be made never changes how a run ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci.cli import app
from ci.model import RunRecord
from ci.report import html, terminal
from ci.results import Outcome
from ci.run_folder import RunFolder
from tests.unit.report.folders import GROUPS, run


@pytest.fixture
def session(tmp_path: Path) -> Any:
    noted: list[str] = []
    events = SimpleNamespace(note=noted.append)
    return SimpleNamespace(run_dir=tmp_path, folder=RunFolder(tmp_path), noted=noted, events=events)


def finished(folder: Path) -> RunRecord:
    return run(folder, outcome=Outcome.FAILED, exit_code=32, folder=folder, error="broken")


def test_a_run_leaves_its_report_and_the_closing_summary_names_it(session: Any) -> None:
    record = replace(finished(session.run_dir), groups=GROUPS)
    assert not any(line.startswith("report") for line in terminal.closing(record))
    app._leave(session, record)
    for name in ("summary.json", "checks.json", "checks.xml"):
        assert (session.run_dir / name).exists()
    assert f"report     {session.run_dir / 'report.html'}" in list(terminal.closing(record))
    assert session.noted == []


def test_a_report_that_fails_is_noted_and_nothing_else(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no such template")

    monkeypatch.setattr(html, "render", broken)
    app._leave(session, finished(session.run_dir))
    assert session.noted == ["no report was written: RuntimeError: no such template"]
    assert [path.name for path in session.run_dir.iterdir()] == ["summary.json"]
