"""A certificate authority of one's own, and server certificates issued by it.

``make_authority()`` and ``issue(authority, names)`` return PEM bytes and touch no disk.
:func:`ensure` keeps both in a folder, made on first use: ``ca.pem`` (to be trusted by clients),
``ca-key.pem``, ``server.pem`` (with the authority behind it) and ``server-key.pem``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DEFAULT_NAMES = (
    "localhost",
    "127.0.0.1",
    "::1",
    "*.servicebus.windows.net",
)
"""The host names and addresses that a certificate holds for where none are given."""

LIFE = timedelta(days=820)
"""Below the 825 days beyond which some clients refuse a certificate."""

RENEW_BEFORE = timedelta(days=30)

_SKEW = timedelta(days=1)  # clocks in a cluster differ


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str = "Service Bus emulator CA") -> KeyPair:
    """A new certificate authority, self-signed, good for :data:`LIFE`; ``name`` is its subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def issue(authority: KeyPair, names: Iterable[str] = DEFAULT_NAMES) -> KeyPair:
    """A server certificate for host names and addresses, with the authority's behind it.

    Raises ``ValueError`` where no name is given or the authority is not :func:`make_authority`'s.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        raise ValueError("a server certificate needs at least one name")
    ca = x509.load_pem_x509_certificate(authority.certificate)
    ca_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key should be one of make_authority()")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted[0][:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + LIFE, ca.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in wanted]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    own = certificate.public_bytes(serialization.Encoding.PEM)
    return KeyPair(own + authority.certificate, _pem(key))


def ensure(folder: Path, names: Iterable[str] = DEFAULT_NAMES) -> tuple[Path, Path]:
    """The server's certificate and key in ``folder``, made or made anew where needed."""
    wanted = list(dict.fromkeys(names))
    certificate, key = folder / "server.pem", folder / "server-key.pem"
    if _serves(certificate, key, wanted):
        return certificate, key
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = folder / "ca.pem", folder / "ca-key.pem"
    if ca.exists() and ca_key.exists() and not _ends_soon(ca.read_bytes()):
        authority = KeyPair(ca.read_bytes(), ca_key.read_bytes())
    else:
        authority = make_authority()
        _write(ca_key, authority.key, secret=True)
        _write(ca, authority.certificate)
    server = issue(authority, wanted)
    _write(key, server.key, secret=True)
    _write(certificate, server.certificate)
    return certificate, key


def names_of(certificate: bytes) -> set[str]:
    """The host names and addresses that a server certificate (PEM) holds for."""
    found = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {str(name.value) for name in found.value}


def _serves(certificate: Path, key: Path, names: list[str]) -> bool:
    if not certificate.exists() or not key.exists():
        return False
    pem = certificate.read_bytes()
    if _ends_soon(pem):
        return False
    return set(names) <= names_of(pem)


def _ends_soon(pem: bytes) -> bool:
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return end - RENEW_BEFORE < datetime.now(UTC)


def _write(path: Path, data: bytes, *, secret: bool = False) -> None:
    """All of it or nothing: a reader never sees half a file."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            temporary.chmod(0o600 if secret else 0o644)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
