"""Where a roll-over stands, judged from the live objects. Pure.

Helm's ``--wait`` and ``kubectl rollout status`` may be content too early, so nothing here asks
them. A roll-over is complete when, for every Deployment of the service: the controller has
seen the specification; updated = available = desired; no pod of another ReplicaSet is left;
every service container runs from an accepted digest; and the gateway's EndpointSlices name
ready new pods only.

Digests: a container runtime reports as ``imageID`` the digest the reference resolved to, which
for a multi-platform image is the index; some report the platform's manifest. ``accepted``
holds all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

HOPELESS = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Waiting reasons that do not heal by waiting."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The objects of one namespace at one moment."""

    deployments: Mapping[str, Object]
    replicasets: Sequence[Object]
    pods: Sequence[Object]
    slices: Sequence[Object]

    @classmethod
    def of(cls, items: Iterable[Object]) -> Snapshot:
        """From Deployments, ReplicaSets, Pods and EndpointSlices, as the API has them."""
        kinds: dict[str, list[Object]] = {}
        for item in items:
            kinds.setdefault(str(item.get("kind")), []).append(item)
        return cls(
            {d["metadata"]["name"]: d for d in kinds.get("Deployment", [])},
            kinds.get("ReplicaSet", []),
            kinds.get("Pod", []),
            kinds.get("EndpointSlice", []),
        )

    def pods_of(self, deployment: str) -> list[Object]:
        """Every pod of a Deployment, old and new, the ones that are ending included."""
        owned = {r["metadata"]["name"] for r in self.replicasets if _owner(r) == deployment}
        return [p for p in self.pods if _owner(p) in owned and not _finished(p)]


@dataclass(frozen=True, slots=True)
class Expected:
    """What every Deployment of the service shall run."""

    deployments: tuple[str, ...]
    gateway: str
    repository: str
    tag: str
    accepted: frozenset[str]
    """Digests. Empty: the digest is not judged."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``waiting`` says, in plain words, what is still missing; nothing when complete."""

    waiting: tuple[str, ...]
    evidence: tuple[str, ...] = field(default=())
    draining: tuple[str, ...] = field(default=())
    """What of ``waiting`` is only that old pods of the gateway, which get no new requests, have
    not ended yet."""

    @property
    def complete(self) -> bool:
        return not self.waiting

    @property
    def serving(self) -> bool:
        """Whether every worker is new, and requests reach new pods only."""
        return set(self.waiting) <= set(self.draining)

    def __str__(self) -> str:
        return "; ".join(self.waiting) or "complete"


def judge(now: Snapshot, expected: Expected) -> Judgement:
    """Compare a snapshot with what is expected. See the theory above."""
    waiting: list[str] = []
    evidence: list[str] = []
    draining = _draining(now, expected)
    for name in expected.deployments:
        deployment = now.deployments.get(name)
        if deployment is None:
            waiting.append(f"{name}: no such Deployment")
            continue
        waiting += _deployment(now, name, deployment, expected)
        pods = now.pods_of(name)
        digests = sorted({d for p in pods for d in digests_of(p, expected.repository).values()})
        evidence.append(f"{name}: {len(pods)} pods, {', '.join(digests) or 'scaled to 0'}")
    waiting += _slices(now, expected)
    return Judgement(tuple(waiting), tuple(evidence), draining)


def _deployment(now: Snapshot, name: str, deployment: Object, expected: Expected) -> list[str]:
    waiting: list[str] = []
    spec, status = deployment["spec"], deployment.get("status") or {}
    desired = int(spec.get("replicas", 1))
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        waiting.append(f"{name}: the controller has not seen the change yet")
    containers = service_containers(spec["template"]["spec"], expected.repository)
    wanted = f"{expected.repository}:{expected.tag}"
    if not containers:
        waiting.append(f"{name}: no container runs {expected.repository}")
    for container, image in containers.items():
        if image != wanted:
            waiting.append(f"{name}: container {container} asks for {image}")
    counts = {
        "updated": int(status.get("updatedReplicas", 0)),
        "available": int(status.get("availableReplicas", 0)),
        "present": int(status.get("replicas", 0)),
    }
    waiting += [
        f"{name}: {count} of {desired} replicas {what}"
        for what, count in counts.items()
        if count != desired
    ]
    pods = now.pods_of(name)
    current = {p["metadata"]["name"] for p in current_pods(now, name, expected)}
    if old := [p["metadata"]["name"] for p in pods if p["metadata"]["name"] not in current]:
        waiting.append(_not_gone(name, old))
    for pod in pods:
        if pod["metadata"]["name"] not in current:
            continue
        if not ready(pod):
            waiting.append(f"{name}: pod {pod['metadata']['name']} is not ready")
        if not expected.accepted:
            continue
        digests = digests_of(pod, expected.repository)
        for container in containers:
            digest = digests.get(container, "")
            if digest not in expected.accepted:
                seen = digest or "no image yet"
                waiting.append(f"{name}: pod {pod['metadata']['name']} runs {seen}")
    return waiting


