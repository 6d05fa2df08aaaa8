"""Which Deployments need room for one pod more, what that pod is, and when there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import CommandFailed, PlanRefused
from ci.model import Cluster, Target
from ci.promotion.preflight import surge_capacity
from ci.promotion.preflight.surge_capacity import Surge
from ci.promotion.release.rollout import Snapshot
from ci.promotion.release.session import TargetSession
from ci.results import Because, Check, CheckId, Count, Problem, Unit, passed, skipped, unknown
from tests.unit.promotion.release.test_rollout import deployment

TARGET = Target("p", Cluster("c", Path("k"), "c", True), "n", "rel", Path("x"), "r/engine")


def rolling(replicas: int, unavailable: Any = None, **strategy: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"replicas": replicas, "strategy": strategy}
    if unavailable is not None:
        spec["strategy"]["rollingUpdate"] = {"maxUnavailable": unavailable}
    return {"spec": spec}


@pytest.mark.parametrize(
    ("item", "needed"),
    [
        (rolling(1), True),
        (rolling(3), True),
        (rolling(4), False),
        (rolling(2, 0), True),
        (rolling(2, 1), False),
        (rolling(2, "50%"), False),
        (rolling(2, "49%"), True),
        (rolling(0), False),
        (rolling(1, type="Recreate"), False),
    ],
)
def test_who_adds_a_pod_before_one_may_end(item: dict[str, Any], needed: bool) -> None:
    assert surge_capacity.needs_room(item) is needed


def test_the_pod_asks_for_what_the_live_pods_ask_for_and_runs_nothing() -> None:
    live_one = deployment("gateway", 2)
    spec = live_one["spec"]["template"]["spec"]
    spec |= {"nodeSelector": {"disk": "fast"}, "serviceAccountName": "engine"}
    spec["containers"][0] |= {
        "resources": {"requests": {"cpu": "2"}},
        "ports": [{"containerPort": 5000, "hostPort": 30999}],
        "env": [{"name": "DB_PASSWORD", "value": "swordfish"}],
        "command": ["serve"],
    }
    made = surge_capacity.manifest(TARGET, live_one)["spec"]
    assert made["nodeSelector"] == {"disk": "fast"}
    assert made["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert made["containers"][0]["ports"][0]["hostPort"] == 30999
    assert [c["command"] for c in made["containers"]] == [["true"]] * 2
    assert "swordfish" not in json.dumps(made)
    assert made["automountServiceAccountToken"] is False


class Scheduler:
    """Answers for the cluster; the clock goes on by two seconds with each look."""

    def __init__(self, says: str, refused: str = "") -> None:
        self.says, self.refused, self.now = says, refused, 0.0
        self.made: list[dict[str, Any]] = []
        self.removed = 0

    def create(self, _: str, namespace: str, pod: dict[str, Any]) -> None:
        if self.refused:
            raise CommandFailed(f"POST {namespace}", output=self.refused)
        self.made.append(pod)

    def pods(self, *_: str) -> list[dict[str, Any]]:
        self.now += 2
        condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": self.says}
        return [
            {**pod, "status": {"conditions": [condition]}}
            if self.says
            else {**pod, "spec": {**pod["spec"], "nodeName": "node-1"}}
            for pod in self.made
        ]

    def remove_pods(self, *_: str) -> None:
        self.removed += 1

    def for_cleanup(self) -> Scheduler:
        return self

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        return


SURGE = CheckId.CAPACITY_SURGE


def tried(scheduler: Scheduler, target: Target = TARGET, replicas: int = 2) -> Check:
    now = Snapshot.of([deployment("gateway", replicas)])
    session = SimpleNamespace(clock=scheduler, kube=scheduler, target=target)
    with Surge(cast(TargetSession, session), ("gateway",), now) as asked:
        return asked.check()


def test_room_is_what_the_scheduler_says() -> None:
    scheduler = Scheduler("")
    assert tried(scheduler) == passed(SURGE, Count(Unit.PODS, 1))
    assert scheduler.removed


def test_a_rollout_that_adds_no_pod_needs_no_room() -> None:
    scheduler = Scheduler("")
    assert tried(scheduler, replicas=4) == passed(SURGE, Count(Unit.PODS, 0))
    assert scheduler.made == []


def test_room_that_is_not_to_be_tried_is_skipped() -> None:
    scheduler = Scheduler("")
    assert tried(scheduler, replace(TARGET, try_surge=False)) == skipped(SURGE, "try_surge")
    assert scheduler.made == []


@pytest.mark.parametrize(
    ("says", "refused", "why"),
    [
        ("0/1 nodes are available: 1 Insufficient cpu.", "", "Insufficient cpu"),
        ("", 'pods "x" is forbidden: exceeded quota: full, requested: pods=1', "exceeded quota"),
    ],
)
def test_no_room_is_refused_before_the_change(says: str, refused: str, why: str) -> None:
    scheduler = Scheduler(says, refused)
    with pytest.raises(PlanRefused, match=why) as caught:
        tried(scheduler)
    assert [(check.id, check.failed) for check in caught.value.checks] == [(SURGE, True)]
    assert "try_surge" in caught.value.remedy
    assert scheduler.removed


def test_who_may_make_no_pods_is_not_refused_and_nothing_is_known() -> None:
    problem = 'User "ci" cannot create resource "pods"'
    assert tried(Scheduler("", problem)) == unknown(SURGE, Because.NOT_ADMITTED, Problem(problem))
