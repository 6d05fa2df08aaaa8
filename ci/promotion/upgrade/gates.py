"""What a new version must not do while it soaks, each rule against the old version. Pure.

A rule answers with the breach in plain words, or with nothing. The old version's time is from
the prober's start to the upgrade; the soak's from the last check on the pods to the moment asked
about. Rates of rare things are compared with the spread they have by chance: where ``expected``
lines were due, up to ``expected + 3 * sqrt(expected)`` are (three standard deviations of a
Poisson count), and none where the old version had none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.model import Gates, Query
from ci.promotion.probes.prober import Account, quantile
from ci.promotion.release.rollout import restarts_since


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

    def __str__(self) -> str:
        quantiles = "/".join(f"{self.quantile(share) * 1000:.0f}" for share in (0.5, 0.95))
        return f"{quantiles} ms, {self.failed} of {self.answered + self.failed} failed"


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


def errors(before: Span, soak: Span, gates: Gates) -> str:
    """More failed requests than before the change."""
    limit = before.error_percent + gates.error_percent
    if soak.error_percent <= limit:
        return ""
    return (
        f"{soak.error_percent:.1f} % of the requests failed while it soaked ({soak.failed} of"
        f" {soak.answered + soak.failed}, {soak.problem}), before the change"
        f" {before.error_percent:.1f} %; the limit is {limit:.1f} %"
    )


ENOUGH = 20
"""Answers below which a quantile says nothing."""


def latency(before: Span, soak: Span, gates: Gates) -> str:
    """Slower answers than before the change, by the 95 % quantile."""
    if before.answered < ENOUGH or soak.answered < ENOUGH:
        return ""
    was, is_ = before.quantile(0.95), soak.quantile(0.95)
    limit = max(was * gates.latency_factor, was + gates.latency_slack_seconds)
    if is_ <= limit:
        return ""
    return (
        f"answers became slow while it soaked: 95 % within {is_ * 1000:.0f} ms, before the change"
        f" within {was * 1000:.0f} ms; the limit is {limit * 1000:.0f} ms"
    )


def restarted(
    pods: Sequence[Mapping[str, Any]], gates: Gates, before: Mapping[str, int] | None = None
) -> str:
    """Restarts of the new pods' containers, with how the last one ended. ``before`` has those that
    pods had before the change (see
    :func:`ci.promotion.release.rollout.restart_counts`): where the image stays, so may the pods."""
    since = [restarts_since(before or {}, pod) for pod in pods]
    count = sum(since)
    if count <= gates.restarts:
        return ""
    how = ""
    for pod, often in zip(pods, since, strict=True):
        if not often:
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            if status.get("restartCount"):
                last = (status.get("lastState") or {}).get("terminated") or {}
                code, reason = last.get("exitCode", "?"), last.get("reason", "no reason")
                name = f"{pod['metadata']['name']}/{status['name']}"
                how = f"; {name} ended with {code} ({reason})"
    return f"{count} restarts of the new pods while they soaked{how}; the limit is {gates.restarts}"


@dataclass(frozen=True, slots=True)
class Lines:
    """Error lines that pods logged, and how long they were listened to."""

    lines: tuple[str, ...]
    pod_seconds: float

    @property
    def per_second(self) -> float:
        """Of one pod."""
        return len(self.lines) / self.pod_seconds if self.pod_seconds > 0 else 0.0


def error_lines(before: Lines, soak: Lines) -> str:
    """More error lines than the old version's rate explains."""
    expected = before.per_second * soak.pod_seconds
    limit = math.floor(expected + 3 * math.sqrt(expected))
    if len(soak.lines) <= limit:
        return ""
    rate = f"{before.per_second * 60:.1f} a minute and pod"
    return (
        f"the new pods logged {len(soak.lines)} error lines, {limit} are as many as the old"
        f" version's rate ({rate}) explains; the last: {soak.lines[-1]}"
    )


def query(asked: Query, value: float | None) -> str:
    """A sample above the limit. No sample is no breach here: see :func:`unanswered`."""
    if value is None or value <= asked.limit:
        return ""
    return f"the query {asked.name!r} gave {value:g} while it soaked; the limit is {asked.limit:g}"


def unanswered(asked: Query, problem: str) -> str:
    """A query that never had a sample: nobody knows, and that is not good enough."""
    return (
        f"the query {asked.name!r} had no answer while it soaked: {problem}; where no series"
        " means zero, write `… or vector(0)`"
    )
