"""``python -m tests.unit.report.sample FOLDER``: a run with all four outcomes, for looking at.

It makes the run's files and its ``report.html``; ``docs/report-outcomes.png`` is a picture of it::

    chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,1500 \\
        --screenshot=docs/report-outcomes.png FOLDER/report.html
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from ci.model import ChangeRecord, ProbeBucket, ProbeSeries, ProbesRecord
from ci.report import html
from ci.results import (
    Because,
    CauseId,
    ChangeState,
    CheckGroup,
    CheckId,
    Count,
    HttpAnswer,
    ImageRef,
    Names,
    Outcome,
    Phase,
    ProbePlace,
    Requests,
    RevisionRef,
    StepId,
    Tasks,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.run_folder import RunFolder
from tests.unit.report.folders import AFTER, BEFORE, JUNIT, PLAN, Folder

LOST_AT = (31, 32, 33)
"""Seconds since the run began in which requests were lost."""


def buckets() -> tuple[ProbeBucket, ...]:
    made = []
    for at in range(18, 56):
        lost = 3 if at in LOST_AT else 0
        slowest = 0.9 if lost else 0.02 + 0.015 * (at % 5) + (0.2 if 28 <= at < 36 else 0.0)
        made.append(ProbeBucket(float(at), 20, 20 - lost, lost, slowest))
    return tuple(made)


def requests(series: tuple[ProbeBucket, ...]) -> Requests:
    lost = sum(bucket.failed for bucket in series)
    return Requests(
        sent=sum(bucket.sent for bucket in series),
        answered=sum(bucket.answered for bucket in series),
        failed=lost,
        longest_gap_seconds=0.35,
        median_seconds=0.023,
        slowest_seconds=max(bucket.slowest_seconds for bucket in series),
        problems=(("HTTP 503", lost),),
    )


def groups(account: Requests) -> tuple[CheckGroup, ...]:
    before = (
        passed(CheckId.RELEASE_LATEST_DEPLOYED, RevisionRef(3, "deployed", "model-engine-1.2.0")),
        passed(CheckId.CHART_UNCHANGED, RevisionRef(3, "", "model-engine-1.2.0")),
        passed(CheckId.OBJECTS_AS_RELEASED, Count(Unit.OBJECTS, 14)),
        passed(CheckId.PODS_SERVING_BEFORE, Count(Unit.PODS, 3)),
        passed(CheckId.BACKUP_CREATED, Count(Unit.FILES, 8)),
        passed(CheckId.ROLLBACK_PREPARED, RevisionRef(3)),
        passed(CheckId.IMAGE_BUILT, AFTER),
        passed(CheckId.IMAGE_PUBLISHED, AFTER),
        passed(CheckId.IMAGE_PULLABLE, Count(Unit.NODES, 2)),
        skipped(CheckId.API_COMPATIBLE, "service.openapi_path"),
        passed(CheckId.HEALTH_PROVEN, Count(Unit.CASES, 2)),
        passed(CheckId.MIGRATION_NOT_NEEDED, Count(Unit.HOOKS, 0)),
        skipped(CheckId.TEAM_NOTIFIED, "notify"),
        unknown(CheckId.CAPACITY_SURGE, Because.NOT_ADMITTED),
    )
    during = (
        passed(CheckId.CHANGE_COMPLETED, RevisionRef(4, "deployed")),
        passed(CheckId.PODS_RUN_DIGEST, Count(Unit.PODS, 3)),
        passed(CheckId.HEALTH_PATH, HttpAnswer(200, 0.012), subject="/readyz"),
        unknown(CheckId.LOGS_NO_ERRORS, Because.FORBIDDEN, Names(Unit.PODS, ("engine-7f",), 1)),
        failed(CheckId.REQUESTS_ANSWERED, account, subject=ProbePlace.IN_CLUSTER.value),
        passed(CheckId.TASKS_EXECUTED_ONCE, Tasks(76, 0, 0)),
    )
    return CheckGroup(Phase.BEFORE, before), CheckGroup(Phase.DURING, during)


def make(path: Path) -> Path:
    """Leave the run in ``path``; the report's path."""
    folder = Folder(path)
    folder.step(StepId.VERIFY_EVIDENCE, 0, 4)
    folder.step(StepId.LOOK_UP_TARGET, 4, 6)
    folder.event("step.started", StepId.PROMOTE, "only the image changes", at=6)
    parent = StepId.PROMOTE.value
    folder.step(StepId.ACQUIRE_LEASE, 6, 8, parent=parent)
    folder.step(StepId.INSPECT_RELEASE, 8, 13, parent=parent)
    folder.step(StepId.BACK_UP, 13, 16, parent=parent)
    folder.step(StepId.PREFLIGHT, 16, 22, parent=parent)
    folder.step(StepId.BASELINE_PROBE, 22, 27, parent=parent)
    folder.step(StepId.UPGRADE, 27, 37, parent=parent)
    folder.step(StepId.VERIFY_DIGESTS, 37, 40, parent=parent)
    problem = "9 of 760 requests failed (HTTP 503)"
    folder.step(StepId.ACCOUNT_REQUESTS, 40, 41, problem, parent)
    folder.step(StepId.COLLECT_DIAGNOSTICS, 41, 44, parent=parent)
    folder.step(StepId.HELM_ROLLBACK, 44, 52, parent=parent)
    folder.step(StepId.VERIFY_ROLLBACK, 52, 56, parent=parent)
    folder.event("step.failed", StepId.PROMOTE, problem, at=56, seconds=50)
    series = buckets()
    account = requests(series)
    folder.leave(PLAN)
    folder.leave(ProbesRecord((ProbeSeries(ProbePlace.IN_CLUSTER, account, series),)))
    folder.backups()
    folder.write("junit.xml", JUNIT)
    folder.summary(
        command="promote",
        outcome=Outcome.FAILED,
        exit_code=32,
        seconds=56.4,
        groups=groups(account),
        change=ChangeRecord(
            "launch",
            ChangeState.ROLLED_BACK,
            release="launch-inference",
            before=BEFORE,
            after=ImageRef(AFTER.repository, AFTER.tag, AFTER.digest),
            from_revision=3,
            to_revision=4,
            live_revision=5,
            cause=CauseId.REQUESTS_LOST,
            problem="HTTP 503",
        ),
        error=f"{problem} during the upgrade; rolled back to revision 3",
        remedy="let the pods drain before they stop (preStop, terminationGracePeriodSeconds),"
        " then promote again",
    )
    return html.write(RunFolder(path), datetime(2026, 11, 23, 17, 0, tzinfo=UTC))


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
