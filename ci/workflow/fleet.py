"""Several targets in order, or in waves with a bounded number at once.

Each target is promoted by a process of its own, as a person would by hand: it has its own run
folder, report, lock and rollback, and a signal to us goes on to it. The first failure stops what
has not begun; what is under way comes to its own end.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ci.errors import SettingsError, of_exit_code
from ci.model import Check, Outcome
from ci.report.record import TARGETS, TargetOutcome
from ci.run.context import Context
from ci.settings import Settings, Wave

Waves = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Targets by waves, and how many of a wave at once."""

    waves: Waves
    at_once: int = 1

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for wave in self.waves for name in wave)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the promotion of one target ended; ``code`` is ``None`` when it did not begin."""

    target: str
    code: int | None
    said: str
    folder: str = ""
    seconds: float = 0.0
    changed: bool = True
    """``False`` where the target served the image already."""

    @property
    def outcome(self) -> TargetOutcome:
        if self.code is None:
            return TargetOutcome.NOT_BEGUN
        if self.code:
            return TargetOutcome.FAILED
        return TargetOutcome.PROMOTED if self.changed else TargetOutcome.ALREADY_SERVED


def order(names: Sequence[str], settings: Settings, known: Sequence[str]) -> Order:
    """What ``--target`` names: targets, one after the other, or one group of waves. Pure.

    Raises :class:`SettingsError` for a name that is neither, and for one that comes twice.
    """
    wave: Wave | None = settings.waves.get(names[0]) if len(names) == 1 else None
    found = Order(wave.order, wave.at_once) if wave else Order(tuple((name,) for name in names))
    for name in found.targets:
        if name not in known:
            raise SettingsError(
                f"there is no target {name!r}; there is {', '.join([*known, *settings.waves])}",
                remedy=f"add a [targets.{name}] block to pipeline.toml, or name another",
            )
        if found.targets.count(name) > 1:
            raise SettingsError(f"target {name!r} is named twice", remedy="name each target once")
    return found


def run(chosen: Order, one: Callable[[str], Ended]) -> tuple[Ended, ...]:
    """Call ``one`` for every target, wave by wave; after a failure none is begun."""
    ended: dict[str, Ended] = {}
    failed = threading.Event()

    def begin(name: str) -> None:
        if failed.is_set():
            return
        ended[name] = one(name)
        if ended[name].code != 0:
            failed.set()

    for wave in chosen.waves:
        with ThreadPoolExecutor(chosen.at_once, thread_name_prefix="wave") as pool:
            for job in [pool.submit(begin, name) for name in wave]:
                job.result()
    stopped = "not begun: another target failed before it"
    return tuple(ended.get(name, Ended(name, None, stopped)) for name in chosen.targets)


def promote(context: Context, chosen: Order, image: str, words: Sequence[str]) -> tuple[Check, ...]:
    """Promote ``image`` to every target; a check per target.

    ``words`` are the options that every promotion is given. Leaves ``tables/targets.json`` for
    the report. Raises the first failure, with the exit code that its promotion ended with.
    """

    def one(name: str) -> Ended:
        begun = context.clock.monotonic()
        with context.events.step(f"promote {name}", "a run of its own"):
            argv: list[str | Path] = [
                sys.executable, context.root / "pipeline.py", "promote",
                "--image", image, "--target", name, *words,
            ]  # fmt: skip
            said = context.programs.run(argv, log=f"promote-{name}", check=False)
            folder = re.search(r"^run {2,}(\S+)$", said.stdout, re.MULTILINE)
            error = re.findall(r"^error: (.*)$", said.stderr, re.MULTILINE)
            where = folder[1] if folder else ""
            text, changed = _promoted(Path(where) / "summary.json")
            text = error[-1] if error else text
            context.events.note(text)
            seconds = context.clock.monotonic() - begun
            return Ended(name, said.status, text, where, seconds, changed)

    results = run(chosen, one)
    context.folder.json("tables/targets.json", _table(results))
    for result in results:
        context.events.emit(f"run.{outcome(result)}", line(result))
    first = next((result for result in results if result.code), None)
    if first is not None:
        left = [result.target for result in results if result.code is None]
        also = f"; not begun: {', '.join(left)}" if left else ""
        kind = of_exit_code(first.code or 1)
        raise kind(f"{first.target}: {first.said}{also}", remedy=f"see {first.folder}")
    return tuple(Check(result.target, True, line(result)) for result in results)


def outcome(result: Ended) -> Outcome:
    """Skipped where it did not begin."""
    if result.code is None:
        return Outcome.SKIPPED
    return Outcome.FAILED if result.code else Outcome.PASSED


def line(result: Ended) -> str:
    """One target in one line."""
    how: str = result.outcome
    how += f" ({result.code})" if result.code else ""
    return f"{result.target}: {how}: {result.said}"


def _promoted(summary: Path) -> tuple[str, bool]:
    """What a promotion did, in a few words, and whether it changed anything."""
    try:
        moved = json.loads(summary.read_text(encoding="utf-8"))["promotion"]
        tag, number = moved["after"]["tag"], moved["to_revision"]
        if not moved.get("changed", True):
            return f"revision {number}, {tag}, verified, nothing to do", False
        return f"revision {moved['from_revision']} -> {number}, {tag}", True
    except (OSError, ValueError, KeyError, TypeError):
        return "it left no summary", True


def _table(results: Sequence[Ended]) -> dict[str, object]:
    return {
        "title": TARGETS,
        "note": "In the order they were to be promoted; each has a run and a report of its own.",
        "columns": ("target", "outcome", "how it ended", "seconds", "run", "ok"),
        "rows": [
            [r.target, r.outcome, r.said, f"{r.seconds:.0f}", r.folder, r.code == 0]
            for r in results
        ],
    }
