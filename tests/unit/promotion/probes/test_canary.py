"""The canary's account: what counts as executed once, lost, processed twice; and its calls, on a
service that only remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import PlanRefused, PromotionFailed
from ci.model import Cluster, Target
from ci.promotion.probes import canary
from ci.promotion.probes.canary import LOCK_AFTER, Canary, breaches, tally
from ci.run.context import Context
from ci.run.events import Events
from ci.tools import api
from ci.tools.api import Answer
from ci.tools.command import Programs
from ci.tools.kube import Kube
from ci.tools.wait import SystemClock


def task(status: str, *outcomes: str) -> dict[str, Any]:
    return {"status": status, "executions": [{"outcome": each} for each in outcomes]}


def test_each_task_is_once_or_lost_or_twice() -> None:
    tasks = {
        "a": task("completed", "completed"),
        "b": task("completed", "abandoned", "completed"),  # handed back by a stopping worker
        "c": task("completed", "lock-lost", "completed"),
        "d": task("completed", "completed", "completed"),
        "e": task("dead-lettered", "failed"),
        "f": task("queued"),
        "g": None,
    }
    found = tally(tasks)
    assert str(found) == "7 sent, 2 executed once, 3 lost, 2 processed twice"
    assert (found.lost, found.twice) == (("e", "f", "g"), ("c", "d"))
    lost, twice = breaches(found, tasks)
    assert lost == "3 tasks were lost (failed)"
    assert twice.startswith("2 tasks were processed twice (lock-lost, completed)")


def test_a_task_is_settled_once_nothing_runs() -> None:
    assert canary.settled(task("completed", "completed"))
    assert not canary.settled(task("completed", "completed", "running"))
    assert not canary.settled(task("waiting", "lock-lost"))
    assert not canary.settled({})


def said(code: int, **body: Any) -> Answer:
    return Answer(code, json.dumps(body))


class World:
    """The service's API and the broker behind it."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.ignores_lock = False
        self.outcomes: list[str] = ["completed"]
        self.lock = 0
        self.dead = 0
        self.status = 202
        self.silent = ""

    def answer(self, method: str, path: str, body: Any) -> Answer:
        parts = path.partition("/proxy")[2].strip("/").split("/")
        match (method, *parts[1:]):
            case ("GET", "model-endpoints"):
                found = [{"name": name} for name in self.endpoints]
                return said(200, model_endpoints=found)
            case ("POST", "model-endpoints"):
                self.lock = body["queue_message_timeout_duration"]
                self.endpoints[body["name"]] = {"status": "READY"}
                return said(201, queue_name=f"q-{body['name']}")
            case ("GET", "model-endpoints", name):
                return said(200, **self.endpoints[name])
            case ("PUT", "model-endpoints", _):
                self.lock = self.lock if self.ignores_lock else LOCK_AFTER
                return said(202)
            case ("DELETE", "model-endpoints", name):
                del self.endpoints[name]
                return said(202)
            case ("POST", "model-endpoints", _, "tasks"):
                if self.status != 202:
                    return said(self.status, detail="try again")
                id = str(len(self.tasks))
                outcomes = self.outcomes
                done = "completed" in outcomes
                self.tasks[id] = task("completed" if done else "dead-lettered", *outcomes)
                return said(202, task_id=id)
            case ("GET", "tasks", id):
                return said(200, **self.tasks[id])
        raise AssertionError(path)

    def lock_duration(self, _: str) -> timedelta:
        return timedelta(seconds=self.lock)

    def messages(self, _: str) -> tuple[int, int]:
        return 0, self.dead

    def undelivered(self, _: str) -> str:
        return "UnknownTask"

    def states(self) -> list[str]:
        if self.silent:
            raise canary.Silent(self.silent)
        return [f"q: lock duration {self.lock} s", "p: lock duration 60 s"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    @contextmanager
    def broker(*_: object, **__: object) -> Iterator[World]:
        yield world

    monkeypatch.setattr(
        api, "ask", lambda _, method, path, **more: world.answer(method, path, more["body"])
    )
    monkeypatch.setattr(canary, "broker", broker)
    return world


def asked(**env: str) -> tuple[Context, Target]:
    clock = SystemClock()
    target = Target(
        "prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine",
        servicebus_env="BUS", canary_per_second=50,
    )  # fmt: skip
    programs = Programs(env=env)
    context = SimpleNamespace(
        clock=clock,
        events=Events(clock),
        programs=programs,
        kube=lambda cluster: Kube(Path("kubectl"), cluster, programs, clock),
    )
    return cast(Context, context), target


def made(**env: str) -> Canary:
    return Canary(*asked(**env))


def test_how_every_queue_is_can_be_kept(world: World) -> None:
    world.lock = 30
    known = asked(BUS="Endpoint=sb://x")
    assert canary.queue_states(*known) == "q: lock duration 30 s\np: lock duration 60 s\n"
    world.silent = "timed out"
    assert canary.queue_states(*known) == "Service Bus does not answer: timed out\n"
    assert canary.queue_states(*asked()).startswith("no Service Bus access")


def test_every_task_of_a_good_change_is_executed_once(world: World) -> None:
    world.endpoints[f"{canary.PREFIX}left"] = {"status": "READY"}  # of a promotion that was killed
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        account, queue = here.account()
        assert account.evidence.endswith("executed once, 0 lost, 0 processed twice")
        assert int(account.evidence.split()[0]) == len(world.tasks) >= 1
        assert f"lock duration {LOCK_AFTER} s" in queue.evidence
    assert world.endpoints == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ignores_lock": True}, "ignores the lock duration: 45 s were asked for.*0:00:30"),
        ({"dead": 1}, r"1 dead letters \(UnknownTask\)"),
        ({"outcomes": ["completed", "completed"]}, "processed twice"),
        ({"outcomes": ["failed"]}, "tasks were lost"),
        ({"status": 503}, "tasks were not accepted.*503"),
    ],
)
def test_what_the_new_version_does_wrong_is_told(
    world: World, change: dict[str, Any], says: str
) -> None:
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        for name, value in change.items():
            setattr(world, name, value)
        sent = len(world.tasks)
        while world.status == 202 and len(world.tasks) < sent + 2:
            SystemClock().sleep(0.01)
        while world.status != 202 and not here._prober.account().failed:  # type: ignore[union-attr]
            SystemClock().sleep(0.01)
        with pytest.raises(PromotionFailed, match=says):
            here.account()


def test_a_service_that_executes_nothing_before_the_change_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "READY_SECONDS", 0.3)
    world.status = 503
    with made(BUS="Endpoint=sb://x") as here, pytest.raises(PlanRefused, match="does not execute"):
        here.steady()


def test_a_service_without_the_api_has_no_canary(world: World) -> None:
    world.answer = lambda *_: said(404)  # type: ignore[method-assign]
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        (check,) = here.account()
    assert "no such API" in check.evidence


def test_without_access_to_service_bus_there_is_no_canary(world: World) -> None:
    with made() as here:
        here.steady()
        (check,) = here.account()
    assert "servicebus_connection_string_env" in check.evidence
    assert world.endpoints == {}
