"""Faults, time and restarts on demand, and the metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from servicebus_emulator.admin.http import Request
from servicebus_emulator.admin.metrics import write_metrics
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import decode_all, encoded
from servicebus_emulator.amqp.types import Described, ULong
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.gateway.faults import Fault
from servicebus_emulator.gateway.hub import Hub, Peer
from servicebus_emulator.server import Server
from servicebus_emulator.settings import Settings
from tests.unit.conftest import draft
from tests.unit.peer import credit, frame, frames, hello, receiver, sender

BODY = encoded(Described(ULong(0x75), b"x"))


@pytest.fixture
def hub(namespace: Namespace) -> Hub:
    namespace.create("q", QueueSettings(), 0)
    return Hub(namespace)


def connect(hub: Hub, *performatives: p.Performative) -> Peer:
    peer = hub.connect()
    peer.receive(hello() + b"".join(map(frame, performatives)), 0)
    peer.connection.take_output()
    return peer


def told(peer: Peer) -> list[p.Performative | bytes]:
    return [item for item, _ in frames(peer.connection.take_output())]


def send(peer: Peer, number: int = 0) -> list[p.Performative | bytes]:
    peer.receive(frame(p.Transfer(0, number, b"t", 0, False), BODY), 0)
    return told(peer)


def total(hub: Hub) -> int:
    return hub.namespace.get("q").counts().total


def test_a_busy_server_rejects_and_then_accepts(hub: Hub) -> None:
    peer = connect(hub, sender("s", "q"))
    hub.faults.add(Fault("send", "reject", queue="Q", times=2))
    hub.faults.add(Fault("send", "reject", queue="other"))
    for number in range(2):
        [answer] = send(peer, number)
        assert isinstance(answer, p.Disposition)
        assert isinstance(answer.state, p.Rejected)
        assert answer.state.error is not None
        assert answer.state.error.condition == "com.microsoft:server-busy"
    [answer] = send(peer, 2)
    assert answer == p.Disposition(p.RECEIVER, 2, 2, True, p.Accepted())
    assert total(hub) == 1
    assert len(hub.faults.waiting) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_connection_is_cut_before_or_after_the_message_is_taken(hub: Hub, late: bool) -> None:
    peer = connect(hub, sender("s", "q"))
    hub.faults.add(Fault("send", "drop", late=late))
    send(peer)
    assert peer.is_dropped
    assert peer in hub.take_dirty()
    assert total(hub) == late
    assert not hub.faults


@pytest.mark.parametrize("late", [False, True])
def test_a_link_is_detached_with_the_error_asked_for(hub: Hub, late: bool) -> None:
    peer = connect(hub, sender("s", "q"))
    hub.faults.add(Fault("send", "detach", condition="amqp:link:detach-forced", late=late))
    [answer] = send(peer)
    assert isinstance(answer, p.Detach)
    assert answer.error is not None
    assert answer.error.condition == "amqp:link:detach-forced"
    assert total(hub) == late


def test_a_delay_silences_the_connection(hub: Hub) -> None:
    peer = connect(hub, sender("s", "q"))
    hub.faults.add(Fault("send", "delay", seconds=5.0))
    peer.receive(frame(p.Transfer(0, 0, b"t", 0, False), BODY), 10)
    assert peer.is_silent
    assert total(hub) == 1
    assert hub.next_due() == 15
    hub.take_dirty()
    hub.advance(15)
    assert not peer.is_silent
    assert hub.take_dirty() == [peer]
    assert hub.next_due() is None


def test_a_settlement_can_fail(hub: Hub) -> None:
    hub.namespace.get("q").send(draft(), 0)
    peer = connect(hub)
    hub.namespace.get("q").receive_and_delete(0)
    send(connect(hub, sender("s", "q")))
    peer.receive(frame(receiver("r", "q")) + frame(credit(1)), 0)
    peer.connection.take_output()
    hub.faults.add(Fault("settle", "reject", condition="com.microsoft:message-lock-lost"))
    peer.receive(frame(p.Disposition(p.RECEIVER, 0, 0, False, p.Accepted())), 0)
    [answer] = told(peer)
    assert isinstance(answer, p.Disposition)
    assert isinstance(answer.state, p.Rejected)
    assert total(hub) == 1


def test_an_attach_can_be_refused(hub: Hub) -> None:
    hub.faults.add(Fault("attach", "reject", queue="q"))
    peer = connect(hub)
    peer.receive(frame(sender("s", "amqps://host/q")), 0)
    answer = told(peer)[-1]
    assert isinstance(answer, p.Detach)
    assert answer.error is not None
    assert answer.error.condition == "com.microsoft:server-busy"


@pytest.mark.parametrize(
    ("node", "operation", "fault", "status"),
    [
        ("$cbs", "put-token", Fault("token", "reject"), 401),
        ("q/$management", "com.microsoft:renew-lock", Fault("request", "reject"), 503),
        (
            "q/$management",
            "com.microsoft:renew-lock",
            Fault(
                "request",
                "reject",
                operation="renew-lock",
                condition="com.microsoft:message-lock-lost",
            ),
            410,
        ),
    ],
)
def test_a_request_can_be_refused(
    hub: Hub, node: str, operation: str, fault: Fault, status: int
) -> None:
    peer = connect(hub, sender("c", node, 0), receiver("c", node, 1), credit(5))
    hub.faults.add(fault)
    asked = encoded(Described(ULong(0x74), {"operation": operation}))
    peer.receive(frame(p.Transfer(0, 0, b"t", 0, True), asked), 0)
    payload = frames(peer.connection.take_output())[-1][1]
    properties = decode_all(payload)[1]
    assert isinstance(properties, Described)
    assert isinstance(properties.value, dict)
    assert status in properties.value.values()


LOCAL = Settings(host="127.0.0.1", amqp_port=0, admin_port=0, control=True)

Ask = Callable[..., tuple[int, object]]


@pytest.fixture
async def server() -> Server:
    """Controlled, with a clock that stands; it does not listen."""
    made = Server(LOCAL, clock=lambda: 1_000.0)
    made.namespace.create("q", QueueSettings(lock_duration=30.0), 1_000)
    return made


def ask(server: Server, method: str, path: str, body: object = None) -> tuple[int, object]:
    raw = b"" if body is None else json.dumps(body).encode()
    response = server.administration.handle(Request(method, f"/$emulator/{path}", body=raw))
    return response.status, json.loads(response.body)


async def test_time_passes_at_once(server: Server) -> None:
    queue = server.namespace.get("q")
    queue.send(draft(), server.clock())
    queue.receive(server.clock())
    assert ask(server, "GET", "clock") == (200, {"now": 1_000, "ahead": 0})
    assert ask(server, "POST", "clock", {"advance": 29.5})[0] == 200
    assert queue.counts().locked == 1
    assert ask(server, "POST", "clock", {"advance": 1}) == (200, {"now": 1_030.5, "ahead": 30.5})
    assert queue.counts().locked == 0
    await server.stop()


async def test_faults_are_listed_and_taken_back(server: Server) -> None:
    status, made = ask(server, "POST", "faults", {"on": "send", "do": "delay", "seconds": 2})
    assert status == 201
    assert isinstance(made, dict)
    assert ask(server, "GET", "faults") == (200, [made])
    assert ask(server, "DELETE", f"faults/{made['number']}") == (200, {})
    assert ask(server, "DELETE", f"faults/{made['number']}")[0] == 404
    ask(server, "POST", "faults", {"on": "send", "do": "drop", "late": True})
    assert ask(server, "DELETE", "faults") == (200, {})
    assert ask(server, "GET", "faults") == (200, [])


@pytest.mark.parametrize("state", ["keep", "lose"])
async def test_a_restart_cuts_connections_and_may_lose_the_state(
    server: Server, state: str
) -> None:
    queue = server.namespace.get("q")
    queue.send(draft(), server.clock())
    peer = server.hub.connect()
    assert ask(server, "POST", "restart", {"state": state}) == (200, {})
    assert peer.is_dropped
    assert ("q" in server.namespace) == (state == "keep")
    await server.stop()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "clock", {"advance": -1}, 400),
        ("POST", "clock", {"advance": "1"}, 400),
        ("POST", "clock", {"advance": True}, 400),
        ("POST", "clock", {}, 400),
        ("POST", "clock", None, 400),
        ("POST", "clock", [], 400),
        ("PUT", "clock", {}, 405),
        ("POST", "faults", {"on": "send"}, 400),
        ("POST", "faults", {"on": "send", "do": "x"}, 400),
        ("POST", "faults", {"on": "attach", "do": "detach"}, 400),
        ("POST", "faults", {"on": "send", "do": "delay"}, 400),
        ("POST", "faults", {"on": "send", "do": "reject", "late": True}, 400),
        ("POST", "faults", {"on": "send", "do": "drop", "times": 0}, 400),
        ("POST", "faults", {"on": "send", "do": "drop", "number": 1}, 400),
        ("DELETE", "faults/x", None, 405),
        ("POST", "restart", {"state": "x"}, 400),
    ],
)
async def test_what_makes_no_sense_is_told(
    server: Server, method: str, path: str, body: object, status: int
) -> None:
    answer = ask(server, method, path, body)
    assert answer[0] == status
    assert isinstance(answer[1], dict)
    assert answer[1]["error"]


async def test_it_is_off_by_default() -> None:
    server = Server(replace(LOCAL, control=False))
    for path in ("clock", "faults", "restart"):
        assert ask(server, "POST", path, {})[0] == 404


def test_metrics(hub: Hub) -> None:
    hub.namespace.create("other", QueueSettings(), 0)
    send(connect(hub, sender("s", "q")))
    hub.namespace.delete("other", 0)
    lines = write_metrics(hub).splitlines()
    assert "servicebus_connections 1" in lines
    assert 'servicebus_queue_messages{queue="q",state="active"} 1' in lines
    assert f'servicebus_queue_size_bytes{{queue="q"}} {len(BODY)}' in lines
    assert 'servicebus_events_total{queue="q",kind="enqueued"} 1' in lines
    assert 'servicebus_events_total{queue="other",kind="queue-created"} 1' not in lines
