"""The run as it goes on, a live view on a terminal and lines elsewhere; and what a command shows
at its end.

Both may be the same screen, so they never overlap: a command returns what is to be shown, and
:func:`show` writes it when the live view is closed. Nothing else in ``ci`` writes to the terminal
while a view is open; what a library writes then goes above the view, never into it.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from itertools import groupby
from typing import IO, TYPE_CHECKING, Literal, Protocol, TypeAlias, assert_never

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ci import texts
from ci.model import (
    Difference,
    Preview,
    Rollback,
    RollbackOutcome,
    RunRecord,
    SelfTest,
    Status,
)
from ci.report import signs, views
from ci.report.signs import GLYPHS, Sign
from ci.results import Outcome, Phase, Tally
from ci.run.events import CHANGE, CHECK, Event

if TYPE_CHECKING:
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
ESCAPE = re.compile(
    r"(\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?|\x1b[ -/]*[0-~]"
)
"""A control sequence (colours, the cursor), an operating system command (the title), or another."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Every control character but tab and newline."""
GAP = 2
"""Spaces between two columns."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What ``plan`` shows."""

    preview: Preview


@dataclass(frozen=True, slots=True)
class Served:
    """What ``status`` shows; as JSON for other programs."""

    status: Status
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Inspected:
    """What ``doctor`` shows."""

    tools: tuple[ToolState, ...]


@dataclass(frozen=True, slots=True)
class Returning:
    """What ``rollback --dry-run`` shows."""

    rollback: Rollback


Shown: TypeAlias = RunRecord | Planned | Served | Inspected | SelfTest | Returning
"""All that a command can show at its end."""


def show(shown: Shown, stream: IO[str]) -> None:
    """Write what a command returned. Only :mod:`ci.cli.app` calls it, when no live view is open."""
    match shown:
        case RunRecord():
            summary(shown, stream)
        case Planned():
            plan(shown.preview, stream)
        case Served():
            if shown.as_json:
                stream.write(json.dumps(asdict(shown.status), indent=1, default=str) + "\n")
            else:
                status(shown.status, stream)
        case Inspected():
            doctor(shown.tools, stream)
        case SelfTest():
            self_test(shown, stream)
        case Returning():
            rollback(shown.rollback, stream)
        case _:
            assert_never(shown)
    stream.flush()


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


