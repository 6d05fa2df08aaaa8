"""A run is recorded as data: steps by their ids, checks when they are made, and where the target
stands at every moment."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ci import texts
from ci.errors import Interrupted
from ci.model import ChangeRecord
from ci.results import (
    CauseId,
    ChangeState,
    CheckId,
    Count,
    ImageRef,
    Phase,
    StepId,
    Unit,
    passed,
)
from ci.run import changes
from ci.run.events import CHANGE, CHECK, Event, Events
from ci.tools.wait import SystemClock

OLD = ImageRef("registry:5000/engine", "old", "sha256:" + "a" * 64)
NEW = ImageRef("registry:5000/engine", "new", "sha256:" + "b" * 64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def events(file: Path) -> Events:
    return Events(SystemClock(), path=file)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_step_is_recorded_by_its_id_and_shown_by_its_title(events: Events, file: Path) -> None:
    with events.step(StepId.TOOLS), events.step(StepId.TOOL, "pinned", subject="kind"):
        events.note("downloading")
    found = [(line["kind"], line["step"], line.get("subject", "")) for line in lines(file)]
    assert found == [
        ("step.started", "tools", ""),
        ("step.started", "tool", "kind"),
        ("note", "tool", "kind"),
        ("step.finished", "tool", "kind"),
        ("step.finished", "tools", ""),
    ]
    assert lines(file)[1]["parent"] == "tools"
    assert [event.title for event in events.all[:2]] == ["obtain the tools", "obtain kind"]


def test_a_step_that_was_cancelled_is_told_from_one_that_failed(events: Events, file: Path) -> None:
    for problem in (Interrupted("any words"), ValueError("interrupted")):
        with pytest.raises(type(problem)), events.step(StepId.BUILD):
            raise problem
    ended = [line["cancelled"] for line in lines(file) if line["kind"] == "step.failed"]
    assert ended == [True, False]


def test_where_a_target_stands_is_known_at_every_moment(events: Events, file: Path) -> None:
    events.changed(
        "launch",
        ChangeState.UNTOUCHED,
        release="launch-inference",
        before=OLD,
        after=NEW,
        from_revision=3,
        revision=3,
    )
    events.changed("launch", ChangeState.UNDER_WAY, to_revision=4)
    events.changed(
        "launch",
        ChangeState.ROLLED_BACK,
        revision=5,
        cause=CauseId.REQUESTS_LOST,
        problem="HTTP 503",
    )
    first = ChangeRecord(
        "launch",
        ChangeState.UNTOUCHED,
        release="launch-inference",
        before=OLD,
        after=NEW,
        from_revision=3,
        live_revision=3,
    )
    second = replace(first, state=ChangeState.UNDER_WAY, to_revision=4)
    third = replace(
        second,
        state=ChangeState.ROLLED_BACK,
        live_revision=5,
        cause=CauseId.REQUESTS_LOST,
        problem="HTTP 503",
    )
    wanted = [first, second, third]
    recorded = [line for line in lines(file) if line["kind"] == CHANGE]
    remembered = [event.data for event in events.all if event.kind == CHANGE]
    for count in range(4):
        want = wanted[count - 1] if count else None
        assert changes.latest(recorded[:count]) == want, "read again, as after a kill"
        assert changes.latest(remembered[:count]) == want


def test_a_change_that_is_not_understood_is_passed_over() -> None:
    first = {"target": "launch", "state": "under-way", "to_revision": 4}
    assert changes.latest([first, {"target": "launch", "state": "of another version"}]) == (
        ChangeRecord("launch", ChangeState.UNDER_WAY, to_revision=4)
    )
    assert changes.latest([{"state": "promoted"}]) is None


def test_a_check_is_recorded_when_it_is_made(events: Events, file: Path) -> None:
    check = passed(CheckId.PODS_READY, Count(Unit.PODS, 3))
    with events.step(StepId.VERIFY):
        events.checked(Phase.AFTER, [check])
    (line,) = (line for line in lines(file) if line["kind"] == CHECK)
    assert (line["step"], line["phase"]) == ("verify", "after")
    assert line["check"] == json.loads(json.dumps(asdict(check)))
    assert line["text"] == f"passed: {texts.sentence(check)}"


def test_listeners_hear_steps_of_one_id_apart(events: Events) -> None:
    heard: list[Event] = []
    events.listen(heard.append)
    together = threading.Barrier(2, timeout=5)

    def step(name: str) -> None:
        with events.step(StepId.TOOL, subject=name):
            together.wait()

    threads = [threading.Thread(target=step, args=(name,)) for name in ("kind", "helm")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((e.kind, e.subject) for e in heard) == [
        ("step.finished", "helm"),
        ("step.finished", "kind"),
        ("step.started", "helm"),
        ("step.started", "kind"),
    ]
