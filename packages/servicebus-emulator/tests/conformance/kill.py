"""Kill the emulator under load, again and again, and look for what was lost.

    python tests/conformance/kill.py [--rounds 20] [--completions 1000]

Exit code 1 where a message that was acknowledged is gone, or one that was completed is back.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.store import Store
from tests.unit.crash import QUEUE, TOPIC, Route, kill_under_load, left_in


def main() -> int:
    """Load, kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--completions", type=int, default=1_000, help="in one round")
    given = parser.parse_args()
    return max(kill(route, given.rounds, given.completions) for route in (QUEUE, TOPIC))


def kill(route: Route, rounds: int, completions: int) -> int:
    """One way of the messages; 1 where some are lost or back."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = asyncio.run(kill_under_load(folder, route, rounds=rounds, enough=completions))
        namespace, store = Namespace(), Store(folder / "state.db")
        store.load(namespace, 0.0)
        left = left_in(namespace, route.source)
        untouched: set[str | None] = set(told.accepted)
        if route.untouched is not None:
            untouched = left_in(namespace, route.untouched)
        store.close()
    lost = (told.accepted - told.completing - left) | (told.accepted - untouched)
    back = told.completed & left
    print(
        f"{route.source}: killed {rounds} times: {len(told.accepted)} sends and "
        f"{len(told.completed)} completions acknowledged; {len(lost)} messages lost, "
        f"{len(back)} back"
    )
    return 1 if lost or back else 0


if __name__ == "__main__":
    sys.exit(main())
