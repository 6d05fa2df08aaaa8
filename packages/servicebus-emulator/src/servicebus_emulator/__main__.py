"""``python -m servicebus_emulator``: see ``--help``."""

from __future__ import annotations

import sys

from servicebus_emulator.errors import StartupError
from servicebus_emulator.server import run
from servicebus_emulator.settings import parse


def main() -> int:
    """Parse, then serve."""
    try:
        settings = parse(sys.argv[1:])
    except StartupError as error:
        print(f"error: {error}. To resolve it: {error.remedy}.", file=sys.stderr)
        return error.exit_code
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
