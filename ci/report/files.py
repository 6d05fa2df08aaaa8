"""The JSON files that a run leaves: written whole, read as far as they can be read.

Every file is one typed value of :mod:`ci.model` and is described by a JSON Schema in
``docs/schemas`` (:mod:`ci.report.schemas`). A run may have been killed at any moment, and a file
may be of another version: a part that is not as described is left out and named, the rest is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ci.model import (
    SCHEMA_VERSION,
    BackupsRecord,
    ChecksRecord,
    PlanRecord,
    ProbesRecord,
    RunRecord,
)
from ci.run_folder import RunFolder

T = TypeVar("T")

SUMMARY = "summary.json"
PLAN = "plan.json"
CHECKS = "checks.json"
PROBES = "probes.json"
BACKUPS = "backups/backups.json"

KINDS: Mapping[str, type[Any]] = {
    SUMMARY: RunRecord,
    PLAN: PlanRecord,
    CHECKS: ChecksRecord,
    PROBES: ProbesRecord,
    BACKUPS: BackupsRecord,
}
"""By their path in the run's folder."""

LARGEST = 20_000_000
"""Bytes; a larger file is not one that this project wrote, and is not read."""
ROUNDS = 100
NAMED = 3
"""So many of the parts that were left out are named."""

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}

Clean = Callable[[str], str]
"""Takes out of a text what must not be shown."""


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """How one of :data:`KINDS` becomes JSON, and is made of it again."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def plain(record: Any) -> dict[str, Any]:
    """One of :data:`KINDS` as JSON values."""
    found: dict[str, Any] = adapter(type(record)).dump_python(record, mode="json")
    return found


def write(folder: RunFolder, record: Any) -> Path:
    """Write one of :data:`KINDS` into a run's folder: whole or not at all, without secrets, for its
    owner only. Raises :class:`OSError` and :class:`ci.errors.DiskFull`."""
    name = next(name for name, kind in KINDS.items() if kind is type(record))
    return folder.json(name, plain(record))


def read(
    folder: Path,
    kind: type[T],
    unreadable: list[str],
    *,
    clean: Clean = lambda text: text,
    missing: Mapping[str, Any] | None = None,
) -> T | None:
    """Read the file of ``kind`` in a run's folder; ``None`` when there is none that can be read.

    What could not be read is added to ``unreadable``, in words. ``missing`` has values for
    properties that are not there. A file that is missing is no news.
    """
    name = next(name for name, of in KINDS.items() if of is kind)
    raw = load(folder / name, unreadable)
    if raw is None:
        return None
    if not isinstance(raw, dict):
        unreadable.append(f"{name} is not a JSON object")
        return None
    version = raw.get("schema_version", 0)
    if version != SCHEMA_VERSION:
        unreadable.append(f"{name} has schema version {version}, read as {SCHEMA_VERSION}")
    raw = {**(missing or {}), **cleaned(raw, clean)}
    found, dropped = tolerant(kind, raw, missing)
    if dropped:
        more = f" and {len(dropped) - NAMED} more" if len(dropped) > NAMED else ""
        unreadable.append(f"of {name}: {', '.join(dropped[:NAMED])}{more}")
    if found is None:
        unreadable.append(f"{name} is not as its schema says")
    return found


def summary(folder: Path) -> RunRecord | None:
    """How a run ended; ``None`` when it left nothing that says it."""
    return read(folder, RunRecord, [])


def tolerant(
    kind: type[T], raw: Any, missing: Mapping[str, Any] | None = None
) -> tuple[T | None, list[str]]:
    """``raw`` as ``kind`` without the parts that do not fit, and where these were (as
    ``groups.0.checks.2``); ``missing`` has values for properties of ``raw`` that go. ``None`` when
    nothing that fits is left."""
    dropped: list[str] = []
    for _ in range(ROUNDS):  # what a part is in goes in the next round, where it cannot be without
        try:
            return adapter(kind).validate_python(raw), dropped
        except ValidationError as problem:
            paths = {
                _within(raw, error["loc"], whole=error["type"] == "missing")
                for error in problem.errors(include_url=False, include_input=False)
            }
        if () in paths or not isinstance(raw, dict):
            return None, dropped
        raw = json.loads(json.dumps(raw, default=str))  # what was given stays as it is
        # From the back, so that the places in a list that are still to go stay what they are.
        for path in sorted(paths, key=lambda path: [str(part).zfill(9) for part in path])[::-1]:
            if _remove(raw, path):
                dropped.append(".".join(map(str, path)))
                if len(path) == 1 and missing and path[0] in missing:
                    raw[path[0]] = missing[str(path[0])]
    return None, dropped


def _within(raw: Any, where: tuple[int | str, ...], *, whole: bool) -> tuple[int | str, ...]:
    """The part of ``raw`` that an error is about: the deepest that is there; ``whole``: what has
    a property too few."""
    path: list[int | str] = []
    for part in where[:-1] if whole else where:
        there = (
            part in raw
            if isinstance(raw, dict)
            else isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        )
        if there:  # else it is which member of a union was tried
            raw = raw[part]
            path.append(part)
    return tuple(path)


def _remove(raw: Any, path: tuple[int | str, ...]) -> bool:
    for part in path[:-1]:
        try:
            raw = raw[part]
        except (KeyError, IndexError):
            return False  # it went with what it was in
    try:
        del raw[path[-1]]
    except (KeyError, IndexError):
        return False
    return True


def cleaned(raw: Any, clean: Clean) -> Any:
    """The same values with every text cleaned."""
    if isinstance(raw, str):
        return clean(raw)
    if isinstance(raw, list):
        return [cleaned(item, clean) for item in raw]
    if isinstance(raw, dict):
        return {name: cleaned(value, clean) for name, value in raw.items()}
    return raw


def text(path: Path, unreadable: list[str]) -> str:
    """A file's text, or nothing. A missing file is no news, one that cannot be read is."""
    try:
        if path.stat().st_size > LARGEST and path.suffix != ".jsonl":
            unreadable.append(f"{path.name} is larger than this project writes it")
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as problem:
        unreadable.append(f"{path.name}: {problem.strerror}")
        return ""


def load(path: Path, unreadable: list[str]) -> Any:
    """A file's JSON, or ``None``."""
    content = text(path, unreadable)
    if not content:
        return None
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError):
        unreadable.append(f"{path.name} is cut off or not JSON")
        return None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
