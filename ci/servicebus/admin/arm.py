"""Queues as Azure Resource Manager shows them: what ``az servicebus queue list`` reads.

Subscription, resource group and namespace may have any name: there is one namespace. Every version
of the API gets the same answer, but a version must be named, as Azure demands.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from ci.servicebus.admin.durations import write_duration, write_time
from ci.servicebus.admin.http import Request, Response, whole
from ci.servicebus.broker.namespace import Namespace
from ci.servicebus.broker.queue import Queue
from ci.servicebus.errors import ArgumentError, EntityNotFound

PAGE = 100
MAX_PAGE = 1000

_RESOURCES = re.compile(
    r"(?P<namespace>/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ServiceBus"
    r"/namespaces/[^/]+)/(?P<type>[^/]+)(?:/(?P<name>.+))?",
    re.IGNORECASE,
)
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
    if kind.lower() != "queues":
        return error(
            404,
            "InvalidResourceType",
            f"The resource type '{kind}' could not be found in the namespace "
            f"'Microsoft.ServiceBus' for api version '{version}'.",
        )
    if request.method != "GET":
        return error(405, "MethodNotAllowed", "Queues can only be read here.")
    try:
        if matched["name"] is None:
            return _page(namespace, request, path, matched["namespace"], version)
        return _json(queue_resource(namespace.get(matched["name"]), matched["namespace"]))
    except EntityNotFound:
        return error(404, "NotFound", f"The requested resource {matched['name']} does not exist.")
    except ArgumentError as problem:
        return error(400, "BadRequest", str(problem))


def _page(
    namespace: Namespace, request: Request, path: str, namespace_id: str, version: str
) -> Response:
    skip = whole(request, "$skip", 0, 1 << 31)
    top = whole(request, "$top", PAGE, MAX_PAGE)
    queues = list(namespace)
    page: dict[str, object] = {
        "value": [queue_resource(queue, namespace_id) for queue in queues[skip : skip + top]]
    }
    if skip + top < len(queues) and top:
        base = f"https://{request.headers.get('host', 'localhost')}{quote(path)}"
        page["nextLink"] = f"{base}?api-version={version}&$skip={skip + top}&$top={top}"
    return _json(page)


def queue_resource(queue: Queue, namespace_id: str) -> dict[str, object]:
    """One queue."""
    settings, counts = queue.settings, queue.counts()
    properties: dict[str, object] = {
        "lockDuration": write_duration(settings.lock_duration),
        "maxSizeInMegabytes": settings.max_size_in_megabytes,
        "requiresDuplicateDetection": settings.requires_duplicate_detection,
        "requiresSession": settings.requires_session,
        "defaultMessageTimeToLive": write_duration(settings.default_time_to_live),
        "deadLetteringOnMessageExpiration": settings.dead_lettering_on_message_expiration,
        "enableBatchedOperations": settings.enable_batched_operations,
        "duplicateDetectionHistoryTimeWindow": write_duration(settings.duplicate_detection_window),
        "maxDeliveryCount": settings.max_delivery_count,
        "sizeInBytes": counts.size_in_bytes,
        "messageCount": counts.total,
        "status": settings.status.value,
        "autoDeleteOnIdle": write_duration(settings.auto_delete_on_idle),
        "enablePartitioning": settings.enable_partitioning,
        "enableExpress": settings.enable_express,
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
    optional = {
        "maxMessageSizeInKilobytes": settings.max_message_size_in_kilobytes,
        "forwardTo": settings.forward_to,
        "forwardDeadLetteredMessagesTo": settings.forward_dead_lettered_messages_to,
        "userMetadata": settings.user_metadata,
    }
    properties |= {key: value for key, value in optional.items() if value is not None}
    return {
        "id": f"{namespace_id}/queues/{queue.name}",
        "name": queue.name,
        "type": "Microsoft.ServiceBus/Namespaces/Queues",
        "location": "local",
        "properties": properties,
    }


def error(status: int, code: str, message: str) -> Response:
    """An error as Azure Resource Manager words it; clients look at the status first."""
    return _json({"error": {"code": code, "message": message}}, status)


def _json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode() + b"\n", "application/json; charset=utf-8")
