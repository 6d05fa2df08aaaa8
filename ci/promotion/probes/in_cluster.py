"""The prober inside the cluster: a pod of the image that serves now, which every node has.

It sees the Service as the service's own clients do, and goes on when the API server is away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ci.errors import CommandFailed, PipelineError
from ci.model import Target
from ci.promotion.probes.prober import Account, median
from ci.promotion.release import pods
from ci.promotion.release.session import TargetSession
from ci.tools.wait import wait_until

_SCRIPT = Path(__file__).parent / "probe_pod.py"


def manifest(target: Target, gateway: Mapping[str, Any], image: str) -> dict[str, Any]:
    """The pod. ``gateway`` is the live Deployment: pull secrets and placement are its own."""
    probing = target.probing
    return pods.manifest(
        target,
        pods.PROBER,
        gateway,
        ("imagePullSecrets", "nodeSelector", "tolerations", "securityContext"),
        # A prober whose run was killed ends by itself; no other does before the change does.
        activeDeadlineSeconds=target.timeout_seconds * 2 + target.soak_seconds + 900,
        containers=[
            {
                "name": "prober",
                "image": image,
                "command": [
                    "python3",
                    "-c",
                    _SCRIPT.read_text(encoding="utf-8"),
                    f"{target.gateway}.{target.namespace}.svc",
                    str(target.port),
                    probing.path,
                    str(probing.per_second),
                    str(probing.timeout_seconds),
                ],
                "resources": {
                    # Of a busy node, who asks for little gets little, and it would be the
                    # service that seems slow.
                    "requests": {"cpu": "100m", "memory": "32Mi"},
                    "limits": {"memory": "128Mi"},
                },
                "securityContext": pods.UNPRIVILEGED,
            }
        ],
    )


def parse(log: str) -> Account | None:
    """The newest account in the pod's log; ``None`` when there is none yet."""
    for line in reversed(log.splitlines()):
        try:
            said = json.loads(line)
            took = tuple(int(count) for count in said["took"])
            slowest = float(said["slowest"])
            return Account(
                sent=int(said["sent"]),
                answered=int(said["answered"]),
                failed=int(said["failed"]),
                longest_gap=float(said["longest_gap"]),
                slowest=slowest,
                median=median(took, slowest),
                problems=tuple((str(why), int(often)) for why, often in said["problems"]),
                took=took,
            )
        except (ValueError, KeyError, TypeError):
            continue
    return None


class InsideProber:
    """Starts the pod at once; :meth:`account` says what it has seen."""

    where = "inside the cluster"
    what = "requests"

    def __init__(self, session: TargetSession, gateway: Mapping[str, Any], image: str) -> None:
        # Cleanup mode: the pod is removed after Ctrl-C, too.
        cleanup, target = session.for_cleanup(), session.target
        self._kube, self._clock, self._target = cleanup.kube, cleanup.clock, target
        pod = manifest(target, gateway, image)
        self.name = str(pod["metadata"]["name"])
        self._kube.create("pods", target.namespace, pod)

    def account(self) -> Account | None:
        """What it has seen so far; ``None`` before its first line. Raises when it does not run."""
        answer = self._kube.logs(self.name, self._target.namespace, tailLines=3, timeout=20)
        found = parse(answer.text) if answer.ok else None
        if found is None and "Traceback" in answer.text:
            raise CommandFailed(f"the prober's pod ended: {answer.text.strip()[-200:]}")
        return found

    def stop(self) -> Account | None:
        """The final account, which covers everything sent by now; ``None`` when the pod is
        lost."""
        try:
            return self._newer(self._newer(None))
        except PipelineError:
            return None

    def _newer(self, than: Account | None) -> Account:
        """The first account in which all is answered or failed that ``than`` had sent."""

        def found() -> Account | None:
            now = self.account()
            if now is None or (than is not None and now.sent <= than.sent):
                return None
            return now if than is None or now.answered + now.failed >= than.sent else None

        return wait_until(
            "the prober's next line", found, timeout=15, clock=self._clock, interval=0.1
        )

    def remove(self) -> None:
        """With what runs that were killed have left."""
        mine = pods.selector(self._target, pods.PROBER)
        self._kube.remove_pods(self._target.namespace, mine)
