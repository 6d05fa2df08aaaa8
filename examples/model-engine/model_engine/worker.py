"""Consuming a queue, and what a worker does with a task.

A message's lock runs from the moment the broker hands it over, so a message must never wait in
a buffer: a receiver asks for one message, then lends itself to that message until it is settled,
and the next message is asked for by another receiver, which has connected meanwhile. The SDK's
receivers are not made for two coroutines at once; this keeps each with one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessagingEntityNotFoundError,
    ServiceBusError,
)
from pydantic import ValidationError

from model_engine import records
from model_engine.api import TaskSpec
from model_engine.bus import Bus, close_quietly
from model_engine.database import Database, DatabaseDown
from model_engine.records import Outcome

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
"""How long one receive waits: a stopping consumer is gone after at most that."""

_SPARE_SECONDS = 20.0
"""A receiver that was not needed for so long is not trusted to be connected any more."""


class Handler(Protocol):
    """Settles the message, whatever happens."""

    def __call__(
        self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage
    ) -> Awaitable[None]: ...


_Receiver = tuple[ServiceBusClient, ServiceBusReceiver]


class Consumer:
    """Takes messages of one queue, up to ``concurrency`` at a time, until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        queue: str,
        handle: Handler,
        *,
        concurrency: int,
        on_missing: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.queue = queue
        self._bus = bus
        self._handle = handle
        self._slots = asyncio.Semaphore(concurrency)
        self._on_missing = on_missing
        self._spares: list[tuple[_Receiver, float]] = []
        self._next: asyncio.Task[None] | None = None
        """Connects the receiver that comes next."""
        self._work: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._loop = asyncio.create_task(self._run(), name=f"consume {queue}")
        self.listening = asyncio.Event()
        """Set when the queue was reached for the first time."""

    def stop(self) -> None:
        """Take no further message."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Return when the last message in hand is settled."""
        self.stop()
        await asyncio.wait([self._loop])
        while self._work:
            await asyncio.wait(self._work)

    async def _run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            await self._slots.acquire()
            if self._stopping.is_set():
                break
            receiver: _Receiver | None = None
            try:
                receiver = await self._take()
                messages: list[ServiceBusReceivedMessage] = []
                while not messages and not self._stopping.is_set():
                    self._drop_old_spares()
                    messages = await receiver[1].receive_messages(
                        max_message_count=1, max_wait_time=_POLL_SECONDS
                    )
                    self.listening.set()
                    pause = 0.1
                if messages:
                    self._start(self._process(receiver, messages[0]))
                    continue
                self._start(self._close(receiver))
            except Exception as problem:
                if receiver is not None:
                    self._start(self._close(receiver))
                if not self._stopping.is_set():
                    log.warning("queue %s: %s", self.queue, _short(problem))
                    await self._missing(problem)
                    await self._pause(pause)
                    pause = min(pause * 2, 3.0)
            self._slots.release()
        for spare, _ in self._spares:
            self._start(self._close(spare))
        self._spares.clear()

    async def _process(self, receiver: _Receiver, message: ServiceBusReceivedMessage) -> None:
        try:
            await self._handle(receiver[1], message)
        except Exception:
            log.exception("queue %s: a message was not handled", self.queue)
            await close_quietly(receiver[1], receiver[0])
        else:
            if self._stopping.is_set():
                self._start(self._close(receiver))
            else:
                self._spares.append((receiver, asyncio.get_running_loop().time()))
        finally:
            self._slots.release()

    async def _take(self) -> _Receiver:
        self._drop_old_spares()
        if self._next is not None:
            await asyncio.wait([self._next])
        receiver = self._spares.pop()[0] if self._spares else self._bus.receiver(self.queue)
        if not self._spares and not self._slots.locked():
            self._next = self._start(self._connect(self._bus.receiver(self.queue)))
        return receiver

    async def _connect(self, receiver: _Receiver) -> None:
        """A spare: the SDK takes half a second to connect, and the next message shall not."""
        try:
            await receiver[1].__aenter__()  # without credit: no message comes to it yet
        except Exception as problem:  # whoever receives meets it, too, and says so
            log.debug("queue %s: %s", self.queue, _short(problem))
        else:
            if not self._stopping.is_set():
                self._spares.append((receiver, asyncio.get_running_loop().time()))
                return
        await self._close(receiver)

    def _drop_old_spares(self) -> None:
        oldest = asyncio.get_running_loop().time() - _SPARE_SECONDS
        while self._spares and self._spares[0][1] < oldest:
            self._start(self._close(self._spares.pop(0)[0]))

    async def _missing(self, problem: Exception) -> None:
        if isinstance(problem, MessagingEntityNotFoundError) and self._on_missing is not None:
            try:
                await self._on_missing()
            except Exception as another:
                log.warning("queue %s: %s", self.queue, _short(another))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _close(self, receiver: _Receiver) -> None:
        await close_quietly(receiver[1], receiver[0])

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task


