"""The administration: what clients ask for over HTTP, without a socket."""

from __future__ import annotations

import json
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.admin.durations import read_duration, write_duration, write_time
from servicebus_emulator.admin.http import HttpPeer, Request, Response
from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.broker.model import FOREVER, QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import ArgumentError
from tests.unit.conftest import draft

CONNECT = "{http://schemas.microsoft.com/netservices/2010/10/servicebus/connect}"
COUNTS = "{http://schemas.microsoft.com/netservices/2011/06/servicebus}"
ATOM = "{http://www.w3.org/2005/Atom}"
ARM = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/n/queues"
VERSION = "api-version=2024-01-01"


@pytest.fixture
def admin(namespace: Namespace) -> Administration:
    return Administration(namespace, lambda: 1_000.0)


def entry(inner: str, kind: str = "QueueDescription") -> bytes:
    return (
        '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
        f'<{kind} xmlns="{CONNECT[1:-1]}">{inner}</{kind}></content></entry>'
    ).encode()


def ask(
    admin: Administration, method: str, path: str, body: bytes = b"", **headers: str
) -> Response:
    path, _, query = path.partition("?")
    pairs = dict(part.split("=") for part in query.split("&") if part)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return admin.handle(Request(method, path, pairs, {"host": "ns", **named}, body))


def text(response: Response, name: str) -> str | None:
    found: Element | None = fromstring(response.body).find(f".//{CONNECT}{name}")
    return None if found is None else found.text


def test_a_queue_s_life(admin: Administration) -> None:
    made = ask(admin, "PUT", "/q", entry("<LockDuration>PT13S</LockDuration>"))
    assert made.status == 201
    assert text(made, "LockDuration") == "PT13S"
    assert ask(admin, "PUT", "/q", entry("")).status == 409
    changed = entry("<MaxDeliveryCount>3</MaxDeliveryCount>")
    assert ask(admin, "PUT", "/q", changed, if_match="*").status == 200
    found = ask(admin, "GET", "/Q")
    assert (text(found, "LockDuration"), text(found, "MaxDeliveryCount")) == ("PT13S", "3")
    assert ask(admin, "DELETE", "/q").status == 200
    assert ask(admin, "DELETE", "/q").status == 404
    assert ask(admin, "GET", "/q").status == 404
    assert ask(admin, "PUT", "/q", changed, if_match="*").status == 404


def test_azure_s_defaults(admin: Administration) -> None:
    made = ask(admin, "PUT", "/q", entry(""))
    assert {
        name: text(made, name)
        for name in (
            "LockDuration",
            "MaxDeliveryCount",
            "DefaultMessageTimeToLive",
            "AutoDeleteOnIdle",
            "MaxSizeInMegabytes",
            "Status",
            "EntityAvailabilityStatus",
            "ForwardTo",
            "MaxMessageSizeInKilobytes",
        )
    } == {
        "LockDuration": "PT1M",
        "MaxDeliveryCount": "10",
        "DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S",
        "AutoDeleteOnIdle": "P10675199DT2H48M5.4775807S",
        "MaxSizeInMegabytes": "1024",
        "Status": "Active",
        "EntityAvailabilityStatus": "Available",
        "ForwardTo": None,
        "MaxMessageSizeInKilobytes": "256",
    }


@pytest.mark.parametrize(("tier", "limit"), [("basic", 256), ("standard", 256), ("premium", 1024)])
def test_a_client_may_send_back_what_it_was_told(tier: str, limit: int) -> None:
    admin = Administration(Namespace(tier=tier), lambda: 1_000.0)
    for path, kind in (("/q", "QueueDescription"), ("/t", "TopicDescription")):
        told = ask(admin, "PUT", path, entry("", kind)).body
        again = ask(admin, "PUT", path, told, if_match="*")
        assert again.status == 200
        assert text(again, "MaxMessageSizeInKilobytes") == str(limit)


