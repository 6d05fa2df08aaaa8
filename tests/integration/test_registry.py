"""A registry alone: what a tag resolves to, and copies that keep their digest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from ci.model import Image, Registry, Tools
from ci.toolchain.services import REGISTRY
from ci.tools.command import Programs
from ci.tools.docker import Docker
from ci.tools.registry import copy, open_repository
from tests.integration.conftest import answers, asked

PING = b"GET /v2/ HTTP/1.0\r\n\r\n"


@pytest.fixture
def empty_registry(tools: Tools) -> Iterator[str]:
    """Another registry of the same image; ``127.0.0.1:PORT``."""
    running = Docker(tools.docker, Programs(env=os.environ)).inspect(REGISTRY)
    assert running is not None
    with DockerContainer(running["Config"]["Image"]).with_exposed_ports(5000) as container:
        answers(container, 5000, asked(PING))
        yield f"127.0.0.1:{container.get_exposed_port(5000)}"


def test_a_copy_keeps_its_digest(tools: Tools, empty_registry: str, tmp_path: Path) -> None:
    programs = Programs(env=os.environ)
    name, tag = tools.redis_image.rsplit(":", 1)
    local: Registry = tools.registry
    with (
        open_repository(name, local=local, programs=programs) as source,
        open_repository(f"{empty_registry}/copied", programs=programs) as into,
    ):
        digest = source.digest(tag)
        assert digest is not None
        assert into.digest(tag) is None
        copy(source, into, Image(name, tag, digest))
        assert into.digest(tag) == digest
        assert source.digest("no-such-tag") is None
