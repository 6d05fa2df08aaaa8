"""The gateway: the HTTP API on port 5000. ``python -m model_engine.gateway``.

It keeps nothing but records and messages: whatever was down heals with the next request, and a
request that meets an outage is answered 503 and leaves nothing half-made behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_engine import records
from model_engine.api import (
    DEFAULT_LOCK,
    DEFAULT_MAX_DELIVERY_COUNT,
    CreateEndpoint,
    TaskSpec,
    UpdateEndpoint,
    cache_key,
)
from model_engine.bus import Bus, BusUnavailable
from model_engine.database import Connection, Database, DatabaseDown
from model_engine.records import Endpoint, Status
from model_engine.settings import Settings, start_process

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

LINGER_SECONDS = 1.0
"""After SIGTERM, how long requests on kept connections are still answered, each with
``Connection: close``, before the listener goes away."""


class Gateway:
    """What the requests share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url)
        self.bus = Bus(settings.servicebus)
        self.schema_ready = False
        self.draining = threading.Event()
        self._redis: Redis | None = None

    async def prepare(self) -> None:
        """Create the schema, however long PostgreSQL takes to come up."""
        pause = 0.2
        while not self.schema_ready:
            try:
                await self.database.create_schema()
                self.schema_ready = True
                log.info("ready")
            except psycopg.Error as problem:
                # A refused right is as good a reason to wait as an outage: someone will grant it.
                log.warning("database not usable yet: %s", type(problem).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)

    async def cached(self, name: str) -> dict[str, Any] | None:
        from redis.asyncio import Redis

        if self._redis is None:
            self._redis = Redis.from_url(
                self.settings.redis_url, socket_timeout=3, socket_connect_timeout=3
            )
        text = await self._redis.get(cache_key(name))
        return None if text is None else dict(json.loads(text))

    async def close(self) -> None:
        await self.bus.close()
        await self.database.close()
        if self._redis is not None:
            await self._redis.aclose()


def create_app(settings: Settings) -> FastAPI:
    """The application; nothing is connected before its first request."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        preparing = asyncio.create_task(gateway.prepare())
        yield
        preparing.cancel()
        await gateway.close()

    app = FastAPI(title="model-engine", version=settings.version, lifespan=lifespan)
    app.state.gateway = gateway
    app.add_middleware(CloseWhenDraining, draining=gateway.draining)
    _errors(app)
    _health(app, gateway)
    _endpoints(app, gateway)
    _tasks(app, gateway)
    return app


def _errors(app: FastAPI) -> None:
    async def database_down(_: Request, problem: Exception) -> JSONResponse:
        log.warning("database: %s", type(problem).__name__)
        return JSONResponse({"detail": "the database cannot be reached; try again"}, 503)

    async def bus_down(_: Request, problem: Exception) -> JSONResponse:
        log.warning("service bus: %s", problem)
        return JSONResponse(
            {"detail": "Service Bus cannot be reached; nothing was changed; try again"}, 503
        )

    for error in DatabaseDown:
        app.add_exception_handler(error, database_down)
    app.add_exception_handler(BusUnavailable, bus_down)


def _health(app: FastAPI, gateway: Gateway) -> None:
    version = {"status": "ok", "version": gateway.settings.version}

    @app.get("/health")
    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return version

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Ready once the schema was there; an outage later is answered request by request."""
        if gateway.schema_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "waiting for the database"}, 503)


