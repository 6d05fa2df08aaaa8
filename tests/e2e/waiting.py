"""The suite's one wait: look again until it holds, or fail saying what was seen last."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    what: str,
    look: Callable[[], T],
    holds: Callable[[T], bool],
    *,
    timeout: float = 15.0,
    interval: float = 0.15,
) -> T:
    """What ``look`` returned when it held. ``what`` completes "waited for …"; seconds.

    Whatever ``look`` raises ends the wait: an error is a finding, not a reason to look again.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if holds(seen):
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(interval)
