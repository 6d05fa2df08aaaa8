"""Endpoints come, are listed and go, and their queues with them."""

from __future__ import annotations

from tests.e2e.broker import Broker
from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway, seconds


def test_queues_are_listed_with_name_and_lock_duration(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    """What ``az servicebus queue list --query "[].{name:name, lockDuration:lockDuration}"``
    shows."""
    asked = {
        endpoints.create(queue_message_timeout_duration=lock)["queue_name"]: seconds(lock)
        for lock in (15, 90)
    }
    listed = broker.listed()
    assert {name: listed.get(name) for name in asked} == asked
    answer = gateway.http.get("/v1/model-endpoints").json()["model_endpoints"]
    assert asked.keys() <= {endpoint["queue_name"] for endpoint in answer}


def test_deleting_an_endpoint_deletes_its_queue(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create()
    assert endpoint["queue_name"] in broker.listed()
    gateway.delete(endpoint["name"])
    gateway.wait_gone(endpoint["name"])
    assert broker.queue(endpoint["queue_name"]) is None
    assert endpoint["queue_name"] not in broker.listed()


def test_a_name_can_be_used_again_after_its_endpoint_is_gone(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=30)
    gateway.delete(endpoint["name"])
    gateway.wait_gone(endpoint["name"])
    gateway.create(endpoint["name"], queue_message_timeout_duration=10)
    gateway.wait_ready(endpoint["name"])
    assert broker.lock_duration(endpoint["queue_name"]) == seconds(10)
    task = gateway.wait_settled(gateway.start_task(endpoint["name"]))
    assert task.history == [(1, "completed")]


def test_a_name_is_given_once(endpoints: Endpoints, gateway: Gateway) -> None:
    name = endpoints.create()["name"]
    assert gateway.http.post("/v1/model-endpoints", json={"name": name}).status_code == 409


def test_what_does_not_exist_is_not_found(endpoints: Endpoints, gateway: Gateway) -> None:
    path = f"/v1/model-endpoints/{endpoints.name()}"
    assert gateway.http.get(path).status_code == 404
    assert gateway.http.delete(path).status_code == 404
    assert gateway.http.put(path, json={"max_delivery_count": 3}).status_code == 404
    assert gateway.http.post(f"{path}/tasks", json={}).status_code == 404
    assert gateway.http.get("/v1/tasks/no-such-task").status_code == 404
