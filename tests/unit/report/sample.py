"""``python -m tests.unit.report.sample FOLDER``: a run with all four outcomes, for looking at.

It makes the run's files and its ``report.html``; ``docs/report-outcomes.png`` is a picture of it::

    chromium --headless --no-sandbox --hide-scrollbars --force-device-scale-factor=0.75 \\
        --window-size=1100,1840 --screenshot=docs/report-outcomes.png FOLDER/outcomes.html

``outcomes.html`` is the report without the sections that show no checks.
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


PARTS = (
    (StepId.ACQUIRE_LEASE, 6, 8, "one promotion at a time per release"),
    (StepId.INSPECT_RELEASE, 8, 13, "a broken release cannot be rolled back to"),
    (StepId.BACK_UP, 13, 16, "a rollback needs no more than these files"),
    (StepId.PREFLIGHT, 16, 22, "what would fail during the change is refused before it"),
    (StepId.BASELINE_PROBE, 22, 27, "the service answers steadily before the change"),
    (StepId.UPGRADE, 27, 37, "helm upgrade --reuse-values, only the tag"),
    (StepId.VERIFY_DIGESTS, 37, 40, "every pod runs the proven digest"),
    (StepId.ACCOUNT_REQUESTS, 40, 41, "no request may be lost in a change"),
    (StepId.COLLECT_DIAGNOSTICS, 41, 44, "before the rollback removes them"),
    (StepId.HELM_ROLLBACK, 44, 52, "to revision 3"),
    (StepId.VERIFY_ROLLBACK, 52, 56, "every pod runs the previous digest"),
)
"""Of the promotion: step, when it began and ended (seconds), why it is there."""


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
    problem = "9 of 760 requests failed (HTTP 503)"
    folder.step(StepId.VERIFY_EVIDENCE, 0, 4, reason="only a proven image is promoted")
    folder.step(StepId.LOOK_UP_TARGET, 4, 6, reason="it must exist")
    folder.event("step.started", StepId.PROMOTE, "only the image changes", at=6)
    for id, begun, ended, reason in PARTS:
        failure = problem if id is StepId.ACCOUNT_REQUESTS else ""
        folder.step(id, begun, ended, failure, StepId.PROMOTE.value, reason=reason)
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


def only_checks(report: Path) -> Path:
    """The same page with its head and its checks alone."""
    path = report.with_name("outcomes.html")
    hide = "<style>section:not(#checks), nav, #checks h3:last-of-type ~ * { display: none }</style>"
    text = report.read_text(encoding="utf-8")
    path.write_text(text.replace("</head>", f"{hide}</head>"), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(only_checks(make(Path(sys.argv[1]))))
