"""Every request is accounted for, answered or not."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from ci.promotion.probes.prober import REASONS, Prober, Sample, bucket, ends
from ci.promotion.probes.series import Buckets
from ci.results import ProbePlace, Requests
from ci.tools.wait import SystemClock, wait_until
from tests.unit.promotion.probes.accounts import account


def test_nothing_sent_is_one_long_gap() -> None:
    found = account([], sent=0, begun=1.0, ended=4.0)
    assert (found.sent, found.answered, found.failed, found.longest_gap) == (0, 0, 0, 3.0)


def test_the_longest_gap_is_between_answers_not_requests() -> None:
    samples = [Sample(0, 1), Sample(1, 2, "reset"), Sample(2, 3, "reset"), Sample(3, 4.5)]
    found = account(samples, sent=4, begun=0, ended=5)
    assert (found.answered, found.failed, found.longest_gap) == (2, 2, 3.5)
    assert found.problems == (("reset", 2),)
    assert (found.slowest, found.median) == (1.5, ends(bucket(1.0)))


def test_an_account_is_a_measured_value() -> None:
    found = account([Sample(0, 0.01), Sample(1, 2, "refused")], sent=3, begun=0, ended=2)
    assert found.requests(1) == Requests(3, 1, 1, 1.99, 0.01, 0.01, (("refused", 1),), 1)
    assert found.requests().under_way == 1


def test_requests_count_in_the_second_in_which_they_were_sent() -> None:
    with Prober(
        lambda: "", per_second=100, timeout=1, clock=SystemClock(), began=SystemClock().monotonic()
    ) as prober:
        wait_until("ten answers", lambda: prober.account().answered >= 10, timeout=5,
                   clock=SystemClock())  # fmt: skip
    final = prober.stop()
    series = prober.series()
    assert prober.stop() is final, "no gap grows after it"
    assert (series.place, series.bucket_seconds) == (ProbePlace.API_PROXY, 1.0)
    assert series.final == final.requests()
    assert sum(each.sent for each in series.buckets) == final.sent
    assert sum(each.answered for each in series.buckets) == final.answered
    assert max(each.slowest_seconds for each in series.buckets) > 0


@given(st.lists(st.tuples(st.floats(0, 200_000), st.booleans()), max_size=300))
def test_buckets_lose_nothing_and_stay_few(samples: list[tuple[float, bool]]) -> None:
    buckets = Buckets(limit=16)
    for at, good in samples:
        buckets.add(at, sent=1, answered=int(good), failed=int(not good), slowest=at / 1000)
    made = buckets.all()
    assert len(made) <= 16
    assert sum(each.sent for each in made) == len(samples)
    assert sum(each.failed for each in made) == sum(not good for _, good in samples)
    assert [each.at_seconds for each in made] == sorted({each.at_seconds for each in made})
    for at, _ in samples:
        assert any(each.at_seconds <= at < each.at_seconds + buckets.width for each in made)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.sampled_from(["", "a", "b"]))))
def test_every_request_is_either_answered_or_failed(ends: list[tuple[float, float, str]]) -> None:
    samples = [Sample(begin, begin + took, why) for begin, took, why in ends]
    found = account(samples, sent=len(samples), begun=0, ended=100)
    assert found.answered + found.failed == found.sent
    assert sum(often for _, often in found.problems) == found.failed
    assert 0 <= found.longest_gap <= 100


def test_what_a_day_of_requests_leaves_is_bounded() -> None:
    samples = [Sample(at, at + 0.01, f"reset by port {at}") for at in range(10 * REASONS)]
    found = account(samples, sent=len(samples), begun=0, ended=10 * REASONS)
    assert found.failed == len(samples)
    assert len(found.problems) == REASONS + 1
    assert found.problems[0] == ("other reasons", 9 * REASONS)


def test_a_silent_service_still_gets_its_requests() -> None:
    """The rate does not follow the answers."""
    release, count = threading.Event(), threading.Semaphore(0)

    def send() -> str:
        count.release()
        release.wait(5)
        return ""

    with Prober(send, per_second=200, timeout=1, clock=SystemClock()) as prober:
        for _ in range(20):
            assert count.acquire(timeout=5)
        assert prober.account().answered == 0
        release.set()
    final = prober.account()
    assert final.sent == final.answered >= 20


def test_a_sender_that_raises_is_a_failed_request() -> None:
    seen = threading.Event()

    def send() -> str:
        seen.set()
        raise ValueError("no")

    with Prober(send, per_second=100, timeout=1, clock=SystemClock()) as prober:
        assert seen.wait(5)
    final = prober.stop()  # again: nothing new
    assert final.failed == final.sent > 0
    assert final.problems[0][0] == "ValueError: no"
