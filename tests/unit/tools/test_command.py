"""Programs are started, fed, read, ended and logged, tried with small ones of ``sh``."""

from __future__ import annotations

import contextvars
import dataclasses
import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.errors import BuildFailed, CommandFailed, DiskFull, Interrupted
from ci.run_folder import RunFolder
from ci.tools import command
from ci.tools.command import Invocation, Output, Programs, RunOptions

pytestmark = pytest.mark.program

SECRET = "hunter2-of-this-test"
FOREVER = "sleep 600"


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(env={"PATH": os.environ["PATH"]}, logs=tmp_path / "logs")


@contextmanager
def ends(path: Path) -> Iterator[str]:
    """A shell redirection; after the block, whoever inherited it has to be gone."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield f"exec 9>{path}"
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # without any writer there is no end
        assert select.select([reader], [], [], 10)[0], "something that was started is still there"
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


# -- a program that runs to its end ---------------------------------------------------------------


def test_output_status_and_log(programs: Programs, tmp_path: Path) -> None:
    got = programs.run(["sh", "-c", "echo out; echo err >&2; exit 3"], log="one", check=False)
    assert got == Output(3, "out\n", "err\n")
    first, *lines = (tmp_path / "logs" / "one.log").read_text().splitlines()
    assert first == "$ sh -c 'echo out; echo err >&2; exit 3'"
    assert sorted(lines) == ["err", "out"]


def test_a_log_is_named_for_the_program_and_appended_to(programs: Programs, tmp_path: Path) -> None:
    for word in ("a", "b"):
        programs.run(["/bin/sh", "-c", f"echo {word}"])
    assert (tmp_path / "logs" / "sh.log").read_text().count("$ /bin/sh -c") == 2


def test_without_a_folder_for_logs_there_are_none(tmp_path: Path) -> None:
    assert Programs(env=os.environ).run(["sh", "-c", "pwd"], cwd=tmp_path).stdout.strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["é\n", "é\n".encode()])
def test_standard_input_is_text_or_bytes(programs: Programs, given: str | bytes) -> None:
    assert programs.run(["cat"], input=given).stdout == "é\n"


def test_standard_input_is_empty_where_none_is_given(programs: Programs) -> None:
    assert programs.run(["cat"], timeout=10).stdout == ""


def test_more_input_than_a_pipe_holds_reaches_the_program(programs: Programs) -> None:
    assert len(programs.run(["cat"], input="x" * 1_000_000).stdout) == 1_000_000


def test_a_program_that_ends_before_it_read_its_input_is_no_error(programs: Programs) -> None:
    assert programs.run(["true"], input="x" * 1_000_000).status == 0


def test_environment_and_folder(programs: Programs, tmp_path: Path) -> None:
    got = programs.run(["sh", "-c", 'echo "$A,$HOME"; pwd'], env={"A": "b"}, cwd=tmp_path)
    assert got.stdout.splitlines() == ["b,", str(tmp_path.resolve())]


def test_lines_come_in_the_callers_context(programs: Programs) -> None:
    step = contextvars.ContextVar("step", default="none")
    step.set("deploy")
    seen: list[tuple[str, str]] = []
    programs.run(
        ["sh", "-c", "echo a; echo b >&2"], on_line=lambda line: seen.append((line, step.get()))
    )
    assert sorted(seen) == [("a", "deploy"), ("b", "deploy")]


def test_every_option_is_decided_by_an_invocation() -> None:
    fields = {field.name for field in dataclasses.fields(Invocation)}
    assert fields - {"argv", "merge"} == set(RunOptions.__annotations__)


# -- failures -------------------------------------------------------------------------------------


def test_a_failure_has_command_status_and_the_end_of_the_output(programs: Programs) -> None:
    script = "for n in $(seq 20); do echo line $n >&2; done; exit 7"
    with pytest.raises(CommandFailed, match="ended with 7") as caught:
        programs.run(["sh", "-c", script])
    assert caught.value.status == 7
    assert list(caught.value.argv) == ["sh", "-c", script]
    text = str(caught.value)
    assert text.startswith(f"sh -c '{script}' ended with 7: line 9\n")
    assert text.endswith("line 20")


def test_a_failure_is_of_the_kind_that_the_caller_names(programs: Programs) -> None:
    with pytest.raises(BuildFailed, match="false ended with 1"):
        programs.run(["false"], error=BuildFailed)


def test_a_program_that_is_not_there(programs: Programs) -> None:
    with pytest.raises(CommandFailed, match="cannot start no-such-program: No such file") as caught:
        programs.run(["no-such-program"], check=False)
    assert caught.value.status == 127
    assert "doctor" in caught.value.remedy


def test_a_full_disk_is_named(programs: Programs) -> None:
    with pytest.raises(DiskFull, match="while running sh -c"):
        programs.run(["sh", "-c", "echo write /x: No space left on device >&2; exit 1"])


# -- time-outs and cancellation -------------------------------------------------------------------


def test_a_timeout_ends_the_program_and_what_it_started(programs: Programs, tmp_path: Path) -> None:
    with (
        ends(tmp_path / "fifo") as held,
        pytest.raises(CommandFailed, match=r"timed out after 1 s: partial"),
    ):
        programs.run(["sh", "-c", f"{held}; echo partial; {FOREVER} & wait"], timeout=0.6)


def test_a_timeout_is_an_error_where_the_status_is_not_checked(programs: Programs) -> None:
    with pytest.raises(CommandFailed, match="timed out"):
        programs.run(["sh", "-c", FOREVER], timeout=0.1, check=False)


def test_a_program_that_ignores_sigterm_is_killed(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.3)
    script = "trap '' TERM; while :; do sleep 0.1; done"
    with pytest.raises(CommandFailed, match="timed out") as caught:
        programs.run(["sh", "-c", script], timeout=0.3)
    assert caught.value.status == -9


def test_a_timeout_also_counts_for_input_that_nobody_reads(programs: Programs) -> None:
    with pytest.raises(CommandFailed, match="timed out"):
        programs.run(["sh", "-c", FOREVER], input="x" * 1_000_000, timeout=0.3)


def test_a_program_whose_log_cannot_be_opened_does_not_run_on(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no space left for logs")

    monkeypatch.setattr(RunFolder, "log", full)
    with ends(tmp_path / "fifo") as held, pytest.raises(DiskFull):
        programs.run(["sh", "-c", f"{held}; {FOREVER} & wait"])


def test_cancelling_ends_what_runs_and_starts_nothing_more(
    programs: Programs, tmp_path: Path
) -> None:
    def cancel(_: str) -> None:
        programs.end_all()

    with ends(tmp_path / "fifo") as held, pytest.raises(Interrupted, match="interrupted: sh -c"):
        programs.run(["sh", "-c", f"{held}; echo ready; {FOREVER} & wait"], on_line=cancel)
    with pytest.raises(Interrupted):
        programs.run(["touch", tmp_path / "late"])
    assert not (tmp_path / "late").exists()


def test_a_cleanup_runs_to_its_end_after_cancelling(programs: Programs, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"

    def cancel(line: str) -> None:
        if line == "ready":
            programs.end_all()
            go_on.touch()

    script = f"echo ready; until [ -e {go_on} ]; do sleep 0.02; done; echo undone"
    got = programs.run(["sh", "-c", script], on_line=cancel, during_cleanup=True, timeout=30)
    assert got.stdout == "ready\nundone\n"
    assert programs.run(["sh", "-c", "exit 4"], during_cleanup=True, check=False).status == 4


# -- secrets --------------------------------------------------------------------------------------


def test_a_secret_is_in_the_output_alone(programs: Programs, tmp_path: Path) -> None:
    programs.hide(SECRET)
    script = f"echo {SECRET}; echo refused: {SECRET} >&2; exit 1"
    got = programs.run(["sh", "-c", script], check=False)
    assert got.stdout == f"{SECRET}\n"
    with pytest.raises(CommandFailed) as caught:
        programs.run(["sh", "-c", script])
    problem = caught.value
    assert "refused: " in str(problem)
    assert SECRET not in f"{problem} {problem.argv} {problem.output}"
    log = (tmp_path / "logs" / "sh.log").read_text()
    assert log.count("refused: ") >= 2
    assert SECRET not in log


# -- in the background ----------------------------------------------------------------------------


def test_a_background_program_is_ended_with_its_block(programs: Programs, tmp_path: Path) -> None:
    programs.hide(SECRET)
    seen: list[str] = []
    ready = threading.Event()

    def note(line: str) -> None:
        seen.append(line)
        if line == "ready":
            ready.set()

    with ends(tmp_path / "fifo") as held:
        script = f"{held}; echo {SECRET} >&2; echo ready; {FOREVER} & wait"
        with programs.background(["sh", "-c", script], log="behind", on_line=note) as process:
            assert ready.wait(20)
            assert process.poll() is None
        assert process.poll() is not None
    assert seen == [SECRET, "ready"]
    log = (tmp_path / "logs" / "behind.log").read_text()
    assert log.startswith("$ sh -c ")
    assert log.endswith("\nready\n")
    assert SECRET not in log


def test_cancelling_ends_a_background_program(programs: Programs) -> None:
    with programs.background(["sh", "-c", FOREVER], log="behind") as process:
        programs.end_all()
        assert process.wait(20) != 0
