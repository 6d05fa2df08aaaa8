"""The cloud is led to the stand-ins and given back, whatever call of it is the last.

The API server is a model of the few objects that are touched; ``tests/integration/test_cloud.py``
does the same in a real cluster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from ci.errors import DeployFailed
from ci.standins import admission, cloud, corefile
from ci.standins.cloud import Wanted
from ci.tools.api import Answer
from ci.tools.command import Output
from ci.tools.kube import Kube
from tests.unit.standins.test_corefile import HOST, KUBEADM, ROUTES

T = TypeVar("T")
WANTED = Wanted(
    routes=ROUTES,
    selector=admission.SELECTOR,
    images=("registry:5000/engine:v1",),
    namespace="standins",
    emulator="registry:5000/emulator@sha256:0",
    workload="deployment/servicebus",
    ca="-----BEGIN CERTIFICATE-----\n",
)


class Ended(BaseException):
    """The process is killed."""


class Still:
    """A clock that waits for nothing."""

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("all is there at once, so that nothing is waited for")


@dataclass
class Cluster:
    """What kubectl would see, and the call at which the process ends."""

    corefile: str = KUBEADM
    note: dict[str, str] | None = None
    policy: dict[str, Any] | None = None
    asking: bool = False
    asked: list[str] = field(default_factory=list)
    serves: str = "mutatingadmissionpolicies"
    last: int | None = None
    """The number of the call that is the last one …"""
    done: bool = False
    """… which is carried out still, or not."""
    calls: int = 0
    uids: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.restart()

    @property
    def name(self) -> str:
        return "fake"

    @property
    def cluster(self) -> Cluster:
        return self

    def state(self) -> tuple[object, ...]:
        return (self.corefile, self.loaded, self.note, self.policy, self.asking)

    def restart(self) -> None:
        self.pod, self.loaded = next(self.uids), self.corefile

    # -- as ci.tools.kube.Kube --

    def run(self, *words: str, input: str | None = None, check: bool = True) -> Output:
        return self._call(lambda: Output(0, self._run(words, input), ""))

    def ask(self, method: str, path: str, *, timeout: float) -> Answer:
        assert (method, timeout) == ("GET", 5)
        assert path.endswith(f"/kube-system/pods/coredns-{self.pod}:8181/proxy/ready")
        return self._call(lambda: Answer(200, "OK"))

    def get(self, kind: str, name: str, *, namespace: str) -> dict[str, Any]:
        def found() -> dict[str, Any]:
            if kind == "configmap":
                return {"data": {"Corefile": self.corefile}}
            if kind == "pod":
                return {"metadata": {"name": name}, "status": {"phase": "Succeeded"}}
            return {"spec": {"replicas": 1}}

        return self._call(found)

    def pods(self, namespace: str, selector: str) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            named = {"name": f"coredns-{self.pod}", "uid": str(self.pod)}
            return [{"metadata": named, "status": {"podIP": "10.0.0.1"}}]

        return self._call(found)

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        def done() -> None:
            for item in objects:
                if item["kind"] == "ConfigMap":
                    self.note = item["data"]
                elif item["kind"] == "MutatingAdmissionPolicy":
                    self.policy = dict(item)

        self._call(done)

    def _call(self, effect: Callable[[], T]) -> T:
        self.calls += 1
        if self.calls == self.last:
            if self.done:
                effect()
            raise Ended
        return effect()

    def _run(self, words: tuple[str, ...], input: str | None) -> str:
        match words:
            case ("get", "--raw", "/apis/admissionregistration.k8s.io/v1"):
                return self.serves
            case ("get", "configmap", admission.NAME, *_):
                return json.dumps({"data": self.note}) if self.note is not None else ""
            case ("patch", "configmap", "coredns", *_):
                self.corefile = json.loads(words[-1])["data"]["Corefile"]
            case ("delete", "pods", "--namespace", _, "--selector", cloud.DNS_PODS, *_):
                self.restart()
            case ("delete", "pods", "--all-namespaces", *_) | ("delete", "pod", *_):
                self.asking = False
            case ("delete", "configmap", *_):
                self.note = None
            case ("delete", binding, policy, "--ignore-not-found"):
                assert "policybinding" in binding
                assert "policy." in policy
                self.policy = None
            case ("create", "--dry-run=server", *_):
                return json.dumps(self._made(json.loads(input or "")))
            case ("create", "-f", "-"):
                self.asking = True
                volumes = json.loads(input or "")["spec"]["volumes"]
                self.asked = [volume["image"]["reference"] for volume in volumes]
            case ("logs", *_):
                return json.dumps([["/a/certifi/cacert.pem"] for _ in self.asked])
            case ("exec", *_):
                assert HOST in self.loaded
            case _:
                raise AssertionError(f"a call that the model does not know: {words}")
        return ""

    def _made(self, pod: dict[str, Any]) -> dict[str, Any]:
        """The version is that of the newest policy."""
        if self.policy is None:
            return pod
        expression = self.policy["spec"]["mutations"][-1]["jsonPatch"]["expression"]
        version = expression.partition(f'name: "{admission.VERSION}", value: "')[2][:16]
        env = [{"name": admission.VERSION, "value": version}]
        return {"spec": {"initContainers": [{"name": admission.NAME, "env": env}]}}


def redirect(cluster: Cluster, wanted: Wanted = WANTED) -> None:
    cloud.redirect(cast(Kube, cluster), Still(), wanted, say=lambda _: None)


def restore_dns(cluster: Cluster) -> bool:
    return cloud.restore_dns(cast(Kube, cluster), Still())


def calls_of(action: Callable[[Cluster], object], cluster: Cluster) -> int:
    begun = cluster.calls
    action(cluster)
    return cluster.calls - begun


def test_all_of_it_is_put_in_and_taken_away() -> None:
    cluster = Cluster()
    before = cluster.state()
    redirect(cluster)
    assert corefile.BEGIN in cluster.corefile == cluster.loaded
    assert cluster.note is not None
    assert cluster.note["original"] == KUBEADM
    assert cluster.policy is not None
    assert restore_dns(cluster)
    assert cluster.state() == before
    assert not restore_dns(cluster)


@pytest.mark.parametrize("done", [False, True])
def test_killed_at_any_call_everything_can_be_taken_away(done: bool) -> None:
    whole = calls_of(redirect, Cluster())
    assert whole > 10
    for last in range(1, whole + 1):
        cluster = Cluster(last=last, done=done)
        with pytest.raises(Ended):
            redirect(cluster)
        restore_dns(cluster)
        assert cluster.state() == (KUBEADM, KUBEADM, None, None, False), f"call {last}"


@pytest.mark.parametrize("done", [False, True])
def test_killed_at_any_call_it_can_be_done_again(done: bool) -> None:
    for last in range(1, calls_of(redirect, Cluster()) + 1):
        cluster = Cluster(last=last, done=done)
        with pytest.raises(Ended):
            redirect(cluster)
        redirect(cluster)
        assert cluster.loaded == cluster.corefile == corefile.redirect(KUBEADM, ROUTES)
        restore_dns(cluster)
        assert cluster.state() == (KUBEADM, KUBEADM, None, None, False), f"call {last}"


@pytest.mark.parametrize("done", [False, True])
def test_taking_away_can_be_killed_at_any_call_and_done_again(done: bool) -> None:
    cluster = Cluster()
    redirect(cluster)
    for last in range(1, calls_of(restore_dns, cluster) + 1):
        cluster = Cluster()
        redirect(cluster)
        cluster.last, cluster.done = cluster.calls + last, done
        with pytest.raises(Ended):
            restore_dns(cluster)
        restore_dns(cluster)
        assert cluster.state() == (KUBEADM, KUBEADM, None, None, False), f"call {last}"


def test_led_again_nothing_is_restarted_or_asked_twice() -> None:
    cluster = Cluster()
    redirect(cluster)
    pod, cluster.asked = cluster.pod, []
    redirect(cluster)
    assert cluster.pod == pod
    assert cluster.asked == []


def test_led_to_other_stand_ins_the_first_corefile_comes_back() -> None:
    cluster = Cluster()
    redirect(cluster)
    other = dict.fromkeys(ROUTES, f"{HOST}.elsewhere")
    redirect(cluster, Wanted(**{**_fields(WANTED), "routes": other, "images": ("engine:v2",)}))
    assert cluster.asked == ["engine:v2"]
    assert cluster.loaded == corefile.redirect(KUBEADM, other)
    restore_dns(cluster)
    assert cluster.loaded == KUBEADM


def test_what_somebody_changed_meanwhile_stays() -> None:
    cluster = Cluster()
    redirect(cluster)
    cluster.corefile = cluster.corefile.replace("ttl 30", "ttl 5")
    restore_dns(cluster)
    assert cluster.corefile == KUBEADM.replace("ttl 30", "ttl 5")


def test_a_cluster_that_knows_no_such_policy_is_not_touched() -> None:
    cluster = Cluster(serves='{"resources": []}')
    with pytest.raises(DeployFailed, match="MutatingAdmissionPolicy") as raised:
        redirect(cluster)
    assert "1.36" in raised.value.remedy
    assert cluster.state() == Cluster().state()


def test_a_corefile_that_cannot_be_edited_is_not_touched() -> None:
    cluster = Cluster(corefile="garbage")
    with pytest.raises(DeployFailed, match="root zone"):
        redirect(cluster)
    assert cluster.state() == Cluster(corefile="garbage").state()


def test_when_it_cannot_be_given_back_the_original_is_shown_where_it_is() -> None:
    cluster = Cluster()
    redirect(cluster)
    cluster.corefile = cluster.corefile.replace(corefile.END, "")
    with pytest.raises(DeployFailed, match="something else") as raised:
        restore_dns(cluster)
    assert f"get configmap -n kube-system {admission.NAME}" in raised.value.remedy
    assert cluster.note is not None
    assert cluster.note["original"] == KUBEADM


def _fields(wanted: Wanted) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in Wanted.__slots__}


def dns(uid: str, phase: str = "Running", ends: bool = False) -> dict[str, Any]:
    named: dict[str, Any] = {"name": f"coredns-{uid}", "uid": uid}
    if ends:
        named["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    return {"metadata": named, "status": {"podIP": "10.0.0.1", "phase": phase}}


@pytest.mark.parametrize(
    "left",
    [
        dns("1"),
        dns("1", ends=True),
        # Made after the list of those that go and before their deletion: it has the old Corefile.
        dns("2", ends=True),
    ],
    ids=["one that goes", "one that drains", "one that was made in between"],
)
def test_old_coredns_pods_are_waited_for(left: dict[str, Any]) -> None:
    looks = iter([[dns("3"), left], [dns("3"), left], [dns("3")]])
    slept: list[float] = []
    kube = SimpleNamespace(
        get=lambda *_, **__: {"spec": {"replicas": 1}},
        pods=lambda *_: next(looks),
        ask=lambda *_, **__: Answer(200, "OK"),
    )
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=slept.append)
    cloud._wait_for_dns(cast(Kube, kube), clock, {"1"})
    assert len(slept) == 2


def test_the_record_of_an_evicted_coredns_pod_is_not_waited_for() -> None:
    kube = SimpleNamespace(
        get=lambda *_, **__: {"spec": {"replicas": 1}},
        pods=lambda *_: [dns("3"), dns("2", phase="Failed")],
        ask=lambda *_, **__: Answer(200, "OK"),
    )
    cloud._wait_for_dns(cast(Kube, kube), Still(), {"1", "2"})
