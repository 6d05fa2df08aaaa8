"""``python -m ci.report RUN_FOLDER…``: render runs of the past again."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from ci.report import html
from ci.run_folder import RunFolder


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: python -m ci.report RUN_FOLDER…\n\nWrites report.html into each folder.")
        return 0 if words else 2
    for word in words:
        try:
            print(html.write(RunFolder(Path(word)), datetime.now(UTC)))
        except OSError as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
