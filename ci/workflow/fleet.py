"""Several targets in order, or in waves with a bounded number at once.

Each target is promoted by a process of its own, as a person would by hand: it has its own run
folder, report, lock and rollback, and a signal to us goes on to it. The first failure stops what
has not begun; what is under way comes to its own end.
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
    code: int | None = None
    run: str = ""
    """Name of its run's folder."""
    seconds: float = 0.0
    record: RunRecord | None = None
    """What the run left; ``None`` when nothing that can be read."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0 and self.record is not None


def order(names: Sequence[str], settings: Settings, known: Sequence[str]) -> Order:
    """What ``--target`` names: targets, one after the other, or one group of waves. Pure.

    Raises :class:`SettingsError` for a name that is neither, and for one that comes twice.
    """
    wave: Wave | None = settings.waves.get(names[0]) if len(names) == 1 else None
    found = Order(wave.order, wave.at_once) if wave else Order(tuple((name,) for name in names))
    for name in found.targets:
        if name not in known:
            raise SettingsError(
                f"unknown target {name!r}; known targets: {', '.join([*known, *settings.waves])}",
                remedy=f"add a [targets.{name}] block to pipeline.toml, or name another",
            )
        if found.targets.count(name) > 1:
            raise SettingsError(f"target {name!r} is named twice", remedy="name each target once")
    return found


def run(chosen: Order, one: Callable[[str], Ended]) -> tuple[Ended, ...]:
    """Call ``one`` for every target, wave by wave; after a failure none is begun."""
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
    context: Context, chosen: Order, image: str, words: Sequence[str]
) -> tuple[CheckGroup, ...]:
    """Promote ``image`` to every target; a check per target.

    ``words`` are the options that every promotion is given. Each is given the name of the folder
    that it shall leave, and is judged by what it wrote there. Raises the first failure, with the
    exit code that its promotion ended with and the checks of all targets.
    """

    def one(name: str) -> Ended:
        begun = context.clock.monotonic()
        with context.events.step(StepId.PROMOTE_TARGET, "a run of its own", subject=name):
            run = state.run_id(datetime.now(UTC))
            argv: list[str | Path] = [
                sys.executable, context.root / "pipeline.py", "promote",
                "--image", image, "--target", name, *words,
            ]  # fmt: skip
            answer = context.programs.run(
                argv, log=f"promote-{name}", env={state.RUN_ID: run}, check=False
            )
            ended = Ended(
                name,
                answer.status,
                run,
                context.clock.monotonic() - begun,
                files.summary(context.run_dir.parent / run),
            )
            context.events.checked(Phase.TARGETS, [check(ended)])
            return ended

    results = run(chosen, one)
    checks = tuple(check(result) for result in results)
    for made in checks:
        context.events.emit(f"run.{made.outcome.value}", texts.sentence(made))
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
    stands = change.state if change else None
    ref = RunRef(result.run, result.code, round(result.seconds, 1), stands)
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
    first: Ended, not_begun: Sequence[str], groups: tuple[CheckGroup, ...]
) -> PipelineError:
    """The error of the first target that failed. Pure."""
    also = f"; not begun: {', '.join(not_begun)}" if not_begun else ""
    problem = of_exit_code(first.code or 1)(
        f"{texts.sentence(check(first))}{also}", remedy=f"see the report of run {first.run}"
    )
    problem.groups = groups
    return problem
