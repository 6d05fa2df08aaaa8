"""The lock duration of an endpoint's queue is what was asked, as Service Bus itself tells it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.e2e.broker import Broker
from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway, seconds

pytestmark = pytest.mark.queue_timeouts


SameLock = Callable[[int, timedelta], None]
REFUSED: list[Any] = [4, 301, 0, -60, 60.5, "60", "x", True, [60]]
"""Not whole seconds from 5 to 300."""


@pytest.mark.parametrize(
    "spelling", ["queue_message_timeout_duration", "queue_message_timeout_seconds"]
)
def test_lock_duration_is_what_was_asked(
    endpoints: Endpoints, broker: Broker, same_lock: SameLock, spelling: str
) -> None:
    endpoint = endpoints.create(**{spelling: 45})
    assert endpoint["queue_message_timeout_duration"] == 45
    same_lock(45, broker.lock_duration(endpoint["queue_name"]))


def test_both_spellings_with_the_same_value_are_accepted(
    endpoints: Endpoints, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=20, queue_message_timeout_seconds=20)
    assert broker.lock_duration(endpoint["queue_name"]) == seconds(20)


@pytest.mark.parametrize("options", [{}, {"queue_message_timeout_duration": None}])
def test_lock_duration_is_60_seconds_by_default(
    endpoints: Endpoints, broker: Broker, same_lock: SameLock, options: dict[str, Any]
) -> None:
    endpoint = endpoints.create(**options)
    assert endpoint["queue_message_timeout_duration"] == 60
    same_lock(60, broker.lock_duration(endpoint["queue_name"]))


@pytest.mark.parametrize("limit", [5, 300])
def test_lock_duration_may_be_at_its_limits(
    endpoints: Endpoints, broker: Broker, same_lock: SameLock, limit: int
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=limit)
    same_lock(limit, broker.lock_duration(endpoint["queue_name"]))


def test_lock_duration_follows_updates(
    endpoints: Endpoints, gateway: Gateway, broker: Broker, same_lock: SameLock
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=30)
    name, queue = endpoint["name"], endpoint["queue_name"]
    same_lock(30, broker.lock_duration(queue))

    gateway.update(name, queue_message_timeout_duration=120)
    assert gateway.wait_ready(name)["queue_message_timeout_duration"] == 120
    same_lock(120, broker.lock_duration(queue))

    gateway.update(endpoint["id"], queue_message_timeout_seconds=7)
    gateway.wait_ready(name)
    same_lock(7, broker.lock_duration(queue))


def test_an_update_of_something_else_keeps_the_lock_duration(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=33)
    gateway.update(endpoint["name"], max_delivery_count=4, queue_message_timeout_duration=None)
    assert gateway.wait_ready(endpoint["name"])["max_delivery_count"] == 4
    queue = broker.queue(endpoint["queue_name"])
    assert queue is not None
    assert (queue.lock_duration, queue.max_delivery_count) == (seconds(33), 4)


def test_a_lock_duration_outside_its_limits_is_refused_and_makes_nothing(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    name = endpoints.name()
    for value in REFUSED:
        for spelling in ("queue_message_timeout_duration", "queue_message_timeout_seconds"):
            body = {"name": name, spelling: value}
            answer = gateway.http.post("/v1/model-endpoints", json=body)
            assert answer.status_code == 422, f"{body}: {answer.status_code} {answer.text}"
    assert gateway.http.get(f"/v1/model-endpoints/{name}").status_code == 404
    assert f"launch-endpoint-{name}" not in broker.listed()


def test_the_two_spellings_must_not_contradict_each_other(
    endpoints: Endpoints, gateway: Gateway
) -> None:
    body = {
        "name": endpoints.name(),
        "queue_message_timeout_duration": 30,
        "queue_message_timeout_seconds": 40,
    }
    assert gateway.http.post("/v1/model-endpoints", json=body).status_code == 422


def test_a_refused_update_changes_nothing(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=50)
    path = f"/v1/model-endpoints/{endpoint['name']}"
    for body in ({"queue_message_timeout_duration": value} for value in (4, 301, "x", False)):
        assert gateway.http.put(path, json=body).status_code == 422, body
    assert gateway.http.put(path, json={}).status_code == 422
    assert gateway.get(endpoint["name"])["status"] == "READY"
    assert broker.lock_duration(endpoint["queue_name"]) == seconds(50)
