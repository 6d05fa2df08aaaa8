"""The page on the administration port: what it shows, to whom, and the timeline that goes on."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from pathlib import Path

import pytest

from servicebus_emulator.admin.http import Request, Response
from servicebus_emulator.admin.page import SHOWN
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.broker.model import QueueSettings, SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.gateway.tokens import Key, SharedKeys
from servicebus_emulator.server import Server
from servicebus_emulator.settings import Settings
from tests.unit.conftest import draft


class Clock:
    """Moved by hand."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def ask(namespace: Namespace, path: str, clock: Clock | None = None, **query: str) -> Response:
    return Administration(namespace, clock or Clock()).handle(Request("GET", path, query))


def shown(namespace: Namespace, path: str = "/$emulator") -> str:
    response = ask(namespace, path)
    assert response.status == 200
    assert response.content_type.startswith("text/html")
    return response.body.decode()


def test_an_empty_emulator_has_a_page(namespace: Namespace) -> None:
    page = shown(namespace)
    assert "There is no queue yet." in page
    assert "No message is locked." in page
    assert "No message is dead." in page


def test_the_root_leads_a_browser_to_the_page(namespace: Namespace) -> None:
    routes = Administration(namespace, Clock())
    response = routes.handle(Request("GET", "/", {}, {"accept": "text/html,*/*;q=0.8"}))
    assert (response.status, dict(response.headers)["location"]) == (302, "/$emulator")
    assert (
        ask(namespace, "/").status == 404
    )  # Azure's client, which asks for an entity without name


def test_the_page_needs_nothing_from_elsewhere(namespace: Namespace) -> None:
    page = shown(namespace)
    assert "http://" not in page
    assert "https://" not in page
    assert "prefers-color-scheme: dark" in page


def test_queues_locks_and_dead_letters(namespace: Namespace) -> None:
    now = Clock.now
    queue = namespace.create("tasks", QueueSettings(lock_duration=30), now)
    for number in range(3):
        queue.send(draft(message_id=f"id-{number}"), now)
    dead = queue.receive(now)
    assert dead is not None
    assert dead.lock is not None
    queue.dead_letter(dead.lock.token, now, reason="Broken", description="no JSON")
    assert queue.receive(now - 12.5) is not None  # 17.5 s of its lock are left
    topic = namespace.topics.create("events", TopicSettings(), now)
    namespace.topics.subscribe(topic.name, "audit", SubscriptionSettings(), now)
    for page in (shown(namespace), shown(namespace, "/$emulator/overview")):
        assert "17.5 s" in page
        assert "id-1" in page
        assert "Broken" in page
        assert "no JSON" in page
        assert "events/Subscriptions/audit" in page
    assert "dead-lettered" in shown(namespace)
    assert "<html" not in shown(namespace, "/$emulator/overview")


def test_what_a_client_names_is_text_and_never_markup(namespace: Namespace) -> None:
    queue = namespace.create("q", QueueSettings(), Clock.now)
    queue.send(draft(message_id="<script>alert(1)</script>"), Clock.now)
    queue.receive(Clock.now)
    page = shown(namespace)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_page_has_an_end(namespace: Namespace) -> None:
    queue = namespace.create("q", QueueSettings(), Clock.now)
    for _ in range(SHOWN + 7):
        queue.send(draft(message_id="held"), Clock.now)
        queue.receive(Clock.now)
    page = shown(namespace, "/$emulator/overview")
    assert page.count("held") == SHOWN
    assert "and 7 more" in page


# --- rights --------------------------------------------------------------------------------------


def basic(name: str, key: str) -> str:
    return f"Basic {b64encode(f'{name}:{key}'.encode()).decode()}"


@pytest.mark.parametrize("path", ["/$emulator", "/$emulator/queues", "/$emulator/timeline"])
@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("", 401),
        (basic("manager", "wrong"), 401),
        (basic("nobody", "secret"), 401),
        (basic("listener", "heard"), 401),
        ("Basic !", 401),
        (basic("manager", "secret"), 200),
    ],
)
def test_where_keys_are_checked_looking_takes_the_right_to_manage(
    namespace: Namespace, path: str, authorization: str, status: int
) -> None:
    keys = (Key("manager", "secret"), Key("listener", "heard", frozenset({"Listen"})))
    routes = Administration(namespace, Clock(), SharedKeys(keys))
    response = routes.handle(Request("GET", path, {}, {"authorization": authorization}))
    assert response.status == status
    assert ("www-authenticate" in dict(response.headers)) == (status == 401)


# --- the timeline --------------------------------------------------------------------------------


def test_followers_are_told_what_is_new_and_only_so_long(namespace: Namespace) -> None:
    clock = Clock()
    namespace.create("q", QueueSettings(), clock.now)
    other = namespace.create("other", QueueSettings(), clock.now)
    response = ask(namespace, "/$emulator/timeline", clock, follow="60", queue="q")
    assert response.more is not None
    assert [json.loads(line)["queue"] for line in response.body.splitlines()] == ["q"]
    assert next(response.more) == b""
    other.send(draft(), clock.now)
    namespace.get("q").send(draft(message_id="new"), clock.now)
    [line] = next(response.more).splitlines()
    assert json.loads(line)["message_id"] == "new"
    clock.now += 61
    assert next(response.more, None) is None


async def test_the_timeline_over_http_goes_on_as_it_happens(tmp_path: Path) -> None:
    server = Server(Settings(host="127.0.0.1", amqp_port=0, admin_port=0, tls_dir=tmp_path))
    await server.start()
    queue = server.namespace.create("q", QueueSettings(), server.clock())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.admin_port)
    path = "/$emulator/timeline?follow=60"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"transfer-encoding: chunked" in head.lower()
    for number in range(3):
        queue.send(draft(message_id=f"m-{number}"), server.clock())
        assert await asyncio.wait_for(reader.readuntil(f'"m-{number}"'.encode()), 5)
    server.advance(61)
    rest = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)
    assert rest
    writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b'"ok"' in await asyncio.wait_for(reader.read(), 5)  # and the connection is as before
    writer.close()
    await writer.wait_closed()
    await server.stop()
