"""Finding and merging bundles of CA certificates, as the pods do it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import certifi
import pytest

import servicebus_emulator
from ci.standins import trust

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
AUTHORITY = servicebus_emulator.make_authority("trusted here").certificate.decode()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images' files: one with Python in two places, one with nothing."""
    first = tmp_path / "images/0"
    for path in (
        "usr/lib/python3/dist-packages/certifi/cacert.pem",
        "opt/venv/lib/python3.12/site-packages/certifi/cacert.pem",
        "etc/ssl/certs/ca-certificates.crt",
    ):
        (first / path).parent.mkdir(parents=True)
        (first / path).write_text(f"# {path}\n{PEM}")
    (first / "etc/ssl/cert.pem").symlink_to("certs/ca-certificates.crt")
    (first / "etc/loop").symlink_to("/")
    (first / "etc/ssl/private").mkdir()
    (first / "etc/ssl/private/cert.pem").write_text(f"{PEM}-----BEGIN PRIVATE KEY-----\n")
    (first / "srv").mkdir()
    (first / "srv/cacert.pem").write_text("no certificate")
    (tmp_path / "images/1").mkdir()
    return tmp_path / "images"


FOUND = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/opt/venv/lib/python3.12/site-packages/certifi/cacert.pem",
    "/usr/lib/python3/dist-packages/certifi/cacert.pem",
]


def test_bundles_are_found_wherever_they_are(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust.main(str(images))
    assert json.loads(capsys.readouterr().out) == [FOUND, []]


def test_every_bundle_is_written_anew_with_the_authority(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CA", AUTHORITY)
    out = tmp_path / "out"
    trust.main(str(images), str(out))
    for path in FOUND:
        written = (out / "0/stores" / path.lstrip("/")).read_text()
        assert written == f"# {path.lstrip('/')}\n{PEM}{AUTHORITY}"
    assert (out / "0/bundle.pem").read_text().startswith("# etc/ssl/certs/ca-certificates.crt")
    assert (out / "1/bundle.pem").read_text().strip() == AUTHORITY.strip()
    assert (out / "0/bundle.pem").stat().st_mode & 0o444 == 0o444


def test_a_real_bundle_holds_one_more_authority_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "images/0/site-packages/certifi/cacert.pem"
    here.parent.mkdir(parents=True)
    here.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("STAND_IN_CA", AUTHORITY)
    trust.main(str(tmp_path / "images"), str(tmp_path / "out"))
    before = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    after = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    before.load_verify_locations(certifi.where())
    after.load_verify_locations(str(tmp_path / "out/0/bundle.pem"))
    assert len(after.get_ca_certs()) == len(before.get_ca_certs()) + 1
