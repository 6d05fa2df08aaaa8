"""The command line without anything behind it: words, settings, errors, exit codes."""

from __future__ import annotations

import ast
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci import errors
from ci.cli import app, session
from ci.digest import Digest
from ci.model import Case, Image, RunRecord, SelfTest, StepRecord
from ci.report import terminal
from ci.results import Outcome, StepId
from ci.run.events import Events
from ci.settings import Settings, load
from ci.tools.wait import SystemClock

ROOT = Path(__file__).resolve().parents[3]


def test_nothing_means_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def work(command: str, *_: object, **__: object) -> app.Answer:
        seen.append(command)
        return app.Answer()

    monkeypatch.setattr(app, "_work", work)
    for words in ([], ["--keep-cluster"], ["run", "--target", "x"]):
        assert app.main(words) == 0
    assert seen == ["run", "run", "run"]


@pytest.mark.parametrize(
    "command", [c.name or c.callback.__name__ for c in app.app.registered_commands if c.callback]
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Options:" in said
    for option in ("--config", "--verbose", *(() if command == "clean" else ("--toolchain",))):
        assert said.count(option) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--verbose", "--toolchain", "source", "--config", "other.toml"],
        ["run", "--verbose", "--toolchain", "source", "--config", "other.toml"],
        ["promote", "-v", "--image", "last", "--toolchain", "source", "--config", "other.toml"],
    ],
)
def test_the_options_of_all_commands_stand_after_any_of_them(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[app.Common] = []

    def work(_command: str, common: app.Common, *_: object, **__: object) -> app.Answer:
        given.append(common)
        return app.Answer()

    monkeypatch.setattr(app, "_work", work)
    assert app.main(words) == 0
    assert given == [app.Common(app.Origin.SOURCE, Path("other.toml"), verbose=True)]


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["fly"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_a_foreseen_failure_is_two_lines_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "pipeline.toml"
    config.write_text("[gate]\nnmae = 'x'\n")
    assert app.main(["run", "--config", str(config)]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: pipeline.toml: gate.nmae: is not a key here"
    assert lines[1].startswith("remedy: ")
    assert len(lines) == 2


def test_a_defect_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, app._reporting_errors(verbose=False):
        raise KeyError("x")
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: unexpected error, a defect of the pipeline: KeyError")


def test_a_full_disk_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, app._reporting_errors(verbose=False):
        raise OSError(28, "No space left on device")
    assert ended.value.code == 6
    assert "disk" in capsys.readouterr().err


def test_an_error_of_many_lines_is_told_in_one() -> None:
    told = session.explain(errors.BuildFailed("first\n  second"))
    assert told.splitlines()[0] == "error: first second"
    assert len(told.splitlines()) == 2


def test_the_example_settings_are_the_defaults() -> None:
    assert load(ROOT / "pipeline.toml.example") == Settings()


def test_the_example_target_is_a_target(tmp_path: Path) -> None:
    text = (ROOT / "pipeline.toml.example").read_text("utf-8")
    commented = re.search(r"^# \[targets\.prod\]\n(?:#.*\n)+", text, re.MULTILINE)
    assert commented
    block = "\n".join(line[1:].removeprefix(" ") for line in commented[0].splitlines())
    (tmp_path / "pipeline.toml").write_text(block)
    target = load(tmp_path / "pipeline.toml").targets["prod"]
    assert target.registry_login is not None
    assert target.registry_login.password_command[0] == "aws"


def test_programs_start_in_one_place_only() -> None:
    """``ci`` imports subprocess in command.py alone; what runs in pods is not ``ci``'s to start."""
    allowed = {ROOT / "ci/tools/command.py"}
    for file in (ROOT / "ci").rglob("*.py"):
        if file in allowed:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert "subprocess" not in names, file


PROCESSES = {"report/__main__.py", "promotion/probes/probe_pod.py", "standins/trust.py"}
"""Programs of their own: two run in pods, one by hand."""


def test_nothing_but_the_command_line_and_its_terminal_writes_to_the_screen() -> None:
    """So nothing can write into the live view: commands return what they have to show."""
    for file in sorted((ROOT / "ci").rglob("*.py")):
        name = str(file.relative_to(ROOT / "ci"))
        if name in ("cli/app.py", "report/terminal.py", "toolchain/refresh.py", *PROCESSES):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                written = f"{node.value.id}.{node.attr}"
                assert written not in ("sys.stdout", "sys.stderr"), name


def test_the_closing_line_counts() -> None:
    cases = [Case("a", Outcome.PASSED, 1), Case("b", Outcome.FAILED, 1)]
    out = io.StringIO()
    terminal.self_test(SelfTest(tuple(cases)), out)
    assert out.getvalue().splitlines()[-1] == "1 passed, 1 failed"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_self_test_with_an_unknown_case_has_not_passed(outcome: Outcome) -> None:
    found = SelfTest((Case("a", Outcome.PASSED, 1), Case("b", outcome, 1)))
    assert found.passed is (outcome in (Outcome.PASSED, Outcome.SKIPPED))


# -- the terminal ---------------------------------------------------------------------------------


def test_lines_show_steps_and_hold_back_a_flood_of_notes() -> None:
    out = io.StringIO()
    events = Events(SystemClock())
    events.listen(terminal.Lines(out))
    with events.step(StepId.BUILD, "the one build"):
        for number in range(10):
            events.note(f"note {number}")
    said = out.getvalue()
    assert "build and push the image: started: the one build" in said
    assert "note 0" in said
    assert "note 9" not in said
    assert "build and push the image: done in" in said


def test_a_brief_view_is_silent_about_steps() -> None:
    out = io.StringIO()
    events = Events(SystemClock())
    events.listen(terminal.Lines(out, brief=True))
    with events.step(StepId.TOOLS):
        pass
    assert out.getvalue() == ""


def test_steps_know_what_they_are_part_of() -> None:
    events = Events(SystemClock())
    with events.step(StepId.PROMOTE), events.step(StepId.PLAN):
        pass
    started = {e.step: e.data.get("parent") for e in events.all if e.kind == "step.started"}
    assert started == {"promote": None, "plan": "promote"}


def test_the_summary_names_the_digest_and_the_folder() -> None:
    out = io.StringIO()
    digest = Digest.from_hex("b" * 64)
    record = RunRecord(
        id="x",
        command="run",
        outcome=Outcome.PASSED,
        exit_code=0,
        started=datetime(2026, 11, 23, tzinfo=UTC),
        seconds=61,
        steps=(StepRecord(StepId.BUILD, 4.0, Outcome.PASSED),),
        folder=Path("runs/x"),
        image=Image("r/m", "t", digest),
        cases=(Case("a", Outcome.PASSED, 1),),
    )
    terminal.summary(record, out)
    said = out.getvalue()
    assert digest in said
    assert "build and push the image" in said
    assert "proof      1 passed" in said
    assert "run succeeded after 1 min 01 s" in said
