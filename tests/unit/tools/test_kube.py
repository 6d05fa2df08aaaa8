"""Which pod a port-forward leads to."""

from __future__ import annotations

from typing import Any

from ci.tools.kube import lasting_endpoint


def service(**port: Any) -> dict[str, Any]:
    ports = [{"name": "metrics", "port": 9090}, {"name": "http", "port": 80, **port}]
    return {"kind": "Service", "metadata": {"name": "engine"}, "spec": {"ports": ports}}


def piece(*endpoints: dict[str, Any], of: str = "engine") -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": of}
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": f"{of}-x", "labels": labels},
        "ports": [{"name": "metrics", "port": 9999}, {"name": "http", "port": 5000}],
        "endpoints": list(endpoints),
    }


def endpoint(name: str, **conditions: bool) -> dict[str, Any]:
    return {"targetRef": {"kind": "Pod", "name": name}, "conditions": conditions}


def test_a_pod_that_is_ready_and_its_own_port() -> None:
    ending = endpoint("old", ready=False, serving=True, terminating=True)
    items = [piece(endpoint("other", ready=True), of="else"), service()]
    items += [piece(ending), piece(endpoint("new", ready=True))]
    assert lasting_endpoint(items, "engine", 80) == ("pod/new", 5000)


def test_the_service_itself_where_nothing_is_ready() -> None:
    assert lasting_endpoint([service(), piece(endpoint("a", ready=False))], "engine", 80) == (
        "svc/engine",
        80,
    )


def test_a_port_without_a_name() -> None:
    alone = {"kind": "Service", "metadata": {"name": "engine"}, "spec": {"ports": [{"port": 80}]}}
    slices = piece(endpoint("new", ready=True))
    slices["ports"] = [{"name": "", "port": 5000}]
    assert lasting_endpoint([alone, slices], "engine", 80) == ("pod/new", 5000)