def current_pods(now: Snapshot, deployment: str, expected: Expected) -> list[Object]:
    """Pods of the Deployment made from the expected image and not ending."""
    new = {pod["metadata"]["name"] for pod in new_pods(now, expected)}
    return [pod for pod in now.pods_of(deployment) if pod["metadata"]["name"] in new]


def new_pods(now: Snapshot, expected: Expected) -> list[Object]:
    """Every pod made from the expected image and not ending, those of hook jobs included."""
    wanted = f"{expected.repository}:{expected.tag}"
    return [
        pod
        for pod in now.pods
        if not pod["metadata"].get("deletionTimestamp")
        and wanted in service_containers(pod["spec"], expected.repository).values()
    ]


def _slices(now: Snapshot, expected: Expected) -> list[str]:
    gateway = now.deployments.get(expected.gateway)
    if gateway is None or not int(gateway["spec"].get("replicas", 1)):
        return []
    new = {p["metadata"]["name"] for p in current_pods(now, expected.gateway, expected)}
    serving = {
        name
        for name, conditions in _endpoints(now, expected.gateway)
        if conditions.get("ready") is not False or conditions.get("serving")
    }
    waiting = []
    if serving - new:
        waiting.append(_still_leads_to(expected, serving - new))
    if new - serving:
        waiting.append(
            f"Service {expected.gateway} does not lead to {', '.join(sorted(new - serving))} yet"
        )
    return waiting


