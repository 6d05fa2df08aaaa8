"""The caller's own checks of a new release, beside the end of the rollout.

Old pods of the gateway take seconds to drain, and Helm looks only every two seconds. Nothing that
is checked on the new release meets old pods (requests go to a pod that stays, and every worker is
new), so the checks need not wait for either.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ci.model import Release
from ci.results import Check, StepId
from ci.run.events import Events

After = Callable[[Release], tuple[Check, ...]]
"""The caller's checks of a release that is up, none of them failed. For one that failed it raises a
:class:`ci.errors.PipelineError` with the checks in its ``groups``."""


class Afterwards:
    """The checks, under way or still to begin."""

    def __init__(self, pool: ThreadPoolExecutor, events: Events, after: After | None) -> None:
        self._pool, self._events, self._after = pool, events, after
        self._begun: Future[tuple[Check, ...]] | None = None
        # Beside the steps of the change, and in none of them.
        self._outside = contextvars.copy_context()

    def begin(self, release: Release) -> None:
        """Begin, unless they have begun already or there are none."""
        if self._after is None or self._begun is not None:
            return
        self._begun = self._pool.submit(self._outside.run, self._check, self._after, release)

    def _check(self, after: After, release: Release) -> tuple[Check, ...]:
        with self._events.step(StepId.TEST_TARGET, "queue time-outs work where it counts"):
            return after(release)

    def end(self) -> tuple[Check, ...]:
        """Wait for the checks. Raises what they raised."""
        return () if self._begun is None else self._begun.result()


@contextmanager
def afterwards(events: Events, after: After | None) -> Iterator[Afterwards]:
    """Whatever else ends the block, checks that have begun come to their end first: nothing is
    rolled back under a test that is running."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="after") as pool:
        yield Afterwards(pool, events, after)
