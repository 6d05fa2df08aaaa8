"""The new image pulled by the target's own nodes, with the release's own rights, before the change.

A short-lived pod on each node that runs the service now asks for the image by its digest. What it
says when it runs is of no interest, only that it could be started at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ci.errors import PlanRefused, WaitTimeout
from ci.model import Image, Target
from ci.promotion.preflight.checklist import image_ref, names, refusal
from ci.promotion.release import pods as pods_
from ci.promotion.release.pods import Trial
from ci.promotion.release.rollout import Watch, troubles
from ci.promotion.release.session import TargetSession
from ci.results import CheckId, Duration, Measured, Problem, Span, Unit, failed

PULLING = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
    | {"ImageInspectError", "RegistryUnavailable"}
)
"""Waiting reasons of a container whose image is not there."""


def manifest(target: Target, gateway: Mapping[str, Any], image: Image, node: str) -> dict[str, Any]:
    """The pod. ``gateway`` is the live Deployment, whose pull secrets and account it has."""
    return pods_.manifest(
        target,
        pods_.PULL,
        gateway,
        ("imagePullSecrets", "serviceAccountName", "securityContext"),
        nodeName=node,
        tolerations=[{"operator": "Exists"}],
        activeDeadlineSeconds=target.timeout_seconds,
        containers=[
            {
                "name": "pull",
                "image": image.by_digest,
                "imagePullPolicy": "IfNotPresent",
                "command": ["true"],
                "resources": {
                    "requests": {"cpu": "5m", "memory": "8Mi"},
                    "limits": {"memory": "64Mi"},
                },
                "securityContext": pods_.UNPRIVILEGED,
            }
        ],
    )


def pulled(pod: Mapping[str, Any]) -> bool:
    """Whether the pod's image is on its node: its container ran, or failed for another reason."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        state = container.get("state") or {}
        waiting = (state.get("waiting") or {}).get("reason", "ContainerCreating")
        if "terminated" in state or "running" in state:
            return True
        return waiting not in PULLING and waiting not in ("ContainerCreating", "PodInitializing")
    return False


def rejected(pod: Mapping[str, Any]) -> str:
    """Why the node did not take the pod at all; empty when it did."""
    status = pod.get("status") or {}
    if status.get("phase") == "Failed" and not status.get("containerStatuses"):
        return f"{status.get('reason', 'no reason')}: {status.get('message', '')}"[:200]
    return ""


class Pull(Trial):
    """Begins beside the next steps; :meth:`check` waits for the nodes."""

    id = CheckId.IMAGE_PULLABLE

    def __init__(
        self,
        session: TargetSession,
        image: Image,
        gateway: Mapping[str, Any],
        pods: Sequence[Mapping[str, Any]],
    ) -> None:
        target = session.target
        self._image = image_ref(image)
        self._nodes = sorted(
            {str(p["spec"]["nodeName"]) for p in pods if p["spec"].get("nodeName")}
        )
        made = [manifest(target, gateway, image, node) for node in self._nodes]
        off = "" if target.pull_on_nodes else "pull_on_nodes"
        super().__init__(session, pods_.PULL, made, setting=off)

    def _watched(self) -> tuple[Measured, ...]:
        begun, watch, took = self._clock.monotonic(), Watch(), dict[str, float]()

        def seen(now: float, pods: Sequence[Mapping[str, Any]]) -> set[str]:
            for pod in pods:
                if pulled(pod) or rejected(pod):
                    took.setdefault(pod["metadata"]["name"], now - begun)
            trouble = watch.see(now, [t for t in troubles(pods) if t.reason in PULLING])
            if trouble is not None:
                raise self._refused(f"{trouble.reason}: {trouble.message}")
            return set(took)

        wanted = f"{len(self._names)} nodes to pull {self._image.repository}@{self._image.digest}"
        try:
            self._wait(wanted, seen, self._target.timeout_seconds)
        except WaitTimeout as problem:
            raise self._refused(str(problem)) from problem
        slowest = max(took.values(), default=0.0)
        return self._image, names(Unit.NODES, self._nodes), Duration(Span.PULL, slowest)

    def _refused(self, problem: str) -> PlanRefused:
        return refusal(
            failed(self.id, self._image, names(Unit.NODES, self._nodes), Problem(problem))
        )
