"""Keys: made once, for their owner only, and read from what people have."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ci.errors import SettingsError
from ci.evidence import keys

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


def test_a_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    folder = tmp_path / "state/keys"
    key = keys.ensure(folder)
    assert keys.ensure(folder).public.id == key.public.id
    assert stat.S_IMODE((folder / keys.PRIVATE).stat().st_mode) == 0o600
    assert keys.read_public([folder / keys.PUBLIC])[0].id == key.public.id
    assert sorted(p.name for p in folder.iterdir()) == [keys.PRIVATE, keys.PUBLIC]


def test_runs_that_begin_at_once_agree_on_a_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: keys.ensure(tmp_path).public.id, range(8)))
    assert len(set(made)) == 1


@pytest.mark.parametrize("pair", [ed25519.Ed25519PrivateKey.generate(),
                                  ec.generate_private_key(ec.SECP256R1())])  # fmt: skip
def test_both_algorithms_are_read_and_sign(
    pair: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    key = keys.private(pair.private_bytes(PEM, PKCS8, PLAIN), origin="here")
    public = keys.public(key.public.pem.encode(), origin="here")
    assert public.id == key.public.id
    assert public.verifies(key.sign(b"message"), b"message")
    assert not public.verifies(key.sign(b"message"), b"another")


def test_keys_that_cannot_be_used_are_named_and_not_shown() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curve = ec.generate_private_key(ec.SECP384R1())
    for pem in (
        other.private_bytes(PEM, PKCS8, PLAIN),
        curve.private_bytes(PEM, PKCS8, PLAIN),
        b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n",
        b"",
    ):
        with pytest.raises(SettingsError, match=r"^KEY_VAR holds no private key") as caught:
            keys.private(pem, origin="KEY_VAR")
        assert "SECRET" not in f"{caught.value} {caught.value.remedy}"
    locked = curve.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x"))
    with pytest.raises(SettingsError, match="is encrypted"):
        keys.private(locked, origin="KEY_VAR")
    with pytest.raises(SettingsError, match="holds no public key"):
        keys.public(b"garbage", origin="a file")


def test_a_file_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"evidence\.key_file: .*nothing cannot be read"):
        keys.read_private(tmp_path / "nothing")
    with pytest.raises(SettingsError, match=r"evidence\.approver_keys"):
        keys.read_public([tmp_path / "nothing"], setting="approver_keys")
