"""azure-mgmt-servicebus, unmodified, against an emulator in this process.

``az servicebus queue list`` asks through the same package.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.servicebus import ServiceBusManagementClient
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from servicebus_emulator.broker.model import (
    Draft,
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.rules import CorrelationFilter, Rule, SqlAction, SqlFilter
from tests.unit.test_sdk import Emulator

pytestmark = pytest.mark.program  # the SDK's user agent takes the processor's name from uname


class Credential:
    """Tokens that no one signed."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("not.signed.token", int(time.time()) + 3_600)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    running = Emulator(tmp_path_factory.mktemp("tls"))
    yield running
    running.stop()


@pytest.fixture
def management(emulator: Emulator) -> Iterator[ServiceBusManagementClient]:
    with manager(emulator) as client:
        yield client


def manager(emulator: Emulator, **options: Any) -> ServiceBusManagementClient:
    return ServiceBusManagementClient(
        Credential(),
        "subscription",
        f"https://localhost:{emulator.server.admin_port}",
        connection_verify=str(emulator.authority),
        **options,
    )


def create(emulator: Emulator, name: str, **settings: Any) -> None:
    async def work() -> None:
        namespace = emulator.server.namespace
        namespace.create(name, QueueSettings(**settings), emulator.server.clock())

    emulator.run(work())


def test_queues_are_listed_over_pages_with_their_locks(
    emulator: Emulator, management: ServiceBusManagementClient
) -> None:
    locks = {f"listed-{number:03}": timedelta(seconds=5 + number) for number in range(205)}
    for name, lock in locks.items():
        create(emulator, name, lock_duration=lock.total_seconds())
    for options in ({}, {"top": 50}, {"top": 1_000}):
        found = {
            queue.name: queue.properties.lock_duration
            for queue in management.queues.list_by_namespace("group", "contoso", **options)
            if queue.name is not None and queue.properties is not None
        }
        assert {name: lock for name, lock in found.items() if name in locks} == locks


def test_a_queue_is_shown_whole(emulator: Emulator, management: ServiceBusManagementClient) -> None:
    create(emulator, "dead", user_metadata="for those given up")
    create(
        emulator,
        "whole",
        lock_duration=90.0,
        max_delivery_count=3,
        forward_dead_lettered_messages_to="dead",
        default_time_to_live=86_400.0 * 1.5,
    )
    with (
        ServiceBusClient.from_connection_string(emulator.amqp) as client,
        client.get_queue_sender("whole") as sender,
    ):
        sender.send_messages([ServiceBusMessage("one"), ServiceBusMessage("two")])
        sender.schedule_messages(ServiceBusMessage("late"), datetime.now(UTC) + timedelta(days=1))
    queue = management.queues.get("group", "contoso", "whole")
    assert queue.id == (
        "/subscriptions/subscription/resourceGroups/group/providers/Microsoft.ServiceBus"
        "/namespaces/contoso/queues/whole"
    )
    shown = queue.properties
    assert shown is not None
    assert shown.lock_duration == timedelta(seconds=90)
    assert shown.default_message_time_to_live == timedelta(days=1.5)
    assert shown.max_delivery_count == 3
    assert shown.forward_dead_lettered_messages_to == "dead"
    assert shown.status == "Active"
    assert shown.message_count == 3
    assert shown.count_details is not None
    assert shown.count_details.active_message_count == 2
    assert shown.count_details.scheduled_message_count == 1
    assert shown.created_at is not None
    assert abs(shown.created_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_is_not_there_is_told_as_resource_manager_tells_it(
    management: ServiceBusManagementClient,
) -> None:
    with pytest.raises(ResourceNotFoundError) as missing:
        management.queues.get("group", "contoso", "none")
    assert missing.value.error is not None
    assert missing.value.error.code == "NotFound"


def test_an_api_version_that_is_none_is_refused(emulator: Emulator) -> None:
    with (
        manager(emulator, api_version="newest") as management,
        pytest.raises(HttpResponseError) as refused,
    ):
        list(management.queues.list_by_namespace("group", "contoso"))
    assert refused.value.status_code == 400
    assert refused.value.error is not None
    assert refused.value.error.code == "InvalidApiVersionParameter"


def test_topics_and_subscriptions_are_listed_and_shown(
    emulator: Emulator, management: ServiceBusManagementClient
) -> None:
    async def work() -> None:
        topics, now = emulator.server.namespace.topics, emulator.server.clock()
        topics.create("events", TopicSettings(default_time_to_live=3_600.0), now)
        for name, lock in (("one", 30.0), ("two", 45.0)):
            topics.subscribe("events", name, SubscriptionSettings(lock_duration=lock), now)
        topics.get("events").send(Draft(b"", 5), now)
        correlated = CorrelationFilter({"label": "l", "replyto": "r"}, {"n": 5})
        topics.get("events").get("two").add_rule(Rule("a", correlated), now)
        action = SqlAction("SET b = 1")
        topics.get("events").get("two").add_rule(Rule("b", SqlFilter("a = 1"), action), now)

    emulator.run(work())
    [topic] = management.topics.list_by_namespace("group", "contoso")
    shown = management.topics.get("group", "contoso", "events").properties
    assert topic.name == "events"
    assert shown is not None
    assert shown.default_message_time_to_live == timedelta(hours=1)
    assert (shown.subscription_count, shown.size_in_bytes) == (2, 10)
    found = {
        subscription.name: subscription.properties.lock_duration
        for subscription in management.subscriptions.list_by_topic("group", "contoso", "events")
        if subscription.properties is not None
    }
    assert found == {"one": timedelta(seconds=30), "two": timedelta(seconds=45)}
    inner = management.subscriptions.get("group", "contoso", "events", "two")
    assert inner.id == f"{topic.id}/subscriptions/two"
    assert inner.properties is not None
    assert inner.properties.message_count == 1
    with pytest.raises(ResourceNotFoundError):
        management.subscriptions.get("group", "contoso", "events", "three")
    rules = list(management.rules.list_by_subscriptions("group", "contoso", "events", "two"))
    assert [rule.name for rule in rules] == ["$Default", "a", "b"]
    assert [rule.sql_filter and rule.sql_filter.sql_expression for rule in rules] == [
        "1=1",
        None,
        "a = 1",
    ]
    asked = management.rules.get("group", "contoso", "events", "two", "a").correlation_filter
    assert asked is not None
    assert (asked.label, asked.reply_to, asked.properties) == ("l", "r", {"n": "5"})
    assert rules[2].action is not None
    assert rules[2].action.sql_expression == "SET b = 1"
    with pytest.raises(ResourceNotFoundError):
        management.rules.get("group", "contoso", "events", "two", "c")
