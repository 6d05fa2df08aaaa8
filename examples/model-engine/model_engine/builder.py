"""The endpoint builder: makes each endpoint's queue what its record says, and runs the workers
that consume it. ``python -m model_engine.builder``.

A message on the builder's queue only says which endpoint to look at: what has to be done is in
the record. So a message may be lost or come twice, and two builders may run (they do, during a
rollout): whoever applies a record holds its lock.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from datetime import UTC, datetime, timedelta
from functools import partial

from azure.core.exceptions import HttpResponseError
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from model_engine import records
from model_engine.bus import Bus, BusDown, QueueMismatch
from model_engine.database import Connection, Database, DatabaseDown
from model_engine.records import Endpoint, Status
from model_engine.settings import Settings, start_process
from model_engine.worker import Consumer, TaskRunner

log = logging.getLogger(__name__)

_UNFINISHED = (Status.PENDING, Status.UPDATING, Status.DELETING)
_OVERDUE = timedelta(seconds=5)
"""A record that was not applied for this long (seconds) has lost its message."""

_FIRST_TRY_SECONDS = 0.4
"""Between two tries to reach the database and Service Bus for the first time."""


class Builder:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database_url, size=12)
        self._bus = Bus(settings.servicebus)
        self._run_task = TaskRunner(self._database, settings.instance)
        self._consumers: dict[str, Consumer] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM: apply records, consume queues."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._stopping.set)
        self._settings.ready_file.unlink(missing_ok=True)
        inbox: Consumer | None = None
        while not self._stopping.is_set():
            try:
                if inbox is None:
                    await self._database.create_schema()
                    inbox = await self._open_inbox()
                await self._reconcile()
                await self._announce_ready(inbox)
            except (*DatabaseDown, *BusDown) as problem:
                log.warning("not usable now: %s", type(problem).__name__)
                self._settings.ready_file.unlink(missing_ok=True)
            # Until it is reached for the first time there is nothing to spare by waiting long.
            await self._pause(self._settings.reconcile_seconds if inbox else _FIRST_TRY_SECONDS)
        self._settings.ready_file.unlink(missing_ok=True)
        await self._drain(inbox)

    async def _open_inbox(self) -> Consumer:
        await self._ensure_inbox()
        return Consumer(
            self._bus,
            self._settings.builder_queue,
            self._on_message,
            concurrency=4,
            on_missing=self._ensure_inbox,
        )

    async def _ensure_inbox(self) -> None:
        await self._bus.ensure_queue(self._settings.builder_queue, timedelta(seconds=60))

    async def _announce_ready(self, inbox: Consumer) -> None:
        if self._settings.ready_file.exists():
            return
        async with asyncio.timeout(10):
            await inbox.listening.wait()
        self._settings.ready_file.touch()
        log.info("ready, consuming %d endpoints", len(self._consumers))

    # -- records

    async def _on_message(
        self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage
    ) -> None:
        try:
            endpoint_id = str(json.loads(b"".join(message.body))["endpoint_id"])
        except (ValueError, KeyError, TypeError):
            await receiver.dead_letter_message(message, reason="InvalidMessage")
            return
        try:
            await self.apply(endpoint_id)
        except (*DatabaseDown, *BusDown) as problem:
            # The record stays unfinished, and the reconciliation comes back to it.
            log.warning("endpoint %s waits: %s", endpoint_id, type(problem).__name__)
        await receiver.complete_message(message)

    async def apply(self, endpoint_id: str, *, queue_is_missing: bool = False) -> None:
        """Make the queue what the record says, and say in the record how that went."""
        async with self._database.transaction() as connection:
            await records.lock(connection, endpoint_id)
            endpoint = await records.find_endpoint(connection, endpoint_id)
            if endpoint is None:
                self._detach(endpoint_id)
                return
            if endpoint.status is Status.DELETING:
                self._detach(endpoint.id)
                await self._bus.delete_queue(endpoint.queue)
                await records.delete_endpoint(connection, endpoint.id)
                log.info("endpoint %s deleted", endpoint.name)
                return
            if endpoint.status in _UNFINISHED or queue_is_missing:
                endpoint = await self._build(connection, endpoint)
        if endpoint.status is Status.READY:
            self._attach(endpoint)

    async def _build(self, connection: Connection, endpoint: Endpoint) -> Endpoint:
        lock_duration = timedelta(seconds=endpoint.queue_message_timeout_duration)
        try:
            await self._bus.ensure_queue(endpoint.queue, lock_duration, endpoint.max_delivery_count)
        except (QueueMismatch, HttpResponseError) as problem:
            if isinstance(problem, HttpResponseError) and not _refused(problem):
                raise
            log.error("endpoint %s failed: %s", endpoint.name, problem)
            return await records.change_endpoint(
                connection, endpoint.id, Status.FAILED, error=str(problem)[:1000]
            )
        log.info("endpoint %s ready, lock %s", endpoint.name, lock_duration)
        return await records.change_endpoint(connection, endpoint.id, Status.READY)

    async def _reconcile(self) -> None:
        """Attach to what is ready, leave what is gone, finish what was forgotten."""
        async with self._database.transaction() as connection:
            endpoints = await records.list_endpoints(connection)
        for gone in self._consumers.keys() - {endpoint.id for endpoint in endpoints}:
            self._detach(gone)
        for endpoint in endpoints:
            if endpoint.status is Status.READY:
                self._attach(endpoint)
            elif (
                endpoint.status in _UNFINISHED
                and datetime.now(UTC) - endpoint.updated_at > _OVERDUE
            ):
                await self.apply(endpoint.id)

    # -- workers

    def _attach(self, endpoint: Endpoint) -> None:
        if endpoint.id in self._consumers or self._stopping.is_set():
            return
        self._consumers[endpoint.id] = Consumer(
            self._bus,
            endpoint.queue,
            self._run_task,
            concurrency=self._settings.worker_concurrency,
            on_missing=partial(self.apply, endpoint.id, queue_is_missing=True),
        )

    def _detach(self, endpoint_id: str) -> None:
        consumer = self._consumers.pop(endpoint_id, None)
        if consumer is not None:
            task = asyncio.create_task(consumer.stopped())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _drain(self, inbox: Consumer | None) -> None:
        """Take nothing new, let what runs end, and hand back what takes too long."""
        log.info("stopping")
        consumers = [*self._consumers.values(), *([] if inbox is None else [inbox])]
        ending = [asyncio.create_task(consumer.stopped()) for consumer in consumers]
        ending.extend(self._leaving)
        if ending:
            _, late = await asyncio.wait(ending, timeout=self._settings.drain_seconds)
            self._run_task.give_up.set()
            if late:
                await asyncio.wait(late, timeout=8)
        await self._run_task.close()
        await self._bus.close()
        await self._database.close()
        log.info("stopped")

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _refused(problem: HttpResponseError) -> bool:
    """True when Service Bus will not do it, however often it is asked."""
    status = problem.status_code or 0
    return 400 <= status < 500 and status not in (401, 403, 404, 408, 409, 429)


def main() -> None:
    asyncio.run(Builder(start_process("builder")).run())


if __name__ == "__main__":
    main()
