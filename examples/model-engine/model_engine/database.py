"""Connections to PostgreSQL that heal by themselves, and the schema.

A connection that was idle is tried before it is used, and one that failed is thrown away: after
an outage the next request simply connects again, and nothing is ever retried behind a write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]

DatabaseDown = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a caller sees while PostgreSQL cannot be used."""

_TRUSTED_IDLE = 1.0
"""Seconds for which an idle connection is used without trying it first."""

_SCHEMA_LOCK = 0x6D6F64656C  # "model": any number that is ours

SCHEMA = """
CREATE TABLE IF NOT EXISTS model_endpoints (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    queue_message_timeout_duration integer NOT NULL,
    max_delivery_count integer NOT NULL,
    status text NOT NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS tasks (
    id text PRIMARY KEY,
    endpoint_id text NOT NULL REFERENCES model_endpoints (id) ON DELETE CASCADE,
    spec jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS tasks_endpoint ON tasks (endpoint_id);
CREATE TABLE IF NOT EXISTS executions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id text NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    delivery_count integer NOT NULL,
    worker text NOT NULL,
    outcome text NOT NULL DEFAULT 'running',
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX IF NOT EXISTS executions_task ON executions (task_id);
"""


class Database:
    """A handful of connections. ``async with database.transaction() as connection``."""

    def __init__(self, url: str, *, size: int = 8) -> None:
        self._url = url
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[Connection, float]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Committed at the end, rolled back by any exception. Raises one of
        :data:`DatabaseDown` when PostgreSQL cannot be used."""
        async with self._slots:
            connection = await self._take()
            try:
                async with connection.transaction():
                    yield connection
            except BaseException as problem:
                if isinstance(problem, DatabaseDown) or connection.closed or connection.broken:
                    await connection.close()
                raise
            finally:
                if not connection.closed:
                    self._idle.append((connection, time.monotonic()))

    async def create_schema(self) -> None:
        """Create what is missing. Safe when several replicas start at once."""
        async with self.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    await connection.execute(statement.encode())

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop()[0].close()

    async def _take(self) -> Connection:
        while self._idle:
            connection, since = self._idle.pop()
            if time.monotonic() - since < _TRUSTED_IDLE:
                return connection
            try:
                async with asyncio.timeout(2):
                    await connection.execute("SELECT 1")
                return connection
            except (*DatabaseDown, TimeoutError):
                await connection.close()
        return await psycopg.AsyncConnection.connect(
            self._url,
            row_factory=dict_row,
            autocommit=True,
            connect_timeout=3,
            options="-c statement_timeout=5000",
            keepalives_idle=10,
            tcp_user_timeout=5000,
            application_name="model-engine",
        )
