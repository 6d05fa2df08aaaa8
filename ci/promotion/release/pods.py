"""Short-lived pods of ours on a target, which try something before the change."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

from ci.errors import CommandFailed, error_summary
from ci.model import Target
from ci.promotion.release.session import TargetSession
from ci.results import Because, Check, CheckId, Measured, Problem, passed, skipped, unknown
from ci.tools.kube import Kube
from ci.tools.wait import wait_until

PULL, SURGE, PROBER = KINDS = ("pull", "surge", "prober")

UNPRIVILEGED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What a pod of ours may do on a target: nothing that its admission could refuse."""

Pod = Mapping[str, Any]


def manifest(
    target: Target, kind: str, like: Mapping[str, Any], copied: Sequence[str], **spec: Any
) -> dict[str, Any]:
    """A pod ``promotion-KIND-…`` that ends by itself and may do nothing. Of the live Deployment
    ``like`` it has the fields of the pod's spec that are ``copied``. Its label is its own, so that
    no Service leads to it."""
    live_spec = like["spec"]["template"]["spec"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"promotion-{kind}-{secrets.token_hex(3)}",
            "labels": {label(kind): target.release},
        },
        "spec": {
            **{key: live_spec[key] for key in copied if live_spec.get(key)},
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **spec,
        },
    }


def label(kind: str) -> str:
    return f"queue-timeout-gate/{kind}"


def selector(target: Target, kind: str) -> str:
    return f"{label(kind)}={target.release}"


def remove_left(kube: Kube, target: Target) -> None:
    """Let pods go that runs which were killed have left. Only for who holds the release's lock."""
    for kind in KINDS:
        kube.remove_pods(target.namespace, selector(target, kind))


class Trial(ABC):
    """Begins beside the next steps; :meth:`check` waits for its result."""

    id: ClassVar[CheckId]

    def __init__(
        self, session: TargetSession, kind: str, pods: Sequence[Pod], *, setting: str = ""
    ) -> None:
        """``setting`` is the one that turned it off; empty when it is on."""
        target = session.target
        self._clock, self._target, self._pods = session.clock, target, pods
        self._kube = session.kube
        self._selector = selector(target, kind)
        self._names = {str(pod["metadata"]["name"]) for pod in pods}
        self._setting = setting
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=kind)
        self._result: Future[Check] | None = None

    def __enter__(self) -> Trial:
        if self._pods and not self._setting:
            self._result = self._pool.submit(self._try)
        return self

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown(wait=True)

    def check(self) -> Check:
        """Raises :class:`ci.errors.PlanRefused` when it shows that the change cannot work."""
        if self._setting:
            return skipped(self.id, self._setting)
        return self._result.result() if self._result is not None else self._without_pods()

    def _try(self) -> Check:
        try:
            try:
                for pod in self._pods:
                    self._kube.create("pods", self._target.namespace, pod)
            except CommandFailed as problem:
                return self._not_admitted(error_summary(problem))
            return passed(self.id, *self._watched())
        finally:
            self._kube.for_cleanup().remove_pods(self._target.namespace, self._selector)

    def _wait(
        self,
        what: str,
        seen: Callable[[float, Sequence[Pod]], set[str]],
        timeout: float,
    ) -> None:
        """Wait until ``seen``, given the time and our pods, has named all of them."""
        done: set[str] = set()

        def all_done() -> bool:
            pods = self._kube.pods(self._target.namespace, self._selector)
            mine = [pod for pod in pods if pod["metadata"]["name"] in self._names]
            done.update(seen(self._clock.monotonic(), mine))
            return self._names <= done

        wait_until(
            what,
            all_done,
            timeout=timeout,
            clock=self._clock,
            interval=0.2,
            diagnose=lambda: f"{len(done)} of {len(self._names)} pods",
        )

    def _without_pods(self) -> Check:
        """The check where there is no pod to try it with."""
        return unknown(self.id, Because.NO_ANSWER)

    def _not_admitted(self, problem: str) -> Check:
        """The check where the pods may not be made, with why. Raises where that is an answer."""
        return unknown(self.id, Because.NOT_ADMITTED, Problem(problem))

    @abstractmethod
    def _watched(self) -> tuple[Measured, ...]:
        """What was measured, once every pod has shown it. Raises like :meth:`check`."""
