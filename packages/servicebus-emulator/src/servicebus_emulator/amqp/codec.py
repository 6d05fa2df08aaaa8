"""AMQP values to bytes and back (AMQP 1.0, part 1).

A value on the wire is a constructor byte and its data. The constructor's high nibble alone says
how long the data is, which is all :func:`skip` needs to step over a value that nobody reads:

====== =====================================    ====== ===================================
0x4_   nothing                                  0x9_   16 bytes
0x5_   1 byte                                   0xa_   1 byte of length, then the data
0x6_   2 bytes                                  0xb_   4 bytes of length, then the data
0x7_   4 bytes                                  0xc_e_ 1 byte of size, then count and items
0x8_   8 bytes                                  0xd_f_ 4 bytes of size, then count and items
====== =====================================    ====== ===================================

0x00 announces a described value: a descriptor, then the value. Reading never trusts a length:
every size is checked against the bytes that are there, nesting against :data:`MAX_DEPTH`, and
the one thing that may be counted without having bytes (arrays of empty values) against
:data:`MAX_EMPTY`. Whatever is wrong with the input, the error is :class:`DecodeError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from uuid import UUID

from servicebus_emulator.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Long,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

MAX_DEPTH = 64
MAX_EMPTY = 32
"""No more memory for a byte of input than an empty list takes, which is the most otherwise."""


class DecodeError(Exception):
    """The bytes are no AMQP value."""


class EncodeError(Exception):
    """The Python value has no AMQP form."""


_u16 = struct.Struct(">H")
_u32 = struct.Struct(">I")
_u64 = struct.Struct(">Q")
_i8 = struct.Struct(">b")
_i16 = struct.Struct(">h")
_i32 = struct.Struct(">i")
_i64 = struct.Struct(">q")
_f32 = struct.Struct(">f")
_f64 = struct.Struct(">d")

# --- reading -----------------------------------------------------------------------------------

Reader = Callable[[bytes, int, int], tuple[object, int]]


def decode(data: bytes, position: int = 0) -> tuple[object, int]:
    """The value that starts at ``position``, and where the next one starts."""
    try:
        return _READERS[data[position]](data, position + 1, 0)
    except DecodeError:
        raise
    except (IndexError, struct.error):
        raise DecodeError("the value ends before its data") from None
    except KeyError:
        raise DecodeError(f"unknown constructor near byte {position}") from None
    except UnicodeDecodeError:
        raise DecodeError("a string that is not UTF-8, or a symbol that is not ASCII") from None
    except TypeError:
        raise DecodeError("a map key that cannot be a key") from None


def decode_list(data: bytes, position: int) -> tuple[list[object], int]:
    """The list that starts at ``position``; raises ``LookupError`` where no list does."""
    code = data[position]
    if code == 0x45:
        return [], position + 1
    if code not in (0xC0, 0xD0):
        raise LookupError
    value, end = decode(data, position)
    assert isinstance(value, list)
    return value, end


def decode_items(data: bytes, count: int) -> list[object]:
    """So many values, which are all of ``data``.

    Raises ``LookupError`` or :class:`DecodeError` where they are not.
    """
    try:
        return _items(data, 0, count, len(data), 1)
    except (struct.error, UnicodeDecodeError, TypeError):
        raise LookupError from None


def decode_all(data: bytes) -> list[object]:
    """Every value in ``data``, one after the other."""
    values = []
    position = 0
    while position < len(data):
        value, position = decode(data, position)
        values.append(value)
    return values


def skip(data: bytes, position: int) -> int:
    """Where the value that starts at ``position`` ends, without reading it."""
    try:
        code = data[position]
        position += 1
        if code == 0:
            return skip(data, skip(data, position))
        kind = code >> 4
        if kind >= 0xA:
            if kind & 1:
                position += 4 + int(_u32.unpack_from(data, position)[0])
            else:
                position += 1 + data[position]
        elif kind in _WIDTHS:
            position += _WIDTHS[kind]
        else:
            raise DecodeError(f"unknown constructor 0x{code:02x}")
    except (IndexError, struct.error, RecursionError):
        raise DecodeError("the value ends before its data") from None
    if position > len(data):
        raise DecodeError("the value ends before its data")
    return position


_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}


def _constant(value: object) -> Reader:
    return lambda data, position, depth: (value, position)


def _number(kind: Callable[[int], object], layout: struct.Struct) -> Reader:
    unpack, width = layout.unpack_from, layout.size
    return lambda data, position, depth: (kind(unpack(data, position)[0]), position + width)


def _octet(kind: Callable[[int], object]) -> Reader:
    return lambda data, position, depth: (kind(data[position]), position + 1)


def _fixed(kind: Callable[[bytes], object], width: int) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        end = position + width
        if end > len(data):
            raise DecodeError("the value ends before its data")
        return kind(data[position:end]), end

    return read


def _short(kind: Callable[[bytes], object]) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        start = position + 1
        end = start + data[position]
        if end > len(data):
            raise DecodeError("the value ends before its data")
        return kind(data[start:end]), end

    return read


def _long(kind: Callable[[bytes], object]) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        start = position + 4
        end = start + int(_u32.unpack_from(data, position)[0])
        if end > len(data):
            raise DecodeError("the value ends before its data")
        return kind(data[start:end]), end

    return read


def _extent(data: bytes, position: int, wide: bool) -> tuple[int, int, int]:
    """Count, where the items start, and where they must end."""
    if wide:
        size, count = struct.unpack_from(">II", data, position)
        start, end = position + 8, position + 4 + int(size)
    else:
        size, count = data[position], data[position + 1]
        start, end = position + 2, position + 1 + size
    if end > len(data) or end < start:
        raise DecodeError("a compound value whose size does not fit")
    return int(count), start, end


def _items(data: bytes, start: int, count: int, end: int, depth: int) -> list[object]:
    if depth > MAX_DEPTH:
        raise DecodeError(f"values are nested deeper than {MAX_DEPTH}")
    if count > end - start:
        raise DecodeError("more items are announced than there are bytes")
    items: list[object] = []
    position = start
    for _ in range(count):
        code = data[position]
        position += 1
        if 0x40 <= code <= 0x44:  # most fields of most frames: null, true, false, zero
            items.append(_CONSTANTS[code - 0x40])
        else:
            value, position = _READERS[code](data, position, depth)
            items.append(value)
    if position != end:
        raise DecodeError("the items do not fill the announced size")
    return items


def _list(wide: bool) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        count, start, end = _extent(data, position, wide)
        return _items(data, start, count, end, depth + 1), end

    return read


def _map(wide: bool) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        count, start, end = _extent(data, position, wide)
        items = _items(data, start, count, end, depth + 1)
        if count % 2:
            raise DecodeError("a map with a key that has no value")
        return dict(zip(items[::2], items[1::2], strict=True)), end

    return read


def _array(wide: bool) -> Reader:
    def read(data: bytes, position: int, depth: int) -> tuple[object, int]:
        count, start, end = _extent(data, position, wide)
        if depth >= MAX_DEPTH:
            raise DecodeError(f"values are nested deeper than {MAX_DEPTH}")
        code = data[start]
        at = start + 1
        descriptor: object = None
        if code == 0:
            descriptor, at = _READERS[data[at]](data, at + 1, depth + 1)
            code = data[at]
            at += 1
        if code == 0:
            raise DecodeError("an array whose constructor is described twice")
        read_item = _READERS[code]
        if count > max(end - at, MAX_EMPTY if code >> 4 == 0x4 else 0):
            raise DecodeError("more items are announced than there are bytes")
        items = []
        for _ in range(count):
            value, at = read_item(data, at, depth + 1)
            items.append(value if descriptor is None else Described(descriptor, value))
        if at != end:
            raise DecodeError("the items do not fill the announced size")
        element = Described if descriptor is not None else _ELEMENTS[code]
        return Array(items, element), end

    return read


def _described(data: bytes, position: int, depth: int) -> tuple[object, int]:
    if depth > MAX_DEPTH:
        raise DecodeError(f"values are nested deeper than {MAX_DEPTH}")
    descriptor, position = _READERS[data[position]](data, position + 1, depth + 1)
    value, position = _READERS[data[position]](data, position + 1, depth + 1)
    return Described(descriptor, value), position


def _boolean(octet: int) -> bool:
    if octet > 1:
        raise DecodeError("a boolean that is neither 0 nor 1")
    return octet == 1


def _string(raw: bytes) -> str:
    return raw.decode()


def _symbol(raw: bytes) -> Symbol:
    return Symbol(raw.decode("ascii"))


def _empty_list(data: bytes, position: int, depth: int) -> tuple[object, int]:
    return [], position


_CONSTANTS = (None, True, False, UInt(0), ULong(0))
"""What the constructors 0x40 to 0x44 stand for."""

_READERS: dict[int, Reader] = {
    0x00: _described,
    **{0x40 + index: _constant(value) for index, value in enumerate(_CONSTANTS)},
    0x45: _empty_list,
    0x50: _octet(UByte),
    0x51: _number(Byte, _i8),
    0x52: _octet(UInt),
    0x53: _octet(ULong),
    0x54: _number(Int, _i8),
    0x55: _number(Long, _i8),
    0x56: _octet(_boolean),
    0x60: _number(UShort, _u16),
    0x61: _number(Short, _i16),
    0x70: _number(UInt, _u32),
    0x71: _number(Int, _i32),
    0x72: _number(Float, _f32),
    0x73: _number(Char, _u32),
    0x74: _fixed(Decimal32, 4),
    0x80: _number(ULong, _u64),
    0x81: _number(Long, _i64),
    0x82: _number(float, _f64),
    0x83: _number(Timestamp, _i64),
    0x84: _fixed(Decimal64, 8),
    0x94: _fixed(Decimal128, 16),
    0x98: _fixed(lambda raw: UUID(bytes=raw), 16),
    0xA0: _short(bytes),
    0xA1: _short(_string),
    0xA3: _short(_symbol),
    0xB0: _long(bytes),
    0xB1: _long(_string),
    0xB3: _long(_symbol),
    0xC0: _list(wide=False),
    0xC1: _map(wide=False),
    0xD0: _list(wide=True),
    0xD1: _map(wide=True),
    0xE0: _array(wide=False),
    0xF0: _array(wide=True),
}

# --- writing -----------------------------------------------------------------------------------

Writer = Callable[[bytearray, object], None]


def encode(out: bytearray, value: object) -> None:
    """Append ``value`` to ``out``, in its shortest form."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise EncodeError(f"{type(value).__name__} has no AMQP form")
    try:
        writer(out, value)
    except (struct.error, UnicodeEncodeError, ValueError, RecursionError) as error:
        raise EncodeError(f"{value!r} does not fit its type: {error}") from None


