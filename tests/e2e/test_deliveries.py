"""How often a task is executed, counted by the executions that its workers recorded."""

from __future__ import annotations

import pytest

from tests.e2e.broker import Broker
from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway, seconds

pytestmark = pytest.mark.queue_timeouts


def test_a_task_within_its_lock_runs_once(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=5)
    task = gateway.wait_settled(gateway.start_task(endpoint["name"], seconds=1))
    assert task.history == [(1, "completed")]
    broker.wait_empty(endpoint["queue_name"])


@pytest.mark.slow
def test_a_task_longer_than_its_lock_is_delivered_again_with_delivery_count_2(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=5)
    id = gateway.start_task(endpoint["name"], seconds=5.5, then_seconds=0)
    task = gateway.wait_settled(id)
    assert task.history == [(1, "lock-lost"), (2, "completed")]
    # The second delivery came when the lock of the first ran out: not sooner, and not much later.
    apart = task.started(2) - task.started(1)
    assert seconds(4) < apart < seconds(9), apart
    broker.wait_empty(endpoint["queue_name"])


@pytest.mark.slow
def test_a_task_longer_than_its_lock_runs_once_when_the_lock_is_renewed(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=5)
    task = gateway.wait_settled(gateway.start_task(endpoint["name"], seconds=5.75, renew=True))
    assert task.history == [(1, "completed")]
    (execution,) = task.executions
    assert execution.finished is not None
    assert execution.finished - execution.started > seconds(5.5)
    broker.wait_empty(endpoint["queue_name"])


@pytest.mark.slow
def test_a_longer_lock_lets_the_same_task_run_once(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=15)
    id = gateway.start_task(endpoint["name"], seconds=5.5, then_seconds=0)
    assert gateway.wait_settled(id).history == [(1, "completed")]
    broker.wait_empty(endpoint["queue_name"])


def test_a_task_that_always_fails_is_dead_lettered_at_max_delivery_count(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(max_delivery_count=3)
    task = gateway.wait_settled(gateway.start_task(endpoint["name"], fail=True))
    assert task.status == "dead-lettered"
    assert task.history == [(1, "failed"), (2, "failed"), (3, "failed")]
    letter = broker.take_dead_letter(endpoint["queue_name"])
    assert letter.message_id == task.id
    assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
    broker.wait_empty(endpoint["queue_name"])


def test_every_task_of_a_burst_runs_once(
    endpoints: Endpoints, gateway: Gateway, broker: Broker
) -> None:
    endpoint = endpoints.create(queue_message_timeout_duration=5)
    ids = [gateway.start_task(endpoint["name"], seconds=0.2) for _ in range(12)]
    histories = {gateway.wait_settled(id).history == [(1, "completed")] for id in ids}
    assert histories == {True}
    broker.wait_empty(endpoint["queue_name"])
