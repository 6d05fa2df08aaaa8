"""HTTP/1.1 without sockets: bytes in, requests to a handler, bytes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from servicebus_emulator.errors import ArgumentError

MAX_BODY = 1 << 20
"""No description of a queue comes near; more is refused before it is read."""

MAX_OUT = 1 << 20
"""Bytes of responses after which the next request of a pipeline has to wait."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``path`` is decoded and without its query; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    more: Iterator[bytes] | None = None
    """What follows the body, piece by piece as :meth:`HttpPeer.stream` is called."""


_WHOLE = re.compile(r"[0-9]{1,18}")

Handler = Callable[[Request], Response]


class HttpPeer:
    """One connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._refused = False
        self.answered = 0
        self.has_more = False
        self._more: Iterator[bytes] | None = None

    def receive(self, data: bytes) -> tuple[bytes, bool]:
        """Bytes from the peer; the bytes to be written, and whether to hang up then.

        With :attr:`has_more`, call :meth:`proceed` when they have been written.
        """
        try:
            self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            return self._breach(error), True
        return self.proceed()

    def proceed(self) -> tuple[bytes, bool]:
        """Answer what has come in, as far as it may be answered at once."""
        out = bytearray()
        self.has_more = False
        try:
            while not self.is_streaming:
                if len(out) > MAX_OUT:
                    self.has_more = True
                    break
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    if self._http.they_are_waiting_for_100_continue:
                        out += self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    break
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    break
                if isinstance(event, h11.Request):
                    self._request = event
                    self._body.clear()
                    self._refused = False
                elif isinstance(event, h11.Data):
                    if len(self._body) + len(event.data) > MAX_BODY:
                        self._refused = True
                    else:
                        self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    out += self._answer()
                    self.answered += 1
                    if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                        self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            out += self._breach(error)
            return bytes(out), True
        return bytes(out), self._http.our_state in (h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)

    @property
    def is_streaming(self) -> bool:
        """The response goes on: call :meth:`stream` from time to time."""
        return self._more is not None

    def stream(self) -> tuple[bytes, bool]:
        """The next piece of a response that goes on, as :meth:`proceed` returns its bytes."""
        assert self._more is not None
        piece = next(self._more, None)
        if piece is not None:
            return self._send(h11.Data(data=piece)) if piece else b"", False
        self._more = None
        out = self._send(h11.EndOfMessage())
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        rest, over = self.proceed()
        return out + rest, over

    def time_out(self) -> bytes:
        """What to say to a client whose request does not end; nothing where none has begun."""
        begun = self._http.their_state is h11.SEND_BODY or self._http.trailing_data[0]
        return (
            self._breach(h11.RemoteProtocolError("The request took too long.", 408))
            if begun
            else b""
        )

    def _answer(self) -> bytes:
        assert self._request is not None
        if self._refused:
            response = Response(413, b"The request is too large.\n")
        elif self._request.method == b"CONNECT":  # to agree would be to speak something else next
            response = Response(405, b"This is no proxy.\n")
        else:
            try:
                request = _request(self._request, bytes(self._body))
            except ValueError:  # what urlsplit says to a host such as ``[``
                response = Response(400, b"The target is no URL.\n")
            else:
                response = self._handler(request)
        return self._write(response, head=self._is_head)

    @property
    def _is_head(self) -> bool:
        return self._request is not None and self._request.method == b"HEAD"

    def _write(self, response: Response, *, head: bool = False) -> bytes:
        headers = [
            ("content-type", response.content_type),
            ("server", "servicebus-emulator"),
            *response.headers,
        ]
        if response.more is None:
            headers.append(("content-length", str(len(response.body))))
        out = self._send(h11.Response(status_code=response.status, headers=headers))
        if response.body and not head:
            out += self._send(h11.Data(data=response.body))
        if response.more is not None and not head:
            self._more = response.more
            return out
        return out + self._send(h11.EndOfMessage())

    def _breach(self, error: h11.RemoteProtocolError) -> bytes:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        begun = self._http.our_state is h11.SEND_RESPONSE
        return self._write(
            Response(error.error_status_hint or 400, f"{error}\n".encode()),
            head=begun and self._is_head,
        )

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""


def _request(request: h11.Request, body: bytes) -> Request:
    asked = request.target.decode("latin-1")
    # Java's identity client writes two slashes: the second begins no host (RFC 9112, 3.2.1).
    target = urlsplit(f"/{asked.lstrip('/')}" if asked.startswith("/") else asked)
    return Request(
        method=request.method.decode("latin-1").upper(),
        path=unquote(target.path),
        query={key: values[0] for key, values in parse_qs(target.query).items()},
        headers={k.decode("latin-1"): v.decode("latin-1") for k, v in request.headers},
        body=body,
    )


def whole(request: Request, key: str, default: int, limit: int) -> int:
    """A whole number of the query, at most ``limit``; raises ArgumentError."""
    text = request.query.get(key, str(default))
    if not _WHOLE.fullmatch(text):
        raise ArgumentError(f"'{key}' must be a whole number.")
    return min(int(text), limit)


def to_json(value: object, status: int = 200) -> Response:
    """A response that says it in JSON."""
    return Response(status, json.dumps(value).encode() + b"\n", "application/json; charset=utf-8")