def encoded(value: object) -> bytes:
    """``value`` alone."""
    out = bytearray()
    encode(out, value)
    return bytes(out)


def _write_bool(out: bytearray, value: object) -> None:
    out.append(0x41 if value else 0x42)


def _write_null(out: bytearray, value: object) -> None:
    out.append(0x40)


def _writer_of_number(code: int, layout: struct.Struct) -> Writer:
    pack = layout.pack

    def write(out: bytearray, value: object) -> None:
        out.append(code)
        out += pack(value)

    return write


def _writer_of_unsigned(zero: int, small: int, wide: int, layout: struct.Struct) -> Writer:
    pack = layout.pack

    def write(out: bytearray, value: object) -> None:
        assert isinstance(value, int)
        if value == 0:
            out.append(zero)
        elif 0 < value < 256:
            out += bytes((small, value))
        else:
            out.append(wide)
            out += pack(value)

    return write


def _writer_of_signed(small: int, wide: int, layout: struct.Struct) -> Writer:
    pack = layout.pack

    def write(out: bytearray, value: object) -> None:
        assert isinstance(value, int)
        if -128 <= value < 128:
            out += bytes((small, value & 0xFF))
        else:
            out.append(wide)
            out += pack(value)

    return write


def _write_raw(out: bytearray, raw: bytes, short: int) -> None:
    if len(raw) < 256:
        out += bytes((short, len(raw)))
    else:
        out.append(short + 0x10)
        out += _u32.pack(len(raw))
    out += raw


