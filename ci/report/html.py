"""A run as one HTML file that shows why a promotion happened, or why it did not.

:func:`render` is pure: the same record and clock give the same text. The file needs nothing but
itself: no script, no font, no address is asked for anything (its content security policy says
so, too). Links lead to files beside it in the run's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ci.errors import PipelineError, of_exit_code
from ci.model import Case, Check, Outcome, RollbackOutcome, Served
from ci.report.record import TARGETS, Change, Record, Step, Suite, TargetOutcome, read
from ci.report.terminal import wall
from ci.run_folder import RunFolder

NAME = "report.html"
TOOLS = "tools"
"""The step that obtains them: seconds, or on a new machine most of the run."""
SHORT = 1.0
"""Seconds; the parts of a step that passed and was shorter are not worth a line."""
NOTES_SHOWN = 150
"""Of one step; the rest stands in ``events.jsonl``."""
CHANGES_OPEN = 8
"""So many changes of a plan are shown at once; more are folded."""
_QUEUES = re.compile(r"::.*(lock|deliver|queue|dead_letter|renew|time_?out)")


class Tone(StrEnum):
    GOOD = "good"
    WARN = "warn"
    """Not promoted, and nothing is wrong on the target."""
    BAD = "bad"
    ALARM = "alarm"
    """A person has to look at the target now."""


@dataclass(frozen=True, slots=True)
class Verdict:
    tone: Tone
    word: str
    sentence: str
    remedy: str = ""
    """What to do, where the run itself cannot say it."""


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


def write(folder: RunFolder, now: datetime) -> Path:
    """Render the run in ``folder`` into its ``report.html``, whole or not at all."""
    return folder.rendered(NAME, render(read(folder.path), now))


def render(record: Record, now: datetime) -> str:
    """The report's text. ``now`` is when it is made."""
    before, after = sides(record)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            run=record.run,
            now=now,
            verdict=verdict(record),
            target=target(record),
            meaning="" if record.run.command == "test" else meaning(record.run.exit_code),
            before=before,
            after=after,
            axes=axes(record),
            counts={o.value: sum(c.outcome is o for c in record.cases) for o in Outcome},
            suites=[(suite, ordered(suite.cases)) for suite in record.suites],
            slowest=max((case.seconds for case in record.cases), default=0.0) or 1.0,
            queues=[(suite.label, about) for suite in record.suites if (about := of_queues(suite))],
            durations=[(s.label, d) for s in record.suites for d in s.durations],
            checks=checks(record),
            gates=[step for step in record.steps if step.parent == "promote"],
            refused=[c for c in record.plan.changes if not c.allowed] if record.plan else [],
            allowed=[c for c in record.plan.changes if c.allowed] if record.plan else [],
            changes_open=CHANGES_OPEN,
            whole=whole,
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
        wall=wall, prose=prose, size=size, title=title, file=file_of, href=quote, plural=plural
    )
    return environment


# -- what is said on top ---------------------------------------------------------------------------


