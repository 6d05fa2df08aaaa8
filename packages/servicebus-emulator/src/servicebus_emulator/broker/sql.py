"""The SQL of rules: a filter's condition, an action's SET and REMOVE.

The grammar is the one that Azure documents for subscription rules. An expression is parsed once,
to functions of a message's properties; from the weakest binding to the strongest::

    condition   OR, AND, NOT
    comparison  = <> != < <= > >=, [NOT] LIKE .. [ESCAPE ..], [NOT] IN (..), IS [NOT] NULL, EXISTS
    expression  + -, * / %, sign, constant, property, @parameter, newid(), property('name')

Logic has three values: what depends on a property that a message lacks is unknown (``None``), and
only what is true matches. Numbers count as in C#: whole numbers divide to whole numbers. Where
Azure's documentation is silent, values of different kinds are unequal, and putting them in order
is an error. A parser's work and depth are bounded by :data:`MAX_LENGTH` and :data:`MAX_DEPTH`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

from servicebus_emulator.broker.model import FOREVER
from servicebus_emulator.errors import ArgumentError

MAX_LENGTH = 1024
"""Characters of an expression, as in Azure."""

MAX_STRING = 1 << 16
"""Characters of a string that is put together: beyond what a message's header may hold."""

MAX_NUMBER = (1 << 63) - 1
"""Whole numbers have 64 bits, as in C#."""

_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0  # the years 1 and 9999

MAX_DEPTH = 64
"""How deep parentheses and signs may be nested."""

SYSTEM = frozenset(
    {
        *("contenttype", "correlationid", "deadlettersource", "deliverycount"),
        *("enqueuedsequencenumber", "enqueuedtimeutc", "expiresatutc", "label", "messageid"),
        *("partitionkey", "replyto", "replytosessionid", "scheduledenqueuetimeutc"),
        *("sequencenumber", "sessionid", "size", "subject", "timetolive", "to"),
    }
)
"""The properties of a message that ``sys.`` names, whatever the case."""

SETTABLE = frozenset(
    {
        *("contenttype", "correlationid", "label", "messageid", "replyto", "replytosessionid"),
        *("sessionid", "subject", "to"),
    }
)
"""Those that an action may set; the others are the broker's."""


class FilterError(Exception):
    """A rule cannot be evaluated for a message, such as a division by zero."""


class Properties(Protocol):
    """What a rule reads of a message; None where the message has no such property."""

    def system(self, name: str) -> object:
        """A system property by its name in lower case, of :data:`SYSTEM`."""

    def user(self, name: str) -> object:
        """An application property."""


Evaluate = Callable[[Properties], object]
Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One statement of an action. ``value`` is None where the property is to be removed."""

    is_system: bool
    name: str
    value: Evaluate | None


def parse_condition(text: str, parameters: Parameters) -> Evaluate:
    """A condition as a function: True, False, or None for unknown.

    Raises :class:`~servicebus_emulator.errors.ArgumentError`. The function may raise
    :class:`FilterError`.
    """
    parser = _Parser(text, parameters)
    condition = parser.condition(parser.disjunction())
    parser.end()
    return condition


def parse_action(text: str, parameters: Parameters) -> list[Assignment]:
    """An action's statements; raises :class:`~servicebus_emulator.errors.ArgumentError`."""
    return _Parser(text, parameters).statements()


