"""The topics of a namespace by name, and their subscriptions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from servicebus_emulator.broker.checks import check_name, check_settings, check_subscription_name
from servicebus_emulator.broker.model import SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import Rule
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.errors import EntityExists, EntityNotFound

if TYPE_CHECKING:
    from servicebus_emulator.broker.namespace import Namespace

_PATH = re.compile(r"(?P<topic>.+)/subscriptions/(?P<subscription>[^/]+)", re.IGNORECASE)


class Topics:
    """Belongs to a namespace, as which it keeps names, timers and the journal."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._topics: dict[str, Topic] = {}

    def __iter__(self) -> Iterator[Topic]:
        """By name."""
        return iter([self._topics[key] for key in sorted(self._topics)])

    def __len__(self) -> int:
        return len(self._topics)

    # --- topics ----------------------------------------------------------------------------------

    def create(self, name: str, settings: TopicSettings, now: float) -> Topic:
        """Make a topic without subscriptions."""
        check_name(name)
        check_settings(settings, self._namespace.tier)
        self._namespace.check_free(name)
        topic = self.restore(name, settings, now)
        self._namespace.record(now, "topic-created", name)
        return topic

    def restore(self, name: str, settings: TopicSettings, now: float) -> Topic:
        """Put a topic back that had been created before."""
        topic = Topic(name, settings, self._namespace, now)
        self._topics[name.lower()] = topic
        self._namespace.defined(topic, now)
        return topic

    def update(self, name: str, settings: TopicSettings, now: float) -> Topic:
        """Change a topic; what cannot change in Azure cannot change here."""
        topic = self.get(name)
        self._namespace.change(topic, settings, now)
        self._namespace.record(now, "topic-updated", topic.name)
        return topic

    def delete(self, name: str, now: float) -> None:
        """Remove a topic with its subscriptions."""
        topic = self.get(name)
        for subscription in topic.subscriptions:
            self.unsubscribe(topic.name, subscription.short_name, now)
        del self._topics[topic.name.lower()]
        self._namespace.gone(topic)
        self._namespace.record(now, "topic-deleted", topic.name)

    def find(self, name: str) -> Topic | None:
        """The topic of that name; names do not depend on case."""
        return self._topics.get(name.lower())

    def get(self, name: str) -> Topic:
        """The topic of that name; raises EntityNotFound."""
        topic = self.find(name)
        if topic is None:
            raise EntityNotFound(f"The messaging entity '{name}' could not be found.")
        return topic

    def resolve(self, path: str) -> Queue:
        """A topic, or a subscription as ``topic/Subscriptions/name``; raises EntityNotFound."""
        match = _PATH.fullmatch(path)
        if match is not None and (topic := self.find(match["topic"])) is not None:
            return topic.get(match["subscription"])
        return self.get(path)

    # --- subscriptions ---------------------------------------------------------------------------

    def subscribe(
        self,
        topic_name: str,
        name: str,
        settings: SubscriptionSettings,
        now: float,
        rules: Iterable[Rule] | None = None,
    ) -> Subscription:
        """Make a subscription; without ``rules`` it gets every message."""
        check_subscription_name(name)
        check_settings(settings, self._namespace.tier)
        topic = self.get(topic_name)
        if topic.find(name) is not None:
            raise EntityExists(
                f"The messaging entity '{topic.name}/Subscriptions/{name}' already exists."
            )
        subscription = self.restore_subscription(topic, name, settings, now)
        self._namespace.record(now, "subscription-created", subscription.name)
        for rule in (Rule(),) if rules is None else rules:
            subscription.add_rule(rule, now)
        return subscription

    def restore_subscription(
        self, topic: Topic, name: str, settings: SubscriptionSettings, now: float
    ) -> Subscription:
        """Put a subscription back that had been created before, without rules."""
        subscription = Subscription(topic, name, settings, self._namespace, now)
        self._namespace.add_sub_queues(subscription, now)
        topic.add(subscription)
        self._namespace.defined(subscription, now)
        return subscription

    def update_subscription(
        self, topic_name: str, name: str, settings: SubscriptionSettings, now: float
    ) -> Subscription:
        """Change a subscription; what cannot change in Azure cannot change here."""
        subscription = self.get(topic_name).get(name)
        self._namespace.change(subscription, settings, now)
        self._namespace.record(now, "subscription-updated", subscription.name)
        return subscription

    def unsubscribe(self, topic_name: str, name: str, now: float) -> None:
        """Remove a subscription with all that is in it."""
        topic = self.get(topic_name)
        subscription = topic.get(name)
        topic.remove(subscription)
        self._namespace.gone(subscription)
        self._namespace.record(now, "subscription-deleted", subscription.name)
