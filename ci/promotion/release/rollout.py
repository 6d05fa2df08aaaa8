"""Where a rollout stands, judged from the live objects. Pure.

Helm's ``--wait`` and ``kubectl rollout status`` may be content too early, so nothing here asks
them. A rollout is complete when, for every Deployment of the service: the controller has
seen the specification; updated = available = desired; no pod of another ReplicaSet is left;
every service container runs from an accepted digest; and the gateway's EndpointSlices name
ready new pods only.

Digests: a container runtime reports as ``imageID`` the digest the reference resolved to, which
for a multi-platform image is the index; some report the platform's manifest. ``accepted``
holds all of them.

Two looks at the same pods must not differ by how fast the machine is. A pod that terminates
(``deletionTimestamp``) stays in the API for as long as its containers take to drain, and a pod
that finished (evicted, completed) stays until it is garbage collected, so neither counts when
looks are compared; and looks are only compared once :func:`unsettled` has nothing left to name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ci import texts
from ci.digest import Digest
from ci.results import Count, GapId, ImageRef, Measured, RolloutGap, Unit

Object = Mapping[str, Any]

_REVISION = "deployment.kubernetes.io/revision"

UNRECOVERABLE = frozenset(
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
        """Every pod of a Deployment that may still run something: old and new, those that
        terminate included, those that finished not."""
        return [pod for pod in self._owned_by(deployment) if not finished(pod)]

    def live_pods_of(self, deployment: str) -> list[Object]:
        """The pods of a Deployment that run on: neither terminating nor finished."""
        return [pod for pod in self.pods_of(deployment) if not terminating(pod)]

    def finished_pods_of(self, deployment: str) -> list[Object]:
        """Records of a Deployment's pods that were evicted, or came to an end."""
        return [pod for pod in self._owned_by(deployment) if finished(pod)]

    def replicaset_of(self, deployment: str) -> str:
        """Name of the ReplicaSet of the Deployment's newest revision; empty when there is none.

        The pods are listed after the ReplicaSets, so a live pod may be of one that did not exist
        yet when these were listed: it is the newest then.
        """
        listed = self._replicasets_of(deployment)
        late = [_owner(p) for p in self.live_pods_of(deployment) if _owner(p) not in listed]
        newest = max(listed, key=lambda name: listed[name], default="")
        return late[0] if late else newest

    def without_terminating(self) -> Snapshot:
        """As it will be once every pod that terminates has gone, its endpoints with it."""
        ending = {pod["metadata"]["name"] for pod in self.pods if terminating(pod)}

        def kept(piece: Object) -> list[Object]:
            return [
                endpoint
                for endpoint in piece.get("endpoints") or []
                if (endpoint.get("targetRef") or {}).get("name") not in ending
            ]

        return replace(
            self,
            pods=[pod for pod in self.pods if not terminating(pod)],
            slices=[{**piece, "endpoints": kept(piece)} for piece in self.slices],
        )

    def _replicasets_of(self, deployment: str) -> dict[str, int]:
        """Revision of each of the Deployment's ReplicaSets, by name."""
        return {
            str(item["metadata"]["name"]): int(
                (item["metadata"].get("annotations") or {}).get(_REVISION, 0)
            )
            for item in self.replicasets
            if _owner(item) == deployment
        }

    def _owned_by(self, deployment: str) -> list[Object]:
        """Every pod of a Deployment: by its ReplicaSets, or by their name where one is not in the
        list (it was made since, or went before its last pod: ``revisionHistoryLimit: 0``)."""
        listed = self._replicasets_of(deployment)

        def owned(pod: Object) -> bool:
            owner = _owner(pod)
            own = (pod["metadata"].get("labels") or {}).get("pod-template-hash")
            return owner in listed or (bool(own) and owner == f"{deployment}-{own}")

        return [pod for pod in self.pods if owned(pod)]


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
class Running:
    """What the pods of one Deployment run."""

    deployment: str
    pods: int
    images: tuple[ImageRef, ...]
    """One for each digest that they report."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """``waiting`` is what is still missing; nothing when complete."""

    waiting: tuple[RolloutGap, ...]
    evidence: tuple[Running, ...] = field(default=())
    draining: tuple[RolloutGap, ...] = field(default=())
    """What of ``waiting`` is only that old pods of the gateway, which get no new requests, have
    not ended yet."""

    @property
    def complete(self) -> bool:
        return not self.waiting

    @property
    def serving(self) -> bool:
        """Whether every worker is new, and requests reach new pods only."""
        return set(self.waiting) <= set(self.draining)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What is missing; when complete, how many pods run which image."""
        if self.waiting:
            return self.waiting
        images = {image: None for each in self.evidence for image in each.images}
        return Count(Unit.PODS, sum(each.pods for each in self.evidence)), *images

    def __str__(self) -> str:
        return "; ".join(map(texts.measured, self.waiting)) or "complete"


