"""The gateway's HTTP API as a user calls it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from tests.e2e.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Execution:
    """One time that a worker processed a task."""

    delivery_count: int
    """Counted from 1, as Service Bus counts deliveries."""
    outcome: str
    worker: str
    started: datetime
    finished: datetime | None


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    status: str
    executions: tuple[Execution, ...]

    @property
    def settled(self) -> bool:
        """Nothing runs, and nothing will run again."""
        return self.status in ("completed", "dead-lettered") and all(
            execution.finished for execution in self.executions
        )

    @property
    def history(self) -> list[tuple[int, str]]:
        """(delivery count, outcome) of every execution, in the order of deliveries."""
        return sorted((each.delivery_count, each.outcome) for each in self.executions)

    def started(self, delivery_count: int) -> datetime:
        return next(e.started for e in self.executions if e.delivery_count == delivery_count)


class Gateway:
    """Calls that are expected to succeed; :attr:`http` is for those that are not."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=10.0)

    def close(self) -> None:
        self.http.close()

    def create(self, name: str, **options: Any) -> dict[str, Any]:
        return _ok(self.http.post("/v1/model-endpoints", json={"name": name, **options}), 201)

    def get(self, ref: str) -> dict[str, Any]:
        return _ok(self.http.get(f"/v1/model-endpoints/{ref}"), 200)

    def update(self, ref: str, **options: Any) -> dict[str, Any]:
        return _ok(self.http.put(f"/v1/model-endpoints/{ref}", json=options), 202)

    def delete(self, ref: str) -> None:
        _ok(self.http.delete(f"/v1/model-endpoints/{ref}"), 202)

    def wait_ready(self, ref: str) -> dict[str, Any]:
        """The endpoint once it is READY; FAILED ends the wait at once."""
        endpoint = wait_for(
            f"endpoint {ref} to be READY",
            lambda: self.get(ref),
            lambda seen: seen["status"] in ("READY", "FAILED"),
        )
        assert endpoint["status"] == "READY", f"endpoint {ref}: {endpoint['error']}"
        return endpoint

    def wait_gone(self, ref: str) -> None:
        wait_for(
            f"endpoint {ref} to be gone",
            lambda: self.http.get(f"/v1/model-endpoints/{ref}").status_code,
            lambda status: status == 404,
        )

    def start_task(self, ref: str, **spec: Any) -> str:
        """The task's id, which is its message's id too."""
        answer = self.http.post(f"/v1/model-endpoints/{ref}/tasks", json=spec)
        return str(_ok(answer, 202)["task_id"])

    def task(self, id: str) -> Task:
        raw = _ok(self.http.get(f"/v1/tasks/{id}"), 200)
        return Task(
            id=raw["task_id"],
            status=raw["status"],
            executions=tuple(
                Execution(
                    delivery_count=each["delivery_count"],
                    outcome=each["outcome"],
                    worker=each["worker"],
                    started=datetime.fromisoformat(each["started_at"]),
                    finished=each["finished_at"] and datetime.fromisoformat(each["finished_at"]),
                )
                for each in raw["executions"]
            ),
        )

    def wait_settled(self, id: str, *, timeout: float = 20.0) -> Task:
        """The task once nothing runs and nothing will run again."""
        return wait_for(
            f"task {id} to end", lambda: self.task(id), lambda seen: seen.settled, timeout=timeout
        )


def _ok(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, (
        f"{answer.request.method} {answer.request.url.path}: "
        f"{answer.status_code}, expected {status}: {answer.text}"
    )
    return dict(answer.json())


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)