def test_what_can_be_unset_is_unset_by_leaving_it_out(admin: Administration) -> None:
    ask(admin, "PUT", "/q", entry("<ForwardTo>sb://ns/t</ForwardTo><UserMetadata>m</UserMetadata>"))
    changed = ask(admin, "PUT", "/q", entry("<ForwardTo>sb://ns/t</ForwardTo>"), if_match="*")
    assert text(changed, "ForwardTo") == "sb://ns/t"
    assert text(changed, "UserMetadata") is None


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/q", b"", 400),
        ("/q", b"<entry", 400),
        ("/q", b"<entry/>", 400),
        ("/q", b'<!DOCTYPE a [<!ENTITY b "c">]><entry>&b;</entry>', 400),
        ("/q", entry("<LockDuration>PT4S</LockDuration>"), 400),
        ("/q", entry("<LockDuration>PT5M1S</LockDuration>"), 400),
        ("/q", entry("<LockDuration>soon</LockDuration>"), 400),
        ("/q", entry("<MaxDeliveryCount>many</MaxDeliveryCount>"), 400),
        ("/q", entry("<RequiresSession>maybe</RequiresSession>"), 400),
        ("/q", entry("<Status>Sleepy</Status>"), 400),
        ("/q", entry("", "RelayDescription"), 501),
        ("/", entry(""), 400),
        ("/a b", entry(""), 400),
    ],
)
def test_bad_descriptions_are_refused(
    admin: Administration, path: str, body: bytes, status: int
) -> None:
    refused = ask(admin, "PUT", path, body)
    assert refused.status == status
    error = fromstring(refused.body)
    assert error.findtext("Code") == str(status)
    assert error.findtext("Detail")
    assert len(admin.namespace) == 0


def test_queues_are_listed_a_page_at_a_time(admin: Administration) -> None:
    for number in range(5):
        admin.namespace.create(f"q{number}", QueueSettings(), 0)

    def page(path: str) -> tuple[list[str], list[str | None]]:
        feed = fromstring(ask(admin, "GET", path).body)
        names = [item.findtext(f"{ATOM}title") for item in feed.findall(f"{ATOM}entry")]
        return [str(name) for name in names], [x.get("href") for x in feed.findall(f"{ATOM}link")]

    names, links = page("/$Resources/queues?$skip=0&$top=3")
    assert names == ["q0", "q1", "q2"]
    assert links[1:] == ["https://ns/$Resources/queues?$skip=3&$top=3"]
    names, links = page("/$Resources/queues?$skip=3&$top=3")
    assert names == ["q3", "q4"]
    assert len(links) == 1


def test_counts_are_told(admin: Administration) -> None:
    queue = admin.namespace.create("q", QueueSettings(max_delivery_count=1), 0)
    queue.send_all([draft(), draft(), draft(scheduled_for=5_000.0)], 1_000)
    delivery = queue.receive(1_000)
    assert delivery is not None
    assert delivery.lock is not None
    queue.abandon(delivery.lock.token, 1_000)
    details = fromstring(ask(admin, "GET", "/q").body).find(f".//{CONNECT}CountDetails")
    assert details is not None
    assert {child.tag.removeprefix(COUNTS): child.text for child in details} == {
        "ActiveMessageCount": "1",
        "DeadLetterMessageCount": "1",
        "ScheduledMessageCount": "1",
        "TransferMessageCount": "0",
        "TransferDeadLetterMessageCount": "0",
    }


def test_topics_and_queues_share_their_names(admin: Administration) -> None:
    topic = entry("<RequiresDuplicateDetection>false</RequiresDuplicateDetection>")
    topic = topic.replace(b"QueueDescription", b"TopicDescription")
    assert ask(admin, "PUT", "/t", topic).status == 201
    assert ask(admin, "PUT", "/t", topic).status == 409
    assert ask(admin, "PUT", "/t", entry("")).status == 409
    assert b"<title" in ask(admin, "GET", "/$Resources/topics").body.replace(b"ns0:", b"")
    assert ask(admin, "DELETE", "/t").status == 200
    assert ask(admin, "GET", "/t").status == 404


def test_what_az_lists(admin: Administration) -> None:
    admin.namespace.create("q", QueueSettings(lock_duration=45.0), 0)
    listed = json.loads(ask(admin, "GET", f"{ARM}?{VERSION}").body)
    assert [item["name"] for item in listed["value"]] == ["q"]
    assert listed["value"][0]["properties"]["lockDuration"] == "PT45S"
    assert listed["value"][0]["id"] == f"{ARM}/q"
    assert json.loads(ask(admin, "GET", f"{ARM}/q?{VERSION}").body)["name"] == "q"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", ARM, 400, "MissingApiVersionParameter"),
        ("GET", f"{ARM}?api-version=new", 400, "InvalidApiVersionParameter"),
        ("GET", f"{ARM}?{VERSION}&$skip=x", 400, "BadRequest"),
        ("GET", f"{ARM}/other?{VERSION}", 404, "NotFound"),
        ("GET", f"{ARM.removesuffix('queues')}disks?{VERSION}", 404, "InvalidResourceType"),
        ("PUT", f"{ARM}/other?{VERSION}", 405, "MethodNotAllowed"),
    ],
)
def test_what_resource_manager_refuses(
    admin: Administration, method: str, path: str, status: int, code: str
) -> None:
    response = ask(admin, method, path)
    assert (response.status, json.loads(response.body)["error"]["code"]) == (status, code)


