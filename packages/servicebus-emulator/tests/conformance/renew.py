"""How long Azure's synchronous client takes to renew many locks, by the threads that renew.

    python tests/conformance/renew.py [--messages 300] [--workers 1,3,6]

This is why ``autolockrenew_many_msgs`` is in the table as it is: with one thread a renewal takes a
millisecond or two, and the emulator is idle. The threads of an AutoLockRenewer share a connection,
and one that waits for the socket after another has read its answer waits until the read times out,
0.2 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from azure.servicebus import AutoLockRenewer, ServiceBusClient, ServiceBusMessage

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conformance.provisioning import Emulator

HOST = "127.65.0.1"
LOCK = 15
"""Seconds that a lock lasts; the client renews it when 10 of them are left."""


def main() -> int:
    """Receive, let the client renew, print what the emulator's timeline tells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--workers", default="1,3,6")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        emulator = Emulator(HOST, Path(folder))
        try:
            for workers in map(int, given.workers.split(",")):
                print(f"{workers} threads: {renew(emulator, workers, given.messages)}", flush=True)
        finally:
            emulator.stop()
    return 0


def renew(emulator: Emulator, workers: int, count: int) -> str:
    """What became of the first renewal of each of ``count`` locks."""
    queue = f"renew-{workers}"
    emulator.create(queue, "Queue", {"LockDuration": f"PT{LOCK}S"})
    renewer = AutoLockRenewer(max_lock_renewal_duration=60, max_workers=workers)
    client = ServiceBusClient.from_connection_string(
        emulator.connection_string, connection_verify=str(emulator.authority)
    )
    with client, client.get_queue_sender(queue) as sender:
        sender.send_messages([ServiceBusMessage("x") for _ in range(count)])
        with client.get_queue_receiver(queue, auto_lock_renewer=renewer) as receiver:
            held = 0
            while held < count:
                held += len(receiver.receive_messages(count - held))
            time.sleep(LOCK + 2)
            events = timeline(emulator, queue)
            renewer.close()
    renewed = [event["at"] for event in events if event["kind"] == "renewed"][:count]
    lost = sum(event["kind"] == "lock-expired" for event in events)
    took = renewed[-1] - renewed[0]
    return f"{1000 * took / len(renewed):.1f} ms a renewal, {lost} locks of {count} lost"


def timeline(emulator: Emulator, queue: str) -> list[dict[str, Any]]:
    """What has happened to a queue."""
    asked = urllib.request.Request(
        f"http://{emulator.host}:443/$emulator/timeline?queue={queue}&limit=20000",
        headers={"Authorization": "Bearer provisioning"},
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return [json.loads(line) for line in answer]


if __name__ == "__main__":
    sys.exit(main())
