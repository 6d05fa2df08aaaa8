"""An application that has nothing but its environment: no key, no address of a token's issuer.

Namespace and queue are the arguments. Nothing here knows of the emulator.
"""

from __future__ import annotations

import sys

from azure.identity import DefaultAzureCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.management import ServiceBusAdministrationClient


def main(namespace: str, queue: str) -> None:
    with (
        DefaultAzureCredential() as credential,
        ServiceBusAdministrationClient(namespace, credential) as admin,
        ServiceBusClient(namespace, credential) as client,
    ):
        admin.create_queue(queue)
        with client.get_queue_sender(queue) as sender, client.get_queue_receiver(queue) as receiver:
            sender.send_messages(ServiceBusMessage("work"))
            (message,) = receiver.receive_messages(1, max_wait_time=10)
            receiver.complete_message(message)
            print(message)


if __name__ == "__main__":
    main(*sys.argv[1:])
