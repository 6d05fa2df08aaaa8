"""Why a promotion failed: from what was raised, its checks, and the cluster's objects."""

from __future__ import annotations

from typing import Any

import pytest

from ci.errors import CommandFailed, Interrupted, PromotionFailed, WaitTimeout
from ci.promotion.release.rollout import Trouble, UnrecoverablePod
from ci.promotion.rollback import cause
from ci.promotion.rollback.cause import Cause
from ci.results import (
    CauseId,
    Check,
    CheckId,
    Names,
    Phase,
    Problem,
    Requests,
    Unit,
    failed,
    passed,
)
from ci.tools.command import Output
from ci.tools.diagnostics import Collected
from ci.tools.helm import reason

WELL = passed(CheckId.PODS_READY)


def carrying(*checks: Check) -> PromotionFailed:
    return PromotionFailed("whatever it says").carrying(Phase.DURING, *checks)


LOST = Requests(9, 8, 1, 0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("problem", "id"),
    [
        (KeyboardInterrupt(), CauseId.INTERRUPTED),
        (Interrupted("x"), CauseId.INTERRUPTED),
        (WaitTimeout("x"), CauseId.TIMED_OUT),
        (CommandFailed("x"), CauseId.UNKNOWN),
        (ValueError(), CauseId.UNKNOWN),
        (PromotionFailed("interrupted, not ready, timed out waiting"), CauseId.UNKNOWN),
        (carrying(WELL, failed(CheckId.HEALTH_PATH)), CauseId.HEALTH_FAILED),
        (carrying(failed(CheckId.API_STILL_COMPATIBLE)), CauseId.API_BROKEN),
        (carrying(failed(CheckId.REQUESTS_ANSWERED, LOST)), CauseId.REQUESTS_LOST),
        (carrying(failed(CheckId.TASKS_EXECUTED_ONCE)), CauseId.TASKS_LOST),
        (carrying(failed(CheckId.QUEUE_LOCK_DURATION)), CauseId.QUEUE_NOT_AS_ASKED),
        (carrying(failed(CheckId.QUEUE_TIMEOUTS)), CauseId.TESTS_FAILED),
        (carrying(failed(CheckId.SOAK_GATES)), CauseId.SOAK_BREACHED),
        (carrying(WELL), CauseId.UNKNOWN),
    ],
)
def test_a_cause_is_found_by_class_and_checks(problem: BaseException, id: CauseId) -> None:
    assert cause.of(problem).id is id


def test_who_raises_may_know_more_than_the_checks_say() -> None:
    known = carrying(failed(CheckId.HEALTH_PATH)).carrying(
        Phase.DURING, cause=CauseId.REQUIRED_NOT_CHECKED
    )
    assert cause.of(known).id is CauseId.REQUIRED_NOT_CHECKED


def test_the_problem_is_one_line() -> None:
    assert cause.of(PromotionFailed("plain words\nmore")).problem == "plain words"
    assert cause.of(CommandFailed("long argv", output="one\ntwo  words")).problem == "two words"
    assert cause.of(ValueError()).problem == "ValueError"


@pytest.mark.parametrize(
    ("reason_", "id"),
    [
        ("CrashLoopBackOff", CauseId.CONTAINER_CRASHED),
        ("CreateContainerConfigError", CauseId.CONTAINER_CRASHED),
        ("ImagePullBackOff", CauseId.IMAGE_NOT_PULLED),
        ("Unschedulable", CauseId.NOT_SCHEDULED),
        ("ReplicaFailure", CauseId.ADMISSION_REFUSED),
    ],
)
def test_a_pod_that_cannot_start_says_why(reason_: str, id: CauseId) -> None:
    found = cause.of(UnrecoverablePod(Trouble("p", "c", reason_, "it ended with 1 (Error)")))
    assert found.id is id
    assert found.measured == (
        Names(Unit.PODS, ("p/c",), 1),
        Names(Unit.REASONS, (f"{reason_}: it ended with 1 (Error)",), 1),
    )


# -- what the objects add --------------------------------------------------------------------------

WAITED = Cause(CauseId.HELM_FAILED, (), "context deadline exceeded")


def pod(name: str, *, ready: bool = False, phase: str = "Running", at: int = 0) -> dict[str, Any]:
    made = f"2026-11-23T10:00:{at:02}Z"
    status = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name, "creationTimestamp": made},
        "status": {"phase": phase, "conditions": [status]},
    }