def _endpoints(now: Snapshot, service: str) -> list[tuple[str, Object]]:
    """Every endpoint of a Service: its pod's name, and its conditions."""
    return [
        (
            str((endpoint.get("targetRef") or {}).get("name", "?")),
            endpoint.get("conditions") or {},
        )
        for piece in now.slices
        if (piece["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == service
        for endpoint in piece.get("endpoints") or []
    ]


def _draining(now: Snapshot, expected: Expected) -> tuple[str, ...]:
    """What :func:`judge` waits for while old pods of the gateway are ending.

    An endpoint that is terminating gets new requests only where a Service has no ready one
    (KEP-1669), so these serve nobody but whom they have served already.
    """
    gateway = expected.gateway
    ending = {
        pod["metadata"]["name"]
        for pod in now.pods_of(gateway)
        if pod["metadata"].get("deletionTimestamp")
    }
    endpoints = _endpoints(now, gateway)
    left = {
        name
        for name, conditions in endpoints
        if name in ending and conditions.get("ready") is False and conditions.get("serving")
    }
    new = {p["metadata"]["name"] for p in current_pods(now, gateway, expected)}
    if not any(name in new and conditions.get("ready") for name, conditions in endpoints):
        return ()
    old = [p["metadata"]["name"] for p in now.pods_of(gateway) if p["metadata"]["name"] not in new]
    found = [_not_gone(gateway, old)] if old and ending.issuperset(old) else []
    return (*found, *([_still_leads_to(expected, left)] if left else []))


def _not_gone(deployment: str, old: Iterable[str]) -> str:
    return f"{deployment}: old pods not gone: {', '.join(old)}"


def _still_leads_to(expected: Expected, pods: Iterable[str]) -> str:
    return f"Service {expected.gateway} still leads to {', '.join(sorted(pods))}"


def ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def restarts(pod: Object) -> int:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return sum(int(s.get("restartCount", 0)) for s in statuses)


def service_containers(pod_spec: Object, repository: str) -> dict[str, str]:
    """Containers that run the service's image, by name; side-cars are none of our business."""
    return {
        c["name"]: c["image"]
        for c in pod_spec.get("containers") or []
        if re.match(re.escape(repository) + r"(?=[:@]|$)", c.get("image", ""))
    }


def digests_of(pod: Object, repository: str) -> dict[str, str]:
    """Digest of each service container that has started, as its runtime reports it."""
    names = service_containers(pod["spec"], repository)
    found: dict[str, str] = {}
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        digest = _DIGEST.search(status.get("imageID") or "")
        if status["name"] in names and digest:
            found[status["name"]] = digest[0]
    return found


def _owner(item: Object) -> str:
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["name"])
    return ""


def _finished(pod: Object) -> bool:
    """Evicted and completed pods stay as records; they serve and consume nothing."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


# -- hopeless pods --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that waits for a reason that waiting does not heal. ``container`` is empty
    where a whole pod (``pod`` is then it, or its Deployment) is concerned."""

    pod: str
    container: str
    reason: str
    message: str

    def __str__(self) -> str:
        detail = f": {self.message}" if self.message else ""
        if not self.container:
            return f"{self.pod} is in {self.reason}{detail}"
        return f"pod {self.pod}: container {self.container} is in {self.reason}{detail}"


def misplaced(now: Snapshot, deployments: Iterable[str]) -> list[Trouble]:
    """New pods that the cluster cannot place, and pods that a quota or a policy forbids.

    These may heal (a node is added, a pod elsewhere ends), so they deserve more patience.
    """
    found: list[Trouble] = []
    for name in deployments:
        conditions = (now.deployments.get(name, {}).get("status") or {}).get("conditions") or []
        found += [
            Trouble(name, "", "ReplicaFailure", _one_line(c.get("message")))
            for c in conditions
            if c.get("type") == "ReplicaFailure" and c.get("status") == "True"
        ]
        found += [trouble for pod in now.pods_of(name) for trouble in unscheduled(pod)]
    return found


def unscheduled(pod: Object) -> list[Trouble]:
    """Why no node takes the pod."""
    return [
        Trouble(pod["metadata"]["name"], "", "Unschedulable", _one_line(c.get("message")))
        for c in (pod.get("status") or {}).get("conditions") or []
        if c.get("type") == "PodScheduled" and c.get("reason") == "Unschedulable"
    ]


def _one_line(message: Any) -> str:
    return " ".join(str(message or "").split())[:300]


def troubles(pods: Iterable[Object]) -> list[Trouble]:
    """Every hopeless container, init containers included."""
    found: list[Trouble] = []
    for pod in pods:
        status = pod.get("status") or {}
        for container in [
            *(status.get("initContainerStatuses") or []),
            *(status.get("containerStatuses") or []),
        ]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in HOPELESS:
                continue
            last = (container.get("lastState") or {}).get("terminated") or {}
            message = _one_line(waiting.get("message"))
            if waiting["reason"] == "CrashLoopBackOff" and last:
                message = (
                    f"it ended with {last.get('exitCode')} ({last.get('reason', 'no reason')})"
                )
            found.append(
                Trouble(pod["metadata"]["name"], container["name"], waiting["reason"], message)
            )
    return found


class Watch:
    """Remembers since when each container has been hopeless.

    A reason comes and goes between attempts (a crash loop runs in between, a pull is tried
    again), so a gap of up to ``gap`` seconds does not forgive; ``patience`` seconds of it is
    enough to give up.
    """

    def __init__(self, *, patience: float = 5.0, gap: float = 3.0) -> None:
        self._patience = patience
        self._gap = gap
        self._since: dict[tuple[str, str], tuple[float, float]] = {}

    def see(self, now: float, found: Iterable[Trouble]) -> Trouble | None:
        """Take in one look at the pods; the trouble to give up for, if any."""
        worst: Trouble | None = None
        for trouble in found:
            key = (trouble.pod, trouble.container)
            since, last = self._since.get(key, (now, now))
            if now - last > self._gap:
                since = now
            self._since[key] = (since, now)
            if now - since >= self._patience and worst is None:
                worst = trouble
        return worst
