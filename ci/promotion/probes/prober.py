"""Requests at a steady rate, and an honest account of every one.

The rate does not follow the answers: a service that stops answering still gets its requests,
each in a thread of its own pool, so that an outage counts for as long as it lasts. What sends
a request is passed in; the tally is pure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from types import TracebackType
from typing import Protocol

from ci.model import ProbeSeries
from ci.promotion.probes.series import Buckets
from ci.results import ProbePlace, Requests
from ci.tools.wait import Clock

Send = Callable[[], str]
"""Sends one request; the reason it failed, or nothing when it was answered."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Times are seconds on the run's clock."""

    sent: float
    ended: float
    problem: str = ""


BUCKETS = 64
SHOWN = 5
"""So many reasons of failures are kept in a check."""
REASONS = 50
"""So many reasons of failures are counted apart."""


def bucket(seconds: float) -> int:
    """Which bucket an answer that took so long is counted in: each ends 19 % above the one
    before (the fourth root of 2), the first at 1 ms, the last but one at 46 s."""
    return max(0, min(BUCKETS - 1, math.ceil(4 * math.log2(max(seconds, 1e-9) / 0.001))))


def ends(index: int) -> float:
    """The longest time, in seconds, that is counted in a bucket."""
    return 0.001 * math.pow(2.0, index / 4)


@dataclass(frozen=True, slots=True)
class Account:
    """All requests of a time: sent = answered + failed + still under way."""

    sent: int
    answered: int
    failed: int
    longest_gap: float
    """Seconds between two answers, beginning and end included."""
    slowest: float
    """Seconds."""
    median: float
    """Seconds, as the end of its bucket, or the slowest where that is less."""
    problems: tuple[tuple[str, int], ...] = field(default=())
    """(reason, how often), the most frequent first."""
    took: tuple[int, ...] = field(default=(0,) * BUCKETS)
    """Answers by how long they took: how many in each :func:`bucket`."""

    def requests(self, allowed_failures: int = 0) -> Requests:
        """The same as a measured value of a check."""
        return Requests(
            self.sent,
            self.answered,
            self.failed,
            self.longest_gap,
            self.median,
            self.slowest,
            self.problems[:SHOWN],
            allowed_failures,
        )


def quantile(took: Sequence[int], share: float) -> float:
    """Seconds within which ``share`` of the answers came, as the end of their bucket."""
    due = math.ceil(share * sum(took))
    if not due:
        return 0.0
    return next(ends(i) for i, within in enumerate(accumulate(took)) if within >= due)


def median(took: Sequence[int], slowest: float) -> float:
    """Seconds: the end of a bucket may be above the slowest answer in it, and no median is."""
    return min(quantile(took, 0.5), slowest)


class Tally:
    """Running totals of requests: a soak may last a day, and no request is kept."""

    def __init__(self, begun: float) -> None:
        self._last = begun
        self._longest_gap = self._slowest = 0.0
        self._failed = 0
        self._took = [0] * BUCKETS
        self._problems: dict[str, int] = {}

    def add(self, sample: Sample) -> None:
        """A request that ended, in the order of their ends."""
        if sample.problem:
            self._failed += 1
            why = sample.problem
            if why not in self._problems and len(self._problems) >= REASONS:
                why = "other reasons"
            self._problems[why] = self._problems.get(why, 0) + 1
            return
        seconds = sample.ended - sample.sent
        self._took[bucket(seconds)] += 1
        self._slowest = max(self._slowest, seconds)
        self._longest_gap = max(self._longest_gap, sample.ended - self._last)
        self._last = max(self._last, sample.ended)

    def account(self, *, sent: int, ended: float) -> Account:
        """``sent`` counts those under way, too."""
        return Account(
            sent=sent,
            answered=sum(self._took),
            failed=self._failed,
            longest_gap=max(self._longest_gap, ended - self._last),
            slowest=self._slowest,
            median=median(self._took, self._slowest),
            problems=tuple(sorted(self._problems.items(), key=lambda item: -item[1])),
            took=tuple(self._took),
        )


class Counting(Protocol):
    """What sends requests, wherever it does."""

    @property
    def place(self) -> ProbePlace:
        """From where, and by which way."""

    def account(self) -> Account | None:
        """What has become of the requests; ``None`` while nothing is known. May raise
        :class:`ci.errors.CommandFailed`."""

    def stop(self) -> Account | None:
        """The final account; ``None`` when it is lost. May be called again."""

    def series(self) -> ProbeSeries:
        """The final account and the requests over time, once it has stopped."""


class Prober:
    """Sends while in the ``with`` block; :meth:`account` may be asked at any time."""

    def __init__(
        self,
        send: Send,
        *,
        per_second: float,
        timeout: float,
        clock: Clock,
        place: ProbePlace = ProbePlace.API_PROXY,
        url: str = "",
        began: float = 0.0,
        allowed_failures: int = 0,
    ) -> None:
        """``began`` is when the run did, in seconds on ``clock``; ``url`` is for the record."""
        self.place = place
        self._url, self._began, self._allowed = url, began, allowed_failures
        self._send = send
        self._interval = 1.0 / per_second
        self._timeout = timeout
        self._clock = clock
        self._pool = ThreadPoolExecutor(
            max_workers=max(4, min(64, int(per_second * timeout))), thread_name_prefix="prober"
        )
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tally = Tally(clock.monotonic())
        self._buckets = Buckets()
        self._final: Account | None = None
        self._sent = 0
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self) -> Prober:
        self._tally = Tally(self._clock.monotonic())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> Account:
        """Send no more, wait for the answers that are due, and give the final account."""
        self._stop.set()
        self._thread.join(self._timeout + 1)
        self._pool.shutdown(wait=True)
        if self._final is None:  # what passes after the last answer is no gap between answers
            self._final = self.account()
        return self._final

    def account(self) -> Account:
        with self._lock:
            return self._tally.account(sent=self._sent, ended=self._clock.monotonic())

    def series(self) -> ProbeSeries:
        with self._lock:
            buckets, width = self._buckets.all(), self._buckets.width
        final = (self._final or self.account()).requests(self._allowed)
        return ProbeSeries(self.place, final, buckets, width, self._url)

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stop.is_set():
            sent = self._clock.monotonic()
            with self._lock:
                self._sent += 1
                self._buckets.add(sent - self._began, sent=1)
            self._pool.submit(self._one, sent)
            due += self._interval
            # Behind by more than a second (the machine slept): go on from now, do not burst.
            now = self._clock.monotonic()
            due = due if now - due < 1.0 else now
            self._stop.wait(max(0.0, due - now))

    def _one(self, due: float) -> None:
        sent = self._clock.monotonic()
        try:
            problem = self._send()
        except Exception as raised:  # a sender never ends the prober; it is a failed request
            problem = f"{type(raised).__name__}: {raised}"
        with self._lock:
            ended = self._clock.monotonic()
            self._tally.add(Sample(sent, ended, problem))
            at = due - self._began
            if problem:
                self._buckets.add(at, failed=1)
            else:
                self._buckets.add(at, answered=1, slowest=ended - sent)
