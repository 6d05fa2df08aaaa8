"""Rules on the wire: asked for and listed over ``$management``, and packed for the store.

A client asks with maps; the answer to ``enumerate-rules`` is described lists, whose codes are
below. The store's form (:func:`pack_rule`) has, beyond both, the parameters of the SQL.
"""

from __future__ import annotations

from collections.abc import Mapping

from servicebus_emulator.amqp.codec import EncodeError, decode, encoded
from servicebus_emulator.amqp.types import Described, Int, Timestamp, ULong
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import (
    CORRELATION,
    CorrelationFilter,
    FalseFilter,
    Filter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
    check_rule_name,
)
from servicebus_emulator.broker.topic import Subscription
from servicebus_emulator.errors import ArgumentError, NotAllowed
from servicebus_emulator.gateway.fields import to_plain, to_wire

Body = dict[object, object]

RULE, EMPTY_ACTION, SQL_ACTION = 0x137_0000_0004, 0x137_0000_0005, 0x137_0000_0006
SQL_FILTER, TRUE_FILTER = 0x13_7000_0006, 0x13_7000_0007
FALSE_FILTER, CORRELATION_FILTER = 0x13_7000_0008, 0x13_7000_0009
COMPATIBILITY = 20
"""The version of the SQL, as Azure tells it."""

_ASKED = {
    "correlation-id": "correlationid",
    "message-id": "messageid",
    "to": "to",
    "reply-to": "replyto",
    "label": "label",
    "session-id": "sessionid",
    "reply-to-session-id": "replytosessionid",
    "content-type": "contenttype",
}


# --- requests ------------------------------------------------------------------------------------


def add_rule(queue: Queue, body: Body, now: float) -> Body | None:
    """``add-rule``: a map with ``rule-name`` and ``rule-description``."""
    name = _name(body)
    check_rule_name(name)
    description = _map(body.get("rule-description"), "rule-description")
    action = description.get("sql-rule-action")
    rule = Rule(
        name,
        _read_filter(description),
        None if action is None else SqlAction(_expression(action, "sql-rule-action")),
    )
    _subscription(queue).add_rule(rule, now)
    return {}


def remove_rule(queue: Queue, body: Body, now: float) -> Body | None:
    """``remove-rule``: a map with ``rule-name``."""
    _subscription(queue).remove_rule(_name(body), now)
    return {}


def enumerate_rules(queue: Queue, body: Body, now: float) -> Body | None:
    """``enumerate-rules``: a map with ``top`` and ``skip``; None where there are no more."""
    skip, top = body.get("skip", 0), body.get("top", 100)
    if not isinstance(skip, int) or not isinstance(top, int) or skip < 0 or top < 0:
        raise ArgumentError("'skip' and 'top' must be whole numbers.")
    page = _subscription(queue).rules[skip : skip + top]
    return {"rules": [{"rule-description": _write_rule(rule)} for rule in page]} if page else None


def _subscription(queue: Queue) -> Subscription:
    if not isinstance(queue, Subscription):
        raise NotAllowed(f"'{queue.name}' is no subscription: it has no rules.")
    return queue


def _name(body: Body) -> str:
    name = body.get("rule-name")
    if not isinstance(name, str):
        raise ArgumentError("'rule-name' must be a string.")
    return name


def _map(value: object, key: str) -> Body:
    if not isinstance(value, dict):
        raise ArgumentError(f"'{key}' must be a map.")
    return value


def _expression(value: object, key: str) -> str:
    expression = _map(value, key).get("expression")
    if not isinstance(expression, str):
        raise ArgumentError(f"The 'expression' of '{key}' must be a string.")
    return expression


def _read_filter(description: Body) -> Filter:
    if "correlation-filter" in description:
        asked = _map(description["correlation-filter"], "correlation-filter")
        named = {name: asked.get(key) for key, name in _ASKED.items()}
        properties = asked.get("properties")
        return CorrelationFilter(
            {name: str(value) for name, value in named.items() if value is not None},
            _plain(properties) if isinstance(properties, dict) else {},
        )
    if "sql-filter" in description:
        expression = _expression(description["sql-filter"], "sql-filter")
        # This is how clients ask for the filters that have no map of their own.
        known: dict[str, Filter] = {"1=1": TrueFilter(), "1=0": FalseFilter()}
        return known.get(expression) or SqlFilter(expression)
    return TrueFilter()


def _write_rule(rule: Rule) -> Described:
    return Described(
        ULong(RULE),
        [
            _write_filter(rule.filter),
            Described(ULong(EMPTY_ACTION), [])
            if rule.action is None
            else Described(ULong(SQL_ACTION), [rule.action.expression, Int(COMPATIBILITY)]),
            rule.name,
            Timestamp(int(rule.created_at * 1000)),
        ],
    )


def _write_filter(given: Filter) -> Described:
    match given:
        case CorrelationFilter():
            system = [given.system.get(name) for name in CORRELATION]
            return Described(ULong(CORRELATION_FILTER), [*system, _wire(given.properties)])
        case SqlFilter():
            code = SQL_FILTER
        case FalseFilter():
            code = FALSE_FILTER
        case _:
            code = TRUE_FILTER
    return Described(ULong(code), [str(given), Int(COMPATIBILITY)])


def _plain(values: Body) -> dict[str, object]:
    return {str(key): to_plain(value) for key, value in values.items()}


def _wire(values: Mapping[str, object]) -> Body:
    return {key: to_wire(value) for key, value in values.items()}


# --- keeping -------------------------------------------------------------------------------------


def pack_rule(rule: Rule) -> bytes:
    """A rule for a store."""
    given = rule.filter
    packed: Body = {"name": rule.name, "created": float(rule.created_at)}
    match given:
        case SqlFilter():
            packed["sql"], packed["parameters"] = given.expression, _wire(given.parameters)
        case CorrelationFilter():
            packed["system"], packed["properties"] = dict(given.system), _wire(given.properties)
        case FalseFilter():
            packed["false"] = True
    if rule.action is not None:
        packed["action"] = rule.action.expression
        packed["values"] = _wire(rule.action.parameters)
    try:
        return encoded(packed)
    except EncodeError as error:
        raise ArgumentError(f"A value in the rule '{rule.name}' cannot be kept: {error}.") from None


def unpack_rule(packed: bytes) -> Rule:
    """What :func:`pack_rule` was given."""
    kept = _map(decode(packed)[0], "rule")

    def values(key: str) -> dict[str, object]:
        return _plain(_map(kept.get(key, {}), key))

    given: Filter = TrueFilter()
    if "sql" in kept:
        given = SqlFilter(str(kept["sql"]), values("parameters"))
    elif "system" in kept:
        system = {str(key): str(value) for key, value in _map(kept["system"], "system").items()}
        given = CorrelationFilter(system, values("properties"))
    elif "false" in kept:
        given = FalseFilter()
    created = kept["created"]
    return Rule(
        str(kept["name"]),
        given,
        SqlAction(str(kept["action"]), values("values")) if "action" in kept else None,
        created if isinstance(created, float) else 0.0,
    )
