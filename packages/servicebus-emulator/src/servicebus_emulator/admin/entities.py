"""Queues, topics, subscriptions and rules over Atom: paths to what there is.

====================================================== =========================================
``GET /$Resources/queues``, ``/$Resources/topics``     the queues, the topics
``GET /$namespaceinfo``                                the namespace
``GET PUT DELETE /NAME``                               one queue or topic
``GET /TOPIC/subscriptions``                           a topic's subscriptions
``GET PUT DELETE /TOPIC/subscriptions/NAME``           one subscription
``GET /TOPIC/subscriptions/NAME/rules``                a subscription's rules
``GET PUT DELETE /TOPIC/subscriptions/NAME/rules/R``   one rule
====================================================== =========================================

Lists come by pages (``?$skip=N&$top=N``). PUT makes; with ``If-Match`` it changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar
from xml.etree.ElementTree import Element

from servicebus_emulator.admin import atom
from servicebus_emulator.admin.descriptions import (
    QUEUE,
    SUBSCRIPTION,
    TOPIC,
    is_description,
    local,
    read_settings,
)
from servicebus_emulator.admin.http import Request, Response, whole
from servicebus_emulator.admin.rules import read_rule
from servicebus_emulator.broker.checks import check_name
from servicebus_emulator.broker.model import QueueSettings, SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import check_rule_name
from servicebus_emulator.broker.topic import Subscription
from servicebus_emulator.errors import ArgumentError, NotImplementedByEmulator

PAGE = 100
MAX_PAGE = 1000

_RULES = re.compile(
    r"(?P<topic>.+)/subscriptions/(?P<subscription>[^/]+)/rules(?:/(?P<rule>[^/]+))?",
    re.IGNORECASE,
)
_SUBSCRIPTIONS = re.compile(
    r"(?P<topic>.+)/subscriptions(?:/(?P<subscription>[^/]+))?", re.IGNORECASE
)

T = TypeVar("T")


class Entities:
    """Answers requests about the entities of one namespace."""

    def __init__(self, namespace: Namespace, clock: Callable[[], float]) -> None:
        self._namespace = namespace
        self._topics = namespace.topics
        self._clock = clock
        self._started_at = clock()

    def handle(self, path: str, request: Request) -> Response:
        """The response to a request; raises a ServiceBusError."""
        base = f"https://{request.headers.get('host', 'localhost')}"
        match path.lower():
            case "$resources/queues":
                return self._list("Queues", path, list(self._namespace), request, base)
            case "$resources/topics":
                return self._list("Topics", path, list(self._topics), request, base)
            case "$namespaceinfo":
                host = request.headers.get("host", "localhost").partition(":")[0]
                body = atom.write_namespace_info(
                    host.partition(".")[0], self._namespace.tier, self._started_at, base
                )
                return Response(200, body, atom.CONTENT_TYPE)
        if path not in self._namespace:
            if found := _RULES.fullmatch(path):
                subscription = self._topics.get(found["topic"]).get(found["subscription"])
                return self._rules(subscription, found["rule"], request, base)
            if found := _SUBSCRIPTIONS.fullmatch(path):
                return self._subscriptions(found["topic"], found["subscription"], request, base)
        return self._queue_or_topic(path, request, base)

    # --- queues and topics -----------------------------------------------------------------------

    def _queue_or_topic(self, name: str, request: Request, base: str) -> Response:
        topic = self._topics.find(name)
        match request.method:
            case "GET" | "HEAD":
                return _entity(topic or self._namespace.get(name), base)
            case "PUT":
                return self._put(name, request, base)
            case "DELETE":
                (self._namespace if topic is None else self._topics).delete(name, self._clock())
                return Response(200)
        raise _not_offered(request)

    def _put(self, name: str, request: Request, base: str) -> Response:
        check_name(name)
        description = atom.read_description(request.body)
        now, is_update = self._clock(), _is_update(request)
        found: Queue
        if is_description(description, TOPIC):
            if is_update:
                before = self._topics.get(name).settings
                assert isinstance(before, TopicSettings)
                found = self._topics.update(name, read_settings(description, before), now)
            else:
                made = read_settings(description, TopicSettings())
                found = self._topics.create(name, made, now)
        elif is_description(description, QUEUE):
            if is_update:
                settings = read_settings(description, self._namespace.get(name).settings)
                found = self._namespace.update(name, settings, now)
            else:
                settings = read_settings(description, QueueSettings())
                found = self._namespace.create(name, settings, now)
        else:
            raise NotImplementedByEmulator("Only queues and topics can be made here.")
        return _entity(found, base, 200 if is_update else 201)

    # --- subscriptions ---------------------------------------------------------------------------

    def _subscriptions(
        self, topic_name: str, name: str | None, request: Request, base: str
    ) -> Response:
        topic = self._topics.get(topic_name)
        if name is None:
            path = f"{topic.name}/Subscriptions"
            return self._list("Subscriptions", path, topic.subscriptions, request, base)
        match request.method:
            case "GET" | "HEAD":
                return _entity(topic.get(name), base)
            case "PUT":
                return self._put_subscription(topic.name, name, request, base)
            case "DELETE":
                self._topics.unsubscribe(topic.name, name, self._clock())
                return Response(200)
        raise _not_offered(request)

    def _put_subscription(self, topic: str, name: str, request: Request, base: str) -> Response:
        description = atom.read_description(request.body)
        if not is_description(description, SUBSCRIPTION):
            raise ArgumentError("The entry should hold a SubscriptionDescription.")
        now = self._clock()
        if _is_update(request):
            before = self._topics.get(topic).get(name).settings
            assert isinstance(before, SubscriptionSettings)
            settings = read_settings(description, before)
            return _entity(self._topics.update_subscription(topic, name, settings, now), base)
        rules = [
            read_rule(element)
            for element in description
            if local(element) == "DefaultRuleDescription"
        ]
        for rule in rules:
            check_rule_name(rule.name)
        settings = read_settings(description, SubscriptionSettings())
        made = self._topics.subscribe(topic, name, settings, now, rules or None)
        return _entity(made, base, 201)

    # --- rules -----------------------------------------------------------------------------------

    def _rules(
        self, subscription: Subscription, name: str | None, request: Request, base: str
    ) -> Response:
        if name is None:
            return self._feed(
                "Rules",
                f"{subscription.name}/Rules",
                subscription.rules,
                request,
                base,
                lambda rule, base: atom.rule_entry(rule, subscription, base),
            )
        status, now = 200, self._clock()
        match request.method:
            case "GET" | "HEAD":
                rule = subscription.rule(name)
            case "PUT":
                check_rule_name(name)
                description = atom.read_description(request.body)
                if local(description) != "RuleDescription":
                    raise ArgumentError("The entry should hold a RuleDescription.")
                rule = read_rule(description, name)
                if _is_update(request):
                    rule = subscription.update_rule(rule, now)
                else:
                    rule, status = subscription.add_rule(rule, now), 201
            case "DELETE":
                subscription.remove_rule(name, now)
                return Response(200)
            case _:
                raise _not_offered(request)
        body = atom.write_entry(atom.rule_entry(rule, subscription, base))
        return Response(status, body, atom.CONTENT_TYPE)

    # --- lists -----------------------------------------------------------------------------------

    def _list(
        self, title: str, path: str, queues: Sequence[Queue], request: Request, base: str
    ) -> Response:
        return self._feed(title, path, queues, request, base, atom.entity_entry)

    def _feed(
        self,
        title: str,
        path: str,
        items: Sequence[T],
        request: Request,
        base: str,
        entry: Callable[[T, str], Element],
    ) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise _not_offered(request)
        skip = whole(request, "$skip", 0, 1 << 31)
        top = whole(request, "$top", PAGE, MAX_PAGE)
        page = [entry(item, base) for item in items[skip : skip + top]]
        following = None
        if skip + top < len(items):
            following = f"{base}/{path}?$skip={skip + top}&$top={top}"
        body = atom.write_feed(title, path, page, base, following)
        return Response(200, body, atom.FEED_CONTENT_TYPE)


def _entity(queue: Queue, base: str, status: int = 200) -> Response:
    body = atom.write_entry(atom.entity_entry(queue, base))
    return Response(status, body, atom.CONTENT_TYPE)


def _is_update(request: Request) -> bool:
    return bool(request.headers.get("if-match"))


def _not_offered(request: Request) -> NotImplementedByEmulator:
    return NotImplementedByEmulator(f"{request.method} is not offered here.")
