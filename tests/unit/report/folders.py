"""Run folders as the pipeline leaves them, made small."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ci.digest import Digest
from ci.model import (
    BackupsRecord,
    ChangeRecord,
    Difference,
    Image,
    PlanRecord,
    ProbeBucket,
    ProbeSeries,
    ProbesRecord,
    Promotion,
    RunRecord,
)
from ci.report import files
from ci.results import (
    Because,
    CauseId,
    ChangeState,
    Check,
    CheckGroup,
    CheckId,
    Count,
    DifferenceReason,
    HttpAnswer,
    ImageRef,
    Names,
    Outcome,
    Phase,
    ProbePlace,
    Requests,
    RevisionRef,
    StepId,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.run_folder import RunFolder

OLD, NEW = "queue-timeout-1", "queue-timeout-2"
OLD_DIGEST, NEW_DIGEST = Digest.from_hex("a" * 64), Digest.from_hex("b" * 64)
REPOSITORY = "registry:5000/model-engine"
BEFORE = ImageRef(REPOSITORY, OLD, OLD_DIGEST)
AFTER = ImageRef(REPOSITORY, NEW, NEW_DIGEST)
STARTED = datetime(2026, 11, 23, 16, 30, 45, tzinfo=UTC)

DIFFERENCES = (
    Difference(
        "Deployment/model-engine",
        "spec.template.spec.containers[model-engine].image",
        f"{REPOSITORY}:{OLD}",
        f"{REPOSITORY}:{NEW}",
        True,
        DifferenceReason.IMAGE,
    ),
    Difference(
        "Job/migrate-3",
        "metadata.name",
        "migrate-3",
        "migrate-4",
        True,
        DifferenceReason.REVISION,
        hook=True,
    ),
)
PLAN = PlanRecord(BEFORE, AFTER, 3, 4, DIFFERENCES)
REFUSED = replace(
    PLAN,
    differences=(
        *DIFFERENCES,
        Difference(
            "ConfigMap/settings", "data.limit", "10", "20", False, DifferenceReason.NOT_FROM_IMAGE
        ),
    ),
)

REQUESTS = Requests(
    sent=713,
    answered=711,
    failed=2,
    longest_gap_seconds=0.47,
    median_seconds=0.023,
    slowest_seconds=0.771,
    problems=(("HTTP 503", 2),),
    allowed_failures=5,
)
PROBES = ProbesRecord(
    (
        ProbeSeries(
            ProbePlace.IN_CLUSTER,
            REQUESTS,
            tuple(
                ProbeBucket(20.0 + second, 20, 18 if second == 24 else 20, 2 * (second == 24), 0.1)
                for second in range(36)
            ),
        ),
    )
)

# One of each outcome before the change, as a promotion leaves them.
CHECKS_BEFORE: tuple[Check, ...] = (
    passed(CheckId.RELEASE_LATEST_DEPLOYED, RevisionRef(3, "deployed", "model-engine-1.2.0")),
    passed(CheckId.PODS_SERVING_BEFORE, Count(Unit.PODS, 3)),
    passed(CheckId.BACKUP_CREATED, Count(Unit.FILES, 8)),
    passed(CheckId.ROLLBACK_PREPARED, RevisionRef(3)),
    passed(CheckId.IMAGE_PUBLISHED, AFTER),
    skipped(CheckId.API_COMPATIBLE, "service.openapi_path"),
    unknown(CheckId.IMAGE_PULLABLE, Because.NOT_ADMITTED),
)
CHECKS_DURING: tuple[Check, ...] = (
    passed(CheckId.PODS_RUN_DIGEST, Count(Unit.PODS, 3)),
    passed(CheckId.REQUESTS_ANSWERED, REQUESTS, subject=ProbePlace.IN_CLUSTER.value),
)
CHECKS_AFTER: tuple[Check, ...] = (
    passed(CheckId.RELEASE_DEPLOYED, RevisionRef(4, "deployed")),
    passed(CheckId.HEALTH_PATH, HttpAnswer(200, 0.012), subject="/readyz"),
    unknown(CheckId.LOGS_NO_ERRORS, Because.FORBIDDEN),
)
CHECKS_FAILED: tuple[Check, ...] = (
    failed(CheckId.HEALTH_PATH, HttpAnswer(503, 0.2, body="down"), subject="/readyz"),
    failed(CheckId.PODS_READY, Names(Unit.PODS, ("engine-1",), 1)),
)
GROUPS = (
    CheckGroup(Phase.BEFORE, CHECKS_BEFORE),
    CheckGroup(Phase.DURING, CHECKS_DURING),
    CheckGroup(Phase.AFTER, CHECKS_AFTER),
)

CHANGE = ChangeRecord(
    "launch",
    ChangeState.PROMOTED,
    release="launch-inference",
    before=BEFORE,
    after=AFTER,
    from_revision=3,
    to_revision=4,
    live_revision=4,
)
PROMOTION = Promotion(
    "launch",
    Image(REPOSITORY, OLD, OLD_DIGEST),
    Image(REPOSITORY, NEW, NEW_DIGEST),
    3,
    4,
    Path("/elsewhere/backups"),
    GROUPS[:2],
)
BACKUPS = BackupsRecord(
    "launch",
    "launch-inference",
    "launch",
    "kind-launch",
    3,
    BEFORE,
    STARTED,
    ("quick-rollback.sh",),
)

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="test_health" name="test_it_answers" time="9.5"/>
<testcase classname="test_lock_duration" name="test_lock_duration_is_what_was_asked[45]" time="0.8">
  <properties><property name="topic" value="queue-timeouts"/>
  <property name="lock_duration_asked" value="45 s"/>
  <property name="lock_duration_seen" value="45 s"/></properties></testcase>
<testcase classname="test_deliveries" name="test_it_is_delivered_again" time="1.25">
  <failure message="expected &lt;b&gt;2&lt;/b&gt; deliveries"/></testcase>
<testcase classname="test_cached_view" name="test_view" time="0">
  <skipped message="the target runs no cacher"/></testcase>
</testsuite></testsuites>
"""


