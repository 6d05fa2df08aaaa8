"""A promotion, or a rollback, in a process of its own that kills itself at a step: what a power
cut does.

``python -m tests.failure_injection.victim FILE``: a pickled :class:`Order`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ci.results import StepId
from tests.failure_injection.rig import ROOT, Place, at_step

SOAK_SECONDS = 30
"""Of one that is killed while it soaks: it does not live to see the end of it."""


@dataclass(frozen=True, slots=True)
class Order:
    place: Place
    version: str
    """What is promoted; empty for a rollback."""
    step: StepId
    later: float
    """Seconds into the step; at 0 nothing of the step has been done."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(place: Place, version: str, step: StepId, later: float = 0.0) -> None:
    """Promote ``version``, or roll back when it is empty, in a process that is killed at
    ``step``."""
    place.runs += 1
    file = place.folder / f"order-{place.runs}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(Order(place, version, step, later)))
    ended = subprocess.run(
        [sys.executable, "-m", "tests.failure_injection.victim", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, f"not killed at {step!r}:\n{ended.stderr[-2000:]}"


def main() -> None:
    order: Order = pickle.loads(Path(sys.argv[1]).read_bytes())
    place = order.place
    if order.later:
        place.hooks.append(at_step(order.step, die, later=order.later))
    else:
        place.hooks.append(
            lambda e: die() if (e.kind, e.step) == ("step.started", order.step) else None
        )
    if order.version:
        soak = SOAK_SECONDS if order.step is StepId.SOAK else 0
        place.promote(order.version, after=lambda _: (), soak_seconds=soak)
    else:
        place.rollback()


if __name__ == "__main__":
    main()
