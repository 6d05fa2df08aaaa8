"""Queues as Azure Resource Manager shows them: what ``az servicebus queue list`` reads."""

from __future__ import annotations

from ci.servicebus.admin.durations import write_duration, write_time
from ci.servicebus.broker.queue import Queue


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
    if settings.forward_to is not None:
        properties["forwardTo"] = settings.forward_to
    if settings.forward_dead_lettered_messages_to is not None:
        properties["forwardDeadLetteredMessagesTo"] = settings.forward_dead_lettered_messages_to
    return {
        "id": f"{namespace_id}/queues/{queue.name}",
        "name": queue.name,
        "type": "Microsoft.ServiceBus/Namespaces/Queues",
        "location": "local",
        "properties": properties,
    }


def error(code: str, message: str) -> dict[str, object]:
    """An error."""
    return {"error": {"code": code, "message": message}}
