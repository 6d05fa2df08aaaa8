"""``pipeline.py rollback``, and what is left and shown of a way back and of a promotion that had
nothing to do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci.cli import app, session
from ci.digest import UNKNOWN, Digest
from ci.errors import PlanRefused
from ci.model import (
    Changed,
    ChangeRecord,
    Image,
    Promotion,
    Result,
    Rollback,
    RollbackOutcome,
    RunRecord,
    Served,
)
from ci.report import files, html, terminal, wording
from ci.report.record import read
from ci.results import (
    ChangeState,
    CheckGroup,
    CheckId,
    Count,
    ImageRef,
    Outcome,
    Phase,
    Tone,
    Unit,
    VerdictId,
    passed,
)
from ci.run_folder import RunFolder
from ci.workflow import commands
from tests.unit.report.folders import Folder
from tests.unit.report.test_html import Page

OLD = Image("registry:5000/engine", "old", Digest.from_hex("a" * 64))
NEW = Image("registry:5000/engine", "new", Digest.from_hex("b" * 64))
PLANNED = Rollback(
    "prod",
    Served(3, NEW, "engine-1.0"),
    Served(1, OLD, "engine-1.0"),
    (Changed("tag", "new", "old"), Changed("note", "absent", "[bold]not markup[/bold]")),
    (Changed("Deployment/engine/proxy", "envoy:1", "envoy:2"),),
)
DONE = replace(PLANNED, outcome=RollbackOutcome.ROLLED_BACK, revision=4)
THERE = replace(
    PLANNED,
    after=Served(2, NEW, "engine-1.0"),
    values=(),
    images=(),
    outcome=RollbackOutcome.ALREADY_THERE,
    revision=3,
)
LINES = [
    f"from revision 3: registry:5000/engine:new ({NEW.digest}), chart engine-1.0",
    f"to   revision 1: registry:5000/engine:old ({OLD.digest}), chart engine-1.0",
    "     Deployment/engine/proxy: envoy:1 -> envoy:2",
    "     tag: new -> old",
    "     note: absent -> [bold]not markup[/bold]",
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the flow is asked for; the tools are there, and no run is left in the checkout."""
    found: list[tuple[Any, ...]] = []

    def roll_back(
        _: object, options: Any, revision: int | None, *, dry_run: bool = False
    ) -> Result:
        found.append((options.target, revision, dry_run))
        if revision == 9:
            raise PlanRefused("there is no revision 9 to return to", remedy="there are: 1, 3")
        return Result(rollback=PLANNED)

    monkeypatch.setattr(commands, "roll_back", roll_back)
    monkeypatch.setattr(app, "ROOT", tmp_path)
    monkeypatch.setattr(session.Session, "tools", lambda *_: SimpleNamespace(versions=()))
    monkeypatch.setattr(session.Session, "context", lambda *_: None)
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    return found


def test_a_dry_run_shows_the_way_back_and_leaves_nothing(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert app.main(["rollback", "--dry-run"]) == 0
    assert asked == [("launch", None, True)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:6] == LINES
    assert lines[-1] == "nothing was changed (--dry-run)"
    assert not (tmp_path / "runs").exists()


def test_where_there_is_nothing_to_return_to_it_is_two_lines_and_31(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["rollback", "--revision", "9", "--dry-run"]) == 31
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-2:] == [
        "error: there is no revision 9 to return to",
        "remedy: there are: 1, 3",
    ]
    assert asked == [("launch", 9, True)]


@pytest.mark.parametrize(("words", "force"), [([], False), (["--force"], True)])
def test_force_reaches_every_promotion(
    monkeypatch: pytest.MonkeyPatch, words: list[str], force: bool
) -> None:
    seen: list[tuple[bool, bool]] = []

    def promote_to(_: object, names: Any, options: Any, image: str, given: Any) -> Result:
        seen.append((options.force, "--force" in given))
        return Result()

    monkeypatch.setattr(commands, "promote_to", promote_to)

    def work(_name: str, _common: object, body: Any, **_: object) -> app.Answer:
        body(None)
        return app.Answer()

    monkeypatch.setattr(app, "_work", work)
    assert app.main(["promote", "--image", "last", *words]) == 0
    assert seen == [(force, force)]


# -- what is left of a run -------------------------------------------------------------------------


def record(folder: Path, command: str, **more: Any) -> RunRecord:
    started = datetime(2026, 11, 23, tzinfo=UTC)
    return RunRecord("x", command, Outcome.PASSED, 0, started, 5.0, (), folder, **more)


def change(state: ChangeState, before: Served, after: Served, live: int) -> ChangeRecord:
    """Where the target stands, as a rollback or a promotion records it."""
    old, new = (
        ImageRef(one.image.repository, one.image.tag, one.image.digest) for one in (before, after)
    )
    return ChangeRecord(
        "prod",
        state,
        before=old,
        after=new,
        from_revision=before.revision,
        to_revision=live,
        live_revision=live,
    )


def verdict(folder: Path) -> wording.Verdict:
    found = read(folder)
    return wording.of(found.run, found.steps, finished=found.finished)