# --- words ---------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<string>'(?:[^']|'')*')
      | (?P<delimited>\[(?:[^\]]|\]\])+\]|"(?:[^"]|"")+")
      | (?P<parameter>@\w+)
      | (?P<word>[^\W\d_]\w*)
      | (?P<sign><>|!=|<=|>=|[=<>()+\-*/%,.;])""",
    re.VERBOSE,
)
_SPACE = re.compile(r"\s*")
_RESERVED = frozenset(
    {"and", "or", "not", "in", "like", "escape", "is", "null", "exists", "true", "false"}
)


class _Token(NamedTuple):
    kind: str
    text: str
    place: int

    @property
    def key(self) -> str:
        """What stands for itself: a sign, or a word in lower case."""
        return self.text.lower() if self.kind in ("word", "sign") else ""


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    place = _SPACE.match(text).end()  # type: ignore[union-attr]
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ArgumentError(f"The SQL expression is invalid at position {place}: {text!r}.")
        found.append(_Token(match.lastgroup or "", match.group(), place))
        place = _SPACE.match(text, match.end()).end()  # type: ignore[union-attr]
    found.append(_Token("end", "", len(text)))
    return found


# --- grammar -------------------------------------------------------------------------------------


class _Node(NamedTuple):
    """A condition (to be true, false or unknown) or an expression (a value)."""

    is_condition: bool
    evaluate: Evaluate


class _Property(NamedTuple):
    is_system: bool
    name: str

    def read(self, message: Properties) -> object:
        return message.system(self.name) if self.is_system else message.user(self.name)


class _Parser:
    def __init__(self, text: str, parameters: Parameters) -> None:
        if not text.strip():
            raise ArgumentError("The SQL expression is empty.")
        if len(text) > MAX_LENGTH:
            raise ArgumentError(f"The SQL expression is longer than {MAX_LENGTH} characters.")
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        self._parameters = {name.lstrip("@").lower(): v for name, v in parameters.items()}

    # --- moving ----------------------------------------------------------------------------------

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *keys: str) -> str | None:
        """The next sign or word where it is one of these."""
        key = self._token.key
        if key in keys and key:
            self._next += 1
            return key
        return None

    def _need(self, key: str) -> None:
        if self._take(key) is None:
            raise self._error(f"'{key}' is missing")

    def _error(self, what: str) -> ArgumentError:
        token = self._token
        found = f"'{token.text}'" if token.text else "the end"
        return ArgumentError(
            f"The SQL expression is invalid at position {token.place}, {found}: {what}. "
            f"The expression is {self._text!r}."
        )

    def end(self) -> None:
        """Raise where something is left."""
        if self._token.kind != "end":
            raise self._error("nothing more should follow")

    def condition(self, node: _Node) -> Evaluate:
        """The node's function, where it is a condition."""
        if not node.is_condition:
            raise self._error("a condition, such as a comparison, should stand before this")
        return node.evaluate

    def _value(self, node: _Node) -> Evaluate:
        if node.is_condition:
            raise self._error("an expression should stand before this, not a condition")
        return node.evaluate

    # --- conditions ------------------------------------------------------------------------------

    def disjunction(self) -> _Node:
        """Conditions with OR between, or a lone expression."""
        return self._chain(self._conjunction, "or", True)

    def _conjunction(self) -> _Node:
        return self._chain(self._negation, "and", False)

    def _chain(self, part: Callable[[], _Node], word: str, decisive: bool) -> _Node:
        """OR is true where one part is, AND is false where one part is; else unknown wins."""
        first = part()
        if self._token.key != word:
            return first
        terms = [self.condition(first)]
        while self._take(word):
            terms.append(self.condition(part()))

        def evaluate(message: Properties) -> object:
            result: object = not decisive
            for term in terms:
                value = term(message)
                if value is decisive:
                    return decisive
                if value is None:
                    result = None
            return result

        return _Node(True, evaluate)

    def _negation(self) -> _Node:
        negations = 0
        while self._take("not"):
            negations += 1
        node = self._comparison()
        if not negations:
            return node
        condition = self.condition(node)
        return _negate(condition) if negations % 2 else node

    def _comparison(self) -> _Node:
        if self._take("exists"):
            self._need("(")
            found = self._property()
            self._need(")")
            return _Node(True, lambda message: found.read(message) is not None)
        left = self._sum()
        if sign := self._take("=", "<>", "!=", "<", "<=", ">", ">="):
            return _compare(sign, self._value(left), self._value(self._sum()))
        if self._take("is"):
            return self._is_null(self._value(left))
        negated = self._take("not") is not None
        node: _Node | None = None
        if self._take("like"):
            node = self._like(self._value(left))
        elif self._take("in"):
            node = self._in(self._value(left))
        elif negated:
            raise self._error("LIKE or IN is missing")
        if node is None:
            return left
        return _negate(node.evaluate) if negated else node

    def _is_null(self, value: Evaluate) -> _Node:
        negated = self._take("not") is not None
        self._need("null")
        return _Node(True, lambda message: (value(message) is None) is not negated)

    def _like(self, value: Evaluate) -> _Node:
        pattern = self._value(self._sum())
        escape = self._value(self._sum()) if self._take("escape") else None

        def evaluate(message: Properties) -> object:
            text, wanted = value(message), pattern(message)
            quote = escape(message) if escape is not None else ""
            if text is None or wanted is None or quote is None:
                return None
            if not (isinstance(text, str) and isinstance(wanted, str) and isinstance(quote, str)):
                raise FilterError("LIKE compares strings only.")
            return _pattern(wanted, quote).match(text) is not None

        return _Node(True, evaluate)

    def _in(self, value: Evaluate) -> _Node:
        self._need("(")
        items = [self._value(self._sum())]
        while self._take(","):
            items.append(self._value(self._sum()))
        self._need(")")

        def evaluate(message: Properties) -> object:
            wanted = value(message)
            if wanted is None:
                return None
            result: object = False
            for item in items:
                found = item(message)
                if found is None:
                    result = None
                elif are_equal(wanted, found):
                    return True
            return result

        return _Node(True, evaluate)

    # --- expressions -----------------------------------------------------------------------------

    def _sum(self) -> _Node:
        return self._operators(self._product, ("+", "-"))

    def _product(self) -> _Node:
        return self._operators(self._factor, ("*", "/", "%"))

    def _operators(self, part: Callable[[], _Node], signs: tuple[str, ...]) -> _Node:
        first = part()
        if self._token.key not in signs:
            return first
        start = self._value(first)
        steps: list[tuple[str, Evaluate]] = []
        while sign := self._take(*signs):
            steps.append((sign, self._value(part())))

        def evaluate(message: Properties) -> object:
            value = start(message)
            for sign, operand in steps:
                value = _calculate(sign, value, operand(message))
            return value

        return _Node(False, evaluate)

    def _factor(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"it is nested deeper than {MAX_DEPTH}")
        try:
            if self._take("("):
                inner = self.disjunction()
                self._need(")")
                return inner
            if sign := self._take("+", "-"):
                operand = self._value(self._factor())
                return _Node(False, lambda message: _signed(sign, operand(message)))
            return _Node(False, self._atom())
        finally:
            self._depth -= 1

    def _atom(self) -> Evaluate:
        token = self._token
        constant: object
        if token.kind == "number":
            constant = float(token.text)
            if token.text.isdecimal():
                constant = int(token.text)
                if constant > MAX_NUMBER:
                    raise self._error("the number is too large")
        elif token.kind == "string":
            constant = token.text[1:-1].replace("''", "'")
        elif token.kind == "parameter":
            name = token.text[1:].lower()
            if name not in self._parameters:
                raise self._error("unknown parameter")
            constant = self._parameters[name]
        elif token.key in ("true", "false", "null"):
            constant = {"true": True, "false": False, "null": None}[token.key]
        elif token.kind == "word" and self._tokens[self._next + 1].text == "(":
            return self._function(token.key)
        else:
            return self._property().read
        self._next += 1
        return lambda message: constant

    def _function(self, name: str) -> Evaluate:
        if name not in ("newid", "property", "p"):
            raise self._error("unknown function")
        self._next += 2
        if name == "newid":
            self._need(")")
            return lambda message: uuid4()
        argument = self._value(self._sum())
        self._need(")")

        def evaluate(message: Properties) -> object:
            wanted = argument(message)
            if wanted is not None and not isinstance(wanted, str):
                raise FilterError("A property's name is a string.")
            return None if wanted is None else message.user(wanted)

        return evaluate

    def _property(self) -> _Property:
        scope = "user"
        if self._token.key in ("sys", "user") and self._tokens[self._next + 1].text == ".":
            scope = self._token.key
            self._next += 2
        token = self._token
        if token.kind == "word" and token.key not in _RESERVED:
            name = token.text
        elif token.kind == "delimited":
            close = token.text[-1]
            name = token.text[1:-1].replace(close * 2, close)
        else:
            raise self._error("a property or a value is missing")
        if scope == "sys" and name.lower() not in SYSTEM:
            raise self._error("unknown system property")
        self._next += 1
        return _Property(scope == "sys", name.lower() if scope == "sys" else name)

    # --- actions ---------------------------------------------------------------------------------

    def statements(self) -> list[Assignment]:
        """SET and REMOVE, one after the other."""
        found = [self._statement()]
        while self._token.kind != "end":
            found.append(self._statement())
        return found

    def _statement(self) -> Assignment:
        keyword = self._take("set", "remove")
        if keyword is None:
            raise self._error("SET or REMOVE is missing")
        place = self._property()
        if place.is_system and place.name not in SETTABLE:
            raise self._error("this system property cannot be changed")
        value = None
        if keyword == "set":
            self._need("=")
            value = self._value(self._sum())
        while self._take(";", ","):
            pass
        return Assignment(place.is_system, place.name, value)


