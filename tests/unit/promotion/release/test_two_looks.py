"""Two looks at the same pods compare alike however slow the machine is: pods that drain, late
ReplicaSets, evicted pods and half a rollout change no verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import texts
from ci.model import Cluster, Target
from ci.promotion.release.reader import running_image
from ci.promotion.release.rollout import (
    Snapshot,
    misplaced,
    new_pods,
    replacement,
    troubles,
    unsettled,
)
from ci.promotion.rollback.requested import on_every_pod, running
from tests.unit.promotion.release.test_rollout import EXPECTED, OLD, REPOSITORY, in_state, items
from tests.unit.promotion.release.test_rollout import NEW as NEW_DIGEST
from tests.unit.promotion.release.test_rollout import pod as listed

NAME = "engine"


@dataclass
class Pod:
    template: str
    uid: int
    ready: bool = True
    terminating: bool = False
    phase: str = "Running"

    @property
    def live(self) -> bool:
        return not self.terminating and self.phase == "Running"

    def object(self) -> dict[str, Any]:
        ending = {"deletionTimestamp": "2026-11-23T16:00:00Z"} if self.terminating else {}
        owner = {"kind": "ReplicaSet", "name": f"{NAME}-{self.template}", "controller": True}
        return {
            "kind": "Pod",
            "metadata": {
                "name": f"{NAME}-{self.template}-{self.uid}",
                "uid": f"uid-{self.uid}",
                "creationTimestamp": "2026-11-23T15:00:00Z",
                "labels": {"app": NAME, "pod-template-hash": self.template},
                "ownerReferences": [owner],
                **ending,
            },
            "spec": {"containers": [{"name": NAME, "image": "registry/engine:t"}]},
            "status": {
                "phase": self.phase,
                "conditions": [{"type": "Ready", "status": str(self.ready)}],
            },
        }


def deployment(template: str, replicas: int = 2, **status: int) -> dict[str, Any]:
    counts = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas}
    return {
        "kind": "Deployment",
        "metadata": {"name": NAME, "generation": 2},
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"annotations": {"template": template}}},
        },
        "status": {"observedGeneration": 2, **counts, **status},
    }


def replicaset(template: str, revision: int) -> dict[str, Any]:
    return {
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{NAME}-{template}",
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"kind": "Deployment", "name": NAME, "controller": True}],
        },
    }


def look(*pods: Pod, template: str = "b", replicasets: str = "ab") -> Snapshot:
    """``replicasets`` are those in the list, the oldest first."""
    sets = [replicaset(each, number) for number, each in enumerate(replicasets, start=1)]
    return Snapshot.of([deployment(template), *sets, *(pod.object() for pod in pods)])


KEPT = (Pod("b", 1), Pod("b", 2))
SETTLED = look(*KEPT)
DRAINING = Pod("a", 9, terminating=True)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (SETTLED, SETTLED),
        (look(*KEPT, DRAINING), SETTLED),
        (look(*KEPT, DRAINING), look(*KEPT, DRAINING)),
        (look(*KEPT, Pod("b", 3, terminating=True)), SETTLED),
        (look(*KEPT, Pod("a", 9)), SETTLED),
        (look(*KEPT, Pod("a", 9)), look(*KEPT, DRAINING)),
        (look(Pod("b", 1), Pod("a", 8), Pod("a", 9)), SETTLED),
        (look(*KEPT, DRAINING, replicasets="b"), SETTLED),
        (look(*KEPT, DRAINING, replicasets="a"), SETTLED),
        (look(*KEPT, Pod("b", 3, phase="Failed")), SETTLED),
        (SETTLED, look(*KEPT, Pod("b", 3, phase="Failed"))),
        (look(*KEPT, Pod("b", 3, phase="Succeeded")), SETTLED),
        (look(*KEPT, Pod("a", 9, phase="Failed")), SETTLED),
    ],
    ids=[
        "nothing happened",
        "an old pod drained until after the first look",
        "an old pod drains for as long as both looks",
        "a surplus pod of the same ReplicaSet drained",
        "an old pod was not deleted yet at the first look",
        "an old pod is deleted between the looks",
        "half of the rollout came after the first look",
        "the old ReplicaSet went before its last pod",
        "the new ReplicaSet came after the list of ReplicaSets",
        "the record of an evicted pod was collected",
        "the record of an evicted pod is new",
        "a pod that completed is gone",
        "the record of an old evicted pod is gone",
    ],
)
def test_pods_are_the_same(before: Snapshot, now: Snapshot) -> None:
    compared = replacement(before, now, NAME)
    assert not compared.replaced
    assert compared.evicted == ()


NEW = (Pod("b", 3), Pod("b", 4))


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (look(*NEW, template="c"), (True, None, ("engine-b-1", "engine-b-2"))),
        (look(*KEPT, template="c"), (True, None, ())),
        (
            look(Pod("c", 3), *KEPT, template="c", replicasets="abc"),
            (True, ("engine-b", "engine-c"), ()),
        ),
        (look(Pod("c", 3), *KEPT, template="c"), (True, ("engine-b", "engine-c"), ())),
        (look(*KEPT, template="a", replicasets="ba"), (True, ("engine-b", "engine-a"), ())),
        (look(*NEW), (False, None, ("engine-b-1", "engine-b-2"))),
        (
            look(Pod("b", 1), Pod("b", 2, terminating=True), Pod("b", 3)),
            (False, None, ("engine-b-2",)),
        ),
        (look(Pod("b", 1), Pod("b", 3)), (False, None, ("engine-b-2",))),
    ],
    ids=[
        "another template, and its pods already gone",
        "another template that the controller has not acted on",
        "another ReplicaSet, its first pod beside the old ones",
        "another ReplicaSet, younger than the list of ReplicaSets",
        "back to an older ReplicaSet",
        "the Deployment was deleted and made anew from the same template",
        "a node was lost, and its pod is still in the API",
        "a node was lost, and its pod is gone from the API",
    ],
)
def test_pods_were_replaced(now: Snapshot, says: tuple[Any, ...]) -> None:
    compared = replacement(SETTLED, now, NAME)
    assert compared.replaced
    assert (compared.template, compared.replicasets, compared.gone) == says


def test_a_pod_that_its_node_evicted_is_named_and_was_not_replaced_by_a_change() -> None:
    now = look(Pod("b", 1), Pod("b", 2, phase="Failed"), Pod("b", 3))
    compared = replacement(SETTLED, now, NAME)
    assert not compared.replaced
    assert compared.evicted == ("engine-b-2",)


@pytest.mark.parametrize(
    ("now", "missing"),
    [
        (SETTLED, ""),
        (look(*KEPT, Pod("a", 9, phase="Failed")), ""),
        (look(*KEPT, DRAINING), "engine: pods still terminate: engine-a-9"),
        (look(*KEPT, DRAINING, replicasets="b"), "pods still terminate: engine-a-9"),
        (look(Pod("b", 1), Pod("a", 9)), "pods of an older ReplicaSet still run: engine-a-9"),
        (look(*KEPT, replicasets="a"), ""),
        (look(Pod("b", 1)), "1 of 2 pods run"),
        (look(Pod("b", 1), Pod("b", 2, ready=False)), "engine: not ready: engine-b-2"),
        (Snapshot.of([deployment("b", observedGeneration=1)]), "has not seen the change"),
        (Snapshot.of([deployment("b", availableReplicas=1)]), "1 of 2 replicas available"),
        (Snapshot.of([]), "engine: no such Deployment"),
    ],
)
def test_what_is_still_under_way(now: Snapshot, missing: str) -> None:
    gaps = unsettled(now, [NAME])
    assert missing in "; ".join(map(texts.measured, gaps))
    assert bool(missing) == bool(gaps)


@pytest.mark.parametrize("state", ["terminating", "finished"])
def test_pods_that_do_not_run_on_are_in_no_trouble(state: str) -> None:
    stuck = in_state("CrashLoopBackOff")
    assert troubles([stuck])
    assert new_pods(Snapshot.of([stuck]), EXPECTED)
    if state == "terminating":
        stuck["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    else:
        stuck["status"]["phase"] = "Failed"
    assert troubles([stuck]) == []
    assert new_pods(Snapshot.of([stuck]), EXPECTED) == []


def test_a_pod_that_is_deleted_needs_no_node() -> None:
    waits = Pod("a", 9).object()
    waits["status"]["conditions"] = [{"type": "PodScheduled", "reason": "Unschedulable"}]
    sets = [deployment("b"), replicaset("a", 1)]
    assert misplaced(Snapshot.of([*sets, waits]), [NAME])
    waits["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    assert misplaced(Snapshot.of([*sets, waits]), [NAME]) == []


@pytest.mark.parametrize("state", ["terminating", "finished"])
def test_the_digest_that_is_served_is_that_of_live_pods(state: str) -> None:
    """The tag was moved once: the pod of before is on its way out."""
    left = listed("g-0", "gateway-1", digest=OLD)
    if state == "terminating":
        left["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    else:
        left["status"]["phase"] = "Failed"
    now = Snapshot.of([*items(), left])
    target = Target(
        "prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("chart"), REPOSITORY,
        gateway="gateway", deployments=("cacher",),
    )  # fmt: skip
    assert running(now, target, f"{REPOSITORY}:new") == (NEW_DIGEST,)
    assert on_every_pod(EXPECTED, now, frozenset()) == NEW_DIGEST
    assert running_image(target, now)[1] == {NEW_DIGEST}


# -- any interleaving ------------------------------------------------------------------------------


@dataclass
class Rollout:
    """A Deployment and what its controller, its nodes and the scheduler do, a step at a time and in
    any order: ``maxSurge: 1, maxUnavailable: 0``, as slow as a machine may be."""

    replicas: int
    keep_old: bool
    """Whether ReplicaSets without pods are kept (``revisionHistoryLimit``)."""
    template: str = "a"
    generation: int = 1
    observed: int = 0
    revisions: dict[str, int] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    status: dict[str, int] = field(default_factory=dict)
    made: int = 0

    def upgrade(self, template: str) -> None:
        if template != self.template:
            self.template, self.generation = template, self.generation + 1

    def live(self, *, ready: bool = False, new: bool | None = None) -> list[Pod]:
        return [
            pod
            for pod in self.pods
            if pod.live
            and (pod.ready or not ready)
            and (new is None or (pod.template == self.template) is new)
        ]

    # Each step takes a number that chooses among the pods it may concern; whether it did anything.

    def sync(self, _: int) -> bool:
        """The Deployment's controller observes, makes the ReplicaSet and writes the status."""
        newest = max(self.revisions.values(), default=0)
        if self.revisions.get(self.template, -1) != newest or not newest:
            self.revisions[self.template] = newest + 1
        status = {
            "replicas": len(self.live()),
            "updatedReplicas": len(self.live(new=True)),
            "availableReplicas": len(self.live(ready=True)),
        }
        done = (status, self.generation) == (self.status, self.observed)
        self.status, self.observed = status, self.generation
        return not done

    def create(self, _: int) -> bool:
        if self.observed < self.generation or len(self.live(new=True)) >= self.replicas:
            return False
        if len(self.live()) > self.replicas:
            return False
        self.made += 1
        self.pods.append(Pod(self.template, self.made, ready=False))
        return True

    def start(self, which: int) -> bool:
        waiting = [pod for pod in self.live() if not pod.ready]
        for pod in waiting[which % max(1, len(waiting)) :][:1]:
            pod.ready = True
        return bool(waiting)

    def delete(self, which: int) -> bool:
        old = self.live(new=False)
        if self.observed < self.generation or not old:
            return False
        if len(self.live(ready=True)) <= self.replicas and self.live(ready=True, new=False):
            return False
        old[which % len(old)].terminating = True
        return True

    def end(self, which: int) -> bool:
        """A pod has drained. The youngest may be the first."""
        ending = [pod for pod in self.pods if pod.terminating]
        if ending:
            self.pods.remove(ending[which % len(ending)])
        return bool(ending)

    def evict(self, which: int) -> bool:
        """A node under pressure ends a pod; its record stays."""
        live = self.live(new=True)
        for pod in live[which % max(1, len(live)) :][:1]:
            pod.phase = "Failed"
        return bool(live)

    def collect(self, _: int) -> bool:
        """ReplicaSets without live pods go where none are kept."""
        used = {pod.template for pod in self.live()} | {self.template}
        empty = [each for each in self.revisions if each not in used]
        if self.keep_old or self.observed < self.generation or not empty:
            return False
        del self.revisions[empty[0]]
        return True

    def rest(self) -> None:
        """Until nothing is left to do."""
        steps = (self.sync, self.create, self.start, self.delete, self.end, self.collect)
        while any(step(0) for step in steps):
            pass

    # The API lists one kind after the other.

    def deployments(self) -> list[dict[str, Any]]:
        given = deployment(self.template, self.replicas)
        given["metadata"]["generation"] = self.generation
        given["status"] = {"observedGeneration": self.observed, **self.status}
        return [given]

    def replicasets(self) -> list[dict[str, Any]]:
        return [replicaset(each, number) for each, number in self.revisions.items()]

    def look(self, between: Callable[[], object] = lambda: None) -> Snapshot:
        """``between`` happens while the kinds are listed."""
        found = self.deployments()
        between()
        found += self.replicasets()
        between()
        return Snapshot.of([*found, *(pod.object() for pod in self.pods)])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sync", "create", "start", "delete", "end", "evict", "collect"]),
        st.integers(0, 5),
    ),
    max_size=25,
)


