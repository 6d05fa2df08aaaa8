"""Requests at a steady rate, and an honest account of every one.

The rate does not follow the answers: a service that stops answering still gets its requests,
each in a thread of its own pool, so that an outage counts for as long as it lasts. What sends
a request is passed in; the account is pure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Protocol

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
    problems: tuple[tuple[str, int], ...] = field(default=())
    """(reason, how often), the most frequent first."""
    took: tuple[int, ...] = field(default=(0,) * BUCKETS)
    """Answers by how long they took: how many in each :func:`bucket`."""

    def __str__(self) -> str:
        why = f" ({self.problems[0][0]})" if self.problems else ""
        under_way = self.sent - self.answered - self.failed
        rest = f", {under_way} under way" if under_way else ""
        return (
            f"{self.sent} sent, {self.answered} answered, {self.failed} failed{why}{rest};"
            f" longest gap"
            f" {self.longest_gap:.2f} s, median {self.median * 1000:.0f} ms,"
            f" slowest {self.slowest * 1000:.0f} ms"
        )


def account(samples: Iterable[Sample], *, sent: int, begun: float, ended: float) -> Account:
    """Sum up ``samples``, the requests that ended; ``sent`` counts those under way, too."""
    done = sorted(samples, key=lambda s: s.ended)
    good = [s for s in done if not s.problem]
    marks = [begun, *(s.ended for s in good), max(ended, begun)]
    times = sorted(s.ended - s.sent for s in good)
    took = [0] * BUCKETS
    for seconds in times:
        took[bucket(seconds)] += 1
    problems: dict[str, int] = {}
    for sample in done:
        if sample.problem:
            problems[sample.problem] = problems.get(sample.problem, 0) + 1
    return Account(
        sent=sent,
        answered=len(good),
        failed=len(done) - len(good),
        longest_gap=max(later - earlier for earlier, later in pairwise(marks)),
        slowest=times[-1] if times else 0.0,
        median=times[len(times) // 2] if times else 0.0,
        problems=tuple(sorted(problems.items(), key=lambda item: -item[1])),
        took=tuple(took),
    )


class Counting(Protocol):
    """What sends requests, wherever it does."""

    @property
    def where(self) -> str:
        """By which way."""

    @property
    def title(self) -> str:
        """Of its account."""

    def account(self) -> Account | None:
        """What has become of the requests; ``None`` while nothing is known. May raise
        :class:`ci.errors.CommandFailed`."""

    def stop(self) -> Account | None:
        """The final account; ``None`` when it is lost."""


class Prober:
    """Sends while in the ``with`` block; :meth:`account` may be asked at any time."""

    def __init__(
        self,
        send: Send,
        *,
        per_second: float,
        timeout: float,
        clock: Clock,
        where: str = "through the API server",
        title: str = "requests during the change",
    ) -> None:
        self.where, self.title = where, title
        self._send = send
        self._interval = 1.0 / per_second
        self._timeout = timeout
        self._clock = clock
        self._pool = ThreadPoolExecutor(
            max_workers=max(4, min(64, int(per_second * timeout))), thread_name_prefix="prober"
        )
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._samples: list[Sample] = []
        self._sent = 0
        self._begun = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self) -> Prober:
        self._begun = self._clock.monotonic()
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
        return self.account()

    def account(self) -> Account:
        with self._lock:
            samples, sent = list(self._samples), self._sent
        return account(samples, sent=sent, begun=self._begun, ended=self._clock.monotonic())

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stop.is_set():
            with self._lock:
                self._sent += 1
            self._pool.submit(self._one)
            due += self._interval
            # Behind by more than a second (the machine slept): go on from now, do not burst.
            now = self._clock.monotonic()
            due = due if now - due < 1.0 else now
            self._stop.wait(max(0.0, due - now))

    def _one(self) -> None:
        sent = self._clock.monotonic()
        try:
            problem = self._send()
        except Exception as raised:  # a sender never ends the prober; it is a failed request
            problem = f"{type(raised).__name__}: {raised}"
        sample = Sample(sent, self._clock.monotonic(), problem)
        with self._lock:
            self._samples.append(sample)
