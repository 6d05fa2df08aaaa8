"""The one poll loop: what ends it, and what it says when nothing does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ci.errors import WaitTimeout
from ci.tools.wait import Pending, wait_until
from tests.unit.promotion.upgrade.test_soak import ManualClock


def test_the_value_that_came_is_returned() -> None:
    answers: Iterator[str | Pending | None] = iter([None, Pending("1 of 2"), "ready"])
    clock = ManualClock()
    got = wait_until("it", lambda: next(answers), timeout=9, clock=clock, interval=1)
    assert (got, clock.now) == ("ready", 2)


def test_what_is_seen_is_told_once_each_time_it_changes() -> None:
    answers = iter([Pending("a"), Pending("a"), Pending("b"), Pending("a"), True])
    told: list[str] = []
    wait_until("it", lambda: next(answers), timeout=9, clock=ManualClock(), progress=told.append)
    assert told == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("seen", "diagnosed", "says"),
    [
        (Pending("1 of 2"), None, "1 of 2"),
        (None, "its log", "its log"),
        (False, None, "nothing"),
        (Pending(""), None, "nothing"),
    ],
)
def test_a_wait_that_ends_says_what_was_seen_last(
    seen: Pending | bool | None, diagnosed: str | None, says: str
) -> None:
    clock = ManualClock()
    with pytest.raises(WaitTimeout) as caught:
        wait_until(
            "the pods",
            lambda: seen,
            timeout=5,
            clock=clock,
            diagnose=None if diagnosed is None else lambda: str(diagnosed),
        )
    assert str(caught.value) == f"waited 5 s for the pods; last seen: {says}"
    assert clock.now == 5
