"""The records: endpoints, tasks and executions, as rows in and out.

Whoever changes an endpoint or a task and tells another process about it through Service Bus does
both under :func:`lock`, which the other process takes too: it never looks before the commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import psycopg

from model_engine.api import TaskSpec, queue_name
from model_engine.database import Connection, Row


class Status(StrEnum):
    PENDING = "PENDING"
    UPDATING = "UPDATING"
    READY = "READY"
    FAILED = "FAILED"
    DELETING = "DELETING"


class Outcome(StrEnum):
    """How one execution of a task ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    LOCK_LOST = "lock-lost"
    """It outlived its lock: the completion was refused and the task is delivered again."""
    FAILED = "failed"
    ABANDONED = "abandoned"
    """The worker stopped before the task had ended."""
    UNSETTLED = "unsettled"
    """It ended, and the broker could not be told."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: str
    name: str
    queue_message_timeout_duration: int
    """Lock duration of the endpoint's queue, in seconds."""
    max_delivery_count: int
    status: Status
    error: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def queue(self) -> str:
        return queue_name(self.name)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status.value,
            "error": self.error,
            "queue_name": self.queue,
            "queue_message_timeout_duration": self.queue_message_timeout_duration,
            "max_delivery_count": self.max_delivery_count,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(**{**row, "status": Status(row["status"])})


async def lock(connection: Connection, key: str) -> None:
    """Hold ``key`` until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (key,))


async def find_endpoint(connection: Connection, ref: str) -> Endpoint | None:
    """The endpoint with that id or name."""
    cursor = await connection.execute(
        "SELECT * FROM model_endpoints WHERE id = %s OR name = %s", (ref, ref)
    )
    row = await cursor.fetchone()
    return None if row is None else _endpoint(row)


async def list_endpoints(connection: Connection) -> list[Endpoint]:
    cursor = await connection.execute("SELECT * FROM model_endpoints ORDER BY name")
    return [_endpoint(row) for row in await cursor.fetchall()]


async def insert_endpoint(
    connection: Connection, id: str, name: str, lock_seconds: int, max_delivery_count: int
) -> Endpoint | None:
    """The new record, or ``None`` when the name is taken."""
    cursor = await connection.execute(
        "INSERT INTO model_endpoints"
        " (id, name, queue_message_timeout_duration, max_delivery_count, status)"
        " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING *",
        (id, name, lock_seconds, max_delivery_count, Status.PENDING.value),
    )
    row = await cursor.fetchone()
    return None if row is None else _endpoint(row)


async def change_endpoint(
    connection: Connection,
    id: str,
    status: Status,
    *,
    lock_seconds: int | None = None,
    max_delivery_count: int | None = None,
    error: str | None = None,
) -> Endpoint:
    """Set the status, and whatever else is given."""
    cursor = await connection.execute(
        "UPDATE model_endpoints SET status = %s, error = %s, updated_at = now(),"
        " queue_message_timeout_duration = coalesce(%s, queue_message_timeout_duration),"
        " max_delivery_count = coalesce(%s, max_delivery_count)"
        " WHERE id = %s RETURNING *",
        (status.value, error, lock_seconds, max_delivery_count, id),
    )
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(id)
    return _endpoint(row)


async def delete_endpoint(connection: Connection, id: str) -> None:
    """The record, with its tasks and their executions."""
    await connection.execute("DELETE FROM model_endpoints WHERE id = %s", (id,))


async def insert_task(connection: Connection, id: str, endpoint_id: str, spec: TaskSpec) -> bool:
    """False when the endpoint is gone."""
    cursor = await connection.execute(
        "INSERT INTO tasks (id, endpoint_id, spec)"
        " SELECT %s, id, %s FROM model_endpoints WHERE id = %s FOR KEY SHARE",
        (id, json.dumps(spec.model_dump()), endpoint_id),
    )
    return cursor.rowcount == 1


async def start_execution(
    connection: Connection, task_id: str, delivery_count: int, worker: str
) -> int | None:
    """The execution's id, or ``None`` when there is no such task."""
    await lock(connection, task_id)
    try:
        async with connection.transaction():
            cursor = await connection.execute(
                "INSERT INTO executions (task_id, delivery_count, worker) VALUES (%s, %s, %s)"
                " RETURNING id",
                (task_id, delivery_count, worker),
            )
            row = await cursor.fetchone()
    except psycopg.errors.ForeignKeyViolation:
        return None
    return None if row is None else int(row["id"])


async def finish_execution(connection: Connection, execution: int, outcome: Outcome) -> None:
    await connection.execute(
        "UPDATE executions SET outcome = %s, finished_at = clock_timestamp() WHERE id = %s",
        (outcome.value, execution),
    )


async def task_as_json(connection: Connection, id: str) -> dict[str, Any] | None:
    """A task with its executions in the order they began, or ``None``."""
    cursor = await connection.execute(
        "SELECT t.id, t.spec, t.created_at, e.name, e.max_delivery_count FROM tasks t"
        " JOIN model_endpoints e ON e.id = t.endpoint_id WHERE t.id = %s",
        (id,),
    )
    task = await cursor.fetchone()
    if task is None:
        return None
    cursor = await connection.execute(
        "SELECT delivery_count, worker, outcome, started_at, finished_at FROM executions"
        " WHERE task_id = %s ORDER BY id",
        (id,),
    )
    executions = [
        {
            "delivery_count": row["delivery_count"],
            "worker": row["worker"],
            "outcome": row["outcome"],
            "started_at": row["started_at"].isoformat(),
            "finished_at": row["finished_at"] and row["finished_at"].isoformat(),
        }
        for row in await cursor.fetchall()
    ]
    return {
        "task_id": task["id"],
        "endpoint": task["name"],
        "status": task_status(
            [(e["outcome"], e["delivery_count"]) for e in executions], task["max_delivery_count"]
        ),
        "spec": task["spec"],
        "created_at": task["created_at"].isoformat(),
        "executions": executions,
    }


def task_status(executions: list[tuple[str, int]], max_delivery_count: int) -> str:
    """A task's status from the (outcome, delivery count) of its executions.

    ``queued`` (not begun), ``running``, ``completed``, ``waiting`` (will be delivered again) or
    ``dead-lettered`` (its last permitted delivery did not complete).
    """
    outcomes = [outcome for outcome, _ in executions]
    if Outcome.COMPLETED in outcomes:
        return "completed"
    if Outcome.RUNNING in outcomes:
        return "running"
    if not outcomes:
        return "queued"
    if max(count for _, count in executions) >= max_delivery_count:
        return "dead-lettered"
    return "waiting"
