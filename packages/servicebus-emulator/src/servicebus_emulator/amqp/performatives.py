"""The composite types of AMQP 1.0 that travel in frames, and how they are laid out.

Each is a described list. :data:`_LAYOUTS` holds, per class, the descriptor and the kind of every
field in wire order; reading and writing go by that table alone. Two rules follow from real
clients: a frame is written with *all* its fields, null or not (pyamqp indexes ``attach[13]``),
and a field that was left out is read as its default.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any

from servicebus_emulator.amqp.codec import (
    DecodeError,
    decode,
    decode_items,
    decode_list,
    encode,
    encoded,
    write_compound,
)
from servicebus_emulator.amqp.types import (
    Array,
    Described,
    Symbol,
    UByte,
    UInt,
    ULong,
    UShort,
)

SENDER = False
RECEIVER = True

MIXED, UNSETTLED, SETTLED = 2, 0, 1  # snd-settle-mode
FIRST, SECOND = 0, 1  # rcv-settle-mode


@dataclass(slots=True)
class Error:
    """Why something ended. ``info`` is written even when null: pyamqp unpacks three fields."""

    condition: str
    description: str | None = None
    info: dict[object, object] | None = None


@dataclass(slots=True)
class Source:
    """Where messages come from; ``filter`` carries the session a receiver asks for."""

    address: object = None
    durable: int = 0
    expiry_policy: str | None = None
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: dict[object, object] | None = None
    distribution_mode: str | None = None
    filter: dict[object, object] | None = None
    default_outcome: object = None
    outcomes: object = None
    capabilities: object = None


@dataclass(slots=True)
class Target:
    """Where messages go to."""

    address: object = None
    durable: int = 0
    expiry_policy: str | None = None
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: dict[object, object] | None = None
    capabilities: object = None


@dataclass(slots=True)
class Coordinator:
    """Where transactions are declared: the target of a link in a target's place (part 4.5.1)."""

    capabilities: object = None


@dataclass(slots=True)
class Received:
    """A delivery that is still under way."""

    section_number: int = 0
    section_offset: int = 0


@dataclass(slots=True)
class Accepted:
    """Processed: complete."""


@dataclass(slots=True)
class Rejected:
    """Refused; from a receiver: dead-letter."""

    error: Error | None = None


@dataclass(slots=True)
class Released:
    """Given back as it was."""


@dataclass(slots=True)
class Modified:
    """Given back: abandon, or defer where ``undeliverable_here``."""

    delivery_failed: bool = False
    undeliverable_here: bool = False
    message_annotations: dict[object, object] | None = None


@dataclass(slots=True)
class Open:
    """The first frame of a connection."""

    container_id: str
    hostname: str | None = None
    max_frame_size: int = 4_294_967_295
    channel_max: int = 65_535
    idle_time_out: int | None = None
    outgoing_locales: object = None
    incoming_locales: object = None
    offered_capabilities: object = None
    desired_capabilities: object = None
    properties: dict[object, object] | None = None


@dataclass(slots=True)
class Begin:
    """The first frame of a session."""

    remote_channel: int | None = None
    next_outgoing_id: int = 0
    incoming_window: int = 0
    outgoing_window: int = 0
    handle_max: int = 4_294_967_295
    offered_capabilities: object = None
    desired_capabilities: object = None
    properties: dict[object, object] | None = None


@dataclass(slots=True)
class Attach:
    """The first frame of a link."""

    name: str
    handle: int
    role: bool
    snd_settle_mode: int = MIXED
    rcv_settle_mode: int = FIRST
    source: Source | None = None
    target: Target | Coordinator | None = None
    unsettled: dict[object, object] | None = None
    incomplete_unsettled: bool = False
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: object = None
    desired_capabilities: object = None
    properties: dict[object, object] | None = None


@dataclass(slots=True)
class Flow:
    """Windows of a session and, with a handle, credit of a link."""

    next_incoming_id: int | None = None
    incoming_window: int = 0
    next_outgoing_id: int = 0
    outgoing_window: int = 0
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool = False
    echo: bool = False
    properties: dict[object, object] | None = None


