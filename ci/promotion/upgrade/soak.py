"""The soak: the new version serves, and is watched by the gates before it is called promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from ci.errors import CommandFailed, PromotionFailed
from ci.model import Check, Image, Query
from ci.promotion.probes.prober import Account, Counting
from ci.promotion.release import logs, reader
from ci.promotion.release.rollout import Expected, new_pods, restart_counts
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade import gates
from ci.tools.prometheus import Prometheus

LOOK_SECONDS = 5.0
"""Between two looks at the gates."""
OLD_LOGS_SECONDS = 600
"""How far back the old version's logs are read for its rate of error lines."""

Pods = Sequence[Mapping[str, Any]]
Accounts = tuple[Account | None, ...]
"""One of each prober."""


class Soak:
    """Reads how the old version does when it is made, and watches the new one when asked to.

    With ``soak_seconds = 0`` it reads nothing and watches nothing.
    """

    def __init__(
        self,
        session: TargetSession,
        probers: Sequence[Counting],
        old: Image,
        pods: Pods,
    ) -> None:
        target = session.target
        self._session, self._target, self._probers = session, target, probers
        self._kube = session.kube
        self._restarts = restart_counts(pods)
        self._old_lines = gates.Lines((), 0.0)
        self._before: Accounts = (None,) * len(probers)
        self._answers: dict[Query, tuple[float | None, str]] = {}
        if not target.soak_seconds:
            return
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="soak") as pool:
            accounts = pool.submit(self._accounts)
            lines = logs.error_lines(
                self._kube, target, pods, since=OLD_LOGS_SECONDS, repository=old.repository
            )
            self._before = accounts.result()
        self._old_lines = gates.Lines(tuple(lines), listened(pods, datetime.now(UTC)))

    def watch(self, image: Image) -> tuple[Check, ...]:
        """Watch for ``soak_seconds``. Raises :class:`PromotionFailed` at the first breach."""
        clock, target = self._session.clock, self._target
        begun = clock.monotonic()
        start = self._accounts()
        with ExitStack() as held:
            prometheus = None
            if target.gates.queries:
                token = self._session.programs.env.get(target.gates.prometheus_token_env, "")
                self._session.programs.hide(token)
                prometheus = held.enter_context(
                    Prometheus(target.gates.prometheus_url, token=token)
                )
            while True:
                self._look(image, start, prometheus)
                left = begun + target.soak_seconds - clock.monotonic()
                if left <= 0:
                    break
                self._session.events.note(f"{left:.0f} s to go, no gate is breached")
                clock.sleep(min(LOOK_SECONDS, left))
        for asked, (value, problem) in self._answers.items():
            if value is None:
                raise PromotionFailed(gates.unanswered(asked, problem))
        return self._checks(start)

    def _look(self, image: Image, starts: Accounts, prometheus: Prometheus | None) -> None:
        """One look at every gate. An API that is away for a moment is looked at again."""
        target, limits = self._target, self._target.gates
        breaches: list[str] = []
        for prober, first, start, now in zip(
            self._probers, self._before, starts, self._accounts(), strict=True
        ):
            if now is None or start is None:
                continue
            before, soak = gates.between(None, first or start), gates.between(start, now)
            found = [gates.errors(before, soak, limits), gates.latency(before, soak, limits)]
            if now.failed > target.probing.allowed_failures:
                found.append(f"requests were lost: {now}")
            breaches += [f"{breach}, {prober.where}" for breach in found if breach]
        try:
            snapshot = reader.snapshot(self._kube, target.namespace)
            expected = Expected(
                target.deployments, target.gateway, image.repository, image.tag, frozenset()
            )
            pods = new_pods(snapshot, expected)
            breaches.append(gates.restarted(pods, limits, self._restarts))
            lines = gates.Lines(
                tuple(logs.error_lines(self._kube, target, pods)),
                listened(pods, datetime.now(UTC), longest=None),
            )
            breaches.append(gates.error_lines(self._old_lines, lines))
        except CommandFailed as problem:
            self._session.events.note(f"the API does not answer: {reader.failed_to_text(problem)}")
        for asked in limits.queries if prometheus is not None else ():
            value, problem_ = prometheus.ask(asked.query) if prometheus else (None, "")
            if value is not None or self._answers.get(asked, (None, ""))[0] is None:
                self._answers[asked] = (value, problem_)
            breaches.append(gates.query(asked, value))
        if said := [breach for breach in breaches if breach]:
            raise PromotionFailed("; ".join(said))

    def _checks(self, starts: Accounts) -> tuple[Check, ...]:
        checks = [
            Check("no gate was breached in the soak", True, f"{self._target.soak_seconds} s"),
        ]
        for prober, before, start, now in zip(
            self._probers, self._before, starts, self._accounts(), strict=True
        ):
            if before is None or start is None or now is None:
                continue
            spans = {
                "before": gates.between(None, before),
                "during": gates.between(before, start),
                "soaking": gates.between(start, now),
            }
            text = "; ".join(f"{name} {span}" for name, span in spans.items())
            checks.append(Check("latency, median/95 %", True, f"{text}; {prober.where}"))
        checks += [
            Check(f"query {asked.name}", True, f"{value:g}, limit {asked.limit:g}")
            for asked, (value, _) in self._answers.items()
            if value is not None
        ]
        return tuple(checks)

    def _accounts(self) -> Accounts:
        """Of every prober now; of one that cannot be read, none."""
        found: list[Account | None] = []
        for prober in self._probers:
            try:
                found.append(prober.account())
            except CommandFailed:
                found.append(None)
        return tuple(found)


def listened(pods: Pods, now: datetime, longest: float | None = OLD_LOGS_SECONDS) -> float:
    """Pod-seconds that the logs of ``pods`` cover: each pod's age, at most ``longest``."""
    total = 0.0
    for pod in pods:
        begun = (pod.get("status") or {}).get("startTime")
        age = (now - datetime.fromisoformat(begun)).total_seconds() if begun else 0.0
        total += max(0.0, age if longest is None else min(age, longest))
    return total
