"""The prober that runs in a pod: its script for real, its manifest, its lines."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ci.model import Cluster, Target
from ci.promotion.probes import in_cluster
from ci.promotion.probes.prober import BUCKETS, Account, bucket
from tests.unit.serving import service

TARGET = Target(
    "prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("chart"), "r:5000/engine"
)


def probe(port: int) -> Account:
    """Run the script until its fourth line, for a second."""
    script = in_cluster._SCRIPT.read_text(encoding="utf-8")
    words = [sys.executable, "-c", script, "127.0.0.1", str(port), "/readyz", "50", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.kill()
    found = in_cluster.parse("".join(lines))
    assert found is not None
    return found


@pytest.mark.program
def test_the_script_counts_answers() -> None:
    with service(200) as port:
        found = probe(port)
    assert found.failed == 0
    assert 20 <= found.answered <= found.sent <= 60
    assert 0 < found.median <= found.slowest <= found.longest_gap + found.slowest
    # Its buckets are the prober's own.
    assert sum(found.took) == found.answered
    assert found.took[bucket(found.slowest)] >= 1
    assert not any(found.took[bucket(found.slowest) + 1 :])


@pytest.mark.program
def test_the_script_counts_failures_and_says_why() -> None:
    with service(503) as port:
        found = probe(port)
    assert found.answered == 0
    assert found.problems[0][0] == "HTTP 503"
    assert found.longest_gap > 0.9
    gone = probe(port)  # nobody listens there any more
    assert gone.problems[0][0].startswith("ConnectionRefusedError")


def test_the_newest_whole_line_counts() -> None:
    line = '{"sent": 2, "answered": 1, "failed": 1, "longest_gap": 1,'
    line += f' "slowest": 0.2, "problems": [["HTTP 503", 1]], "took": {[1] * BUCKETS}}}'
    assert in_cluster.parse(f"noise\n{line}\n" + line[:20]) == Account(
        2, 1, 1, 1.0, 0.2, 0.2, (("HTTP 503", 1),), (1,) * BUCKETS
    )
    for nothing in ("", "noise", "{}", "[1]", "null"):
        assert in_cluster.parse(nothing) is None


def test_the_pod_asks_for_nothing_and_ends_by_itself() -> None:
    gateway = {"spec": {"template": {"spec": {"imagePullSecrets": [{"name": "login"}]}}}}
    spec = in_cluster.manifest(TARGET, gateway, "r:5000/engine:old")["spec"]
    assert spec["imagePullSecrets"] == [{"name": "login"}]
    assert spec["automountServiceAccountToken"] is False
    assert spec["activeDeadlineSeconds"] > TARGET.timeout_seconds
    soaks = replace(TARGET, soak_seconds=86400)
    day = in_cluster.manifest(soaks, gateway, "r:5000/engine:old")["spec"]["activeDeadlineSeconds"]
    assert day > TARGET.timeout_seconds + soaks.soak_seconds, "it would end in mid-soak"
    (container,) = spec["containers"]
    assert container["image"] == "r:5000/engine:old"
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["command"][3:] == ["model-engine.launch.svc", "80", "/readyz", "20.0", "5.0"]
