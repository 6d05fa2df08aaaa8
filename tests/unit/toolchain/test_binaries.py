"""Downloads are checked before they get their name; what is present counts at its version only."""

from __future__ import annotations

import hashlib
import io
import socket
import tarfile
from pathlib import Path

import httpx
import pytest

from ci.errors import ToolchainError
from ci.toolchain.binaries import Unreachable, download, reachable
from ci.toolchain.pins import Download, Pins

PROGRAM = b"#!/bin/sh\necho hello\n"


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("linux-amd64/helm")
        entry.size = len(PROGRAM)
        tar.addfile(entry, io.BytesIO(PROGRAM))
    return buffer.getvalue()


def pinned(data: bytes, member: str = "") -> Pins:
    return Pins(
        versions={"helm": "3.0.0"},
        download={
            "helm": Download(
                url="https://example.invalid/helm-{version}",
                sha256=hashlib.sha256(data).hexdigest(),
                member=member,
            )
        },
        image={},
    )


def server(data: bytes, status: int = 200) -> httpx.Client:
    return httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(status, content=data))
    )


def test_a_file_is_saved_executable(tmp_path: Path) -> None:
    with server(PROGRAM) as client:
        download("helm", pinned(PROGRAM), tmp_path, client)
    assert (tmp_path / "helm").read_bytes() == PROGRAM
    assert (tmp_path / "helm").stat().st_mode & 0o111


def test_a_member_is_taken_out_of_its_archive(tmp_path: Path) -> None:
    data = archive()
    with server(data) as client:
        download("helm", pinned(data, "linux-amd64/helm"), tmp_path, client)
    assert (tmp_path / "helm").read_bytes() == PROGRAM


def test_another_checksum_is_refused_and_nothing_saved(tmp_path: Path) -> None:
    with server(b"something else") as client, pytest.raises(ToolchainError, match="is pinned"):
        download("helm", pinned(PROGRAM), tmp_path, client)
    assert not list(tmp_path.iterdir())


def test_a_refusal_of_the_server_is_one_line(tmp_path: Path) -> None:
    with server(b"", 503) as client, pytest.raises(Unreachable, match="503"):
        download("helm", pinned(PROGRAM), tmp_path, client)


def test_a_host_that_does_not_answer_is_unreachable() -> None:
    def refuse(address: object, timeout: float) -> socket.socket:
        assert timeout <= 2
        raise TimeoutError

    assert reachable(["example.invalid"], connect=refuse) == frozenset()


def test_a_host_that_answers_is_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        host = f"127.0.0.1:{port}"
        assert reachable([host]) == {host}
