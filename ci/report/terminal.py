"""The run as it goes on, and the closing summary: a live view on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ci.events import Event
from ci.model import Outcome, Rollback, RollbackOutcome, RunRecord

if TYPE_CHECKING:
    from ci.promotion.plan import Plan
    from ci.stages.verify import Status
    from ci.toolchain import ToolState

NOTE_INTERVAL = 2.0
"""Seconds between two notes of one step where there is no terminal to redraw."""
SHOWN_FINISHED = 40
WATCHED_LINES = 3
"""Of each of the terminals that are watched during a change; one where it is not so tall."""
TALL = 45
"""Rows."""
WATCHED_SECONDS = 15.0
"""How long what was watched stays once nothing changes any more."""


class View(Protocol):
    """Listens to events and shows them while it is open."""

    def __call__(self, event: Event) -> None: ...

    def __enter__(self) -> View: ...

    def __exit__(self, *problem: object) -> None: ...


def view(stream: IO[str], *, verbose: bool = False, brief: bool = False) -> View:
    """``brief`` is for commands whose result is a table: only what takes long is shown."""
    if stream.isatty() and not verbose:
        return Redrawn(stream, transient=brief)
    return Lines(stream, every=verbose, brief=brief)


def console_for(stream: IO[str] | None) -> Console:
    """Tables are cut to a terminal's width, and to nothing where there is none."""
    out = stream if stream is not None else sys.stdout
    return Console(file=out, highlight=False, width=None if out.isatty() else 240)


def wall(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02} s"


class Lines:
    """One line per event: time, seconds since the start, step, what."""

    def __init__(self, stream: IO[str], *, every: bool = False, brief: bool = False) -> None:
        self._stream = stream
        self._brief = brief and not every
        self._interval = 0.0 if every else NOTE_INTERVAL
        self._noted: dict[str, float] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stream.flush()

    def __call__(self, event: Event) -> None:
        match event.kind:
            case "step.started" | "step.finished" if self._brief:
                return
            case "step.started":
                self._noted.pop(event.step, None)
                self._line(event, f"started{': ' if event.text else ''}{event.text}")
            case "step.finished":
                self._line(event, f"done in {wall(event.data['seconds'])}")
            case "step.failed":
                self._line(event, f"FAILED after {wall(event.data['seconds'])}: {_one(event.text)}")
            case "note":
                last = self._noted.get(event.step)
                if last is None or event.at - last >= self._interval:
                    self._noted[event.step] = event.at
                    self._line(event, _one(event.text))
            case "watch":  # a service says more than anybody reads here; its file has all of it
                if event.step != "logs" or not self._interval:
                    self._line(event, _one(event.text))
            case _:
                self._line(event, _one(event.text))

    def _line(self, event: Event, text: str) -> None:
        step = f"{event.step}: " if event.step else ""
        now = time.strftime("%H:%M:%S")
        print(f"{now} {event.at:7.1f} s  {step}{text}", file=self._stream, flush=True)


@dataclass(slots=True)
class _Step:
    name: str
    reason: str
    parent: str
    begun: float
    seconds: float | None = None
    failed: bool = False
    note: str = ""


