"""Every title and every sentence about a result, made here and nowhere else.

Titles and sentences are for people. Nothing reads them back: verdicts, files and other programs use
the ids and values of :mod:`ci.results`. ``tests/unit/test_renaming.py`` gives every text here
another wording and expects the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import assert_never

from ci.results import (
    Because,
    ChartRef,
    Check,
    CheckId,
    Count,
    Cure,
    CureId,
    Duration,
    ExitStatus,
    HttpAnswer,
    ImageRef,
    Latency,
    Measured,
    Names,
    Outcome,
    Problem,
    QueueState,
    Requests,
    RevisionRef,
    Sample,
    Span,
    Tally,
    Tasks,
    Unit,
)

CHECK_TITLES: Mapping[CheckId, str] = {
    CheckId.RELEASE_LATEST_DEPLOYED: "the latest revision is deployed",
    CheckId.CHART_UNCHANGED: "the chart is the one that the release was made with",
    CheckId.CHART_CHANGE_INTENDED: "the chart is changed on purpose",
    CheckId.REPLICAS_NOT_AUTOSCALED: "no replica count that an autoscaler owns is reset",
    CheckId.OBJECTS_AS_RELEASED: "no live object was edited by hand",
    CheckId.PODS_SERVING_BEFORE: "every pod serves before the upgrade",
    CheckId.BACKUP_CREATED: "backups are written",
    CheckId.ROLLBACK_PREPARED: "the rollback script was tried with --dry-run",
    CheckId.IMAGE_BUILT: "the image is built",
    CheckId.IMAGE_PUBLISHED: "the image is in the registry at the proven digest",
    CheckId.IMAGE_PULLABLE: "the target's nodes can pull the image",
    CheckId.API_COMPATIBLE: "the API is backward compatible",
    CheckId.HEALTH_PROVEN: "health endpoints passed on the gate cluster",
    CheckId.HEALTH_UNDER_LOAD: "readiness under load was measured on the gate cluster",
    CheckId.MIGRATION_NOT_NEEDED: "no database migration is required",
    CheckId.TEAM_NOTIFIED: "the team is notified",
    CheckId.CAPACITY_SURGE: "the cluster has room for the rollout's surge pods",
    CheckId.CHANGE_COMPLETED: "the upgrade completed",
    CheckId.RELEASE_DEPLOYED: "the Helm release is deployed",
    CheckId.PODS_READY: "all pods are Running and Ready",
    CheckId.PODS_RUN_DIGEST: "every pod runs the digest",
    CheckId.PODS_OLD_GONE: "no pod of the previous version is left",
    CheckId.HEALTH_PATH: "the health endpoint answers",
    CheckId.API_ANSWERS: "the API answers",
    CheckId.API_STILL_COMPATIBLE: "the live API is backward compatible",
    CheckId.LOGS_NO_ERRORS: "no error lines in the pods' logs",
    CheckId.QUEUE_TIMEOUTS: "queue time-outs work on the target",
    CheckId.QUEUE_LOCK_DURATION: "the canary queue has the lock duration that was asked for",
    CheckId.REQUESTS_ANSWERED: "no request was lost",
    CheckId.TASKS_EXECUTED_ONCE: "every canary task was executed once",
    CheckId.ACCOUNTS_KEPT: "ServiceAccounts were kept",
    CheckId.SOAK_GATES: "no limit was exceeded during the soak",
    CheckId.SOAK_LATENCY: "latency during the soak",
    CheckId.SOAK_QUERY: "Prometheus query",
    CheckId.REHEARSAL_PROMOTED: "the promotion succeeds",
    CheckId.REHEARSAL_ROLLED_BACK: "a failed promotion is rolled back",
    CheckId.REHEARSAL_RETURNED: "the previous image can be restored",
    CheckId.PODS_KEEP_RUNNING: "pods of every component keep running",
    CheckId.TOKENS_ACCEPTED: "ServiceAccount tokens of running pods are accepted",
    CheckId.LOGS_NOT_DENIED: "no 401 and no 403 in the logs",
    CheckId.UPGRADE_REPEATABLE: "an upgrade without changes changes nothing",
    CheckId.ENDPOINT_USABLE: "an endpoint can be created, used and deleted",
    CheckId.TARGET_PROMOTED: "the target is promoted",
}

CHECKLIST: Mapping[CheckId, str] = {
    CheckId.BACKUP_CREATED: "All backups created",
    CheckId.ROLLBACK_PREPARED: "Rollback script tested",
    CheckId.IMAGE_BUILT: "Docker image built successfully",
    CheckId.IMAGE_PUBLISHED: "Image pushed to the registry",
    CheckId.IMAGE_PULLABLE: "Image can be pulled from the registry",
    CheckId.API_COMPATIBLE: "Code changes are backward compatible",
    CheckId.HEALTH_PROVEN: "Health check endpoint works in your code",
    CheckId.MIGRATION_NOT_NEEDED: "No database migrations required",
    CheckId.TEAM_NOTIFIED: "Team notified about upgrade",
}
"""The upgrade plan's pre-upgrade checklist, in its order and words."""

