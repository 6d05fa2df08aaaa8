"""The whole flow: what passes is promoted, what fails or is interrupted never is.

The tests run in this order: the first makes the target that the others must not touch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.acceptance.conftest import EXAMPLE, ROOT, Pipeline, containers

BROKEN = ROOT / "tests" / "e2e" / "broken"

pytestmark = pytest.mark.usefixtures("no_gate_left")


def test_what_is_proven_is_promoted(pipeline: Pipeline) -> None:
    ended = pipeline("run", timeout=1800)
    assert ended.status == 0, ended.stderr
    summary = ended.summary
    digest = summary["image"]["digest"]
    assert f"digest     {digest}" in ended.stdout
    assert summary["promotion"]["after"]["digest"] == digest
    assert ended.checks["queue.timeouts"] == "passed", "the core check ran on the target"
    assert summary["promotion"]["to_revision"] > summary["promotion"]["from_revision"]
    live = pipeline.live()
    assert live["status"] == "deployed"
    assert live["revision"] == summary["promotion"]["to_revision"]
    assert live["digests"] == {digest}
    assert live["tags"] == {summary["image"]["tag"]}
    backups = {file.name for file in (ended.run_dir / "backups").iterdir()}
    assert {
        "helm-values-backup.yaml",
        "model-engine-deployment-backup.yaml",
        "endpoint-builder-deployment-backup.yaml",
        "current-image.txt",
        "health-checks.txt",
        "current-env-vars.txt",
        "quick-rollback.sh",
    } <= backups
    assert not list(ended.run_dir.glob("target-*.json")), "a file with a key was left behind"
    if reports := os.environ.get("ACCEPTANCE_REPORTS"):
        shutil.copy(ended.run_dir / "junit.xml", Path(reports) / "acceptance-e2e.xml")


def test_verify_finds_the_criteria_met(pipeline: Pipeline) -> None:
    ended = pipeline("verify")
    assert ended.status == 0, ended.stderr
    assert "failed" not in ended.checks.values()
    criteria = ("pods.run-digest", "health.path", "release.deployed", "logs.no-errors")
    assert {ended.checks[id] for id in criteria} == {"passed"}


AZURES_NAMES = """
[gate]
values.replicaCount.cacher = 1
values.secrets.servicebusSecretName = ""
values.podLabels = { "azure.workload.identity/use" = "true" }

[gate.cloud]
redirect = true
"""
"""The service is told nothing of the emulator: it knows its namespace in Azure."""


def test_a_broken_queue_timeout_is_never_promoted(pipeline: Pipeline, source: Path) -> None:
    """It is broken wherever its queues are: here it uses Azure's names and its pods' identity."""
    patch = BROKEN / "lock-duration-ignored.patch"
    subprocess.run(
        ["git", "apply", "--unsafe-paths", f"--directory={source}", "-p3", str(patch)],
        check=True,
        cwd="/",
    )
    same = EXAMPLE / "model_engine" / "bus.py"
    assert any(
        (source / "model_engine" / file.name).read_bytes() != file.read_bytes()
        for file in same.parent.glob("*.py")
    ), "the patch changed nothing"
    before = pipeline.live()
    ended = pipeline("run", settings=f'[image]\ncontext = "{source}"\n{AZURES_NAMES}')
    assert ended.status == 20, ended.stderr
    error, remedy = ended.error()
    assert "cases failed" in error
    cases = {
        case.get("name"): case.find("failure") is None
        for case in ElementTree.parse(ended.run_dir / "junit.xml").iter("testcase")
    }
    assert not cases["test_lock_duration_follows_updates"]
    assert cases["test_a_task_within_its_lock_runs_once"]
    assert "the target was not touched" in remedy
    assert pipeline.live() == before
    kept = ended.run_dir / "evidence" / "prove-gate"
    evidence = {file.relative_to(kept).as_posix() for file in kept.rglob("*.txt")}
    assert {"launch/pods.txt", "launch/events.txt", "standins/pods.txt"} <= evidence
    assert (ended.run_dir / "junit.xml").is_file()
    events = (ended.run_dir / "events.jsonl").read_text("utf-8").splitlines()
    built = (event for event in map(json.loads, events) if event["step"] == "build")
    digest = next(event["image"]["digest"] for event in built if "image" in event)
    assert (ended.run_dir / "evidence.dsse.json").is_file(), "what failed is kept, signed"
    refused = pipeline("promote", "--image", f"registry.gate.internal:5000/model-engine@{digest}")
    assert refused.status == 21
    assert "no evidence is attached" in refused.error()[0]
    assert pipeline.live() == before


def test_ctrl_c_while_the_cluster_is_made_leaves_nothing(pipeline: Pipeline) -> None:
    before = pipeline.live()
    running = pipeline.start("run")
    running.wait_for("start the gate cluster: started", 120)
    deadline = time.monotonic() + 60
    while not containers("gate"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    second = pipeline("run")
    assert second.status == 7
    assert "another run" in second.error()[0]
    running.interrupt()
    ended = running.end(60)
    assert ended.status == 130, ended.stderr
    assert "interrupted" in ended.error()[0]
    assert containers("gate") == []
    assert pipeline.live() == before


def test_ctrl_c_during_the_promotion_rolls_back(pipeline: Pipeline) -> None:
    back = pipeline("rollback")
    assert back.status == 0, back.stderr
    before = pipeline.live()
    running = pipeline.start("promote", "--image", "last")
    running.wait_for("helm upgrade: started", 60)
    running.interrupt()
    ended = running.end(180)
    assert ended.status == 130, ended.stderr
    after = pipeline.live()
    assert after["digests"] == before["digests"]
    assert after["status"] == "deployed"


def test_promote_takes_what_was_proven_last(pipeline: Pipeline) -> None:
    ended = pipeline("promote", "--image", "last")
    assert ended.status == 0, ended.stderr
    digest = ended.summary["promotion"]["after"]["digest"]
    live = pipeline.live()
    assert live["digests"] == {digest}
    again = pipeline("promote", "--image", "last")
    assert again.status == 0, again.stderr
    assert again.summary["promotion"]["state"] == "already-served"
    assert again.summary["change"]["state"] == "already-served"
    assert pipeline.live() == live
