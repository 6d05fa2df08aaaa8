"""Rules as XML: ``RuleDescription`` with its filter, its action and typed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID
from xml.etree.ElementTree import Element, SubElement

from servicebus_emulator.admin.descriptions import CONNECT, INSTANCE, child, local, text
from servicebus_emulator.admin.durations import read_duration, write_duration, write_time
from servicebus_emulator.broker.rules import (
    DEFAULT_RULE,
    CorrelationFilter,
    FalseFilter,
    Filter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
)
from servicebus_emulator.errors import ArgumentError

SCHEMA = "http://www.w3.org/2001/XMLSchema"
SERIALIZATION = "http://schemas.microsoft.com/2003/10/Serialization/"
COMPATIBILITY = "20"

_ELEMENTS = {
    "CorrelationId": "correlationid",
    "MessageId": "messageid",
    "To": "to",
    "ReplyTo": "replyto",
    "Label": "label",
    "SessionId": "sessionid",
    "ReplyToSessionId": "replytosessionid",
    "ContentType": "contenttype",
}


# --- reading -------------------------------------------------------------------------------------


def read_rule(description: Element, name: str | None = None) -> Rule:
    """A rule from its description; ``name`` where the request's path says it."""
    filters: Filter = TrueFilter()
    action = None
    for element in description:
        if local(element) == "Filter":
            filters = _read_filter(element)
        elif local(element) == "Action" and _type(element) == "SqlRuleAction":
            expression = child(element, "SqlExpression") or ""
            action = SqlAction(expression, _read_values(element, "Parameters"))
    return Rule(name or child(description, "Name") or DEFAULT_RULE, filters, action)


def _read_filter(element: Element) -> Filter:
    kind = _type(element)
    match kind:
        case "TrueFilter":
            return TrueFilter()
        case "FalseFilter":
            return FalseFilter()
        case "SqlFilter":
            expression = child(element, "SqlExpression") or ""
            return SqlFilter(expression, _read_values(element, "Parameters"))
        case "CorrelationFilter":
            named = {name: child(element, tag) for tag, name in _ELEMENTS.items()}
            return CorrelationFilter(
                {name: value for name, value in named.items() if value is not None},
                _read_values(element, "Properties"),
            )
    raise ArgumentError(f"'{kind}' is no filter.")


def _type(element: Element) -> str:
    return element.get(f"{{{INSTANCE}}}type", "").rpartition(":")[2]


def _read_values(parent: Element, name: str) -> dict[str, object]:
    return {
        child(pair, "Key") or "": _read_value(value)
        for values in parent
        if local(values) == name
        for pair in values
        for value in pair
        if local(value) == "Value"
    }


def _read_value(element: Element) -> object:
    kind, content = _type(element), element.text or ""
    reader = _READERS.get(kind)
    if reader is None:
        raise ArgumentError(f"A value cannot be of the type '{kind}'.")
    try:
        return reader(content)
    except (ValueError, OverflowError):
        raise ArgumentError(f"'{content}' is no {kind}.") from None


def _read_bool(content: str) -> bool:
    if content not in ("true", "1", "false", "0"):
        raise ValueError(content)
    return content in ("true", "1")


def _read_time(content: str) -> datetime:
    found = datetime.fromisoformat(content.strip())
    return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


_WHOLE = ("int", "long", "short", "byte", "unsignedInt", "unsignedLong", "unsignedShort")
_READERS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys((*_WHOLE, "unsignedByte", "integer"), int),
    **dict.fromkeys(("double", "float", "decimal"), float),
    "": str,
    "string": str,
    "anyURI": str,
    "char": lambda content: chr(int(content)),
    "boolean": _read_bool,
    "dateTime": _read_time,
    "duration": lambda content: timedelta(seconds=read_duration(content)),
    "guid": UUID,
}


# --- writing -------------------------------------------------------------------------------------


def write_rule(description: Element, rule: Rule) -> None:
    """Fill a rule's description."""
    element = SubElement(description, f"{{{CONNECT}}}Filter")
    match rule.filter:
        case CorrelationFilter() as given:
            element.set(f"{{{INSTANCE}}}type", "CorrelationFilter")
            for tag, name in _ELEMENTS.items():
                if name in given.system:
                    text(element, CONNECT, tag, given.system[name])
            _write_values(element, "Properties", given.properties)
        case SqlFilter() as given:
            _write_sql(element, "SqlFilter", given.expression, given.parameters)
        case other:
            _write_sql(element, type(other).__name__, str(other), {})
    element = SubElement(description, f"{{{CONNECT}}}Action")
    if rule.action is None:
        element.set(f"{{{INSTANCE}}}type", "EmptyRuleAction")
    else:
        _write_sql(element, "SqlRuleAction", rule.action.expression, rule.action.parameters)
    text(description, CONNECT, "CreatedAt", write_time(rule.created_at))
    text(description, CONNECT, "Name", rule.name)


def _write_sql(
    element: Element, kind: str, expression: str, parameters: Mapping[str, object]
) -> None:
    element.set(f"{{{INSTANCE}}}type", kind)
    text(element, CONNECT, "SqlExpression", expression)
    text(element, CONNECT, "CompatibilityLevel", COMPATIBILITY)
    if parameters:
        _write_values(element, "Parameters", parameters)


def _write_values(parent: Element, name: str, values: Mapping[str, object]) -> None:
    element = SubElement(parent, f"{{{CONNECT}}}{name}")
    for key, value in values.items():
        pair = SubElement(element, f"{{{CONNECT}}}KeyValueOfstringanyType")
        text(pair, CONNECT, "Key", key)
        kind, content = _write_value(value)
        written = text(pair, CONNECT, "Value", content)
        written.set("xmlns:d6p1", SERIALIZATION if kind == "guid" else SCHEMA)
        written.set(f"{{{INSTANCE}}}type", f"d6p1:{kind}")


def _write_value(value: object) -> tuple[str, str]:
    match value:
        case bool():
            return "boolean", "true" if value else "false"
        case int():
            return "int" if -(2**31) <= value < 2**31 else "long", str(int(value))
        case float():
            return "double", repr(float(value))
        case datetime():
            return "dateTime", value.isoformat()
        case timedelta():
            return "duration", write_duration(value.total_seconds())
        case UUID():
            return "guid", str(value)
    return "string", str(value)
