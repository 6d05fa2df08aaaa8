"""A request says what was answered, or why nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ci.tools import http
from ci.tools.api import Answer
from tests.unit.serving import serving


class Service(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/openapi.json" else 404)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Service)) as found:
        yield found


def test_an_answer_has_its_status_and_text(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    base = f"http://127.0.0.1:{port}"
    assert http.get(f"{base}/openapi.json", timeout=5) == Answer(200, "/openapi.json")
    assert http.get(f"{base}/none", timeout=5) == Answer(404, "/none")


def test_without_an_answer_the_text_says_why() -> None:
    answer = http.get("http://127.0.0.1:1/", timeout=5)
    assert answer.code == 0
    assert "refused" in answer.text
