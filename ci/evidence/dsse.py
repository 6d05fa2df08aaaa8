"""DSSE v1 envelopes: a payload, its type, and signatures over both.

What is signed is ``PAE(type, payload)``, so that neither the JSON around the payload nor its
base64 alphabet matters, and no payload can pass for one of another type. The key id in an
envelope is a hint that nobody signed: every trusted key is tried, whatever it says.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass

from ci.evidence.keys import PrivateKey, PublicKey

MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"


class Malformed(Exception):
    """The bytes are no envelope; the message says why."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope as it was read: nothing in it is to be believed before :func:`signer`."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    """(key id, signature) pairs."""

    def to_json(self) -> bytes:
        signatures = [
            {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
            for keyid, signature in self.signatures
        ]
        return json.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": signatures,
            }
        ).encode()


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: lengths first, so that it reads in one way only."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def sign(payload: bytes, payload_type: str, key: PrivateKey) -> Envelope:
    signature = key.sign(pae(payload_type, payload))
    return Envelope(payload_type, payload, ((key.public.id, signature),))


def parse(content: bytes) -> Envelope:
    """An envelope. Raises :class:`Malformed`."""
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None
    if not isinstance(raw, dict):
        raise Malformed("it is not a DSSE envelope")
    payload_type, signatures = raw.get("payloadType"), raw.get("signatures")
    if not isinstance(payload_type, str) or not isinstance(signatures, list):
        raise Malformed("it is not a DSSE envelope")
    pairs = []
    for entry in signatures:
        if not isinstance(entry, dict) or not isinstance(keyid := entry.get("keyid") or "", str):
            raise Malformed("one of its signatures is not understood")
        pairs.append((keyid, _decoded(entry.get("sig"))))
    return Envelope(payload_type, _decoded(raw.get("payload")), tuple(pairs))


def signer(envelope: Envelope, trusted: Iterable[PublicKey]) -> PublicKey | None:
    """The trusted key that signed the envelope as it is; ``None`` when none did."""
    try:
        message = pae(envelope.payload_type, envelope.payload)
    except UnicodeEncodeError:  # a lone surrogate, which JSON lets through
        return None
    for key in trusted:
        if any(key.verifies(signature, message) for _, signature in envelope.signatures):
            return key
    return None


def _decoded(value: object) -> bytes:
    """Standard or URL-safe base64: verifiers must take either."""
    if not isinstance(value, str):
        raise Malformed("it lacks a payload or a signature")
    try:
        standard = value.encode("ascii").replace(b"-", b"+").replace(b"_", b"/")
        return base64.b64decode(standard, validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Malformed("its base64 is damaged") from None
