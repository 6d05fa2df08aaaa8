"""The rules of the soak: what is a breach, what is chance, and in which words it is told."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import results
from ci.promotion.probes.prober import BUCKETS, Account, Sample, bucket, ends
from ci.promotion.release.rollout import restart_counts
from ci.promotion.upgrade import gates
from ci.promotion.upgrade.gates import Lines, Span
from ci.results import (
    Because,
    Breach,
    BreachId,
    CheckId,
    Cure,
    CureId,
    Outcome,
    Problem,
)
from ci.settings import Gates, Query
from tests.unit.promotion.probes.accounts import account

NONE = (0,) * BUCKETS


def span(*milliseconds: float, failed: int = 0) -> Span:
    took = list(NONE)
    for each in milliseconds:
        took[bucket(each / 1000)] += 1
    return Span(len(milliseconds), failed, tuple(took), "HTTP 500" if failed else "")


@given(st.floats(0.000001, 40))
def test_a_bucket_ends_at_most_a_fifth_above_what_is_in_it(seconds: float) -> None:
    end = ends(bucket(seconds))
    assert seconds <= end * 1.000001
    assert end <= max(0.001, seconds * 1.2)


@given(st.lists(st.floats(0.001, 40), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_that_of_the_answers(seconds: list[float], share: float) -> None:
    found = span(*(each * 1000 for each in seconds)).quantile(share)
    exact = sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]
    assert exact <= found * 1.000001
    assert found <= exact * 1.2


def test_what_lies_between_two_accounts() -> None:
    samples = [Sample(0, 0.01), Sample(1, 1.2, "reset"), Sample(2, 2.5), Sample(3, 3.1, "HTTP 500")]
    earlier = account(samples[:2], sent=2, begun=0, ended=2)
    later = account(samples, sent=4, begun=0, ended=4)
    found = gates.between(earlier, later)
    assert (found.answered, found.failed, found.problem) == (1, 1, "HTTP 500")
    assert sum(found.took) == 1
    assert found.took[bucket(0.5)] == 1
    assert gates.between(None, earlier).answered == 1


def test_no_answers_have_no_quantile_and_no_rate() -> None:
    assert (span().quantile(0.95), span().error_percent) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("before", "soak", "breached"),
    [
        (span(*[5.0] * 100), span(*[5.0] * 99, failed=1), False),
        (span(*[5.0] * 100), span(*[5.0] * 98, failed=2), True),
        (span(*[5.0] * 98, failed=2), span(*[5.0] * 98, failed=2), False),
        (span(*[5.0] * 98, failed=2), span(*[5.0] * 96, failed=4), True),
    ],
)
def test_failed_requests_are_held_against_those_before(
    before: Span, soak: Span, breached: bool
) -> None:
    assert bool(gates.errors(before, soak, Gates(error_percent=1))) is breached


def test_a_breach_has_its_numbers() -> None:
    breach = gates.errors(span(*[5.0] * 100), span(*[5.0] * 95, failed=5), Gates())
    assert breach == Breach(BreachId.ERROR_PERCENT, 5.0, 1.0, 0.0, "HTTP 500")
    slow = gates.latency(span(*[5.0] * 50), span(*[400.0] * 50), Gates())
    assert slow is not None
    assert (slow.id, slow.limit) == (BreachId.LATENCY_P95, (slow.before or 0) + 0.25)
    assert slow.value == ends(bucket(0.4))


@pytest.mark.parametrize(
    ("before", "soak", "breached"),
    [
        (span(*[5.0] * 50), span(*[200.0] * 50), False),  # a quick service may vary
        (span(*[5.0] * 50), span(*[400.0] * 50), True),
        (span(*[500.0] * 50), span(*[1400.0] * 50), False),
        (span(*[500.0] * 50), span(*[2500.0] * 50), True),
        (span(*[5.0] * 50), span(*[5.0] * 49, 4000.0), False),  # one slow answer
        (span(*[5.0] * 10), span(*[4000.0] * 50), False),  # too few to compare with
        (span(*[5.0] * 50), span(*[4000.0] * 10), False),
    ],
)
def test_latency_is_held_against_that_before(before: Span, soak: Span, breached: bool) -> None:
    assert bool(gates.latency(before, soak, Gates())) is breached


def pod(name: str, count: int, **last: Any) -> dict[str, Any]:
    status = {"name": "engine", "restartCount": count, "lastState": {"terminated": last}}
    return {"metadata": {"name": name, "uid": name}, "status": {"containerStatuses": [status]}}


def test_restarts_say_how_the_last_one_ended() -> None:
    pods = [pod("a", 0), pod("b", 2, exitCode=137, reason="OOMKilled")]
    breach = gates.restarted(pods, Gates())
    how = "b/engine: exit code 137, OOMKilled"
    assert breach == Breach(BreachId.RESTARTS, 2, 0, example=how)
    assert gates.restarted(pods, Gates(restarts=2)) is None


def test_restarts_from_before_the_change_are_not_its_own() -> None:
    kept = pod("a", 3, exitCode=1, reason="Error")
    before = restart_counts([kept])
    assert gates.restarted([kept], Gates(), before) is None
    again = gates.restarted([pod("a", 4, exitCode=1, reason="Error"), pod("b", 0)], Gates(), before)
    assert again == Breach(BreachId.RESTARTS, 1, 0, example="a/engine: exit code 1, Error")


def lines(count: int, pod_seconds: float) -> Lines:
    return Lines(tuple(f"pod: ERROR {n}" for n in range(count)), pod_seconds)


@pytest.mark.parametrize(
    ("before", "soak", "breached"),
    [
        (lines(0, 600), lines(0, 60), False),
        (lines(0, 600), lines(1, 60), True),  # where there was none, none is forgiven
        (lines(60, 600), lines(6, 60), False),
        (lines(60, 600), lines(13, 60), False),  # 6 + 3 * sqrt(6) = 13.3
        (lines(60, 600), lines(14, 60), True),
        (lines(0, 0), lines(1, 60), True),  # the old pods could not be read: as if none
    ],
)
def test_error_lines_are_held_against_the_old_rate(
    before: Lines, soak: Lines, breached: bool
) -> None:
    breach = gates.error_lines(before, soak)
    assert (breach is not None) is breached
    if breach is not None:
        assert (breach.value, breach.example) == (len(soak.lines), soak.lines[-1])


def test_a_query_is_held_against_its_limit() -> None:
    asked = Query(name="dead letters", query="sum(x)", limit=3)
    fine, over = gates.query(asked, 3.0), gates.query(asked, 3.5)
    assert (fine.id, fine.outcome, fine.subject) == (CheckId.SOAK_QUERY, Outcome.PASSED, asked.name)
    assert (over.outcome, over.measured) == (Outcome.FAILED, (results.Sample(3.5, 3),))


def test_a_query_without_a_sample_is_unknown_with_what_to_do() -> None:
    check = gates.query(Query(name="dead letters", query="sum(x)", limit=3), None, "no sample")
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, Because.NO_ANSWER)
    assert check.measured == (Problem("no sample"), Cure(CureId.QUERY_WITHOUT_SERIES))


def test_an_account_without_answers_is_whole() -> None:
    empty = Account(0, 0, 0, 0.0, 0.0, 0.0)
    assert gates.between(empty, empty).error_percent == 0.0
