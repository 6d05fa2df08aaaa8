"""The only poll loop of the project: a deadline, a clock, and an error with the last state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ci.errors import Interrupted, WaitTimeout

T = TypeVar("T")


class Clock(Protocol):
    """A source of time that tests replace by a manual one."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""

    def sleep(self, seconds: float) -> None:
        """Pass ``seconds``."""


class SystemClock:
    """Real time. It knows of no cancellation: see :class:`Cancellable`."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Cancellable:
    """A clock whose sleeps end at once when ``cancel`` is set, so that Ctrl-C takes effect at once.
    What runs after a cancellation (a rollback, a cleanup) uses the clock of
    :func:`uncancelled`."""

    def __init__(self, clock: Clock, cancel: threading.Event) -> None:
        self._clock = clock
        self._cancel = cancel

    @property
    def clock(self) -> Clock:
        return self._clock

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Raises :class:`ci.errors.Interrupted` when cancelled."""
        if self._cancel.wait(seconds):
            raise Interrupted("interrupted while waiting")


def uncancelled(clock: Clock) -> Clock:
    """The same clock without cancellation, for what has to run after the run was cancelled."""
    return clock.clock if isinstance(clock, Cancellable) else clock


@dataclass(frozen=True, slots=True)
class Pending:
    """What a probe returns while the awaited state is not reached."""

    seen: str
    """The current state, for people."""


def wait_until(
    what: str,
    probe: Callable[[], T | Pending | None],
    *,
    timeout: float,
    clock: Clock,
    interval: float = 0.5,
    diagnose: Callable[[], str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> T:
    """Call ``probe`` until it returns something other than ``None``, ``False`` or a
    :class:`Pending`.

    ``timeout`` and ``interval`` are in seconds. ``what`` completes the sentence "waited for …".
    ``probe`` may raise to end the wait at once (a crash loop never heals by waiting). ``progress``
    is told what a :class:`Pending` has seen, each time it is something else. The error has what
    was seen last: the last :class:`Pending`'s, else what ``diagnose`` finds then. Raises
    :class:`ci.errors.WaitTimeout`.
    """
    deadline = clock.monotonic() + timeout
    seen = ""
    while True:
        result = probe()
        if isinstance(result, Pending):
            if result.seen != seen and progress is not None:
                progress(result.seen)
            seen = result.seen
        elif result is not None and result is not False:
            return result
        if clock.monotonic() >= deadline:
            last = seen or (diagnose() if diagnose is not None else "") or "nothing"
            raise WaitTimeout(f"waited {timeout:.0f} s for {what}; last seen: {last}")
        clock.sleep(min(interval, max(0.0, deadline - clock.monotonic())))