def judge(now: Snapshot, expected: Expected) -> Judgement:
    """Compare a snapshot with what is expected. See the theory above."""
    waiting: list[RolloutGap] = []
    evidence: list[Running] = []
    draining = _draining(now, expected)
    for name in expected.deployments:
        deployment = now.deployments.get(name)
        if deployment is None:
            waiting.append(RolloutGap(GapId.NO_DEPLOYMENT, name))
            continue
        waiting += _deployment(now, name, deployment, expected)
        pods = now.pods_of(name)
        digests = sorted({d for p in pods for d in digests_of(p, expected.repository).values()})
        images = (ImageRef(expected.repository, expected.tag, digest) for digest in digests)
        evidence.append(Running(name, len(pods), tuple(images)))
    waiting += _slices(now, expected)
    return Judgement(tuple(waiting), tuple(evidence), draining)


def _deployment(
    now: Snapshot, name: str, deployment: Object, expected: Expected
) -> list[RolloutGap]:
    waiting = _not_observed(name, deployment)
    containers = service_containers(deployment["spec"]["template"]["spec"], expected.repository)
    wanted = f"{expected.repository}:{expected.tag}"
    if not containers:
        waiting.append(RolloutGap(GapId.NO_CONTAINER, name, value=expected.repository))
    for container, image in containers.items():
        if image != wanted:
            waiting.append(RolloutGap(GapId.OTHER_IMAGE, name, (container,), value=image))
    waiting += _replicas_missing(name, deployment)
    pods = now.pods_of(name)
    current = {p["metadata"]["name"] for p in current_pods(now, name, expected)}
    if len(current) != _desired(deployment):
        waiting.append(
            RolloutGap(GapId.PODS_NEW, name, count=len(current), desired=_desired(deployment))
        )
    if old := [p["metadata"]["name"] for p in pods if p["metadata"]["name"] not in current]:
        waiting.append(_not_gone(name, old))
    for pod in pods:
        if pod["metadata"]["name"] not in current:
            continue
        if not ready(pod):
            waiting.append(RolloutGap(GapId.PODS_NOT_READY, name, (pod["metadata"]["name"],)))
        if not expected.accepted:
            continue
        digests = digests_of(pod, expected.repository)
        for container in containers:
            digest = digests.get(container, "")
            if digest not in expected.accepted:
                pod_name = str(pod["metadata"]["name"])
                waiting.append(RolloutGap(GapId.OTHER_DIGEST, name, (pod_name,), value=digest))
    return waiting


def _not_observed(name: str, deployment: Object) -> list[RolloutGap]:
    status = deployment.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return [RolloutGap(GapId.NOT_OBSERVED, name)]
    return []


def _replicas_missing(name: str, deployment: Object) -> list[RolloutGap]:
    desired, status = _desired(deployment), deployment.get("status") or {}
    counts = {
        GapId.REPLICAS_UPDATED: int(status.get("updatedReplicas", 0)),
        GapId.REPLICAS_AVAILABLE: int(status.get("availableReplicas", 0)),
        GapId.REPLICAS_PRESENT: int(status.get("replicas", 0)),
    }
    return [
        RolloutGap(id, name, count=count, desired=desired)
        for id, count in counts.items()
        if count != desired
    ]


def _desired(deployment: Object) -> int:
    return int(deployment["spec"].get("replicas", 1))


def current_pods(now: Snapshot, deployment: str, expected: Expected) -> list[Object]:
    """Pods of the Deployment made from the expected image and not ending."""
    new = {pod["metadata"]["name"] for pod in new_pods(now, expected)}
    return [pod for pod in now.pods_of(deployment) if pod["metadata"]["name"] in new]


def new_pods(now: Snapshot, expected: Expected) -> list[Object]:
    """Every live pod made from the expected image, those of hook jobs included."""
    wanted = f"{expected.repository}:{expected.tag}"
    return [
        pod
        for pod in now.pods
        if is_live(pod) and wanted in service_containers(pod["spec"], expected.repository).values()
    ]


