"""Service Bus as its users see it, through Azure's own SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusClient, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.management import QueueProperties, ServiceBusAdministrationClient

from tests.e2e.target import ServiceBus
from tests.e2e.waiting import wait_for


class Broker:
    def __init__(self, access: ServiceBus) -> None:
        self._access = access
        self._options: dict[str, Any] = (
            {"connection_verify": access.ca_file} if access.ca_file else {}
        )
        self.admin = ServiceBusAdministrationClient.from_connection_string(
            access.admin_connection_string, **self._options
        )

    def close(self) -> None:
        self.admin.close()

    @contextmanager
    def client(self) -> Iterator[ServiceBusClient]:
        with ServiceBusClient.from_connection_string(
            self._access.connection_string, **self._options
        ) as client:
            yield client

    def queue(self, name: str) -> QueueProperties | None:
        try:
            return self.admin.get_queue(name)
        except ResourceNotFoundError:
            return None

    def lock_duration(self, name: str) -> timedelta:
        queue = self.queue(name)
        assert queue is not None, f"there is no queue {name}"
        duration = queue.lock_duration
        assert isinstance(duration, timedelta)
        return duration

    def listed(self) -> dict[str, timedelta | str | None]:
        """Name and lock duration of every queue, as ``az servicebus queue list`` shows them."""
        return {queue.name: queue.lock_duration for queue in self.admin.list_queues()}

    def messages(self, name: str) -> tuple[int, int]:
        """How many messages are active (locked ones included) and dead-lettered."""
        counts = self.admin.get_queue_runtime_properties(name)
        return counts.active_message_count or 0, counts.dead_letter_message_count or 0

    def wait_empty(self, name: str) -> None:
        """A message that was settled is gone, and can never be delivered again."""
        wait_for(
            f"queue {name} to be empty",
            lambda: self.messages(name),
            lambda counts: counts == (0, 0),
        )

    def take_dead_letter(self, name: str) -> ServiceBusReceivedMessage:
        """The next dead-lettered message, removed from the dead-letter queue."""
        with (
            self.client() as client,
            client.get_queue_receiver(name, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver,
        ):
            messages = receiver.receive_messages(max_message_count=1, max_wait_time=10)
            assert messages, f"the dead-letter queue of {name} is empty"
            receiver.complete_message(messages[0])
            return messages[0]

    def delete(self, name: str) -> bool:
        """True when there was such a queue."""
        try:
            self.admin.delete_queue(name)
        except ResourceNotFoundError:
            return False
        return True
