"""Requests by the time at which they were sent, in bounded memory. Pure.

A bucket is a second, until there are more than :data:`LIMIT`: then each two become one, of twice
the width. A promotion of minutes has every second; a soak of a day has half minutes.
"""

from __future__ import annotations

from ci.model import ProbeBucket

LIMIT = 3600
"""Buckets at most: an hour of seconds."""


class Buckets:
    """Counts of requests; times are seconds since the run began."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.width = 1.0
        """Seconds of each."""
        self._limit = limit
        self._counts: dict[int, tuple[int, int, int, float]] = {}
        """(sent, answered, failed, slowest answer in seconds) by number."""

    def add(
        self, at: float, *, sent: int = 0, answered: int = 0, failed: int = 0, slowest: float = 0.0
    ) -> None:
        self._put(int(max(0.0, at) // self.width), (sent, answered, failed, slowest))
        while len(self._counts) > self._limit:
            narrow, self._counts = self._counts, {}
            self.width *= 2
            for number, counts in narrow.items():
                self._put(number // 2, counts)

    def _put(self, number: int, more: tuple[int, int, int, float]) -> None:
        was = self._counts.get(number, (0, 0, 0, 0.0))
        sent, answered, failed = (one + other for one, other in zip(was[:3], more[:3], strict=True))
        self._counts[number] = (sent, answered, failed, max(was[3], more[3]))

    def all(self) -> tuple[ProbeBucket, ...]:
        """In the order of time."""
        return tuple(
            ProbeBucket(number * self.width, sent, answered, failed, round(slowest, 6))
            for number, (sent, answered, failed, slowest) in sorted(self._counts.items())
        )
