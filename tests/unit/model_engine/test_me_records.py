"""A task's status follows from its executions."""

from __future__ import annotations

import pytest
from model_engine.records import task_status


@pytest.mark.parametrize(
    ("executions", "status"),
    [
        ([], "queued"),
        ([("running", 1)], "running"),
        ([("completed", 1)], "completed"),
        ([("lock-lost", 1)], "waiting"),
        ([("running", 1), ("completed", 2)], "completed"),
        ([("lock-lost", 1), ("running", 2)], "running"),
        ([("failed", 1), ("failed", 2)], "waiting"),
        ([("failed", 1), ("failed", 2), ("failed", 3)], "dead-lettered"),
        ([("lock-lost", 3)], "dead-lettered"),
    ],
)
def test_task_status(executions: list[tuple[str, int]], status: str) -> None:
    assert task_status(executions, max_delivery_count=3) == status
