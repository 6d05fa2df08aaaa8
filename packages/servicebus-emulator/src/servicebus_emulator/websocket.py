"""AMQP inside WebSocket messages, without sockets."""

from __future__ import annotations

import re

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

SUBPROTOCOLS = ("AMQPWSB10", "amqp")
"""Azure's own name, and that of the specification (AMQP WebSocket Binding, 2.1): Go's clients."""

_STARTS = (b"get /$servicebus/websocket", b"get /%24servicebus/websocket")
_SCHEMES = (b"get http://", b"get https://")
_HOST = re.compile(rb"(?<=^get )https?://[^/\s]*")
_LONGEST_START = 512
"""Bytes within which a request's path begins; a host's name has 253 at most."""


def is_websocket(data: bytes) -> bool:
    """An administration connection that starts so wants to speak AMQP."""
    return _start(data).startswith(_STARTS)


def could_be_websocket(data: bytes) -> bool:
    """It starts so, as far as it has arrived."""
    begun = _start(data)
    return begun.startswith(_STARTS) or (
        len(data) < _LONGEST_START
        and any(start.startswith(begun) for start in (*_STARTS, *_SCHEMES))
    )


def _start(data: bytes) -> bytes:
    """The start of a request without the host, which a target may have in it (RFC 9112, 3.2.2):
    Java's SDK asks so."""
    return _HOST.sub(b"", data[:_LONGEST_START].lower(), count=1)


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
                    known = [name for name in event.subprotocols if name in SUBPROTOCOLS]
                    if known:
                        out += self._connection.send(AcceptConnection(subprotocol=known[0]))
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
