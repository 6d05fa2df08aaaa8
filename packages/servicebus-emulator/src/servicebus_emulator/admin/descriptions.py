"""Descriptions: an entity's settings and its numbers as elements of XML.

:data:`QUEUE`, :data:`TOPIC` and :data:`SUBSCRIPTION` list the elements in the order in which Azure
writes them: those that the owner sets, and the runtime's, which are only written. Reading and
writing go by these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, SubElement

from servicebus_emulator.admin.durations import read_duration, write_duration, write_time
from servicebus_emulator.broker.model import (
    AuthorizationRule,
    QueueSettings,
    Status,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.topic import Topic, count_filters
from servicebus_emulator.errors import ArgumentError

CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

S = TypeVar("S", bound=QueueSettings)


@dataclass(frozen=True, slots=True)
class _Field:
    """An element and the setting it stands for."""

    element: str
    setting: str
    read: Callable[[str], object]
    write: Callable[[Any], str]


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ArgumentError(f"'{text}' is neither true nor false.")
    return text.lower() in ("true", "1")


def _read_whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"'{text}' is not a whole number.") from None


def _read_status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise ArgumentError(f"'{text}' is no status of an entity.") from None


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


def _duration(element: str, setting: str) -> _Field:
    return _Field(element, setting, read_duration, write_duration)


def _flag(element: str, setting: str) -> _Field:
    return _Field(element, setting, _read_bool, _write_bool)


def _number(element: str, setting: str) -> _Field:
    return _Field(element, setting, _read_whole, str)


def _words(element: str, setting: str) -> _Field:
    return _Field(element, setting, str, str)


_SETTINGS = {
    field.element: field
    for field in (
        _duration("LockDuration", "lock_duration"),
        _number("MaxSizeInMegabytes", "max_size_in_megabytes"),
        _flag("RequiresDuplicateDetection", "requires_duplicate_detection"),
        _flag("RequiresSession", "requires_session"),
        _duration("DefaultMessageTimeToLive", "default_time_to_live"),
        _flag("DeadLetteringOnMessageExpiration", "dead_lettering_on_message_expiration"),
        _flag(
            "DeadLetteringOnFilterEvaluationExceptions",
            "dead_lettering_on_filter_evaluation_exceptions",
        ),
        _duration("DuplicateDetectionHistoryTimeWindow", "duplicate_detection_window"),
        _number("MaxDeliveryCount", "max_delivery_count"),
        _flag("EnableBatchedOperations", "enable_batched_operations"),
        _flag("FilteringMessagesBeforePublishing", "filtering_messages_before_publishing"),
        _Field("Status", "status", _read_status, lambda status: str(status.value)),
        _words("ForwardTo", "forward_to"),
        _words("UserMetadata", "user_metadata"),
        _flag("SupportOrdering", "support_ordering"),
        _duration("AutoDeleteOnIdle", "auto_delete_on_idle"),
        _flag("EnablePartitioning", "enable_partitioning"),
        _flag("EnableSubscriptionPartitioning", "enable_subscription_partitioning"),
        _words("ForwardDeadLetteredMessagesTo", "forward_dead_lettered_messages_to"),
        _flag("EnableExpress", "enable_express"),
        _number("MaxMessageSizeInKilobytes", "max_message_size_in_kilobytes"),
    )
}

_RUNTIME: dict[str, Callable[[Queue], str]] = {
    "SizeInBytes": lambda queue: str(queue.counts().size_in_bytes),
    "MessageCount": lambda queue: str(queue.counts().total),
    "IsAnonymousAccessible": lambda queue: "false",
    "CreatedAt": lambda queue: write_time(queue.times.created_at),
    "UpdatedAt": lambda queue: write_time(queue.times.updated_at),
    "AccessedAt": lambda queue: write_time(queue.times.accessed_at),
    "SupportOrdering": lambda queue: "true",
    "EntityAvailabilityStatus": lambda queue: "Available",
    "SubscriptionCount": lambda queue: str(len(_topic(queue).subscriptions)),
    "SqlFilterCount": lambda queue: str(count_filters(_topic(queue))[0]),
    "CorrelationFilterCount": lambda queue: str(count_filters(_topic(queue))[1]),
}


def _topic(queue: Queue) -> Topic:
    assert isinstance(queue, Topic)
    return queue


@dataclass(frozen=True, slots=True)
class Description:
    """What an entity's description is called, and its elements in their order."""

    tag: str
    elements: tuple[str, ...]


QUEUE = Description(
    "QueueDescription",
    (
        *("LockDuration", "MaxSizeInMegabytes", "RequiresDuplicateDetection", "RequiresSession"),
        *("DefaultMessageTimeToLive", "DeadLetteringOnMessageExpiration"),
        *("DuplicateDetectionHistoryTimeWindow", "MaxDeliveryCount", "EnableBatchedOperations"),
        *("SizeInBytes", "MessageCount", "IsAnonymousAccessible", "AuthorizationRules", "Status"),
        *("ForwardTo", "UserMetadata", "CreatedAt", "UpdatedAt", "AccessedAt", "SupportOrdering"),
        *("CountDetails", "AutoDeleteOnIdle", "EnablePartitioning", "EntityAvailabilityStatus"),
        *("ForwardDeadLetteredMessagesTo", "EnableExpress", "MaxMessageSizeInKilobytes"),
    ),
)
TOPIC = Description(
    "TopicDescription",
    (
        *("DefaultMessageTimeToLive", "MaxSizeInMegabytes", "RequiresDuplicateDetection"),
        *("DuplicateDetectionHistoryTimeWindow", "EnableBatchedOperations", "SizeInBytes"),
        *("FilteringMessagesBeforePublishing", "IsAnonymousAccessible", "AuthorizationRules"),
        *("Status", "CreatedAt", "UpdatedAt", "AccessedAt", "SupportOrdering", "CountDetails"),
        *("SubscriptionCount", "SqlFilterCount", "CorrelationFilterCount", "AutoDeleteOnIdle"),
        *("EnablePartitioning", "EntityAvailabilityStatus", "EnableSubscriptionPartitioning"),
        *("EnableExpress", "UserMetadata", "MaxMessageSizeInKilobytes"),
    ),
)
SUBSCRIPTION = Description(
    "SubscriptionDescription",
    (
        *("LockDuration", "RequiresSession", "DefaultMessageTimeToLive"),
        *("DeadLetteringOnMessageExpiration", "DeadLetteringOnFilterEvaluationExceptions"),
        *("MessageCount", "MaxDeliveryCount", "EnableBatchedOperations", "Status", "ForwardTo"),
        *("CreatedAt", "UpdatedAt", "AccessedAt", "CountDetails"),
        *("ForwardDeadLetteredMessagesTo", "AutoDeleteOnIdle", "EntityAvailabilityStatus"),
        *("UserMetadata",),
    ),
)
_OF = {QueueSettings: QUEUE, TopicSettings: TOPIC, SubscriptionSettings: SUBSCRIPTION}


