"""Frames: all their fields are written, defaults are read, the fast forms are the slow ones."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import DecodeError, decode, encoded
from servicebus_emulator.amqp.types import Array, Described, Symbol, UInt, ULong

SAMPLES: list[p.Performative] = [
    p.Open("me", "host", 1024, 7, 60_000, properties={"product": "x"}),
    p.Begin(3, 1, 2, 3),
    p.Attach(
        "link",
        1,
        p.RECEIVER,
        p.UNSETTLED,
        p.SECOND,
        p.Source("queue", filter={Symbol("com.microsoft:session-filter"): None}),
        p.Target("there"),
        max_message_size=1 << 20,
        properties={Symbol("a"): 1},
    ),
    p.Attach("c", 2, p.SENDER, target=p.Coordinator(Array([Symbol("amqp:x")], Symbol))),
    p.Flow(1, 2, 3, 4, 5, 6, 7, drain=True),
    p.Transfer(1, 2, b"tag", 0x80013700, settled=False, state=p.Accepted()),
    p.Disposition(p.SENDER, 1, 2, True, p.Modified(True, False, {"a": "b"})),
    p.Disposition(p.SENDER, 1, 2, True, p.Rejected(p.Error("amqp:x", "why", None))),
    p.Detach(1, True, p.Error("amqp:not-found", "gone")),
    p.End(),
    p.Close(p.Error("amqp:x")),
    p.SaslMechanisms(Array([Symbol("ANONYMOUS")], Symbol)),
    p.SaslInit("ANONYMOUS", b"", "host"),
    p.SaslOutcome(0),
]


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_what_is_written_is_read_back(frame: p.Performative) -> None:
    data = p.write_performative(frame)
    assert p.read_performative(data + b"payload") == (frame, len(data))


@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_every_field_is_written(frame: p.Performative) -> None:
    described = decode(p.write_performative(frame))[0]
    assert isinstance(described, Described)
    assert isinstance(described.value, list)
    assert len(described.value) == len(fields(frame))


def test_what_is_left_out_is_its_default() -> None:
    data = encoded(Described(ULong(0x10), ["me"]))
    assert p.read_performative(data)[0] == p.Open("me")
    data = encoded(Described(ULong(0x10), ["me", None, None, None]))
    assert p.read_performative(data)[0] == p.Open("me", max_frame_size=4_294_967_295)


def test_a_descriptor_may_be_a_name() -> None:
    data = encoded(Described(Symbol("amqp:close:list"), []))
    assert p.read_performative(data)[0] == p.Close()


@pytest.mark.parametrize("state", [p.Accepted(), p.Released(), p.Rejected(), None])
def test_the_fast_disposition_is_the_slow_one(state: object) -> None:
    fast = p.write_disposition(p.SENDER, 5, 500, state)
    assert p.read_performative(fast)[0] == p.Disposition(p.SENDER, 5, 500, True, state)


@pytest.mark.parametrize("more", [True, False])
def test_the_fast_transfer_is_the_slow_one(more: bool) -> None:
    fast = p.write_transfer(0, 70_000, b"t" * 16, True, more)
    slow = p.write_performative(p.Transfer(0, 70_000, b"t" * 16, 0, True, more))
    assert p.read_performative(fast) == (p.read_performative(slow)[0], len(fast))


@pytest.mark.parametrize(
    "value",
    [
        p.Transfer(1, 70_000, b"t", 0, False, True),
        p.Disposition(p.RECEIVER, 1, 2, True, p.Accepted()),
        p.Flow(None, 1, 2, 3, 4, 5, 6, drain=True),
        p.Close(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_usual_form_is_read_as_any_other(value: p.Performative) -> None:
    usual = p.write_performative(value)
    other = b"\x00\x80" + usual[2].to_bytes(8, "big") + usual[3:]  # a wide descriptor
    assert p.read_performative(usual) == (value, len(usual))
    assert p.read_performative(other) == (value, len(other))


NUMBERS = st.one_of(st.just(0), st.integers(1, 255), st.integers(256, 0xFFFFFFFF))
FLAGS = st.booleans()
TRANSFERS = st.builds(
    p.Transfer,
    NUMBERS,
    NUMBERS,
    st.binary(max_size=32),
    st.sampled_from([None, 0, 0x80013700]),
    st.sampled_from([None, True, False]),
    FLAGS,
    aborted=FLAGS,
    batchable=FLAGS,
)
DISPOSITIONS = st.builds(
    p.Disposition,
    FLAGS,
    NUMBERS,
    st.one_of(st.none(), NUMBERS),
    FLAGS,
    st.sampled_from([None, p.Accepted(), p.Released(), p.Modified(True, False, {"a": "b"})]),
)


def direct(data: bytes, start: int, end: int) -> tuple[p.Performative, int | None] | None:
    """What the direct readers make of a frame's body, as a performative; where a payload starts."""
    transfer = p.read_usual_transfer(data, start, end) if data[start + 2] == 0x14 else None
    if transfer is not None:
        handle, delivery_id, tag, rest, at = transfer
        return p.Transfer(handle, delivery_id, tag, *rest), at - start
    disposition = p.read_usual_disposition(data, start, end) if data[start + 2] == 0x15 else None
    if disposition is not None:
        role, first, last, rest = disposition
        return p.Disposition(role, first, last, *rest), None
    return None


