"""A Celery worker with late acknowledgement, whose tasks take longer than a lock, or not.

Worker and sender are programs of their own, unmodified: kombu's ``azureservicebus://`` transport,
AMQP over TLS at 5671, the administration client at 443. A task lasts until the test lets it end,
and the test goes by the broker's timeline, so that no duration is guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from azure.servicebus.management import ServiceBusAdministrationClient

from tests.compatibility.application import LOCK_SECONDS
from tests.compatibility.conftest import BROKER, PATIENCE, Emulator, Stage
from tests.compatibility.programs import Programs, wait_until

LOST_AND_REDELIVERED = ["enqueued", "delivered", "lock-expired", "redelivered"]


class Celery:
    """The application's command line, as its user has it."""

    def __init__(self, emulator: Emulator, programs: Programs, stage: Stage, folder: Path) -> None:
        self._inside, self._programs, self._results = emulator.inside, programs, folder
        self._environment = {
            "CELERY_BROKER_URL": BROKER,
            "CELERY_RESULT_BACKEND": f"file://{folder}",
            "CELERY_STAGE": str(stage.path),
        }

    def _argv(self, *words: str) -> list[str]:
        return self._inside.python("celery", "-A", "tests.compatibility.application", *words)

    @contextmanager
    def worker(self, queue: str, *, concurrency: int) -> Iterator[None]:
        """A worker that serves one queue."""
        argv = self._argv(
            *("worker", "-Q", queue, "-c", str(concurrency), "-O", "fair"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
        log = f"worker-{queue}"
        with self._programs.background(argv, log=log, env=self._environment) as running:
            yield
            running.kill()  # nothing is to be seen any more; shutting down takes it seconds

    def send(self, queue: str) -> str:
        """Ask for the task; its id."""
        argv = self._argv("call", "work", "--queue", queue)
        said = self._programs.run(argv, log="call", env=self._environment, timeout=PATIENCE)
        return said.split()[-1]

    def until_success(self, task: str) -> None:
        """Wait until who asked for the task is told that it went well."""
        result = self._results / f"celery-task-meta-{task}"
        wait_until(
            f"the result of {task}",
            lambda: result.exists() and json.loads(result.read_text())["status"] == "SUCCESS",
            timeout=PATIENCE,
        )


@pytest.fixture
def celery(emulator: Emulator, programs: Programs, stage: Stage, tmp_path: Path) -> Celery:
    return Celery(emulator, programs, stage, tmp_path)


def test_a_task_longer_than_its_lock_runs_twice_and_both_at_once(
    celery: Celery, emulator: Emulator, stage: Stage
) -> None:
    """Nothing renews the lock, so a second process gets the task while the first is at it."""
    with celery.worker("long", concurrency=2):
        task = celery.send("long")
        first = stage.next()
        second = stage.next(timeout=LOCK_SECONDS + PATIENCE)
        assert first.task == second.task == task
        assert emulator.kinds("long") == LOST_AND_REDELIVERED
        second.finish()
        first.finish()
        # Of two that ended well, one is settled: the other's lock is not held any more.
        emulator.until("long", "completed")
    assert emulator.kinds("long") == [*LOST_AND_REDELIVERED, "completed"]
    assert emulator.is_empty("long")
    assert stage.is_empty()


def test_a_task_shorter_than_its_lock_runs_once(
    celery: Celery, emulator: Emulator, stage: Stage
) -> None:
    with celery.worker("short", concurrency=2):
        task = celery.send("short")
        only = stage.next()
        assert only.task == task
        only.finish()
        emulator.until("short", "completed")
        emulator.advance(2 * LOCK_SECONDS)
        assert emulator.kinds("short") == ["enqueued", "delivered", "completed"]
    assert emulator.is_empty("short")
    assert stage.is_empty()
    celery.until_success(task)


def test_a_task_that_never_ends_in_time_is_dead_lettered_while_celery_reports_success(
    celery: Celery, emulator: Emulator, stage: Stage, admin: ServiceBusAdministrationClient
) -> None:
    """It runs as often as its queue lets it be delivered, here twice.

    The lock is lost by the broker's clock alone, so that the worker believes to hold it and tries
    to settle: the refusal is the broker's.
    """
    lock = timedelta(seconds=LOCK_SECONDS)
    admin.create_queue("exhausted", lock_duration=lock, max_delivery_count=2)
    with celery.worker("exhausted", concurrency=1):
        task = celery.send("exhausted")
        for lost in (1, 2):
            execution = stage.next()
            assert execution.task == task
            emulator.advance(LOCK_SECONDS)
            emulator.until("exhausted", "lock-expired", lost)
            execution.finish()
        celery.until_success(task)
    assert emulator.kinds("exhausted") == [*LOST_AND_REDELIVERED, "lock-expired", "dead-lettered"]
    assert emulator.queue("exhausted")["dead_letter"] == 1
    assert stage.is_empty()
