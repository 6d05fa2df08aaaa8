"""AMQP inside WebSocket messages, byte by byte, with wsproto's client half as the other side."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.server import Server
from servicebus_emulator.settings import Settings
from servicebus_emulator.websocket import (
    SUBPROTOCOLS,
    WebSocketPeer,
    could_be_websocket,
    is_websocket,
)
from tests.unit.peer import frame, frames, hello

PATH = "/$servicebus/websocket"


def opened(
    target: str = PATH, subprotocol: str = SUBPROTOCOLS[0]
) -> tuple[WSConnection, WebSocketPeer]:
    client, peer = WSConnection(ConnectionType.CLIENT), WebSocketPeer()
    offered = ["other", subprotocol]
    asked = client.send(Request(host="h", target=target, subprotocols=offered))
    assert is_websocket(asked)
    assert all(could_be_websocket(asked[:index]) for index in range(len(asked)))
    out = b""
    for index in range(len(asked)):
        _, piece, over = peer.receive(asked[index : index + 1])
        assert not over
        out += piece
    client.receive_data(out)
    [accepted] = list(client.events())
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == subprotocol
    return client, peer


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
@pytest.mark.parametrize("target", [PATH, f"https://contoso.servicebus.windows.net{PATH}"])
def test_bytes_go_both_ways(target: str, subprotocol: str) -> None:
    client, peer = opened(target, subprotocol)
    sent = client.send(BytesMessage(data=b"hello"))
    found = b"".join(peer.receive(sent[i : i + 1])[0] for i in range(len(sent)))
    assert found == b"hello"
    client.receive_data(peer.wrap(b"there"))
    [message] = list(client.events())
    assert isinstance(message, BytesMessage)
    assert message.data == b"there"


def test_a_ping_is_answered() -> None:
    client, peer = opened()
    client.receive_data(peer.receive(client.send(Ping(payload=b"x")))[1])
    assert list(client.events()) == [Pong(payload=b"x")]


def test_a_close_is_answered_and_hung_up_on() -> None:
    client, peer = opened()
    _, out, over = peer.receive(client.send(CloseConnection(code=1000)))
    assert out
    assert over
    assert peer.wrap(b"late") == b""


def test_another_subprotocol_is_refused() -> None:
    client, peer = WSConnection(ConnectionType.CLIENT), WebSocketPeer()
    asked = client.send(Request(host="h", target=PATH, subprotocols=["chat"]))
    _, out, over = peer.receive(asked)
    assert out.startswith(b"HTTP/1.1 400")
    assert over


@pytest.mark.parametrize("data", [b"\x00" * 50, b"GET /$servicebus/websocket\r\n\r\n"])
def test_garbage_is_hung_up_on(data: bytes) -> None:
    assert WebSocketPeer().receive(data)[2]


def test_what_could_become_one() -> None:
    assert could_be_websocket(b"GET /$serv")
    assert could_be_websocket(b"GET /%24ServiceBus/websocket HTTP/1.1")
    assert not could_be_websocket(b"GET /health")
    assert not could_be_websocket(b"GET https://host/health")
    assert not could_be_websocket(b"GET https://host /$servicebus/websocket")
    assert not could_be_websocket(b"GET https://" + b"h" * 1_000)
    assert not could_be_websocket(b"PUT https://host/$servicebus/websocket")
    assert not is_websocket(b"GET /$serv")


async def test_the_administration_port_carries_amqp(tmp_path: Path) -> None:
    server = Server(Settings(host="127.0.0.1", amqp_port=0, admin_port=0, tls_dir=tmp_path))
    await server.start()
    client = WSConnection(ConnectionType.CLIENT)
    reader, writer = await asyncio.open_connection("localhost", server.admin_port)
    asked = client.send(Request(host="h", target=PATH, subprotocols=[*SUBPROTOCOLS]))
    writer.write(asked[:9])
    await asyncio.sleep(0.01)
    writer.write(asked[9:])
    data = b""
    sent = False
    while not data or not isinstance(frames(data)[-1][0], p.Close):
        client.receive_data(await asyncio.wait_for(reader.read(65_536), 5))
        for event in client.events():
            if isinstance(event, AcceptConnection) and not sent:
                sent = True
                writer.write(client.send(BytesMessage(data=hello() + frame(p.Close()))))
            elif isinstance(event, BytesMessage):
                data += bytes(event.data)
    writer.close()
    await writer.wait_closed()
    await server.stop()
    assert not server.hub.peers
