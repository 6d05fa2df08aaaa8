"""Azure's own SDK against an emulator in this process: the wire as its clients read it.

The clock is moved by hand, so a lock of a minute expires at once. The synchronous client needs
threads of its own, so the emulator runs in a thread with its own loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient as AsyncServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthorizationError,
    ServiceBusServerBusyError,
)
from azure.servicebus.management import (
    CorrelationRuleFilter,
    ServiceBusAdministrationClient,
    SqlRuleAction,
    SqlRuleFilter,
)

from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.gateway.faults import Fault
from servicebus_emulator.gateway.tokens import Key
from servicebus_emulator.server import Server, steady_clock
from servicebus_emulator.settings import Settings

T = TypeVar("T")

pytestmark = pytest.mark.program  # the SDK's user agent takes the processor's name from uname


class Emulator:
    """A server in a thread of its own, and a clock that can be moved."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._ahead = 0.0
        steady = steady_clock()
        settings = Settings(host="127.0.0.1", amqp_port=0, admin_port=0, tls_dir=folder, **options)
        self.server = Server(settings, clock=lambda: steady() + self._ahead)
        self.authority = folder / "ca.pem"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.run(self.server.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something in the emulator's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def advance(self, seconds: float) -> None:
        """Move the clock."""

        async def move() -> None:
            self._ahead += seconds
            self.server.tick()

        self.run(move())

    def stop(self) -> None:
        """End server, loop and thread."""
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def connection_string(self, port: int) -> str:
        return (
            f"Endpoint=sb://localhost:{port};SharedAccessKeyName=name;SharedAccessKey=key;"
            "UseDevelopmentEmulator=true"
        )

    @property
    def amqp(self) -> str:
        return self.connection_string(self.server.amqp_port)

    def administration(self) -> ServiceBusAdministrationClient:
        return ServiceBusAdministrationClient.from_connection_string(
            self.connection_string(self.server.admin_port), connection_verify=str(self.authority)
        )


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    running = Emulator(tmp_path_factory.mktemp("tls"))
    yield running
    running.stop()


@pytest.fixture
def admin(emulator: Emulator) -> Iterator[ServiceBusAdministrationClient]:
    with emulator.administration() as client:
        yield client
        for queue in client.list_queues():
            client.delete_queue(queue.name)
        for topic in client.list_topics():
            client.delete_topic(topic.name)


def test_administration(emulator: Emulator, admin: ServiceBusAdministrationClient) -> None:
    made = admin.create_queue("q", lock_duration=timedelta(seconds=45), max_delivery_count=3)
    assert made.lock_duration == timedelta(seconds=45)
    with pytest.raises(ResourceExistsError):
        admin.create_queue("q")
    made.lock_duration = timedelta(seconds=90)
    admin.update_queue(made)
    assert admin.get_queue("q").lock_duration == timedelta(seconds=90)
    with pytest.raises(HttpResponseError):
        admin.create_queue("short", lock_duration=timedelta(seconds=4))
    with pytest.raises(ResourceNotFoundError):
        admin.get_queue("none")
    for number in range(120):
        admin.create_queue(f"many-{number}")
    assert len(list(admin.list_queues())) == 121
    properties = admin.get_queue_runtime_properties("q")
    assert properties.active_message_count == properties.dead_letter_message_count == 0
    admin.delete_queue("q")
    with pytest.raises(ResourceNotFoundError):
        admin.delete_queue("q")


def test_locks(emulator: Emulator, admin: ServiceBusAdministrationClient) -> None:
    admin.create_queue("q", lock_duration=timedelta(seconds=60), max_delivery_count=3)
    with (
        ServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_sender("q") as sender,
        client.get_queue_receiver("q", max_wait_time=5) as receiver,
    ):
        sender.send_messages([ServiceBusMessage(str(i), message_id=str(i)) for i in range(3)])
        first, second, third = (receiver.receive_messages(1, max_wait_time=5)[0] for _ in range(3))
        assert [m.delivery_count for m in (first, second, third)] == [0, 0, 0]
        before = second.locked_until_utc
        assert before is not None
        assert timedelta(seconds=50) < before - datetime.now(UTC) <= timedelta(seconds=60)
        receiver.complete_message(third)

        emulator.advance(40)
        renewed = receiver.renew_message_lock(second)
        assert timedelta(seconds=39) < renewed - before < timedelta(seconds=45)

        emulator.advance(25)  # 65 s: the first lock is over, the second was renewed
        with pytest.raises(MessageLockLostError):
            receiver.complete_message(first)
        again = receiver.receive_messages(1, max_wait_time=5)[0]
        assert (again.message_id, again.delivery_count) == ("0", 1)
        receiver.complete_message(second)
        receiver.abandon_message(again)
        again = receiver.receive_messages(1, max_wait_time=5)[0]
        assert (again.message_id, again.delivery_count) == ("0", 2)
        receiver.abandon_message(again)

        with client.get_queue_receiver(
            "q", sub_queue=ServiceBusSubQueue.DEAD_LETTER, max_wait_time=5
        ) as letters:
            letter = letters.receive_messages(1, max_wait_time=5)[0]
            assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
            letters.complete_message(letter)
    properties = admin.get_queue_runtime_properties("q")
    assert properties.total_message_count == 0


def test_messages(emulator: Emulator, admin: ServiceBusAdministrationClient) -> None:
    admin.create_queue("q")
    with (
        ServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_sender("q") as sender,
        client.get_queue_receiver("q", max_wait_time=5) as receiver,
    ):
        batch = sender.create_message_batch()
        for number in range(2):
            batch.add_message(ServiceBusMessage(f"batch {number}"))
        sender.send_messages(batch)
        message = ServiceBusMessage(
            b"\x00\xff" * 100_000,
            application_properties={"text": "t", "number": 7, "flag": True},
            content_type="x/y",
            correlation_id="c",
            subject="s",
        )
        sender.send_messages(message)
        with pytest.raises(MessageSizeExceededError):
            sender.send_messages(ServiceBusMessage(b"x" * 300_000))
        found: list[ServiceBusReceivedMessage] = []
        while len(found) < 3:
            found += receiver.receive_messages(3, max_wait_time=5)
        assert [str(m) for m in found[:2]] == ["batch 0", "batch 1"]
        assert b"".join(found[2].body) == b"\x00\xff" * 100_000
        assert found[2].application_properties == {b"text": b"t", b"number": 7, b"flag": True}
        assert (found[2].content_type, found[2].correlation_id, found[2].subject) == (
            "x/y",
            "c",
            "s",
        )
        receiver.dead_letter_message(found[0], reason="r", error_description="d")
        receiver.defer_message(found[1])
        receiver.complete_message(found[2])
        place = found[1].sequence_number
        assert place is not None
        [deferred] = receiver.receive_deferred_messages(place)
        assert str(deferred) == "batch 1"
        receiver.complete_message(deferred)
    with (
        ServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_receiver(
            "q",
            sub_queue=ServiceBusSubQueue.DEAD_LETTER,
            receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE,
        ) as letters,
    ):
        [letter] = letters.receive_messages(1, max_wait_time=5)
        assert (letter.dead_letter_reason, letter.dead_letter_error_description) == ("r", "d")
    assert admin.get_queue_runtime_properties("q").total_message_count == 0


def test_topics(emulator: Emulator, admin: ServiceBusAdministrationClient) -> None:
    admin.create_topic("t")
    admin.create_subscription("t", "all", lock_duration=timedelta(seconds=20))
    admin.create_subscription("t", "some", max_delivery_count=1)
    admin.create_rule("t", "some", "big", filter=SqlRuleFilter("size > @n", {"@n": 10}))
    admin.create_rule(
        "t",
        "some",
        "red",
        filter=CorrelationRuleFilter(label="l", properties={"color": "red"}),
        action=SqlRuleAction("SET color = color + '!'; SET sys.Label = 'was red'; REMOVE size"),
    )
    admin.delete_rule("t", "some", "$Default")
    assert [rule.name for rule in admin.list_rules("t", "some")] == ["big", "red"]
    with (
        ServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_topic_sender("t") as sender,
        client.get_subscription_receiver("t", "all", max_wait_time=5) as everything,
        client.get_subscription_receiver("t", "some", max_wait_time=5) as some,
        client.get_subscription_receiver(
            "t", "some", sub_queue=ServiceBusSubQueue.DEAD_LETTER, max_wait_time=5
        ) as letters,
    ):
        for number, (size, color) in enumerate(((5, "red"), (15, "blue"), (7, "green"))):
            properties: dict[str | bytes, Any] = {"size": size, "color": color}
            message = ServiceBusMessage(
                "x", subject="l", message_id=str(number), application_properties=properties
            )
            sender.send_messages(message)
        found: list[ServiceBusReceivedMessage] = []
        while len(found) < 3:
            found += everything.receive_messages(3, max_wait_time=5)
        assert [message.message_id for message in found] == ["0", "1", "2"]
        for message in found:
            everything.complete_message(message)
        red, big = (some.receive_messages(1, max_wait_time=5)[0] for _ in range(2))
        assert (red.subject, red.application_properties) == ("was red", {b"color": b"red!"})
        assert (big.message_id, big.subject) == ("1", "l")
        some.complete_message(red)
        some.abandon_message(big)
        [letter] = letters.receive_messages(1, max_wait_time=5)
        assert letter.message_id == "1"
        letters.complete_message(letter)
        sender.schedule_messages(ServiceBusMessage("y"), datetime.now(UTC) + timedelta(seconds=100))
        assert admin.get_topic_runtime_properties("t").scheduled_message_count == 1
        emulator.advance(100)
        assert len(everything.receive_messages(1, max_wait_time=5)) == 1
    runtime = admin.get_topic_runtime_properties("t")
    assert (runtime.subscription_count, runtime.scheduled_message_count) == (2, 0)
    assert admin.get_subscription_runtime_properties("t", "some").total_message_count == 0


def test_a_queue_that_is_not_there(emulator: Emulator) -> None:
    with (
        ServiceBusClient.from_connection_string(emulator.amqp, retry_total=0) as client,
        pytest.raises(MessagingEntityNotFoundError),
        client.get_queue_sender("none") as sender,
    ):
        sender.send_messages(ServiceBusMessage("x"))


async def test_asynchronous_sessions_and_schedules(
    emulator: Emulator, admin: ServiceBusAdministrationClient
) -> None:
    admin.create_queue("s", requires_session=True, lock_duration=timedelta(seconds=60))
    later = datetime.now(UTC) + timedelta(seconds=600)
    async with (
        AsyncServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_sender("s") as sender,
    ):
        await sender.send_messages([ServiceBusMessage(f"{i}", session_id="A") for i in range(2)])
        numbers = await sender.schedule_messages(
            [ServiceBusMessage(f"later {i}", session_id="B") for i in range(2)], later
        )
        await sender.cancel_scheduled_messages(numbers[0])
        async with client.get_queue_receiver("s", session_id="A", max_wait_time=5) as receiver:
            assert receiver.session.locked_until_utc is not None
            await receiver.session.set_state("half way")
            assert await receiver.session.get_state() == b"half way"
            peeked = await receiver.peek_messages(5)
            assert [str(message) for message in peeked] == ["0", "1"]
            for expected in ("0", "1"):
                [message] = await receiver.receive_messages(1, max_wait_time=5)
                assert str(message) == expected
                await receiver.complete_message(message)
            before = receiver.session.locked_until_utc
            emulator.advance(30)
            assert await receiver.session.renew_lock() > before + timedelta(seconds=29)
        emulator.advance(600)
        async with client.get_queue_receiver(
            "s", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5
        ) as receiver:
            assert receiver.session.session_id == "B"
            [message] = await receiver.receive_messages(1, max_wait_time=5)
            assert str(message) == "later 1"
            await receiver.complete_message(message)


async def test_asynchronous_competition(
    emulator: Emulator, admin: ServiceBusAdministrationClient
) -> None:
    admin.create_queue("q", lock_duration=timedelta(seconds=300))
    count = 30

    async def consume() -> list[str]:
        seen: list[str] = []
        async with (
            AsyncServiceBusClient.from_connection_string(emulator.amqp) as client,
            client.get_queue_receiver("q") as receiver,
        ):
            while messages := await receiver.receive_messages(5, max_wait_time=1):
                for message in messages:
                    await receiver.complete_message(message)
                    seen.append(str(message.message_id))
        return seen

    async with (
        AsyncServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_sender("q") as sender,
    ):
        for i in range(count):
            await sender.send_messages(ServiceBusMessage("x", message_id=str(i)))
    seen = await asyncio.gather(*(consume() for _ in range(2)))
    assert sorted(chain(*seen), key=int) == [str(i) for i in range(count)]


def test_rights_and_faults(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = tuple(
        Key(right.lower(), "secret", frozenset({right})) for right in ("Send", "Listen", "Manage")
    )
    running = Emulator(tmp_path_factory.mktemp("tls"), auth="sas", keys=keys)
    try:
        queue = running.server.namespace.create("q", QueueSettings(), running.server.clock())
        everything, sending, listening = (
            ServiceBusClient.from_connection_string(
                running.amqp.replace("=name", f"={name}").replace("=key", "=secret"), retry_total=0
            )
            for name in ("manage", "send", "listen")
        )
        sender = sending.get_queue_sender("q")
        receiver = listening.get_queue_receiver("q")
        dead = everything.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        denied = listening.get_queue_sender("q")
        try:
            sender.send_messages(ServiceBusMessage("m"))
            late = ServiceBusMessage("later")
            sender.schedule_messages(late, datetime.now(UTC) + timedelta(hours=1))
            running.server.hub.faults.add(Fault("send", "reject"))
            with pytest.raises(ServiceBusServerBusyError):
                sender.send_messages(ServiceBusMessage("m"))
            [message] = receiver.receive_messages(max_wait_time=5)
            receiver.renew_message_lock(message)
            receiver.dead_letter_message(message)
            [message] = dead.receive_messages(max_wait_time=5)
            dead.complete_message(message)
            with pytest.raises(ServiceBusAuthorizationError):
                denied.send_messages(ServiceBusMessage("m"))
        finally:  # each takes up to a second to close
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda h: h.close(), (sender, receiver, dead, denied)))
            for client in (everything, sending, listening):
                client.close()
        assert queue.counts().total == 1
    finally:
        running.stop()
