"""The canary's account: what counts as executed once, lost, processed twice; and its calls, on a
service that only remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci import texts
from ci.errors import PlanRefused, PromotionFailed
from ci.model import Cluster, ServiceBusAccess, ServiceBusEndpoints, StandIns, Target
from ci.promotion.probes import canary, queues, servicebus_admin
from ci.promotion.probes.canary import LOCK_AFTER, Canary, tally
from ci.results import Because, Check, CheckId, Outcome, Problem, QueueState, Tasks
from ci.tools import api
from ci.tools.api import Answer
from ci.tools.kube import Kube
from ci.tools.wait import SystemClock
from tests.unit.sessions import CLUSTER, session_of


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
    assert found == Tasks(once=2, lost=3, twice=2, example="failed")
    assert found.accepted == 7
    del tasks["e"], tasks["f"], tasks["g"]
    assert tally(tasks, 1, "HTTP 503") == Tasks(2, 0, 2, 1, "lock-lost, completed")
    assert tally({}, 1, "HTTP 503") == Tasks(0, 0, 0, 1, "HTTP 503")


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
        self.gone = self.kubernetes = False
        self.busy = 0
        """So many requests for an endpoint are refused: the broker is away for a moment."""

    def answer(self, method: str, path: str, body: Any) -> Answer:
        parts = path.partition("/proxy")[2].strip("/").split("/")
        match (method, *parts[1:]):
            case ("GET", "model-endpoints"):
                found = [{"name": name} for name in self.endpoints]
                return said(200, model_endpoints=found)
            case ("POST", "model-endpoints"):
                if self.busy:
                    self.busy -= 1
                    return said(503, detail="Service Bus cannot be reached; nothing was changed")
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
                if self.status != 202 and self.kubernetes:
                    return said(self.status, kind="Status", message="no endpoints available")
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

    def lock_duration(self, _: str) -> timedelta | None:
        if self.silent:
            raise queues.BrokerUnavailable(self.silent)
        return None if self.gone else timedelta(seconds=self.lock)

    def messages(self, _: str) -> tuple[int, int]:
        return 0, self.dead

    def undelivered(self, _: str) -> str:
        return "UnknownTask"

    def states(self) -> list[str]:
        if self.silent:
            raise queues.BrokerUnavailable(self.silent)
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


TARGET = Target(
    "prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine",
    servicebus_env="BUS", canary_per_second=50,
)  # fmt: skip


def made(**env: str) -> Canary:
    return Canary(session_of(TARGET, env=env))


def test_how_every_queue_is_can_be_kept(world: World) -> None:
    world.lock = 30
    known = session_of(TARGET, env={"BUS": "Endpoint=sb://x"})
    assert canary.queue_states(known) == "q: lock duration 30 s\np: lock duration 60 s\n"
    world.silent = "timed out"
    assert canary.queue_states(known) == "Service Bus does not answer: timed out\n"
    assert canary.queue_states(session_of(TARGET)).startswith("no Service Bus access")


def test_a_broker_that_is_away_for_a_moment_is_waited_for(world: World) -> None:
    world.busy = 2
    with made(BUS="Endpoint=sb://x") as here:
        assert here.steady() == ()
        account, _ = here.account()
        assert account.outcome is Outcome.PASSED


def test_a_broker_that_stays_away_leaves_the_checks_unknown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "READY_SECONDS", 0.1)
    world.busy = 1000
    with made(BUS="Endpoint=sb://x") as here:
        open_ = here.steady()
    assert {check.because for check in open_} == {Because.NO_ANSWER}
    (problem,) = open_[0].measured
    assert isinstance(problem, Problem)
    assert "cannot be reached" in problem.text


def test_every_task_of_a_good_change_is_executed_once(world: World) -> None:
    world.endpoints[f"{canary.PREFIX}left"] = {"status": "READY"}  # of a promotion that was killed
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        account, queue = here.account()
        assert (account.id, account.outcome) == (CheckId.TASKS_EXECUTED_ONCE, Outcome.PASSED)
        (tasks,) = account.measured
        assert isinstance(tasks, Tasks)
        assert (tasks.lost, tasks.twice, tasks.refused) == (0, 0, 0)
        assert tasks.once == len(world.tasks) >= 1
        assert (queue.id, queue.outcome) == (CheckId.QUEUE_LOCK_DURATION, Outcome.PASSED)
        assert queue.measured == (QueueState(here._queue, LOCK_AFTER, LOCK_AFTER, 0, 0),)
    assert world.endpoints == {}


TASKS, QUEUE = CheckId.TASKS_EXECUTED_ONCE, CheckId.QUEUE_LOCK_DURATION


@pytest.mark.parametrize(
    ("change", "id", "measured"),
    [
        ({"ignores_lock": True}, QUEUE, {"lock_seconds": 30, "asked_lock_seconds": 45}),
        ({"dead": 1}, QUEUE, {"dead_lettered": 1, "dead_letter_reason": "UnknownTask"}),
        ({"gone": True}, QUEUE, {"exists": False}),
        ({"outcomes": ["completed", "completed"]}, TASKS, {"example": "completed, completed"}),
        ({"outcomes": ["failed"]}, TASKS, {"example": "failed"}),
        ({"status": 503}, TASKS, {"lost": 0, "twice": 0}),
    ],
)
def test_what_the_new_version_does_wrong_fails_its_check(
    world: World, change: dict[str, Any], id: CheckId, measured: dict[str, Any]
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
        with pytest.raises(PromotionFailed) as lost:
            here.account()
    (check,) = (check for check in lost.value.checks if not check.passed)
    assert (check.id, check.outcome) == (id, Outcome.FAILED)
    values = asdict(check.measured[0])
    assert {name: values[name] for name in measured} == measured
    if world.status == 503:
        assert values["refused"] > 0
        assert "503" in values["example"]
    assert texts.sentence(check) == str(lost.value)


def test_a_refusal_of_the_api_server_is_none_of_the_service(world: World) -> None:
    """Whether requests are lost on the way is the prober's account."""
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        world.kubernetes, world.status = True, 503
        while not here._prober.account().failed:  # type: ignore[union-attr]
            SystemClock().sleep(0.01)
        world.status = 202
        tasks, _ = here.account()
    assert isinstance(tasks.measured[0], Tasks)
    assert tasks.measured[0].refused == 0


