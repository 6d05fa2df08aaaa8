"""Several targets: their order, how many at once, and what a failure stops."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import PlanRefused, PromotionFailed, SettingsError, of_exit_code
from ci.report import html, record
from ci.run.context import Context
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.settings import Settings, parse
from ci.tools.command import Output
from ci.tools.wait import SystemClock
from ci.workflow import fleet
from ci.workflow.fleet import Ended, Order, order, run

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
    [(["a", "x"], "no target 'x'"), (["a", "a"], "named twice"), (["a", "all"], "no target 'all'")],
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
        return Ended(name, 0, "")

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
        return Ended(name, 32 if name == "b" else 0, "")

    ended = run(Order((("a",), ("b", "c"), ("d",)), at_once), one)
    assert sorted(seen) == begun
    assert [each.code for each in ended][:2] == [0, 32]
    assert ended[3] == Ended("d", None, "not begun: another target failed before it")


class FakePrograms:
    def __init__(self, folder: Path, codes: dict[str, int]) -> None:
        self.folder, self.codes, self.asked = folder, codes, list[list[str]]()
        self.served: set[str] = set()
        """Targets that serve the image already."""

    def run(self, argv: Sequence[Any], **_: Any) -> Output:
        words = [str(word) for word in argv]
        self.asked.append(words[1:])
        name = words[words.index("--target") + 1]
        where = self.folder / f"run-{name}"
        where.mkdir()
        served = name in self.served
        moved = {
            "from_revision": 2 if served else 1,
            "to_revision": 2,
            "after": {"tag": "new"},
            "changed": not served,
        }
        (where / "summary.json").write_text(json.dumps({"promotion": moved}))
        code = self.codes.get(name, 0)
        error = "error: requests were lost; rolled back\nremedy: look\n" if code else ""
        return Output(code, f"image      x\nrun        {where}\n", error)


def context(tmp_path: Path, **codes: int) -> Context:
    clock = SystemClock()
    made = SimpleNamespace(
        root=tmp_path,
        run_dir=tmp_path / "run",
        folder=RunFolder(tmp_path / "run"),
        clock=clock,
        events=Events(clock),
        programs=FakePrograms(tmp_path, codes),
    )
    return cast(Context, made)


def test_each_target_has_a_run_of_its_own_and_a_line(tmp_path: Path) -> None:
    here = context(tmp_path)
    checks = fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", ["--approve", "Ada"])
    assert [check.evidence for check in checks] == [
        "a: promoted: revision 1 -> 2, new",
        "b: promoted: revision 1 -> 2, new",
    ]
    asked = cast(FakePrograms, here.programs).asked
    assert asked[0][1:] == [
        "promote", "--image", "r@sha256:1", "--target", "a", "--approve", "Ada"
    ]  # fmt: skip
    assert html.verdict(record.read(here.run_dir)).word in ("Promoted", "Unfinished")


def test_a_target_that_serves_it_already_was_not_promoted(tmp_path: Path) -> None:
    here = context(tmp_path)
    cast(FakePrograms, here.programs).served = {"a"}
    checks = fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", [])
    assert [check.evidence for check in checks] == [
        "a: already served: revision 2, new, verified, nothing to do",
        "b: promoted: revision 1 -> 2, new",
    ]
    (table,) = record.read(here.run_dir).tables
    assert [row[1] for row in table.rows] == ["already served", "promoted"]
    assert html.verdict(record.read(here.run_dir)).word == "Promoted"


def test_targets_that_all_serve_it_already_were_not_promoted(tmp_path: Path) -> None:
    here = context(tmp_path)
    cast(FakePrograms, here.programs).served = {"a", "b"}
    fleet.promote(here, Order((("a",), ("b",))), "r@sha256:1", [])
    verdict = html.verdict(record.read(here.run_dir))
    assert verdict.word == "Already served"
    assert "2 of 2 targets serve the image" in verdict.sentence


def test_a_failure_is_raised_as_what_it_was_and_the_table_shows_all(tmp_path: Path) -> None:
    here = context(tmp_path, b=32)
    with pytest.raises(PromotionFailed, match=r"b: requests were lost.*not begun: c") as caught:
        fleet.promote(here, Order((("a",), ("b",), ("c",))), "r@sha256:1", [])
    assert str(tmp_path / "run-b") in caught.value.remedy
    read = record.read(here.run_dir)
    (table,) = read.tables
    assert [row[-1] for row in table.rows] == [True, False, False]
    verdict = html.verdict(read)
    assert verdict.word == "Not everywhere"
    assert "1 of 3 targets serve the image" in verdict.sentence


def test_each_target_is_drawn_as_it_ended(tmp_path: Path) -> None:
    here = context(tmp_path, b=32)
    with pytest.raises(PromotionFailed):
        fleet.promote(here, Order((("a",), ("b",), ("c",))), "last", [])
    ended = {e.text.split(":")[0]: e.kind for e in here.events.all if e.kind.startswith("run.")}
    assert ended == {"a": "run.passed", "b": "run.failed", "c": "run.skipped"}


def test_an_exit_code_finds_its_error() -> None:
    assert of_exit_code(31) is PlanRefused
    assert of_exit_code(1).exit_code == of_exit_code(99).exit_code == 1
