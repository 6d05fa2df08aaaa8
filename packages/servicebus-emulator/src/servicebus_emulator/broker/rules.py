"""The rules of a subscription: which messages it gets, and what is changed in its copies.

============= =====================================================================================
filter        matches
============= =====================================================================================
true, false   every message; none
correlation   a message whose properties all equal those that the filter names
SQL           a message for which the condition is true, see :mod:`servicebus_emulator.broker.sql`
============= =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from servicebus_emulator.broker import sql
from servicebus_emulator.broker.model import FOREVER, Message
from servicebus_emulator.errors import ArgumentError

DEFAULT_RULE = "$Default"
_NAME = re.compile(r"\$?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_-])?", re.ASCII)
MAX_NAME_LENGTH = 50

Parameters = Mapping[str, object]
"""Values by name: ``str``, ``bool``, ``int``, ``float``, ``datetime`` (naive, UTC), ``timedelta``
or ``UUID``."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What a sender wrote that rules read: values as in :data:`Parameters`.

    ``system`` has keys of :data:`servicebus_emulator.broker.sql.SETTABLE`, but no ``subject``, and
    ``partitionkey``.
    """

    system: dict[str, object]
    user: dict[str, object]


@runtime_checkable
class Filterable(Protocol):
    """A content that rules can read; of any other content they see nothing."""

    def fields(self) -> Fields:
        """What its sender wrote."""

    def changed(self, changes: Fields) -> object:
        """The same content with these properties set, and removed where the value is None."""


class View:
    """A message as rules see it: what its sender wrote and what the broker knows."""

    def __init__(self, message: Message) -> None:
        self._message = message
        content = message.content
        fields = content.fields() if isinstance(content, Filterable) else Fields({}, {})
        self._system = dict(fields.system)
        self._user = {**fields.user, **(message.properties or {})}
        self._folded: dict[str, object] | None = None
        self.changes = Fields({}, {})

    def system(self, name: str) -> object:
        """See :class:`servicebus_emulator.broker.sql.Properties`."""
        read = _BROKER_S.get(name)
        if read is not None:
            return read(self._message)
        return self._system.get("label" if name == "subject" else name)

    def user(self, name: str) -> object:
        """See :class:`servicebus_emulator.broker.sql.Properties`; case decides only between two."""
        if name in self._user:
            return self._user[name]
        if self._folded is None:
            self._folded = {key.lower(): value for key, value in self._user.items()}
        return self._folded.get(name.lower())

    def assign(self, is_system: bool, name: str, value: object) -> None:
        """Set a property; None removes it."""
        if is_system:
            name = "label" if name == "subject" else name
            if value is not None and not isinstance(value, str):
                value = str(value)
            self._system[name] = self.changes.system[name] = value
        else:
            held = next((key for key in self._user if key.lower() == name.lower()), name)
            self._user[held] = self.changes.user[held] = value
            self._folded = None


def _time(seconds: float | None) -> object:
    return None if seconds is None else sql.time_at(seconds)


_BROKER_S: dict[str, Callable[[Message], object]] = {
    "deadlettersource": lambda message: message.dead_letter_source,
    "deliverycount": lambda message: message.delivery_count,
    "enqueuedsequencenumber": lambda message: message.enqueued_sequence_number,
    "enqueuedtimeutc": lambda message: _time(message.enqueued_at),
    "expiresatutc": lambda message: _time(message.expires_at),
    "scheduledenqueuetimeutc": lambda message: _time(message.scheduled_for),
    "sequencenumber": lambda message: message.sequence_number,
    "size": lambda message: message.size,
    "timetolive": lambda message: sql.duration_of(message.time_to_live or FOREVER),
}


# --- filters -------------------------------------------------------------------------------------


class Filter(Protocol):
    """Decides on a message. As text it is the condition that it amounts to."""

    def matches(self, message: View) -> bool:
        """The rule holds; may raise :class:`~servicebus_emulator.broker.sql.FilterError`."""


@dataclass(frozen=True)
class TrueFilter:
    """Every message."""

    def __str__(self) -> str:
        return "1=1"

    def matches(self, message: View) -> bool:
        """See :class:`Filter`."""
        return True


@dataclass(frozen=True)
class FalseFilter:
    """No message."""

    def __str__(self) -> str:
        return "1=0"

    def matches(self, message: View) -> bool:
        """See :class:`Filter`."""
        return False


@dataclass(frozen=True)
class SqlFilter:
    """What an SQL condition is true for; raises ArgumentError where it is no condition."""

    expression: str
    parameters: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        sql.check_parameters(self.parameters)
        condition = sql.parse_condition(self.expression, self.parameters)
        object.__setattr__(self, "_condition", condition)

    _condition: sql.Evaluate = field(init=False, repr=False, compare=False)

    def __str__(self) -> str:
        return self.expression

    def matches(self, message: View) -> bool:
        """See :class:`Filter`."""
        return self._condition(message) is True


CORRELATION = (
    "correlationid",
    "messageid",
    "to",
    "replyto",
    "label",
    "sessionid",
    "replytosessionid",
    "contenttype",
)
"""The system properties that a correlation filter may name, in the order of the wire."""


@dataclass(frozen=True)
class CorrelationFilter:
    """Messages whose properties all equal these; ``system`` has keys of :data:`CORRELATION`."""

    system: Mapping[str, str] = field(default_factory=dict)
    properties: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.system and not self.properties:
            raise ArgumentError("A correlation filter names at least one property.")
        sql.check_parameters(self.properties)

    def __str__(self) -> str:
        named = {**{f"sys.{name}": value for name, value in self.system.items()}, **self.properties}
        return " AND ".join(f"{name} = {value!r}" for name, value in named.items())

    def matches(self, message: View) -> bool:
        """See :class:`Filter`."""
        return all(message.system(name) == value for name, value in self.system.items()) and all(
            sql.are_equal(message.user(name), value) for name, value in self.properties.items()
        )


@dataclass(frozen=True)
class SqlAction:
    """What is set and removed in a copy; raises ArgumentError where it is no action."""

    expression: str
    parameters: Parameters = field(default_factory=dict)

    def __post_init__(self) -> None:
        sql.check_parameters(self.parameters)
        statements = sql.parse_action(self.expression, self.parameters)
        object.__setattr__(self, "_statements", statements)

    _statements: list[sql.Assignment] = field(init=False, repr=False, compare=False)

    def apply(self, message: View) -> None:
        """One statement after the other, each on what the last one left."""
        for statement in self._statements:
            value = None if statement.value is None else statement.value(message)
            message.assign(statement.is_system, statement.name, value)


@dataclass(frozen=True)
class Rule:
    """A filter, and what is done to the copies of the messages that it matches."""

    name: str = DEFAULT_RULE
    filter: Filter = field(default_factory=TrueFilter)
    action: SqlAction | None = None
    created_at: float = 0.0


def check_rule_name(name: str) -> None:
    """Raise where Azure would not take a rule's name."""
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise ArgumentError(
            f"The rule name '{name}' is invalid: letters, digits, periods, hyphens and "
            f"underscores, at most {MAX_NAME_LENGTH}."
        )
