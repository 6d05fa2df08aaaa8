"""A run as one HTML file that shows why a promotion happened, or why it did not.

:func:`render` is pure: the same record and clock give the same text. The file needs nothing but
itself: no script, no font, no address is asked for anything (its content security policy says
so, too). Links lead to files beside it in the run's folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ci import texts
from ci.errors import PipelineError, of_exit_code
from ci.model import Case, ProbeBucket, ProbeSeries, RunRecord
from ci.report import signs, verdict, views, wording
from ci.report.record import Record, Step, Suite, read
from ci.report.signs import Sign
from ci.report.terminal import wall
from ci.results import (
    ChangeState,
    ImageRef,
    Outcome,
    StepId,
    Tally,
    VerdictId,
)
from ci.run_folder import RunFolder

NAME = "report.html"
SHORT = 1.0
"""Seconds; the parts of a step that passed and was shorter are not worth a line."""
NOTES_SHOWN = 150
"""Of one step; the rest stands in ``events.jsonl``."""
CHANGES_OPEN = 8
"""So many changes of a plan are shown at once; more are folded."""
BARS = 240
"""So many bars a chart of requests has at most; a longer time has wider ones."""
FULL = 80
"""Percent of a chart's height that the tallest bar has: above it one sees which step it was in."""


@dataclass(frozen=True, slots=True)
class Side:
    """The release before or after: empty strings where nothing says it."""

    tag: str
    digest: str
    revision: str
    repository: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a time line. ``left`` and ``width`` are percentages of its axis."""

    step: Step
    depth: int
    left: float
    width: float
    seconds: float
    state: str
    """``passed``, ``failed`` or ``open``."""


@dataclass(frozen=True, slots=True)
class Tick:
    left: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A time line: what it is of, where there are two of them, its marks and its lines."""

    title: str
    ticks: list[Tick]
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Column:
    """One bar of a chart: percentages of its width and height."""

    left: float
    width: float
    answered: float
    failed: float
    slowest: float
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A step's time on a chart, in percentages."""

    left: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The requests of one prober over time."""

    columns: list[Column]
    ticks: list[Tick]
    spans: list[Span]
    most: float
    """Requests per second at the top of it."""
    slowest: float
    """Seconds at the top of it."""


def write(folder: RunFolder, now: datetime) -> Path:
    """Render the run in ``folder`` into its ``report.html``, whole or not at all."""
    return folder.rendered(NAME, render(read(folder.path), now))


def render(record: Record, now: datetime) -> str:
    """The report's text. ``now`` is when it is made."""
    run = record.run
    before, after = sides(record)
    found = wording.of(run, record.steps, finished=record.finished)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            run=run,
            now=now,
            verdict=found,
            target=wording.target(run),
            meaning="" if run.command == verdict.TEST else meaning(run.exit_code),
            cause=texts.CAUSES[run.change.cause] if run.change and run.change.cause else "",
            before=before,
            after=after,
            moved=moved(run, found.id, before),
            axes=axes(record),
            tally=views.tally(run.checks),
            case_counts=Tally.of(case.outcome for case in record.cases),
            case_tally=texts.tally(Tally.of(case.outcome for case in record.cases)),
            suites=[(suite, ordered(suite.cases)) for suite in record.suites],
            slowest=max((case.seconds for case in record.cases), default=0.0) or 1.0,
            queues=[(suite.label, about) for suite in record.suites if (about := of_queues(suite))],
            durations=[(s.label, d) for s in record.suites for d in s.durations],
            checklist=views.checklist(run),
            groups=[
                (texts.PHASES[group.phase], views.listed(group.checks)) for group in run.groups
            ],
            phase_steps=[step for step in record.steps if step.parent == StepId.PROMOTE],
            probed=bool(record.probes) or record.step(StepId.START_PROBERS) is not None,
            charts=[(series, chart(series, record)) for series in record.probes],
            changes_open=CHANGES_OPEN,
            noted=[step for step in record.steps if step.notes or step.failed],
            notes_shown=NOTES_SHOWN,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        wall=wall,
        prose=prose,
        size=size,
        title=title,
        file=file_of,
        href=quote,
        plural=plural,
        seconds=texts.seconds,
        measured=texts.measured,
    )
    environment.globals.update(
        signs={sign.value: signs.symbol(sign) for sign in Sign},
        words={outcome.value: word for outcome, word in texts.OUTCOMES.items()},
        places=texts.PROBE_PLACES,
        reasons=texts.DIFFERENCE_REASONS,
    )
    return environment


# -- what is said on top ---------------------------------------------------------------------------