def _slices(now: Snapshot, expected: Expected) -> list[RolloutGap]:
    gateway = now.deployments.get(expected.gateway)
    if gateway is None or not _desired(gateway):
        return []
    new = {p["metadata"]["name"] for p in current_pods(now, expected.gateway, expected)}
    serving = {
        name
        for name, conditions in _endpoints(now, expected.gateway)
        if conditions.get("ready") is not False or conditions.get("serving")
    }
    waiting = []
    if serving - new:
        waiting.append(_still_routes_to(expected, serving - new))
    if new - serving:
        missing = tuple(sorted(new - serving))
        waiting.append(RolloutGap(GapId.ROUTES_NOT_TO_NEW, expected.gateway, missing))
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


def _draining(now: Snapshot, expected: Expected) -> tuple[RolloutGap, ...]:
    """What :func:`judge` waits for while old pods of the gateway are ending.

    An endpoint that is terminating gets new requests only where a Service has no ready one
    (KEP-1669), so these serve nobody but whom they have served already.
    """
    gateway = expected.gateway
    ending = {pod["metadata"]["name"] for pod in now.pods_of(gateway) if terminating(pod)}
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
    return (*found, *([_still_routes_to(expected, left)] if left else []))


def _not_gone(deployment: str, old: Iterable[str]) -> RolloutGap:
    return RolloutGap(GapId.PODS_OLD, deployment, tuple(old))


def _still_routes_to(expected: Expected, pods: Iterable[str]) -> RolloutGap:
    return RolloutGap(GapId.ROUTES_TO_OLD, expected.gateway, tuple(sorted(pods)))


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


def digests_of(pod: Object, repository: str) -> dict[str, Digest]:
    """Digest of each service container that has started, as its runtime reports it."""
    names = service_containers(pod["spec"], repository)
    found: dict[str, Digest] = {}
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        digest = Digest.found_in(status.get("imageID") or "")
        if status["name"] in names and digest is not None:
            found[status["name"]] = digest
    return found


def _owner(item: Object) -> str:
    for owner in item["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner["name"])
    return ""


def finished(pod: Object) -> bool:
    """Evicted and completed pods stay as records; they serve and consume nothing."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def terminating(pod: Object) -> bool:
    """Whether somebody has deleted the pod; it drains for up to its grace period."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_live(pod: Object) -> bool:
    """Whether the pod runs on, or is about to: neither terminating nor finished."""
    return not terminating(pod) and not finished(pod)


# -- two looks at the same pods --------------------------------------------------------------------


def unsettled(now: Snapshot, deployments: Iterable[str]) -> tuple[RolloutGap, ...]:
    """What is still under way of any earlier change, whatever the image; nothing once every
    Deployment is as it will stay: the controller has seen the specification, updated = available =
    present = desired, every live pod is ready and of the newest ReplicaSet, and none terminates."""
    waiting: list[RolloutGap] = []
    for name in deployments:
        deployment = now.deployments.get(name)
        if deployment is None:
            waiting.append(RolloutGap(GapId.NO_DEPLOYMENT, name))
            continue
        # What the controller has counted already is not listed pod by pod.
        waiting += (
            _not_observed(name, deployment)
            or _replicas_missing(name, deployment)
            or _pods_unsettled(now, name, deployment)
        )
    return tuple(waiting)


def _pods_unsettled(now: Snapshot, name: str, deployment: Object) -> list[RolloutGap]:
    newest, live = now.replicaset_of(name), now.live_pods_of(name)
    ending = _names(pod for pod in now.pods_of(name) if terminating(pod))
    older = _names(pod for pod in live if _owner(pod) != newest)
    starting = _names(pod for pod in live if not ready(pod))
    waiting = [
        RolloutGap(id, name, names)
        for id, names in (
            (GapId.PODS_TERMINATING, ending),
            (GapId.PODS_OLDER_REPLICASET, older),
            (GapId.PODS_NOT_READY, starting),
        )
        if names
    ]
    if len(live) != _desired(deployment):
        waiting.append(
            RolloutGap(GapId.PODS_RUNNING, name, count=len(live), desired=_desired(deployment))
        )
    return waiting


@dataclass(frozen=True, slots=True)
class Replacement:
    """How the pods of one Deployment differ between two looks."""

    template: bool
    """Whether the Deployment's pod template is another."""
    replicasets: tuple[str, str] | None
    """The ReplicaSets of the newest revision before and now, where they are not the same."""
    gone: tuple[str, ...]
    """Live pods of the same ReplicaSet that do not run any more, by name; without ``evicted``."""
    evicted: tuple[str, ...]
    """Such whose record says that they finished: their node ended them, not a change."""

    @property
    def by_rollout(self) -> bool:
        """Whether the Deployment itself replaced its pods, or is about to."""
        return self.template or self.replicasets is not None

    @property
    def replaced(self) -> bool:
        """Whether pods were replaced by something other than their node."""
        return self.by_rollout or bool(self.gone)


def replacement(before: Snapshot, now: Snapshot, deployment: str) -> Replacement:
    """Compare two looks at a Deployment's pods. Pods that terminate or finished do not count, and
    of an older ReplicaSet's none, so that a look at a slow rollout and one at its end compare
    alike."""
    was, is_ = (_template(seen, deployment) for seen in (before, now))
    old, new = before.replicaset_of(deployment), now.replicaset_of(deployment)
    if old != new:
        return Replacement(was != is_, (old, new), (), ())
    alive = {_uid(pod) for pod in now.live_pods_of(deployment)}
    records = {_uid(pod) for pod in now.finished_pods_of(deployment)}
    lost = [
        pod
        for pod in before.live_pods_of(deployment)
        if _owner(pod) == old and _uid(pod) not in alive
    ]
    return Replacement(
        was != is_,
        None,
        tuple(pod["metadata"]["name"] for pod in lost if _uid(pod) not in records),
        tuple(pod["metadata"]["name"] for pod in lost if _uid(pod) in records),
    )


def restarts_since(before: Mapping[str, int], pod: Object) -> int:
    """Restarts of a pod's containers since ``before`` (see :func:`restart_counts`); all of them
    where the pod is new since."""
    return max(0, restarts(pod) - before.get(_uid(pod), 0))


def restart_counts(pods: Iterable[Object]) -> dict[str, int]:
    """How often each pod's containers have restarted, by the pod's UID."""
    return {_uid(pod): restarts(pod) for pod in pods}


def _template(seen: Snapshot, deployment: str) -> Any:
    return (seen.deployments.get(deployment) or {}).get("spec", {}).get("template")


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])


