"""The emulator as a program at Azure's own ports, and a stage on which tasks wait for the test."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest
from azure.servicebus.management import ServiceBusAdministrationClient

from tests.compatibility.inside import Inside
from tests.compatibility.programs import Programs, wait_until

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
"""Where the programs find the emulator and these tests' own modules."""

NAMESPACE = "contoso"
HOST = f"{NAMESPACE}.servicebus.windows.net"
KEY_NAME = "RootManageSharedAccessKey"
KEY = "b2YgdGhlc2UgdGVzdHMgYWxvbmU="
ACCESS = (KEY_NAME, KEY)
BROKER = f"azureservicebus://{KEY_NAME}:{KEY}@{NAMESPACE}"
APP_SERVICE = {"IDENTITY_ENDPOINT": f"http://{HOST}:443/msi/token", "IDENTITY_HEADER": "any"}
"""The environment of an application that has its tokens from App Service."""

AUTHORITY = "login.microsoftonline.com"
PATIENCE = 30.0
"""Seconds that anything may take which does not wait for a lock to run out."""


@dataclass(frozen=True)
class Emulator:
    """What a test asks the emulator itself; the clients know :data:`HOST` alone."""

    address: str
    authority: Path
    inside: Inside

    def timeline(self, queue: str) -> list[dict[str, Any]]:
        """What happened to a queue and its messages, oldest first."""
        asked = {"queue": queue}
        answer = httpx.get(
            f"http://{self.address}:443/$emulator/timeline", params=asked, auth=ACCESS
        )
        return [json.loads(line) for line in answer.text.splitlines()]

    def kinds(self, queue: str) -> list[str]:
        """The kinds of what happened to a queue's messages, oldest first."""
        return [event["kind"] for event in self.timeline(queue) if "sequence_number" in event]

    def until(self, queue: str, kind: str, times: int = 1, *, timeout: float = PATIENCE) -> None:
        """Wait until something has happened to a queue's messages so often."""
        wait_until(
            f"{kind} x {times} in {queue}",
            lambda: self.kinds(queue).count(kind) >= times,
            timeout=timeout,
            seen=lambda: str(self.kinds(queue)),
        )

    def queue(self, name: str) -> dict[str, Any]:
        """A queue with its counts."""
        found = httpx.get(f"http://{self.address}:443/$emulator/queues", auth=ACCESS)
        queues = found.json()["queues"]
        return next(queue for queue in queues if queue["name"] == name)

    def is_empty(self, queue: str) -> bool:
        """Nothing is left in a queue that could ever be delivered or was given up."""
        kept = ("active", "locked", "scheduled", "deferred", "dead_letter")
        return not any(self.queue(queue)[kind] for kind in kept)

    def advance(self, seconds: float) -> None:
        """Let time pass for the emulator, at once."""
        clock = f"http://{self.address}:443/$emulator/clock"
        httpx.post(clock, json={"advance": seconds}).raise_for_status()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    # This machine's own variables could name a bundle that does not know the emulator.
    trust = {"REQUESTS_CA_BUNDLE": certifi.where(), "SSL_CERT_FILE": certifi.where()}
    environment = {**os.environ, **trust, "PYTHONPATH": PATH, "PYTHONUNBUFFERED": "1"}
    for name in [name for name in environment if name.startswith(("AZURE_", "IDENTITY_"))]:
        del environment[name]
    return Programs(env=environment, logs=tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Emulator]:
    """One for each module: a clock that a test has advanced never goes back."""
    folder = tmp_path_factory.mktemp("emulator")
    process = os.getpid()
    # A loopback address of this run's own: other runs have the same ports.
    address = f"127.{128 + (process >> 16) % 64}.{process >> 8 & 255}.{process & 255}"
    argv = [
        *(sys.executable, "-m", "servicebus_emulator", "--host", address),
        *("--amqp-port", "5672", "--amqps-port", "5671", "--admin-port", "443"),
        *("--tls-dir", str(folder), "--tls-name", address, "--tls-name", AUTHORITY),
        *("--auth", "sas", "--key", f"{KEY_NAME}={KEY}", "--identity", "--control"),
    ]
    said: list[str] = []
    with programs.background(argv, log="emulator", on_line=said.append) as running:

        def answers() -> bool:
            if running.poll() is not None:
                pytest.fail(f"the emulator ended (ports 443 and 5671 take root): {said[-1:]}")
            try:
                return httpx.get(f"http://{address}:443/health").is_success
            except httpx.TransportError:
                return False

        wait_until("the emulator", answers, timeout=PATIENCE)
        authority = folder / "ca.pem"
        yield Emulator(address, authority, Inside(folder, address, [HOST, AUTHORITY], authority))


@pytest.fixture(scope="module")
def admin(emulator: Emulator) -> Iterator[ServiceBusAdministrationClient]:
    access = f"SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY}"
    with ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://{emulator.address};{access}", connection_verify=str(emulator.authority)
    ) as client:
        yield client


class Execution:
    """One run of a task, which lasts until :meth:`finish`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.task = connection.recv(100).decode()

    def finish(self) -> None:
        """Let it end."""
        self._connection.sendall(b".")
        self._connection.close()


class Stage:
    """Where tasks say that they began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def next(self, *, timeout: float = PATIENCE) -> Execution:
        """The next execution of any task; raises ``TimeoutError``."""
        self._listener.settimeout(timeout)
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        return Execution(connection)

    def is_empty(self) -> bool:
        """No execution waits to be taken."""
        self._listener.setblocking(False)
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "stage")
    yield made
    made.close()
