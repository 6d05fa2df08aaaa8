"""Topics, subscriptions and rules over the administration, without a socket."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from uuid import UUID
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.admin.routes import Administration
from servicebus_emulator.admin.rules import read_rule, write_rule
from servicebus_emulator.broker.model import SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import (
    CorrelationFilter,
    FalseFilter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
)
from servicebus_emulator.gateway.hub import Hub
from tests.unit.conftest import draft
from tests.unit.test_admin import ATOM, CONNECT, COUNTS, ask, entry, text

SCHEMA = "http://www.w3.org/2001/XMLSchema"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
VERSION = "api-version=2024-01-01"
SUB = "/t/subscriptions/s"


@pytest.fixture
def admin(namespace: Namespace) -> Administration:
    return Administration(namespace, lambda: 1_000.0)


def topic(inner: str = "") -> bytes:
    return entry(inner, "TopicDescription")


def subscription(inner: str = "") -> bytes:
    return entry(inner, "SubscriptionDescription")


def rule(inner: str = "") -> bytes:
    return entry(inner, "RuleDescription")


def typed(tag: str, kind: str, inner: str = "") -> str:
    return f'<{tag} xmlns:i="{INSTANCE}" i:type="{kind}">{inner}</{tag}>'


def sql(expression: str) -> str:
    return typed("Filter", "SqlFilter", f"<SqlExpression>{expression}</SqlExpression>")


@pytest.fixture
def made(admin: Administration) -> Administration:
    assert ask(admin, "PUT", "/t", topic()).status == 201
    assert ask(admin, "PUT", SUB, subscription()).status == 201
    return admin


def titles(admin: Administration, path: str) -> list[str | None]:
    feed = fromstring(ask(admin, "GET", path).body)
    return [item.findtext(f"{ATOM}title") for item in feed.findall(f"{ATOM}entry")]


def test_a_topic_s_life(admin: Administration) -> None:
    found = ask(admin, "PUT", "/a/t", topic("<SupportOrdering>false</SupportOrdering>"))
    assert found.status == 201
    assert text(found, "SupportOrdering") == "false"
    assert text(found, "LockDuration") is None
    assert ask(admin, "PUT", "/A/T", topic()).status == 409
    assert ask(admin, "PUT", "/a/t", entry("")).status == 409
    changed = topic("<DefaultMessageTimeToLive>PT1M</DefaultMessageTimeToLive>")
    assert ask(admin, "PUT", "/a/t", changed, if_match="*").status == 200
    found = ask(admin, "GET", "/a/t")
    assert text(found, "DefaultMessageTimeToLive") == "PT1M"
    assert text(found, "SupportOrdering") == "false"
    assert titles(admin, "/$Resources/topics") == ["a/t"]
    assert ask(admin, "DELETE", "/a/t").status == 200
    for method in ("GET", "DELETE"):
        assert ask(admin, method, "/a/t").status == 404
    assert ask(admin, "PUT", "/a/t", changed, if_match="*").status == 404


def test_azure_s_defaults(made: Administration) -> None:
    found = ask(made, "GET", SUB)
    assert {
        name: text(found, name)
        for name in (
            "LockDuration",
            "MaxDeliveryCount",
            "DeadLetteringOnFilterEvaluationExceptions",
            "DeadLetteringOnMessageExpiration",
            "Status",
            "EntityAvailabilityStatus",
            "MessageCount",
            "MaxSizeInMegabytes",
        )
    } == {
        "LockDuration": "PT1M",
        "MaxDeliveryCount": "10",
        "DeadLetteringOnFilterEvaluationExceptions": "true",
        "DeadLetteringOnMessageExpiration": "false",
        "Status": "Active",
        "EntityAvailabilityStatus": "Available",
        "MessageCount": "0",
        "MaxSizeInMegabytes": None,
    }
    default = ask(made, "GET", f"{SUB}/rules/$Default")
    assert text(default, "SqlExpression") == "1=1"


def test_a_subscription_s_life(made: Administration) -> None:
    assert ask(made, "PUT", SUB, subscription()).status == 409
    changed = subscription("<LockDuration>PT7S</LockDuration>")
    assert ask(made, "PUT", SUB, changed, if_match="*").status == 200
    assert text(ask(made, "GET", "/T/Subscriptions/S"), "LockDuration") == "PT7S"
    assert titles(made, "/t/subscriptions") == ["s"]
    assert ask(made, "PUT", "/t/subscriptions/none", changed, if_match="*").status == 404
    assert ask(made, "PUT", "/none/subscriptions/s", subscription()).status == 404
    assert ask(made, "DELETE", SUB).status == 200
    assert ask(made, "GET", SUB).status == 404
    assert titles(made, "/t/subscriptions") == []


def test_a_first_rule_may_come_with_the_subscription(made: Administration) -> None:
    inner = f"<DefaultRuleDescription>{sql('a = 1')}<Name>mine</Name></DefaultRuleDescription>"
    assert ask(made, "PUT", "/t/subscriptions/other", subscription(inner)).status == 201
    assert titles(made, "/t/subscriptions/other/rules") == ["mine"]


def test_a_rule_s_life(made: Administration) -> None:
    path = f"{SUB}/rules/r"
    assert ask(made, "PUT", path, rule(sql("a = 1"))).status == 201
    assert ask(made, "PUT", path, rule(sql("a = 1"))).status == 409
    action = typed("Action", "SqlRuleAction", "<SqlExpression>REMOVE a</SqlExpression>")
    assert ask(made, "PUT", path, rule(sql("a = 2") + action), if_match="*").status == 200
    found = ask(made, "GET", path)
    assert b"a = 2" in found.body
    assert b"REMOVE a" in found.body
    assert titles(made, f"{SUB}/rules") == ["$Default", "r"]
    assert titles(made, f"{SUB}/rules?$skip=1&$top=1") == ["r"]
    assert ask(made, "DELETE", path).status == 200
    for method in ("GET", "DELETE"):
        assert ask(made, method, path).status == 404
    assert ask(made, "PUT", path, rule(sql("a = 1")), if_match="*").status == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/other", topic("<AutoDeleteOnIdle>PT1M</AutoDeleteOnIdle>"), 400),
        ("/other", topic("<MaxMessageSizeInKilobytes>1024</MaxMessageSizeInKilobytes>"), 400),
        ("/t/subscriptions/x", topic(), 400),
        ("/t/subscriptions/x", subscription("<LockDuration>PT1S</LockDuration>"), 400),
        ("/t/subscriptions/x", subscription("<MaxDeliveryCount>0</MaxDeliveryCount>"), 400),
        (f"/t/subscriptions/{'x' * 51}", subscription(), 400),
        ("/t/subscriptions", subscription(), 501),
        (f"{SUB}/rules/r", rule(sql("a =")), 400),
        (f"{SUB}/rules/r", rule(typed("Filter", "CorrelationFilter")), 400),
        (f"{SUB}/rules/r", rule(typed("Filter", "OddFilter")), 400),
        (f"{SUB}/rules/r", subscription(), 400),
        (f"{SUB}/rules/{'x' * 51}", rule(), 400),
        (f"{SUB}/rules", rule(), 501),
        ("/t/subscriptions/none/rules/r", rule(), 404),
    ],
)
def test_what_azure_refuses_is_refused(
    made: Administration, path: str, body: bytes, status: int
) -> None:
    assert ask(made, "PUT", path, body).status == status
    assert titles(made, "/t/subscriptions") == ["s"]
    assert titles(made, f"{SUB}/rules") == ["$Default"]


def test_numbers_are_told(made: Administration) -> None:
    found = made.namespace.topics.get("t")
    found.get("s").add_rule(Rule("r", CorrelationFilter({"label": "l"})), 1_000)
    found.send_all([draft(), draft(scheduled_for=5_000.0)], 1_000)
    told = ask(made, "GET", "/t")
    assert [text(told, f"{name}Count") for name in ("Subscription", "SqlFilter")] == ["1", "1"]
    assert text(told, "CorrelationFilterCount") == "1"
    assert text(told, "SizeInBytes") == "2"
    details = fromstring(told.body).find(f".//{CONNECT}CountDetails")
    assert details is not None
    assert details.findtext(f"{COUNTS}ScheduledMessageCount") == "1"
    told = ask(made, "GET", SUB)
    assert text(told, "MessageCount") == "1"
    assert 'queue="t/Subscriptions/s",state="active"} 1' in metrics(made)


def metrics(admin: Administration) -> str:
    from servicebus_emulator.admin.metrics import write_metrics

    return write_metrics(Hub(admin.namespace))


def test_namespaces_are_written_as_azure_writes_them(made: Administration) -> None:
    """Azure's JavaScript client looks for names without prefixes, and for these prefixes."""
    values = CorrelationFilter({"label": "l"}, {"n": 1})
    made.namespace.topics.get("t").get("s").add_rule(Rule("r", values), 1_000)
    feed = ask(made, "GET", "/$Resources/topics").body.decode().partition("?>\n")[2]
    entry = ask(made, "GET", f"{SUB}/rules/r").body.decode().partition("?>\n")[2]
    connect = f'xmlns="{CONNECT[1:-1]}" xmlns:i="{INSTANCE}"'
    assert feed.startswith(f'<feed xmlns="{ATOM[1:-1]}"><title')
    assert f"<TopicDescription {connect}><DefaultMessageTimeToLive>" in feed
    assert f'<CountDetails xmlns:d2p1="{COUNTS[1:-1]}"><d2p1:ActiveMessageCount>' in feed
    assert f'<RuleDescription {connect}><Filter i:type="CorrelationFilter"><Label>l<' in entry
    assert f'<Value xmlns:d6p1="{SCHEMA}" i:type="d6p1:int">1</Value>' in entry
    assert "ns0:" not in feed + entry


