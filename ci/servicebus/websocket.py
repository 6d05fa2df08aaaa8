"""AMQP inside WebSocket messages (the ``AMQPWSB10`` subprotocol), without sockets."""

from __future__ import annotations

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
)
from wsproto.utilities import ProtocolError

SUBPROTOCOL = "AMQPWSB10"
_STARTS = (b"GET /$servicebus/websocket", b"GET /%24servicebus/websocket")


def is_websocket(data: bytes) -> bool:
    """An administration connection that starts so wants to speak AMQP."""
    return data.lower().startswith(tuple(start.lower() for start in _STARTS))


def could_be_websocket(data: bytes) -> bool:
    """It starts so, as far as it has arrived."""
    begun = data.lower()
    return is_websocket(data) or any(start.lower().startswith(begun) for start in _STARTS)


class WebSocketPeer:
    """One connection, from its HTTP request on."""

    def __init__(self) -> None:
        self._connection = WSConnection(ConnectionType.SERVER)

    def receive(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Bytes from the peer: the AMQP in them, bytes to be written, whether to hang up then."""
        amqp, out, over = bytearray(), bytearray(), False
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, Request):
                    if SUBPROTOCOL in event.subprotocols:
                        out += self._connection.send(AcceptConnection(subprotocol=SUBPROTOCOL))
                    else:
                        out += self._connection.send(RejectConnection(status_code=400))
                        over = True
                elif isinstance(event, BytesMessage):
                    amqp += event.data
                elif isinstance(event, Ping):
                    out += self._connection.send(event.response())
                elif isinstance(event, CloseConnection):
                    out += self._connection.send(event.response())
                    over = True
        except (ProtocolError, UnicodeDecodeError):  # the latter from headers that are not ASCII
            over = True
        return bytes(amqp), bytes(out), over

    def wrap(self, data: bytes) -> bytes:
        """The bytes that carry AMQP to the peer; none after the connection was closed."""
        try:
            return self._connection.send(BytesMessage(data=data))
        except ProtocolError:
            return b""
