"""Single real parts, each started alone by testcontainers, from the images that runs use.

They need what a run leaves on the machine: the toolchain, and the emulator's image in the
registry. Without it the tests fail and say so; nothing is skipped.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # its image is on no registry here

from testcontainers.core.container import DockerContainer

from ci.model import Tools
from ci.run import state as homes
from ci.run.events import Events
from ci.stages.build import EMULATOR_NAME, emulator_tag
from ci.toolchain import obtain
from ci.tools.command import Programs
from ci.tools.wait import SystemClock, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The toolchain, which a run before these tests has obtained."""
    clock = SystemClock()
    programs = Programs(env=os.environ)
    return obtain(homes.path(os.environ), programs, clock, Events(clock), os.environ)


@pytest.fixture(scope="session")
def registry_host(tools: Tools) -> str:
    """The local registry, as the Docker daemon of this host reaches it."""
    return tools.registry.host_url.removeprefix("http://")


@pytest.fixture(scope="session")
def emulator_image(tools: Tools, registry_host: str) -> str:
    tag = emulator_tag(ROOT)
    path = f"/v2/{EMULATOR_NAME}/manifests/{tag}"
    accept = {"accept": "application/vnd.oci.image.manifest.v1+json"}
    answer = httpx.head(f"{tools.registry.host_url}{path}", headers=accept)
    if answer.status_code != 200:
        pytest.fail("the emulator's image is not built: run `python3 pipeline.py build` first")
    return f"{registry_host}/{EMULATOR_NAME}:{tag}"


@pytest.fixture
def redis_url(tools: Tools, registry_host: str) -> Iterator[str]:
    image = tools.redis_image.replace(tools.registry.name, registry_host)
    with DockerContainer(image).with_exposed_ports(6379) as container:
        answers(container, 6379, asked(b"PING\r\n"))
        yield f"redis://127.0.0.1:{container.get_exposed_port(6379)}/0"


@pytest.fixture
def database_url(tools: Tools, registry_host: str) -> Iterator[str]:
    image = tools.postgres_image.replace(tools.registry.name, registry_host)
    container = (
        DockerContainer(image)
        .with_exposed_ports(5432)
        .with_env("POSTGRES_USER", "model_engine")
        .with_env("POSTGRES_PASSWORD", "of-this-test-alone")
        .with_env("POSTGRES_DB", "model_engine")
    )
    with container:
        # SSLRequest (protocol 1234.5679): any server that is up answers it with one byte.
        request = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
        answers(container, 5432, asked(request))
        port = container.get_exposed_port(5432)
        yield f"postgresql://model_engine:of-this-test-alone@127.0.0.1:{port}/model_engine"


def asked(request: bytes) -> Callable[[socket.socket], bytes]:
    def ask(connection: socket.socket) -> bytes:
        connection.sendall(request)
        return connection.recv(16)

    return ask


def answers(container: DockerContainer, port: int, ask: Callable[[socket.socket], bytes]) -> None:
    """Until the container says something on ``port``; its last log lines go into the error.

    Docker's proxy accepts connections before the program inside listens, so that connecting
    proves nothing: an answer does.
    """

    def probe() -> bool:
        address = ("127.0.0.1", int(container.get_exposed_port(port)))
        try:
            with socket.create_connection(address, timeout=2) as connection:
                return bool(ask(connection))
        except OSError:
            return False

    wait_until(
        f"an answer on port {port} of {container.image}",
        probe,
        timeout=60,
        clock=SystemClock(),
        interval=0.1,
        diagnose=lambda: b"".join(container.get_logs()).decode(errors="replace")[-600:],
    )
