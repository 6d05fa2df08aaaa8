"""A rollout is complete when the proven digest serves from every pod and nothing else does."""

from __future__ import annotations

import copy
from dataclasses import astuple
from typing import Any

import pytest

from ci.promotion.release.rollout import (
    Expected,
    Running,
    Snapshot,
    Trouble,
    Watch,
    digests_of,
    judge,
    misplaced,
    troubles,
)
from ci.results import Count, GapId, ImageRef, RolloutGap, Unit

REPOSITORY = "registry:5000/model-engine"
NEW, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def deployment(name: str, replicas: int, tag: str = "new", **status: int) -> dict[str, Any]:
    counts = {"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "generation": 2},
        "spec": {"replicas": replicas, "template": {"spec": containers(name, tag)}},
        "status": {"observedGeneration": 2, **counts, **status},
    }


def containers(name: str, tag: str) -> dict[str, Any]:
    return {
        "containers": [
            {"name": name, "image": f"{REPOSITORY}:{tag}"},
            {"name": "proxy", "image": f"{REPOSITORY}-proxy:1"},
        ]
    }


def replicaset(name: str, owner: str) -> dict[str, Any]:
    owners = [{"kind": "Deployment", "name": owner, "controller": True}]
    return {"kind": "ReplicaSet", "metadata": {"name": name, "ownerReferences": owners}}


def pod(
    name: str, owner: str, tag: str = "new", digest: str = NEW, **status: Any
) -> dict[str, Any]:
    owners = [{"kind": "ReplicaSet", "name": owner, "controller": True}]
    return {
        "kind": "Pod",
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": containers(owner.rpartition("-")[0], tag),
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": owner.rpartition("-")[0], "imageID": f"{REPOSITORY}@{digest}"},
                {"name": "proxy", "imageID": f"x@sha256:{'c' * 64}"},
            ],
            **status,
        },
    }


def endpoints(*pods: str, **conditions: bool) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "gateway"}},
        "endpoints": [
            {"targetRef": {"name": p}, "conditions": conditions or {"ready": True}} for p in pods
        ],
    }


def items() -> list[dict[str, Any]]:
    return [
        deployment("gateway", 2),
        deployment("cacher", 0),
        replicaset("gateway-1", "gateway"),
        replicaset("gateway-0", "gateway"),
        pod("g-1", "gateway-1"),
        pod("g-2", "gateway-1"),
        endpoints("g-1", "g-2"),
    ]


EXPECTED = Expected(("gateway", "cacher"), "gateway", REPOSITORY, "new", frozenset({NEW}))


def waiting(changed: list[dict[str, Any]], expected: Expected = EXPECTED) -> str:
    """What is missing, in words."""
    judged = judge(Snapshot.of(changed), expected)
    return "" if judged.complete else str(judged)


def test_complete() -> None:
    judged = judge(Snapshot.of(items()), EXPECTED)
    assert judged.complete
    image = ImageRef(REPOSITORY, "new", NEW)
    assert judged.evidence == (Running("gateway", 2, (image,)), Running("cacher", 0, ()))
    assert judged.measured == (Count(Unit.PODS, 2), image)


def test_what_is_missing_is_measured_by_object_pods_and_counts() -> None:
    changed = items()
    changed[0]["status"]["updatedReplicas"] = 1
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    assert judge(Snapshot.of(changed), EXPECTED).measured == (
        RolloutGap(GapId.REPLICAS_UPDATED, "gateway", count=1, desired=2),
        RolloutGap(GapId.OTHER_DIGEST, "gateway", ("g-1",), value=OLD),
    )


@pytest.mark.parametrize(
    ("path", "value", "seen"),
    [
        (("status", "observedGeneration"), 1, "has not seen the change"),
        (("status", "updatedReplicas"), 1, "1 of 2 replicas updated"),
        (("status", "availableReplicas"), 1, "1 of 2 replicas available"),
        (("status", "replicas"), 3, "3 of 2 replicas present"),
        (
            ("spec", "template"),
            {"spec": containers("gateway", "old")},
            f"is to run {REPOSITORY}:old",
        ),
    ],
)
def test_a_deployment_that_is_behind(path: tuple[str, str], value: Any, seen: str) -> None:
    changed = items()
    changed[0][path[0]][path[1]] = value
    assert seen in waiting(changed)


def test_a_deployment_scaled_to_nothing_is_judged_by_its_specification() -> None:
    changed = items()
    changed[1] = deployment("cacher", 0, tag="old")
    assert waiting(changed) == f"cacher: container cacher is to run {REPOSITORY}:old"