@given(st.one_of(TRANSFERS, DISPOSITIONS), st.integers(0, 11), st.binary(max_size=9), FLAGS)
def test_what_is_read_directly_is_what_is_read(
    frame: p.Transfer | p.Disposition, fields_given: int, payload: bytes, is_octet: bool
) -> None:
    """In its place among other bytes, with booleans of either form, and without its last fields."""
    described = p.to_described(frame)
    items = described.value
    assert isinstance(items, list)
    raw = [encoded(item) for item in items]
    if is_octet:
        raw = [{b"\x41": b"\x56\x01", b"\x42": b"\x56\x00"}.get(one, one) for one in raw]
    count = max(3, min(fields_given, len(raw)))
    listed = b"".join(raw[:count])
    body = encoded(described)[:3] + bytes((0xC0, len(listed) + 1, count)) + listed
    read, end = p.read_performative(body + payload)
    assert direct(b"##" + body + payload + b"##", 2, 2 + len(body + payload)) in (
        (read, end),
        (read, None),
        None if len(body) > 40 else (read, end),
    )


@given(st.one_of(TRANSFERS, DISPOSITIONS), st.data())
def test_a_direct_reader_refuses_what_does_not_end(
    frame: p.Transfer | p.Disposition, data: st.DataObject
) -> None:
    body = p.write_performative(frame)
    cut = data.draw(st.integers(3, len(body) - 1))
    assert direct(body, 0, cut) is None
    longer = bytearray(body)  # its size, or its count, or one of its fields' lengths is a lie
    longer[data.draw(st.integers(4, min(len(body) - 1, 12)))] ^= data.draw(st.integers(1, 255))
    found = direct(bytes(longer), 0, len(longer))
    if found is not None:
        read, end = p.read_performative(bytes(longer))
        assert found in ((read, end), (read, None))


@pytest.mark.parametrize(
    "value",
    [
        UInt(1),
        Described(ULong(0x10), []),  # without its mandatory field
        Described(ULong(0x10), ["a", None, "big"]),
        Described(ULong(0x10), [None] * 11),
        Described(ULong(0x10), {}),
        Described(ULong(0x24), []),  # an outcome is no frame
        Described(ULong(0x99), []),
        Described(ULong(0x16), [UInt(0), True, Described(ULong(0x24), [])]),
    ],
    ids=repr,
)
def test_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        p.read_performative(encoded(value))