def _write_string(out: bytearray, value: object) -> None:
    assert isinstance(value, str)
    _write_raw(out, value.encode(), 0xA1)


def _write_symbol(out: bytearray, value: object) -> None:
    assert isinstance(value, str)
    _write_raw(out, value.encode("ascii"), 0xA3)


def _write_binary(out: bytearray, value: object) -> None:
    assert isinstance(value, bytes | bytearray | memoryview)
    _write_raw(out, bytes(value), 0xA0)


def _writer_of_fixed(code: int, width: int) -> Writer:
    def write(out: bytearray, value: object) -> None:
        assert isinstance(value, bytes)
        if len(value) != width:
            raise EncodeError(f"{type(value).__name__} takes {width} bytes")
        out.append(code)
        out += value

    return write


def _write_uuid(out: bytearray, value: object) -> None:
    assert isinstance(value, UUID)
    out.append(0x98)
    out += value.bytes


def write_compound(out: bytearray, items: bytes | bytearray, count: int, short: int) -> None:
    """Append a list (``short`` 0xc0) or a map (0xc1) whose items are already encoded."""
    if len(items) < 255 and count < 256:
        out += bytes((short, len(items) + 1, count))
    else:
        out.append(short + 0x10)
        out += struct.pack(">II", len(items) + 4, count)
    out += items


def _write_list(out: bytearray, value: object) -> None:
    assert isinstance(value, list | tuple)
    if not value:
        out.append(0x45)
        return
    items = bytearray()
    for item in value:
        encode(items, item)
    write_compound(out, items, len(value), 0xC0)


def _write_map(out: bytearray, value: object) -> None:
    assert isinstance(value, dict)
    items = bytearray()
    for key, item in value.items():
        encode(items, key)
        encode(items, item)
    write_compound(out, items, 2 * len(value), 0xC1)