def test_old_pods_must_be_gone_even_while_they_end() -> None:
    old = pod("g-0", "gateway-0", tag="old", digest=OLD)
    assert "old pods not gone: g-0" in waiting([*items(), old])
    ending = pod("g-3", "gateway-1")
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    assert "old pods not gone: g-3" in waiting([*items(), ending])


def test_pods_are_counted_although_the_status_is_older_than_they_are() -> None:
    assert "gateway: 1 of 2 pods are new" in waiting([i for i in items() if i != items()[5]])


def test_what_is_left_once_pods_have_drained() -> None:
    now = Snapshot.of(draining())
    assert not judge(now, EXPECTED).complete
    assert judge(now.without_terminating(), EXPECTED).complete
    ending = items()
    ending[4]["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    left = judge(Snapshot.of(ending).without_terminating(), EXPECTED)
    assert left.waiting == (RolloutGap(GapId.PODS_NEW, "gateway", count=1, desired=2),)


def test_an_evicted_pod_is_a_record_and_no_pod() -> None:
    assert waiting([*items(), pod("g-0", "gateway-0", tag="old", phase="Failed")]) == ""


def test_a_pod_with_another_digest_under_the_right_tag() -> None:
    changed = items()
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    assert waiting(changed) == f"gateway: pod g-1 runs {OLD}"


def test_the_digest_of_an_index_or_of_its_manifest_is_accepted() -> None:
    changed = items()
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    both = Expected(("gateway",), "gateway", REPOSITORY, "new", frozenset({NEW, OLD}))
    assert waiting(changed, both) == ""


def test_a_pod_that_has_not_started_has_no_digest() -> None:
    changed = items()
    changed[4]["status"]["containerStatuses"][0]["imageID"] = ""
    assert waiting(changed) == "gateway: pod g-1 runs no image yet"


def test_a_pod_that_is_not_ready() -> None:
    changed = items()
    changed[4]["status"]["conditions"] = []
    assert "gateway: not ready: g-1" in waiting(changed)


def test_the_service_leads_to_new_pods_only() -> None:
    changed = items()
    changed[-1] = endpoints("g-1", "g-2", "g-0")
    assert waiting(changed) == "Service gateway still routes to g-0"
    changed[-1] = endpoints("g-1")
    assert waiting(changed) == "Service gateway does not route to g-2 yet"
    changed.append(endpoints("g-2", ready=False, serving=False, terminating=True))
    assert waiting(changed) == "Service gateway does not route to g-2 yet"
    changed.append(endpoints("g-0", ready=False, serving=True, terminating=True))
    assert "still routes to g-0" in waiting(changed)


def test_a_missing_deployment() -> None:
    assert "cacher: no such Deployment" in waiting([i for i in items() if i is not items()[1]][:1])


@pytest.mark.parametrize("prefix", ["docker-pullable://", "", "containerd://"])
def test_digests_as_runtimes_write_them(prefix: str) -> None:
    one = pod("g-1", "gateway-1")
    one["status"]["containerStatuses"][0]["imageID"] = f"{prefix}{REPOSITORY}@{NEW}"
    assert digests_of(one, REPOSITORY) == {"gateway": NEW}


def in_state(state: str, **last: Any) -> dict[str, Any]:
    broken = copy.deepcopy(pod("g-1", "gateway-1"))
    broken["status"]["containerStatuses"][0] |= {
        "state": {"waiting": {"reason": state, "message": "back-off\n  pulling"}},
        "lastState": {"terminated": last} if last else {},
    }
    return broken


def test_unrecoverable_containers_are_found_with_their_reason() -> None:
    (found,) = troubles([in_state("ImagePullBackOff")])
    assert str(found) == "pod g-1: container gateway is in ImagePullBackOff: back-off pulling"
    (found,) = troubles([in_state("CrashLoopBackOff", exitCode=3, reason="Error")])
    assert found.message == "it ended with 3 (Error)"
    assert troubles([in_state("ContainerCreating"), pod("g-2", "gateway-1")]) == []


def test_a_crash_loop_may_be_forgiven_at_first() -> None:
    crashing = in_state("CrashLoopBackOff", exitCode=1)
    crashing["status"]["containerStatuses"][0]["restartCount"] = 2
    assert troubles([crashing], forgiven_restarts=3) == []
    crashing["status"]["containerStatuses"][0]["restartCount"] = 3
    assert troubles([crashing], forgiven_restarts=3)
    assert troubles([in_state("ImagePullBackOff")], forgiven_restarts=3)


def test_init_containers_count() -> None:
    broken = pod("g-1", "gateway-1")
    broken["status"]["initContainerStatuses"] = [
        {"name": "setup", "state": {"waiting": {"reason": "CreateContainerConfigError"}}}
    ]
    assert [t.container for t in troubles([broken])] == ["setup"]


def test_pods_that_cannot_be_placed() -> None:
    changed = items()
    assert misplaced(Snapshot.of(changed), ["gateway", "gone"]) == []
    changed[0]["status"]["conditions"] = [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    ]
    changed[4]["status"]["conditions"] = [
        {"type": "PodScheduled", "reason": "Unschedulable", "message": "Insufficient\ncpu"}
    ]
    assert [str(t) for t in misplaced(Snapshot.of(changed), ["gateway"])] == [
        "gateway is in ReplicaFailure: exceeded quota",
        "g-1 is in Unschedulable: Insufficient cpu",
    ]


def test_patience_is_for_the_same_container_over_several_looks() -> None:
    watch, trouble = Watch(patience=5, gap=3), Trouble("p", "c", "ErrImagePull", "")
    assert watch.see(0, [trouble]) is None
    assert watch.see(2, []) is None
    assert watch.see(3, [trouble]) is None
    assert watch.see(4, [Trouble("p", "other", "ErrImagePull", "")]) is None
    assert watch.see(5, [trouble]) is trouble


def test_a_container_that_recovered_starts_anew() -> None:
    watch, trouble = Watch(patience=5, gap=3), Trouble("p", "c", "ErrImagePull", "")
    assert watch.see(0, [trouble]) is None
    assert watch.see(4, []) is None
    assert watch.see(8, [trouble]) is None
    assert watch.see(9, [trouble]) is None
    assert watch.see(13, [trouble]) is trouble


def test_looks_far_apart_do_not_make_a_container_well() -> None:
    """On a machine under load a look at the API takes longer than the gap that is forgiven."""
    watch, trouble = Watch(patience=5, gap=3), Trouble("p", "c", "CrashLoopBackOff", "")
    assert watch.see(0, [trouble]) is None
    assert watch.see(4, [trouble]) is None
    assert watch.see(8, [trouble]) is trouble


# -- serving already, while old pods drain ---------------------------------------------------------


def draining() -> list[dict[str, Any]]:
    """As :func:`items`, with an old pod of the gateway that is ending."""
    old = pod("g-0", "gateway-0", tag="old", digest=OLD)
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    left = endpoints("g-0", ready=False, serving=True, terminating=True)
    return [*items(), old, left]


def serving(changed: list[dict[str, Any]]) -> bool:
    return judge(Snapshot.of(changed), EXPECTED).serving


def test_a_release_serves_while_only_old_pods_of_the_gateway_drain() -> None:
    judged = judge(Snapshot.of(draining()), EXPECTED)
    assert judged.serving
    assert not judged.complete
    assert "old pods not gone: g-0" in str(judged)
    assert "still routes to g-0" in str(judged)


def test_a_complete_release_serves() -> None:
    assert serving(items())


def test_an_old_pod_that_nobody_has_ended_is_not_draining() -> None:
    changed = draining()
    del changed[-2]["metadata"]["deletionTimestamp"]
    assert not serving(changed)


def test_an_old_pod_that_still_gets_requests_is_not_draining() -> None:
    changed = draining()
    changed[-1] = endpoints("g-0", ready=True)
    assert not serving(changed)


def test_old_pods_get_requests_as_long_as_no_new_one_is_ready() -> None:
    changed = draining()
    changed[-3] = endpoints("g-1", "g-2", ready=False, serving=True)
    assert not serving(changed)


def test_an_old_worker_that_drains_may_still_take_tasks() -> None:
    old = pod("b-0", "builder-0", tag="old", digest=OLD)
    old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    changed = [*items(), deployment("builder", 1), replicaset("builder-0", "builder")]
    changed += [replicaset("builder-1", "builder"), pod("b-1", "builder-1"), old]
    expected = Expected((*EXPECTED.deployments, "builder"), *astuple(EXPECTED)[1:])
    assert not judge(Snapshot.of(changed), expected).serving
    assert judge(Snapshot.of(changed[:-1]), expected).serving


def test_a_new_pod_that_runs_another_digest_does_not_serve() -> None:
    changed = draining()
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    assert not serving(changed)