def do(rollout: Rollout, steps: list[tuple[str, int]], times: int | None = None) -> None:
    """Take the next steps, all of them unless told how many."""
    for _ in range(len(steps) if times is None else min(times, len(steps))):
        step, which = steps.pop(0)
        getattr(rollout, step)(which)


@st.composite
def under_way(draw: st.DrawFn) -> Rollout:
    """A rollout from ``a`` to ``b``, anywhere after its controller has seen it."""
    rollout = Rollout(draw(st.integers(1, 3)), draw(st.booleans()))
    rollout.rest()
    rollout.upgrade("b")
    rollout.sync(0)
    do(rollout, draw(STEPS))
    return rollout


@given(under_way(), st.sampled_from("bc"), STEPS, STEPS)
def test_a_look_at_any_moment_has_the_verdict_of_the_settled_state(
    rollout: Rollout,
    template: str,
    first: list[tuple[str, int]],
    second: list[tuple[str, int]],
) -> None:
    before = rollout.look()
    do(rollout, first)
    rollout.upgrade(template)
    rollout.sync(0)
    do(rollout, second)
    now = rollout.look()
    rollout.rest()
    settled = rollout.look()
    assert unsettled(settled, [NAME]) == ()
    for seen in (now, settled):
        assert replacement(before, seen, NAME).replaced is (template == "c")