class TaskRunner:
    """Processes tasks by sleeping, and records every execution of them."""

    def __init__(self, database: Database, instance: str) -> None:
        self._database = database
        self._instance = instance
        self._renewer = AutoLockRenewer(max_lock_renewal_duration=3600)
        self.give_up = asyncio.Event()
        """Set when the process ends: what still runs is abandoned."""

    async def close(self) -> None:
        await self._renewer.close()

    async def __call__(
        self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage
    ) -> None:
        # Azure counts deliveries from 1; AMQP's header, which the SDK shows, counts from 0.
        delivery = (message.delivery_count or 0) + 1
        try:
            spec = TaskSpec.model_validate(json.loads(b"".join(message.body)))
        except (ValidationError, ValueError):
            await receiver.dead_letter_message(message, reason="InvalidTask")
            return
        if spec.renew:
            self._renewer.register(receiver, message)
        try:
            async with self._database.transaction() as connection:
                execution = await records.start_execution(
                    connection, str(message.message_id), delivery, self._instance
                )
        except DatabaseDown:
            await self._wait_for_database()
            await receiver.abandon_message(message)
            return
        if execution is None:
            await receiver.dead_letter_message(message, reason="UnknownTask")
            return
        log.info("task %s: delivery %d begins", message.message_id, delivery)
        outcome = await self._finish(receiver, message, spec, await self._ran(spec, delivery))
        log.info("task %s: delivery %d %s", message.message_id, delivery, outcome.value)
        await self._record(execution, outcome)

    async def _ran(self, spec: TaskSpec, delivery: int) -> bool:
        """Process; false when the process ends first."""
        try:
            async with asyncio.timeout(spec.seconds_of(delivery)):
                await self.give_up.wait()
        except TimeoutError:
            return True
        return False

    async def _finish(
        self,
        receiver: ServiceBusReceiver,
        message: ServiceBusReceivedMessage,
        spec: TaskSpec,
        ended: bool,
    ) -> Outcome:
        try:
            if not ended:
                await receiver.abandon_message(message)
                return Outcome.ABANDONED
            if spec.fail:
                await receiver.abandon_message(message)
                return Outcome.FAILED
            await receiver.complete_message(message)
        except MessageLockLostError:
            return Outcome.LOCK_LOST
        except (ServiceBusError, OSError, ValueError) as problem:
            log.warning("task %s was not settled: %s", message.message_id, _short(problem))
            return Outcome.UNSETTLED
        return Outcome.COMPLETED

    async def _record(self, execution: int, outcome: Outcome) -> None:
        for attempt in range(10):
            try:
                async with self._database.transaction() as connection:
                    await records.finish_execution(connection, execution, outcome)
                return
            except DatabaseDown:
                await asyncio.sleep(min(0.2 * 2**attempt, 5.0))
        log.error("the outcome %s of execution %d was not recorded", outcome.value, execution)

    async def _wait_for_database(self) -> None:
        """Hold the slot until PostgreSQL answers, or messages would be used up by the outage."""
        while not self.give_up.is_set():
            try:
                async with self._database.transaction() as connection:
                    await connection.execute("SELECT 1")
                return
            except DatabaseDown:
                await asyncio.sleep(1.0)


def _short(problem: BaseException) -> str:
    text = str(problem).splitlines()
    return f"{type(problem).__name__}: {text[0] if text else ''}"[:300]