@dataclass(slots=True)
class Transfer:
    """A message or a piece of one; the payload follows the frame's body."""

    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool = False
    rcv_settle_mode: int | None = None
    state: object = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


@dataclass(slots=True)
class Disposition:
    """What became of deliveries ``first`` to ``last``."""

    role: bool
    first: int
    last: int | None = None
    settled: bool = False
    state: object = None
    batchable: bool = False


@dataclass(slots=True)
class Detach:
    """The last frame of a link."""

    handle: int
    closed: bool = False
    error: Error | None = None


@dataclass(slots=True)
class End:
    """The last frame of a session."""

    error: Error | None = None


@dataclass(slots=True)
class Close:
    """The last frame of a connection."""

    error: Error | None = None


@dataclass(slots=True)
class SaslMechanisms:
    """What the server offers."""

    mechanisms: object = None


@dataclass(slots=True)
class SaslInit:
    """What the client chose."""

    mechanism: str
    initial_response: bytes | None = None
    hostname: str | None = None


@dataclass(slots=True)
class SaslChallenge:
    """Sent by servers only, and not by this one."""

    challenge: bytes = b""


@dataclass(slots=True)
class SaslResponse:
    """The answer to a challenge."""

    response: bytes = b""


@dataclass(slots=True)
class SaslOutcome:
    """0: welcome; 1: refused."""

    code: int
    additional_data: bytes | None = None


Performative = (
    Open
    | Begin
    | Attach
    | Flow
    | Transfer
    | Disposition
    | Detach
    | End
    | Close
    | SaslMechanisms
    | SaslInit
    | SaslChallenge
    | SaslResponse
    | SaslOutcome
)

# --- the kinds of fields -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one field is checked on reading and typed on writing."""

    read: Callable[[object], object]
    write: Callable[[object], object]


def _same(value: object) -> object:
    return value


def _whole(limit: int) -> Callable[[object], object]:
    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
            raise DecodeError(f"a field should be a number up to {limit}")
        return int(value)

    return read


