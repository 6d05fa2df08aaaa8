"""Entities as Azure Resource Manager shows them: what ``az servicebus queue list`` reads.

Subscription, resource group and namespace may have any name: there is one namespace. Every version
of the API gets the same answer, but a version must be named, as Azure demands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from servicebus_emulator.admin.durations import write_duration, write_time
from servicebus_emulator.admin.http import Request, Response, to_json, whole
from servicebus_emulator.broker.model import SubscriptionSettings, TopicSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import CorrelationFilter, Rule
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.errors import ArgumentError, EntityNotFound

PAGE = 100
MAX_PAGE = 1000

_RESOURCES = re.compile(
    r"(?P<namespace>/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ServiceBus"
    r"/namespaces/[^/]+)/(?P<type>[^/]+)(?:/(?P<name>.+))?",
    re.IGNORECASE,
)
_RULES = re.compile(
    r"(?P<topic>.+)/subscriptions/(?P<subscription>[^/]+)/rules(?:/(?P<rule>[^/]+))?",
    re.IGNORECASE,
)
_CORRELATION = {
    "correlationId": "correlationid",
    "messageId": "messageid",
    "to": "to",
    "replyTo": "replyto",
    "label": "label",
    "sessionId": "sessionid",
    "replyToSessionId": "replytosessionid",
    "contentType": "contenttype",
}
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")


def is_resource(path: str) -> bool:
    """The path is one of Azure Resource Manager, not of an entity."""
    return _RESOURCES.fullmatch(path) is not None


def answer(namespace: Namespace, request: Request, path: str) -> Response:
    """The response to a request whose path :func:`is_resource`."""
    matched = _RESOURCES.fullmatch(path)
    assert matched is not None
    version, kind = request.query.get("api-version", ""), matched["type"]
    if not version:
        return error(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if not _VERSION.fullmatch(version):
        return error(400, "InvalidApiVersionParameter", f"The api-version '{version}' is invalid.")
    if kind.lower() not in ("queues", "topics"):
        return error(
            404,
            "InvalidResourceType",
            f"The resource type '{kind}' could not be found in the namespace "
            f"'Microsoft.ServiceBus' for api version '{version}'.",
        )
    if request.method != "GET":
        return error(405, "MethodNotAllowed", "Entities can only be read here.")
    try:
        found = _find(namespace, kind, matched["name"])
        if isinstance(found, Queue | tuple):
            return to_json(_resource(found, matched["namespace"]))
        return _page(found, request, path, matched["namespace"], version)
    except EntityNotFound:
        return error(404, "NotFound", f"The requested resource {matched['name']} does not exist.")
    except ArgumentError as problem:
        return error(400, "BadRequest", str(problem))


Item = Queue | tuple[Subscription, Rule]


def _find(namespace: Namespace, kind: str, name: str | None) -> Item | Sequence[Item]:
    """One entity, or those of a list; raises EntityNotFound."""
    if kind.lower() == "queues":
        return list(namespace) if name is None else namespace.get(name)
    topics = namespace.topics
    if name is None:
        return list(topics)
    if inside := _RULES.fullmatch(name):
        subscription = topics.get(inside["topic"]).get(inside["subscription"])
        if inside["rule"] is not None:
            return subscription, subscription.rule(inside["rule"])
        return [(subscription, rule) for rule in subscription.rules]
    topic, last, rest = name.lower().rpartition("/subscriptions")
    return topics.get(topic).subscriptions if last and not rest else topics.resolve(name)


def _page(
    items: Sequence[Item], request: Request, path: str, namespace_id: str, version: str
) -> Response:
    skip = whole(request, "$skip", 0, 1 << 31)
    top = whole(request, "$top", PAGE, MAX_PAGE)
    page: dict[str, object] = {
        "value": [_resource(item, namespace_id) for item in items[skip : skip + top]]
    }
    if skip + top < len(items) and top:
        base = f"https://{request.headers.get('host', 'localhost')}{quote(path)}"
        page["nextLink"] = f"{base}?api-version={version}&$skip={skip + top}&$top={top}"
    return to_json(page)


def _resource(item: Item, namespace_id: str) -> dict[str, object]:
    if isinstance(item, tuple):
        subscription, rule = item
        path = f"topics/{subscription.topic.name}/subscriptions/{subscription.short_name}"
        name, kind, properties = rule.name, "Topics/Subscriptions/Rules", _rule(rule)
        path = f"{path}/rules/{name}"
    else:
        path, name, kind = f"queues/{item.name}", item.name, "Queues"
        properties = {**_settings(item), **_received(item), **_runtime(item)}
        if isinstance(item, Topic):
            path, kind = f"topics/{name}", "Topics"
        elif isinstance(item, Subscription):
            name, kind = item.short_name, "Topics/Subscriptions"
            path = f"topics/{item.topic.name}/subscriptions/{name}"
    return {
        "id": f"{namespace_id}/{path}",
        "name": name,
        "type": f"Microsoft.ServiceBus/Namespaces/{kind}",
        "location": "local",
        "properties": properties,
    }


def _rule(rule: Rule) -> dict[str, object]:
    found: dict[str, object] = {"action": {}}
    if rule.action is not None:
        found["action"] = {"sqlExpression": rule.action.expression, "compatibilityLevel": 20}
    if isinstance(rule.filter, CorrelationFilter):
        given = rule.filter
        system = given.system
        named = {key: system[name] for key, name in _CORRELATION.items() if name in system}
        properties = {key: str(value) for key, value in given.properties.items()}
        return {
            **found,
            "filterType": "CorrelationFilter",
            "correlationFilter": {**named, "properties": properties},
        }
    return {
        **found,
        "filterType": "SqlFilter",
        "sqlFilter": {"sqlExpression": str(rule.filter), "compatibilityLevel": 20},
    }


def _settings(queue: Queue) -> dict[str, object]:
    """What all have, and what only queues and topics have."""
    settings = queue.settings
    found: dict[str, object] = {
        "defaultMessageTimeToLive": write_duration(settings.default_time_to_live),
        "enableBatchedOperations": settings.enable_batched_operations,
        "status": settings.status.value,
        "autoDeleteOnIdle": write_duration(settings.auto_delete_on_idle),
    }
    if isinstance(settings, TopicSettings):
        found["supportOrdering"] = settings.support_ordering
    if settings.user_metadata is not None:
        found["userMetadata"] = settings.user_metadata
    if isinstance(settings, SubscriptionSettings):
        return found
    return {
        **found,
        "maxMessageSizeInKilobytes": queue.max_message_size >> 10,
        "maxSizeInMegabytes": settings.max_size_in_megabytes,
        "requiresDuplicateDetection": settings.requires_duplicate_detection,
        "duplicateDetectionHistoryTimeWindow": write_duration(settings.duplicate_detection_window),
        "enablePartitioning": settings.enable_partitioning,
        "enableExpress": settings.enable_express,
    }


def _received(queue: Queue) -> dict[str, object]:
    """What only those have that are received from."""
    settings = queue.settings
    if isinstance(settings, TopicSettings):
        return {}
    found: dict[str, object] = {
        "lockDuration": write_duration(settings.lock_duration),
        "requiresSession": settings.requires_session,
        "deadLetteringOnMessageExpiration": settings.dead_lettering_on_message_expiration,
        "maxDeliveryCount": settings.max_delivery_count,
    }
    if isinstance(settings, SubscriptionSettings):
        found["deadLetteringOnFilterEvaluationExceptions"] = (
            settings.dead_lettering_on_filter_evaluation_exceptions
        )
    if settings.forward_to is not None:
        found["forwardTo"] = settings.forward_to
    if settings.forward_dead_lettered_messages_to is not None:
        found["forwardDeadLetteredMessagesTo"] = settings.forward_dead_lettered_messages_to
    return found


def _runtime(queue: Queue) -> dict[str, object]:
    counts = queue.counts()
    found: dict[str, object] = {
        "countDetails": {
            "activeMessageCount": counts.active,
            "deadLetterMessageCount": counts.dead_letter,
            "scheduledMessageCount": counts.scheduled,
            "transferMessageCount": counts.transfer,
            "transferDeadLetterMessageCount": counts.transfer_dead_letter,
        },
        "createdAt": write_time(queue.times.created_at),
        "updatedAt": write_time(queue.times.updated_at),
        "accessedAt": write_time(queue.times.accessed_at),
    }
    if isinstance(queue, Topic):
        return {
            **found,
            "sizeInBytes": counts.size_in_bytes,
            "subscriptionCount": len(queue.subscriptions),
        }
    found["messageCount"] = counts.total
    if not isinstance(queue, Subscription):
        found["sizeInBytes"] = counts.size_in_bytes
    return found


def error(status: int, code: str, message: str) -> Response:
    """An error as Azure Resource Manager words it; clients look at the status first."""
    return to_json({"error": {"code": code, "message": message}}, status)
