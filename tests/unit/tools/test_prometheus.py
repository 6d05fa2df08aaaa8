"""Queries over HTTP to a server that answers as Prometheus documents it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from ci.tools.prometheus import Prometheus
from tests.unit.serving import serving

FORBIDDEN = {"status": "error", "errorType": "bad_data", "error": "parse error"}


def vector(*values: str) -> dict[str, Any]:
    result = [{"metric": {}, "value": [1.5, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


class Server(ThreadingHTTPServer):
    answer: bytes = b""
    status: int = 200
    asked: list[tuple[str, str, str | None]]


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        server: Server

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            query = parse_qs(body)["query"][0]
            self.server.asked.append((self.path, query, self.headers["Authorization"]))
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(self.server.answer)

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    with serving(server):
        yield server


def ask(server: Server, query: str = "up", token: str = "") -> tuple[float | None, str]:
    with Prometheus(f"http://127.0.0.1:{server.server_address[1]}/", token=token) as prometheus:
        return prometheus.ask(query)


@pytest.mark.parametrize(
    ("answer", "value", "says"),
    [
        (vector("1.5"), 1.5, ""),
        (vector("1", "7", "NaN"), 7.0, ""),
        (vector("+Inf"), float("inf"), ""),
        (vector(), None, "no sample"),
        (vector("NaN"), None, "no sample"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}, 2.0, ""),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, None, "matrix"),
        ({"status": "success", "data": {}}, None, "not one of the Prometheus HTTP API"),
        ([], None, "not one of the Prometheus HTTP API"),
        (FORBIDDEN, None, "bad_data: parse error"),
    ],
)
def test_what_an_answer_means(
    server: Server, answer: object, value: float | None, says: str
) -> None:
    server.answer = json.dumps(answer).encode()
    found, problem = ask(server)
    assert found == value
    assert says in problem


def test_the_query_and_the_token_are_sent(server: Server) -> None:
    server.answer = json.dumps(vector("0")).encode()
    assert ask(server, 'sum(rate(x{a="b"}[5m])) or vector(0)', token="t0ken") == (0.0, "")
    path, query, authorization = server.asked[0]
    assert (path, query) == ("/api/v1/query", 'sum(rate(x{a="b"}[5m])) or vector(0)')
    assert authorization == "Bearer t0ken"


def test_no_json_is_told(server: Server) -> None:
    server.answer, server.status = b"<html>", 502
    assert ask(server) == (None, "HTTP 502 without JSON")


def test_nobody_there_is_told() -> None:
    with Prometheus("http://127.0.0.1:9", timeout=1) as prometheus:
        value, problem = prometheus.ask("up")
    assert value is None
    assert "ConnectError" in problem
