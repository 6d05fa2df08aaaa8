"""A live release's values, made to fit the gate: what changes, what stays, and that it shows."""

from __future__ import annotations

from typing import Any

import pytest

from ci.rehearsal.adapt import LEFT, PLACED, REDIRECTED, SCALED, SECRET, Limits, adapt

LIMITS = Limits(replicas=1, cpu="50m", memory="128Mi")


def adapted(supplied: dict[str, Any], every: dict[str, Any] | None = None, **redirect: Any) -> Any:
    return adapt(supplied, every if every is not None else supplied, redirect, LIMITS)


def test_what_fits_stays_and_nothing_is_said_of_it() -> None:
    values = {
        "tag": "t1",
        "replicas": 1,
        "resources": {"requests": {"cpu": "0.02", "memory": "64Mi"}, "limits": {"memory": "8Gi"}},
        "nodeSelector": {},
    }
    found = adapted(values)
    assert found.values == values
    assert found.changes == ()


@pytest.mark.parametrize(
    ("every", "over"),
    [
        ({"replicaCount": 3}, {"replicaCount": 1}),
        ({"replicaCount": {"a": 3, "b": 0}}, {"replicaCount": {"a": 1}}),
        ({"autoscaling": {"minReplicas": 2}}, {"autoscaling": {"minReplicas": 1}}),
        ({"gateway": {"replicas": 4}}, {"gateway": {"replicas": 1}}),
        (
            {"resources": {"gateway": {"requests": {"cpu": 2, "memory": "1Gi"}}}},
            {"resources": {"gateway": {"requests": {"cpu": "50m", "memory": "128Mi"}}}},
        ),
    ],
)
def test_a_default_of_the_chart_is_scaled_too(every: dict[str, Any], over: dict[str, Any]) -> None:
    found = adapted({}, every)
    assert found.values == over
    assert {change.why for change in found.changes} == {SCALED}


def test_limits_stay_and_devices_go() -> None:
    values = {"resources": {"limits": {"memory": "8Gi", "cpu": 4, "nvidia.com/gpu": 1}}}
    found = adapted(values)
    assert found.values == {
        "resources": {"limits": {"memory": "8Gi", "cpu": 4, "nvidia.com/gpu": None}}
    }
    assert [str(c) for c in found.changes] == [
        f"resources.limits.nvidia.com/gpu: 1 -> none ({PLACED})"
    ]


def test_machines_of_the_target_are_not_asked_for() -> None:
    found = adapted({"nodeSelector": {"pool": "gpu"}, "web": {"affinity": {"nodeAffinity": {}}}})
    assert found.values == {"nodeSelector": None, "web": {"affinity": None}}
    assert {change.why for change in found.changes} == {PLACED}


def test_the_cloud_is_led_to_the_stand_ins_and_what_is_left_of_it_is_named() -> None:
    live = {
        "secrets": {"databaseSecretName": "prod-db"},
        "azure": {"redis": "prod.redis.cache.windows.net:6380", "name": "contoso"},
    }
    found = adapted(live, secrets={"databaseSecretName": "stand-in"})
    assert found.values["secrets"] == {"databaseSecretName": "stand-in"}
    assert found.values["azure"] == live["azure"]
    assert [(c.path, c.live, c.here, c.why) for c in found.changes] == [
        ("secrets.databaseSecretName", "prod-db", "stand-in", REDIRECTED),
        (
            "azure.redis",
            "prod.redis.cache.windows.net:6380",
            "prod.redis.cache.windows.net:6380",
            LEFT,
        ),
    ]


def test_a_cloud_name_that_was_redirected_is_not_left() -> None:
    found = adapted({"host": "prod.servicebus.windows.net"}, host="stand-in.svc")
    assert [change.why for change in found.changes] == [REDIRECTED]


def test_secrets_of_the_target_are_neither_taken_along_nor_shown() -> None:
    live = {
        "password": "hunter2",
        "url": "redis://user:hunter2@prod.redis.example.com",
        "bus": ["Endpoint=sb://prod.example.com;SharedAccessKey=hunter2"],
        "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "MODE", "value": "x"}],
        "max_tokens": 4096,
        "databaseSecretName": "prod-db",
    }
    found = adapted(live)
    assert "hunter2" not in str(found.values)
    assert "hunter2" not in str(found.changes)
    assert {c.path for c in found.changes} == {"password", "url", "bus.0", "env.0.value"}
    assert {c.why for c in found.changes} == {SECRET}
    assert found.values["env"][1] == {"name": "MODE", "value": "x"}
    assert found.values["max_tokens"] == 4096
    assert found.values["databaseSecretName"] == "prod-db"


def test_a_secret_may_be_given_for_the_rehearsal() -> None:
    found = adapted({"password": "hunter2"}, password="of-the-stand-in")
    assert found.values == {"password": "of-the-stand-in"}
    assert "of-the-stand-in" not in str(found.changes)
