"""What a new version must not do while it soaks, each rule against the old version. Pure.

A rule answers with the breach, or with nothing. The old version's time is from
the prober's start to the upgrade; the soak's from the last check on the pods to the moment asked
about. Rates of rare things are compared with the spread they have by chance: where ``expected``
lines were due, up to ``expected + 3 * sqrt(expected)`` are (three standard deviations of a
Poisson count), and none where the old version had none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ci.promotion.probes.prober import Account, quantile
from ci.promotion.release.rollout import restarts_since
from ci.results import (
    Because,
    Breach,
    BreachId,
    Check,
    CheckId,
    Cure,
    CureId,
    Latency,
    Problem,
    Sample,
    judged,
    unknown,
)
from ci.settings import Gates, Query


@dataclass(frozen=True, slots=True)
class Span:
    """The requests that ended between two moments."""

    answered: int
    failed: int
    took: tuple[int, ...]
    problem: str = ""
    """The most frequent reason of a failure."""

    @property
    def error_percent(self) -> float:
        ended = self.answered + self.failed
        return 100 * self.failed / ended if ended else 0.0

    def quantile(self, share: float) -> float:
        """Seconds within which ``share`` of the answers came, as the end of their bucket."""
        return quantile(self.took, share)

    def latency(self, when: Literal["before", "during", "soak"]) -> Latency:
        median, p95 = self.quantile(0.5), self.quantile(0.95)
        return Latency(when, median, p95, self.answered, self.failed)


def between(earlier: Account | None, later: Account) -> Span:
    """What was added to an account; all of it without an earlier one."""
    if earlier is None:
        why = later.problems[0][0] if later.problems else ""
        return Span(later.answered, later.failed, later.took, why)
    seen = dict(earlier.problems)
    new = [(why, often - seen.get(why, 0)) for why, often in later.problems]
    return Span(
        later.answered - earlier.answered,
        later.failed - earlier.failed,
        tuple(b - a for a, b in zip(earlier.took, later.took, strict=True)),
        max(new, key=lambda item: item[1])[0] if new else "",
    )


def errors(before: Span, soak: Span, gates: Gates) -> Breach | None:
    """More failed requests than before the change."""
    was, is_ = before.error_percent, soak.error_percent
    limit = was + gates.error_percent
    if is_ <= limit:
        return None
    return Breach(BreachId.ERROR_PERCENT, is_, limit, was, soak.problem)


ENOUGH = 20
"""Answers below which a quantile says nothing."""


def comparable(before: Span, soak: Span) -> bool:
    """Whether there are enough answers to compare their latency."""
    return before.answered >= ENOUGH and soak.answered >= ENOUGH


def latency(before: Span, soak: Span, gates: Gates) -> Breach | None:
    """Slower answers than before the change, by the 95 % quantile."""
    if not comparable(before, soak):
        return None
    was, is_ = before.quantile(0.95), soak.quantile(0.95)
    limit = max(was * gates.latency_factor, was + gates.latency_slack_seconds)
    return Breach(BreachId.LATENCY_P95, is_, limit, was) if is_ > limit else None


def restarted(
    pods: Sequence[Mapping[str, Any]], gates: Gates, before: Mapping[str, int] | None = None
) -> Breach | None:
    """Restarts of the new pods' containers, with how the last one ended. ``before`` has those that
    pods had before the change (see
    :func:`ci.promotion.release.rollout.restart_counts`): where the image stays, so may the pods."""
    since = [restarts_since(before or {}, pod) for pod in pods]
    count = sum(since)
    if count <= gates.restarts:
        return None
    how = ""
    for pod, often in zip(pods, since, strict=True):
        if not often:
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            if status.get("restartCount"):
                last = (status.get("lastState") or {}).get("terminated") or {}
                code, reason = last.get("exitCode", "?"), last.get("reason", "no reason")
                name = f"{pod['metadata']['name']}/{status['name']}"
                how = f"{name}: exit code {code}, {reason}"
    return Breach(BreachId.RESTARTS, count, gates.restarts, example=how)


@dataclass(frozen=True, slots=True)
class Lines:
    """Error lines that pods logged, and how long they were listened to."""

    lines: tuple[str, ...]
    pod_seconds: float

    @property
    def per_second(self) -> float:
        """Of one pod."""
        return len(self.lines) / self.pod_seconds if self.pod_seconds > 0 else 0.0


def error_lines(before: Lines, soak: Lines) -> Breach | None:
    """More error lines than the old version's rate explains."""
    expected = before.per_second * soak.pod_seconds
    limit = math.floor(expected + 3 * math.sqrt(expected))
    count, rate = len(soak.lines), before.per_second * 60
    if count <= limit:
        return None
    return Breach(BreachId.ERROR_LINES, count, limit, rate, soak.lines[-1])


def query(asked: Query, value: float | None, problem: str = "") -> Check:
    """A query by its largest sample. One that never had a sample is unknown, with why."""
    id = CheckId.SOAK_QUERY
    if value is None:
        hint = Cure(CureId.QUERY_WITHOUT_SERIES)
        return unknown(id, Because.NO_ANSWER, Problem(problem), hint, subject=asked.name)
    return judged(id, value <= asked.limit, Sample(value, asked.limit), subject=asked.name)
