"""AMQP values: what is written is read back, type and all; what is no value is refused."""

from __future__ import annotations

import contextlib
import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.amqp import types
from servicebus_emulator.amqp.codec import (
    DecodeError,
    EncodeError,
    decode,
    decode_all,
    encoded,
    skip,
)

numbers = st.one_of(
    st.integers(0, 2**8 - 1).map(types.UByte),
    st.integers(0, 2**16 - 1).map(types.UShort),
    st.integers(0, 2**32 - 1).map(types.UInt),
    st.integers(0, 2**64 - 1).map(types.ULong),
    st.integers(-(2**7), 2**7 - 1).map(types.Byte),
    st.integers(-(2**15), 2**15 - 1).map(types.Short),
    st.integers(-(2**31), 2**31 - 1).map(types.Int),
    st.integers(-(2**63), 2**63 - 1).map(types.Long),
    st.integers(-(2**63), 2**63 - 1).map(types.Timestamp),
    st.integers(0, 0x10FFFF).map(types.Char),
)
symbols = st.text(st.characters(max_codepoint=127), max_size=300).map(types.Symbol)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.floats(allow_nan=False),
    st.floats(width=32, allow_nan=False).map(types.Float),
    st.text(max_size=300),
    symbols,
    st.binary(max_size=300),
    st.uuids(),
    st.binary(min_size=4, max_size=4).map(types.Decimal32),
    st.binary(min_size=8, max_size=8).map(types.Decimal64),
    st.binary(min_size=16, max_size=16).map(types.Decimal128),
)
arrays = st.one_of(
    st.lists(symbols, max_size=5).map(lambda items: types.Array(items, types.Symbol)),
    st.lists(st.uuids(), max_size=5).map(lambda items: types.Array(items, UUID)),
    st.lists(st.integers(-(2**63), 2**63 - 1).map(types.Long), max_size=300).map(
        lambda items: types.Array(items, types.Long)
    ),
    st.lists(st.text(max_size=9), max_size=5).map(lambda items: types.Array(items, str)),
    st.lists(st.booleans(), max_size=5).map(lambda items: types.Array(items, bool)),
    st.lists(st.lists(st.text(max_size=3), max_size=3), max_size=3).map(
        lambda items: types.Array(items, list)
    ),
)
values = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.text(max_size=9), inner, max_size=5),
        st.builds(types.Described, numbers | symbols, inner),
    ),
    max_leaves=12,
)


def shape(value: object) -> object:
    """The value with the types of all its parts, for equality is too kind to numbers."""
    if isinstance(value, types.Array):
        return ("array", value.element, [shape(item) for item in value])
    if isinstance(value, list):
        return [shape(item) for item in value]
    if isinstance(value, dict):
        return [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, types.Described):
        return ("described", shape(value.descriptor), shape(value.value))
    return (type(value), value)


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    data = encoded(value)
    found, end = decode(data)
    assert end == len(data)
    assert shape(found) == shape(value)


@given(values)
def test_skipping_ends_where_reading_ends(value: object) -> None:
    data = encoded(value) + b"\x41"
    assert skip(data, 0) == decode(data)[1] == len(data) - 1


@given(values, st.data())
def test_a_value_cut_short_is_refused(value: object, data: st.DataObject) -> None:
    whole = encoded(value)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DecodeError):
        decode(whole[:cut])


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_all(data)
    with contextlib.suppress(DecodeError):
        skip(data, 0)


@given(values, st.data())
def test_one_wrong_byte_is_read_or_refused(value: object, data: st.DataObject) -> None:
    whole = bytearray(encoded(value))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        decode(bytes(whole))


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x40", None),
        (b"\x41", True),
        (b"\x56\x00", False),
        (b"\x43", types.UInt(0)),
        (b"\x52\x07", types.UInt(7)),
        (b"\x70\x00\x00\x01\x00", types.UInt(256)),
        (b"\x44", types.ULong(0)),
        (b"\x53\x10", types.ULong(16)),
        (b"\x54\xff", types.Int(-1)),
        (b"\x55\x80", types.Long(-128)),
        (b"\xa1\x02hi", "hi"),
        (b"\xb1\x00\x00\x00\x02hi", "hi"),
        (b"\xa3\x02hi", types.Symbol("hi")),
        (b"\x45", []),
        (b"\xc0\x03\x02\x41\x42", [True, False]),
        (b"\xd0\x00\x00\x00\x06\x00\x00\x00\x02\x41\x42", [True, False]),
        (b"\xc1\x05\x02\xa1\x01a\x40", {"a": None}),
        (b"\xe0\x06\x02\xa3\x01a\x01b", types.Array([*map(types.Symbol, "ab")], types.Symbol)),
    ],
)
def test_the_specification_s_encodings(data: bytes, value: object) -> None:
    found, end = decode(data)
    assert end == len(data)
    assert shape(found) == shape(value)


def test_a_bare_number_is_a_long() -> None:
    assert shape(decode(encoded(5))[0]) == (types.Long, 5)


def test_infinity_and_not_a_number() -> None:
    assert decode(encoded(math.inf))[0] == math.inf
    found = decode(encoded(math.nan))[0]
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x99",  # no such constructor
        b"\xc0\x02\x05\x41",  # five items in one byte
        b"\xd0\xff\xff\xff\xff\x00\x00\x00\x01\x41",  # a size beyond the data
        b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40",  # four billion nulls
        b"\xc1\x02\x01\x41",  # a key without a value
        b"\xc1\x04\x02\x45\x41\x41",  # a list as a key, and a byte too many
        b"\xc1\x03\x02\x45\x41",  # a list as a key
        b"\xa1\x02\xff\xff",  # not UTF-8
        b"\xa3\x01\xff",  # not ASCII
        b"\x56\x02",  # neither true nor false
        b"\x00" * 200,  # descriptors of descriptors
        b"\xc0\x02\x01" * 100 + b"\x40",
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


def test_nesting_has_a_limit() -> None:
    value: object = []
    for _ in range(64):
        value = [value]
    assert decode(encoded(value))[0] == value
    with pytest.raises(DecodeError, match="nested"):
        decode(encoded([[value]]))


@pytest.mark.parametrize(
    "value",
    [types.UByte(256), types.UInt(-1), types.Long(2**63), {1, 2}, types.Symbol("ä"), object()],
)
def test_what_has_no_form_is_not_written(value: object) -> None:
    with pytest.raises(EncodeError):
        encoded(value)
