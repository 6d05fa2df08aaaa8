"""Room for the pods that a roll-over adds, tried before the change.

What a cluster has room for is not computed here: its own scheduler is asked, by a short-lived pod
for each Deployment that needs one more before it may end an old one. It asks for what the live
pods ask for (resources, ports of the node, placement), so taints, affinities, quotas and a node
that an autoscaler adds all count. It runs nothing, in the image that the nodes have.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ci.context import Context
from ci.errors import CommandFailed, PlanRefused
from ci.model import Check, Target
from ci.promotion import live
from ci.promotion.inside import UNPRIVILEGED
from ci.promotion.rollout import Snapshot, Watch, unscheduled
from ci.tools.wait import wait_until

LABEL = "queue-timeout-gate/surge"
NAME = "room for the pods that the roll-over adds"
PATIENCE_SECONDS = 30
"""As long as a new pod may stay without a node in the change itself."""
PLACEMENT = (
    "affinity", "imagePullSecrets", "nodeSelector", "priorityClassName", "runtimeClassName",
    "schedulerName", "securityContext", "tolerations", "topologySpreadConstraints",
)  # fmt: skip


def needs_room(deployment: Mapping[str, Any]) -> bool:
    """Whether a roll-over adds a pod before it ends one: it may make none unavailable."""
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


def manifest(target: Target, name: str, deployment: Mapping[str, Any]) -> dict[str, Any]:
    """The pod. Its labels are its own, so that no Service leads to it."""
    spec = deployment["spec"]["template"]["spec"]
    kept = ("name", "image", "ports", "resources")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {LABEL: target.release}},
        "spec": {
            **{key: spec[key] for key in PLACEMENT if spec.get(key)},
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 2 * PATIENCE_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    **{key: container[key] for key in kept if container.get(key)},
                    "command": ["true"],
                    "securityContext": UNPRIVILEGED,
                }
                for container in spec["containers"]
            ],
        },
    }


class Surge:
    """Begins beside the next steps; :meth:`check` waits for the scheduler."""

    def __init__(
        self, context: Context, target: Target, deployments: tuple[str, ...], now: Snapshot
    ) -> None:
        self._context, self._target = context, target
        self._kube = live.private_kube(context, target)
        self._pods = [
            manifest(target, f"promotion-surge-{secrets.token_hex(3)}", now.deployments[name])
            for name in deployments
            if needs_room(now.deployments[name])
        ]
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="surge")
        self._result: Future[Check] | None = None

    def __enter__(self) -> Surge:
        if self._pods and self._target.try_surge:
            self._result = self._pool.submit(self._try)
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown(wait=True)
        if self._result is not None and self._result.exception() is not None:
            self._remove()

    def check(self) -> Check:
        """Raises :class:`PlanRefused` when there is no room."""
        if self._result is not None:
            return self._result.result()
        why = "turned off (try_surge)" if self._pods else "the roll-over adds no pod"
        return Check(NAME, True, f"not tried: {why}")

    def _remove(self) -> None:
        selector = f"{LABEL}={self._target.release}"
        self._kube.for_cleanup().remove_pods(self._target.namespace, selector)

    def _try(self) -> Check:
        clock, kube, namespace = self._context.clock, self._kube, self._target.namespace
        listed = {"apiVersion": "v1", "kind": "List", "items": self._pods}
        try:
            kube.run("create", "-f", "-", "--namespace", namespace, input=json.dumps(listed))
        except CommandFailed as problem:
            why = live.failed_to_text(problem)
            if "exceeded quota" in why:
                raise self._no_room(why) from problem
            return Check(NAME, True, f"not tried: the pod is not admitted: {why}")
        names = {pod["metadata"]["name"] for pod in self._pods}
        watch, seen = Watch(patience=PATIENCE_SECONDS), {"placed": 0}

        def done() -> bool:
            pods = kube.pods(namespace, f"{LABEL}={self._target.release}")
            pods = [pod for pod in pods if pod["metadata"]["name"] in names]
            trouble = watch.see(clock.monotonic(), [t for pod in pods for t in unscheduled(pod)])
            if trouble is not None:
                raise self._no_room(str(trouble))
            seen["placed"] = sum(1 for pod in pods if pod["spec"].get("nodeName"))
            return seen["placed"] == len(names)

        wait_until(
            f"nodes for {len(names)} pods",
            done,
            timeout=2 * PATIENCE_SECONDS,
            clock=clock,
            interval=0.3,
            diagnose=lambda: f"{seen['placed']} have one",
        )
        self._remove()
        return Check(NAME, True, f"nodes for {len(names)} more pods, as the scheduler says")

    def _no_room(self, why: str) -> PlanRefused:
        return PlanRefused(
            f"there is no room for the pods that the roll-over adds: {why}",
            remedy="make room, or let old pods go first (maxUnavailable); try_surge = false for"
            " the target leaves it to the change. The target was not touched",
        )