# --- values --------------------------------------------------------------------------------------

_ORDERS: dict[str, Callable[..., bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _negate(condition: Evaluate) -> _Node:
    def evaluate(message: Properties) -> object:
        value = condition(message)
        return None if value is None else not value

    return _Node(True, evaluate)


def _compare(sign: str, left: Evaluate, right: Evaluate) -> _Node:
    def evaluate(message: Properties) -> object:
        one, other = left(message), right(message)
        if one is None or other is None:
            return None
        if sign == "=":
            return are_equal(one, other)
        if sign in ("<>", "!="):
            return not are_equal(one, other)
        kind = _kind(one)
        if kind != _kind(other) or kind in ("boolean", "other"):
            raise FilterError(
                f"The operator '{sign}' cannot be applied to {_kind(one)} and {_kind(other)}."
            )
        return _ORDERS[sign](one, other)

    return _Node(True, evaluate)


_KINDS: Sequence[tuple[type | tuple[type, ...], str]] = (
    (bool, "boolean"),
    ((int, float), "number"),
    (str, "string"),
    (datetime, "time"),
    (timedelta, "duration"),
    (UUID, "identifier"),
)


def _kind(value: object) -> str:
    return next((name for kinds, name in _KINDS if isinstance(value, kinds)), "other")


def are_equal(one: object, other: object) -> bool:
    """Two values are of one kind and equal; case counts."""
    return _kind(one) == _kind(other) and one == other


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -MAX_NUMBER - 1 <= value <= MAX_NUMBER


def check_parameters(parameters: Parameters) -> None:
    """Raise ArgumentError where a value is of no kind that rules know, or does not fit."""
    for name, value in parameters.items():
        if _kind(value) == "other":
            raise ArgumentError(f"The value of '{name}' is of a type that rules do not know.")
        if not _fits(value):
            raise ArgumentError(f"The value of '{name}' does not fit into 64 bits.")


def time_at(seconds: float) -> datetime:
    """A point in time as values have it: naive, in UTC, of the years that ``datetime`` has."""
    return datetime(1970, 1, 1) + timedelta(seconds=max(_FIRST, min(seconds, _LAST)))


def duration_of(seconds: float) -> timedelta:
    """A duration as values have it, at most Azure's longest."""
    return timedelta(seconds=max(-FOREVER, min(seconds, FOREVER)))


def _signed(sign: str, value: object) -> object:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"The operator '{sign}' cannot be applied to {_kind(value)}.")
    return -value if sign == "-" else +value


def _calculate(sign: str, left: object, right: object) -> object:
    if left is None or right is None:
        return None
    if sign == "+" and (isinstance(left, str) or isinstance(right, str)):
        text = f"{left}{right}"
        if len(text) > MAX_STRING:
            raise FilterError(f"A string would be longer than {MAX_STRING} characters.")
        return text
    if not (_kind(left) == _kind(right) == "number"):
        raise FilterError(
            f"The operator '{sign}' cannot be applied to {_kind(left)} and {_kind(right)}."
        )
    assert isinstance(left, int | float)
    assert isinstance(right, int | float)
    try:
        result = _arithmetic(sign, left, right)
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise FilterError(f"The result of '{sign}' does not exist: {error}.") from None
    if not _fits(result):
        raise FilterError(f"The result of '{sign}' does not fit into 64 bits.")
    return result


def _arithmetic(sign: str, left: int | float, right: int | float) -> int | float:
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if isinstance(left, float) or isinstance(right, float):
        return left / right if sign == "/" else math.fmod(left, right)
    whole = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    return whole if sign == "/" else left - right * whole


@lru_cache(maxsize=256)
def _pattern(text: str, escape: str) -> re.Pattern[str]:
    """``%`` is any text and ``_`` any character, unless the escape character stands before.

    Each part between two ``%`` is found at its first place and not looked for again (an atomic
    group), so that no pattern takes more than the product of the two lengths.
    """
    if len(escape) > 1:
        raise FilterError("The escape character is one character.")
    parts, characters = [""], iter(text)
    for character in characters:
        if character == escape:
            following = next(characters, None)
            if following is None:
                raise FilterError("The pattern ends with the escape character.")
            parts[-1] += re.escape(following)
        elif character == "%":
            parts.append("")
        else:
            parts[-1] += "." if character == "_" else re.escape(character)
    if len(parts) == 1:
        return re.compile(rf"{parts[0]}\Z", re.DOTALL)
    inner = "".join(f"(?>.*?{part})" for part in parts[1:-1] if part)
    return re.compile(rf"{parts[0]}{inner}.*{parts[-1]}\Z", re.DOTALL)
