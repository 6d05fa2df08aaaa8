"""The canary's queue through Service Bus's own SDK, which only a promotion with a canary loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.servicebus import ServiceBusClient, ServiceBusSubQueue
from azure.servicebus.exceptions import ServiceBusError
from azure.servicebus.management import ServiceBusAdministrationClient

from ci.promotion.probes.queues import BrokerUnavailable


class Broker:
    """See :class:`ci.promotion.probes.queues.Queues`."""

    def __init__(self, connection: str, admin: str, options: dict[str, Any]) -> None:
        self._connection, self._options = connection, options
        # The SDK's own limits are minutes, and a rollback may wait for the answers.
        self._admin = ServiceBusAdministrationClient.from_connection_string(
            admin, retry_total=1, connection_timeout=5, read_timeout=10, **options
        )

    def close(self) -> None:
        self._admin.close()

    def lock_duration(self, name: str) -> timedelta | None:
        with _answering():
            try:
                found = self._admin.get_queue(name).lock_duration
            except ResourceNotFoundError:
                return None
        if not isinstance(found, timedelta):
            raise BrokerUnavailable(f"the lock duration of {name} is {found}")
        return found

    def messages(self, name: str) -> tuple[int, int]:
        with _answering():
            counts = self._admin.get_queue_runtime_properties(name)
        return counts.active_message_count or 0, counts.dead_letter_message_count or 0

    def states(self) -> list[str]:
        with _answering():
            counts = {each.name: each for each in self._admin.list_queues_runtime_properties()}
            queues = list(self._admin.list_queues())
        return [
            f"{queue.name}: {queue.status}, lock duration {queue.lock_duration},"
            f" {now.active_message_count} active, {now.scheduled_message_count} scheduled,"
            f" {now.dead_letter_message_count} dead-lettered"
            for queue in queues
            if (now := counts.get(queue.name)) is not None
        ] or ["no queue"]

    def undelivered(self, name: str) -> str:
        with (
            _answering(),
            ServiceBusClient.from_connection_string(self._connection, **self._options) as client,
            client.get_queue_receiver(name, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver,
        ):
            letters = receiver.peek_messages(max_message_count=1)
            return str(letters[0].dead_letter_reason or "no reason") if letters else ""


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (AzureError, ServiceBusError) as problem:
        raise BrokerUnavailable(" ".join(str(problem).split())[:200]) from problem
