"""The command line and the file of queues: what is taken, and one line for what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci.servicebus.broker.model import QueueSettings, Status
from ci.servicebus.errors import StartupError
from ci.servicebus.gateway.tokens import Key
from ci.servicebus.settings import Settings, parse, read_queues


def test_nothing_given_is_the_defaults() -> None:
    assert parse([]) == Settings()


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
    assert read_queues(file) == {
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
    assert read_queues(file) == {
        "queue.1": QueueSettings(
            default_time_to_live=3600.0, duplicate_detection_window=20.0, max_delivery_count=3
        )
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
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
        read_queues(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot read"):
        read_queues(tmp_path / "none.toml")