def sides(record: Record) -> tuple[Side, Side]:
    """The release before and after the change, as far as the run's files say it. Pure."""
    change, plan, saved = record.run.change, record.plan, record.backups
    image = record.run.image
    built = ImageRef(image.repository, image.tag, image.digest) if image else None
    old = _side(
        [
            change.before if change else None,
            plan.before if plan else None,
            saved.image if saved else None,
        ]
    )
    new = _side([change.after if change else None, plan.after if plan else None, built])
    from_revision = [
        change.from_revision if change else None,
        saved.revision if saved else None,
        plan.from_revision if plan else None,
    ]
    if change is not None and change.state is ChangeState.ALREADY_SERVED:
        old = Side("", "", "")  # nothing was changed: there is no before
    return (
        replace(old, revision=_first(from_revision) if old.tag else ""),
        replace(new, revision=_first([change.to_revision if change else None])),
    )


def _side(known: Iterable[ImageRef | None]) -> Side:
    """The first image that is known; its digest from whoever has it for the same tag."""
    images = [image for image in known if image is not None and image.tag]
    if not images:
        return Side("", "", "")
    first = images[0]
    same = [image.digest for image in images if image.tag == first.tag and image.digest]
    return Side(first.tag, same[0] if same else "", "", first.repository)


def _first(revisions: Iterable[int | None]) -> str:
    return next((str(revision) for revision in revisions if revision is not None), "")


@dataclass(frozen=True, slots=True)
class Moved:
    """How the two sides are labelled, and which of them is served at the end."""

    before: str
    after: str
    before_live: bool
    after_live: bool


def moved(run: RunRecord, id: VerdictId, before: Side) -> Moved:
    """By where the target stands. Pure."""
    state = run.change.state if run.change else ChangeState.NONE
    live = state in (ChangeState.PROMOTED, ChangeState.ALREADY_SERVED) or id in (
        VerdictId.RETURNED,
        VerdictId.ALREADY_RETURNED,
    )
    if live:
        return Moved("From", "Served" if not before.tag else "To", False, True)
    back = state in (ChangeState.ROLLED_BACK, ChangeState.UNTOUCHED)
    return Moved(
        "Served before",
        "Should have become" if before.tag else "The image of this run",
        back,
        False,
    )


def meaning(exit_code: int) -> str:
    """What an exit code stands for, as the errors themselves say it."""
    if exit_code == 0:
        return "done"
    kind = of_exit_code(exit_code)
    if kind is not PipelineError:
        return " ".join((kind.__doc__ or "").split())
    return "a defect of the pipeline itself" if exit_code == 1 else ""


# -- the time line ---------------------------------------------------------------------------------


def axes(record: Record) -> list[Axis]:
    """The time line; two of them where making the tools took most of the time, for nothing of
    the run itself would be seen beside it. Pure."""
    if not record.steps:
        return []
    tools = next((step for step in record.steps if step.id == StepId.TOOLS and step.ended), None)
    split = tools.ended if tools and tools.ended else 0.0
    if split < record.ended / 2 or not any(step.begun >= split for step in record.steps):
        return [Axis("", ticks(record.ended), timeline(record))]
    made = tuple(step for step in record.steps if step.begun < split)
    rest = tuple(step for step in record.steps if step.begun >= split)
    return [
        Axis("Obtaining the tools", ticks(split), timeline(replace(record, steps=made), 0, split)),
        Axis("The run", ticks(record.ended - split), timeline(replace(record, steps=rest), split)),
    ]


def timeline(record: Record, begun: float = 0.0, ended: float | None = None) -> list[Bar]:
    """Every step worth a line: parents before their parts, in the order they began. Pure.

    The axis is from ``begun`` to ``ended`` (the run's end), in seconds since the run began.
    """
    whole_time = (record.ended if ended is None else ended) - begun or 1.0
    children: dict[int, list[Step]] = {}
    for step in record.steps:
        children.setdefault(_parent(record.steps, step), []).append(step)
    bars: list[Bar] = []

    def add(step: Step, depth: int) -> None:
        ended = record.ended if step.ended is None else step.ended
        seconds = max(0.0, ended - step.begun)
        state = "open" if step.ended is None else "failed" if step.failed else "passed"
        left = min(99.6, 100 * (step.begun - begun) / whole_time)
        width = max(0.4, min(100 - left, 100 * seconds / whole_time))
        bars.append(Bar(step, depth, round(left, 3), round(width, 3), seconds, state))
        if state == "passed" and seconds < SHORT:
            return
        for part in sorted(children.get(id(step), ()), key=lambda s: s.begun):
            if depth < 8:
                add(part, depth + 1)

    for step in sorted(children.get(0, ()), key=lambda s: s.begun):
        add(step, 0)
    return bars


def _parent(steps: Iterable[Step], step: Step) -> int:
    """The identity of the step this one is part of; 0 for none that is known."""
    found = [
        other
        for other in steps
        if other.id == step.parent and other is not step and other.begun <= step.begun
    ]
    return id(found[-1]) if found else 0