def is_description(element: Element, description: Description) -> bool:
    """The element describes such an entity."""
    return local(element) == description.tag


# --- reading -------------------------------------------------------------------------------------


def read_settings(element: Element, before: S) -> S:
    """The settings that a description amounts to, from those before or the defaults.

    What it leaves out stays as it was, except what can be unset: that is unset by leaving it out.
    """
    known = _OF[type(before)].elements
    settings = replace(
        before, forward_to=None, forward_dead_lettered_messages_to=None, user_metadata=None
    )
    for given in element:
        name = local(given)
        field = _SETTINGS.get(name)
        if name == "AuthorizationRules":
            settings = replace(settings, authorization_rules=_read_rules(given))
        elif field is not None and name in known and hasattr(settings, field.setting):
            content = (given.text or "").strip()
            if content or field.read is str:
                value: Any = field.read(content) if content else None
                settings = replace(settings, **{field.setting: value})
    return settings


def _read_rules(rules: Element) -> tuple[AuthorizationRule, ...]:
    return tuple(
        AuthorizationRule(
            key_name=child(rule, "KeyName") or "",
            rights=tuple(
                right.text or "" for rights in rule if local(rights) == "Rights" for right in rights
            ),
            primary_key=child(rule, "PrimaryKey"),
            secondary_key=child(rule, "SecondaryKey"),
            claim_type=child(rule, "ClaimType"),
            claim_value=child(rule, "ClaimValue"),
        )
        for rule in rules
    )


def child(parent: Element, name: str) -> str | None:
    """The text of a child by its name, whatever its namespace."""
    return next((inner.text for inner in parent if local(inner) == name), None)


def local(element: Element) -> str:
    """An element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


# --- writing -------------------------------------------------------------------------------------


def write_description(parent: Element, queue: Queue) -> None:
    """Append the description of a queue, a topic or a subscription."""
    description = _OF[type(queue.settings)]
    element = SubElement(parent, f"{{{CONNECT}}}{description.tag}")
    for name in description.elements:
        field = _SETTINGS.get(name)
        if name == "AuthorizationRules":
            _write_rules(element, queue.settings.authorization_rules)
        elif name == "CountDetails":
            _write_counts(element, queue)
        elif name == "MaxMessageSizeInKilobytes":  # the tier's, too: Java's client sends it back
            text(element, CONNECT, name, str(queue.max_message_size >> 10))
        elif field is not None and hasattr(queue.settings, field.setting):
            value = getattr(queue.settings, field.setting)
            if value is not None:
                text(element, CONNECT, name, field.write(value))
        else:
            text(element, CONNECT, name, _RUNTIME[name](queue))


def _write_counts(description: Element, queue: Queue) -> None:
    counts = queue.counts()
    details = SubElement(description, f"{{{CONNECT}}}CountDetails")
    for name, number in (
        ("ActiveMessageCount", counts.active),
        ("DeadLetterMessageCount", counts.dead_letter),
        ("ScheduledMessageCount", counts.scheduled),
        ("TransferMessageCount", counts.transfer),
        ("TransferDeadLetterMessageCount", counts.transfer_dead_letter),
    ):
        text(details, COUNTS, name, str(number))


def _write_rules(description: Element, rules: tuple[AuthorizationRule, ...]) -> None:
    parent = SubElement(description, f"{{{CONNECT}}}AuthorizationRules")
    for rule in rules:
        element = SubElement(parent, f"{{{CONNECT}}}AuthorizationRule")
        element.set(f"{{{INSTANCE}}}type", "SharedAccessAuthorizationRule")
        text(element, CONNECT, "ClaimType", rule.claim_type or "SharedAccessKey")
        text(element, CONNECT, "ClaimValue", rule.claim_value or "None")
        rights = SubElement(element, f"{{{CONNECT}}}Rights")
        for right in rule.rights:
            text(rights, CONNECT, "AccessRights", right)
        text(element, CONNECT, "CreatedTime", write_time(rule.created_at))
        text(element, CONNECT, "ModifiedTime", write_time(rule.modified_at))
        text(element, CONNECT, "KeyName", rule.key_name)
        if rule.primary_key is not None:
            text(element, CONNECT, "PrimaryKey", rule.primary_key)
        if rule.secondary_key is not None:
            text(element, CONNECT, "SecondaryKey", rule.secondary_key)


def text(parent: Element, namespace: str, name: str, content: str) -> Element:
    """Append an element with text in it."""
    element = SubElement(parent, f"{{{namespace}}}{name}")
    element.text = content
    return element
