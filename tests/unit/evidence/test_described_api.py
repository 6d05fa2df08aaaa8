"""The proof holds how the image describes its API, as its gateway says it, within bounds."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import openapi_compat
from ci.stages import prove
from tests.unit.evidence.fakes import API, machine
from tests.unit.evidence.test_failing import CASE, RELEASE, suite


class Gateway(http.server.BaseHTTPRequestHandler):
    says = b""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/openapi.json" else 404)
        self.end_headers()
        self.wfile.write(self.says)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def gateway() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("says", "path", "api", "told"),
    [
        (API, "/openapi.json", API, ""),
        ("a page", "/openapi.json", "", "no OpenAPI description at /openapi.json (HTTP 200)"),
        (API, "/api.json", "", "no OpenAPI description at /api.json (HTTP 404)"),
        (API, "", "", ""),
        (
            API + " " * openapi_compat.LIMIT,
            "/openapi.json",
            "",
            "the OpenAPI description is longer than 1 MiB: left out",
        ),
    ],
    ids=["described", "something else", "not there", "turned off", "too long"],
)
def test_what_the_gateway_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gateway: str,
    says: str,
    path: str,
    api: str,
    told: str,
) -> None:
    monkeypatch.setattr(Gateway, "says", says.encode())
    context = machine(tmp_path, {"service": {"openapi_path": path}})
    suite(monkeypatch, context, CASE.format(1, ""), 0, gateway)
    proof = prove.prove(context, lambda: RELEASE, None)
    assert proof.api == api
    notes = [event.text for event in context.events.all]
    assert any(told in note for note in notes) if told else not notes


def test_a_gateway_that_does_not_answer_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = machine(tmp_path)
    suite(monkeypatch, context, CASE.format(1, ""), 0)
    assert prove.prove(context, lambda: RELEASE, None).api == ""
    assert "Connection refused" in context.events.all[-1].text
