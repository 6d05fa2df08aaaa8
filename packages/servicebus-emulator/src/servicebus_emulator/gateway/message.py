"""Messages on the wire (AMQP 1.0, part 3.2, and Service Bus's annotations).

What a sender wrote is kept as its bytes; only what the broker owns (header, delivery annotations,
message annotations) is written anew at each delivery. So a body of any kind comes out as it went
in, at the price of finding the sections' limits once.

The sections, in their order: header 0x70, delivery annotations 0x71, message annotations 0x72,
properties 0x73, application properties 0x74, body (data 0x75, sequence 0x76, value 0x77), footer
0x78. A batch (message format 0x80013700) is a message whose every data section is a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import urandom
from uuid import UUID

from servicebus_emulator.amqp.codec import (
    DecodeError,
    EncodeError,
    decode,
    decode_all,
    encode,
    encoded,
    skip,
    write_compound,
)
from servicebus_emulator.amqp.types import Described, Symbol, UInt, ULong
from servicebus_emulator.broker.model import Draft, Message
from servicebus_emulator.broker.rules import Fields
from servicebus_emulator.errors import ArgumentError
from servicebus_emulator.gateway.fields import change_application, change_properties, read_fields

LATEST = 253_402_300_799_999
"""Milliseconds since 1970: the last of the year 9999, and of .NET's DateTime."""

BATCH_FORMAT = 0x80013700

HEADER, DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS = 0x70, 0x71, 0x72
PROPERTIES, APPLICATION_PROPERTIES = 0x73, 0x74
DATA, SEQUENCE, VALUE, FOOTER = 0x75, 0x76, 0x77, 0x78

_i64 = struct.Struct(">q")

# The broker's own annotations: what a sender writes under these names does not count.
_OURS = frozenset(
    {
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-locked-until",
        "x-opt-message-state",
        "x-opt-enqueue-sequence-number",
        "x-opt-deadletter-source",
        "x-opt-lock-token",
    }
)


@dataclass(slots=True)
class Content:
    """The parts of a message as its sender wrote them."""

    durable: bool
    priority: int
    time_to_live_ms: int | None
    annotations: bytes
    annotation_count: int
    properties: bytes
    application_properties: bytes
    body: bytes

    def fields(self) -> Fields:
        """See :class:`servicebus_emulator.broker.rules.Filterable`."""
        return read_fields(self.properties, self.application_properties, self.annotations)

    def changed(self, changes: Fields) -> Content:
        """See :class:`servicebus_emulator.broker.rules.Filterable`."""
        return replace(
            self,
            properties=change_properties(self.properties, changes.system),
            application_properties=change_application(self.application_properties, changes.user),
        )


def sections(payload: bytes) -> list[tuple[int, int, int]]:
    """Code, start of the value, and end of every section."""
    found = []
    position = 0
    while position < len(payload):
        if payload[position : position + 2] == b"\x00\x53" and position + 3 < len(payload):
            code, value = payload[position + 2], position + 3
        elif payload[position] == 0:
            descriptor, value = decode(payload, position + 1)
            code = _code(descriptor)
        else:
            raise DecodeError("a message section should be a described value")
        if not HEADER <= code <= FOOTER:
            raise DecodeError(f"0x{code:x} is no message section")
        end = skip(payload, value)
        found.append((code, value, end))
        position = end
    return found


_SYMBOLIC = {
    f"amqp:{name}": HEADER + index
    for index, name in enumerate(
        (
            "header:list",
            "delivery-annotations:map",
            "message-annotations:map",
            "properties:list",
            "application-properties:map",
            "data:binary",
            "amqp-sequence:list",
            "amqp-value:*",
            "footer:map",
        )
    )
}


def _code(descriptor: object) -> int:
    if isinstance(descriptor, ULong):
        return int(descriptor)
    return _SYMBOLIC.get(str(descriptor), 0)


def random_id() -> str:
    """An id for a message that has none, as Azure's: 32 hexadecimal digits."""
    return urandom(16).hex()


def read_message(payload: bytes, new_id: Callable[[], str] = random_id) -> Draft:
    """What a sender wants stored. Without an id the message gets one, as Azure's broker does it
    and clients rely on (JavaScript's renews locks by it)."""
    return _read_usual(payload) or _read_any(payload, new_id)


_ID_ALONE = b"\x00\x53\x73\xc0"  # properties as a short list, and with
_THIRTEEN = b"\x0d\xa1"  # 13 fields, of which the first is a short string
_TWELVE_NULLS = b"\x40" * 12
_DATA = b"\x00\x53\x75\xb0"