class Redrawn:
    """Every step with its state, seconds and last note; side by side ones at the same time."""

    def __init__(self, stream: IO[str], *, transient: bool = False) -> None:
        self._console = Console(file=stream)
        self._steps: list[_Step] = []
        self._watched: dict[str, deque[str]] = {}
        self._watched_at = 0.0
        self._lock = threading.Lock()
        self._zero = time.monotonic()
        self._ended = False
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=transient,
            vertical_overflow="crop",
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Redrawn:
        # It may be opened again, for the next part of a run; what ended stands above already.
        self._ended = False
        self._steps = [step for step in self._steps if step.seconds is None]
        self._live.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._ended = True
        self._live.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._zero = time.monotonic() - event.at
            match event.kind:
                case "step.started":
                    parent = str(event.data.get("parent", ""))
                    self._steps.append(_Step(event.step, event.text, parent, event.at))
                case "step.finished" | "step.failed":
                    if (step := self._open(event.step)) is not None:
                        step.seconds = float(event.data["seconds"])
                        step.failed = event.kind == "step.failed"
                        if step.failed:
                            step.note = _one(event.text)
                case "note":
                    if (step := self._open(event.step)) is not None:
                        step.note = _one(event.text)
                case "watch":
                    lines = self._watched.setdefault(event.step, deque(maxlen=WATCHED_LINES))
                    lines.append(_one(event.text))
                    self._watched_at = event.at
                case _:
                    self._steps.append(
                        _Step(_one(event.text), "", "", event.at, seconds=0.0, failed=True)
                    )

    def _open(self, name: str) -> _Step | None:
        for step in reversed(self._steps):
            if step.name == name and step.seconds is None:
                return step
        return None

    def _render(self) -> RenderableType:
        now = time.monotonic() - self._zero
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        with self._lock:
            # The parts of a finished step fold into it.
            done = {s.name for s in self._steps if s.seconds is not None and not s.failed}
            shown = [s for s in self._steps if s.parent not in done]
            watched = self._terminals(now)
            height = self._console.height - 3 - watched.row_count
            for step in shown[-min(SHOWN_FINISHED, max(5, height)) :]:
                table.add_row(*self._row(step, now))
        if self._ended:  # what stays on the screen: the next process, or the summary, goes on
            return table
        return Group(table, watched, Text(f"{wall(now)} since the start", style="dim"))

    def _terminals(self, now: float) -> Table:
        """The newest lines of what is watched beside a change, as long as something changes."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=9, no_wrap=True, justify="right", style="cyan")
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
        if now - self._watched_at > WATCHED_SECONDS:
            return table
        count = WATCHED_LINES if self._console.height >= TALL else 1
        for name, lines in self._watched.items():
            for index, line in enumerate(list(lines)[-count:]):
                table.add_row("" if index else name, line)
        return table

    @staticmethod
    def _row(step: _Step, now: float) -> tuple[Text, Text, Text, Text]:
        indent = "  " if step.parent else ""
        if step.seconds is None:
            frames = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
            sign, style = frames[int(now * 4) % len(frames)], "cyan"
            seconds, said = wall(now - step.begun), step.note or step.reason
        elif step.failed:
            sign, style, seconds, said = "✗", "red", wall(step.seconds), step.note
        else:
            sign, style, seconds, said = "✓", "green", wall(step.seconds), step.reason
        return (
            Text(sign, style=style),
            Text(indent + step.name, style="bold" if step.seconds is None else ""),
            Text(seconds),
            Text(said, style="dim"),
        )


def summary(record: RunRecord, stream: IO[str] | None = None) -> None:
    """What was promoted, from which digest to which, how long each step took, where it all is."""
    out = stream if stream is not None else sys.stdout
    console = Console(file=out, highlight=False, soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    for step in record.steps:
        if not step.parent and step.seconds >= 0.05:
            sign = "✗" if step.outcome is Outcome.FAILED else "✓"
            table.add_row(f"  {sign} {step.name}", Text(wall(step.seconds), justify="right"))
    console.print()
    console.print(table)
    console.print()
    for line in closing(record):
        console.print(line, markup=False)


def closing(record: RunRecord) -> Iterator[str]:
    """The summary's sentences, without the table."""
    if record.cases:
        counts = {o: sum(c.outcome is o for c in record.cases) for o in Outcome}
        yield (
            f"proof      {counts[Outcome.PASSED]} passed, {counts[Outcome.FAILED]} failed, "
            f"{counts[Outcome.SKIPPED]} skipped"
        )
    if record.image is not None:
        yield f"image      {record.image.by_tag}"
        yield f"digest     {record.image.digest}"
    if record.promotion is not None and not record.promotion.changed:
        served = record.promotion
        yield (
            f"served     {served.target}: revision {served.to_revision} serves it already;"
            " verified, nothing to do"
        )
    elif record.promotion is not None:
        moved = record.promotion
        yield (f"promoted   {moved.target}: revision {moved.from_revision} -> {moved.to_revision}")
        yield f"  from     {moved.before.tag}  {moved.before.digest}"
        yield f"  to       {moved.after.tag}  {moved.after.digest}"
        for item in moved.checklist:
            yield f"  [{'x' if item.ok else ' '}]      {item.name}: {item.evidence}"
    if record.rollback is not None:
        yield from _way_back(record.rollback)
    for check in record.checks:
        yield f"  {'ok  ' if check.ok else 'FAIL'}     {check.name}: {check.evidence}"
    yield f"run        {record.folder}"
    if (report := record.folder / "report.html").exists():
        yield f"report     {report}"
    word = "succeeded" if record.outcome is Outcome.PASSED else f"failed ({record.exit_code})"
    yield f"{record.command} {word} after {wall(record.seconds)}"


