"""kubectl's port-forward is ready when it names a local port for each remote one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import CommandFailed, WaitTimeout
from ci.model import Cluster
from ci.tools.command import Programs
from ci.tools.kube import Kube
from tests.unit.machine import Machine, ManualClock, take_over

SECRET = "hunter2-of-this-test"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return take_over(monkeypatch)


@pytest.fixture
def kube() -> Kube:
    programs = Programs(env={})
    programs.hide(SECRET)
    cluster = Cluster("gate", Path("kubeconfig"), "kind-gate", disposable=True)
    return Kube(Path("/bin/kubectl"), cluster, programs, ManualClock())


def prints(machine: Machine, *lines: str, status: int | None = None) -> None:
    machine.serve = lambda words: (list(lines), status)


def test_local_ports_are_named_in_the_order_asked_for(machine: Machine, kube: Kube) -> None:
    prints(
        machine,
        "Forwarding from 127.0.0.1:43211 -> 5000",
        "Forwarding from [::1]:43211 -> 5000",
        "Forwarding from 127.0.0.1:8080 -> 5001",
        "Handling connection for 43211",
        "Forwarding from 127.0.0.1:1 -> 5002",
    )
    seen: list[str] = []
    with kube.port_forward("prod", "svc/api", {80: None, 81: 8080}, on_line=seen.append) as local:
        assert local == {80: 43211, 81: 8080}
    assert len(seen) == 5
    (words,) = machine.words("kubectl")
    assert words[-3:] == ["svc/api", ":80", "8080:81"]


def test_one_that_ends_says_why_without_secrets(machine: Machine, kube: Kube) -> None:
    prints(machine, "error: unable to listen", f"password={SECRET}", status=1)
    with (
        pytest.raises(CommandFailed, match="port-forward to pod/a ended: error: unable") as caught,
        kube.port_forward("prod", "pod/a", {80: None}),
    ):
        pass
    assert caught.value.status == 1
    assert SECRET not in str(caught.value)


def test_one_that_never_is_ready_is_not_waited_for_forever(machine: Machine, kube: Kube) -> None:
    prints(machine, f"token {SECRET}", "Forwarding from 127.0.0.1:43211 -> 5000")
    with (
        pytest.raises(WaitTimeout, match=r"port-forward to pod/a in prod; last seen: token") as why,
        kube.port_forward("prod", "pod/a", {80: None, 81: None}),
    ):
        pass
    assert SECRET not in str(why.value)


def test_one_that_prints_nothing_says_so(machine: Machine, kube: Kube) -> None:
    prints(machine)
    with (
        pytest.raises(WaitTimeout, match="no output"),
        kube.port_forward("prod", "pod/a", {80: None}),
    ):
        pass
