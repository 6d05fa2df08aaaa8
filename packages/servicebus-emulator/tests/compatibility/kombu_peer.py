"""kombu alone: send, receive, let the lock go, receive again, settle. Says each step as JSON.

The broker's URL and the queue are the arguments. Nothing here knows of the emulator.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kombu.connection import Connection
from kombu.message import Message

WITHIN = 40
"""Seconds in which a message has to come, the first's lock included."""


def say(step: str, message: Message) -> None:
    azure: Any = message.delivery_info["azure_message"]
    line = {"step": step, "body": message.payload, "delivery_count": azure.delivery_count}
    print(json.dumps(line), flush=True)


def main(url: str, queue: str) -> None:
    options = {"peek_lock_seconds": 5, "wait_time_seconds": 2}
    with Connection(url, transport_options=options) as connection:  # type: ignore[no-untyped-call]
        simple = connection.SimpleQueue(queue)
        simple.put({"work": 1})
        first = simple.get(timeout=WITHIN)
        say("received", first)
        again = simple.get(timeout=WITHIN)
        say("received again", again)
        again.ack()
        say("settled", again)
        simple.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
