"""Atom and the descriptions in it: how Azure's administration client asks.

:data:`_FIELDS` lists, in the order in which Azure writes them, the elements of a queue that its
owner sets; reading and writing go by that table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ci.servicebus.admin.durations import read_duration, write_duration, write_time
from ci.servicebus.broker.model import AuthorizationRule, QueueSettings, Status
from ci.servicebus.broker.queue import Queue
from ci.servicebus.errors import ArgumentError

ATOM = "http://www.w3.org/2005/Atom"
CONNECT = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
COUNTS = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

CONTENT_TYPE = "application/atom+xml;type=entry;charset=utf-8"
FEED_CONTENT_TYPE = "application/atom+xml;type=feed;charset=utf-8"
ERROR_CONTENT_TYPE = "application/xml; charset=utf-8"


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


_FIELDS = (
    _duration("LockDuration", "lock_duration"),
    _number("MaxSizeInMegabytes", "max_size_in_megabytes"),
    _flag("RequiresDuplicateDetection", "requires_duplicate_detection"),
    _flag("RequiresSession", "requires_session"),
    _duration("DefaultMessageTimeToLive", "default_time_to_live"),
    _flag("DeadLetteringOnMessageExpiration", "dead_lettering_on_message_expiration"),
    _duration("DuplicateDetectionHistoryTimeWindow", "duplicate_detection_window"),
    _number("MaxDeliveryCount", "max_delivery_count"),
    _flag("EnableBatchedOperations", "enable_batched_operations"),
    _Field("Status", "status", _read_status, lambda status: str(status.value)),
    _words("ForwardTo", "forward_to"),
    _words("UserMetadata", "user_metadata"),
    _duration("AutoDeleteOnIdle", "auto_delete_on_idle"),
    _flag("EnablePartitioning", "enable_partitioning"),
    _words("ForwardDeadLetteredMessagesTo", "forward_dead_lettered_messages_to"),
    _flag("EnableExpress", "enable_express"),
    _number("MaxMessageSizeInKilobytes", "max_message_size_in_kilobytes"),
)

# The runtime's elements, and the settings behind which Azure writes them.
_AFTER = {
    "EnableBatchedOperations": ("SizeInBytes", "MessageCount", "IsAnonymousAccessible", "Rules"),
    "UserMetadata": ("CreatedAt", "UpdatedAt", "AccessedAt", "SupportOrdering", "CountDetails"),
    "EnablePartitioning": ("EntityAvailabilityStatus",),
}


# --- reading -------------------------------------------------------------------------------------


def read_description(body: bytes) -> Element:
    """The description inside an entry."""
    try:
        entry = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        raise ArgumentError("The body is not well-formed XML.") from None
    content = entry.find(f"{{{ATOM}}}content")
    if content is None or not len(content):
        raise ArgumentError("The body should be an Atom entry with a description.")
    description: Element = content[0]
    return description


def read_settings(description: Element, before: QueueSettings | None = None) -> QueueSettings:
    """The settings that a description amounts to.

    What it leaves out stays as it was, except what can be unset: that is unset by leaving it out.
    """
    settings = replace(
        before or QueueSettings(),
        forward_to=None,
        forward_dead_lettered_messages_to=None,
        user_metadata=None,
    )
    for element in description:
        name = _local(element)
        if name == "AuthorizationRules":
            settings = replace(settings, authorization_rules=_read_rules(element))
            continue
        for field in _FIELDS:
            if field.element == name:
                text = (element.text or "").strip()
                if text or field.read is str:
                    value: Any = field.read(text) if text else None
                    settings = replace(settings, **{field.setting: value})
    return settings


def _read_rules(rules: Element) -> tuple[AuthorizationRule, ...]:
    return tuple(
        AuthorizationRule(
            key_name=_child(rule, "KeyName") or "",
            rights=tuple(
                right.text or ""
                for rights in rule
                if _local(rights) == "Rights"
                for right in rights
            ),
            primary_key=_child(rule, "PrimaryKey"),
            secondary_key=_child(rule, "SecondaryKey"),
            claim_type=_child(rule, "ClaimType"),
            claim_value=_child(rule, "ClaimValue"),
        )
        for rule in rules
    )


def _child(parent: Element, name: str) -> str | None:
    return next((child.text for child in parent if _local(child) == name), None)


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


# --- writing -------------------------------------------------------------------------------------


def write_entry(queue: Queue, base: str) -> bytes:
    """A queue as an entry."""
    return _document(_entry(queue, base))


def write_feed(queues: Iterable[Queue], base: str, next_link: str | None) -> bytes:
    """Queues as a feed. A client takes the second link, and only that, for the next page."""
    feed = Element(f"{{{ATOM}}}feed")
    _text(feed, ATOM, "title", "Queues").set("type", "text")
    _text(feed, ATOM, "id", f"{base}/$Resources/queues")
    _text(feed, ATOM, "updated", write_time(0))
    SubElement(feed, f"{{{ATOM}}}link", rel="self", href=f"{base}/$Resources/queues")
    if next_link is not None:
        SubElement(feed, f"{{{ATOM}}}link", rel="next", href=next_link)
    for queue in queues:
        feed.append(_entry(queue, base))
    return _document(feed)


def write_topic_entry(name: str, description: Element, base: str) -> bytes:
    """A topic as an entry: its description as it was given."""
    return _document(_topic_entry(name, description, base))


def write_topic_feed(topics: Iterable[tuple[str, Element]], base: str) -> bytes:
    """Topics as a feed."""
    feed = Element(f"{{{ATOM}}}feed")
    _text(feed, ATOM, "title", "Topics").set("type", "text")
    SubElement(feed, f"{{{ATOM}}}link", rel="self", href=f"{base}/$Resources/topics")
    for name, description in topics:
        feed.append(_topic_entry(name, description, base))
    return _document(feed)


def _topic_entry(name: str, description: Element, base: str) -> Element:
    entry = _shell(name, base, 0, 0)
    SubElement(entry, f"{{{ATOM}}}content", type="application/xml").append(description)
    return entry


def write_namespace_info(name: str, tier: str, created_at: float, base: str) -> bytes:
    """What the administration tells about the namespace."""
    entry = _shell(name, base, created_at, created_at)
    content = SubElement(entry, f"{{{ATOM}}}content", type="application/xml")
    info = SubElement(content, f"{{{CONNECT}}}NamespaceInfo")
    for element, text in (
        ("Alias", ""),
        ("CreatedTime", write_time(created_at)),
        ("MessagingSKU", tier.capitalize()),
        ("ModifiedTime", write_time(created_at)),
        ("Name", name),
        ("NamespaceType", "Messaging"),
    ):
        _text(info, CONNECT, element, text)
    return _document(entry)


def write_error(status: int, detail: str) -> bytes:
    """An error as the administration client reads it."""
    error = Element("Error")
    SubElement(error, "Code").text = str(status)
    SubElement(error, "Detail").text = detail
    return _document(error)


def _shell(title: str, base: str, created_at: float, updated_at: float) -> Element:
    entry = Element(f"{{{ATOM}}}entry")
    _text(entry, ATOM, "id", f"{base}/{title}")
    _text(entry, ATOM, "title", title).set("type", "text")
    _text(entry, ATOM, "published", write_time(created_at))
    _text(entry, ATOM, "updated", write_time(updated_at))
    author = SubElement(entry, f"{{{ATOM}}}author")
    _text(author, ATOM, "name", base.rpartition("/")[2])
    SubElement(entry, f"{{{ATOM}}}link", rel="self", href=f"{base}/{title}")
    return entry


def _entry(queue: Queue, base: str) -> Element:
    entry = _shell(queue.name, base, queue.times.created_at, queue.times.updated_at)
    content = SubElement(entry, f"{{{ATOM}}}content", type="application/xml")
    description = SubElement(content, f"{{{CONNECT}}}QueueDescription")
    counts = queue.counts()
    for field in _FIELDS:
        value = getattr(queue.settings, field.setting)
        if value is not None:
            _text(description, CONNECT, field.element, field.write(value))
        for extra in _AFTER.get(field.element, ()):
            if extra == "Rules":
                _write_rules(description, queue.settings.authorization_rules)
            elif extra == "CountDetails":
                details = SubElement(description, f"{{{CONNECT}}}CountDetails")
                for name, number in (
                    ("ActiveMessageCount", counts.active),
                    ("DeadLetterMessageCount", counts.dead_letter),
                    ("ScheduledMessageCount", counts.scheduled),
                    ("TransferMessageCount", counts.transfer),
                    ("TransferDeadLetterMessageCount", counts.transfer_dead_letter),
                ):
                    _text(details, COUNTS, name, str(number))
            else:
                text = {
                    "SizeInBytes": str(counts.size_in_bytes),
                    "MessageCount": str(counts.total),
                    "IsAnonymousAccessible": "false",
                    "CreatedAt": write_time(queue.times.created_at),
                    "UpdatedAt": write_time(queue.times.updated_at),
                    "AccessedAt": write_time(queue.times.accessed_at),
                    "SupportOrdering": "true",
                    "EntityAvailabilityStatus": "Available",
                }[extra]
                _text(description, CONNECT, extra, text)
    return entry


def _write_rules(description: Element, rules: tuple[AuthorizationRule, ...]) -> None:
    parent = SubElement(description, f"{{{CONNECT}}}AuthorizationRules")
    for rule in rules:
        element = SubElement(parent, f"{{{CONNECT}}}AuthorizationRule")
        element.set(f"{{{INSTANCE}}}type", "SharedAccessAuthorizationRule")
        _text(element, CONNECT, "ClaimType", rule.claim_type or "SharedAccessKey")
        _text(element, CONNECT, "ClaimValue", rule.claim_value or "None")
        rights = SubElement(element, f"{{{CONNECT}}}Rights")
        for right in rule.rights:
            _text(rights, CONNECT, "AccessRights", right)
        _text(element, CONNECT, "CreatedTime", write_time(rule.created_at))
        _text(element, CONNECT, "ModifiedTime", write_time(rule.modified_at))
        _text(element, CONNECT, "KeyName", rule.key_name)
        if rule.primary_key is not None:
            _text(element, CONNECT, "PrimaryKey", rule.primary_key)
        if rule.secondary_key is not None:
            _text(element, CONNECT, "SecondaryKey", rule.secondary_key)


def _text(parent: Element, namespace: str, name: str, text: str) -> Element:
    element = SubElement(parent, f"{{{namespace}}}{name}")
    element.text = text
    return element


def _document(element: Element) -> bytes:
    written: bytes = tostring(element, encoding="utf-8", xml_declaration=True)
    return written
