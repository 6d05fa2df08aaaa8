"""Keys that sign and keys that are trusted: Ed25519 or ECDSA P-256, as PEM."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ci.errors import SettingsError

PRIVATE, PUBLIC = "evidence-key.pem", "evidence-key.pub"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with."""

    key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

    @property
    def id(self) -> str:
        """SHA-256 of the key's DER form: says which key, proves nothing."""
        der = self.key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).hexdigest()

    @property
    def pem(self) -> str:
        return self.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            if isinstance(self.key, ed25519.Ed25519PublicKey):
                self.key.verify(signature, message)
            else:
                self.key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key that signs."""

    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ec.ECDSA(hashes.SHA256()))


def private(pem: bytes, *, origin: str) -> PrivateKey:
    """A private key. Raises :class:`SettingsError` that names ``origin`` and no key material."""
    try:
        found = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise SettingsError(
            f"the private key in {origin} is encrypted",
            remedy="give it decrypted through the environment variable evidence.key_env names",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("private", origin) from None
    if isinstance(found, ed25519.Ed25519PrivateKey) or (
        isinstance(found, ec.EllipticCurvePrivateKey) and isinstance(found.curve, ec.SECP256R1)
    ):
        return PrivateKey(found)
    raise _unusable("private", origin)


def public(pem: bytes, *, origin: str) -> PublicKey:
    """A public key. Raises :class:`SettingsError` that names ``origin``."""
    try:
        found = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise _unusable("public", origin) from None
    if isinstance(found, ed25519.Ed25519PublicKey) or (
        isinstance(found, ec.EllipticCurvePublicKey) and isinstance(found.curve, ec.SECP256R1)
    ):
        return PublicKey(found)
    raise _unusable("public", origin)


def read_private(path: Path) -> PrivateKey:
    return private(_read(path, "key_file"), origin=str(path))


def read_public(paths: Iterable[Path], *, setting: str = "public_keys") -> tuple[PublicKey, ...]:
    return tuple(public(_read(path, setting), origin=str(path)) for path in paths)


def ensure(folder: Path) -> PrivateKey:
    """The machine's own key, made on first use: readable by its owner only, the public half
    beside it. Two runs at once agree on one."""
    secret = folder / PRIVATE
    if not secret.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made = ed25519.Ed25519PrivateKey.generate()
        pem = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".")  # ours alone: 0600
        try:
            with os.fdopen(descriptor, "wb") as sink:
                sink.write(pem)
                sink.flush()
                os.fsync(sink.fileno())
            with suppress(FileExistsError):  # the other run was first: its key is ours
                os.link(temporary, secret)
        finally:
            os.unlink(temporary)
    key = read_private(secret)
    beside = folder / PUBLIC
    if not beside.exists():
        beside.write_text(key.public.pem, encoding="utf-8")
    return key


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise SettingsError(
            f"evidence.{setting}: {path} cannot be read: {problem.strerror}",
            remedy=f"correct {setting} in the [evidence] block of pipeline.toml",
        ) from problem


def _unusable(kind: str, origin: str) -> SettingsError:
    return SettingsError(
        f"{origin} holds no {kind} key that can be used here (Ed25519 or ECDSA P-256, as PEM)",
        remedy="make one with `openssl genpkey -algorithm ed25519`, its public half with"
        " `openssl pkey -pubout`",
    )
