"""The complete queue time-out flow in one test, as an operator would try it after an upgrade.

It is short and leaves nothing behind: the pipeline also runs it alone against a target that was
just promoted. Where the broker cannot be looked at, the executions alone must tell.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.e2e.broker import Broker
from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway, seconds
from tests.e2e.target import Target

pytestmark = pytest.mark.queue_timeouts


@pytest.mark.slow
def test_complete_queue_timeout_flow(
    target: Target,
    gateway: Gateway,
    broker_if_known: Broker | None,
    endpoints: Endpoints,
    same_lock: Callable[[int, timedelta], None],
) -> None:
    broker = broker_if_known

    # The release is up, and it is the one that is meant.
    for path in target.health_paths:
        assert gateway.http.get(path, timeout=1.0).status_code == 200, path
    if target.image_version is not None:
        assert gateway.http.get("/healthz").json()["version"] == target.image_version

    # An endpoint gets a queue with the lock duration it asks for, and Service Bus says so too.
    name, changed = endpoints.name(), endpoints.name()
    gateway.create(name, queue_message_timeout_duration=5)
    gateway.create(changed, queue_message_timeout_duration=30)
    endpoint = gateway.wait_ready(name)
    queue = endpoint["queue_name"]
    assert endpoint["queue_message_timeout_duration"] == 5

    # Three tasks side by side: longer than the lock, longer with renewal, and within it.
    long = gateway.start_task(name, seconds=5.3, then_seconds=0)
    renewed = gateway.start_task(name, seconds=5.3, renew=True)
    short = gateway.start_task(name, seconds=0.5)
    if broker is not None:
        same_lock(5, broker.lock_duration(queue))

    # While they run: a value outside the limits is refused; a new value reaches the queue.
    other = gateway.wait_ready(changed)
    assert other["queue_message_timeout_duration"] == 30
    path = f"/v1/model-endpoints/{changed}"
    assert gateway.http.put(path, json={"queue_message_timeout_duration": 301}).status_code == 422
    gateway.update(changed, queue_message_timeout_duration=6)
    assert gateway.wait_ready(changed)["queue_message_timeout_duration"] == 6
    if broker is not None:
        assert broker.listed().get(other["queue_name"]) == seconds(6)
    gateway.delete(changed)
    gateway.wait_gone(changed)

    assert gateway.wait_settled(short).history == [(1, "completed")]
    assert gateway.wait_settled(long).history == [(1, "lock-lost"), (2, "completed")]
    assert gateway.wait_settled(renewed).history == [(1, "completed")]

    # The queue is empty and still as it was asked for, and goes when the endpoint goes.
    if broker is not None:
        broker.wait_empty(queue)
        same_lock(5, broker.lock_duration(queue))
    gateway.delete(name)
    gateway.wait_gone(name)
    if broker is not None:
        assert broker.queue(queue) is None
