"""The rules inside the stages: what is hashed, handed on, waited for, proven."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

import servicebus_emulator
from ci import standins
from ci.digest import Digest
from ci.errors import BuildFailed, DeployFailed, DiskFull, ForeignCluster, ProofFailed
from ci.model import Cluster, Image, Proof, ServiceBusAccess, StandIns
from ci.promotion.release import reader
from ci.promotion.release.rollout import Snapshot
from ci.run.context import Context
from ci.run.state import Home
from ci.run_folder import RunFolder
from ci.stages import build, deploy, prove
from ci.standins import admission
from ci.tools import chart as charts
from ci.tools import diagnostics
from ci.tools.command import Output
from ci.tools.dagger import build_failure
from ci.tools.kind import configuration, thaw
from tests.unit.promotion.release import test_two_looks as two_looks
from tests.unit.promotion.upgrade.test_soak import ManualClock

IMAGE = Image("registry.gate.internal:5000/model-engine", "t", Digest.from_hex("a" * 64))


def test_a_tag_has_the_plans_form() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert build.tag_of("queue-timeout", now) == "queue-timeout-20260102-030405"


def test_a_tree_hash_sees_names_bytes_and_modes_but_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = build.tree_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "x.pyc").write_text("x")
    assert build.tree_hash(tmp_path) == first
    (tmp_path / "a").chmod(0o755)
    second = build.tree_hash(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    third = build.tree_hash(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, third, build.tree_hash(tmp_path)}) == 4
    assert build.tree_hash(tmp_path, ["word"]) != build.tree_hash(tmp_path)


def test_only_what_the_host_has_is_handed_on() -> None:
    assert build.handed_on({}, {"global.cert": "/ca.pem", ":env:.find-links": "/w"}) == ({}, {})


def test_a_proxy_is_handed_on_unless_it_is_this_hosts_own_loopback() -> None:
    env = {"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://127.0.0.1:8080"}
    assert build.handed_on(env, {})[0] == {"HTTPS_PROXY": "http://proxy:3128"}


def test_pips_index_travels_as_a_secret_and_not_as_an_argument() -> None:
    pip = {"global.index-url": "https://user:secret@mirror/simple"}
    arguments, secrets = build.handed_on({}, pip)
    assert arguments == {}
    assert "index-url = https://user:secret@mirror/simple" in secrets["pip.conf"]


def test_a_failed_build_names_the_step_and_its_last_lines() -> None:
    output = "\n".join(f"line {n}" for n in range(40)) + "\nno matching distribution"
    problem = build_failure("exit code: 1", output, ("/bin/sh", "-c", "pip install x"))
    assert isinstance(problem, BuildFailed)
    assert "`pip install x`" in str(problem)
    assert "no matching distribution" in str(problem)
    assert "line 3\n" not in str(problem)


def test_a_full_disk_is_told_apart_from_a_wrong_dockerfile() -> None:
    assert isinstance(build_failure("No space left on device", "", ()), DiskFull)


# -- deploy ---------------------------------------------------------------------------------------


class Deployed:
    """A namespace as it is listed, look by look; the last for good."""

    cluster = SimpleNamespace(name="gate")

    def __init__(self, *looks: Snapshot) -> None:
        self.looks, self.clock = list(looks), ManualClock()
        self.notes: list[str] = []

    def snapshot(self, *_: Any) -> Snapshot:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def pods(self, _namespace: str) -> list[Any]:
        return list(self.looks[0].pods)

    def wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "snapshot", self.snapshot)
        monkeypatch.setattr(diagnostics, "collect", lambda *_: self.notes.append("evidence"))
        monkeypatch.setattr(diagnostics, "tail", lambda *_: "no module named x")
        events = SimpleNamespace(note=self.notes.append)
        context = SimpleNamespace(clock=self.clock, events=events, folder=RunFolder(Path("run")))
        deploy._wait_ready(cast(Context, context), cast(Any, self), "launch", timeout=60)


def test_old_pods_that_drain_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old worker takes tasks for as long as it drains: the proof would be of two versions."""
    draining = two_looks.look(*two_looks.KEPT, two_looks.DRAINING)
    there = Deployed(Snapshot.of([]), draining, draining, two_looks.SETTLED)
    there.wait(monkeypatch)
    assert there.notes == [
        "the release: no such Deployment",
        "engine: pods still terminate: engine-a-9",
    ]
    assert 0 < there.clock.now < 2


def test_what_does_not_come_up_is_said_with_the_pods_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = Deployed(two_looks.look(two_looks.Pod("b", 1)))
    with pytest.raises(DeployFailed, match=r"1 of 2 pods run; pods: engine-b-1 Running"):
        there.wait(monkeypatch)
    assert (there.clock.now, there.notes[-1]) == (60, "evidence")


