"""The file of queues and topics that are made at the start.

TOML, or the JSON that Microsoft's emulator reads (``UserConfig.Namespaces[]`` with ``Queues[]`` and
``Topics[]``, ISO 8601 durations). In TOML::

    [[queue]]
    name = "tasks"
    lock_duration = 30           # seconds
    max_delivery_count = 5
    requires_session = false
    # and the other settings of a queue; durations in seconds

    [[topic]]
    name = "events"

    [[topic.subscription]]
    name = "large"
    lock_duration = 30

    [[topic.subscription.rule]]  # without any rule a subscription gets every message
    name = "above-100"
    sql = "amount > 100"         # or: correlation = { label = "x", properties = { a = 1 } }
    action = "SET large = TRUE"
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from servicebus_emulator.admin.durations import read_duration
from servicebus_emulator.broker.checks import check_name, check_settings, check_subscription_name
from servicebus_emulator.broker.model import (
    QueueSettings,
    Status,
    SubscriptionSettings,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.rules import (
    CORRELATION,
    CorrelationFilter,
    Filter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
    check_rule_name,
)
from servicebus_emulator.broker.topics import Topics
from servicebus_emulator.errors import ArgumentError, EntityExists, StartupError

Entry = dict[str, Any]
T = TypeVar("T")
S = TypeVar("S", bound=QueueSettings)


@dataclass(frozen=True, slots=True)
class SubscriptionPlan:
    """A subscription to be made; ``rules`` is None for the default rule."""

    settings: SubscriptionSettings
    rules: tuple[Rule, ...] | None = None


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic to be made, with its subscriptions by name."""

    settings: TopicSettings
    subscriptions: dict[str, SubscriptionPlan] = field(default_factory=dict)

    def make(self, name: str, topics: Topics, now: float) -> None:
        """Make the topic and its subscriptions where they are not there."""
        topic = topics.find(name) or topics.create(name, self.settings, now)
        for short_name, plan in self.subscriptions.items():
            if topic.find(short_name) is None:
                topics.subscribe(name, short_name, plan.settings, now, plan.rules)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file describes, by name."""

    queues: dict[str, QueueSettings] = field(default_factory=dict)
    topics: dict[str, TopicPlan] = field(default_factory=dict)

    def make(self, namespace: Namespace, now: float) -> None:
        """Make what is not there; what is there is left as it became.

        Raises :class:`~servicebus_emulator.errors.StartupError` where a queue has a topic's name.
        """
        try:
            for name, settings in self.queues.items():
                if name not in namespace:
                    namespace.create(name, settings, now)
            for name, plan in self.topics.items():
                plan.make(name, namespace.topics, now)
        except EntityExists as error:
            raise StartupError(
                f"the state and the file of --config disagree: {error}",
                remedy="rename it in the file, or name another file with --state",
            ) from None


def read_config(path: Path, tier: str = "standard") -> Plan:
    """What a file describes; raises :class:`~servicebus_emulator.errors.StartupError`."""
    try:
        raw = path.read_bytes()
        document = (
            _from_json(json.loads(raw))
            if path.suffix.lower() == ".json"
            else tomllib.loads(raw.decode())
        )
        unknown = sorted(set(document) - {"queue", "topic"})
        if unknown:
            raise ArgumentError(
                f"the key '{unknown[0]}' is not known; there are [[queue]] and [[topic]]"
            )
        queues = _named("queue", document, check_name, lambda e: _settings(QueueSettings, e, tier))
        topics = _named("topic", document, check_name, lambda entry: _topic(entry, tier))
        both = {name.lower() for name in queues} & {name.lower() for name in topics}
        if both:
            raise ArgumentError(f"'{min(both)}' is a queue and a topic")
        return Plan(queues, topics)
    except OSError as error:
        raise StartupError(
            f"cannot read {path}: {error.strerror}", remedy="correct --config"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError, ArgumentError) as error:
        raise StartupError(f"{path}: {error}", remedy="correct the file") from None


def _named(
    kind: str, parent: Entry, check: Callable[[str], None], read: Callable[[Entry], T]
) -> dict[str, T]:
    """The tables of a kind by their names."""
    found: dict[str, T] = {}
    known: set[str] = set()
    for number, table in enumerate(parent.pop(kind, []), start=1):
        entry = dict(table)
        name = entry.pop("name", None)
        try:
            if not isinstance(name, str):
                raise ArgumentError(f"a {kind} needs a name")
            check(name)
            if name.lower() in known:
                raise ArgumentError("the name is there twice")
            known.add(name.lower())
            found[name] = read(entry)
        except ArgumentError as error:
            raise ArgumentError(f"{kind} {name or number}: {error}") from None
    return found


def _topic(entry: Entry, tier: str) -> TopicPlan:
    subscriptions = _named(
        "subscription", entry, check_subscription_name, lambda inner: _subscription(inner, tier)
    )
    return TopicPlan(_settings(TopicSettings, entry, tier), subscriptions)


def _subscription(entry: Entry, tier: str) -> SubscriptionPlan:
    rules = _named("rule", entry, check_rule_name, _rule)
    settings = _settings(SubscriptionSettings, entry, tier)
    named = tuple(dataclasses.replace(rule, name=name) for name, rule in rules.items())
    return SubscriptionPlan(settings, named or None)


def _rule(entry: Entry) -> Rule:
    unknown = sorted(set(entry) - {"sql", "correlation", "action"})
    if unknown:
        raise ArgumentError(f"the key '{unknown[0]}' is not known")
    if "sql" in entry and "correlation" in entry:
        raise ArgumentError("a rule has one filter: 'sql' or 'correlation'")
    given: Filter = TrueFilter()
    if "sql" in entry:
        given = SqlFilter(_text(entry, "sql"))
    elif "correlation" in entry:
        given = _correlation(dict(entry["correlation"]))
    return Rule(
        filter=given, action=SqlAction(_text(entry, "action")) if "action" in entry else None
    )


def _correlation(entry: Entry) -> CorrelationFilter:
    properties = {str(k): _value(v) for k, v in dict(entry.pop("properties", {})).items()}
    system = {key.replace("_", "").lower(): _text(entry, key) for key in entry}
    unknown = sorted(set(system) - set(CORRELATION))
    if unknown:
        raise ArgumentError(f"a correlation filter cannot name '{unknown[0]}'")
    return CorrelationFilter(system, properties)


def _text(entry: Entry, key: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise ArgumentError(f"'{key}' should be a string, not {value!r}")
    return value


def _value(value: object) -> object:
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if not isinstance(value, str | bool | int | float):
        raise ArgumentError(f"a property cannot be {value!r}")
    return value


# --- settings ------------------------------------------------------------------------------------

_KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "bool": (bool,),
    "int | None": (int,),
    "str | None": (str,),
    "Status": (Status,),
}

_NOT_OF = {
    QueueSettings: frozenset[str](),
    TopicSettings: frozenset(
        {
            *("lock_duration", "max_delivery_count", "requires_session", "forward_to"),
            *("dead_lettering_on_message_expiration", "forward_dead_lettered_messages_to"),
        }
    ),
    SubscriptionSettings: frozenset(
        {
            *("requires_duplicate_detection", "duplicate_detection_window"),
            *("max_size_in_megabytes", "max_message_size_in_kilobytes", "enable_partitioning"),
            "enable_express",
        }
    ),
}
"""The settings of a queue that a topic and a subscription do not have."""


def _settings(kind: type[S], entry: Mapping[str, Any], tier: str) -> S:
    fields = {f.name: str(f.type) for f in dataclasses.fields(kind) if f.name not in _NOT_OF[kind]}
    given: Entry = {}
    for key, value in entry.items():
        kinds = _KINDS.get(fields.get(key, ""))
        if kinds is None:
            raise ArgumentError(f"the key '{key}' is not known")
        if kinds == (Status,):
            try:
                value = Status(value)
            except ValueError:
                raise ArgumentError(f"'{value}' is no status") from None
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (bool,)):
            raise ArgumentError(f"'{key}' should be {fields[key]}, not {value!r}")
        given[key] = float(str(value)) if fields[key] == "float" else value
    settings = kind(**given)
    check_settings(settings, tier)
    return settings


# --- the JSON of Microsoft's emulator ------------------------------------------------------------

_JSON_NAMES = {
    "DeadLetteringOnMessageExpiration": "dead_lettering_on_message_expiration",
    "DefaultMessageTimeToLive": "default_time_to_live",
    "DuplicateDetectionHistoryTimeWindow": "duplicate_detection_window",
    "ForwardDeadLetteredMessagesTo": "forward_dead_lettered_messages_to",
    "ForwardTo": "forward_to",
    "LockDuration": "lock_duration",
    "MaxDeliveryCount": "max_delivery_count",
    "RequiresDuplicateDetection": "requires_duplicate_detection",
    "RequiresSession": "requires_session",
    "Status": "status",
    "UserMetadata": "user_metadata",
}
_DURATIONS = frozenset({"lock_duration", "default_time_to_live", "duplicate_detection_window"})


def _from_json(document: Any) -> Entry:
    """The same as the TOML has it."""
    namespaces = document["UserConfig"]["Namespaces"]
    return {
        "queue": [_json_entry(queue) for space in namespaces for queue in space.get("Queues", [])],
        "topic": [_json_topic(topic) for space in namespaces for topic in space.get("Topics", [])],
    }


def _json_entry(given: Any) -> Entry:
    entry: Entry = {"name": given["Name"]}
    for key, value in (given.get("Properties") or {}).items():
        setting = _JSON_NAMES.get(key)
        if setting is None:
            raise ArgumentError(f"{given['Name']}: the key '{key}' is not known")
        if value != "" and value is not None:
            entry[setting] = read_duration(value) if setting in _DURATIONS else value
    return entry


def _json_topic(given: Any) -> Entry:
    subscriptions = [
        {**_json_entry(inner), "rule": [_json_rule(rule) for rule in inner.get("Rules") or []]}
        for inner in given.get("Subscriptions") or []
    ]
    return {**_json_entry(given), "subscription": subscriptions}


def _json_rule(given: Any) -> Entry:
    properties = given.get("Properties") or {}
    entry: Entry = {"name": given["Name"]}
    if sql := properties.get("SqlFilter"):
        entry["sql"] = sql["SqlExpression"]
    elif correlation := properties.get("CorrelationFilter"):
        entry["correlation"] = {
            "properties" if key == "Properties" else key: value
            for key, value in correlation.items()
            if value is not None
        }
    if action := properties.get("Action"):
        entry["action"] = action["SqlExpression"]
    return entry
