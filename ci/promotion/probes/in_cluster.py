"""The prober inside the cluster: a pod of the image that serves now, which every node has.

It sees the Service as the service's own clients do, and goes on when the API server is away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ci.errors import CommandFailed, PipelineError
from ci.model import ProbeSeries, Target
from ci.promotion.probes.prober import Account, ends, median
from ci.promotion.probes.series import Buckets
from ci.promotion.release import pods
from ci.promotion.release.session import TargetSession
from ci.results import ProbePlace
from ci.tools.wait import wait_until

SERIES_LINES = 30_000
"""Lines of its log that its requests over time are made of: the last two hours."""
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
                    f"{probing.per_second:g}",
                    f"{probing.timeout_seconds:g}",
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
    return next((account for line in reversed(log.splitlines()) if (account := _line(line))), None)


def _line(line: str) -> Account | None:
    """The account in a line of the log; ``None`` where there is none."""
    try:
        fields = json.loads(line)
        took = tuple(int(count) for count in fields["took"])
        slowest = float(fields["slowest"])
        return Account(
            sent=int(fields["sent"]),
            answered=int(fields["answered"]),
            failed=int(fields["failed"]),
            longest_gap=float(fields["longest_gap"]),
            slowest=slowest,
            median=median(took, slowest),
            problems=tuple((str(why), int(often)) for why, often in fields["problems"]),
            took=took,
        )
    except (ValueError, KeyError, TypeError):
        return None


def over_time(log: str, *, read: float) -> Buckets:
    """The requests over time, from the running totals in the pod's log, which was ``read`` so many
    seconds after the run began. What happened between two lines counts at the first of them; the
    slowest answer is the end of its :func:`ci.promotion.probes.prober.bucket`.

    A log whose beginning is missing counts from its first line on.
    """
    lines: list[tuple[float, Account]] = []
    for line in log.splitlines():
        account = _line(line)
        if account is not None:
            with suppress(KeyError, TypeError, ValueError):
                lines.append((float(json.loads(line)["at"]), account))
    buckets = Buckets()
    if not lines:
        return buckets
    shift = read - lines[-1][0]
    first = lines[0]
    whole = first[0] < 1
    before = (0.0, Account(0, 0, 0, 0.0, 0.0, 0.0)) if whole else first
    for at, now in lines if whole else lines[1:]:
        was = before[1]
        new = [index for index, count in enumerate(now.took) if count > was.took[index]]
        buckets.add(
            before[0] + shift,
            sent=now.sent - was.sent,
            answered=now.answered - was.answered,
            failed=now.failed - was.failed,
            slowest=min(ends(new[-1]), now.slowest) if new else 0.0,
        )
        before = (at, now)
    return buckets


class InsideProber:
    """Starts the pod at once; :meth:`account` says what it has seen."""

    place = ProbePlace.IN_CLUSTER

    def __init__(self, session: TargetSession, gateway: Mapping[str, Any], image: str) -> None:
        # Cleanup mode: the pod is removed after Ctrl-C, too.
        cleanup, target = session.for_cleanup(), session.target
        self._kube, self._clock, self._target = cleanup.kube, cleanup.clock, target
        self._began = session.events.began
        self._stopped = False
        self._final: Account | None = None
        self._over_time = Buckets()
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
        if self._stopped:
            return self._final
        self._stopped = True
        with suppress(PipelineError):
            self._final = self._newer(self._newer(None))
            log = self._kube.logs(
                self.name, self._target.namespace, tailLines=SERIES_LINES, timeout=60
            )
            if log.ok:
                now = self._clock.monotonic() - self._began
                self._over_time = over_time(log.text, read=now)
        return self._final

    def series(self) -> ProbeSeries:
        final = self._final
        allowed = self._target.probing.allowed_failures
        return ProbeSeries(
            self.place,
            final.requests(allowed) if final is not None else None,
            self._over_time.all(),
            self._over_time.width,
        )

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
