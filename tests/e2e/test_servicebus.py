"""The broker under the endpoints, through Azure's SDK alone: locks, renewal, counting."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from azure.servicebus import AutoLockRenewer, ServiceBusMessage
from azure.servicebus.exceptions import MessageLockLostError

from tests.e2e.broker import Broker
from tests.e2e.gateway import seconds
from tests.e2e.waiting import wait_for

pytestmark = pytest.mark.queue_timeouts


@pytest.mark.slow
def test_a_message_is_delivered_again_when_its_lock_runs_out(
    broker: Broker, scratch_queue: str
) -> None:
    with broker.client() as client:
        with client.get_queue_sender(scratch_queue) as sender:
            sender.send_messages(ServiceBusMessage("late", message_id="late"))
        with client.get_queue_receiver(scratch_queue) as receiver:
            (first,) = receiver.receive_messages(max_message_count=1, max_wait_time=5)
            taken = datetime.now(UTC)
            assert first.locked_until_utc is not None
            assert seconds(3) < first.locked_until_utc - taken < seconds(6)
            (again,) = receiver.receive_messages(max_message_count=1, max_wait_time=10)
            assert again.message_id == "late"
            assert again.sequence_number == first.sequence_number
            # The header counts earlier deliveries: 1 there is the second delivery.
            assert (first.delivery_count or 0, again.delivery_count) == (0, 1)
            with pytest.raises(MessageLockLostError):
                receiver.complete_message(first)
            receiver.complete_message(again)
    broker.wait_empty(scratch_queue)


@pytest.mark.slow
def test_a_message_is_not_delivered_again_while_its_lock_is_renewed(
    broker: Broker, scratch_queue: str
) -> None:
    with broker.client() as client:
        with client.get_queue_sender(scratch_queue) as sender:
            sender.send_messages(ServiceBusMessage("held", message_id="held"))
        with (
            client.get_queue_receiver(scratch_queue) as receiver,
            AutoLockRenewer(max_lock_renewal_duration=30) as renewer,
        ):
            (held,) = receiver.receive_messages(max_message_count=1, max_wait_time=5)
            first_lock = held.locked_until_utc
            assert first_lock is not None
            renewer.register(receiver, held)
            wait_for(
                "the first lock to have run out",
                lambda: datetime.now(UTC),
                lambda now: now > first_lock + seconds(1),
            )
            with client.get_queue_receiver(scratch_queue) as other:
                assert other.receive_messages(max_message_count=1, max_wait_time=0.5) == []
            receiver.complete_message(held)
    broker.wait_empty(scratch_queue)


def test_an_abandoned_message_comes_again_until_it_is_dead_lettered(
    broker: Broker, scratch_queue: str
) -> None:
    with broker.client() as client:
        with client.get_queue_sender(scratch_queue) as sender:
            sender.send_messages(ServiceBusMessage("bad", message_id="bad"))
        with client.get_queue_receiver(scratch_queue) as receiver:
            for earlier in range(3):
                (message,) = receiver.receive_messages(max_message_count=1, max_wait_time=5)
                assert (message.delivery_count or 0) == earlier
                receiver.abandon_message(message)
    letter = broker.take_dead_letter(scratch_queue)
    assert letter.message_id == "bad"
    assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
    broker.wait_empty(scratch_queue)
