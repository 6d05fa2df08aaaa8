"""Several targets: their order, how many at once, and what a failure stops."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import PipelineError, PlanRefused, PromotionFailed, SettingsError, of_exit_code
from ci.report import files, verdict
from ci.results import (
    Because,
    ChangeState,
    CheckGroup,
    CheckId,
    Outcome,
    Phase,
    RevisionRef,
    RunRef,
    StepId,
    VerdictId,
)
from ci.run import state
from ci.run.context import Context
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.settings import Settings, parse
from ci.tools.command import Output
from ci.tools.wait import SystemClock
from ci.workflow import fleet
from ci.workflow.fleet import Ended, Order, order, run
from tests.unit.report.folders import AFTER, CHANGE
from tests.unit.report.folders import run as summary_of

RECORD = summary_of(Path("1"))

TARGET = {"kubeconfig": "k", "context": "c", "image_repository": "r/engine"}
KNOWN = ("launch", "a", "b", "c")


def settings(**more: Any) -> Settings:
    targets = {name: dict(TARGET) for name in ("a", "b", "c")}
    return parse({"targets": targets, **more}, origin="pipeline.toml")


WAVES = {"all": {"order": (("a",), ("b", "c")), "at_once": 2}}


def test_targets_are_one_after_the_other_and_waves_as_they_stand() -> None:
    assert order(["b", "a"], settings(), KNOWN) == Order((("b",), ("a",)))
    assert order(["all"], settings(waves=WAVES), KNOWN) == Order((("a",), ("b", "c")), 2)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "x"], "unknown target 'x'"),
        (["a", "a"], "named twice"),
        (["a", "all"], "unknown target 'all'"),
    ],
)
def test_names_that_make_no_sense_are_refused(names: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        order(names, settings(waves=WAVES), KNOWN)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"all": {"order": (("x",),)}}, "names 'x', which is no target"),
        ({"a": {"order": (("b",),)}}, "has the name of a target"),
        ({"all": {"order": ()}}, "waves.all.order"),
        ({"all": {"order": ((),)}}, "waves.all.order"),
        ({"all": {"order": (("a",),), "at_once": 0}}, "waves.all.at_once"),
    ],
)
def test_waves_that_make_no_sense_are_refused(block: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings(waves=block)


def test_a_wave_begins_when_the_one_before_has_ended() -> None:
    begun: list[str] = []
    both = threading.Barrier(2, timeout=5)

    def one(name: str) -> Ended:
        begun.append(name)
        if name in ("b", "c"):
            both.wait()  # only passes when the two run at once
        return Ended(name, 0, record=RECORD)

    ended = run(Order((("a",), ("b", "c"), ("d",)), 2), one)
    assert begun[0] == "a"
    assert begun[3] == "d"
    assert [each.target for each in ended] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("at_once", "begun"), [(1, ["a", "b"]), (2, ["a", "b", "c"])], ids=["in order", "at once"]
)
def test_the_first_failure_stops_what_has_not_begun(at_once: int, begun: list[str]) -> None:
    seen: list[str] = []
    together = threading.Barrier(at_once, timeout=5)

    def one(name: str) -> Ended:
        seen.append(name)
        if name in ("b", "c"):
            together.wait()
        return Ended(name, 32 if name == "b" else 0, record=RECORD)

    ended = run(Order((("a",), ("b", "c"), ("d",)), at_once), one)
    assert sorted(seen) == begun
    assert [each.code for each in ended][:2] == [0, 32]
    assert ended[3] == Ended("d", None)


class FakePrograms:
    """Promotions that end as they are told, and leave a summary where they are told."""

    def __init__(self, root: Path, codes: dict[str, int]) -> None:
        self.root, self.codes, self.asked = root, codes, list[list[str]]()
        self.served: set[str] = set()
        """Targets that serve the image already."""
        self.silent: set[str] = set()
        """Targets whose run leaves nothing."""

    def run(self, argv: Sequence[Any], *, env: Mapping[str, str], **_: Any) -> Output:
        words = [str(word) for word in argv]
        self.asked.append(words[1:])
        name = words[words.index("--target") + 1]
        code = self.codes.get(name, 0)
        folder = self.root / "runs" / env[state.RUN_ID]
        state_ = ChangeState.ALREADY_SERVED if name in self.served else ChangeState.PROMOTED
        if name not in self.silent:
            error = "any words" if code else ""
            stands = replace(CHANGE, target=name, state=ChangeState.ROLLED_BACK if code else state_)
            outcome = Outcome.FAILED if code else Outcome.PASSED
            summary = summary_of(folder, outcome=outcome, exit_code=code, error=error)
            files.write(RunFolder(folder), replace(summary, change=stands))
        # What it prints is for people: another's words must not matter.
        return Output(code, "run        /somewhere/else\n", "error: of something else\n")


def context(tmp_path: Path, **codes: int) -> Context:
    clock = SystemClock()
    made = SimpleNamespace(
        root=tmp_path,
        run_dir=tmp_path / "runs" / "20261123-163045-ab12",
        clock=clock,
        events=Events(clock),
        programs=FakePrograms(tmp_path, codes),
    )
    return cast(Context, made)


def verdict_of(groups: tuple[CheckGroup, ...], **changed: Any) -> VerdictId:
    run = summary_of(Path("1"), command="promote", groups=groups, **changed)
    return verdict.identify(run, finished=True)


def test_each_target_has_a_run_of_its_own_and_a_check(tmp_path: Path) -> None:
    here = context(tmp_path)
    groups = fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", ["--approve", "Ada"])
    (group,) = groups
    assert group.phase is Phase.TARGETS
    assert [(c.id, c.outcome, c.subject) for c in group.checks] == [
        (CheckId.TARGET_PROMOTED, Outcome.PASSED, "a"),
        (CheckId.TARGET_PROMOTED, Outcome.PASSED, "b"),
    ]
    image, revision, ref = group.checks[0].measured
    assert (image, revision) == (AFTER, RevisionRef(4))
    assert isinstance(ref, RunRef)
    assert (ref.exit_code, ref.state) == (0, ChangeState.PROMOTED)
    assert (tmp_path / "runs" / ref.id / "summary.json").is_file()
    assert state.RUN_NAME.fullmatch(ref.id)
    asked = cast(FakePrograms, here.programs).asked
    assert asked[0][1:] == [
        "promote", "--image", "r@sha256:1", "--target", "a", "--approve", "Ada"
    ]  # fmt: skip
    assert verdict_of(groups) is VerdictId.ALL_PROMOTED


@pytest.mark.parametrize(
    ("served", "id"),
    [({"a"}, VerdictId.ALL_PROMOTED), ({"a", "b"}, VerdictId.ALL_SERVED)],
)
def test_targets_that_serve_it_already_were_not_promoted(
    tmp_path: Path, served: set[str], id: VerdictId
) -> None:
    here = context(tmp_path)
    cast(FakePrograms, here.programs).served = served
    assert verdict_of(fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", [])) is id


def test_a_failure_is_raised_as_what_it_was_with_the_checks_of_all(tmp_path: Path) -> None:
    here = context(tmp_path, b=32)
    with pytest.raises(PromotionFailed, match=r"b\): any words; run .*; not started: c") as caught:
        fleet.promote(here, Order((("a",), ("b",), ("c",))), "r@sha256:1", [])
    groups = caught.value.groups
    assert [check.outcome for check in groups[0].checks] == [
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.UNKNOWN,
    ]
    assert groups[0].checks[2].because is Because.NOT_REACHED
    ref = groups[0].checks[1].measured[-1]
    assert isinstance(ref, RunRef)
    assert ref.id in caught.value.remedy
    assert ref.state is ChangeState.ROLLED_BACK
    id = verdict_of(groups, outcome=Outcome.FAILED, exit_code=32)
    assert id is VerdictId.NOT_EVERYWHERE


def test_a_run_that_leaves_nothing_stops_the_others_whatever_its_exit_code(tmp_path: Path) -> None:
    here = context(tmp_path)
    cast(FakePrograms, here.programs).silent = {"a"}
    with pytest.raises(PipelineError) as caught:
        fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", [])
    first, second = caught.value.groups[0].checks
    assert (first.outcome, first.because) == (Outcome.UNKNOWN, Because.LOST)
    assert second.because is Because.NOT_REACHED
    assert caught.value.exit_code == 1


def test_each_target_is_drawn_as_it_ended(tmp_path: Path) -> None:
    here = context(tmp_path, b=32)
    with pytest.raises(PromotionFailed):
        fleet.promote(here, Order((("a",), ("b",), ("c",))), "last", [])
    kinds = [e.kind for e in here.events.all if e.kind.startswith("run.")]
    assert kinds == ["run.passed", "run.failed", "run.unknown"]
    steps = [(e.step, e.subject) for e in here.events.all if e.kind == "step.finished"]
    assert steps == [(StepId.PROMOTE_TARGET, "a"), (StepId.PROMOTE_TARGET, "b")]
    recorded = [e.data["check"]["outcome"] for e in here.events.all if e.kind == "check"]
    assert recorded == ["passed", "failed"]


def test_an_exit_code_finds_its_error() -> None:
    assert of_exit_code(31) is PlanRefused
    assert of_exit_code(1).exit_code == of_exit_code(99).exit_code == 1