def test_people_see_topics_too(made: Administration) -> None:
    [told] = json.loads(ask(made, "GET", "/$emulator/queues").body)["topics"]
    assert told["name"] == "t"
    [inner] = told["subscriptions"]
    assert (inner["name"], inner["active"]) == ("t/Subscriptions/s", 0)
    assert inner["rules"] == [{"name": "$Default", "filter": "1=1", "action": None}]


def test_what_az_lists(made: Administration) -> None:
    base = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ServiceBus/namespaces/n/topics"

    def get(path: str) -> dict[str, object]:
        found = json.loads(ask(made, "GET", f"{base}{path}?{VERSION}").body)
        assert isinstance(found, dict)
        return found

    [listed] = json.loads(ask(made, "GET", f"{base}?{VERSION}").body)["value"]
    assert (listed["name"], listed["id"]) == ("t", f"{base}/t")
    assert listed["properties"]["subscriptionCount"] == 1
    assert "lockDuration" not in listed["properties"]
    [inner] = json.loads(ask(made, "GET", f"{base}/t/subscriptions?{VERSION}").body)["value"]
    assert (inner["name"], inner["id"]) == ("s", f"{base}/t/subscriptions/s")
    assert inner["properties"]["deadLetteringOnFilterEvaluationExceptions"] is True
    assert "sizeInBytes" not in inner["properties"]
    assert get("/t")["name"] == "t"
    assert get("/t/subscriptions/s") == inner
    for path in ("/other", "/t/subscriptions/other", "/other/subscriptions", "/t%0a"):
        assert ask(made, "GET", f"{base}{path}?{VERSION}").status == 404


