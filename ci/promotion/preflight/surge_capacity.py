"""Room for the pods that a rollout adds, tried before the change.

What a cluster has room for is not computed here: its own scheduler is asked, by a short-lived pod
for each Deployment that needs one more before it may end an old one. It asks for what the live
pods ask for (resources, ports of the node, placement), so taints, affinities, quotas and a node
that an autoscaler adds all count. It runs nothing, in the image that the nodes have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ci.errors import PlanRefused
from ci.model import Target
from ci.promotion.preflight.checklist import refusal
from ci.promotion.release import pods as pods_
from ci.promotion.release.pods import Trial
from ci.promotion.release.rollout import Snapshot, Watch, unscheduled
from ci.promotion.release.session import TargetSession
from ci.results import Check, CheckId, Count, Measured, Problem, Unit, failed, passed

PATIENCE_SECONDS = 30
"""As long as a new pod may stay without a node in the change itself."""
PLACEMENT = (
    "affinity", "imagePullSecrets", "nodeSelector", "priorityClassName", "runtimeClassName",
    "schedulerName", "securityContext", "tolerations", "topologySpreadConstraints",
)  # fmt: skip


def needs_room(deployment: Mapping[str, Any]) -> bool:
    """Whether a rollout adds a pod before it ends one: it may make none unavailable."""
    spec = deployment["spec"]
    replicas = int(spec.get("replicas", 1))
    strategy = spec.get("strategy") or {}
    if replicas == 0 or strategy.get("type") == "Recreate":
        return False
    allowed = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", "25%")
    if isinstance(allowed, str):
        # Kubernetes rounds down: of three replicas 25 % are none.
        allowed = math.floor(int(allowed.rstrip("%")) * replicas / 100)
    return int(allowed) == 0


def manifest(target: Target, deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The pod. It asks for what one of the live Deployment asks for."""
    kept = ("name", "image", "ports", "resources")
    return pods_.manifest(
        target,
        pods_.SURGE,
        deployment,
        PLACEMENT,
        activeDeadlineSeconds=2 * PATIENCE_SECONDS,
        containers=[
            {
                **{key: container[key] for key in kept if container.get(key)},
                "command": ["true"],
                "securityContext": pods_.UNPRIVILEGED,
            }
            for container in deployment["spec"]["template"]["spec"]["containers"]
        ],
    )


class Surge(Trial):
    """Begins beside the next steps; :meth:`check` waits for the scheduler."""

    id = CheckId.CAPACITY_SURGE

    def __init__(self, session: TargetSession, deployments: tuple[str, ...], now: Snapshot) -> None:
        target = session.target
        pods = [
            manifest(target, now.deployments[name])
            for name in deployments
            if needs_room(now.deployments[name])
        ]
        super().__init__(
            session, pods_.SURGE, pods, setting="" if target.try_surge else "try_surge"
        )

    def _without_pods(self) -> Check:
        """The rollout adds no pod before it ends one."""
        return passed(self.id, Count(Unit.PODS, 0))

    def _not_admitted(self, problem: str) -> Check:
        if "exceeded quota" in problem:  # the API server's own words
            raise self._no_room(problem)
        return super()._not_admitted(problem)

    def _watched(self) -> tuple[Measured, ...]:
        watch = Watch(patience=PATIENCE_SECONDS)

        def seen(now: float, pods: Sequence[Mapping[str, Any]]) -> set[str]:
            trouble = watch.see(now, [t for pod in pods for t in unscheduled(pod)])
            if trouble is not None:
                raise self._no_room(trouble.message or trouble.reason)
            return {pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")}

        self._wait(f"nodes for {len(self._names)} pods", seen, 2 * PATIENCE_SECONDS)
        return (Count(Unit.PODS, len(self._names)),)

    def _no_room(self, problem: str) -> PlanRefused:
        return refusal(failed(self.id, Count(Unit.PODS, len(self._names)), Problem(problem)))
