"""Why a change failed: from the error that ended it, the checks that it carries, and the objects
of the cluster as they were then. Pure.

Where Helm or a wait only says that it waited in vain, the objects say for what: a quota or a policy
that forbids a pod, an image that is still being pulled, a probe that fails. Reasons, types and
times of events are fields of the API; their messages are kept as they are and decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from ci import texts
from ci.errors import Interrupted, PipelineError, WaitTimeout, error_summary
from ci.promotion.release.rollout import Trouble, UnrecoverablePod, is_live, ready
from ci.results import (
    CauseId,
    Check,
    CheckId,
    Measured,
    Names,
    Problem,
    Unit,
)
from ci.tools.diagnostics import Collected

Object = Mapping[str, Any]

RECENT = timedelta(hours=1)
"""Before the newest event: what is older is of another change."""
LONGEST = 200
"""Characters of a message of others."""

BY_CHECK: Mapping[CheckId, CauseId] = {
    CheckId.RELEASE_DEPLOYED: CauseId.HELM_FAILED,
    CheckId.PODS_READY: CauseId.PODS_NOT_READY,
    CheckId.PODS_OLD_GONE: CauseId.PODS_NOT_READY,
    CheckId.PODS_RUN_DIGEST: CauseId.WRONG_DIGEST,
    CheckId.HEALTH_PATH: CauseId.HEALTH_FAILED,
    CheckId.API_ANSWERS: CauseId.HEALTH_FAILED,
    CheckId.API_STILL_COMPATIBLE: CauseId.API_BROKEN,
    CheckId.REQUESTS_ANSWERED: CauseId.REQUESTS_LOST,
    CheckId.TASKS_EXECUTED_ONCE: CauseId.TASKS_LOST,
    CheckId.QUEUE_LOCK_DURATION: CauseId.QUEUE_NOT_AS_ASKED,
    CheckId.QUEUE_TIMEOUTS: CauseId.TESTS_FAILED,
    CheckId.SOAK_GATES: CauseId.SOAK_BREACHED,
    CheckId.SOAK_LATENCY: CauseId.SOAK_BREACHED,
    CheckId.SOAK_QUERY: CauseId.SOAK_BREACHED,
}
"""What the first failed check of a change says about why it failed."""

WAITED = frozenset({CauseId.HELM_FAILED, CauseId.TIMED_OUT, CauseId.PODS_NOT_READY})
"""Causes that the objects may explain further."""

BY_REASON: Mapping[str, CauseId] = {
    "ImagePullBackOff": CauseId.IMAGE_NOT_PULLED,
    "ErrImagePull": CauseId.IMAGE_NOT_PULLED,
    "ErrImageNeverPull": CauseId.IMAGE_NOT_PULLED,
    "InvalidImageName": CauseId.IMAGE_NOT_PULLED,
    "ImageInspectError": CauseId.IMAGE_NOT_PULLED,
    "Unschedulable": CauseId.NOT_SCHEDULED,
    "ReplicaFailure": CauseId.ADMISSION_REFUSED,
}
"""Reasons of Kubernetes for a pod that does not start; any other is a container that ends."""
CRASH_LOOP = "CrashLoopBackOff"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a change failed, as far as it is known, and what was measured of it."""

    id: CauseId
    measured: tuple[Measured, ...] = ()
    problem: str = ""
    """The error that ended it, in one line."""
    trouble: Trouble | None = field(default=None, compare=False)
    """Of a pod that could not start."""

    def __str__(self) -> str:
        facts = "; ".join(filter(None, (self.problem, *map(texts.measured, self.measured))))
        if self.id is CauseId.UNKNOWN and facts:
            return facts
        return f"{texts.CAUSES[self.id]}: {facts}" if facts else texts.CAUSES[self.id]


def of(problem: BaseException) -> Cause:
    """The cause as the error itself says it."""
    if isinstance(problem, UnrecoverablePod):
        return _of_trouble(problem.trouble)
    if isinstance(problem, Interrupted | KeyboardInterrupt):
        return Cause(CauseId.INTERRUPTED)
    summary = error_summary(problem)
    if isinstance(problem, PipelineError):
        return Cause(problem.cause or _of_checks(problem.checks) or _of_class(problem), (), summary)
    return Cause(CauseId.UNKNOWN, (), summary)


