"""Service Bus: administration of queues, and senders that heal by themselves."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from model_engine.settings import ServiceBus

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.servicebus.management import QueueProperties, ServiceBusAdministrationClient

log = logging.getLogger(__name__)
T = TypeVar("T")

BusDown = (AzureError, OSError, TimeoutError)
"""What administration and receivers raise while Service Bus cannot be used."""


class BusUnavailable(Exception):
    """Nothing can be sent."""


class QueueMismatch(Exception):
    """A queue is not as it was asked to be."""


class _PodCredential:
    """The synchronous credential chain, off the event loop: azure-identity's asynchronous one
    would need a second HTTP stack in the image."""

    def __init__(self) -> None:
        from azure.identity import DefaultAzureCredential

        self.blocking = DefaultAzureCredential()

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return await asyncio.to_thread(self.blocking.get_token, *scopes, **options)

    async def close(self) -> None:
        self.blocking.close()

    async def __aenter__(self) -> _PodCredential:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Bus:
    """Clients of one namespace, made when they are first needed."""

    def __init__(self, settings: ServiceBus) -> None:
        self._settings = settings
        self._credential: _PodCredential | None = None
        self._admin: ServiceBusAdministrationClient | None = None
        self._admin_turn = asyncio.Lock()
        self._senders: OrderedDict[str, _Sender] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    # -- administration

    async def ensure_queue(
        self, name: str, lock_duration: timedelta, max_delivery_count: int = 10
    ) -> None:
        """Create the queue, or change it, and read it back.

        Raises :class:`QueueMismatch` when the queue then is not as asked: a queue that silently
        kept another lock duration would run every long task twice.
        """

        def work(admin: ServiceBusAdministrationClient) -> None:
            try:
                admin.create_queue(
                    name, lock_duration=lock_duration, max_delivery_count=max_delivery_count
                )
            except ResourceExistsError:
                queue = admin.get_queue(name)
                if _difference(queue, lock_duration, max_delivery_count):
                    queue.lock_duration = lock_duration
                    queue.max_delivery_count = max_delivery_count
                    admin.update_queue(queue)
            difference = _difference(admin.get_queue(name), lock_duration, max_delivery_count)
            if difference:
                raise QueueMismatch(f"queue {name} {difference}")

        await self._administer(work)

    async def delete_queue(self, name: str) -> None:
        """Delete the queue; one that is gone already is fine."""

        def work(admin: ServiceBusAdministrationClient) -> None:
            try:
                admin.delete_queue(name)
            except ResourceNotFoundError:
                log.info("queue %s was gone already", name)

        await self._administer(work)

    async def _administer(self, work: Callable[[ServiceBusAdministrationClient], T]) -> T:
        async with self._admin_turn:
            if self._admin is None:
                self._admin = await asyncio.to_thread(self._make_admin)
            return await asyncio.to_thread(work, self._admin)

    def _make_admin(self) -> ServiceBusAdministrationClient:
        from azure.servicebus.management import ServiceBusAdministrationClient

        options: dict[str, Any] = {
            "retry_total": 2,
            "retry_backoff_factor": 0.2,
            "connection_timeout": 5,
            "read_timeout": 15,
        }
        if self._settings.ca_file:
            options["connection_verify"] = self._settings.ca_file
        text = self._settings.admin_connection_string or self._settings.connection_string
        if text:
            return ServiceBusAdministrationClient.from_connection_string(text, **options)
        return ServiceBusAdministrationClient(
            self._settings.host, self._identity().blocking, **options
        )

    # -- messages

    @asynccontextmanager
    async def sender(self, queue: str) -> AsyncIterator[_Sender]:
        """A sender that is connected. Raises :class:`BusUnavailable` within seconds otherwise.

        Opened before the caller begins a transaction, so that an outage holds no transaction.
        """
        sender = self._senders.get(queue)
        if sender is not None and not sender.fit:
            self._discard(queue)
            sender = None
        if sender is None:
            sender = self._senders[queue] = _Sender(self.client(), queue)
            while len(self._senders) > 32:
                self._discard(next(iter(self._senders)))
        self._senders.move_to_end(queue)
        try:
            await sender.open()
            yield sender
        finally:
            if sender.broken and self._senders.get(queue) is sender:
                self._discard(queue)

    def receiver(self, queue: str) -> tuple[ServiceBusClient, ServiceBusReceiver]:
        """A receiver with a connection of its own, and the client to close after it."""
        client = self.client()
        return client, client.get_queue_receiver(queue, prefetch_count=0)

    def client(self) -> ServiceBusClient:
        options: dict[str, Any] = {"retry_total": 1, "retry_backoff_factor": 0.1}
        if self._settings.ca_file:
            options["connection_verify"] = self._settings.ca_file
        if self._settings.connection_string:
            return ServiceBusClient.from_connection_string(
                self._settings.connection_string, **options
            )
        return ServiceBusClient(self._settings.host, self._identity(), **options)

    async def close(self) -> None:
        for queue in list(self._senders):
            self._discard(queue)
        if self._closing:
            await asyncio.wait(self._closing, timeout=2)

    def _identity(self) -> _PodCredential:
        if self._credential is None:
            self._credential = _PodCredential()
        return self._credential

    def _discard(self, queue: str) -> None:
        task = asyncio.create_task(self._senders.pop(queue).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Sender:
    """One queue's sender, used by one request at a time as the SDK demands.

    Once anything went wrong in it, it is never used again: the next request connects anew.
    """

    def __init__(self, client: ServiceBusClient, queue: str) -> None:
        self._client = client
        self._sender: ServiceBusSender = client.get_queue_sender(queue)
        self._turn = asyncio.Lock()
        self._opened = False
        self._used = time.monotonic()
        self.broken = False

    @property
    def fit(self) -> bool:
        """False once it was idle so long that the broker may have closed it."""
        return not self.broken and time.monotonic() - self._used < 45

    async def open(self) -> None:
        async with self._guarded():
            if not self._opened:
                await self._sender.__aenter__()
                self._opened = True

    async def send(self, message_id: str, body: dict[str, Any]) -> None:
        message = ServiceBusMessage(
            json.dumps(body), message_id=message_id, content_type="application/json"
        )
        async with self._guarded():
            await self._sender.send_messages(message)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(5), self._turn:
                if self.broken:
                    raise BusUnavailable("the connection was lost")
                try:
                    yield
                except BaseException:
                    self.broken = True
                    raise
                self._used = time.monotonic()
        except (*BusDown, ValueError) as problem:  # ValueError: the SDK's "already closed"
            raise BusUnavailable(f"{type(problem).__name__}: {problem}"[:300]) from problem

    async def close(self) -> None:
        await close_quietly(self._sender, self._client)


async def close_quietly(
    *closables: ServiceBusSender | ServiceBusReceiver | ServiceBusClient,
) -> None:
    """Close what may be broken already: nothing is lost but the goodbye."""
    for closable in closables:
        try:
            async with asyncio.timeout(5):
                await closable.close()
        except Exception as problem:
            log.debug("closing: %s", problem)


def _difference(queue: QueueProperties, lock_duration: timedelta, max_deliveries: int) -> str:
    """What of a queue is not as asked; empty when all is."""
    if queue.lock_duration != lock_duration:
        return f"has lock duration {queue.lock_duration}, asked was {lock_duration}"
    if queue.max_delivery_count != max_deliveries:
        return f"has max delivery count {queue.max_delivery_count}, asked was {max_deliveries}"
    return ""