def _read_usual(payload: bytes) -> Draft | None:
    """What most senders write: properties with the message's id alone, and data of some length.

    None where the message is another, or not whole.
    """
    if not payload.startswith(_ID_ALONE) or not payload.startswith(_THIRTEEN, 5):
        return None
    body = 5 + payload[4]
    if (
        not 20 <= body <= len(payload)
        or payload[7] != body - 20
        or not payload.startswith(_TWELVE_NULLS, body - 12)
        or not payload.startswith(_DATA, body)
        or body + 8 + int.from_bytes(payload[body + 4 : body + 8]) != len(payload)
    ):
        return None
    try:
        message_id = payload[8 : body - 12].decode()
    except UnicodeDecodeError:
        return None
    content = Content(False, 4, None, b"", 0, payload[:body], b"", payload[body:])
    return Draft(content, len(payload), message_id)


def _read_any(payload: bytes, new_id: Callable[[], str] = random_id) -> Draft:
    header: list[object] = []
    annotations: dict[object, object] = {}
    properties: list[object] = []
    raw_properties = raw_application = b""
    body_start = len(payload)
    start = 0
    for code, value, end in sections(payload):
        if code == HEADER:
            header = _list(decode(payload, value)[0])
        elif code == MESSAGE_ANNOTATIONS:
            annotations = _map(decode(payload, value)[0])
        elif code == PROPERTIES:
            properties = _properties(payload, value, end)
            raw_properties = payload[start:end]
        elif code == APPLICATION_PROPERTIES:
            _map(decode(payload, value)[0])
            raw_application = payload[start:end]
        elif code != DELIVERY_ANNOTATIONS:
            body_start = start
            break
        start = end
    if _at(properties, 0) is None:
        message_id = new_id()
        properties = [message_id, *properties[1:]]
        raw_properties = _identified(raw_properties, message_id)
    kept, count = _kept(annotations) if annotations else (b"", 0)
    ttl_ms = _number(_at(header, 2))
    if ttl_ms is not None and not 0 <= ttl_ms <= 0xFFFFFFFF:
        raise DecodeError("a time to live that is no uint")
    scheduled = annotations.get("x-opt-scheduled-enqueue-time")
    if isinstance(scheduled, int) and scheduled > LATEST:
        raise DecodeError("a scheduled time after the year 9999")
    content = Content(
        durable=_at(header, 0) is True,
        priority=4 if (priority := _number(_at(header, 1))) is None else priority,
        time_to_live_ms=ttl_ms,
        annotations=kept,
        annotation_count=count,
        properties=raw_properties,
        application_properties=raw_application,
        body=payload[body_start:],
    )
    return Draft(
        content=content,
        size=len(payload),
        message_id=_text(_at(properties, 0)),
        session_id=_text(_at(properties, 10)),
        time_to_live=_time_to_live(ttl_ms, properties),
        scheduled_for=scheduled / 1000 if isinstance(scheduled, int) else None,
    )


_NO_PROPERTIES = b"\x00\x53\x73\xc0\x0e\x0d\x40" + _TWELVE_NULLS
"""Thirteen nulls: how the Python SDK writes a message that says nothing of itself."""


def _properties(payload: bytes, value: int, end: int) -> list[object]:
    """The fields of a properties section; most senders set its first, the message's id, alone."""
    if (
        payload[value] == 0xC0
        and payload[value + 2 : value + 3] == b"\x0d"
        and payload.endswith(_TWELVE_NULLS, value + 3, end)
    ):
        message_id, at = decode(payload, value + 3)
        if at == end - 12:
            return [message_id]
    return _list(decode(payload, value)[0])


def _identified(section: bytes, message_id: str) -> bytes:
    """A properties section, or none, with an id where it has a null; the rest keeps its bytes."""
    name = b"\xa1" + bytes((len(message_id),)) + message_id.encode()
    if section and section != _NO_PROPERTIES:
        value = decode(section, 1)[1]
        width = {0xC0: 1, 0xD0: 4}.get(section[value], 0)  # of the list's size, and of its count
        first = value + 1 + 2 * width
        if count := int.from_bytes(section[first - width : first]):
            out = bytearray(b"\x00\x53\x73")
            write_compound(out, name + section[first + 1 :], count, 0xC0)
            return bytes(out)
    return b"\x00\x53\x73\xc0%c\x0d%b%b" % (13 + len(name), name, _TWELVE_NULLS)


def _kept(annotations: dict[object, object]) -> tuple[bytes, int]:
    """The sender's own annotations, encoded, and how many items that is."""
    kept = bytearray()
    count = 0
    try:
        for key, item in annotations.items():
            if key not in _OURS:
                encode(kept, key)
                encode(kept, item)
                count += 2
    except EncodeError as error:
        raise DecodeError(f"an annotation that cannot be kept: {error}") from None
    return bytes(kept), count


