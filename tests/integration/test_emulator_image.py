"""The emulator's image alone: an unmodified SDK sends, loses a lock, and receives again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.management import ServiceBusAdministrationClient
from testcontainers.core.container import DockerContainer

import servicebus_emulator
from tests.integration.conftest import answers, asked

SHARED = "SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=unused"
PROTOCOL = b"AMQP\x00\x01\x00\x00"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A folder with a CA, and the emulator's certificate and key signed by it."""
    made = servicebus_emulator.make_authority("parts")
    issued = servicebus_emulator.issue(made, servicebus_emulator.DEFAULT_NAMES)
    for name, content in {
        "ca.crt": made.certificate,
        "tls.crt": issued.certificate,
        "tls.key": issued.key,
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)  # the container's user is not ours
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def emulator(emulator_image: str, authority: Path) -> Iterator[DockerContainer]:
    container = (
        DockerContainer(emulator_image)
        .with_exposed_ports(5672, 8443)
        .with_volume_mapping(str(authority), "/tls", "ro")
        .with_command("--tls-cert /tls/tls.crt --tls-key /tls/tls.key")
    )
    with container:
        answers(container, 5672, asked(PROTOCOL))
        yield container


def test_a_message_that_is_not_settled_in_time_comes_again(
    emulator: DockerContainer, authority: Path
) -> None:
    access = f"{SHARED};UseDevelopmentEmulator=true"
    admin = f"Endpoint=sb://localhost:{emulator.get_exposed_port(8443)};{access}"
    amqp = f"Endpoint=sb://localhost:{emulator.get_exposed_port(5672)};{access}"
    with ServiceBusAdministrationClient.from_connection_string(
        admin, connection_verify=str(authority / "ca.crt")
    ) as management:
        management.create_queue("tasks", lock_duration=timedelta(seconds=5))
        assert management.get_queue("tasks").lock_duration == timedelta(seconds=5)
    with (
        ServiceBusClient.from_connection_string(amqp) as client,
        client.get_queue_sender("tasks") as sender,
        client.get_queue_receiver("tasks") as receiver,
    ):
        sender.send_messages(ServiceBusMessage("work", message_id="one"))
        (first,) = receiver.receive_messages(1, max_wait_time=10)
        assert first.delivery_count == 0
        (second,) = receiver.receive_messages(1, max_wait_time=15)
        assert second.message_id == first.message_id == "one"
        assert second.delivery_count == 1
        receiver.complete_message(second)


def test_it_does_not_run_as_root(emulator: DockerContainer) -> None:
    status, output = emulator.exec(["id", "-u"])
    assert status == 0
    assert int(output) != 0