def _of_trouble(trouble: Trouble) -> Cause:
    id = BY_REASON.get(trouble.reason, CauseId.CONTAINER_CRASHED)
    reason = f"{trouble.reason}: {trouble.message}" if trouble.message else trouble.reason
    where = f"{trouble.pod}/{trouble.container}" if trouble.container else trouble.pod
    return Cause(
        id,
        (Names(Unit.PODS, (where,), 1), Names(Unit.REASONS, (reason,), 1)),
        trouble=trouble,
    )


def _of_checks(checks: Iterable[Check]) -> CauseId | None:
    known = (BY_CHECK.get(check.id) for check in checks if check.failed)
    return next((id for id in known if id is not None), None)


def _of_class(problem: PipelineError) -> CauseId:
    return CauseId.TIMED_OUT if isinstance(problem, WaitTimeout) else CauseId.UNKNOWN


def explained(cause: Cause, seen: Collected) -> Cause:
    """The same with what the objects add: the last line of a container that crashed; of a wait that
    ended in vain, what forbade a pod, which image is still being pulled, or which probe fails."""
    if cause.trouble is not None:
        return _with_last_line(cause, cause.trouble, seen)
    if cause.id not in WAITED:
        return cause
    recent = _recent(seen.events)
    if refused := [e for e in recent if e.get("reason") == "FailedCreate"]:
        return _added(cause, CauseId.ADMISSION_REFUSED, refused[-1])
    for name in unready_pods(seen.pods):
        about = [e for e in recent if _is_about(e, name)]
        if pulling := _pulling(about):
            return _added(cause, CauseId.IMAGE_NOT_PULLED, pulling)
        if unhealthy := [e for e in about if e.get("reason") == "Unhealthy"]:
            return _added(cause, CauseId.PODS_NOT_READY, unhealthy[-1])
    return cause


def _with_last_line(cause: Cause, trouble: Trouble, seen: Collected) -> Cause:
    if trouble.reason != CRASH_LOOP:
        return cause
    for previous in (True, False):
        log = seen.logs.get((trouble.pod, trouble.container, previous), "")
        if lines := [line.strip() for line in log.splitlines() if line.strip()]:
            last = Names(Unit.LOG_LINES, (lines[-1][:LONGEST],), 1)
            return replace(cause, measured=(*cause.measured, last))
    return cause


def _added(cause: Cause, id: CauseId, event: Object) -> Cause:
    about = event.get("involvedObject") or {}
    what = Names(Unit.OBJECTS, (f"{about.get('kind', '?')}/{about.get('name', '?')}",), 1)
    message = Problem(" ".join(str(event.get("message") or "").split())[:LONGEST])
    return replace(cause, id=id, measured=(*cause.measured, what, message))


def _recent(events: Sequence[Object]) -> list[Object]:
    """The events of this change, the oldest first."""
    dated = sorted(
        ((at, n) for n, event in enumerate(events) if (at := _time(event)) is not None),
        key=lambda pair: pair[0],
    )
    newest = dated[-1][0] if dated else None
    return [events[n] for at, n in dated if newest is not None and newest - at <= RECENT]


def _time(event: Object) -> datetime | None:
    series = event.get("series") or {}
    metadata = event.get("metadata") or {}
    for value in (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        metadata.get("creationTimestamp"),
    ):
        if value:
            try:
                return datetime.fromisoformat(str(value))
            except ValueError:
                continue
    return None


def _is_about(event: Object, pod: str) -> bool:
    about = event.get("involvedObject") or {}
    return about.get("kind") == "Pod" and about.get("name") == pod


def _pulling(events: Iterable[Object]) -> Object | None:
    """The beginning of a pull that did not end. What hangs there reports no error: a registry
    that answers nothing, or slowly."""
    last: Object | None = None
    for event in events:
        if event.get("reason") in ("Pulling", "Pulled"):
            last = event if event["reason"] == "Pulling" else None
    return last


def unready_pods(pods: Sequence[Object]) -> list[str]:
    """Names of live pods that are not ready, the youngest first: what an earlier change left is
    not this one's."""
    unready = [pod for pod in pods if is_live(pod) and not ready(pod)]
    unready.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)
    return [str(pod["metadata"]["name"]) for pod in unready]
