"""An application in a pod, as it would run on AKS: the namespace's name, its pod's identity, and
nothing else. Says each step as JSON. Nothing here knows of the emulator.

Namespace and queue are the arguments.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta

from azure.identity import DefaultAzureCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import MessageLockLostError
from azure.servicebus.management import ServiceBusAdministrationClient

LOCK = timedelta(seconds=5)
WITHIN = 15
"""Seconds in which a message has to come, another receiver's lock included."""


def say(step: str, **more: object) -> None:
    print(json.dumps({"step": step, **more}), flush=True)


def main(host: str, queue: str) -> None:
    with (
        DefaultAzureCredential() as credential,
        ServiceBusAdministrationClient(host, credential) as admin,
        ServiceBusClient(host, credential) as client,
    ):
        admin.create_queue(queue, lock_duration=LOCK)
        say("created", lock=str(admin.get_queue(queue).lock_duration))
        with client.get_queue_sender(queue) as sender:
            sender.send_messages(ServiceBusMessage("work"))
        with client.get_queue_receiver(queue) as receiver:
            (first,) = receiver.receive_messages(1, max_wait_time=WITHIN)
            say("received", delivery_count=first.delivery_count)
            (again,) = receiver.receive_messages(1, max_wait_time=WITHIN)
            say("received again", delivery_count=again.delivery_count)
            try:
                receiver.complete_message(first)
            except MessageLockLostError:
                say("lost")
            held = again.locked_until_utc
            renewed = receiver.renew_message_lock(again)
            say("renewed", longer=bool(held and renewed > held))
            receiver.complete_message(again)
            say("completed", left=admin.get_queue_runtime_properties(queue).total_message_count)


if __name__ == "__main__":
    main(*sys.argv[1:])