REASONS: Mapping[Because, str] = {
    Because.FORBIDDEN: "not permitted to read it",
    Because.NO_ANSWER: "no answer",
    Because.NOT_DESCRIBED: "the service publishes no API description",
    Because.NOT_COMPARABLE: "the API description cannot be compared",
    Because.NOT_ADMITTED: "the cluster does not admit the test pod",
    Because.NOT_OFFERED: "the service has no such API",
    Because.NOT_IN_EVIDENCE: "the proof does not contain it",
    Because.LOST: "its measurements were lost",
    Because.NOT_REACHED: "the run ended before it was checked",
}

CURES: Mapping[CureId, str] = {
    CureId.HOOK_ANNOTATION: "set the annotation helm.sh/hook: pre-install alone (without"
    " pre-upgrade), or remove it; until then the pods need a restart after every upgrade",
    CureId.POD_TEMPLATE_VARIES: "remove from the pod template what differs at every upgrade"
    " (a revision, a date)",
}

UNITS: Mapping[Unit, tuple[str, str]] = {
    Unit.PODS: ("pod", "pods"),
    Unit.NODES: ("node", "nodes"),
    Unit.COMPONENTS: ("component", "components"),
    Unit.OBJECTS: ("object", "objects"),
    Unit.FIELDS: ("field", "fields"),
    Unit.AUTOSCALERS: ("HorizontalPodAutoscaler", "HorizontalPodAutoscalers"),
    Unit.API_PATHS: ("API path compared", "API paths compared"),
    Unit.API_CHANGES: ("breaking API change", "breaking API changes"),
    Unit.LOG_LINES: ("log line", "log lines"),
    Unit.FILES: ("file", "files"),
    Unit.HOOKS: ("hook", "hooks"),
    Unit.CASES: ("case", "cases"),
    Unit.RECIPIENTS: ("recipient", "recipients"),
    Unit.TOKENS: ("token", "tokens"),
    Unit.SERVICE_ACCOUNTS: ("ServiceAccount", "ServiceAccounts"),
    Unit.CONTAINERS: ("container", "containers"),
    Unit.RESTARTS: ("restart", "restarts"),
    Unit.REASONS: ("reason", "reasons"),
    Unit.VALUES: ("value", "values"),
    Unit.BREACHES: ("limit exceeded", "limits exceeded"),
}

SPANS: Mapping[Span, str] = {
    Span.READY: "ready within",
    Span.SOAK: "watched for",
    Span.ROLLOUT: "rolled out in",
}

OUTCOMES: Mapping[Outcome, str] = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "skipped",
    Outcome.UNKNOWN: "unknown",
}


def title(check: Check) -> str:
    """What the check is called, with its subject."""
    name = CHECK_TITLES[check.id]
    return f"{name} ({check.subject})" if check.subject else name


def evidence(check: Check) -> str:
    """What was measured, or why nothing was."""
    parts = [measured(value) for value in check.measured]
    if check.outcome is Outcome.SKIPPED:
        parts.insert(0, f"turned off by {check.setting}")
    if check.because is not None:
        parts.insert(0, REASONS[check.because])
    return "; ".join(part for part in parts if part)


def sentence(check: Check) -> str:
    """Title and evidence in one line, for an error or a log."""
    found = evidence(check)
    return f"{title(check)}: {found}" if found else title(check)


def tally(counts: Tally) -> str:
    """``24 passed, 3 skipped, 1 unknown``: what is none is left out, but for the passed."""
    parts = [f"{counts.passed} {OUTCOMES[Outcome.PASSED]}"]
    for outcome, number in (
        (Outcome.FAILED, counts.failed),
        (Outcome.SKIPPED, counts.skipped),
        (Outcome.UNKNOWN, counts.unknown),
    ):
        if number:
            parts.append(f"{number} {OUTCOMES[outcome]}")
    return ", ".join(parts)


def count(number: int, unit: Unit) -> str:
    one, several = UNITS[unit]
    return f"{number} {one if number == 1 else several}"


