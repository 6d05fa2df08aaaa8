"""AMQP's types that Python does not tell apart, so that what comes in can go out unchanged.

A value is one of: ``None``, ``bool``, ``str`` (string), ``bytes`` (binary), ``float`` (double),
``uuid.UUID``, ``list``, ``dict`` (map), or one of the classes below. A bare ``int`` is written as
a long; reading never yields one.
"""

from __future__ import annotations

from collections.abc import Iterable


class UByte(int):
    """0 to 2^8-1."""

    __slots__ = ()


class UShort(int):
    """0 to 2^16-1."""

    __slots__ = ()


class UInt(int):
    """0 to 2^32-1."""

    __slots__ = ()


class ULong(int):
    """0 to 2^64-1."""

    __slots__ = ()


class Byte(int):
    """-2^7 to 2^7-1."""

    __slots__ = ()


class Short(int):
    """-2^15 to 2^15-1."""

    __slots__ = ()


class Int(int):
    """-2^31 to 2^31-1."""

    __slots__ = ()


class Long(int):
    """-2^63 to 2^63-1."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since 1970 in UTC, a signed 64-bit number."""

    __slots__ = ()


class Float(float):
    """IEEE 754 binary32."""

    __slots__ = ()


class Char(int):
    """A Unicode code point in UTF-32."""

    __slots__ = ()


class Symbol(str):
    """ASCII from a constrained domain."""

    __slots__ = ()


class Decimal32(bytes):
    """IEEE 754-2008 decimal32, kept as its 4 bytes."""

    __slots__ = ()


class Decimal64(bytes):
    """IEEE 754-2008 decimal64, kept as its 8 bytes."""

    __slots__ = ()


class Decimal128(bytes):
    """IEEE 754-2008 decimal128, kept as its 16 bytes."""

    __slots__ = ()


class Array(list[object]):
    """Values of one type. ``element`` is that type, needed where the array is empty."""

    __slots__ = ("element",)

    def __init__(self, items: Iterable[object], element: type) -> None:
        super().__init__(items)
        self.element = element


class Described:
    """A value with a descriptor that says what it means."""

    __slots__ = ("descriptor", "value")

    def __init__(self, descriptor: object, value: object) -> None:
        self.descriptor = descriptor
        self.value = value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Described)
            and self.descriptor == other.descriptor
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((Described, str(self.descriptor)))

    def __repr__(self) -> str:
        return f"Described({self.descriptor!r}, {self.value!r})"
