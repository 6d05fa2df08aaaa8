"""The command line and the file of queues: what is taken, and one line for what is not."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from servicebus_emulator.broker.model import (
    QueueSettings,
    Status,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import CorrelationFilter, Rule, SqlAction, SqlFilter
from servicebus_emulator.config import SubscriptionPlan, TopicPlan, read_config
from servicebus_emulator.errors import StartupError
from servicebus_emulator.gateway.tokens import Key
from servicebus_emulator.settings import Settings, parse


def test_nothing_given_is_the_defaults() -> None:
    assert parse([]) == Settings()


def test_by_hand_it_listens_on_this_machine_alone() -> None:
    assert ip_address(parse([]).host).is_loopback


def test_its_container_image_listens_on_every_interface() -> None:
    """A pod's ports are reached through its network, never through its loopback."""
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text("utf-8")
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.+)$", dockerfile, re.MULTILINE)
    program, *options = json.loads(entrypoint)
    assert (program, options[:2]) == ("python", ["-m", "servicebus_emulator"])
    assert parse(options[2:]).host == "0.0.0.0"
    assert parse([*options[2:], "--host", "10.0.0.1"]).host == "10.0.0.1", "arguments come after"


def test_everything_given() -> None:
    line = (
        "--host 127.0.0.1 --amqp-port 1 --amqps-port 2 --admin-port 3 --tls-dir t --tls-name a "
        "--tls-name b --config c --state memory --tier premium --auth sas --key n=k= "
        "--log-level debug"
    )
    given = parse(line.split())
    assert given.amqps_port == 2
    assert given.tls_names == ("a", "b")
    assert given.keys == (Key("n", "k="),)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("n=a:Send,listen", Key("n", "a", frozenset({"Send", "Listen"}))),
        ("n=a:b:Manage", Key("n", "a:b", frozenset({"Manage"}))),
        ("n=a:Send,b", Key("n", "a:Send,b")),
        ("n=a:", Key("n", "a:")),
    ],
)
def test_a_key_may_end_with_its_rights(given: str, key: Key) -> None:
    assert parse(["--auth", "sas", "--key", given]).keys == (key,)


@pytest.mark.parametrize(
    "line",
    [
        "--nonsense",
        "--amqp-port x",
        "--amqp-port 65536",
        "--tls-cert a",
        "--state=",
        "--auth sas",
        "--auth sas --key nokey",
        "--tier gold",
    ],
)
def test_bad_options_are_told_with_a_remedy(line: str) -> None:
    with pytest.raises(StartupError) as caught:
        parse(line.split())
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_queues_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "q.toml"
    file.write_text(
        '[[queue]]\nname = "a"\nlock_duration = 30\nstatus = "SendDisabled"\n'
        '[[queue]]\nname = "b"\nrequires_session = true\nforward_to = "a"\n'
    )
    assert read_config(file).queues == {
        "a": QueueSettings(lock_duration=30.0, status=Status.SEND_DISABLED),
        "b": QueueSettings(requires_session=True, forward_to="a"),
    }


