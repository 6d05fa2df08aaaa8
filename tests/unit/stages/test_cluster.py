"""Clusters are recorded before they are made, so that every one of ours is found and removed, and
nobody else's ever is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.errors import ClusterFailed, CommandFailed, WaitTimeout
from ci.model import Cluster
from ci.run.context import Context
from ci.run.state import ClusterRecord
from ci.stages import cluster
from ci.tools import api
from ci.tools.api import Answer
from ci.tools.command import Output
from ci.tools.process_identity import Process
from tests.unit.evidence.fakes import machine as described_machine
from tests.unit.machine import Machine, ManualClock, failed, said, take_over

STEPS = " • Preparing nodes 📦  ...\n • Writing configuration 📜  ...\n"


@dataclass
class Host:
    """A host with kind and Docker, and a run on it."""

    machine: Machine
    context: Context
    clusters: list[str]
    """Those that kind lists."""
    stopped: bool = False
    create: Output | None = None
    """How ``kind create`` ends; well when it is ``None``."""
    recorded: dict[str, ClusterRecord] | None = None
    """What was recorded when ``kind create`` was started."""
    account: Answer = field(default_factory=lambda: Answer(200, "{}"))

    def answer(self, words: list[str]) -> Output | None:
        match words:
            case ["kind", "get", "clusters", *_]:
                return said("\n".join(self.clusters))
            case ["kind", "create", "cluster", "--name", name, *_]:
                self.recorded = self.context.home.clusters()
                assert not self.context.home.kubeconfig(name).exists()
                if self.create is not None:
                    return self.create
                self.context.home.kubeconfig(name).write_text("clusters: []")
                self.clusters.append(name)
                return said(STEPS)
            case ["kind", "delete", "cluster", "--name", name, *_]:
                self.clusters[:] = [each for each in self.clusters if each != name]
            case ["docker", "inspect", *_]:
                return said("false\n" if self.stopped else "true\n")
        return None

    def ask(self, _: Cluster, method: str, path: str, **__: Any) -> Answer:
        assert (method, path.rpartition("/")[2]) == ("GET", "default")
        return self.account

    def verbs(self) -> list[str]:
        """What kind was asked for, in its order; looks left out."""
        return [words[1] for words in self.machine.words("kind") if words[1] != "get"]

    def record(self, name: str = "gate", *, kept: bool = True, **changed: Any) -> None:
        """A cluster that an earlier run made."""
        known = ClusterRecord(name, Process.this(), kept, cluster._determined_by(self.context))
        self.context.home.put_cluster(replace(known, **changed))
        self.clusters.append(name)
        file = self.context.home.kubeconfig(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("clusters: []")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    machine = take_over(monkeypatch)
    context = described_machine(tmp_path)
    tools = replace(
        context.tools, kind=Path("/bin/kind"), docker=Path("/bin/docker"),
        kubectl=Path("/bin/kubectl"), node_image="kindest/node:v1", node_certs_dir=Path("/certs"),
    )  # fmt: skip
    found = Host(machine, replace(context, tools=tools, clock=ManualClock()), [])
    machine.answer = found.answer
    monkeypatch.setattr(api, "ask", found.ask)
    return found


DEAD = Process(999_999_999, "1", "of another boot")


def notes(context: Context) -> list[str]:
    return [event.text for event in context.events.all]


# -- making one -----------------------------------------------------------------------------------


def test_a_cluster_is_recorded_before_it_is_made(host: Host) -> None:
    cluster.create(host.context, "gate")
    assert host.recorded is not None
    record = host.recorded["gate"]
    assert record.owner == Process.this(), "a kill at any moment leaves a trace"
    assert not record.kept


def test_a_cluster_is_made_of_the_node_image_with_a_kubeconfig_of_its_own(host: Host) -> None:
    made = cluster.create(host.context, "gate")
    kubeconfig = host.context.home.kubeconfig("gate")
    assert made == Cluster("gate", kubeconfig, "kind-gate", disposable=True)
    (words,) = host.machine.words("kind", "create")
    assert words == [
        "kind", "create", "cluster", "--name", "gate", "--image", "kindest/node:v1",
        "--kubeconfig", str(kubeconfig), "--config", "-",
    ]  # fmt: skip
    how = host.machine.how("kind", "create")
    assert how["env"] == {"KUBECONFIG": str(kubeconfig)}, "never the ambient one"
    node = yaml.safe_load(how["input"])["nodes"][0]
    assert node["extraMounts"][0]["hostPath"] == "/certs"
    assert "Preparing nodes" in " ".join(notes(host.context))


def test_a_kubeconfig_of_an_earlier_cluster_is_gone_before_a_new_one_is_made(host: Host) -> None:
    old = host.context.home.kubeconfig("gate")
    old.parent.mkdir(parents=True)
    old.write_text("leads elsewhere")
    cluster.create(host.context, "gate")  # the fake kind refuses one that is there


def test_names_are_answered_before_kubeadm_finds_its_dns_ready(host: Host) -> None:
    cluster.create(host.context, "gate")
    (patched,) = host.machine.words("kubectl")
    assert patched[1:5] == [
        "--kubeconfig", str(host.context.home.kubeconfig("gate")), "--context", "kind-gate",
    ]  # fmt: skip
    assert patched[5:8] == ["patch", "service", "kube-dns"]
    assert json.loads(patched[-1]) == {"spec": {"publishNotReadyAddresses": True}}


def test_a_cluster_that_takes_no_pods_yet_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([Answer(404, ""), Answer(0, "connection refused"), Answer(200, "{}")])
    monkeypatch.setattr(api, "ask", lambda *_, **__: next(answers))
    cluster.create(host.context, "gate")
    assert next(answers, None) is None


def test_a_cluster_that_never_takes_pods_is_given_up(host: Host) -> None:
    host.account = Answer(404, "")
    with pytest.raises(
        WaitTimeout, match="waited 90 s for the default ServiceAccount of cluster gate"
    ):
        cluster.create(host.context, "gate")
    assert "gate" in host.context.home.clusters(), "so that it is removed"


def test_kinds_own_words_say_why_there_is_no_cluster(host: Host) -> None:
    host.create = failed("ERROR: failed to create cluster: could not find a log line")
    with pytest.raises(ClusterFailed, match="could not find a log line"):
        cluster.create(host.context, "gate")
    assert "gate" in host.context.home.clusters(), "a half-made one is removed by its name"
    cluster.delete(host.context, "gate")
    assert host.verbs() == ["create", "delete"]


def test_a_cluster_of_somebody_else_is_never_removed(host: Host) -> None:
    host.clusters.append("gate")
    with pytest.raises(ClusterFailed, match="'gate' exists that the pipeline did not") as caught:
        cluster.create(host.context, "gate")
    assert "kind delete cluster --name gate" in caught.value.remedy
    assert "[gate]" in caught.value.remedy
    assert host.verbs() == []
    assert host.context.home.clusters() == {}


def test_an_older_cluster_of_ours_makes_room(host: Host) -> None:
    host.record(kept=False)
    cluster.create(host.context, "gate")
    assert host.verbs() == ["delete", "create"]


# -- images ---------------------------------------------------------------------------------------


def pulled(host: Host) -> list[str]:
    """References the node was told to pull; waits for the thread that does it."""
    for thread in threading.enumerate():
        if thread.name == "pull into gate":
            thread.join(5)
    return [words[-1] for words in host.machine.words("docker", "exec")]


def test_the_node_pulls_what_is_wanted_while_the_control_plane_starts(host: Host) -> None:
    cluster.create(host.context, "gate", ["a@sha256:1", "b@sha256:2"])
    assert pulled(host) == ["a@sha256:1", "b@sha256:2"], "most wanted first"
    (first, _) = host.machine.words("docker", "exec")
    assert first[2] == "gate-control-plane"


def test_nothing_is_pulled_into_a_cluster_whose_node_never_ran(host: Host) -> None:
    host.create = failed("no such image")
    with pytest.raises(ClusterFailed):
        cluster.create(host.context, "gate", ["a@sha256:1"])
    assert pulled(host) == []


@pytest.mark.parametrize("problem", [CommandFailed("the build failed"), OSError("of the build")])
def test_an_image_that_does_not_come_changes_nothing(host: Host, problem: Exception) -> None:
    def wanted() -> Iterator[str]:
        yield "a@sha256:1"
        raise problem

    made = cluster.create(host.context, "gate", wanted())
    assert made.name == "gate"
    assert pulled(host) == ["a@sha256:1"]


# -- using one again ------------------------------------------------------------------------------


def test_a_kept_cluster_that_answers_is_used_again(host: Host) -> None:
    host.record()
    found = cluster.find(host.context, "gate")
    assert found == Cluster("gate", host.context.home.kubeconfig("gate"), "kind-gate", True)
    assert host.verbs() == []
    assert host.machine.words("docker", "start") == []


def test_a_node_that_a_reboot_stopped_is_started(host: Host) -> None:
    host.record()
    host.stopped = True
    assert cluster.find(host.context, "gate") is not None
    assert host.machine.words("docker", "start") == [["docker", "start", "gate-control-plane"]]


def unanswering(host: Host) -> None:
    host.record()
    answer = host.answer
    host.machine.answer = lambda words: failed("") if words[0] == "kubectl" else answer(words)


@pytest.mark.parametrize(
    "what",
    ["none", "not kept", "another node image", "no kubeconfig", "removed by hand", "no answer"],
)
def test_a_cluster_that_cannot_be_used_is_not_found(host: Host, what: str) -> None:
    match what:
        case "not kept":
            host.record(kept=False)
        case "another node image":
            host.record(determined_by="0123456789abcdef")
        case "no kubeconfig":
            host.record()
            host.context.home.kubeconfig("gate").unlink()
        case "removed by hand":
            host.record()
            host.clusters.clear()
        case "no answer":
            unanswering(host)
    assert cluster.find(host.context, "gate") is None


@pytest.mark.parametrize("changed", [{"node_image": "node:v2"}, {"kubelet_patch": "a: b"}])
def test_other_tools_make_another_cluster(host: Host, changed: dict[str, str]) -> None:
    host.record()
    tools = replace(host.context.tools, **changed)  # type: ignore[arg-type]
    assert cluster.find(replace(host.context, tools=tools), "gate") is None


def test_ensure_makes_one_once_and_keeps_it(host: Host) -> None:
    first = cluster.ensure(host.context, "launch")
    assert host.context.home.clusters()["launch"].kept
    assert cluster.ensure(host.context, "launch") == first
    assert host.verbs() == ["create"]


def test_a_kept_cluster_that_does_not_answer_is_replaced(host: Host) -> None:
    unanswering(host)
    answer = host.machine.answer

    def once(words: list[str]) -> Output | None:
        return host.answer(words) if "create" in host.verbs() else answer(words)

    host.machine.answer = once
    cluster.ensure(host.context, "gate")
    assert host.verbs() == ["delete", "create"]


# -- removing -------------------------------------------------------------------------------------


def test_only_a_recorded_cluster_is_removed(host: Host) -> None:
    host.clusters.append("theirs")
    cluster.delete(host.context, "theirs")
    assert host.verbs() == []
    host.record("gate")
    cluster.delete(host.context, "gate")
    assert host.clusters == ["theirs"]
    assert host.context.home.clusters() == {}
    assert not host.context.home.kubeconfig("gate").exists()


def test_a_cluster_that_kind_cannot_remove_stays_recorded(host: Host) -> None:
    host.record()
    answer = host.answer
    host.machine.answer = lambda words: failed("busy") if words[1] == "delete" else answer(words)
    with pytest.raises(CommandFailed, match="busy"):
        cluster.delete(host.context, "gate")
    assert "gate" in host.context.home.clusters(), "the next run tries again"


def test_clusters_of_runs_that_died_are_removed_and_no_others(host: Host) -> None:
    host.record("of-a-dead-run", kept=False, owner=DEAD)
    host.record("kept", owner=DEAD)
    host.record("in-use", kept=False)
    assert cluster.stale(host.context) == ["of-a-dead-run"]
    cluster.remove_stale(host.context)
    assert host.clusters == ["kept", "in-use"]
    assert sorted(host.context.home.clusters()) == ["in-use", "kept"]


def test_a_cancelled_run_still_removes_its_cluster(host: Host) -> None:
    host.record(kept=False)
    host.context.programs.cancel.set()
    cluster.delete(host.context, "gate")
    assert host.verbs() == ["delete"]