def _of(*kinds: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        if not isinstance(value, kinds):
            raise DecodeError(f"a field should be {' or '.join(k.__name__ for k in kinds)}")
        return value

    return read


def _composite(*classes: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        found = from_described(value)
        if not isinstance(found, classes):
            raise DecodeError(f"a field should be {' or '.join(k.__name__ for k in classes)}")
        return found

    return read


def _to_described(value: object) -> object:
    return value if isinstance(value, Described) else to_described(value)


def _as(kind: Callable[[Any], object]) -> Callable[[object], object]:
    return lambda value: kind(value)


_ubyte = _Kind(_whole(0xFF), _as(UByte))
_ushort = _Kind(_whole(0xFFFF), _as(UShort))
_uint = _Kind(_whole(0xFFFFFFFF), _as(UInt))
_ulong = _Kind(_whole(0xFFFFFFFFFFFFFFFF), _as(ULong))
_boolean = _Kind(_of(bool), _same)
_string = _Kind(_of(str), _as(str))
_symbol = _Kind(_of(str), _as(Symbol))
_binary = _Kind(_of(bytes), _same)
_map = _Kind(_of(dict), _same)
_anything = _Kind(_same, _same)
_symbols = _Kind(_of(Array, str), _same)
_error = _Kind(_composite(Error), _to_described)
_outcome = _Kind(lambda value: from_described(value), _to_described)
_source = _Kind(_composite(Source), _to_described)
_target = _Kind(_composite(Target, Coordinator), _to_described)

_LAYOUTS: dict[type, tuple[int, tuple[_Kind, ...]]] = {
    Open: (
        0x10,
        (_string, _string, _uint, _ushort, _uint, *(_symbols,) * 4, _map),
    ),
    Begin: (0x11, (_ushort, _uint, _uint, _uint, _uint, _symbols, _symbols, _map)),
    Attach: (
        0x12,
        (
            _string,
            _uint,
            _boolean,
            _ubyte,
            _ubyte,
            _source,
            _target,
            _map,
            _boolean,
            _uint,
            _ulong,
            _symbols,
            _symbols,
            _map,
        ),
    ),
    Flow: (
        0x13,
        (*(_uint,) * 8, _boolean, _boolean, _map),
    ),
    Transfer: (
        0x14,
        (
            _uint,
            _uint,
            _binary,
            _uint,
            _boolean,
            _boolean,
            _ubyte,
            _outcome,
            _boolean,
            _boolean,
            _boolean,
        ),
    ),
    Disposition: (0x15, (_boolean, _uint, _uint, _boolean, _outcome, _boolean)),
    Detach: (0x16, (_uint, _boolean, _error)),
    End: (0x17, (_error,)),
    Close: (0x18, (_error,)),
    Error: (0x1D, (_symbol, _string, _map)),
    Received: (0x23, (_uint, _ulong)),
    Accepted: (0x24, ()),
    Rejected: (0x25, (_error,)),
    Released: (0x26, ()),
    Modified: (0x27, (_boolean, _boolean, _map)),
    Source: (
        0x28,
        (
            _anything,
            _uint,
            _symbol,
            _uint,
            _boolean,
            _map,
            _symbol,
            _map,
            _anything,
            _symbols,
            _symbols,
        ),
    ),
    Target: (0x29, (_anything, _uint, _symbol, _uint, _boolean, _map, _symbols)),
    Coordinator: (0x30, (_symbols,)),
    SaslMechanisms: (0x40, (_symbols,)),
    SaslInit: (0x41, (_symbol, _binary, _string)),
    SaslChallenge: (0x42, (_binary,)),
    SaslResponse: (0x43, (_binary,)),
    SaslOutcome: (0x44, (_ubyte, _binary)),
}

_NAMES = {
    name: code
    for code, name in {
        0x10: "amqp:open:list",
        0x11: "amqp:begin:list",
        0x12: "amqp:attach:list",
        0x13: "amqp:flow:list",
        0x14: "amqp:transfer:list",
        0x15: "amqp:disposition:list",
        0x16: "amqp:detach:list",
        0x17: "amqp:end:list",
        0x18: "amqp:close:list",
        0x1D: "amqp:error:list",
        0x23: "amqp:received:list",
        0x24: "amqp:accepted:list",
        0x25: "amqp:rejected:list",
        0x26: "amqp:released:list",
        0x27: "amqp:modified:list",
        0x28: "amqp:source:list",
        0x29: "amqp:target:list",
        0x30: "amqp:coordinator:list",
        0x40: "amqp:sasl-mechanisms:list",
        0x41: "amqp:sasl-init:list",
        0x42: "amqp:sasl-challenge:list",
        0x43: "amqp:sasl-response:list",
        0x44: "amqp:sasl-outcome:list",
    }.items()
}
"""A descriptor may also be the type's symbolic name."""

_CLASSES = {code: kind for kind, (code, _) in _LAYOUTS.items()}
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in _LAYOUTS}
_DEFAULTS = {kind: tuple(f.default for f in fields(kind)) for kind in _LAYOUTS}
_PERFORMATIVES = frozenset(
    code for code in _CLASSES if 0x10 <= code <= 0x18 or 0x40 <= code <= 0x44
)

_USUAL = {
    bytes((0x00, 0x53, code)): (
        _CLASSES[code],
        tuple(field.read for field in _LAYOUTS[_CLASSES[code]][1]),
        _DEFAULTS[_CLASSES[code]],
    )
    for code in _PERFORMATIVES
}
"""By the first bytes of a frame's body."""

# --- reading and writing -------------------------------------------------------------------------


def from_described(value: object) -> object:
    """The composite that a described value is; other described values stay what they are."""
    if not isinstance(value, Described):
        raise DecodeError("a field should be a described value")
    code = value.descriptor
    if isinstance(code, str):
        code = _NAMES.get(code, code)
    kind = _CLASSES.get(code) if isinstance(code, int) else None
    if kind is None:
        return value
    if not isinstance(value.value, list):
        raise DecodeError(f"{kind.__name__} should be a list")
    layout = _LAYOUTS[kind][1]
    if len(value.value) > len(layout):
        raise DecodeError(f"{kind.__name__} has {len(layout)} fields, not {len(value.value)}")
    given = list(_DEFAULTS[kind])
    for index, item in enumerate(value.value):
        if item is not None:
            given[index] = layout[index].read(item)
    if MISSING in given:
        raise DecodeError(f"{kind.__name__} lacks a mandatory field")
    return kind(*given)


def to_described(value: object) -> Described:
    """The described list of a composite, with all its fields."""
    code, layout = _LAYOUTS[type(value)]
    items: list[object] = []
    for name, kind in zip(_FIELDS[type(value)], layout, strict=True):
        item = getattr(value, name)
        items.append(None if item is None else kind.write(item))
    return Described(ULong(code), items)


def _read_usual(body: bytes) -> tuple[Performative, int]:
    """A performative in the form that every client writes: a small descriptor, then a list.

    Raises ``LookupError`` or ``struct.error`` where it is not; what is wrong inside the list
    raises :class:`DecodeError` as ever.
    """
    kind, layout, defaults = _USUAL[body[:3]]
    values, end = decode_list(body, 3)
    if len(values) > len(layout):
        raise LookupError
    given = list(defaults)
    for index, item in enumerate(values):
        if item is not None:
            given[index] = layout[index](item)
    if MISSING in given:
        raise LookupError
    return kind(*given), end


# Transfers and dispositions come once per message. What changes from one to the next, their
# numbers and tags, stands at the front; what follows is the same few bytes again and again.

_SHORT_LIST = 0xC0
_HEAD = 6  # descriptor, constructor, size, count
_LONGEST_REST = 32
_u32 = struct.Struct(">I")


@lru_cache(maxsize=256)
def _rest(kind: type, count: int, rest: bytes) -> tuple[Any, ...]:
    """All but the first three of a list's ``count`` fields, defaults included.

    Raises ``LookupError`` for what is not seen again anyway.
    """
    layout, given = _LAYOUTS[kind][1][3:], list(_DEFAULTS[kind][3:])
    if len(rest) > _LONGEST_REST or not 0 <= count - 3 <= len(layout):
        raise LookupError
    for index, value in enumerate(decode_items(rest, count - 3)):
        if value is not None:
            given[index] = layout[index].read(value)
    return tuple(given)


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    """The uint at ``at`` and where it ends; ``LookupError`` where none is."""
    code = data[at]
    if code == 0x52:
        return data[at + 1], at + 2
    if code == 0x70:
        return _u32.unpack_from(data, at + 1)[0], at + 5
    if code == 0x43:
        return 0, at + 1
    raise LookupError


def read_usual_transfer(
    data: bytes, start: int, end: int
) -> tuple[int, int, bytes, tuple[Any, ...], int] | None:
    """A transfer in the form that senders write, from a frame's body: ``data[start:end]``.

    Its handle, delivery id, tag, and remaining fields; and where its payload starts. None where
    it has another form.
    """
    stop = start + _HEAD - 1
    try:
        stop += data[start + 4]
        if data[start + 3] != _SHORT_LIST or stop > end:
            return None
        at = start + _HEAD
        if data[at] == 0x52:  # as _unsigned does; most handles are small and not 0
            handle, at = data[at + 1], at + 2
        else:
            handle, at = _unsigned(data, at)
        if data[at] == 0x70:  # most delivery ids are not
            delivery_id, at = _u32.unpack_from(data, at + 1)[0], at + 5
        else:
            delivery_id, at = _unsigned(data, at)
        if data[at] != 0xA0:
            return None
        tag = at + 2
        at = tag + data[at + 1]
        if at > stop:
            return None
        rest = _rest(Transfer, data[start + 5], data[at:stop])
        return handle, delivery_id, data[tag:at], rest, stop
    except (LookupError, struct.error, DecodeError):
        return None


def read_usual_disposition(
    data: bytes, start: int, end: int
) -> tuple[bool, int, int | None, tuple[Any, ...]] | None:
    """As :func:`read_usual_transfer`: its role, first, last, and remaining fields."""
    stop = start + _HEAD - 1
    try:
        stop += data[start + 4]
        if data[start + 3] != _SHORT_LIST or stop > end:
            return None
        at = start + _HEAD
        if data[at] == 0x56:
            role, at = (SENDER, RECEIVER)[data[at + 1]], at + 2
        else:
            role, at = {0x41: RECEIVER, 0x42: SENDER}[data[at]], at + 1
        first, at = _unsigned(data, at)
        if data[at] == 0x40:
            last, at = None, at + 1
        else:
            last, at = _unsigned(data, at)
        if at > stop:
            return None
        return role, first, last, _rest(Disposition, data[start + 5], data[at:stop])
    except (LookupError, struct.error, DecodeError):
        return None


def read_performative(body: bytes) -> tuple[Performative, int]:
    """The performative at the start of a frame's body, and where its payload starts."""
    try:
        return _read_usual(body)
    except (LookupError, struct.error):
        pass  # a rarer form, or none: the whole decoder says which
    described, end = decode(body)
    found = from_described(described)
    if type(found) not in _LAYOUTS or _LAYOUTS[type(found)][0] not in _PERFORMATIVES:
        raise DecodeError("the frame's body is no performative")
    return found, end  # type: ignore[return-value]


def write_performative(value: Performative) -> bytes:
    """The bytes of a performative."""
    return encoded(to_described(value))


_ACCEPTED = encoded(to_described(Accepted()))
_DISPOSITION = bytes((0x00, 0x53, 0x15))
_DISPOSITION_ACCEPTED = struct.Struct(f">5sBB?BIBIB{len(_ACCEPTED)}sB")
_ACCEPTED_HEAD = bytes((*_DISPOSITION, 0xC0, _DISPOSITION_ACCEPTED.size - len(_DISPOSITION) - 2))


def write_disposition(role: bool, first: int, last: int, state: object) -> bytes:
    """A settled disposition; the shape that is written once per message."""
    if type(state) is Accepted:
        return _DISPOSITION_ACCEPTED.pack(
            _ACCEPTED_HEAD, 6, 0x56, role, 0x70, first, 0x70, last, 0x41, _ACCEPTED, 0x42
        )
    items = bytearray((0x41 if role else 0x42,))
    encode(items, UInt(first))
    encode(items, UInt(last))
    items.append(0x41)
    if state is None:
        items.append(0x40)
    else:
        encode(items, to_described(state))
    items.append(0x42)
    out = bytearray(_DISPOSITION)
    write_compound(out, items, 6, 0xC0)
    return bytes(out)


_TAIL = bytes((0x40, 0x40, 0x42, 0x42, 0x42))  # mode, state: null; resume, aborted, batchable: no
_TRANSFER = struct.Struct(">3sBBBBIBIBB")

_FLAGS = {
    (settled, more): b"\x43" + bytes((0x41 if settled else 0x42, 0x41 if more else 0x42)) + _TAIL
    for settled in (False, True)
    for more in (False, True)
}


def write_transfer(handle: int, delivery_id: int, tag: bytes, settled: bool, more: bool) -> bytes:
    """A transfer of an ordinary message (format 0); the shape written once per message."""
    length = len(tag)  # at most 32 in AMQP
    head = _TRANSFER.pack(
        b"\x00\x53\x14", 0xC0, 21 + length, 11, 0x70, handle, 0x70, delivery_id, 0xA0, length
    )
    return head + tag + _FLAGS[settled, more]