def never_fails(stream: IO[str]) -> None:
    """Write what the encoding of ``stream`` lacks as an escape: a pod's log or a help text may
    hold any character, and none of them is worth an error."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def console_for(stream: IO[str]) -> Console:
    """For lines that the terminal wraps by itself; signs and markup in their texts are text."""
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)


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
                self._noted.pop(event.title, None)
                self._line(event, f"started{': ' if event.text else ''}{event.text}")
            case "step.finished":
                self._line(event, f"done in {wall(event.data['seconds'])}")
            case "step.failed":
                self._line(event, f"FAILED after {wall(event.data['seconds'])}: {_one(event.text)}")
            case "note":
                last = self._noted.get(event.title)
                if last is None or event.at - last >= self._interval:
                    self._noted[event.title] = event.at
                    self._line(event, _one(event.text))
            case "watch":  # a service says more than anybody reads here; its file has all of it
                if event.step != "logs" or not self._interval:
                    self._line(event, _one(event.text))
            case _:
                sign = signs.of_event(event.kind)
                mark = "" if sign is Sign.NOTE else f"{self._symbol(sign)} "
                self._line(event, mark + _one(event.text))

    def _symbol(self, sign: Sign) -> str:
        return signs.symbol(sign, ascii_only=Console(file=self._stream).options.ascii_only)

    def _line(self, event: Event, text: str) -> None:
        step = f"{event.title}: " if event.step else ""
        now = time.strftime("%H:%M:%S")
        print(f"{now} {event.at:7.1f} s  {step}{text}", file=self._stream, flush=True)


@dataclass(slots=True)
class _Step:
    id: str
    subject: str
    title: str
    reason: str
    parent: str
    begun: float
    sign: Sign = Sign.RUNNING
    seconds: float = 0.0
    note: str = ""

    @property
    def running(self) -> bool:
        return self.sign is Sign.RUNNING


@dataclass(slots=True)
class _Message:
    """A sentence of the run itself, of no step."""

    text: str
    sign: Sign


class Redrawn:
    """Every step with its state, seconds and last note; side by side ones at the same time.

    While it is open the terminal is its own: whatever else is written to ``sys.stderr``, or to a
    ``sys.stdout`` that is the same terminal, appears above it, on lines of its own.
    """

    def __init__(self, stream: IO[str], *, transient: bool = False) -> None:
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._shown: list[_Step | _Message] = []
        self._watched: dict[str, deque[str]] = {}
        self._watched_at = 0.0
        self._lock = threading.Lock()
        self._zero = time.monotonic()
        self._ended = False
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=signs.FRAMES_PER_SECOND,
            transient=transient,
            vertical_overflow="crop",
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def __enter__(self) -> Redrawn:
        # It may be opened again, for the next part of a run; what ended stands above already.
        self._ended = False
        self._shown = [one for one in self._shown if isinstance(one, _Step) and one.running]
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
                    self._shown.append(
                        _Step(event.step, event.subject, event.title, event.text, parent, event.at)
                    )
                case "step.finished" | "step.failed":
                    if (step := self._open(event)) is not None:
                        step.seconds = float(event.data["seconds"])
                        step.sign = signs.of_event(event.kind)
                        if step.sign is Sign.FAILED:
                            step.note = _one(event.text)
                case "note":
                    if (step := self._open(event)) is not None:
                        step.note = _one(event.text)
                case kind if kind in (CHECK, CHANGE):
                    if (step := self._open(event)) is not None:
                        step.note = _one(event.text)
                case "watch":
                    lines = self._watched.setdefault(event.step, deque(maxlen=WATCHED_LINES))
                    lines.append(_one(event.text))
                    self._watched_at = event.at
                case _:
                    self._shown.append(_Message(_one(event.text), signs.of_event(event.kind)))

    def _open(self, event: Event) -> _Step | None:
        for step in reversed(self._shown):
            if (
                isinstance(step, _Step)
                and step.running
                and (step.id, step.subject)
                == (
                    event.step,
                    event.subject,
                )
            ):
                return step
        return None

    def _render(self) -> RenderableType:
        now = time.monotonic() - self._zero
        with self._lock:
            # The parts of a finished step fold into it.
            done = {s.id for s in self._shown if isinstance(s, _Step) and s.sign is Sign.PASSED}
            shown = [
                one for one in self._shown if isinstance(one, _Message) or one.parent not in done
            ]
            watched = self._terminals(now)
            height = self._console.height - 3 - watched.row_count
            parts = self._parts(shown[-min(SHOWN_FINISHED, max(5, height)) :], now)
        if self._ended:  # what stays on the screen: the next process, or the summary, goes on
            return Group(*parts)
        return Group(*parts, watched, Text(f"{wall(now)} since the start", style="dim"))

    def _parts(self, shown: Sequence[_Step | _Message], now: float) -> Iterator[RenderableType]:
        """Steps in columns, the same for all of them; messages whole, between them."""
        rows = [self._row(one, now) for one in shown if isinstance(one, _Step)]
        times = max((seconds.cell_len for _, _, seconds, _ in rows), default=0)
        room = max(8, self._console.width - times - len("✓  … "))
        names = min(room, max((name.cell_len for _, name, _, _ in rows), default=0))
        next_row = iter(rows)
        for kind, several in groupby(shown, key=type):
            table = Table.grid(padding=(0, 1), expand=True)
            table.add_column(width=1)
            if kind is _Step:
                # The reason is cut first, then the name; never the time.
                table.add_column(no_wrap=True, width=names, overflow=self._cut)
                table.add_column(justify="right", no_wrap=True, min_width=times)
                table.add_column(ratio=1, no_wrap=True, overflow=self._cut)
                for _ in several:
                    table.add_row(*next(next_row))
            else:
                table.add_column(ratio=1, overflow="fold")
                for one in several:
                    assert isinstance(one, _Message)
                    table.add_row(self._sign(one.sign), Text(one.text))
            yield table

    def _terminals(self, now: float) -> Table:
        """The newest lines of what is watched beside a change, as long as something changes."""
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=9, no_wrap=True, justify="right", style="cyan")
        table.add_column(ratio=1, no_wrap=True, overflow=self._cut, style="dim")
        if now - self._watched_at > WATCHED_SECONDS:
            return table
        count = WATCHED_LINES if self._console.height >= TALL else 1
        for name, lines in self._watched.items():
            for index, line in enumerate(list(lines)[-count:]):
                table.add_row("" if index else name, line)
        return table

    @property
    def _cut(self) -> Literal["crop", "ellipsis"]:
        return "crop" if self._console.options.ascii_only else "ellipsis"

    def _sign(self, sign: Sign, at: float = 0.0) -> Text:
        ascii_only = self._console.options.ascii_only
        return Text(signs.symbol(sign, ascii_only=ascii_only, at=at), style=GLYPHS[sign].style)

    def _row(self, step: _Step, now: float) -> tuple[Text, Text, Text, Text]:
        beside = step.reason if step.sign is Sign.PASSED else step.note or step.reason
        return (
            self._sign(step.sign, now),
            Text("  " * bool(step.parent) + step.title, style="bold" if step.running else ""),
            Text(wall(now - step.begun if step.running else step.seconds)),
            Text(beside, style="dim"),
        )


def summary(record: RunRecord, stream: IO[str]) -> None:
    """What was promoted, from which digest to which, how long each step took, where it all is."""
    console = console_for(stream)
    table = Table.grid(padding=(0, 2))
    for step in record.steps:
        if not step.parent and (step.seconds >= 0.05 or step.outcome is not Outcome.PASSED):
            sign = signs.of_outcome(step.outcome)
            mark = signs.symbol(sign, ascii_only=console.options.ascii_only)
            title = texts.step_title(step.id, step.subject)
            table.add_row(f"  {mark} {title}", Text(wall(step.seconds), justify="right"))
    console.print()
    console.print(table)
    console.print()
    for line in closing(record, ascii_only=console.options.ascii_only):
        console.print(plain(line))


def closing(record: RunRecord, *, ascii_only: bool = False) -> Iterator[str]:
    """The summary's sentences, without the table of steps."""
    if record.cases:
        yield f"proof      {texts.tally(Tally.of(case.outcome for case in record.cases))}"
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
    if record.rollback is not None:
        yield from _way_back(record.rollback)
    if record.checks:
        yield f"checks     {views.tally(record.checks)}"
        yield from _checks(record, ascii_only)
    yield f"run        {record.folder}"
    if (report := record.folder / "report.html").exists():
        yield f"report     {report}"
    word = "succeeded" if record.outcome is Outcome.PASSED else f"failed ({record.exit_code})"
    yield f"{record.command} {word} after {wall(record.seconds)}"


