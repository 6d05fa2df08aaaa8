"""The prober that runs in a pod: its script for real, its manifest, its lines."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.model import Cluster, ProbeBucket, Target
from ci.promotion.probes import in_cluster
from ci.promotion.probes.prober import BUCKETS, Account, bucket, ends
from ci.results import ProbePlace
from ci.tools.api import Answer
from tests.unit.machine import ManualClock
from tests.unit.serving import service
from tests.unit.sessions import session_of

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


def line(at: float, sent: int, failed: int, **took: int) -> str:
    counts = [0] * BUCKETS
    for name, count in took.items():
        counts[int(name[1:])] = count
    fields = {
        "at": at, "sent": sent, "answered": sum(counts), "failed": failed, "longest_gap": 0,
        "slowest": 0.02, "took": counts, "problems": [],
    }  # fmt: skip
    return json.dumps(fields)


def test_the_requests_over_time_are_what_each_line_added() -> None:
    log = "\n".join(
        [
            line(0.3, 6, 0, b4=6),
            line(1.2, 20, 0, b4=19),
            "cut off {",
            line(2.1, 30, 3, b4=19, b17=8),
        ]
    )
    made = in_cluster.over_time(log, read=102.1)
    assert made.all() == (
        ProbeBucket(100.0, 20, 19, 0, 0.002),
        ProbeBucket(101.0, 10, 8, 3, round(ends(17), 6)),
    )


def test_a_log_without_its_beginning_counts_from_its_first_line() -> None:
    log = "\n".join([line(900.0, 18_000, 2, b4=17_990), line(900.3, 18_006, 2, b4=17_996)])
    assert in_cluster.over_time(log, read=1000.3).all() == (ProbeBucket(1000.0, 6, 6, 0, 0.002),)
    assert in_cluster.over_time("", read=3).all() == ()


class Pod:
    """The API of a cluster on which the prober's pod runs and logs."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.code, self.reads = clock, 200, list[dict[str, object]]()

    def for_cleanup(self) -> Pod:
        return self

    def create(self, *_: object) -> None:
        pass

    def logs(self, *_: object, **query: object) -> Answer:
        self.reads.append(query)
        lines = [line(n / 4, 5 * n, 0, b4=5 * n) for n in range(1, int(self.clock.now * 4) + 1)]
        tail = int(str(query["tailLines"]))
        return Answer(self.code, "\n".join(lines[-tail:]))


def prober(pod: Pod) -> in_cluster.InsideProber:
    gateway: dict[str, Any] = {"spec": {"template": {"spec": {}}}}
    session = session_of(TARGET, clock=pod.clock, kube=pod)
    return in_cluster.InsideProber(session, gateway, "r:5000/engine:old")


def test_the_whole_log_is_read_once_when_it_stops() -> None:
    pod = Pod(ManualClock())
    inside = prober(pod)
    pod.clock.now = 3.0
    final = inside.stop()
    assert final is not None
    assert final.sent == final.answered
    series = inside.series()
    assert series.place is ProbePlace.IN_CLUSTER
    assert series.final == final.requests()
    assert sum(each.sent for each in series.buckets) >= final.sent
    reads = len(pod.reads)
    assert pod.reads[-1]["tailLines"] == in_cluster.SERIES_LINES
    assert inside.stop() == final
    assert len(pod.reads) == reads


def test_a_pod_that_is_gone_has_no_account_and_is_not_waited_for_twice() -> None:
    pod = Pod(ManualClock())
    inside = prober(pod)
    pod.code = 404
    assert inside.stop() is None
    reads = len(pod.reads)
    assert inside.stop() is None
    assert len(pod.reads) == reads
    assert inside.series().final is None


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
    assert container["command"][3:] == ["model-engine.launch.svc", "80", "/readyz", "20", "5"]