def run(path: Path, **changed: Any) -> RunRecord:
    """A run that passed, but for what is ``changed``."""
    record = RunRecord(
        id=path.name,
        command="run",
        outcome=Outcome.PASSED,
        exit_code=0,
        started=STARTED,
        seconds=60.0,
        steps=(),
        folder=Path("/elsewhere"),
        image=Image(REPOSITORY, NEW, NEW_DIGEST),
        versions=(("helm", "3.21.4"),),
    )
    return replace(record, **changed)


class Folder:
    """A run's folder under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def event(self, kind: str, step: str = "", text: str = "", *, at: float, **data: Any) -> None:
        line = {
            "time": f"2026-11-23T16:30:{45 + int(at) % 15:02}.000+00:00",
            "at": at,
            "kind": kind,
            "step": step,
            "text": text,
            **data,
        }
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(line) + "\n")

    def step(
        self,
        id: str,
        begun: float,
        ended: float | None,
        problem: str = "",
        parent: str = "",
        subject: str = "",
        *,
        cancelled: bool = False,
        reason: str = "",
    ) -> None:
        more = {"parent": parent} if parent else {}
        more |= {"subject": subject} if subject else {}
        self.event("step.started", id, reason or f"why {id}", at=begun, **more)
        if ended is not None:
            kind = "step.failed" if problem else "step.finished"
            data: dict[str, Any] = {"seconds": round(ended - begun, 3), "cancelled": cancelled}
            if subject:
                data["subject"] = subject
            self.event(kind, id, problem, at=ended, **data)

    def change(self, state: ChangeState, *, at: float = 50.0, **data: Any) -> None:
        """As :meth:`ci.run.events.Events.changed` records it."""
        known = {
            "release": "launch-inference",
            "before": asdict(BEFORE),
            "after": asdict(AFTER),
            "from_revision": 3,
            "to_revision": 4,
        }
        self.event("change", "upgrade", "", at=at, target="launch", state=state, **known | data)

    def check(self, phase: Phase, check: Check, *, at: float = 50.0) -> None:
        self.event("check", "verify", "", at=at, phase=phase, check=asdict(check))

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def leave(self, record: Any) -> None:
        files.write(RunFolder(self.path), record)

    def summary(self, **changed: Any) -> None:
        self.leave(run(self.path, **changed))

    def backups(self) -> None:
        self.write("backups/quick-rollback.sh", "#!/bin/sh\n")
        self.leave(BACKUPS)

    def promotion_steps(self, upgrade: str = "", back: bool | None = None) -> None:
        """Those of a promotion; ``upgrade`` is why it failed, ``back`` how its rollback ended."""
        self.step(StepId.BUILD, 0, 20)
        self.step(StepId.GATE_CLUSTER, 0, 15)
        self.step(StepId.PROVE, 20, 40)
        self.event("step.started", StepId.PROMOTE, "why promote", at=40)
        self.step(StepId.PLAN, 40, 42, parent=StepId.PROMOTE)
        self.step(StepId.UPGRADE, 42, 50, upgrade, parent=StepId.PROMOTE)
        if back is not None:
            problem = "" if back else "no such revision"
            self.step(StepId.HELM_ROLLBACK, 50, 53, problem, parent=StepId.PROMOTE)
        if back:
            self.step(StepId.VERIFY_ROLLBACK, 53, 55, parent=StepId.PROMOTE)
        kind = "step.failed" if upgrade else "step.finished"
        self.event(kind, StepId.PROMOTE, upgrade, at=56, seconds=16)


def promoted(path: Path) -> Folder:
    folder = Folder(path)
    folder.promotion_steps()
    folder.backups()
    folder.change(ChangeState.PROMOTED, live_revision=4)
    folder.leave(PLAN)
    folder.leave(PROBES)
    folder.write("junit.xml", JUNIT)
    folder.summary(promotion=PROMOTION, change=CHANGE, groups=GROUPS)
    return folder


def broken(
    path: Path,
    code: int,
    error: str,
    *,
    state: ChangeState | None = ChangeState.ROLLED_BACK,
    upgrade: str = "broken",
    back: bool | None = True,
    cause: CauseId | None = None,
) -> Folder:
    """A promotion that failed."""
    folder = Folder(path)
    folder.promotion_steps(upgrade, back)
    folder.backups()
    folder.leave(PLAN)
    if state is not None:
        folder.change(state)
    folder.summary(
        outcome=Outcome.FAILED,
        exit_code=code,
        error=error,
        remedy="read `evidence`",
        image=None,
        groups=GROUPS[:1],
        change=replace(CHANGE, state=state, live_revision=None, cause=cause) if state else None,
    )
    return folder
