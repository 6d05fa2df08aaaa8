"""The SQL of rules: what parses, what it comes to, and what is unknown."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.broker.sql import (
    FilterError,
    check_parameters,
    parse_action,
    parse_condition,
)
from servicebus_emulator.errors import ArgumentError


class Fixed:
    """A message's properties."""

    def system(self, name: str) -> object:
        return {"label": "urgent", "messageid": "m-1", "size": 40}.get(name)

    def user(self, name: str) -> object:
        return USER.get(name)


USER: dict[str, object] = {
    "color": "red",
    "amount": 15,
    "ratio": 2.5,
    "ok": True,
    "no": False,
    "my prop": "x",
    "quote's": "y",
    "at": datetime(2026, 1, 2, 3, 4, 5),
    "id": UUID(int=1),
    "raw": b"bytes",
}


def holds(text: str, **parameters: object) -> object:
    return parse_condition(text, parameters)(Fixed())


@pytest.mark.parametrize(
    "text",
    [
        "1=1",
        "color = 'red'",
        "color='red' AND amount>10",
        "color <> 'blue' and amount != 14",
        "amount >= 15 AND amount <= 15 AND NOT amount < 15",
        "user.color = 'red' AND sys.Label = 'urgent' AND sys.MessageId LIKE 'm-%' AND sys.size > 1",
        "[my prop] = 'x'",
        "\"my prop\" = 'x' AND \"quote's\" = 'y'",
        "no = FALSE AND ok = TRUE AND ok <> no",
        "amount IN (1, 15, 'red')",
        "color NOT IN ('blue', 'green')",
        "color LIKE 'r_d' AND color LIKE '%d' AND color LIKE 'r%' AND color LIKE '%'",
        "color NOT LIKE 'R%'",
        "'100%' LIKE '100!%' ESCAPE '!' AND '100x' NOT LIKE '100!%' ESCAPE '!'",
        "'it''s' = 'it''s'",
        "EXISTS(color) AND NOT EXISTS (absent) AND EXISTS(sys.Label) AND NOT EXISTS(sys.To)",
        "color IS NOT NULL AND absent IS NULL AND sys.To IS NULL",
        "amount + 1 * 2 = 17 AND (amount + 1) * 2 = 32 AND -amount = -15 AND +amount = 15",
        "7 / 2 = 3 AND -7 / 2 = -3 AND 7 % 3 = 1 AND -7 % 3 = -1 AND 7.0 / 2 = 3.5",
        "ratio * 2 = 5 AND 1.5e1 = amount AND .5 < 1",
        "color + 'dish' = 'reddish' AND 'n' + amount = 'n15'",
        "property('color') = 'red' AND p('my ' + 'prop') = 'x' AND newid() <> newid()",
        "absent = 1 OR color = 'red'",
        "color = 'red' OR 1 / 0 = 1",
        "((color = 'red') AND ((amount) = (15)))",
        "color = 'blue' OR color = 'red' AND amount = 15",
        "amount <> '15' AND NOT amount = '15'",
        "color=amount+'' OR color<>amount+''",
    ],
)
def test_true(text: str) -> None:
    assert holds(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "1=0",
        "color = 'RED'",
        "NOT color = 'red'",
        "NOT (color = 'red' OR absent = 1)",
        "absent = 1 AND color = 'blue'",
        "amount IN ('15')",
        "color LIKE 'r'",
        "color LIKE '' AND 1=1",
        "raw = 'bytes'",
    ],
)
def test_false(text: str) -> None:
    assert holds(text) is False


@pytest.mark.parametrize(
    "text",
    [
        "absent = 1",
        "NOT absent = 1",
        "NOT NOT absent <> 1",
        "absent LIKE 'x'",
        "absent NOT IN (1)",
        "color IN ('blue', absent)",
        "color NOT IN ('blue', absent)",
        "absent + 1 > 2",
        "-absent < 1",
        "absent = 1 AND color = 'red'",
        "absent = 1 OR color = 'blue'",
        "color = NULL",
        "property(absent) = 1",
    ],
)
def test_unknown(text: str) -> None:
    assert holds(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "amount / 0 = 1",
        "amount % 0 = 1",
        "amount > '10'",
        "ok < TRUE",
        "amount LIKE '1%'",
        "amount - 'x' = 1",
        "-color = 1",
        "color LIKE 'a' ESCAPE 'ab'",
        "color LIKE 'a!' ESCAPE '!'",
        "property(1) = 2",
        "raw > raw",
        "1e300 * 1e300 % 2 = 1",
        "9223372036854775807 + 1 = 1",
        "9223372036854775807 * 9223372036854775807 + 'x' = 'y'",
    ],
)
def test_what_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(FilterError):
        holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "color",
        "TRUE",
        "color =",
        "= 1",
        "1 = 1 = 1",
        "color = 'red",
        "color == 'red'",
        "(color = 1",
        "color = 1)",
        "color = 1 color = 2",
        "NOT color",
        "color AND amount = 1",
        "1 + (color = 1) = 2",
        "EXISTS('color')",
        "EXISTS color",
        "color IN ()",
        "color IN 1",
        "color NOT 1",
        "color IS 1",
        "sys.Nothing = 1",
        "sys. = 1",
        "and = 1",
        "@absent = 1",
        "nothing() = 1",
        "newid(1) = 1",
        "[] = 1",
        "color # 1",
        "_a = 1",
        "9223372036854775808 = 1",
        "x" * 1020 + " = 12",
        "(" * 100 + "1" + ")" * 100 + " = 1",
        "-" * 100 + "1 = 1",
    ],
)
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_condition(text, {})