def ticks(seconds: float) -> list[Tick]:
    """Round marks on the time axis, six or so. Pure."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    by = next((step for step in steps if seconds / step <= 7), seconds / 6)
    found, at = [], 0.0
    while at <= seconds:
        text = f"{at:g} s" if by < 60 else f"{at / 60:g} min"
        found.append(Tick(round(100 * at / (seconds or 1), 3), text if at else "0"))
        at = round(at + by, 6)
    return found


# -- tables ----------------------------------------------------------------------------------------


def ordered(cases: Iterable[Case]) -> list[Case]:
    """Failed ones first, those of one message together and the first to fail on top; then the
    slowest; skipped ones last."""
    given = list(cases)
    first: dict[str, int] = {}
    for number, case in enumerate(given):
        if case.outcome is Outcome.FAILED:
            first.setdefault(case.message, number)
    rank = {Outcome.FAILED: 0, Outcome.UNKNOWN: 1, Outcome.PASSED: 2, Outcome.SKIPPED: 3}
    return sorted(
        given,
        key=lambda case: (
            rank[case.outcome],
            first[case.message] if case.outcome is Outcome.FAILED else 0,
            -case.seconds,
        ),
    )


def of_queues(suite: Suite) -> list[Case]:
    """The cases that show something about a queue's time-outs, the failed ones first; one that
    failed twice (in the test and in its teardown) once."""
    found: dict[str, Case] = {}
    for case in suite.cases:
        if case.name in suite.about_queues and case.outcome is Outcome.FAILED:
            found.setdefault(case.name, case)
    for case in suite.cases:
        if case.name in suite.about_queues:
            found.setdefault(case.name, case)
    return sorted(found.values(), key=lambda c: (c.outcome is not Outcome.FAILED, c.name))


# -- requests over time ----------------------------------------------------------------------------


def chart(series: ProbeSeries, record: Record) -> Chart | None:
    """Requests per second and their slowest answers; ``None`` without a bucket. Pure."""
    buckets, wide = condensed(series.buckets, series.bucket_seconds)
    if not buckets:
        return None
    begun = buckets[0].at_seconds
    whole_time = max(wide, buckets[-1].at_seconds + wide - begun)
    most = max(bucket.answered + bucket.failed for bucket in buckets) / wide or 1.0
    slowest = max(bucket.slowest_seconds for bucket in buckets) or 1.0

    def percent(at: float) -> float:
        return round(min(100.0, max(0.0, 100 * (at - begun) / whole_time)), 3)

    def column(bucket: ProbeBucket) -> Column:
        left = percent(bucket.at_seconds)
        return Column(
            left,
            max(0.1, round(percent(bucket.at_seconds + wide) - left, 3)),
            round(FULL * bucket.answered / wide / most, 2),
            round(FULL * bucket.failed / wide / most, 2),
            round(FULL * bucket.slowest_seconds / slowest, 2),
            f"{bucket.at_seconds - begun:.0f} s: {bucket.answered} answered,"
            f" {bucket.failed} failed, slowest {texts.seconds(bucket.slowest_seconds)}",
        )

    spans = []
    for step in record.steps:
        if step.id in (StepId.UPGRADE, StepId.HELM_ROLLBACK):
            left = percent(step.begun)
            right = percent(record.ended if step.ended is None else step.ended)
            if right > left:
                spans.append(Span(left, round(right - left, 3), step.title))
    columns = [column(bucket) for bucket in buckets]
    return Chart(columns, ticks(whole_time), spans, most, slowest)


def condensed(
    buckets: Sequence[ProbeBucket], wide: float, most: int = BARS
) -> tuple[list[ProbeBucket], float]:
    """At most ``most`` buckets, each as wide as several of those given, and their width. Pure."""
    if not buckets or wide <= 0:
        return [], wide
    begun = min(bucket.at_seconds for bucket in buckets)
    whole_time = max(bucket.at_seconds for bucket in buckets) - begun + wide
    factor = max(1, -int(-whole_time // (wide * most)))
    made: dict[int, ProbeBucket] = {}
    for bucket in buckets:
        number = int((bucket.at_seconds - begun) // (wide * factor))
        one = made.get(number, ProbeBucket(begun + number * wide * factor, 0, 0, 0, 0.0))
        made[number] = ProbeBucket(
            one.at_seconds,
            one.sent + bucket.sent,
            one.answered + bucket.answered,
            one.failed + bucket.failed,
            max(one.slowest_seconds, bucket.slowest_seconds),
        )
    return [made[number] for number in sorted(made)], wide * factor


# -- words -----------------------------------------------------------------------------------------


def prose(text: str) -> Markup:
    """Escaped text whose ```commands``` are set as code."""
    parts = str(escape(text)).split("`")
    if len(parts) % 2 == 0:  # an odd mark stays one
        parts[-2:] = ["`".join(parts[-2:])]
    return Markup("").join(
        Markup(f"<code>{part}</code>" if odd % 2 else part) for odd, part in enumerate(parts)
    )


def title(case: str) -> str:
    """``test_module::test_a_task_runs_once[5]`` as ``a task runs once [5]``."""
    name, bracket, parameters = case.rpartition("::")[2].partition("[")
    words = name.removeprefix("test_").replace("_", " ")
    return f"{words} {bracket}{parameters}".strip()


def file_of(case: str) -> str:
    return case.rpartition("::")[0].replace(".", "/")


def size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
