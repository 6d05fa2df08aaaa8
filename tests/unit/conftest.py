"""Unit tests start no program and leave this machine alone: what tries to fails at once.

A test of something whose point is a program (``git``, ``sh``) says so with
``@pytest.mark.program``. Loopback sockets are allowed.
"""

from __future__ import annotations

import ipaddress
import socket
import subprocess
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "program: starts a program such as git or sh")


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
