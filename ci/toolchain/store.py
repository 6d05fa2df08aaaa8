"""Files of the toolchain, under names with a hash of everything that determines them.

An entry is created in a partial folder under a lock, its files' sizes are recorded, the disk is
synced, and only then is it renamed into place. A kill, a second run or a full disk leaves a
partial folder, which the next run removes, and never an incomplete tool under its final name.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ci.errors import DiskFull, ToolchainError

MANIFEST = "manifest.json"
KEY_LENGTH = 12


def content_key(parts: Iterable[str | bytes | Path]) -> str:
    """A short hash of strings, bytes and files (folders whole, with their relative paths)."""
    digest = hashlib.sha256()

    def feed(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)

    for part in parts:
        if isinstance(part, Path):
            files = sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part]
            for file in files:
                feed(str(file.relative_to(part)).encode())
                feed(file.read_bytes())
        else:
            feed(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:KEY_LENGTH]


class Store:
    """Entries under ``home/store``, locks under ``home/locks``."""

    def __init__(self, home: Path) -> None:
        self._entries = home / "store"
        self._partial = home / "store" / ".partial"
        self._locks = home / "locks"
        self._threads: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def path(self, name: str, key: str) -> Path:
        return self._entries / f"{name}-{key}"

    def find(self, name: str, key: str) -> Path | None:
        """The entry, if it exists and is complete (every file has its recorded size)."""
        entry = self.path(name, key)
        try:
            sizes = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
            complete = all((entry / file).stat().st_size == size for file, size in sizes.items())
        except (OSError, ValueError):
            return None
        return entry if complete else None

    def make(self, name: str, key: str, maker: Callable[[Path], None]) -> Path:
        """The entry; created by ``maker``, which fills an empty folder, if it does not exist.

        Raises :class:`DiskFull` when the disk fills up, and whatever ``maker`` raises.
        """
        existing = self.find(name, key)
        if existing is not None:
            return existing
        with self.lock(name):
            existing = self.find(name, key)
            if existing is not None:
                return existing
            entry = self.path(name, key)
            partial = self._partial / entry.name
            try:
                for stale in (partial, entry):
                    if stale.exists():
                        shutil.rmtree(stale)
                partial.mkdir(parents=True)
                maker(partial)
                sizes = {
                    str(file.relative_to(partial)): file.stat().st_size
                    for file in sorted(partial.rglob("*"))
                    if file.is_file() and not file.is_symlink()
                }
                (partial / MANIFEST).write_text(json.dumps(sizes), encoding="utf-8")
                os.sync()
                partial.rename(entry)
            except OSError as problem:
                shutil.rmtree(partial, ignore_errors=True)
                if problem.errno == 28:
                    raise DiskFull(f"no disk space left while creating {name}") from problem
                raise ToolchainError(f"cannot create {name}: {problem}") from problem
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            return entry

    def scratch(self, name: str) -> Path:
        """A folder that outlives a killed maker, for work that can be continued."""
        folder = self._partial.parent / ".scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """A lock between threads and processes; the kernel releases it when the process dies."""
        self._locks.mkdir(parents=True, exist_ok=True)
        with self._guard:
            mine = self._threads.setdefault(name, threading.Lock())
        with mine, open(self._locks / f"{name}.lock", "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