def verdict(record: Record) -> Verdict:
    """How the run ended, in one sentence that a release can be decided by. Pure."""
    run, name = record.run, target(record)
    if several := [table for table in record.tables if table.title == TARGETS]:
        ended = [row[-1] for row in several[0].rows]
        say = (
            f"{ended.count(True)} of {len(ended)} targets serve the image; each has its own report."
        )
        if all(ended):
            moved = any(row[1] == TargetOutcome.PROMOTED for row in several[0].rows)
            return Verdict(Tone.GOOD, "Promoted" if moved else "Already served", say)
        return Verdict(Tone.BAD, "Not everywhere", say)
    before, after = sides(record)
    upgraded = record.step("upgrade") is not None
    promoted = upgraded and (done := record.step("promote")) is not None and _passed(done)
    back = (undone := record.step("verify the rollback")) is not None and _passed(undone)
    old, new = _tag(before) or "the previous image", _tag(after) or "the new image"
    promotes = run.command in ("run", "promote")
    untouched = f"; {name} was not touched" if promotes else ""
    if not record.finished:
        if upgraded and not promoted and not back:
            return Verdict(
                Tone.ALARM,
                "Unfinished",
                f"The record ends while {name} was being upgraded from {old} to {new}: look at it"
                " now.",
                "see what it serves with `python3 pipeline.py status`, and return it to what it"
                " was with `python3 pipeline.py rollback`, both with the run's `--target`, or with"
                " the script below",
            )
        if promoted:
            say = f"{name} was promoted to {new}, and the record ends before the run did"
        elif upgraded:
            say = f"{name} was rolled back to {old}, and the record ends before the run did"
        else:
            say = f"The run was killed or still goes on{untouched}"
        return Verdict(Tone.WARN, "Unfinished", f"{say}.")
    if run.outcome is Outcome.PASSED:
        return Verdict(Tone.GOOD, *_success(record, name, before, after))
    broken = [s.name for s in _broken(record)]
    failed = broken[0] if broken else ""
    part = next((s.name for s in record.steps if s.failed and failed and s.parent == failed), "")
    failed += f": {part}" if part else ""
    match run.exit_code:
        case 1 if run.command == "test" and broken:
            return Verdict(Tone.BAD, "Failed", f"Not every check passed: {', '.join(broken)}.")
        case 20 if not promotes:
            return Verdict(Tone.BAD, "Not proven", "The end-to-end tests did not pass.")
        case 20:
            return Verdict(
                Tone.BAD,
                "Not promoted",
                f"Nothing was promoted, because the end-to-end tests did not pass{untouched}.",
            )
        case 31 if not upgraded:
            return Verdict(
                Tone.WARN, "Refused", f"Refused before any change{untouched or f' to {name}'}."
            )
        case 32 if "nothing was changed" in run.error:
            return Verdict(
                Tone.WARN,
                "Not promoted",
                f"The upgrade failed before it began: {name} is as it was.",
            )
        case 32:
            again = f" (revision {before.revision})" if before.revision else ""
            return Verdict(
                Tone.WARN,
                "Rolled back",
                f"The promotion to {new} failed and was rolled back: {name} serves {old}{again}"
                " again, verified.",
            )
        case 33 if run.command == "rollback":
            return Verdict(
                Tone.ALARM,
                "Act now",
                f"The rollback failed: nobody has verified what {name} serves.",
            )
        case 33:
            return Verdict(
                Tone.ALARM,
                "Act now",
                f"The promotion failed and so did its rollback: nobody has verified what {name}"
                " serves.",
            )
        case 34 if promoted:
            return Verdict(
                Tone.BAD,
                "Promoted, not verified",
                f"{name} was promoted to {new}, and its live state does not meet the criteria.",
            )
        case 34:
            return Verdict(
                Tone.BAD, "Not verified", f"The live state of {name} does not meet the criteria."
            )
        case _:
            word = "Interrupted" if run.exit_code == 130 else "Failed"
            where = "The run was interrupted" if run.exit_code == 130 else "The run failed"
            where += f" in the step “{failed}”" if failed else ", before it had begun its work"
            if promoted:
                return Verdict(Tone.BAD, word, f"{where}, after {name} was promoted to {new}.")
            if upgraded and back:
                return Verdict(
                    Tone.WARN, word, f"{where}: {name} was rolled back and serves {old} again."
                )
            if upgraded and "nothing was changed" not in run.error:
                return Verdict(Tone.ALARM, word, f"{where} while {name} was being changed.")
            word = "Not promoted" if promotes and word == "Failed" else word
            return Verdict(Tone.BAD, word, f"{where}{untouched}.")


def _broken(record: Record) -> list[Step]:
    """The steps that failed by themselves, in that order. Those beside them were cancelled."""
    failed = [step for step in record.steps if step.failed and not step.parent]
    failed.sort(key=lambda step: step.ended or 0.0)
    own = [step for step in failed if step.problem != "interrupted"]
    return own or failed


def _success(record: Record, name: str, before: Side, after: Side) -> tuple[str, str]:
    run = record.run
    if run.promotion is not None and not run.promotion.changed:
        return (
            "Already served",
            f"{name} serves {after.tag} (revision {after.revision}) already, the digest that was"
            " proven: it was verified, and nothing was changed.",
        )
    if run.promotion is not None:
        return (
            "Promoted",
            f"{name} was promoted from {before.tag} (revision {before.revision}) to {after.tag}"
            f" (revision {after.revision}), the digest that was proven.",
        )
    image = run.image or record.published
    tag = image.tag if image else "The image"
    match run.command:
        case "build":
            return "Built", f"{tag} was built and published; nothing was promoted."
        case "prove":
            return "Proven", f"{tag} passed the end-to-end tests; nothing was promoted."
        case "verify":
            return "Verified", "The target's live state meets every criterion."
        case "rollback" if run.rollback is not None:
            back, what = run.rollback, f"{after.tag} (revision {after.revision})"
            if back.outcome is RollbackOutcome.ALREADY_THERE:
                return (
                    "Already there",
                    f"{name} serves {what} already: it was verified, and nothing was changed.",
                )
            return (
                "Rolled back",
                f"{name} was returned from {before.tag} (revision {before.revision}) to {what}, as"
                f" revision {back.after.revision} had it; verified.",
            )
        case "test":
            return "Passed", "Every check passed."
        case _:
            return "Passed", f"The command “{run.command}” did what it was asked to."