# --- rules as XML --------------------------------------------------------------------------------

VALUES: dict[str, object] = {
    "text": "a < b & 'c'",
    "whole": 5,
    "long": 1 << 40,
    "fraction": 2.5,
    "yes": True,
    "no": False,
    "at": datetime(2026, 1, 2, 3, 4, 5),
    "after": timedelta(days=1, seconds=5),
    "id": UUID(int=1),
}


@pytest.mark.parametrize(
    "given",
    [
        Rule("a", TrueFilter()),
        Rule("b", FalseFilter()),
        Rule("c", SqlFilter("a < @whole", VALUES), SqlAction("SET a = @id", VALUES)),
        Rule("d", CorrelationFilter({"label": "l", "to": "t", "replytosessionid": "r"}, VALUES)),
    ],
)
def test_rules_are_read_as_they_are_written(given: Rule) -> None:
    description = Element("RuleDescription")
    write_rule(description, given)
    assert read_rule(description) == given


@pytest.mark.parametrize(
    ("kind", "content", "value"),
    [
        ("dateTime", "2020-07-05T11:12:13Z", datetime(2020, 7, 5, 11, 12, 13)),
        ("dateTime", "2020-07-05T13:12:13+02:00", datetime(2020, 7, 5, 11, 12, 13)),
        ("duration", "P1DT2H3M", timedelta(days=1, hours=2, minutes=3)),
        ("boolean", "1", True),
        ("int", "", None),
        ("int", "five", None),
        ("boolean", "maybe", None),
        ("dateTime", "soon", None),
        ("guid", "x", None),
        ("char", "-1", None),
        ("anyType", "x", None),
    ],
)
def test_typed_values(made: Administration, kind: str, content: str, value: object) -> None:
    pair = (
        f'<Key>k</Key><Value xmlns:d="{SCHEMA}" xmlns:i="{INSTANCE}" i:type="d:{kind}">'
        f"{content}</Value>"
    )
    values = f"<Properties><KeyValueOfstringanyType>{pair}</KeyValueOfstringanyType></Properties>"
    body = rule(typed("Filter", "CorrelationFilter", values))
    status = ask(made, "PUT", f"{SUB}/rules/r", body).status
    assert status == (400 if value is None else 201)
    if value is not None:
        found = made.namespace.topics.get("t").get("s").rule("r").filter
        assert found == CorrelationFilter(properties={"k": value})


@settings(deadline=None)  # other work may take the processor away
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_path_and_no_expression_is_a_defect(name: str, expression: str) -> None:
    admin = Administration(Namespace(), lambda: 1.0)
    admin.namespace.topics.create("t", TopicSettings(), 0)
    admin.namespace.topics.subscribe("t", "s", SubscriptionSettings(), 0)
    escaped = "".join(c for c in expression if c.isalnum() or c in " ='@[]")
    for path in (f"{SUB}/rules/{name}", f"/t/subscriptions/{name}", f"/t/{name}"):
        assert ask(admin, "PUT", path.partition("?")[0], rule(sql(escaped))).status < 502
