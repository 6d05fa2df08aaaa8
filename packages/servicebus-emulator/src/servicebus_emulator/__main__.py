"""``python -m ci.servicebus``: see ``--help``."""

from __future__ import annotations

import sys

from ci.servicebus.errors import StartupError
from ci.servicebus.server import run
from ci.servicebus.settings import parse


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