def test_a_service_bus_that_does_not_answer_is_no_empty_queue(world: World) -> None:
    with made(BUS="Endpoint=sb://x") as here:
        here.steady()
        world.silent = "timed out"
        with pytest.raises(PromotionFailed) as lost:
            here.account()
    tasks, queue = lost.value.checks
    assert tasks.passed
    assert (queue.outcome, queue.because) == (Outcome.UNKNOWN, Because.NO_ANSWER)
    assert queue.measured == (Problem("timed out"),)


def test_a_service_that_executes_nothing_before_the_change_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "READY_SECONDS", 0.3)
    world.status = 503
    with made(BUS="Endpoint=sb://x") as here, pytest.raises(PlanRefused, match="does not execute"):
        here.steady()


def both(checks: tuple[Check, ...], outcome: Outcome) -> tuple[Check, ...]:
    assert [check.id for check in checks] == [TASKS, QUEUE]
    assert {check.outcome for check in checks} == {outcome}
    return checks


@pytest.mark.parametrize(
    ("code", "because"), [(404, Because.NOT_OFFERED), (500, Because.NO_ANSWER)]
)
def test_a_service_without_the_api_leaves_it_unknown(
    world: World, code: int, because: Because
) -> None:
    world.answer = lambda *_: said(code)  # type: ignore[method-assign]
    with made(BUS="Endpoint=sb://x") as here:
        known_before = here.steady()
        checks = both(here.account(), Outcome.UNKNOWN)
    assert {check.because for check in checks} == {because}
    assert known_before == checks


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        (TARGET, "servicebus_connection_string_env"),
        (replace(TARGET, canary_per_second=0), "canary_per_second"),
    ],
)
def test_without_access_or_turned_off_it_is_skipped(
    world: World, target: Target, setting: str
) -> None:
    with Canary(session_of(target)) as here:
        known_before = here.steady()
        checks = both(here.account(), Outcome.SKIPPED)
    assert {check.setting for check in checks} == {setting}
    assert known_before == checks
    assert world.endpoints == {}


def test_stand_ins_are_reached_by_the_way_that_the_session_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    access = ServiceBusAccess("", b"CA", "")
    standins = StandIns(CLUSTER, "standins", access, "", "")
    opened: list[tuple[str, str, bytes]] = []

    class Broker:
        def __init__(self, connection: str, admin: str, options: dict[str, Any]) -> None:
            opened.append((connection, admin, Path(options["connection_verify"]).read_bytes()))

        def close(self) -> None:
            opened.append(("closed", "", b""))

    @contextmanager
    def reach(_: Kube, of: StandIns) -> Iterator[ServiceBusEndpoints]:
        assert of is standins
        yield ServiceBusEndpoints("amqp", "admin", of.servicebus.ca_pem)

    monkeypatch.setattr(servicebus_admin, "Broker", Broker)
    with canary.broker(session_of(replace(TARGET, standins=standins), reach=reach)):
        pass
    assert opened == [("amqp", "admin", b"CA"), ("closed", "", b"")]
