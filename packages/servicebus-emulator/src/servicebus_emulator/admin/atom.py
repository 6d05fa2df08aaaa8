"""Atom: how Azure's administration client asks. Entries and feeds around descriptions."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, ParseError, SubElement, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from servicebus_emulator.admin.descriptions import (
    CONNECT,
    COUNTS,
    INSTANCE,
    text,
    write_description,
)
from servicebus_emulator.admin.durations import write_time
from servicebus_emulator.admin.rules import write_rule
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import Rule
from servicebus_emulator.broker.topic import Subscription
from servicebus_emulator.errors import ArgumentError

ATOM = "http://www.w3.org/2005/Atom"

MAX_DEPTH = 32
"""Azure's descriptions nest seven elements; writing recurses, so there has to be a limit."""

CONTENT_TYPE = "application/atom+xml;type=entry;charset=utf-8"
FEED_CONTENT_TYPE = "application/atom+xml;type=feed;charset=utf-8"
ERROR_CONTENT_TYPE = "application/xml; charset=utf-8"


def read_description(body: bytes) -> Element:
    """The description inside an entry."""
    try:
        entry = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError):
        raise ArgumentError("The body is not well-formed XML.") from None
    _check_depth(entry)
    content = entry.find(f"{{{ATOM}}}content")
    if content is None or not len(content):
        raise ArgumentError("The body should be an Atom entry with a description.")
    description: Element = content[0]
    return description


def _check_depth(entry: Element) -> None:
    level = [entry]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
        if not level:
            return
    raise ArgumentError(f"The body is nested deeper than {MAX_DEPTH} elements.")


def write_entry(entry: Element) -> bytes:
    """A document of one entry."""
    return _document(entry)


def write_feed(
    title: str, path: str, entries: Iterable[Element], base: str, next_link: str | None
) -> bytes:
    """Entries as a feed. A client takes the second link, and only that, for the next page."""
    feed = Element(f"{{{ATOM}}}feed")
    text(feed, ATOM, "title", title).set("type", "text")
    text(feed, ATOM, "id", f"{base}/{path}")
    text(feed, ATOM, "updated", write_time(0))
    SubElement(feed, f"{{{ATOM}}}link", rel="self", href=f"{base}/{path}")
    if next_link is not None:
        SubElement(feed, f"{{{ATOM}}}link", rel="next", href=next_link)
    feed.extend(entries)
    return _document(feed)


def entity_entry(queue: Queue, base: str) -> Element:
    """A queue, a topic or a subscription as an entry."""
    title = queue.short_name if isinstance(queue, Subscription) else queue.name
    times = queue.times
    entry = _shell(title, queue.name, base, times.created_at, times.updated_at)
    write_description(SubElement(entry, f"{{{ATOM}}}content", type="application/xml"), queue)
    return entry


def rule_entry(rule: Rule, subscription: Subscription, base: str) -> Element:
    """A rule as an entry."""
    path = f"{subscription.name}/Rules/{rule.name}"
    entry = _shell(rule.name, path, base, rule.created_at, rule.created_at)
    content = SubElement(entry, f"{{{ATOM}}}content", type="application/xml")
    write_rule(SubElement(content, f"{{{CONNECT}}}RuleDescription"), rule)
    return entry


def write_namespace_info(name: str, tier: str, created_at: float, base: str) -> bytes:
    """What the administration tells about the namespace."""
    entry = _shell(name, name, base, created_at, created_at)
    content = SubElement(entry, f"{{{ATOM}}}content", type="application/xml")
    info = SubElement(content, f"{{{CONNECT}}}NamespaceInfo")
    for element, value in (
        ("Alias", ""),
        ("CreatedTime", write_time(created_at)),
        ("MessagingSKU", tier.capitalize()),
        ("ModifiedTime", write_time(created_at)),
        ("Name", name),
        ("NamespaceType", "Messaging"),
    ):
        text(info, CONNECT, element, value)
    return _document(entry)


def write_error(status: int, detail: str) -> bytes:
    """An error as the administration client reads it."""
    error = Element("Error")
    SubElement(error, "Code").text = str(status)
    SubElement(error, "Detail").text = detail
    written: bytes = tostring(error, "utf-8", xml_declaration=True)
    return written


def _shell(title: str, path: str, base: str, created_at: float, updated_at: float) -> Element:
    entry = Element(f"{{{ATOM}}}entry")
    text(entry, ATOM, "id", f"{base}/{path}")
    text(entry, ATOM, "title", title).set("type", "text")
    text(entry, ATOM, "published", write_time(created_at))
    text(entry, ATOM, "updated", write_time(updated_at))
    author = SubElement(entry, f"{{{ATOM}}}author")
    text(author, ATOM, "name", base.rpartition("/")[2])
    SubElement(entry, f"{{{ATOM}}}link", rel="self", href=f"{base}/{path}")
    return entry


def _document(element: Element) -> bytes:
    written: bytes = tostring(_as_azure_writes(element), "utf-8", xml_declaration=True)
    return written


def _as_azure_writes(element: Element, around: str = "") -> Element:
    """The same XML with Azure's prefixes, which are all that some clients look for.

    A namespace is the default from where it begins; only the counts and the types of values have
    a prefix.
    """
    namespace, _, name = str(element.tag)[1:].rpartition("}")
    written = Element(f"d2p1:{name}" if namespace == COUNTS else name)
    if namespace not in (around, COUNTS):
        written.set("xmlns", namespace)
        if namespace == CONNECT:
            written.set("xmlns:i", INSTANCE)
        around = namespace
    if name == "CountDetails":
        written.set("xmlns:d2p1", COUNTS)
    for key, value in element.items():
        written.set("i:type" if key == f"{{{INSTANCE}}}type" else key, value)
    written.text = element.text
    written.extend(_as_azure_writes(child, around) for child in element)
    return written