def _write_described(out: bytearray, value: object) -> None:
    assert isinstance(value, Described)
    out.append(0x00)
    encode(out, value.descriptor)
    encode(out, value.value)


# An array's items share one constructor, so each type is written in its widest form here.
_ARRAY_CODES: dict[type, int] = {
    type(None): 0x40,
    bool: 0x56,
    UByte: 0x50,
    UShort: 0x60,
    UInt: 0x70,
    ULong: 0x80,
    Byte: 0x51,
    Short: 0x61,
    Int: 0x71,
    Long: 0x81,
    int: 0x81,
    Float: 0x72,
    float: 0x82,
    Char: 0x73,
    Timestamp: 0x83,
    UUID: 0x98,
    bytes: 0xB0,
    str: 0xB1,
    Symbol: 0xB3,
    list: 0xD0,
    dict: 0xD1,
}
_ARRAY_LAYOUTS: dict[int, struct.Struct] = {
    0x50: struct.Struct(">B"),
    0x51: _i8,
    0x56: struct.Struct(">?"),
    0x60: _u16,
    0x61: _i16,
    0x70: _u32,
    0x71: _i32,
    0x72: _f32,
    0x73: _u32,
    0x80: _u64,
    0x81: _i64,
    0x82: _f64,
    0x83: _i64,
}
_ELEMENTS: dict[int, type] = {
    **{code: kind for kind, code in _ARRAY_CODES.items() if kind is not int},
    0x41: bool,
    0x42: bool,
    0x43: UInt,
    0x44: ULong,
    0x45: list,
    0x52: UInt,
    0x53: ULong,
    0x54: Int,
    0x55: Long,
    0xA0: bytes,
    0xA1: str,
    0xA3: Symbol,
    0xC0: list,
    0xC1: dict,
    # These are read and not written.
    0x74: Decimal32,
    0x84: Decimal64,
    0x94: Decimal128,
    0xE0: Array,
    0xF0: Array,
}


def _write_array(out: bytearray, value: object) -> None:
    assert isinstance(value, Array)
    code = _ARRAY_CODES.get(value.element)
    if code is None:
        raise EncodeError(f"arrays of {value.element.__name__} are not written")
    items = bytearray((code,))
    for item in value:
        _write_array_item(items, code, item)
    if len(items) < 255 and len(value) < 256:
        out += bytes((0xE0, len(items) + 1, len(value)))
    else:
        out.append(0xF0)
        out += struct.pack(">II", len(items) + 4, len(value))
    out += items


def _write_array_item(out: bytearray, code: int, item: object) -> None:
    if code in _ARRAY_LAYOUTS:
        out += _ARRAY_LAYOUTS[code].pack(item)
    elif isinstance(item, UUID):
        out += item.bytes
    elif isinstance(item, bytes | str):
        raw = item if isinstance(item, bytes) else item.encode()
        out += _u32.pack(len(raw)) + raw
    elif isinstance(item, list | dict):
        flat = item if isinstance(item, list) else [side for pair in item.items() for side in pair]
        body = bytearray()
        for part in flat:
            encode(body, part)
        out += struct.pack(">II", len(body) + 4, len(flat)) + body
    elif item is not None:
        raise EncodeError(f"{type(item).__name__} in an array of another type")


_WRITERS: dict[type, Writer] = {
    type(None): _write_null,
    bool: _write_bool,
    UByte: _writer_of_number(0x50, struct.Struct(">B")),
    UShort: _writer_of_number(0x60, _u16),
    UInt: _writer_of_unsigned(0x43, 0x52, 0x70, _u32),
    ULong: _writer_of_unsigned(0x44, 0x53, 0x80, _u64),
    Byte: _writer_of_number(0x51, _i8),
    Short: _writer_of_number(0x61, _i16),
    Int: _writer_of_signed(0x54, 0x71, _i32),
    Long: _writer_of_signed(0x55, 0x81, _i64),
    int: _writer_of_signed(0x55, 0x81, _i64),
    Timestamp: _writer_of_number(0x83, _i64),
    Float: _writer_of_number(0x72, _f32),
    float: _writer_of_number(0x82, _f64),
    Char: _writer_of_number(0x73, _u32),
    Decimal32: _writer_of_fixed(0x74, 4),
    Decimal64: _writer_of_fixed(0x84, 8),
    Decimal128: _writer_of_fixed(0x94, 16),
    UUID: _write_uuid,
    str: _write_string,
    Symbol: _write_symbol,
    bytes: _write_binary,
    bytearray: _write_binary,
    memoryview: _write_binary,
    list: _write_list,
    tuple: _write_list,
    dict: _write_map,
    Array: _write_array,
    Described: _write_described,
}
