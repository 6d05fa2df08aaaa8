"""The gateway without a network: its answers when something is wrong or not there yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from model_engine.bus import BusUnavailable
from model_engine.gateway import create_app
from model_engine.settings import ServiceBus, Settings

SETTINGS = Settings(
    servicebus=ServiceBus(connection_string="Endpoint=sb://bus"),
    database_url="postgresql://db",
    version="v7",
)


class Sender:
    async def send(self, message_id: str, body: dict[str, Any]) -> None:
        raise AssertionError("nothing is sent here")


@asynccontextmanager
async def works(*_: object) -> AsyncIterator[Any]:
    yield Sender()


@asynccontextmanager
async def touched(*_: object) -> AsyncIterator[Any]:
    raise AssertionError("a refused request must touch nothing")
    yield


@asynccontextmanager
async def bus_down(*_: object) -> AsyncIterator[Any]:
    raise BusUnavailable("refused")
    yield


@asynccontextmanager
async def database_down(*_: object) -> AsyncIterator[Any]:
    raise psycopg.OperationalError("refused")
    yield


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    app = create_app(SETTINGS)
    monkeypatch.setattr(app.state.gateway.bus, "sender", touched)
    monkeypatch.setattr(app.state.gateway.database, "transaction", touched)
    return app


async def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_names_the_version_and_needs_nothing(app: FastAPI, path: str) -> None:
    answer = await call(app, "GET", path)
    assert (answer.status_code, answer.json()["version"]) == (200, "v7")


async def test_ready_once_the_schema_was_there_and_ever_after(app: FastAPI) -> None:
    assert (await call(app, "GET", "/readyz")).status_code == 503
    app.state.gateway.schema_ready = True
    assert (await call(app, "GET", "/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/model-endpoints"), ("PUT", "/v1/model-endpoints/a")]
)
@pytest.mark.parametrize("value", [4, 301, "x", True])
async def test_bad_lock_durations_are_refused_before_anything_is_touched(
    app: FastAPI, method: str, path: str, value: Any
) -> None:
    body = {"name": "a", "queue_message_timeout_duration": value}
    assert (await call(app, method, path, json=body)).status_code == 422


async def test_an_outage_of_the_bus_is_503_and_begins_no_transaction(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.gateway.bus, "sender", bus_down)
    answer = await call(app, "POST", "/v1/model-endpoints", json={"name": "a"})
    assert answer.status_code == 503
    assert "Service Bus cannot be reached" in answer.json()["detail"]


async def test_an_outage_of_the_database_is_503(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.gateway.bus, "sender", works)
    monkeypatch.setattr(app.state.gateway.database, "transaction", database_down)
    for method, path, options in (
        ("POST", "/v1/model-endpoints", {"json": {"name": "a"}}),
        ("GET", "/v1/model-endpoints", {}),
        ("GET", "/v1/model-endpoints/a", {}),
        ("DELETE", "/v1/model-endpoints/a", {}),
        ("POST", "/v1/model-endpoints/a/tasks", {"json": {}}),
        ("GET", "/v1/tasks/a", {}),
    ):
        answer = await call(app, method, path, **options)
        assert answer.status_code == 503, path
        assert "database cannot be reached" in answer.json()["detail"]


async def test_without_a_cache_its_view_is_503(app: FastAPI) -> None:
    answer = await call(app, "GET", "/v1/model-endpoints/a?view=cache")
    assert answer.status_code == 503


async def test_while_draining_clients_are_asked_to_leave_their_connections(app: FastAPI) -> None:
    assert "connection" not in (await call(app, "GET", "/health")).headers
    app.state.gateway.draining.set()
    assert (await call(app, "GET", "/health")).headers["connection"] == "close"
