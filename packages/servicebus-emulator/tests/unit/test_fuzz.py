"""The fuzzers' corpus, replayed, and what fuzzing (``tests/fuzz``) has found, one by one."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import pytest

from servicebus_emulator.admin.http import HttpPeer, Request, Response
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import DecodeError, EncodeError, decode, encoded
from servicebus_emulator.amqp.connection import Closed, Connection
from servicebus_emulator.amqp.types import Array, Described, Int, Symbol, Timestamp, UInt, ULong
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import Unauthorized
from servicebus_emulator.gateway.hub import Hub
from servicebus_emulator.gateway.management import answer
from servicebus_emulator.gateway.message import read_message, read_request
from servicebus_emulator.gateway.tokens import Key, SharedKeys
from servicebus_emulator.websocket import WebSocketPeer
from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS
from tests.unit.conftest import draft
from tests.unit.peer import frame, frames, hello, sender


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus(target: str) -> None:
    inputs = corpus.read(target)
    assert inputs, "the corpus is not there"
    for data in (*inputs, *corpus.seeds(target)):
        TARGETS[target](data)


def test_the_corpus_is_small() -> None:
    assert sum(file.stat().st_size for file in corpus.FOLDER.iterdir()) < 300_000


def section(code: int, value: object) -> bytes:
    return encoded(Described(ULong(code), value))


# --- values --------------------------------------------------------------------------------------


def test_an_array_of_arrays_is_not_written_as_an_array_of_nulls() -> None:
    value, _ = decode(b"\xe0\x05\x01\xe0\x02\x03\x40")
    assert value == [[None, None, None]]
    assert isinstance(value, Array)
    assert value.element is Array
    with pytest.raises(EncodeError):
        encoded(value)


def test_few_bytes_do_not_become_many_values() -> None:
    array = b"\xf0\x00\x00\x00\x05" + struct.pack(">I", 33) + b"\x40"
    with pytest.raises(DecodeError):
        decode(array)


def test_a_disposition_with_a_text_that_is_none_is_refused() -> None:
    state = b"\x00\x53\x25\xc0\x0a\x01\x00\x53\x1d\xc0\x04\x01\xa3\x01\xa1"
    fields = b"\x41\x43\x43\x41" + state + b"\x42"
    body = b"\x00\x53\x15\xc0" + bytes((len(fields) + 1, 6)) + fields
    with pytest.raises(DecodeError):
        p.read_performative(body)


# --- connections and links -----------------------------------------------------------------------


def test_a_bad_frame_in_pieces_is_found_as_early_as_in_one() -> None:
    bad = struct.pack(">IBBH", 60_000, 0, 0, 0)
    connection = Connection("server")
    connection.receive(hello() + bad[:3])
    assert isinstance(connection.receive(bad[3:])[-1], Closed)


@pytest.mark.parametrize("address", ["amqps://[", "sb://[x/q"])
def test_an_address_that_is_no_url_is_an_entity_that_is_not_there(address: str) -> None:
    hub = Hub(Namespace())
    peer = hub.connect()
    peer.receive(hello() + frame(sender("s", address)), 0.0)
    last = frames(peer.connection.take_output())[-1][0]
    assert isinstance(last, p.Detach)
    assert last.error is not None
    assert last.error.condition == "amqp:not-found"


def test_a_message_for_a_target_that_is_no_url_goes_to_the_transfer_dead_letters(
    namespace: Namespace,
) -> None:
    queue = namespace.create("q", QueueSettings(forward_to="https://["), 0.0)
    queue.send(draft(), 0.0)
    assert queue.counts().transfer_dead_letter == 1


# --- messages and requests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        section(0x70, [True, None, ULong(1 << 32)]),
        section(0x70, [True, None, Int(-1)]),
        section(0x72, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp((1 << 63) - 1)}),
    ],
    ids=["a life too long", "a life before birth", "a time that never comes"],
)
def test_what_could_not_be_delivered_is_not_taken_in(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read_message(payload + section(0x75, b"x"))


def test_properties_that_end_before_their_count() -> None:
    with pytest.raises(DecodeError):
        read_message(b"\x00\x53\x73\xc0\x00")


def test_a_request_whose_id_could_not_be_answered_is_none() -> None:
    with pytest.raises(DecodeError):
        read_request(section(0x73, [[Symbol("a list")]]))


def test_a_page_of_sessions_does_not_begin_before_the_first(namespace: Namespace) -> None:
    queue = namespace.create("q", QueueSettings(requires_session=True), 0.0)
    queue.send(draft(session_id="one"), 0.0)
    body = {"last-updated-time": Timestamp(0), "skip": Timestamp(-(1 << 63)), "top": UInt(5)}
    request = replace(
        read_request(b""), properties={"operation": "get-message-sessions"}, body=body
    )
    status = decode(answer(queue, request, 0.0).split(b"\xa1\x0astatusCode")[1])[0]
    assert status == 400


# --- tokens, HTTP, WebSockets --------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "sr=q&sig=x&se=\u00b2\u00b2&skn=k",
        f"sr=q&sig=x&se={'9' * 5_000}&skn=k",
        "sr=q&sig=\u00e9&se=9999999999&skn=k",
        "sr=sb://[&sig=x&se=9999999999&skn=k",
    ],
)
def test_a_strange_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        SharedKeys((Key("k", "secret"),)).check(f"SharedAccessSignature {token}", 0.0)


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5_000, "-1", ""])
def test_a_strange_number_in_a_query_is_refused(namespace: Namespace, number: str) -> None:
    routes = Administration(namespace, lambda: 0.0)
    asked = Request("GET", "/$emulator/timeline", {"after": number})
    assert routes.handle(asked).status == 400
    assert "whole number" in json.loads(routes.handle(asked).body)["error"]


def test_a_description_too_deep_to_be_written_is_refused(namespace: Namespace) -> None:
    routes = Administration(namespace, lambda: 0.0)
    deep = b"<a>" * 5_000 + b"</a>" * 5_000
    body = b'<entry xmlns="http://www.w3.org/2005/Atom"><content>' + deep + b"</content></entry>"
    assert routes.handle(Request("PUT", "/t", body=body)).status == 400


def test_a_websocket_handshake_that_is_not_ascii_is_hung_up_on() -> None:
    asked = (
        b"GET /$servicebus/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: \xff\r\n\r\n"
    )
    assert WebSocketPeer().receive(asked)[2]


def test_a_head_request_that_breaks_off_is_refused_without_a_body() -> None:
    http = HttpPeer(lambda _: Response(200))
    begun = b"HEAD /q HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
    assert http.receive(begun) == (b"", False)
    said, over = http.receive(b"")  # the peer is gone
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.endswith(b"\r\n\r\n")
    assert over