@pytest.mark.parametrize(
    ("reason", "restarts", "gives_up"),
    [
        ("ContainerCreating", 0, False),
        ("ImagePullBackOff", 0, True),
        ("CreateContainerConfigError", 0, True),
        ("ImageInspectError", 0, True),
        ("CrashLoopBackOff", 1, False),
        ("CrashLoopBackOff", 3, True),
    ],
)
@pytest.mark.parametrize("kind", ["containerStatuses", "initContainerStatuses"])
def test_waiting_ends_early_for_what_waiting_does_not_heal(
    reason: str, restarts: int, gives_up: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = two_looks.Pod("b", 1, ready=False).object()
    waiting = {"name": "engine", "state": {"waiting": {"reason": reason}}, "restartCount": restarts}
    stuck["status"][kind] = [waiting]
    there = Deployed(Snapshot.of([two_looks.deployment("b"), stuck]))
    with pytest.raises(DeployFailed) as caught:
        there.wait(monkeypatch)
    assert (there.clock.now < 10) is gives_up
    if gives_up:
        assert f"is in {reason}, in namespace launch; its last log lines: no module" in str(
            caught.value
        )
        assert there.notes[-1] == "evidence"


def running(name: str, digest: str, phase: str = "Running", ends: bool = False) -> dict[str, Any]:
    image, metadata = IMAGE.repository, {"name": name}
    return {
        "metadata": {**metadata, "deletionTimestamp": "2026-11-23T16:00:00Z"} if ends else metadata,
        "status": {
            "phase": phase,
            "containerStatuses": [{"image": f"{image}:t", "imageID": f"{image}@sha256:{digest}"}],
        },
    }


@pytest.mark.parametrize(
    ("left", "refused"),
    [
        (running("old", "b" * 64), True),
        (running("old", "b" * 64, ends=True), False),
        (running("old", "b" * 64, phase="Failed"), False),
    ],
    ids=["a live pod", "a pod of the version before that drains", "the record of an evicted pod"],
)
def test_every_live_pod_runs_the_digest(left: dict[str, Any], refused: bool) -> None:
    kube = cast(Any, SimpleNamespace(pods=lambda _: [running("new", "a" * 64), left]))
    if refused:
        with pytest.raises(DeployFailed, match="pod old runs"):
            deploy._check_digest(kube, "launch", IMAGE)
    else:
        deploy._check_digest(kube, "launch", IMAGE)


def test_settings_win_over_what_the_pipeline_sets() -> None:
    merged = charts.merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": (1, 2)})
    assert merged == {"a": {"b": 9, "c": 2}, "d": 3, "e": [1, 2]}


def test_the_images_of_a_chart_are_found_in_every_kind_of_workload() -> None:
    job = {"spec": {"template": {"spec": {"containers": [{"image": "a:1"}, {"name": "none"}]}}}}
    cron = {"spec": {"jobTemplate": job}}
    pod = {"spec": {"initContainers": [{"image": "b@sha256:0"}], "containers": [{"image": "a:1"}]}}
    other = {"data": {"containers": "text"}, "image": "of no container"}
    assert charts.images(yaml.safe_dump_all([cron, None, pod, other])) == ["b@sha256:0", "a:1"]


# -- stand-ins ------------------------------------------------------------------------------------

SECRETS = standins.Secrets("pw-one", "pw-two", "key=", "CA", "CRT", "KEY")


def test_secrets_come_back_from_their_secret() -> None:
    assert standins.Secrets.of(SECRETS.data()) == SECRETS
    with pytest.raises(KeyError):
        standins.Secrets.of({"postgres_password": "x"})


def test_no_secret_stands_in_a_workload() -> None:
    text = yaml.safe_dump_all(standins.workloads("postgres", "redis", "emulator"))
    assert not [v for v in SECRETS.data().values() if v in text.split()]
    assert "RootManageSharedAccessKey=$(SERVICEBUS_KEY)" in text


def test_a_connection_string_is_the_sdks() -> None:
    from azure.servicebus import parse_connection_string

    parsed = parse_connection_string(SECRETS.connection_string())
    assert parsed.fully_qualified_namespace == standins.SERVICEBUS_HOST
    assert parsed.shared_access_key == "key="


def test_the_certificate_holds_for_the_service_for_a_port_forward_and_for_azures_names() -> None:
    _, certificate, _ = deploy._certificate()
    found = servicebus_emulator.names_of(certificate.encode())
    assert {standins.SERVICEBUS_HOST, "localhost", *admission.AZURE_NAMES} <= found


def foreign(home: Home, **changed: Any) -> tuple[Context, StandIns]:
    """A cluster of somebody else's, and a context that knows it but can do nothing to it."""
    theirs = {"kubeconfig": home.kubeconfig("prod"), "disposable": True, **changed}
    cluster = Cluster(name="prod", context="prod", **theirs)
    access = ServiceBusAccess("", b"", "")
    context = cast(Context, SimpleNamespace(home=home))
    return context, StandIns(cluster, "standins", access, "", "")


@pytest.mark.parametrize(
    "changed", [{"disposable": False}, {"kubeconfig": Path("/home/them/.kube/config")}]
)
@pytest.mark.parametrize(
    "touch",
    [
        lambda context, there: deploy.prepare_standins(context, there.cluster),
        lambda context, there: deploy.redirect_cloud(context, there, ["image"]),
        lambda context, there: deploy.remove_overlay(context, there.cluster),
    ],
)
def test_a_cluster_of_somebody_elses_is_refused_before_it_is_touched(
    tmp_path: Path,
    changed: dict[str, Any],
    touch: Callable[[Context, StandIns], object],
) -> None:
    context, there = foreign(Home(tmp_path), **changed)
    with pytest.raises(ForeignCluster, match="prod: the pipeline did not create it"):
        touch(context, there)


def test_azures_ports_are_open_and_the_emulator_gives_tokens() -> None:
    made = standins.workloads("postgres", "redis", "emulator")
    service = next(
        m for m in made if m["kind"] == "Service" and m["metadata"]["name"] == "servicebus"
    )
    assert {5671, 443} <= {port["port"] for port in service["spec"]["ports"]}
    deployed = next(
        m for m in made if m["kind"] == "Deployment" and m["metadata"]["name"] == "servicebus"
    )
    assert "--identity" in deployed["spec"]["template"]["spec"]["containers"][0]["args"]


# -- kind -----------------------------------------------------------------------------------------


def test_what_is_frozen_in_a_container_is_woken_and_nothing_else(tmp_path: Path) -> None:
    def state(container: str, pod: str, text: str) -> Path:
        folder = tmp_path / container / "kubelet" / pod
        folder.mkdir(parents=True)
        (folder / "freezer.state").write_text(f"{text}\n")
        return folder / "freezer.state"

    frozen, running = state("ours", "a", "FROZEN"), state("ours", "b", "THAWED")
    other = state("other", "a", "FROZEN")
    assert thaw(tmp_path, "ours") == [frozen]
    assert frozen.read_text() == "THAWED"
    assert running.read_text() == "THAWED\n"
    assert other.read_text() == "FROZEN\n"
    assert thaw(tmp_path, "") == []
    assert thaw(tmp_path / "cgroup v2 has none", "ours") == []


def test_kinds_network_is_left_out_only_where_the_image_brings_one() -> None:
    for brings in (True, False):
        config = yaml.safe_load(configuration(Path("/certs"), "", brings_cni=brings))
        assert config["networking"]["disableDefaultCNI"] is brings


def test_a_hosts_kubelet_patch_is_taken_over() -> None:
    patch = "kind: KubeletConfiguration\nfailCgroupV1: false\n"
    config = yaml.safe_load(configuration(Path("/certs"), patch, brings_cni=True))
    assert config["kubeadmConfigPatches"][-1] == patch
    mount = config["nodes"][0]["extraMounts"][0]
    assert mount == {
        "hostPath": "/certs",
        "containerPath": "/etc/containerd/certs.d",
        "readOnly": True,
    }


# -- prove ----------------------------------------------------------------------------------------

PASSED = '<testcase classname="t" name="a" time="1.5"/>'
FAILED = '<testcase classname="t" name="b"><failure message="lock was 60"/></testcase>'
ERROR = '<testcase classname="t" name="c"><error message="no gateway"/></testcase>'
SKIPPED = '<testcase classname="t" name="d"><skipped message="no cacher"/></testcase>'


MEASURED = (
    '<testcase classname="t" name="e"><properties>'
    '<property name="lock" value="5 s"/><property name="evidence" value="slowest 80 ms"/>'
    "</properties></testcase>"
)


def judged(tmp_path: Path, *cases: str, status: int = 0) -> Proof:
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return prove.judge(IMAGE, report, Output(status, "the end of pytest's output", ""))


def test_a_proof_is_made_of_cases_that_passed(tmp_path: Path) -> None:
    proof = judged(tmp_path, PASSED, SKIPPED)
    assert proof.passed
    assert judged(tmp_path, MEASURED).cases[0].message == "slowest 80 ms"


@pytest.mark.parametrize(
    ("cases", "status", "says"),
    [
        ((PASSED, FAILED), 1, "1 of 2 cases failed: t::b: lock was 60"),
        ((PASSED, ERROR), 1, "no gateway"),
        ((PASSED, FAILED), 0, "1 of 2 cases failed"),
        ((SKIPPED,), 0, "no test case passed"),
        ((), 5, "no test case passed"),
        ((PASSED,), 3, "ended with 3"),
    ],
)
def test_anything_else_is_no_proof(
    tmp_path: Path, cases: tuple[str, ...], status: int, says: str
) -> None:
    with pytest.raises(ProofFailed, match=says):
        judged(tmp_path, *cases, status=status)


def test_a_report_that_was_never_written_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="did not run"):
        prove.judge(IMAGE, tmp_path / "none.xml", Output(4, "usage error", ""))


@pytest.mark.parametrize(
    "text", ["", "<testsuites>", "<html/>", "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>"]
)
def test_a_report_that_is_cut_off_is_no_proof(tmp_path: Path, text: str) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(text)
    with pytest.raises(ProofFailed, match="did not run"):
        prove.judge(IMAGE, report, Output(0, "", ""))
