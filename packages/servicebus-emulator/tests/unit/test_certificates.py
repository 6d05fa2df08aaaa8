"""Certificates: made once, trusted by their authority, for the names that were asked for."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from servicebus_emulator.certificates import DEFAULT_NAMES, ensure, issue, make_authority


def handshake(certificate: bytes, key: bytes, authority: bytes, name: str, folder: Path) -> None:
    """A TLS handshake in memory; raises where the client does not accept the server."""
    (folder / "c.pem").write_bytes(certificate)
    (folder / "k.pem").write_bytes(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "c.pem", folder / "k.pem")
    client = ssl.create_default_context(cadata=authority.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(5):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ours.version()


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "any.servicebus.windows.net", "extra.example"]
)
def test_a_client_that_trusts_the_authority_trusts_the_server(tmp_path: Path, name: str) -> None:
    authority = make_authority()
    server = issue(authority, [*DEFAULT_NAMES, "extra.example"])
    handshake(server.certificate, server.key, authority.certificate, name, tmp_path)


def test_other_names_and_other_authorities_are_not_trusted(tmp_path: Path) -> None:
    authority = make_authority()
    server = issue(authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server.certificate, server.key, authority.certificate, "evil.example", tmp_path)
    other = make_authority().certificate
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server.certificate, server.key, other, "localhost", tmp_path)


def test_a_folder_is_filled_once(tmp_path: Path) -> None:
    certificate, key = ensure(tmp_path / "tls")
    first = certificate.read_bytes()
    authority = (tmp_path / "tls" / "ca.pem").read_bytes()
    ensure(tmp_path / "tls")
    assert certificate.read_bytes() == first
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    ensure(tmp_path / "tls", [*DEFAULT_NAMES, "more.example"])
    assert certificate.read_bytes() != first
    assert (tmp_path / "tls" / "ca.pem").read_bytes() == authority
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == [
        "ca-key.pem",
        "ca.pem",
        "server-key.pem",
        "server.pem",
    ]


def test_a_certificate_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name"):
        issue(make_authority(), [])
