"""The new image pulled by the target's own nodes, with the release's own rights, before the change.

A short-lived pod on each node that runs the service now asks for the image by its digest. What it
says when it runs is of no interest, only that it could be started at all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ci.context import Context
from ci.errors import CommandFailed, PlanRefused, WaitTimeout
from ci.model import Check, Image, Target
from ci.promotion import live
from ci.promotion.inside import UNPRIVILEGED
from ci.promotion.rollout import Watch, troubles
from ci.tools.wait import wait_until

LABEL = "queue-timeout-gate/pull"
NAME = "image can be pulled on the target's nodes"
PULLING = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
    | {"ImageInspectError", "RegistryUnavailable"}
)
"""Waiting reasons of a container whose image is not there."""


def manifest(
    target: Target, name: str, gateway: Mapping[str, Any], image: Image, node: str
) -> dict[str, Any]:
    """The pod. ``gateway`` is the live Deployment, whose pull secrets and account it has."""
    spec = gateway["spec"]["template"]["spec"]
    copied = ("imagePullSecrets", "serviceAccountName", "securityContext")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {LABEL: target.release}},
        "spec": {
            **{key: spec[key] for key in copied if spec.get(key)},
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "restartPolicy": "Never",
            "activeDeadlineSeconds": target.timeout_seconds,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "pull",
                    "image": image.by_digest,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["true"],
                    "resources": {
                        "requests": {"cpu": "5m", "memory": "8Mi"},
                        "limits": {"memory": "64Mi"},
                    },
                    "securityContext": UNPRIVILEGED,
                }
            ],
        },
    }


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


class Pull:
    """Begins beside the next steps; :meth:`check` waits for the nodes."""

    def __init__(
        self,
        context: Context,
        target: Target,
        image: Image,
        gateway: Mapping[str, Any],
        pods: Sequence[Mapping[str, Any]],
    ) -> None:
        self._context, self._target, self._image = context, target, image
        self._kube = live.private_kube(context, target)
        self._nodes = sorted(
            {str(p["spec"]["nodeName"]) for p in pods if p["spec"].get("nodeName")}
        )
        self._gateway = gateway
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pull")
        self._result: Future[Check] | None = None

    def __enter__(self) -> Pull:
        if self._target.pull_on_nodes:
            self._result = self._pool.submit(self._try)
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown(wait=True)
        if self._result is not None and self._result.exception() is not None:
            self._remove()

    def check(self) -> Check:
        """Raises :class:`PlanRefused` when a node cannot pull the image."""
        if self._result is None:
            return Check(NAME, True, "not tried: turned off (pull_on_nodes)")
        return self._result.result()

    def _remove(self) -> None:
        selector = f"{LABEL}={self._target.release}"
        self._kube.for_cleanup().remove_pods(self._target.namespace, selector)

    def _try(self) -> Check:
        clock, begun = self._context.clock, self._context.clock.monotonic()
        made = [
            manifest(
                self._target,
                f"promotion-pull-{secrets.token_hex(3)}",
                self._gateway,
                self._image,
                n,
            )
            for n in self._nodes
        ]
        listed = {"apiVersion": "v1", "kind": "List", "items": made}
        try:
            self._kube.run(
                "create", "-f", "-", "--namespace", self._target.namespace, input=json.dumps(listed)
            )
        except CommandFailed as problem:
            why = live.failed_to_text(problem)
            return Check(NAME, True, f"not tried: the pod is not admitted: {why}")
        names = {pod["metadata"]["name"] for pod in made}
        watch, took = Watch(), dict[str, float]()

        def done() -> bool:
            pods = self._kube.pods(self._target.namespace, f"{LABEL}={self._target.release}")
            now = clock.monotonic()
            for pod in pods:
                name = pod["metadata"]["name"]
                if name in names and (pulled(pod) or rejected(pod)):
                    took.setdefault(name, now - begun)
            trouble = watch.see(now, [t for t in troubles(pods) if t.reason in PULLING])
            if trouble is not None:
                raise PlanRefused(
                    f"a node of the target cannot pull {self._image.by_digest}: {trouble}",
                    remedy="push it there, or correct the release's pull secrets; the target was"
                    " not touched",
                )
            return names <= took.keys()

        try:
            wait_until(
                f"{len(names)} nodes to pull {self._image.by_digest}",
                done,
                timeout=self._target.timeout_seconds,
                clock=clock,
                interval=0.3,
                diagnose=lambda: f"{len(took)} have it",
            )
        except WaitTimeout as problem:
            raise PlanRefused(
                f"the target's nodes do not get the image: {problem}",
                remedy="see that its registry answers the nodes, and how fast; the target was not"
                " touched",
            ) from problem
        self._remove()
        seconds = ", ".join(f"{each:.1f} s" for each in took.values())
        return Check(NAME, True, f"by digest on {', '.join(self._nodes)} in {seconds}")
