"""A receiver asks for one message and belongs to it until it is settled."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from azure.servicebus.exceptions import MessagingEntityNotFoundError
from model_engine.bus import Bus
from model_engine.worker import Consumer


class FakeReceiver:
    def __init__(self, queue: asyncio.Queue[str], log: list[str]) -> None:
        self._queue = queue
        self._log = log
        self.connected = False
        self.lent = False

    async def __aenter__(self) -> FakeReceiver:
        self.connected = True
        return self

    async def receive_messages(self, max_message_count: int, max_wait_time: float) -> list[str]:
        assert max_message_count == 1
        assert not self.lent, "a receiver that holds a message asked for another"
        try:
            async with asyncio.timeout(0.02):
                return [await self._queue.get()]
        except TimeoutError:
            return []

    async def close(self) -> None:
        self._log.append("closed")


class FakeBus:
    """Receivers over one in-memory queue."""

    def __init__(self, *, missing: int = 0) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.log: list[str] = []
        self.opened: list[FakeReceiver] = []
        self.missing = missing

    def receiver(self, queue: str) -> tuple[FakeReceiver, FakeReceiver]:
        if self.missing:
            self.missing -= 1
            raise MessagingEntityNotFoundError()
        receiver = FakeReceiver(self.queue, self.log)
        self.opened.append(receiver)
        return FakeReceiver(self.queue, []), receiver


class Handler:
    """Holds every message until ``go``."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.most = 0
        self.done: list[str] = []

    async def __call__(self, receiver: Any, message: Any) -> None:
        assert not receiver.lent
        receiver.lent = True
        self.running += 1
        self.most = max(self.most, self.running)
        await self.go.wait()
        self.running -= 1
        receiver.lent = False
        self.done.append(message)


async def seen(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_messages_run_side_by_side_up_to_the_limit_each_on_its_own_receiver() -> None:
    bus, handler = FakeBus(), Handler()
    for number in range(5):
        bus.queue.put_nowait(str(number))
    consumer = Consumer(cast(Bus, bus), "q", handler, concurrency=3)
    await seen(lambda: handler.running == 3)
    assert bus.queue.qsize() == 2, "a message was taken that nobody has time for"
    handler.go.set()
    await seen(lambda: len(handler.done) == 5)
    await consumer.stopped()
    assert handler.most == 3
    assert len(bus.opened) <= 4, "receivers are used again"
    assert bus.log.count("closed") == len(bus.opened)


async def test_the_receiver_that_comes_next_has_connected() -> None:
    bus, handler = FakeBus(), Handler()
    consumer = Consumer(cast(Bus, bus), "q", handler, concurrency=2)
    await seen(lambda: len(bus.opened) == 2 and bus.opened[1].connected)
    for text in ("first", "second"):
        bus.queue.put_nowait(text)
    await seen(lambda: handler.running == 2)
    assert len(bus.opened) == 2, "a third was opened, and there is nobody to use it"
    handler.go.set()
    await consumer.stopped()
    assert bus.log.count("closed") == 2


async def test_one_that_cannot_connect_is_closed_and_hinders_nobody() -> None:
    class Broken(FakeReceiver):
        async def __aenter__(self) -> FakeReceiver:
            raise OSError("connection refused")

    class SecondIsBroken(FakeBus):
        def receiver(self, queue: str) -> tuple[FakeReceiver, FakeReceiver]:
            client, receiver = super().receiver(queue)
            return client, Broken(self.queue, self.log) if len(self.opened) == 2 else receiver

    bus, handler = SecondIsBroken(), Handler()
    handler.go.set()
    consumer = Consumer(cast(Bus, bus), "q", handler, concurrency=2)
    await seen(lambda: bus.log == ["closed"])
    for text in ("first", "second"):
        bus.queue.put_nowait(text)
    await seen(lambda: sorted(handler.done) == ["first", "second"])
    await consumer.stopped()


async def test_stopping_takes_nothing_new_and_waits_for_what_is_in_hand() -> None:
    bus, handler = FakeBus(), Handler()
    bus.queue.put_nowait("held")
    consumer = Consumer(cast(Bus, bus), "q", handler, concurrency=2)
    await seen(lambda: handler.running == 1)
    stopping = asyncio.create_task(consumer.stopped())
    await asyncio.sleep(0.1)
    bus.queue.put_nowait("late")
    await asyncio.sleep(0.05)
    assert not stopping.done()
    handler.go.set()
    await asyncio.wait_for(stopping, 5)
    assert handler.done == ["held"]
    assert bus.queue.qsize() == 1


async def test_a_missing_queue_is_reported_and_then_consumed() -> None:
    bus, handler = FakeBus(missing=1), Handler()
    handler.go.set()
    reported: list[str] = []

    async def on_missing() -> None:
        reported.append("missing")
        bus.queue.put_nowait("after")

    consumer = Consumer(cast(Bus, bus), "q", handler, concurrency=1, on_missing=on_missing)
    await seen(lambda: handler.done == ["after"])
    await consumer.stopped()
    assert reported == ["missing"]
