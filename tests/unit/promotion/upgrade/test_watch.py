"""What is told of a change while it happens: each thing once, and again when it is another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.errors import CommandFailed, WaitTimeout
from ci.model import Cluster, Target
from ci.promotion.upgrade import watch
from ci.promotion.upgrade.watch import Changes, Tail, Watching
from ci.tools.api import Answer
from ci.tools.wait import wait_until
from tests.unit.sessions import session_of


def pod(name: str, **changed: Any) -> dict[str, Any]:
    status = {
        "name": "engine", "ready": True, "restartCount": 0, "state": {"running": {}}, **changed
    }  # fmt: skip
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "engine", "image": "r:5000/x/engine:v1"}]},
        "status": {"phase": "Running", "containerStatuses": [status]},
    }


def deployment(updated: int, seen: int = 2) -> dict[str, Any]:
    status = {"updatedReplicas": updated, "availableReplicas": 2, "replicas": 3}
    return {
        "metadata": {"name": "engine", "generation": 2},
        "spec": {"replicas": 2},
        "status": {**status, "observedGeneration": seen},
    }


def test_a_roll_out_in_one_line() -> None:
    assert watch.rollout(deployment(1)) == "1 updated, 2 available of 2, 3 present"
    assert watch.rollout(deployment(0, seen=1)).endswith("; the change is not yet seen")


def test_a_pod_in_one_line() -> None:
    assert watch.pod(pod("a")) == "Running 1/1, 0 restarts, engine:v1"
    waits = {"waiting": {"reason": "CrashLoopBackOff"}}
    said = watch.pod(pod("a", ready=False, restartCount=3, state=waits))
    assert said == "CrashLoopBackOff 0/1, 3 restarts, engine:v1"
    ending = pod("a")
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z"
    assert watch.pod(ending).startswith("Terminating 1/1")
    assert watch.pod({**pod("a"), "status": {"phase": "Pending"}}).startswith("Pending 0/1")


def test_an_event_in_one_line() -> None:
    about = {"kind": "Pod", "name": "engine-1"}
    found = {"type": "Warning", "reason": "Unhealthy", "message": "no\n answer"}
    said = watch.event({**found, "involvedObject": about})
    assert said == "Warning Unhealthy pod/engine-1: no answer"


def test_only_the_releases_own_names() -> None:
    assert watch.of_release("engine", ["engine"])
    assert watch.of_release("engine-5bb45-x", ["engine"])
    assert not watch.of_release("engines-5bb45-x", ["engine"])


def test_what_changes_is_told_and_what_goes() -> None:
    changes = Changes()
    assert changes.new({"a": "1", "b": "1"}) == ["a: 1", "b: 1"]
    assert changes.new({"a": "1", "b": "2"}) == ["b: 2"]
    assert changes.new({"b": "2"}, gone="gone") == ["a: gone"]
    assert changes.new({"b": "2"}, gone="gone") == []


def test_a_log_is_read_on_from_its_last_line() -> None:
    tail = Tail()
    assert "sinceTime" not in tail.query()
    first = "2026-11-23T10:00:00.100000000Z one\n2026-11-23T10:00:00.200000000Z two\n"
    assert tail.new(first) == ["one", "two"]
    assert tail.query()["sinceTime"] == "2026-11-23T10:00:00Z"
    assert tail.new(first + "2026-11-23T10:00:00.300000000Z three\n") == ["three"]
    assert tail.new("") == []


class World:
    """An API that shows one release's objects, and may be away."""

    def __init__(self) -> None:
        self.now: dict[str, list[dict[str, Any]]] = {
            "deployments": [deployment(0)],
            "pods": [pod("engine-old"), pod("other-1")],
            "events": [self.event("before")],
        }
        self.log = ["2026-11-23T10:00:00.100000000Z old"]
        self.away = False
        self.looks = 0

    @staticmethod
    def event(reason: str) -> dict[str, Any]:
        about = {"kind": "Pod", "name": "engine-old"}
        return {
            "metadata": {"name": reason}, "type": "Normal", "reason": reason, "message": "it did",
            "involvedObject": about,
        }  # fmt: skip

    def for_cleanup(self) -> World:
        return self

    def objects(self, kind: str, namespace: str, *, timeout: float) -> list[dict[str, Any]]:
        assert (namespace, timeout) == ("launch", watch.TIMEOUT_SECONDS)
        self.looks += kind == "events"
        if self.away:
            raise CommandFailed("no answer")
        return self.now[kind]

    def logs(self, name: str, *_: object, **query: object) -> Answer:
        assert name == "engine-old"
        return Answer(200, "\n".join(self.log))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(watch, "INTERVAL_SECONDS", 0.01)
    return world


TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")


def test_what_soaks_is_watched_rarely_and_its_end_at_once(world: World, tmp_path: Path) -> None:
    session = session_of(TARGET, folder=tmp_path, kube=world)
    clock = session.clock
    with Watching(session, ["engine"]) as watched:
        with watched.rarely():
            wait_until("the look under way", lambda: world.looks >= 1, timeout=10, clock=clock)
            # It may have been about to look again when the soak began, and no further time.
            with pytest.raises(WaitTimeout):
                wait_until("looks", lambda: world.looks >= 3, timeout=0.3, clock=clock)
        seen = world.looks
        wait_until("two looks", lambda: world.looks >= seen + 2, timeout=5, clock=clock)


def test_all_four_are_watched_and_kept(world: World, tmp_path: Path) -> None:
    session = session_of(TARGET, folder=tmp_path, kube=world)
    clock, events = session.clock, session.events
    session.programs.hide("swordfish")

    def looked_again() -> None:
        seen = world.looks
        wait_until("two looks", lambda: world.looks >= seen + 2, timeout=10, clock=clock)

    with Watching(session, ["engine"]):
        looked_again()
        world.away = True
        looked_again()
        world.away = False
        world.log += [f"2026-11-23T10:00:01.{n}00000000Z line {n}, swordfish" for n in range(5)]
        world.now["deployments"] = [deployment(2)]
        world.now["events"] = [world.event("before"), world.event("Killing")]
        looked_again()
        world.now["pods"] = []

    def kept(name: str) -> list[str]:
        lines = (tmp_path / "watch" / f"{name}.txt").read_text("utf-8").splitlines()
        return [line.partition(" s  ")[2] for line in lines]

    assert kept("rollout") == [
        "engine: 0 updated, 2 available of 2, 3 present",
        "engine: 2 updated, 2 available of 2, 3 present",
    ]
    assert kept("pods") == ["engine-old: Running 1/1, 0 restarts, engine:v1", "engine-old: gone"]
    assert kept("events") == ["Normal Killing pod/engine-old: it did"]
    logs = kept("logs")
    assert [line[:18] for line in logs] == [f"engine-old: line {n}" for n in range(5)]
    assert "swordfish" not in "".join(logs)
    told = [event.text for event in events.all if event.kind == "watch" and event.step == "logs"]
    assert told == logs[-watch.SHOWN_LINES :]