def _endpoints(app: FastAPI, gateway: Gateway) -> None:
    builder_queue = gateway.settings.builder_queue

    @app.post("/v1/model-endpoints", status_code=201)
    async def create(wanted: CreateEndpoint) -> dict[str, Any]:
        id = f"end_{uuid.uuid4().hex}"
        lock_seconds = DEFAULT_LOCK if wanted.lock_seconds is None else wanted.lock_seconds
        async with (
            gateway.bus.sender(builder_queue) as sender,
            gateway.database.transaction() as connection,
        ):
            await records.lock(connection, id)
            endpoint = await records.insert_endpoint(
                connection,
                id,
                wanted.name,
                lock_seconds,
                wanted.max_delivery_count or DEFAULT_MAX_DELIVERY_COUNT,
            )
            if endpoint is None:
                raise HTTPException(409, f"endpoint {wanted.name} exists already")
            await sender.send(f"build-{uuid.uuid4().hex}", {"endpoint_id": id})
        log.info("endpoint %s asked for, lock %d s", endpoint.name, lock_seconds)
        return endpoint.as_json()

    @app.get("/v1/model-endpoints")
    async def list_all() -> dict[str, Any]:
        async with gateway.database.transaction() as connection:
            found = await records.list_endpoints(connection)
        return {"model_endpoints": [endpoint.as_json() for endpoint in found]}

    @app.get("/v1/model-endpoints/{ref}")
    async def get(ref: str, view: Literal["record", "cache"] = "record") -> dict[str, Any]:
        if view == "cache":
            return await _cached(gateway, ref)
        async with gateway.database.transaction() as connection:
            return (await _known(connection, ref)).as_json()

    @app.put("/v1/model-endpoints/{ref}", status_code=202)
    async def update(ref: str, wanted: UpdateEndpoint) -> dict[str, Any]:
        async with (
            gateway.bus.sender(builder_queue) as sender,
            gateway.database.transaction() as connection,
        ):
            endpoint = await _locked(connection, ref)
            if wanted.name not in (None, endpoint.name):
                raise HTTPException(422, "an endpoint cannot be renamed")
            endpoint = await records.change_endpoint(
                connection,
                endpoint.id,
                Status.UPDATING,
                lock_seconds=wanted.lock_seconds,
                max_delivery_count=wanted.max_delivery_count,
            )
            await sender.send(f"build-{uuid.uuid4().hex}", {"endpoint_id": endpoint.id})
        return endpoint.as_json()

    @app.delete("/v1/model-endpoints/{ref}", status_code=202)
    async def delete(ref: str) -> dict[str, Any]:
        async with (
            gateway.bus.sender(builder_queue) as sender,
            gateway.database.transaction() as connection,
        ):
            endpoint = await _locked(connection, ref)
            endpoint = await records.change_endpoint(connection, endpoint.id, Status.DELETING)
            await sender.send(f"build-{uuid.uuid4().hex}", {"endpoint_id": endpoint.id})
        return endpoint.as_json()


def _tasks(app: FastAPI, gateway: Gateway) -> None:
    @app.post("/v1/model-endpoints/{ref}/tasks", status_code=202)
    async def create(ref: str, spec: TaskSpec) -> dict[str, str]:
        id = str(uuid.uuid4())
        async with gateway.database.transaction() as connection:
            endpoint = await _known(connection, ref)
        if endpoint.status not in (Status.READY, Status.UPDATING):
            raise HTTPException(409, f"endpoint {endpoint.name} is {endpoint.status.value}")
        async with (
            gateway.bus.sender(endpoint.queue) as sender,
            gateway.database.transaction() as connection,
        ):
            await records.lock(connection, id)
            if not await records.insert_task(connection, id, endpoint.id, spec):
                raise HTTPException(404, f"endpoint {endpoint.name} was deleted just now")
            await sender.send(id, spec.model_dump())
        return {"task_id": id}

    @app.get("/v1/tasks/{id}")
    async def get(id: str) -> dict[str, Any]:
        async with gateway.database.transaction() as connection:
            task = await records.task_as_json(connection, id)
        if task is None:
            raise HTTPException(404, f"unknown task {id}")
        return task


async def _known(connection: Connection, ref: str) -> Endpoint:
    endpoint = await records.find_endpoint(connection, ref)
    if endpoint is None:
        raise HTTPException(404, f"unknown endpoint {ref}")
    return endpoint


async def _locked(connection: Connection, ref: str) -> Endpoint:
    """The endpoint under its lock, and not about to go away."""
    endpoint = await _known(connection, ref)
    await records.lock(connection, endpoint.id)
    endpoint = await _known(connection, endpoint.id)
    if endpoint.status is Status.DELETING:
        raise HTTPException(409, f"endpoint {endpoint.name} is being deleted")
    return endpoint


async def _cached(gateway: Gateway, name: str) -> dict[str, Any]:
    from redis.exceptions import RedisError

    if not gateway.settings.redis_url:
        raise HTTPException(503, "no cache is configured")
    try:
        endpoint = await gateway.cached(name)
    except (RedisError, OSError):
        raise HTTPException(503, "the cache cannot be reached; try again") from None
    if endpoint is None:
        raise HTTPException(404, f"endpoint {name} is not in the cache")
    return endpoint


class CloseWhenDraining:
    """Ask clients to leave their kept connections while the process drains."""

    def __init__(self, app: ASGIApp, draining: threading.Event) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining.is_set():
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


class Server(uvicorn.Server):
    """Serves on for a moment after SIGTERM, so that no kept connection is cut under a request."""

    draining: threading.Event

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig != signal.SIGTERM or self.draining.is_set():
            super().handle_exit(sig, frame)
            return
        self.draining.set()
        timer = threading.Timer(LINGER_SECONDS, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()


def main() -> None:
    settings = start_process("gateway")
    app = create_app(settings)
    server = Server(
        uvicorn.Config(
            app,
            host="0.0.0.0",
            port=settings.port,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=20,
            log_config=None,
        )
    )
    server.draining = app.state.gateway.draining
    server.run()


if __name__ == "__main__":
    main()