def read_batch(payload: bytes) -> list[Draft]:
    """The messages of a batch."""
    drafts = []
    for code, value, _ in sections(payload):
        if code == DATA:
            inner = decode(payload, value)[0]
            if not isinstance(inner, bytes):
                raise DecodeError("a data section should be binary")
            drafts.append(read_message(inner))
    if not drafts:
        raise ArgumentError("A batch must hold at least one message.")
    return drafts


def _time_to_live(ttl_ms: int | None, properties: list[object]) -> float | None:
    """Seconds; a life too long for the header's 32 bits is told by two points in time."""
    expiry, creation = _number(_at(properties, 8)), _number(_at(properties, 9))
    if expiry is not None and creation is not None and expiry > creation:
        return (expiry - creation) / 1000
    return None if ttl_ms is None else ttl_ms / 1000


def _at(items: list[object], index: int) -> object:
    return items[index] if len(items) > index else None


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    """A message id may be a string, a number, a UUID or binary."""
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else str(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise DecodeError("a section should be a list")
    return value


def _map(value: object) -> dict[object, object]:
    if not isinstance(value, dict):
        raise DecodeError("a section should be a map")
    return value


# --- writing -----------------------------------------------------------------------------------

_SEQUENCE = encoded(Symbol("x-opt-sequence-number")) + b"\x81"
_ENQUEUED = encoded(Symbol("x-opt-enqueued-time")) + b"\x83"
_LOCKED = encoded(Symbol("x-opt-locked-until")) + b"\x83"
_STATE = encoded(Symbol("x-opt-message-state")) + b"\x54"
_ENQUEUE_SEQUENCE = encoded(Symbol("x-opt-enqueue-sequence-number")) + b"\x81"
_SOURCE = encoded(Symbol("x-opt-deadletter-source"))
_OURS_ALWAYS = struct.Struct(f">{len(_SEQUENCE)}sq{len(_ENQUEUED)}sq{len(_STATE)}sb")
_HEADER = struct.Struct(">6sBBBBBBI")  # of a message without a time to live of its own
_HEADER_START = b"\x00\x53\x70\xc0" + bytes((_HEADER.size - 5, 5))
_TOKEN = (
    b"\x00\x53\x71\xc1"
    + bytes((1 + len(encoded(Symbol("x-opt-lock-token"))) + 17, 2))
    + encoded(Symbol("x-opt-lock-token"))
    + b"\x98"
)


def _header(content: Content, delivery_count: int) -> bytearray:
    durable = 0x41 if content.durable else 0x42
    first = 0x41 if delivery_count == 0 else 0x42
    priority = content.priority & 0xFF
    if content.time_to_live_ms is None:
        return bytearray(
            _HEADER.pack(_HEADER_START, durable, 0x50, priority, 0x40, first, 0x70, delivery_count)
        )
    out = bytearray(b"\x00\x53\x70")
    header = bytearray((durable, 0x50, priority))
    encode(header, UInt(content.time_to_live_ms))
    header.append(first)
    encode(header, UInt(delivery_count))
    write_compound(out, header, 5, 0xC0)
    return out


_ANNOTATIONS = b"\x00\x53\x72\xc1" + bytes((_OURS_ALWAYS.size + len(_LOCKED) + 8 + 1, 8))
_USUAL = struct.Struct(
    f"{_HEADER.format}{len(_TOKEN)}s16s{len(_ANNOTATIONS)}s"
    f"{_OURS_ALWAYS.format[1:]}{len(_LOCKED)}sq"
)


def write_message(message: Message, token: UUID | None, locked_until: float | None) -> bytes:
    """The payload of a delivery."""
    content = message.content
    assert isinstance(content, Content)
    if (
        token is not None
        and locked_until is not None
        and content.time_to_live_ms is None
        and not content.annotation_count
        and message.enqueued_sequence_number is None
        and message.dead_letter_source is None
        and not message.properties
    ):
        return _write_usual(message, content, token.bytes, locked_until)
    return _write_any(message, content, token, locked_until)


def _write_usual(message: Message, content: Content, token: bytes, locked_until: float) -> bytes:
    """What only the broker has annotated."""
    count = message.delivery_count
    ours = _USUAL.pack(
        *(_HEADER_START, 0x41 if content.durable else 0x42, 0x50, content.priority & 0xFF),
        *(0x40, 0x42 if count else 0x41, 0x70, count, _TOKEN, token, _ANNOTATIONS),
        *(_SEQUENCE, message.sequence_number, _ENQUEUED, int(message.enqueued_at * 1000)),
        *(_STATE, message.state, _LOCKED, int(locked_until * 1000)),
    )
    return b"".join((ours, content.properties, content.application_properties, content.body))


def _write_any(
    message: Message, content: Content, token: UUID | None, locked_until: float | None
) -> bytes:
    out = _header(content, message.delivery_count)
    if token is not None:
        out += _TOKEN
        out += token.bytes
    ours = bytearray(
        _OURS_ALWAYS.pack(
            *(_SEQUENCE, message.sequence_number, _ENQUEUED, int(message.enqueued_at * 1000)),
            *(_STATE, message.state),
        )
    )
    count = 6
    if locked_until is not None:
        ours += _LOCKED
        ours += _i64.pack(int(locked_until * 1000))
        count += 2
    if message.enqueued_sequence_number is not None:
        ours += _ENQUEUE_SEQUENCE
        ours += _i64.pack(message.enqueued_sequence_number)
        count += 2
    if message.dead_letter_source is not None:
        ours += _SOURCE
        encode(ours, message.dead_letter_source)
        count += 2
    ours += content.annotations
    out += b"\x00\x53\x72"
    write_compound(out, ours, count + content.annotation_count, 0xC1)
    out += content.properties
    out += (
        _merged(content.application_properties, message.properties)
        if message.properties
        else content.application_properties
    )
    out += content.body
    return bytes(out)


def _merged(section: bytes, added: dict[str, object]) -> bytes:
    held: dict[object, object] = {}
    if section:
        described = decode(section)[0]
        if isinstance(described, Described) and isinstance(described.value, dict):
            held.update(described.value)
    held.update(added)
    try:
        return encoded(Described(ULong(APPLICATION_PROPERTIES), held))
    except EncodeError:  # a rare form that is read and not written: the sender's bytes it is
        return section


def write_response(
    properties: dict[object, object], body: object, correlation_id: object, to: object = None
) -> bytes:
    """A message that answers a request: properties, application properties, a value."""
    out = bytearray()
    encode(
        out,
        Described(ULong(PROPERTIES), [None, None, to, None, None, correlation_id, *[None] * 7]),
    )
    encode(out, Described(ULong(APPLICATION_PROPERTIES), properties))
    try:
        encode(out, Described(ULong(VALUE), body))
    except EncodeError:
        raise ArgumentError("The response cannot be encoded.") from None
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Request:
    """A message that asks ``$cbs`` or ``$management`` for something."""

    message_id: object
    reply_to: str | None
    properties: dict[object, object]
    body: object

    @property
    def operation(self) -> str:
        """What is asked for, without the vendor's prefix."""
        return str(self.properties.get("operation", "")).removeprefix("com.microsoft:")


def read_request(payload: bytes) -> Request:
    """The parts of a request."""
    properties: list[object] = []
    application: dict[object, object] = {}
    body: object = None
    for code, value, _ in sections(payload):
        if code == PROPERTIES:
            properties = _list(decode(payload, value)[0])
        elif code == APPLICATION_PROPERTIES:
            application = _map(decode(payload, value)[0])
        elif code in (VALUE, DATA):
            body = decode(payload, value)[0]
    message_id, reply_to = _at(properties, 0), _at(properties, 4)
    if not isinstance(message_id, int | str | bytes | UUID | None):
        raise DecodeError("a message id should be a number, a string, binary or a UUID")
    return Request(
        message_id=message_id,
        reply_to=reply_to if isinstance(reply_to, str) else None,
        properties=application,
        body=body,
    )


# --- keeping -----------------------------------------------------------------------------------


def pack_content(content: object) -> bytes:
    """A message's content for a store: its fields one after the other."""
    assert isinstance(content, Content)
    out = bytearray()
    for value in (
        content.durable,
        content.priority,
        content.time_to_live_ms,
        content.annotation_count,
        content.annotations,
        content.properties,
        content.application_properties,
        content.body,
    ):
        encode(out, value)
    return bytes(out)


def unpack_content(packed: bytes) -> Content:
    """What :func:`pack_content` was given."""
    durable, priority, ttl, count, annotations, properties, application, body = decode_all(packed)
    assert isinstance(annotations, bytes)
    assert isinstance(properties, bytes)
    assert isinstance(application, bytes)
    assert isinstance(body, bytes)
    return Content(
        durable=durable is True,
        priority=_number(priority) or 0,
        time_to_live_ms=_number(ttl),
        annotations=annotations,
        annotation_count=_number(count) or 0,
        properties=properties,
        application_properties=application,
        body=body,
    )


def pack_properties(properties: dict[str, object] | None) -> bytes | None:
    """Properties that were added to a message; what has no AMQP form is left out."""
    if not properties:
        return None
    kept: dict[str, object] = {}
    for key, value in properties.items():
        try:
            encoded(value)
        except EncodeError:
            continue
        kept[key] = value
    return encoded(kept)


def unpack_properties(packed: bytes | None) -> dict[str, object] | None:
    """What :func:`pack_properties` was given."""
    return None if packed is None else {str(k): v for k, v in _map(decode(packed)[0]).items()}