def event(
    reason: str, about: str, message: str, at: str = "10:00:00", kind: str = "Pod"
) -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": about},
        "lastTimestamp": f"2026-11-23T{at}Z",
    }


PROBE = event("Unhealthy", "new-b", "Readiness probe failed: statuscode: 503", "10:00:09")


def explained(
    pods: list[dict[str, Any]], events: list[dict[str, Any]], of: Cause = WAITED
) -> Cause:
    return cause.explained(of, Collected(pods, events))


def test_the_last_line_of_a_crash_is_kept() -> None:
    crash = cause.of(UnrecoverablePod(Trouble("p", "c", "CrashLoopBackOff", "")))
    assert cause.explained(crash, Collected()) == crash
    logs = {("p", "c", True): "start\nKeyError: 'LOCK'\n\n", ("p", "c", False): "start\n"}
    found = cause.explained(crash, Collected(logs=logs))
    assert found.measured[-1] == Names(Unit.LOG_LINES, ("KeyError: 'LOCK'",), 1)
    pull = cause.of(UnrecoverablePod(Trouble("p", "c", "ImagePullBackOff", "")))
    assert cause.explained(pull, Collected(logs=logs)) == pull


def test_only_pods_that_are_not_ready_are_asked_why() -> None:
    old = event("Unhealthy", "old-a", "Readiness probe failed: connection refused", "10:00:10")
    found = explained([pod("old-a", ready=True), pod("new-b")], [PROBE, old])
    assert found.id is CauseId.PODS_NOT_READY
    assert found.measured == (
        Names(Unit.OBJECTS, ("Pod/new-b",), 1),
        Problem("Readiness probe failed: statuscode: 503"),
    )
    assert found.problem == WAITED.problem


def test_what_was_no_wait_is_not_explained_by_what_else_is_there() -> None:
    lost = Cause(CauseId.REQUESTS_LOST)
    assert explained([pod("new-b")], [PROBE], lost) == lost
    assert explained([pod("new-b", ready=True)], [PROBE]) == WAITED


def test_what_an_earlier_change_left_is_not_the_cause() -> None:
    left = [
        pod("migration-4", phase="Pending", at=1),
        pod("migration-6", phase="Succeeded", at=50),
        pod("new-b", at=40),
    ]
    pulling = event("Pulling", "migration-4", 'Pulling image "engine:bad"')
    assert Problem("Readiness probe failed: statuscode: 503") in (
        explained(left, [pulling, PROBE]).measured
    )


def test_a_pull_that_hangs_is_the_cause_until_it_ends() -> None:
    pulling = event("Pulling", "new-b", 'Pulling image "engine:v2"')
    found = explained([pod("new-b", phase="Pending")], [pulling])
    assert found.id is CauseId.IMAGE_NOT_PULLED
    assert found.measured[-1] == Problem('Pulling image "engine:v2"')
    done = event("Pulled", "new-b", "Successfully pulled image", "10:00:01")
    assert explained([pod("new-b")], [done, pulling]) == WAITED


def test_a_quota_is_the_cause_where_a_pod_was_forbidden_in_this_change() -> None:
    refused = event("FailedCreate", "m", "Error creating: exceeded quota", "10:00:01", "Job")
    long_ago = event("FailedCreate", "x", "Error creating: long ago", "07:00:00", "Job")
    found = explained([pod("new-b")], [refused, long_ago, PROBE])
    assert found.id is CauseId.ADMISSION_REFUSED
    assert found.measured == (
        Names(Unit.OBJECTS, ("Job/m",), 1),
        Problem("Error creating: exceeded quota"),
    )
    assert explained([pod("new-b")], [long_ago, PROBE]).id is CauseId.PODS_NOT_READY


def test_events_without_a_time_decide_nothing() -> None:
    undated = {**PROBE, "lastTimestamp": None}
    broken = {**PROBE, "lastTimestamp": "yesterday"}
    assert explained([pod("new-b")], [undated, broken]) == WAITED
    series = {**undated, "series": {"lastObservedTime": "2026-11-23T10:00:00.000000Z"}}
    assert explained([pod("new-b")], [series]).id is CauseId.PODS_NOT_READY


def test_helms_reason_is_one_line() -> None:
    assert reason(Output(1, "", "warning\nError: template: x.yaml:3: bad\n")) == (
        "template: x.yaml:3: bad"
    )
    assert reason(Output(1, "", "")) == "helm ended with 1"
