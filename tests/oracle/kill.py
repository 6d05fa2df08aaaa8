"""Kill the emulator under load, again and again, and look for what was lost.

    python tests/oracle/kill.py [--rounds 20] [--completions 1000]

Exit code 1 where a message that was acknowledged is gone, or one that was completed is back.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ci.servicebus.broker.namespace import Namespace
from ci.servicebus.store import Store
from tests.unit.servicebus.crash import QUEUE, kill_under_load


def main() -> int:
    """Load, kill, restart, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--completions", type=int, default=1_000, help="in one round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        told = asyncio.run(kill_under_load(folder, rounds=given.rounds, enough=given.completions))
        namespace, store = Namespace(), Store(folder / "state.db")
        store.load(namespace, 0.0)
        left = {message.message_id for message in namespace.get(QUEUE).peek(0, 1 << 30, 0.0)}
        store.close()
    lost = told.accepted - told.completing - left
    back = told.completed & left
    print(
        f"killed {given.rounds} times: {len(told.accepted)} sends and {len(told.completed)} "
        f"completions acknowledged; {len(lost)} messages lost, {len(back)} back"
    )
    return 1 if lost or back else 0


if __name__ == "__main__":
    sys.exit(main())
