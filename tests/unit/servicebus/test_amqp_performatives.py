"""Frames: all their fields are written, defaults are read, the fast forms are the slow ones."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ci.servicebus.amqp import performatives as p
from ci.servicebus.amqp.codec import DecodeError, decode, encoded
from ci.servicebus.amqp.types import Array, Described, Symbol, UInt, ULong

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
