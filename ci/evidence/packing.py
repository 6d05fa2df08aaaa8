"""One digest for a folder of files, the same on every machine.

It is the SHA-256 of what ``sha256sum`` prints for the files in the bytewise order of their
paths (Go's ``dirhash.Hash1`` without a prefix), so that anybody can check it with::

    find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum

Modes and times are left out: Helm and pytest do not look at them, and checkouts differ in them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from ci.errors import ChartInvalid

MADE_BY_TOOLS = frozenset({"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"})


def digest(folder: Path, *, without: Collection[str] = ()) -> str:
    """Hexadecimal digest of every file under ``folder`` but those below a folder whose name is
    in ``without``. Raises :class:`ChartInvalid` for a folder that is not there or whose files
    cannot be read."""
    if not folder.is_dir():
        raise ChartInvalid(f"there is no folder {folder}")
    paths: list[str] = []
    # Links are followed, as Helm follows them: what they lead to is what is installed.
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in without]
        paths += [Path(parent, name).relative_to(folder).as_posix() for name in files]
    listing = hashlib.sha256()
    for path in sorted(paths, key=os.fsencode):
        if "\n" in path or "\\" in path:
            raise ChartInvalid(f"{folder} has a file name that cannot be listed: {path!r}")
        try:
            content = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        except OSError as problem:
            raise ChartInvalid(f"{folder / path} cannot be read: {problem.strerror}") from problem
        listing.update(f"{content}  ".encode() + os.fsencode(path) + b"\n")
    return listing.hexdigest()
