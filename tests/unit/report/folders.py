"""Run folders as the pipeline leaves them, made small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OLD, NEW = "queue-timeout-1", "queue-timeout-2"
OLD_DIGEST, NEW_DIGEST = "sha256:" + "a" * 64, "sha256:" + "b" * 64
REPOSITORY = "registry:5000/model-engine"

PLAN = f"""revision 3 -> 4
image {REPOSITORY}:{OLD} -> {REPOSITORY}:{NEW}
  Deployment/model-engine spec.template.spec.containers[model-engine].image: \
{REPOSITORY}:{OLD} -> {REPOSITORY}:{NEW} (the image)
  Job/migrate-3 (hook) metadata.name: migrate-3 -> migrate-4 (the release's revision)
"""
REFUSED = PLAN + "! ConfigMap/settings data.limit: 10 -> 20 (not of the image)\n"

ACCOUNT = (
    "713 sent, 711 answered, 2 failed (HTTP 503); longest gap 0.47 s, median 23 ms, slowest 771 ms"
)

SCRIPT = """#!/bin/sh
release=launch-inference
namespace='launch'
revision=3
context=${ROLLBACK_CONTEXT:-kind-launch}
"""

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="test_health" name="test_it_answers" time="9.5"/>
<testcase classname="test_lock_duration" name="test_lock_duration_is_what_was_asked[45]" time="0.8">
  <properties><property name="lock_duration_asked" value="45 s"/>
  <property name="lock_duration_seen" value="45 s"/></properties></testcase>
<testcase classname="test_deliveries" name="test_it_is_delivered_again" time="1.25">
  <failure message="expected &lt;b&gt;2&lt;/b&gt; deliveries"/></testcase>
<testcase classname="test_cached_view" name="test_view" time="0">
  <skipped message="the target runs no cacher"/></testcase>
</testsuite></testsuites>
"""


class Folder:
    """A run's folder under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._at = 0.0

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
        self, name: str, begun: float, ended: float | None, problem: str = "", parent: str = ""
    ) -> None:
        more = {"parent": parent} if parent else {}
        self.event("step.started", name, f"why {name}", at=begun, **more)
        if ended is not None:
            kind = "step.failed" if problem else "step.finished"
            self.event(kind, name, problem, at=ended, seconds=round(ended - begun, 3))

    def write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def summary(self, **changed: Any) -> None:
        value = {
            "id": self.path.name,
            "command": "run",
            "outcome": "passed",
            "exit_code": 0,
            "seconds": 60.0,
            "steps": [],
            "folder": "/elsewhere",
            "image": {"repository": REPOSITORY, "tag": NEW, "digest": NEW_DIGEST},
            "cases": [],
            "promotion": None,
            "checks": [],
            "versions": [["helm", "3.21.4"]],
            "error": "",
            "remedy": "",
        }
        self.write("summary.json", json.dumps(value | changed))

    def backups(self) -> None:
        self.write("backups/quick-rollback.sh", SCRIPT)
        self.write("backups/current-image.txt", f"{REPOSITORY}:{OLD}\ndigest {OLD_DIGEST}\n")

    def promotion_steps(self, upgrade: str = "", back: bool | None = None) -> None:
        """Those of a promotion; ``upgrade`` is why it failed, ``back`` how its rollback ended."""
        self.step("build", 0, 20)
        self.step("gate", 0, 15)
        self.step("prove", 20, 40)
        self.event("step.started", "promote", "why promote", at=40)
        self.step("plan", 40, 42, parent="promote")
        self.step("upgrade", 42, 50, upgrade, parent="promote")
        if back is not None:
            self.step("roll back", 50, 53, "" if back else "no such revision", parent="promote")
        if back:
            self.step("verify the rollback", 53, 55, parent="promote")
        kind = "step.failed" if upgrade else "step.finished"
        self.event(kind, "promote", upgrade, at=56, seconds=16)


def promoted(path: Path) -> Folder:
    folder = Folder(path)
    folder.promotion_steps()
    folder.backups()
    folder.write("plan.txt", PLAN)
    folder.write("junit.xml", JUNIT)
    check = {"name": "requests during the change", "ok": True, "evidence": ACCOUNT}
    folder.summary(
        promotion={
            "target": "launch",
            "before": {"repository": REPOSITORY, "tag": OLD, "digest": OLD_DIGEST},
            "after": {"repository": REPOSITORY, "tag": NEW, "digest": NEW_DIGEST},
            "from_revision": 3,
            "to_revision": 4,
            "backups": "/elsewhere/backups",
            "checks": [check],
        },
        checks=[{"name": "release is deployed", "ok": True, "evidence": "revision 4 is deployed"}],
    )
    return folder


def failed(
    path: Path, code: int, error: str, *, upgrade: str = "broken", back: bool | None = True
) -> Folder:
    folder = Folder(path)
    folder.promotion_steps(upgrade, back)
    folder.backups()
    folder.write("plan.txt", PLAN)
    folder.summary(
        outcome="failed", exit_code=code, error=error, remedy="read `evidence`", image=None
    )
    return folder
