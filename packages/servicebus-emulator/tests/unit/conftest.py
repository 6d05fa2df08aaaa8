"""A namespace whose clock is moved by hand; and these tests leave the machine alone.

They start no program and connect to loopback only: what tries to fails at once. A test whose point
is a program says so with ``@pytest.mark.program``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import uvloop

from servicebus_emulator.broker.model import Draft
from servicebus_emulator.broker.namespace import Namespace

SHELL = {"test_server", "test_bad_input", "test_websocket"}
"""Modules whose tests run with either loop that a server may have."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "program: starts a program")


@pytest.fixture(autouse=True)
def nothing_outside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on a program or a connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _loopback(address[0]):
            raise AssertionError(f"a unit test wants to reach {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    if request.node.get_closest_marker("program") is None:

        def refuse(_self: object, argv: object, *_: object, **__: object) -> None:
            raise AssertionError(f"a unit test wants to start {argv!r}: mark it `program`")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        # A Popen that was never made complains when it goes.
        monkeypatch.setattr(subprocess.Popen, "__del__", lambda _self: None, raising=False)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop for all tests, and for some of them uvloop's, too."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in SHELL:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture
def namespace() -> Namespace:
    """With lock tokens that can be told apart."""
    numbers = count(1)
    return Namespace(new_token=lambda: UUID(int=next(numbers)))


def draft(body: str = "m", **options: object) -> Draft:
    """A message of one byte."""
    return Draft(body, 1, **options)  # type: ignore[arg-type]