def _checks(record: RunRecord, ascii_only: bool) -> Iterator[str]:
    """The checklist whole; of a change all checks that did not pass, else all."""
    for line in views.checklist(record):
        yield f"  {_marked(line, ascii_only)}"
    for group in record.groups:
        change = group.phase in (Phase.BEFORE, Phase.DURING)
        for check in group.checks:
            if change and (check.passed or check.id in texts.CHECKLIST):
                continue
            (line,) = views.listed([check])
            yield f"  {_marked(line, ascii_only)}"


def _marked(line: views.Line, ascii_only: bool) -> str:
    sign = signs.symbol(signs.of_outcome(line.outcome), ascii_only=ascii_only)
    word = "" if line.outcome is Outcome.PASSED else f"{texts.OUTCOMES[line.outcome]}: "
    evidence = "; ".join(line.evidence)
    return f"{sign} {word}{line.title}" + (f": {evidence}" if evidence else "")


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


def plain(text: str) -> str:
    """Without what a terminal would act on: a pod's log line may hold any escape sequence."""
    return CONTROL.sub("", ESCAPE.sub("", text))


def _one(text: str) -> str:
    return " ".join(plain(text).split())


def status(found: Status, stream: IO[str]) -> None:
    """A target as it is now."""
    console = console_for(stream)
    console.print(f"{found.target}: release {found.release} in namespace {found.namespace}")
    columns(
        console,
        ("revision", "status", "chart", "description"),
        [(str(one.number), one.status, one.chart, one.description) for one in found.history],
    )
    console.print()
    columns(
        console,
        ("pod", "phase", "ready", "restarts", "image", "digest"),
        [
            (
                pod.name,
                pod.phase,
                "yes" if pod.ready else "no",
                str(pod.restarts),
                pod.image.rpartition("/")[2],
                pod.digest.short if pod.digest else "",
            )
            for pod in found.pods
        ],
    )


def rollback(found: Rollback, stream: IO[str]) -> None:
    """What a rollback would do."""
    console = console_for(stream)
    console.print(f"{found.target}: a rollback would go", markup=False)
    for line in found.lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print("nothing was changed (--dry-run)")


