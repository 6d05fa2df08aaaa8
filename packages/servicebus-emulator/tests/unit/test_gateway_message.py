"""Messages: what a sender wrote comes out as it went in, with the broker's own parts around it."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.amqp.codec import DecodeError, decode, decode_all, encoded
from servicebus_emulator.amqp.types import (
    Described,
    Int,
    Long,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
)
from servicebus_emulator.broker.model import Message, MessageState, QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import ArgumentError
from servicebus_emulator.gateway.message import (
    DATA,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    VALUE,
    Content,
    _read_any,
    _read_usual,
    _write_any,
    read_batch,
    read_message,
    read_request,
    write_message,
    write_response,
)

TOKEN = UUID(int=7)


def section(code: int, value: object) -> bytes:
    return encoded(Described(ULong(code), value))


def delivered(payload: bytes, **properties: object) -> dict[int, object]:
    """The sections of a message that went through a queue."""
    queue = Namespace(new_token=lambda: TOKEN).create("q", QueueSettings(), 0)
    queue.send(read_message(payload), 1.5)
    delivery = queue.receive(2)
    assert delivery is not None
    message = delivery.message
    message.properties = properties or None
    found = decode_all(write_message(message, TOKEN, 62.0))
    return {int(str(item.descriptor)): item.value for item in found if isinstance(item, Described)}


def test_what_the_broker_adds() -> None:
    found = delivered(section(DATA, b"body"))
    assert found[HEADER] == [False, UByte(4), None, True, UInt(0)]
    assert found[0x71] == {Symbol("x-opt-lock-token"): TOKEN}
    assert found[MESSAGE_ANNOTATIONS] == {
        Symbol("x-opt-sequence-number"): Long(1),
        Symbol("x-opt-enqueued-time"): Timestamp(1500),
        Symbol("x-opt-message-state"): Int(0),
        Symbol("x-opt-locked-until"): Timestamp(62_000),
    }
    assert found[DATA] == b"body"


@given(
    st.one_of(st.text(max_size=80), st.integers(0, 99).map(ULong)),
    st.binary(max_size=300),
    st.integers(-2, 2),
)
def test_the_usual_message_is_read_as_any(message_id: object, body: bytes, cut: int) -> None:
    payload = section(PROPERTIES, [message_id, *[None] * 12])
    payload += b"\x00\x53\x75\xb0" + (len(body) + cut & 0xFFFFFFFF).to_bytes(4, "big") + body
    try:
        expected = _read_any(payload)
    except DecodeError:
        assert _read_usual(payload) is None
    else:
        assert _read_usual(payload) in (None, expected)
        is_usual = isinstance(message_id, str) and message_id and len(message_id.encode()) < 230
        assert not is_usual or _read_usual(payload) == expected


@given(st.binary(max_size=60), st.integers(0, 40))
def test_what_only_begins_as_usual_is_not(rest: bytes, size: int) -> None:
    payload = b"\x00\x53\x73\xc0" + bytes((size, 13, 0xA1)) + rest
    usual = _read_usual(payload)
    assert usual is None or usual == _read_any(payload)


@given(
    st.booleans(),
    st.integers(0, 255),
    st.integers(0, 0xFFFFFFFF),
    st.integers(1, 1 << 62),
    st.floats(0, 1e10),
    st.sampled_from(MessageState),
)
def test_the_usual_delivery_is_written_as_any(
    durable: bool, priority: int, count: int, number: int, at: float, state: MessageState
) -> None:
    content = Content(durable, priority, None, b"", 0, b"properties", b"application", b"body")
    message = Message(number, content, 1, None, None, at, None, None, state, delivery_count=count)
    assert write_message(message, TOKEN, at + 5) == _write_any(message, content, TOKEN, at + 5)


def test_what_the_sender_wrote_is_kept() -> None:
    properties = ["id", b"user", "to", *[None] * 7, "session"]
    payload = (
        section(HEADER, [True, UByte(9), UInt(5_000)])
        + section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-partition-key"): "p", Symbol("own"): Int(1)})
        + section(PROPERTIES, properties)
        + section(0x74, {"a": Int(1), "b": UInt(2)})
        + section(VALUE, {"any": [1, None]})
        + section(0x78, {Symbol("foot"): True})
    )
    found = delivered(payload)
    assert found[PROPERTIES] == properties
    assert found[0x74] == {"a": Int(1), "b": UInt(2)}
    assert found[VALUE] == {"any": [Long(1), None]}
    assert found[0x78] == {Symbol("foot"): True}
    annotations = found[MESSAGE_ANNOTATIONS]
    assert isinstance(annotations, dict)
    assert annotations["own"] == 1
    assert found[HEADER] == [True, UByte(9), UInt(5_000), True, UInt(0)]


def test_a_sender_cannot_write_the_broker_s_annotations() -> None:
    payload = section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-sequence-number"): Long(99)})
    annotations = delivered(payload + section(DATA, b""))[MESSAGE_ANNOTATIONS]
    assert isinstance(annotations, dict)
    assert annotations["x-opt-sequence-number"] == 1


def test_added_properties_join_the_sender_s() -> None:
    payload = section(0x74, {"a": Int(1)}) + section(DATA, b"")
    found = delivered(payload, DeadLetterReason="why")
    assert found[0x74] == {"a": Int(1), "DeadLetterReason": "why"}
    assert delivered(section(DATA, b""), x="y")[0x74] == {"x": "y"}


ODD = b"\xe0\x05\x01\x00\x53\x24\x45"  # an array of described values: read, and not written


def test_a_rare_form_among_the_properties_stays_as_it_was() -> None:
    properties = b"\x00\x53\x74\xc1\x0b\x02\xa1\x01a" + ODD
    assert list(delivered(properties + section(DATA, b""), x="y")[0x74]) == ["a"]  # type: ignore[call-overload]


def test_a_rare_form_among_the_annotations_is_refused() -> None:
    annotations = b"\x00\x53\x72\xc1\x0b\x02\xa3\x01a" + ODD
    with pytest.raises(DecodeError):
        read_message(annotations + section(DATA, b""))


def test_what_the_queue_has_to_know() -> None:
    draft = read_message(
        section(HEADER, [None, None, UInt(5_000)])
        + section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(9_000)})
        + section(PROPERTIES, [UUID(int=1), *[None] * 9, "s"])
        + section(DATA, b"x")
    )
    assert draft.message_id == str(UUID(int=1))
    assert draft.session_id == "s"
    assert draft.time_to_live == 5.0
    assert draft.scheduled_for == 9.0


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        (b"", [None] * 12),
        (b"\x00\x53\x73\x45", [None] * 12),
        (b"\x00\x53\x73\xc0\x01\x00", [None] * 12),
        (section(PROPERTIES, [None] * 13), [None] * 12),
        (section(PROPERTIES, [None]), []),
        (section(PROPERTIES, [None, b"user", "to"]), [b"user", "to"]),
        (section(PROPERTIES, [None, None, "t" * 225]), [None, "t" * 225]),
        (section(PROPERTIES, [None, None, "t" * 300]), [None, "t" * 300]),
        (b"\x00\x80" + b"\x00" * 7 + b"\x73\xc0\x03\x02\x40\x41", [True]),
    ],
)
def test_a_message_without_an_id_gets_one(written: bytes, rest: list[object]) -> None:
    draft = read_message(written + section(DATA, b"x"), lambda: UUID(int=7).hex)
    assert draft.message_id == UUID(int=7).hex
    assert draft.size == len(written) + 6
    assert isinstance(draft.content, Content)
    described = decode(draft.content.properties)[0]
    assert isinstance(described, Described)
    assert described.value == [UUID(int=7).hex, *rest]


def test_every_message_gets_an_id_of_its_own() -> None:
    drafts = read_batch(section(DATA, section(DATA, b"x")) * 2)
    assert len({draft.message_id for draft in drafts}) == 2


def test_a_life_too_long_for_the_header() -> None:
    times = [*[None] * 8, Timestamp(10_000_000_000_000), Timestamp(1_000)]
    draft = read_message(
        section(HEADER, [None, None, UInt(0xFFFFFFFF)]) + section(PROPERTIES, times)
    )
    assert draft.time_to_live == 9_999_999_999.0


def test_a_batch_holds_messages() -> None:
    inner = [section(DATA, bytes([i])) for i in range(3)]
    drafts = read_batch(b"".join(section(DATA, item) for item in inner))
    assert [draft.size for draft in drafts] == [len(item) for item in inner]
    with pytest.raises(ArgumentError):
        read_batch(section(VALUE, None))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x41",
        section(0x24, []),
        section(HEADER, {}),
        section(PROPERTIES, "x"),
        section(DATA, b"abc")[:-1],
        b"\x00\x53",
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_message(payload)


@given(st.binary(max_size=200))
def test_garbage_is_read_or_refused(payload: bytes) -> None:
    for read in (read_message, read_batch, read_request):
        try:
            read(payload)
        except (DecodeError, ArgumentError):
            continue


def test_a_response_answers_its_request() -> None:
    request = read_request(
        section(PROPERTIES, [UUID(int=5), None, None, None, "me"])
        + section(0x74, {"operation": "x"})
        + section(VALUE, {"a": 1})
    )
    assert (request.message_id, request.reply_to) == (UUID(int=5), "me")
    assert (request.properties, request.body) == ({"operation": "x"}, {"a": Long(1)})
    response = write_response({"statusCode": Int(200)}, {}, request.message_id)
    described = decode(response)[0]
    assert isinstance(described, Described)
    assert isinstance(described.value, list)
    assert described.value[5] == UUID(int=5)
    assert len(described.value) == 13