def test_parameters() -> None:
    assert holds("amount > @least AND color = @Color", least=10, color="red") is True
    assert parse_condition("at = @at", {"@at": USER["at"]})(Fixed()) is True
    assert parse_condition("at > @at", {"@at": datetime(2026, 1, 2)})(Fixed()) is True
    assert parse_condition("@a < @b", {"@a": timedelta(1), "@b": timedelta(2)})(Fixed()) is True
    assert parse_condition("id = @id", {"@id": UUID(int=1)})(Fixed()) is True


def test_long_chains_neither_nest_nor_exceed_the_stack() -> None:
    assert holds(" OR ".join(["1=0"] * 125 + ["1=1"])) is True
    assert holds("+".join(["1"] * 500) + " = 500") is True
    assert holds("NOT " * 200 + "1=1") is True


def test_a_hostile_pattern_takes_no_longer_than_the_product_of_the_lengths() -> None:
    pattern = "%a" * 400 + "b"
    assert parse_condition("@text LIKE @p", {"text": "a" * 20_000, "p": pattern})(Fixed()) is False


def test_a_string_does_not_grow_without_end() -> None:
    grown = parse_condition("+".join(["@s"] * 300) + " = 'x'", {"s": "s" * 60_000})
    with pytest.raises(FilterError):
        grown(Fixed())


@pytest.mark.parametrize("value", [b"x", [1], 1 << 63, None, object()])
def test_values_that_rules_do_not_know(value: object) -> None:
    with pytest.raises(ArgumentError):
        check_parameters({"a": value})


def test_actions() -> None:
    found = parse_action(
        "SET color = 'blue'; SET sys.Label = 'x' + amount, REMOVE [my prop] remove sys.To;", {}
    )
    assert [(s.is_system, s.name) for s in found] == [
        (False, "color"),
        (True, "label"),
        (False, "my prop"),
        (True, "to"),
    ]
    values = [None if s.value is None else s.value(Fixed()) for s in found]
    assert values == ["blue", "x15", None, None]


@pytest.mark.parametrize(
    "text",
    ["", "color = 1", "SET color", "SET color = 1 = 1", "SET sys.Size = 1", "REMOVE 'x'", "DROP x"],
)
def test_what_is_no_action(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_action(text, {})


@settings(deadline=None)  # other work may take the processor away
@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    with contextlib.suppress(ArgumentError, FilterError):
        assert parse_condition(text, {})(Fixed()) in (True, False, None)


_WORDS = ("color", "absent", "1", "'red'", "=", "<", "(", ")", "AND", "OR", "NOT", "LIKE", "+", "-")


@settings(deadline=None)  # other work may take the processor away
@given(st.lists(st.sampled_from(_WORDS), max_size=14).map(" ".join))
def test_any_words_are_a_condition_or_an_error(text: str) -> None:
    with contextlib.suppress(ArgumentError, FilterError):
        assert parse_condition(text, {})(Fixed()) in (True, False, None)


Logic = st.recursive(
    st.sampled_from([("1=1", True), ("1=0", False), ("absent=1", None)]),
    lambda inner: st.one_of(
        inner.map(lambda one: (f"NOT ({one[0]})", None if one[1] is None else not one[1])),
        st.tuples(inner, inner).map(
            lambda two: (
                f"({two[0][0]}) AND ({two[1][0]})",
                False
                if False in (two[0][1], two[1][1])
                else None
                if None in (two[0][1], two[1][1])
                else True,
            )
        ),
        st.tuples(inner, inner).map(
            lambda two: (
                f"({two[0][0]}) OR ({two[1][0]})",
                True
                if True in (two[0][1], two[1][1])
                else None
                if None in (two[0][1], two[1][1])
                else False,
            )
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)  # other work may take the processor away
@given(Logic)
def test_logic_has_three_values(case: tuple[str, bool | None]) -> None:
    text, value = case
    if len(text) <= 1024:
        assert holds(text) is value


@settings(deadline=None)  # other work may take the processor away
@given(st.integers(-(10**6), 10**6), st.integers(-50, 50).filter(bool))
def test_whole_numbers_divide_as_in_c(left: int, right: int) -> None:
    quotient = int(left / right)
    assert holds(f"@a / @b = {quotient} AND @a % @b = @a - @b * {quotient}", a=left, b=right)