def plan(found: Preview, stream: IO[str]) -> None:
    """What an upgrade would change, by object: what is refused first, then what is allowed."""
    console = console_for(stream)

    def line(text: str, style: str = "") -> None:
        console.print(Text(plain(text), style=style))

    change = found.plan
    line(f"revision {change.from_revision} -> {change.to_revision}")
    line(f"- {change.before.repository}:{change.before.tag}", "red")
    line(f"+ {change.after.repository}:{change.after.tag}", "green")
    if change.chart:
        line(f"chart {texts.measured(change.chart)}", "yellow")
    for differences, marked in ((change.refused, "! "), (change.allowed, "  ")):
        for name in dict.fromkeys(_object(d) for d in differences):
            line(f"\n{marked}{name}", "bold" if marked == "  " else "bold yellow")
            for difference in (d for d in differences if _object(d) == name):
                reason = texts.DIFFERENCE_REASONS[difference.reason]
                line(f"    {difference.path or 'the whole object'}  ({reason})", "dim")
                line(f"    - {difference.before}", "red")
                line(f"    + {difference.after}", "green")
    if found.checks:
        line(f"\nchecks: {views.tally(found.checks)}")
    for check in views.listed(found.checks):
        line(_marked(check, console.options.ascii_only))
    fields, refused = len(change.differences), len(change.refused)
    if not fields:
        line("\nnothing would change", "bold")
        return
    cause = "the image's tag or the chart" if change.chart else "the image's tag"
    verdict = f"{refused} refused (!)" if refused else f"all from {cause}"
    of = len({_object(d) for d in change.differences})
    objects = "1 object" if of == 1 else f"{of} objects"
    changes = "1 change" if fields == 1 else f"{fields} changes"
    line(f"\n{changes} in {objects}: {verdict}", "bold")


def _object(difference: Difference) -> str:
    return f"{difference.object} (hook)" if difference.hook else difference.object


def doctor(states: Sequence[ToolState], stream: IO[str]) -> None:
    """Every tool: what is wanted, what is there, what its download has to be, and what to do."""

    def checksum(tool: ToolState) -> str:
        if tool.checksum:
            return tool.checksum.short
        return "checked by apt" if tool.by_apt else "no checksum pinned"

    columns(
        console_for(stream),
        ("tool", "pinned", "found", "origin", "state", "checksum", "remedy"),
        [(t.name, t.pinned, t.found, t.origin, t.state, checksum(t), t.remedy) for t in states],
        styles=["" if tool.state == "ready" else "yellow" for tool in states],
    )


def self_test(found: SelfTest, stream: IO[str]) -> None:
    """What the failed checks printed last, the failure matrix, and the counts as the last line."""
    console = console_for(stream)
    for name, output in found.outputs:
        console.print(f"{name}:", style="bold")
        console.print(plain(output))
    if found.matrix:
        console.print(found.matrix)
    console.print(texts.tally(Tally.of(case.outcome for case in found.cases)))


def columns(
    console: Console,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[str] = (),
) -> None:
    """A table of which nothing is cut: on a terminal that is too narrow for it, the last columns
    stand below their row, named. ``styles`` has one for each row, or is empty."""
    widths = [
        max(cell_len(plain(cell)) for cell in column) for column in zip(head, *rows, strict=True)
    ]
    beside = len(head)
    if console.is_terminal:
        while beside > 1 and sum(widths[:beside]) + GAP * (beside - 1) > console.width:
            beside -= 1

    def line(cells: Sequence[str]) -> str:
        padded = (
            plain(cell) + " " * (width - cell_len(plain(cell)))
            for cell, width in zip(cells[:beside], widths, strict=False)
        )
        return (" " * GAP).join(padded).rstrip()

    console.print(line(head), style="bold")
    for number, row in enumerate(rows):
        style = styles[number] if styles else ""
        console.print(line(row), style=style)
        rest = zip(head[beside:], row[beside:], strict=True)
        below = [f"{name}: {plain(cell)}" for name, cell in rest if cell]
        for text in _packed(below, console.width - 2 * GAP):
            part = Text(text, style=style, overflow="fold")
            console.print(Padding(part, (0, 0, 0, 2 * GAP)), soft_wrap=False)


def _packed(parts: Sequence[str], width: int) -> Iterator[str]:
    """As many on a line as there is room for; one that needs more has its own."""
    line = ""
    for part in parts:
        longer = f"{line}{' ' * GAP}{part}" if line else part
        if line and cell_len(longer) > width:
            yield line
            longer = part
        line = longer
    if line:
        yield line
