"""The builder asks for the lock duration of the record, and never takes another for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.servicebus.management import QueueProperties, ServiceBusAdministrationClient
from model_engine import builder as module
from model_engine import records
from model_engine.bus import Bus, QueueMismatch
from model_engine.database import Connection
from model_engine.records import Endpoint, Status
from model_engine.settings import ServiceBus, Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDPOINT = Endpoint(
    id="end_1",
    name="a",
    queue_message_timeout_duration=45,
    max_delivery_count=3,
    status=Status.PENDING,
    error=None,
    created_at=NOW,
    updated_at=NOW,
)
SETTINGS = Settings(
    servicebus=ServiceBus(connection_string="Endpoint=sb://bus"), database_url="postgresql://db"
)


class FakeBus:
    def __init__(self, problem: Exception | None = None) -> None:
        self.problem = problem
        self.asked: list[tuple[str, timedelta, int]] = []

    async def ensure_queue(self, name: str, lock_duration: timedelta, deliveries: int) -> None:
        self.asked.append((name, lock_duration, deliveries))
        if self.problem is not None:
            raise self.problem


async def build(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> tuple[Status, str | None]:
    said: list[tuple[Status, str | None]] = []

    async def change(_: object, id: str, status: Status, *, error: str | None = None) -> Endpoint:
        assert id == ENDPOINT.id
        said.append((status, error))
        return ENDPOINT

    monkeypatch.setattr(records, "change_endpoint", change)
    builder = module.Builder(SETTINGS)
    monkeypatch.setattr(builder, "_bus", bus)
    await builder._build(cast(Connection, None), ENDPOINT)
    (result,) = said
    return result


async def test_the_queue_gets_the_lock_duration_of_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = FakeBus()
    assert await build(bus, monkeypatch) == (Status.READY, None)
    assert bus.asked == [("launch-endpoint-a", timedelta(seconds=45), 3)]


async def test_a_queue_that_is_not_as_asked_fails_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = FakeBus(QueueMismatch("queue launch-endpoint-a has lock duration 0:01:00"))
    status, error = await build(bus, monkeypatch)
    assert status is Status.FAILED
    assert error == "queue launch-endpoint-a has lock duration 0:01:00"


async def test_a_refusal_fails_the_endpoint_and_an_outage_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = HttpResponseError("bad request")
    refusal.status_code = 400
    assert (await build(FakeBus(refusal), monkeypatch))[0] is Status.FAILED
    outage = HttpResponseError("unavailable")
    outage.status_code = 503
    with pytest.raises(HttpResponseError):
        await build(FakeBus(outage), monkeypatch)


class FakeAdmin:
    """A namespace with at most one queue; ``stubborn`` keeps a lock of a minute."""

    def __init__(self, lock: timedelta | None = None, *, stubborn: bool = False) -> None:
        self.lock = lock
        self.stubborn = stubborn
        self.updates = 0

    def create_queue(self, name: str, *, lock_duration: timedelta, **_: Any) -> None:
        if self.lock is not None:
            raise ResourceExistsError(name)
        self.lock = timedelta(seconds=60) if self.stubborn else lock_duration

    def get_queue(self, name: str) -> QueueProperties:
        queue = cast(QueueProperties, type("Queue", (), {})())
        queue.lock_duration = self.lock
        queue.max_delivery_count = 10
        return queue

    def update_queue(self, queue: QueueProperties) -> None:
        self.updates += 1
        assert isinstance(queue.lock_duration, timedelta)
        self.lock = timedelta(seconds=60) if self.stubborn else queue.lock_duration


def bus_with(admin: FakeAdmin, monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus(SETTINGS.servicebus)
    monkeypatch.setattr(bus, "_admin", cast(ServiceBusAdministrationClient, admin))
    return bus


async def test_a_queue_is_made_or_changed_or_left(monkeypatch: pytest.MonkeyPatch) -> None:
    half, admin = timedelta(seconds=30), FakeAdmin()
    bus = bus_with(admin, monkeypatch)
    await bus.ensure_queue("q", half)
    assert (admin.lock, admin.updates) == (half, 0)
    await bus.ensure_queue("q", half)
    assert (admin.lock, admin.updates) == (half, 0)
    await bus.ensure_queue("q", half * 2)
    assert (admin.lock, admin.updates) == (half * 2, 1)


@pytest.mark.parametrize("before", [None, timedelta(seconds=10)])
async def test_a_broker_that_keeps_another_lock_duration_is_found_out(
    monkeypatch: pytest.MonkeyPatch, before: timedelta | None
) -> None:
    bus = bus_with(FakeAdmin(before, stubborn=True), monkeypatch)
    with pytest.raises(QueueMismatch, match="has lock duration 0:01:00, asked was 0:00:30"):
        await bus.ensure_queue("q", timedelta(seconds=30))