def target(record: Record) -> str:
    """What the release is called here."""
    if record.run.promotion is not None:
        return record.run.promotion.target
    if record.run.rollback is not None:
        return record.run.rollback.target
    if record.backups is not None and record.backups.release:
        return record.backups.release
    return "the target"


def sides(record: Record) -> tuple[Side, Side]:
    """The release before and after, as far as the run's files say it. Pure."""
    moved, back = record.run.promotion, record.run.rollback
    if back is not None:
        here = _side(back.after, back.revision)
        if back.outcome is RollbackOutcome.ALREADY_THERE:
            return Side("", "", ""), here
        return _side(back.before, back.before.revision), here
    if moved is not None and not moved.changed:
        image = moved.after
        return (
            Side("", "", ""),
            Side(image.tag, image.digest, str(moved.to_revision), image.repository),
        )
    if moved is not None:
        return (
            Side(
                moved.before.tag,
                moved.before.digest,
                str(moved.from_revision),
                moved.before.repository,
            ),
            Side(
                moved.after.tag, moved.after.digest, str(moved.to_revision), moved.after.repository
            ),
        )
    plan, saved, built = record.plan, record.backups, record.run.image or record.published
    old_repository, _, old = (plan.before if plan else (saved.image if saved else "")).rpartition(
        ":"
    )
    new_repository, _, new = (plan.after if plan else "").rpartition(":")
    same = built is not None and new in ("", built.tag)
    return (
        Side(
            old,
            saved.digest if saved else "",
            # The plan names the revision that rendered what is live, which a rollback repeats.
            (saved.revision if saved else "") or (plan.from_revision if plan else ""),
            old_repository,
        ),
        Side(
            new or (built.tag if built else ""),
            built.digest if built and same else "",
            "",
            new_repository or (built.repository if built else ""),
        ),
    )


def _side(served: Served, revision: int) -> Side:
    image = served.image
    return Side(image.tag, image.digest, str(revision), image.repository)


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
    tools = next((step for step in record.steps if step.name == TOOLS and step.ended), None)
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


def _tag(side: Side) -> str:
    """A tag for a sentence; one that is a commit, as short as Git says it."""
    return side.tag[:12] if re.fullmatch("[0-9a-f]{40}", side.tag) else side.tag


def _parent(steps: Iterable[Step], step: Step) -> int:
    """The identity of the step this one is part of; 0 for none that is known."""
    found = [
        other
        for other in steps
        if other.name == step.parent and other is not step and other.begun <= step.begun
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
    rank = {Outcome.FAILED: 0, Outcome.PASSED: 1, Outcome.SKIPPED: 2}
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
        if _QUEUES.search(case.name) and case.outcome is Outcome.FAILED:
            found.setdefault(case.name, case)
    for case in suite.cases:
        if _QUEUES.search(case.name):
            found.setdefault(case.name, case)
    return sorted(found.values(), key=lambda c: (c.outcome is not Outcome.FAILED, c.name))


def checks(record: Record) -> list[tuple[str, tuple[Check, ...]]]:
    """The checks by when they were made; of a failed verification, from its notes."""
    run = record.run
    after = run.checks
    if not after and (step := record.step("verify")) is not None:
        found = (re.match(r"(ok|FAILED): ([^:]+): (.*)", n.text, re.S) for n in step.notes)
        after = tuple(Check(m[2], m[1] == "ok", m[3]) for m in found if m)
    changed = run.promotion is not None and run.promotion.changed
    groups = [
        (
            "Before and during the change" if changed else "What was served already",
            run.promotion.checks if run.promotion else (),
        ),
        ("Until it failed", run.attempted),
        ("On the live state", after),
    ]
    return [(name, group) for name, group in groups if group]


def whole(change: Change) -> str:
    return f"{change.object} {change.path}".strip()


def _passed(step: Step) -> bool:
    return step.ended is not None and not step.failed


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