def _way_back(found: Rollback) -> Iterator[str]:
    image = found.after.image
    on = f"every pod runs {image.by_digest}" if image.digest else f"no pod runs, {image.by_tag}"
    if found.outcome is RollbackOutcome.ALREADY_THERE:
        yield (
            f"served     {found.target}: already there; revision {found.revision} serves what"
            f" revision {found.after.revision} did, verified, nothing to do"
        )
    else:
        yield (
            f"returned   {found.target}: revision {found.before.revision} ->"
            f" {found.after.revision}, deployed as revision {found.revision}"
        )
        yield f"  from     {found.before.image.tag}  {found.before.image.digest}"
        yield f"  to       {image.tag}  {image.digest}"
    yield f"  verified {on}"


def _one(text: str) -> str:
    return " ".join(text.split())


def status(found: Status, stream: IO[str] | None = None) -> None:
    """A target as it is now."""
    console = console_for(stream)
    console.print(f"{found.target}: release {found.release} in namespace {found.namespace}")
    history = Table("revision", "status", "chart", "description", box=None, pad_edge=False)
    for line in found.history:
        history.add_row(str(line.number), line.status, line.chart, line.description)
    console.print(history)
    console.print()
    pods = Table("pod", "phase", "ready", "restarts", "image", "digest", box=None, pad_edge=False)
    for pod in found.pods:
        tag = pod.image.rpartition("/")[2]
        ready = "yes" if pod.ready else "no"
        pods.add_row(pod.name, pod.phase, ready, str(pod.restarts), tag, pod.digest[:19])
    console.print(pods)


def rollback(found: Rollback, stream: IO[str] | None = None) -> None:
    """What a rollback would do."""
    console = console_for(stream)
    console.print(f"{found.target}: a rollback would go", markup=False)
    for line in found.lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print("nothing was changed (--dry-run)")


def plan(found: Plan, stream: IO[str] | None = None) -> None:
    """What an upgrade would change, by object: what is refused first, then what is allowed."""
    console = console_for(stream)

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    change = found.change
    line(f"revision {change.old_revision} -> {change.new_revision}")
    line(f"- {change.old_repository}:{change.old_tag}", "red")
    line(f"+ {change.new_repository}:{change.new_tag}", "green")
    if change.chart:
        line(f"chart {change.chart}", "yellow")
    for allowed, marked in ((False, "! "), (True, "  ")):
        several = [d for d in found.differences if d.allowed is allowed]
        for name in dict.fromkeys(d.object for d in several):
            line(f"\n{marked}{name}", "bold" if allowed else "bold yellow")
            for difference in (d for d in several if d.object == name):
                line(f"    {difference.path or 'the whole object'}  ({difference.reason})", "dim")
                line(f"    - {difference.before}", "red")
                line(f"    + {difference.after}", "green")
    if found.checks:
        line("")
    for check in found.checks:
        line(f"[{'x' if check.ok else ' '}] {check.name}: {check.evidence}")
    fields, refused = len(found.differences), len(found.refused)
    if not fields:
        line("\nnothing would change", "bold")
        return
    cause = "the image's tag or the chart" if change.chart else "the image's tag"
    verdict = f"{refused} refused (!)" if refused else f"all from {cause}"
    of = len({d.object for d in found.differences})
    objects = "1 object" if of == 1 else f"{of} objects"
    line(f"\n{fields} changes in {objects}: {verdict}", "bold")


def doctor(states: Sequence[ToolState], stream: IO[str] | None = None) -> None:
    """Every tool: what is wanted, what is there, and what to do."""
    console = console_for(stream)
    table = Table("tool", "pinned", "found", "origin", "state", "remedy", box=None, pad_edge=False)
    for tool in states:
        style = "" if tool.state == "ready" else "yellow"
        table.add_row(
            tool.name, tool.pinned, tool.found, tool.origin, tool.state, tool.remedy, style=style
        )
    console.print(table)