def seconds(value: float) -> str:
    """Below a second in milliseconds, else with one decimal where there is one."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f}".removesuffix(".0") + " s"


def digest(value: str) -> str:
    """A digest as short as people say it."""
    algorithm, colon, hexadecimal = value.partition(":")
    return f"{algorithm}{colon}{hexadecimal[:12]}" if colon else value


def measured(value: Measured) -> str:
    """One measured value in words."""
    match value:
        case Count(of=of, value=number, limit=None):
            return count(number, of)
        case Count(of=of, value=number, limit=limit):
            return f"{count(number, of)}, limit {limit}"
        case Names():
            return _names(value)
        case Duration(of=of, seconds=taken, limit_seconds=most):
            return f"{SPANS[of]} {seconds(taken)}" + (f", limit {seconds(most)}" if most else "")
        case ImageRef(repository=repository, tag=tag, digest=found):
            name = f"{repository}:{tag}" if tag else repository
            return f"{name} ({digest(found)})" if found else name
        case RevisionRef(number=number, status=status, chart=chart):
            return " ".join(filter(None, (f"revision {number}", status, chart)))
        case ChartRef(before=before, after=after):
            return f"{before} -> {after}"
        case HttpAnswer():
            return _answer(value)
        case Requests():
            return _requests(value)
        case Tasks():
            return _tasks(value)
        case QueueState():
            return _queue(value)
        case Latency(when=when, median_seconds=median, p95_seconds=p95):
            ended = value.answered + value.failed
            return (
                f"{when}: median {seconds(median)}, 95 % within {seconds(p95)},"
                f" {value.failed} of {ended} failed"
            )
        case Sample(value=sample, limit=most):
            return f"{sample:g}, limit {most:g}"
        case ExitStatus(program=program, status=status, last_line=line):
            return f"{program} ended with status {status}" + (f": {line}" if line else "")
        case Problem(text=text):
            return text
        case Cure(id=id):
            return f"to fix it: {CURES[id]}"
        case _:
            assert_never(value)


def _names(value: Names) -> str:
    shown = ", ".join(value.names)
    more = value.total - len(value.names)
    if value.of in (Unit.REASONS, Unit.API_CHANGES, Unit.BREACHES, Unit.LOG_LINES):
        shown = "; ".join(value.names)
    if value.of is Unit.LOG_LINES and value.total:
        return f"{count(value.total, value.of)}, the first: {value.names[0] if value.names else ''}"
    return f"{shown} and {more} more" if more > 0 else shown


def _answer(value: HttpAnswer) -> str:
    said = f"HTTP {value.status}" if value.status else "no answer"
    if value.body:
        said += f" {value.body}" if value.status else f": {value.body}"
    if value.seconds is not None:
        said += f" in {seconds(value.seconds)}"
        if value.limit_seconds is not None and value.seconds > value.limit_seconds:
            said += f", limit {seconds(value.limit_seconds)}"
    return said


def _requests(value: Requests) -> str:
    why = f" ({value.problems[0][0]})" if value.problems else ""
    rest = f", {value.under_way} still under way" if value.under_way else ""
    allowed = f", {value.allowed_failures} allowed" if value.allowed_failures else ""
    return (
        f"{value.failed} of {value.sent} requests failed{why}{allowed}{rest};"
        f" longest gap {seconds(value.longest_gap_seconds)},"
        f" median {seconds(value.median_seconds)}, slowest {seconds(value.slowest_seconds)}"
    )


def _tasks(value: Tasks) -> str:
    said = (
        f"{value.accepted} tasks sent, {value.once} executed once, {value.lost} lost,"
        f" {value.twice} executed twice"
    )
    if value.refused:
        said += f", {value.refused} not accepted"
    return f"{said} ({value.example})" if value.example else said


def _queue(value: QueueState) -> str:
    parts = []
    if value.lock_seconds is not None:
        lock = f"lock duration {seconds(value.lock_seconds)}"
        if value.asked_lock_seconds not in (None, value.lock_seconds):
            lock += f", asked for {seconds(value.asked_lock_seconds or 0)}"
        parts.append(lock)
    if value.active is not None:
        parts.append(f"{value.active} active messages")
    if value.dead_lettered is not None:
        dead = f"{value.dead_lettered} dead-lettered"
        parts.append(f"{dead} ({value.dead_letter_reason})" if value.dead_letter_reason else dead)
    return f"{value.name}: " + ", ".join(parts) if parts else value.name


def lines(checks: Iterable[Check]) -> list[str]:
    return [sentence(check) for check in checks]
