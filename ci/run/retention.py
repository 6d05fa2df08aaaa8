"""Which runs under ``runs/`` are kept.

Runs are counted per command, so that an hourly ``verify`` does not remove promotions. For each
target, the runs that someone may need to restore it are always kept: the newest promotion and the
newest rollback, and of each also the newest that succeeded and the newest with backups
(``quick-rollback.sh``), because a later run that was refused has none.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.run import state as homes

KEPT = 50
"""Of each command."""
UNKNOWN_KEPT = 4 * KEPT
"""Of runs whose command cannot be read: they may be promotions, so more of them are kept."""
RECORD = "run.json"
"""The file with a run's command and targets, written when the run starts."""
PROMOTION = ("run", "promote")
ROLLBACK = ("rollback",)


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run."""

    name: str
    """Of its folder: sorts by time."""
    command: str = ""
    """Empty where it cannot be read."""
    targets: tuple[str, ...] = ()
    succeeded: bool = False
    backed_up: bool = False


def begin(folder: Path, command: str, targets: Iterable[str]) -> None:
    """Record a run's command and targets as soon as it has a folder, because it may be killed."""
    homes.write(folder / RECORD, {"command": command, "targets": list(targets)})


def prune(runs: Path, *, without: str = "") -> None:
    """Remove the runs that need not be kept, except ``without``, the current one."""
    if not runs.is_dir():
        return
    runs_found = [
        read(folder)
        for folder in runs.iterdir()
        if folder.is_dir() and not folder.is_symlink() and homes.RUN_NAME.fullmatch(folder.name)
    ]
    for run in superfluous([run for run in runs_found if run.name != without]):
        shutil.rmtree(runs / run.name, ignore_errors=True)


def superfluous(
    runs: Sequence[Run], keep: int = KEPT, keep_unknown: int = UNKNOWN_KEPT
) -> tuple[Run, ...]:
    """The runs to remove: older than the newest ``keep`` of their command, and not among those that
    are always kept. Pure."""
    landmarks = {run.name for kind in (PROMOTION, ROLLBACK) for run in _landmarks(runs, kind)}
    by_command: defaultdict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.name, reverse=True):
        by_command[run.command].append(run)
    return tuple(
        run
        for command, newest_first in by_command.items()
        for run in newest_first[keep if command else keep_unknown :]
        if run.name not in landmarks
    )


def _landmarks(runs: Iterable[Run], commands: Sequence[str]) -> Iterable[Run]:
    """For each target, the newest run of these commands, the newest that succeeded, and the newest
    with backups."""
    newest: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: run.name):
        if run.command in commands:
            for target in run.targets or ("",):
                newest["any", target] = run
                if run.succeeded:
                    newest["succeeded", target] = run
                if run.backed_up:
                    newest["backed up", target] = run
    return newest.values()


def read(folder: Path) -> Run:
    """What is known of a run, from the file written at its start and its summary (runs of older
    versions have only the latter)."""
    begun = homes.read(folder / RECORD) or {}
    ended = homes.read(folder / "summary.json") or {}
    promotion = ended.get("promotion")
    promoted = promotion.get("target") if isinstance(promotion, dict) else None
    targets = _texts(begun.get("targets")) or _texts([promoted])
    command = next(iter(_texts([begun.get("command"), ended.get("command")])), "")
    return Run(
        folder.name,
        command,
        targets,
        succeeded=ended.get("exit_code") == 0,
        backed_up=(folder / "backups" / "quick-rollback.sh").is_file(),
    )


def _texts(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else ()
    return tuple(item for item in items if isinstance(item, str) and item)