def test_queues_from_the_json_of_microsoft_s_emulator(tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    properties = {
        "DeadLetteringOnMessageExpiration": False,
        "DefaultMessageTimeToLive": "PT1H",
        "DuplicateDetectionHistoryTimeWindow": "PT20S",
        "ForwardTo": "",
        "LockDuration": "PT1M",
        "MaxDeliveryCount": 3,
        "RequiresSession": False,
    }
    queues = [{"Name": "queue.1", "Properties": properties}]
    file.write_text(json.dumps({"UserConfig": {"Namespaces": [{"Name": "n", "Queues": queues}]}}))
    assert read_config(file).queues == {
        "queue.1": QueueSettings(
            default_time_to_live=3600.0, duplicate_detection_window=20.0, max_delivery_count=3
        )
    }


TOPICS = """
[[topic]]
name = "events"
default_time_to_live = 60
[[topic.subscription]]
name = "all"
[[topic.subscription]]
name = "some"
lock_duration = 30
requires_session = true
dead_lettering_on_filter_evaluation_exceptions = false
[[topic.subscription.rule]]
name = "big"
sql = "amount > 100"
action = "SET big = TRUE"
[[topic.subscription.rule]]
name = "red"
correlation = { label = "l", reply_to = "r", properties = { color = "red", n = 5 } }
"""


def test_topics_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(TOPICS)
    some = SubscriptionSettings(
        lock_duration=30.0,
        requires_session=True,
        dead_lettering_on_filter_evaluation_exceptions=False,
    )
    correlated = CorrelationFilter({"label": "l", "replyto": "r"}, {"color": "red", "n": 5})
    rules = (
        Rule("big", SqlFilter("amount > 100"), SqlAction("SET big = TRUE")),
        Rule("red", correlated),
    )
    plan = read_config(file)
    assert plan.queues == {}
    assert plan.topics == {
        "events": TopicPlan(
            TopicSettings(default_time_to_live=60.0),
            {
                "all": SubscriptionPlan(SubscriptionSettings()),
                "some": SubscriptionPlan(some, rules),
            },
        )
    }


def test_what_is_there_is_left_as_it_became(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(TOPICS + '[[queue]]\nname = "q"\n')
    namespace = Namespace()
    read_config(file).make(namespace, 0)
    topic = namespace.topics.get("events")
    topic.get("some").remove_rule("big", 0)
    namespace.topics.unsubscribe("events", "all", 0)
    read_config(file).make(namespace, 0)
    assert "q" in namespace
    assert [rule.name for rule in topic.get("some").rules] == ["red"]
    assert [rule.name for rule in topic.get("all").rules] == ["$Default"]


def test_a_queue_of_the_state_with_a_topic_s_name_is_told(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text(TOPICS)
    namespace = Namespace()
    namespace.create("Events", QueueSettings(), 0)
    with pytest.raises(StartupError, match="already exists"):
        read_config(file).make(namespace, 0)


def test_topics_from_the_json_of_microsoft_s_emulator(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    rules = [
        {
            "Name": "by-correlation",
            "Properties": {
                "FilterType": "Correlation",
                "CorrelationFilter": {"ContentType": "a/b", "To": "t", "Properties": {"p": "v"}},
            },
        },
        {
            "Name": "by-sql",
            "Properties": {
                "FilterType": "Sql",
                "SqlFilter": {"SqlExpression": "sys.MessageId = '1' AND n > 1"},
                "Action": {"SqlExpression": "SET sys.To = 'x'"},
            },
        },
    ]
    subscription = {"Name": "s", "Properties": {"LockDuration": "PT30S"}, "Rules": rules}
    topic = {
        "Name": "t",
        "Properties": {"DefaultMessageTimeToLive": "PT1H", "RequiresDuplicateDetection": False},
        "Subscriptions": [subscription, {"Name": "bare"}],
    }
    file.write_text(json.dumps({"UserConfig": {"Namespaces": [{"Name": "n", "Topics": [topic]}]}}))
    found = read_config(file).topics["t"]
    assert found.settings == TopicSettings(default_time_to_live=3600.0)
    assert found.subscriptions["bare"] == SubscriptionPlan(SubscriptionSettings())
    plan = found.subscriptions["s"]
    assert plan.settings == SubscriptionSettings(lock_duration=30.0)
    assert plan.rules == (
        Rule("by-correlation", CorrelationFilter({"contenttype": "a/b", "to": "t"}, {"p": "v"})),
        Rule("by-sql", SqlFilter("sys.MessageId = '1' AND n > 1"), SqlAction("SET sys.To = 'x'")),
    )


def topic_with(line: str) -> str:
    return f'[[topic]]\nname = "t"\n{line}'


def rule_with(line: str) -> str:
    subscription = '[[topic.subscription]]\nname = "s"\n[[topic.subscription.rule]]\n'
    return topic_with(f'{subscription}name = "r"\n{line}')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.toml", "[[topic]]"),
        ("q.toml", "topic = 1"),
        ("q.toml", topic_with("lock_duration = 30")),
        ("q.toml", topic_with("[[queue]]\nname = 'T'")),
        ("q.toml", topic_with("[[topic.subscription]]\nname = 'a/b'")),
        ("q.toml", topic_with("[[topic.subscription]]\nname = 's'\nmax_size_in_megabytes = 1")),
        ("q.toml", rule_with("sql = '1='")),
        ("q.toml", rule_with("sql = 1")),
        ("q.toml", rule_with("filter = 1")),
        ("q.toml", rule_with("sql = '1=1'\ncorrelation = { label = 'l' }")),
        ("q.toml", rule_with("correlation = { color = 'l' }")),
        ("q.toml", rule_with("correlation = { properties = { a = [] } }")),
        ("q.toml", rule_with("correlation = {}")),
        ("q.toml", rule_with("action = 'DROP x'")),
        ("q.toml", "[[queue"),
        ("q.toml", "[[queues]]"),
        ("q.toml", "[[queue]]\nlock_duration = 30"),
        ("q.toml", '[[queue]]\nname = "a"\nlock = 30'),
        ("q.toml", '[[queue]]\nname = "a"\nlock_duration = "30"'),
        ("q.toml", '[[queue]]\nname = "a"\nlock_duration = 3'),
        ("q.toml", '[[queue]]\nname = "a"\nmax_delivery_count = true'),
        ("q.toml", '[[queue]]\nname = "a"\nstatus = "x"'),
        ("q.toml", '[[queue]]\nname = "a"\n[[queue]]\nname = "A"'),
        ("q.json", "{}"),
        ("q.json", "["),
        (
            "q.json",
            '{"UserConfig": {"Namespaces": [{"Queues": [{"Name": "a", "Properties": 5}]}]}}',
        ),
    ],
)
def test_a_bad_file_is_told_with_a_remedy(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(StartupError, match=name):
        read_config(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot read"):
        read_config(tmp_path / "none.toml")
