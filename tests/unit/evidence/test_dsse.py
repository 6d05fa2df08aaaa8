"""Envelopes: what is signed, and what is not believed."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from ci.evidence import dsse
from ci.evidence.keys import PrivateKey, PublicKey

ED25519 = PrivateKey(ed25519.Ed25519PrivateKey.generate())
ECDSA = PrivateKey(ec.generate_private_key(ec.SECP256R1()))
TYPE = "application/vnd.in-toto+json"


def test_the_encoding_of_the_specification() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_signature_of_the_specification() -> None:
    """Its example signs with P-256 and writes (r, s) raw, where we write DER."""
    numbers = ec.EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        ec.SECP256R1(),
    )
    raw = base64.b64decode(
        "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
    )
    der = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    envelope = dsse.Envelope("http://example.com/HelloWorld", b"hello world", (("", der),))
    key = PublicKey(numbers.public_key())
    assert dsse.signer(envelope, [key]) == key


@pytest.mark.parametrize("key", [ED25519, ECDSA], ids=["ed25519", "ecdsa"])
def test_a_round_trip(key: PrivateKey) -> None:
    signed = dsse.sign(b'{"a": 1}', TYPE, key)
    read = dsse.parse(signed.to_json())
    assert read == signed
    assert dsse.signer(read, [key.public]) == key.public
    others = [PrivateKey(ed25519.Ed25519PrivateKey.generate()).public]
    assert dsse.signer(read, others) is None
    assert dsse.signer(read, [*others, key.public]) == key.public


@given(st.binary(max_size=40), st.text(max_size=20))
def test_any_payload_and_type_round_trip(payload: bytes, payload_type: str) -> None:
    read = dsse.parse(dsse.sign(payload, payload_type, ED25519).to_json())
    assert (read.payload, read.payload_type) == (payload, payload_type)
    assert dsse.signer(read, [ED25519.public]) is not None


@given(st.data())
def test_a_changed_byte_of_payload_or_type_is_noticed(data: st.DataObject) -> None:
    signed = dsse.sign(b"some payload", TYPE, ED25519)
    part = data.draw(st.sampled_from(["payload", "type"]))
    content = bytearray(signed.payload if part == "payload" else signed.payload_type.encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 127))
    changed = (
        dsse.Envelope(TYPE, bytes(content), signed.signatures)
        if part == "payload"
        else dsse.Envelope(content.decode("latin-1"), signed.payload, signed.signatures)
    )
    assert dsse.signer(changed, [ED25519.public]) is None


def test_both_base64_alphabets_are_read() -> None:
    payload = b"\xfb\xff\xfe" * 4
    raw = json.loads(dsse.sign(payload, TYPE, ED25519).to_json())
    for value in (raw, *raw["signatures"]):
        for name in ("payload", "sig"):
            if name in value:
                value[name] = value[name].replace("+", "-").replace("/", "_")
    read = dsse.parse(json.dumps(raw).encode())
    assert read.payload == payload
    assert dsse.signer(read, [ED25519.public]) is not None


def test_a_key_id_is_a_hint_only() -> None:
    signed = dsse.sign(b"x", TYPE, ED25519)
    for hint in ("", "another", ECDSA.public.id):
        renamed = dsse.Envelope(TYPE, b"x", ((hint, signed.signatures[0][1]),))
        assert dsse.signer(renamed, [ECDSA.public, ED25519.public]) == ED25519.public
    forged = dsse.Envelope(TYPE, b"x", ((ED25519.public.id, b"\0" * 64),))
    assert dsse.signer(forged, [ED25519.public]) is None


@given(st.binary(max_size=60))
def test_garbage_is_malformed(content: bytes) -> None:
    with pytest.raises(dsse.Malformed):
        dsse.parse(content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({"payload": JSON, "payloadType": JSON, "signatures": JSON}))
def test_json_of_any_shape_is_read_or_malformed(raw: dict[str, object]) -> None:
    try:
        read = dsse.parse(json.dumps(raw).encode())
    except dsse.Malformed:
        return
    assert dsse.signer(read, [ED25519.public]) is None


def test_a_type_that_is_no_text_was_signed_by_nobody() -> None:
    raw = rb'{"payload": "eA==", "payloadType": "\ud800", "signatures": [{"sig": "eA=="}]}'
    assert dsse.signer(dsse.parse(raw), [ED25519.public]) is None
