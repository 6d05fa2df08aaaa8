"""Promote to several targets, one after the other or in waves with a bounded number in parallel.

Each target is promoted by a process of its own, with its own run folder, report, lock and
rollback; a signal to this process is passed on to it. After the first failure no further promotion
starts; those that are running finish.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ci import texts
from ci.errors import PipelineError, SettingsError, of_exit_code
from ci.model import RunRecord
from ci.report import files
from ci.results import (
    Because,
    Check,
    CheckGroup,
    CheckId,
    Measured,
    Phase,
    Problem,
    RevisionRef,
    RunRef,
    StepId,
    failed,
    passed,
    unknown,
)
from ci.run import state
from ci.run.context import Context
from ci.settings import Settings, Wave

Waves = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Targets by wave, and how many of a wave are promoted in parallel."""

    waves: Waves
    at_once: int = 1

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(name for wave in self.waves for name in wave)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the promotion of one target ended; ``code`` is its exit code, ``None`` when it did not
    start."""

    target: str
    code: int | None = None
    run: str = ""

    """Name of its run folder."""
    seconds: float = 0.0
    record: RunRecord | None = None

    """The run's summary; ``None`` when there is none that can be read."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.record is not None


def order(names: Sequence[str], settings: Settings, known: Sequence[str]) -> Order:
    """Resolve ``--target``: targets, one after the other, or the name of one [waves] block. Pure.

    Raises :class:`SettingsError` for an unknown name, and for a target that is named twice.
    """
    wave: Wave | None = settings.waves.get(names[0]) if len(names) == 1 else None
    result = Order(wave.order, wave.at_once) if wave else Order(tuple((name,) for name in names))
    for name in result.targets:
        if name not in known:
            raise SettingsError(
                f"unknown target {name!r}; known targets: {', '.join([*known, *settings.waves])}",
                remedy=f"add a [targets.{name}] block to pipeline.toml, or name another with"
                " --target",
            )
        if result.targets.count(name) > 1:
            raise SettingsError(f"target {name!r} is named twice", remedy="name each target once")
    return result


def run(chosen: Order, one: Callable[[str], Ended]) -> tuple[Ended, ...]:
    """Call ``one`` for every target, wave by wave; after a failure none is started."""
    ended: dict[str, Ended] = {}
    stop = threading.Event()

    def begin(name: str) -> None:
        if stop.is_set():
            return
        ended[name] = one(name)
        if not ended[name].succeeded:
            stop.set()

    for wave in chosen.waves:
        with ThreadPoolExecutor(chosen.at_once, thread_name_prefix="wave") as pool:
            for job in [pool.submit(begin, name) for name in wave]:
                job.result()
    return tuple(ended.get(name, Ended(name)) for name in chosen.targets)


def promote(
    context: Context, chosen: Order, image: str, arguments: Sequence[str]
) -> tuple[CheckGroup, ...]:
    """Promote ``image`` to every target; returns one check per target.

    ``arguments`` are the command-line options of every promotion. Each process is given the name
    of its run folder, and its result is read from the summary it writes there. Raises the first
    failure, with the exit code of that promotion and the checks of all targets.
    """

    def one(name: str) -> Ended:
        started = context.clock.monotonic()
        with context.events.step(
            StepId.PROMOTE_TARGET,
            "each target needs its own lock, backups and rollback",
            subject=name,
        ):
            run = state.run_id(datetime.now(UTC))
            argv: list[str | Path] = [
                sys.executable, context.root / "pipeline.py", "promote",
                "--image", image, "--target", name, *arguments,
            ]  # fmt: skip
            answer = context.programs.run(
                argv, log=f"promote-{name}", env={state.RUN_ID: run}, check=False
            )
            promoted = Ended(
                name,
                answer.status,
                run,
                context.clock.monotonic() - started,
                files.summary(context.run_dir.parent / run),
            )
            context.events.checked(Phase.TARGETS, [check(promoted)])
            return promoted

    results = run(chosen, one)
    checks = tuple(check(result) for result in results)
    for target_check in checks:
        context.events.emit(f"run.{target_check.outcome.value}", texts.sentence(target_check))
    groups = (CheckGroup(Phase.TARGETS, checks),)
    broken = next((r for r in results if r.code is not None and not r.succeeded), None)
    if broken is not None:
        raise failure(broken, [r.target for r in results if r.code is None], groups)
    return groups


def check(result: Ended) -> Check:
    """Whether a target serves the image. Pure."""
    name, id = result.target, CheckId.TARGET_PROMOTED
    if result.code is None:
        return unknown(id, Because.NOT_REACHED, subject=name)
    record = result.record
    change = record.change if record else None
    target_state = change.state if change else None
    ref = RunRef(result.run, result.code, round(result.seconds, 1), target_state)
    if result.code:
        problem = [Problem(record.error)] if record and record.error else []
        return failed(id, *problem, ref, subject=name)
    if record is None:
        return unknown(id, Because.LOST, ref, subject=name)
    served: list[Measured] = []
    if change is not None and change.after is not None:
        served.append(change.after)
    if change is not None and change.live_revision is not None:
        served.append(RevisionRef(change.live_revision))
    return passed(id, *served, ref, subject=name)


def failure(
    first: Ended, not_started: Sequence[str], groups: tuple[CheckGroup, ...]
) -> PipelineError:
    """The error of the first target whose promotion failed. Pure."""
    also = f"; not started: {', '.join(not_started)}" if not_started else ""
    problem = of_exit_code(first.code or 1)(
        f"{texts.sentence(check(first))}{also}", remedy=f"see the report of run {first.run}"
    )
    problem.groups = groups
    return problem
