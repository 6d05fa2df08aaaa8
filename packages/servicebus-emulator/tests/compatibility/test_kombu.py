"""kombu's own queue interface in a program of its own, unmodified, over TLS and without a key."""

from __future__ import annotations

import json

from tests.compatibility.conftest import APP_SERVICE, NAMESPACE, PATIENCE, Emulator
from tests.compatibility.programs import Programs


def test_a_message_that_is_not_settled_in_time_comes_again(
    emulator: Emulator, programs: Programs
) -> None:
    url = f"azureservicebus://DefaultAzureCredential@{NAMESPACE}"
    argv = emulator.inside.python("tests.compatibility.kombu_peer", url, "kombu")
    said = programs.run(argv, log="kombu", env=APP_SERVICE, timeout=2 * PATIENCE)
    assert [json.loads(line) for line in said.splitlines()] == [
        {"step": "received", "body": {"work": 1}, "delivery_count": 0},
        {"step": "received again", "body": {"work": 1}, "delivery_count": 1},
        {"step": "settled", "body": {"work": 1}, "delivery_count": 1},
    ]
    emulator.until("kombu", "completed")
    assert emulator.kinds("kombu") == [
        *("enqueued", "delivered", "lock-expired", "redelivered", "completed"),
    ]