def test_health_queues_and_timeline(admin: Administration) -> None:
    queue = admin.namespace.create("q", QueueSettings(lock_duration=60.0), 990)
    queue.send(draft(message_id="m"), 990)
    queue.receive(990)
    assert json.loads(ask(admin, "GET", "/health").body) == {"status": "ok", "queues": 1}
    [told] = json.loads(ask(admin, "GET", "/$emulator/queues").body)["queues"]
    assert (told["name"], told["active"], told["locked"]) == ("q", 1, 1)
    assert told["locks"][0]["remaining"] == 50
    lines = ask(admin, "GET", "/$emulator/timeline?after=1").body.decode().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["enqueued", "delivered"]
    assert ask(admin, "GET", "/$emulator/timeline?after=x").status == 400
    assert ask(admin, "GET", "/$emulator/other").status == 404
    assert ask(admin, "DELETE", "/$emulator/queues").status == 405


def test_the_namespace_tells_about_itself(admin: Administration) -> None:
    told = ask(admin, "GET", "/$namespaceinfo")
    assert text(told, "MessagingSKU") == "Standard"
    assert text(told, "Name") == "ns"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT5S", 5),
        ("PT1M", 60),
        ("PT300S", 300),
        ("P1DT2H3M4.5S", 93784.5),
        ("P2W", 1_209_600),
        ("P10675199DT2H48M5.4775807S", FOREVER),
        ("P10675199DT2H48M5.477581S", FOREVER),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "5", "PT-5S", "PT5", "PT5S!", "PTS"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ArgumentError):
        read_duration(text)


@given(st.integers(0, 10**12).map(lambda micros: micros / 1000))
def test_durations_are_read_as_they_are_written(seconds: float) -> None:
    assert read_duration(write_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


def test_times() -> None:
    assert write_time(1.5) == "1970-01-01T00:00:01.5000000Z"
    assert write_time(0) == "0001-01-01T00:00:00Z"


# --- HTTP ----------------------------------------------------------------------------------------


def echo(request: Request) -> Response:
    told = f"{request.method} {request.path} {dict(request.query)} ".encode()
    return Response(200, told + request.body)


POST = b"POST /%24a?x=1&%24skip=2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"


def test_requests_may_come_byte_by_byte_and_one_after_the_other() -> None:
    whole, pieces = HttpPeer(echo), HttpPeer(echo)
    at_once, over = whole.receive(POST * 2)
    assert not over
    assert at_once.count(b"POST /$a {'x': '1', '$skip': '2'} abc") == 2
    one_by_one = b"".join(pieces.receive((POST * 2)[i : i + 1])[0] for i in range(2 * len(POST)))
    assert one_by_one == at_once


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"a" * 200_000,
    ],
)
def test_a_breach_is_answered_and_hung_up_on(data: bytes) -> None:
    out, over = HttpPeer(echo).receive(data)
    assert out.startswith(b"HTTP/1.1 4")
    assert over


@pytest.mark.parametrize("target", [b"/a/b?x=1", b"//a/b?x=1", b"http://host:1/a/b?x=1"])
def test_a_target_may_have_a_host_and_too_many_slashes(target: bytes) -> None:
    out, _ = HttpPeer(echo).receive(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"GET /a/b {'x': '1'} " in out


def test_a_body_has_a_limit() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n"
    out, _ = HttpPeer(echo).receive(head + b"x" * 3_000_000)
    assert out.startswith(b"HTTP/1.1 413")


def test_a_client_that_waits_is_told_to_go_on() -> None:
    peer = HttpPeer(echo)
    head = POST.replace(b"Content-Length", b"Expect: 100-continue\r\nContent-Length")
    out, _ = peer.receive(head[:-3])
    assert out.startswith(b"HTTP/1.1 100")
    assert b" abc" in peer.receive(b"abc")[0]
