"""The caller's own check of a new release, beside the end of the roll-over.

Old pods of the gateway take seconds to drain, and Helm looks only every two seconds. Nothing that
is checked on the new release meets old pods (requests go to a pod that stays, and every worker is
new), so the check need not wait for either.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ci.model import Release
from ci.results import StepId
from ci.run.events import Events

After = Callable[[Release], None]
"""Raises when it finds the release wanting."""


class Afterwards:
    """The check, under way or still to begin."""

    def __init__(self, pool: ThreadPoolExecutor, events: Events, after: After | None) -> None:
        self._pool, self._events, self._after = pool, events, after
        self._begun: Future[None] | None = None
        # Beside the steps of the change, and in none of them.
        self._outside = contextvars.copy_context()

    def begin(self, release: Release) -> None:
        """Begin, unless it has begun already or there is no check."""
        if self._after is None or self._begun is not None:
            return
        self._begun = self._pool.submit(self._outside.run, self._check, self._after, release)

    def _check(self, after: After, release: Release) -> None:
        with self._events.step(StepId.TEST_TARGET, "queue time-outs work where it counts"):
            after(release)

    def end(self) -> None:
        """Wait for it. Raises what the check raised."""
        if self._begun is not None:
            self._begun.result()


@contextmanager
def afterwards(events: Events, after: After | None) -> Iterator[Afterwards]:
    """Whatever else ends the block, a check that has begun comes to its end first: nothing is
    rolled back under a test that is running."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="after") as pool:
        yield Afterwards(pool, events, after)