def _names(pods: Iterable[Object]) -> tuple[str, ...]:
    return tuple(str(pod["metadata"]["name"]) for pod in pods)


# -- unrecoverable pods ----------------------------------------------------------------------------


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
        found += [trouble for pod in now.live_pods_of(name) for trouble in unscheduled(pod)]
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


def troubles(pods: Iterable[Object], *, forgiven_restarts: int = 0) -> list[Trouble]:
    """Every unrecoverable container of the live pods, init containers included. A crash loop of
    fewer than ``forgiven_restarts`` is none: the container may wait for one that starts beside
    it."""
    found: list[Trouble] = []
    for pod in filter(is_live, pods):
        status = pod.get("status") or {}
        for container in [
            *(status.get("initContainerStatuses") or []),
            *(status.get("containerStatuses") or []),
        ]:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in UNRECOVERABLE:
                continue
            if waiting["reason"] == "CrashLoopBackOff" and (
                int(container.get("restartCount", 0)) < forgiven_restarts
            ):
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
    """Remembers since when each container has been unrecoverable.

    A reason comes and goes between attempts (a crash loop runs in between, a pull is tried
    again), so looks without it over up to ``gap`` seconds do not forgive; ``patience`` seconds of
    it is enough to give up. How far apart the looks are does not matter: where none of them found
    the container well, it did not recover.
    """

    def __init__(self, *, patience: float = 5.0, gap: float = 3.0) -> None:
        self._patience = patience
        self._gap = gap
        self._since: dict[tuple[str, str], float] = {}
        self._well: dict[tuple[str, str], float] = {}
        """Since when the looks have found a container well again."""

    def see(self, now: float, found: Iterable[Trouble]) -> Trouble | None:
        """Take in one look at the pods; the trouble to give up for, if any. ``now`` in seconds."""
        troubled: dict[tuple[str, str], Trouble] = {}
        for trouble in found:
            troubled.setdefault((trouble.pod, trouble.container), trouble)
        for key in self._since.keys() - troubled.keys():
            self._well.setdefault(key, now)
        worst: Trouble | None = None
        for key, trouble in troubled.items():
            if now - self._well.pop(key, now) > self._gap:
                self._since.pop(key)
            since = self._since.setdefault(key, now)
            if now - since >= self._patience and worst is None:
                worst = trouble
        return worst


class UnrecoverablePod(Exception):
    """A pod is in a state that waiting does not heal. Whoever waits says what that means."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def fail_fast(watch: Watch, now: float, found: Iterable[Trouble]) -> None:
    """Raise :class:`UnrecoverablePod` when ``watch`` has seen one of the troubles for long enough.
    ``now`` in seconds."""
    trouble = watch.see(now, found)
    if trouble is not None:
        raise UnrecoverablePod(trouble)


SETTLE_SECONDS = 120
"""How long old pods may take to drain and go after Helm says that it is done, or rolled back."""