@given(under_way(), STEPS, st.integers(0, 5))
def test_nothing_is_called_settled_that_still_changes(
    rollout: Rollout, steps: list[tuple[str, int]], at_once: int
) -> None:
    """Even where the kinds are listed far apart, and things happen in between."""
    while steps:
        now = rollout.look(between=lambda: do(rollout, steps, at_once))
        do(rollout, steps, 1)
        if unsettled(now, [NAME]) == ():
            templates = {p["metadata"]["labels"]["pod-template-hash"] for p in now.pods_of(NAME)}
            assert templates == {"b"}
            assert now.pods_of(NAME) == now.live_pods_of(NAME)
            assert len(now.pods_of(NAME)) == rollout.replicas


@given(under_way(), STEPS, st.sampled_from("bc"), STEPS, st.integers(0, 3))
def test_looks_that_were_waited_for_compare_alike_however_slow_they_are(
    rollout: Rollout,
    first: list[tuple[str, int]],
    template: str,
    second: list[tuple[str, int]],
    at_once: int,
) -> None:
    def waited(steps: list[tuple[str, int]]) -> Snapshot:
        while True:
            now = rollout.look(between=lambda: do(rollout, steps, at_once))
            if unsettled(now, [NAME]) == ():
                return now
            do(rollout, steps, 1)
            if not steps:
                rollout.rest()

    before = waited(first)
    do(rollout, first)
    rollout.upgrade(template)
    now = waited(second)
    assert replacement(before, now, NAME).replaced is (template == "c")
