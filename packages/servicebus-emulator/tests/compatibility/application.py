"""The Celery application of the tests: a task that lasts until the test lets it end.

Broker, results and the test's socket come from the environment. Nothing here knows of the emulator.
"""

from __future__ import annotations

import os
import socket

from celery import Celery, Task  # type: ignore[import-untyped]

LOCK_SECONDS = 8

app = Celery("clients")
app.conf.update(
    broker_connection_retry_on_startup=True,
    # One thread of a worker asks for messages and settles them, in turn: up to 4 s pass until a
    # finished task is settled, and shorter locks would be lost by tasks of no length at all. A
    # receiver has to be opened within one wait; kombu makes a new one, and so on, where it is not.
    broker_transport_options={
        "peek_lock_seconds": LOCK_SECONDS,
        "polling_interval": 0.1,
        "wait_time_seconds": 2,
    },
    task_acks_late=True,
    worker_prefetch_multiplier=1,
)


@app.task(name="work", bind=True)  # type: ignore[untyped-decorator]
def work(self: Task) -> None:
    """Say that it began, and end when the other side says so or is gone."""
    with socket.socket(socket.AF_UNIX) as stage:
        stage.connect(os.environ["CELERY_STAGE"])
        stage.sendall(self.request.id.encode())
        stage.recv(1)