def left(path: Path, command: str, **more: Any) -> Path:
    """A run's folder with the summary that the command line leaves."""
    folder = Folder(path)
    folder.step(command, 0, 4)
    files.write(RunFolder(path), record(path, command, **more))
    return path


def closing(command: str, **more: Any) -> str:
    return "\n".join(terminal.closing(record(Path("runs/x"), command, **more)))


@pytest.mark.parametrize("found", [DONE, THERE], ids=["rolled back", "already there"])
def test_a_rollback_is_data_in_the_summary(tmp_path: Path, found: Rollback) -> None:
    folder = left(tmp_path / "1", "rollback", rollback=found)
    assert json.loads((folder / "summary.json").read_text())["rollback"]["outcome"] == found.outcome
    assert read(folder).run.rollback == found


def test_a_rollback_of_another_shape_is_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "1")
    folder.summary(command="rollback", rollback=DONE)
    summary = folder.path / "summary.json"
    summary.write_text(summary.read_text().replace('"rolled back"', '"of another version"'))
    found = read(folder.path)
    assert found.finished
    assert found.run.rollback is not None
    assert found.run.rollback.outcome is RollbackOutcome.PLANNED
    assert "rollback.outcome" in found.unreadable[0]


def test_a_rollback_names_both_ends_and_what_every_pod_runs(tmp_path: Path) -> None:
    said = closing("rollback", rollback=DONE)
    assert "prod: revision 3 -> 1, deployed as revision 4" in said
    assert f"every pod runs {OLD.by_digest}" in said
    stands = change(ChangeState.ROLLED_BACK, DONE.before, DONE.after, 4)
    folder = left(tmp_path / "1", "rollback", rollback=DONE, change=stands)
    found = verdict(folder)
    assert (found.tone, found.id) == (Tone.GOOD, VerdictId.RETURNED)
    assert found.sentence == (
        "prod was returned from new (revision 3) to old (revision 4), verified."
    )
    text = Page(html.render(read(folder), datetime.now(UTC))).text
    assert "From · revision 3" in text
    assert "To · revision 4 · served at the end" in text


def test_no_pod_no_digest() -> None:
    none = replace(DONE, after=replace(DONE.after, image=replace(OLD, digest=UNKNOWN)))
    said = closing("rollback", rollback=none)
    assert "every pod" not in said
    assert "no pod runs, registry:5000/engine:old" in said


def test_what_was_there_already_is_no_rollback(tmp_path: Path) -> None:
    said = closing("rollback", rollback=THERE)
    assert "already there" in said
    assert "nothing to do" in said
    assert f"every pod runs {NEW.by_digest}" in said
    stands = change(ChangeState.ALREADY_SERVED, THERE.before, THERE.after, 3)
    folder = left(tmp_path / "1", "rollback", rollback=THERE, change=stands)
    assert verdict(folder).id is VerdictId.ALREADY_RETURNED
    assert "prod serves new (revision 3) already" in verdict(folder).sentence
    text = Page(html.render(read(folder), datetime.now(UTC))).text
    assert "Served · revision 3 · served at the end" in text
    assert "From ·" not in text


ALREADY = Promotion(
    "prod",
    NEW,
    NEW,
    7,
    7,
    None,
    (CheckGroup(Phase.AFTER, (passed(CheckId.PODS_RUN_DIGEST, Count(Unit.PODS, 3)),)),),
    ChangeState.ALREADY_SERVED,
)


def test_what_is_served_already_is_no_promotion(tmp_path: Path) -> None:
    said = closing("promote", promotion=ALREADY)
    assert "prod: revision 7 serves it already; verified, nothing to do" in said
    assert "promoted" not in said
    serves = Served(7, NEW, "engine-1.0")
    stands = change(ChangeState.ALREADY_SERVED, serves, serves, 7)
    folder = left(
        tmp_path / "1", "promote", promotion=ALREADY, change=stands, groups=ALREADY.groups
    )
    assert read(folder).run.promotion == ALREADY
    found = verdict(folder)
    assert (found.tone, found.id) == (Tone.GOOD, VerdictId.ALREADY_SERVED)
    assert "nothing was changed" in found.sentence
    text = Page(html.render(read(folder), datetime.now(UTC))).text
    assert "Served · revision 7 · served at the end" in text
    assert "On the live release" in text
    for never in ("From ·", "Before the change", "During the change", "Backups and rollback"):
        assert never not in text


def test_what_is_served_already_and_fails_its_verification_was_not_promoted(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path / "1")
    folder.step("promote", 0, 3)
    folder.step("verify", 3, 4, "all pods are Running and Ready")
    serves = Served(7, NEW, "engine-1.0")
    folder.summary(
        command="promote",
        outcome=Outcome.FAILED,
        exit_code=34,
        error="not ready",
        change=change(ChangeState.ALREADY_SERVED, serves, serves, 7),
    )
    found = verdict(folder.path)
    assert found.id is VerdictId.NOT_VERIFIED
    assert "promoted" not in found.sentence
