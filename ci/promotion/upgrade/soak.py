"""The soak: the new version serves, and is watched by the gates before it is called promoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from ci.errors import CommandFailed, PromotionFailed, error_summary
from ci.model import Image
from ci.promotion.probes import accounting
from ci.promotion.probes.prober import Account, Counting
from ci.promotion.release import logs, reader
from ci.promotion.release.failure import failure
from ci.promotion.release.rollout import Expected, new_pods, restart_counts
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade import gates
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    Duration,
    Phase,
    Problem,
    Span,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.settings import Query
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
        self._looks = 0
        """Looks at the pods and their logs that had an answer."""
        self._unanswered: tuple[Because, str] = (Because.NO_ANSWER, "")
        """Why the last look that had none did not."""
        if not target.soak_seconds:
            return
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="soak") as pool:
            accounts = pool.submit(self._accounts)
            old_lines = logs.error_lines(
                self._kube, target, pods, since=OLD_LOGS_SECONDS, repository=old.repository
            )
            self._before = accounts.result()
        self._old_lines = gates.Lines(old_lines.lines, listened(pods, datetime.now(UTC)))

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
                breaches = self._look(image, start, prometheus)
                if breaches:
                    raise failure(PromotionFailed, Phase.DURING, breaches)
                left = begun + target.soak_seconds - clock.monotonic()
                if left <= 0:
                    break
                self._session.events.note(f"{left:.0f} s of the soak left, no limit exceeded")
                clock.sleep(min(LOOK_SECONDS, left))
        checks = self._checks(start)
        if any(c.id is CheckId.SOAK_QUERY and not c.passed for c in checks):
            raise failure(PromotionFailed, Phase.DURING, checks)
        return checks

    def _look(
        self, image: Image, starts: Accounts, prometheus: Prometheus | None
    ) -> tuple[Check, ...]:
        """One look at every gate; the checks that failed. An API that is away for a moment is
        looked at again."""
        target, limits = self._target, self._target.gates
        breaches: list[Check] = []
        for prober, first, start, now in zip(
            self._probers, self._before, starts, self._accounts(), strict=True
        ):
            if now is None or start is None:
                continue
            before, soak = gates.between(None, first or start), gates.between(start, now)
            for id, breach in (
                (CheckId.SOAK_GATES, gates.errors(before, soak, limits)),
                (CheckId.SOAK_LATENCY, gates.latency(before, soak, limits)),
            ):
                if breach is not None:
                    breaches.append(failed(id, breach, subject=prober.place))
            if now.failed > target.probing.allowed_failures:
                breaches.append(accounting.account_of(target, prober.place, now))
        breaches += self._look_at_pods(image)
        for asked in limits.queries if prometheus is not None else ():
            value, problem = prometheus.ask(asked.query) if prometheus else (None, "")
            if value is not None or self._answers.get(asked, (None, ""))[0] is None:
                self._answers[asked] = (value, problem)
            if value is not None and (check := gates.query(asked, value)).failed:
                breaches.append(check)
        return tuple(breaches)

    def _look_at_pods(self, image: Image) -> list[Check]:
        target, limits = self._target, self._target.gates
        try:
            snapshot = reader.snapshot(self._kube, target.namespace)
            expected = Expected(
                target.deployments, target.gateway, image.repository, image.tag, frozenset()
            )
            pods = new_pods(snapshot, expected)
            lines = logs.error_lines(self._kube, target, pods)
        except CommandFailed as problem:
            self._unanswered = Because.NO_ANSWER, error_summary(problem)
            self._session.events.note(f"the API does not answer: {error_summary(problem)}")
            return []
        if lines.unread:
            self._unanswered = lines.because, lines.problem
        elif pods:
            self._looks += 1
        seen = gates.Lines(lines.lines, listened(pods, datetime.now(UTC), longest=None))
        breaches = (
            gates.restarted(pods, limits, self._restarts),
            gates.error_lines(self._old_lines, seen),
        )
        return [failed(CheckId.SOAK_GATES, breach) for breach in breaches if breach is not None]

    def _checks(self, starts: Accounts) -> tuple[Check, ...]:
        checks = [self._looked()]
        for prober, before, start, now in zip(
            self._probers, self._before, starts, self._accounts(), strict=True
        ):
            id, place = CheckId.SOAK_LATENCY, prober.place
            if before is None or start is None or now is None:
                checks.append(unknown(id, Because.NO_ANSWER, subject=place))
                continue
            was, during = gates.between(None, before), gates.between(before, start)
            soak = gates.between(start, now)
            measured = was.latency("before"), during.latency("during"), soak.latency("soak")
            if gates.comparable(was, soak):
                checks.append(passed(id, *measured, subject=place))
            else:
                checks.append(unknown(id, Because.TOO_FEW, *measured, subject=place))
        if not self._probers:
            checks.append(skipped(CheckId.SOAK_LATENCY, accounting.SETTING))
        checks += [gates.query(asked, *answer) for asked, answer in self._answers.items()]
        return tuple(checks)

    def _looked(self) -> Check:
        """Whether anybody could look at the pods and their logs at all."""
        looks = Count(Unit.LOOKS, self._looks)
        if self._looks:
            soaked = Duration(Span.SOAK, self._target.soak_seconds)
            return passed(CheckId.SOAK_GATES, soaked, looks)
        because, problem = self._unanswered
        why = (Problem(problem),) if problem else ()
        return unknown(CheckId.SOAK_GATES, because, looks, *why)

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
