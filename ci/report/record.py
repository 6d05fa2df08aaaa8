"""A run's folder, read into one frozen value that everything shown of it is made from.

A run may have been killed at any moment: a file is missing, or its last line is cut off. What is
there is read, what cannot be read is named, and nothing here raises because of it. Texts pass
through the redaction once more; the programs' own logs are listed, never read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from ci import redaction, texts
from ci.model import (
    BackupsRecord,
    Case,
    ChecksRecord,
    Image,
    PlanRecord,
    ProbeSeries,
    ProbesRecord,
    RunRecord,
)
from ci.report import files, junit
from ci.results import CheckGroup, Outcome, Phase, StepId
from ci.run import changes
from ci.run.events import CHANGE, CHECK

QUEUE_TOPIC = ("topic", "queue-timeouts")
LONGEST_TEXT = 4000
"""Characters kept of one text: a test's message can be a whole traceback."""
BEGIN = "run.json"
"""What a run is, written at its beginning: its command and its targets."""


@dataclass(frozen=True, slots=True)
class Note:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the run's time line. ``ended`` is ``None`` when nothing says how it ended."""

    id: str
    """A :class:`ci.results.StepId`, or one of another version."""
    reason: str
    parent: str
    """Id of the step it is part of, if any."""
    begun: float
    """Seconds since the run began, as ``ended``."""
    ended: float | None = None
    failed: bool = False
    problem: str = ""
    notes: tuple[Note, ...] = ()
    subject: str = ""
    cancelled: bool = False
    """Whether it failed only because the run was ended."""

    @property
    def title(self) -> str:
        return texts.step_title(self.id, self.subject)


@dataclass(frozen=True, slots=True)
class Suite:
    """One JUnit file: the cases of one time that the tests ran."""

    label: str
    """``gate``, or what the run called it, for example ``target``."""
    cases: tuple[Case, ...]
    durations: tuple[LockDuration, ...] = ()
    about_queues: frozenset[str] = frozenset()
    """Names of the cases that show something about a queue's time-outs: those with the JUnit
    property ``topic`` of the value ``queue-timeouts``."""


@dataclass(frozen=True, slots=True)
class LockDuration:
    """What a case asked for and what the broker had: the JUnit properties
    ``lock_duration_asked`` and ``lock_duration_seen`` of one case, in pairs."""

    case: str
    asked: str
    seen: str


@dataclass(frozen=True, slots=True)
class File:
    """A file of the run, relative to its folder."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a test left in ``reports/``, or a stage in ``tables/NAME.json``: title, note,
    columns, rows. A cell that is true or false is shown by its sign. No verdict is made of it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | bool, ...], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a run."""

    run: RunRecord
    finished: bool
    """False when the run left no summary: it was killed, or goes on."""
    started: datetime | None
    ended: float
    """Seconds from the beginning to the last thing that was recorded."""
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()
    """Those of no step."""
    suites: tuple[Suite, ...] = ()
    plan: PlanRecord | None = None
    backups: BackupsRecord | None = None
    backup_files: tuple[File, ...] = ()
    probes: tuple[ProbeSeries, ...] = ()
    tables: tuple[Table, ...] = ()
    evidence: tuple[File, ...] = ()
    reports: tuple[File, ...] = ()
    logs: tuple[File, ...] = ()
    watched: tuple[tuple[str, str], ...] = ()
    """What was watched during the change: a terminal's name and its lines."""
    unreadable: tuple[str, ...] = ()
    """What was there and could not be read, in words."""

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(case for suite in self.suites for case in suite.cases)

    def step(self, id: StepId) -> Step | None:
        """The last step of this id."""
        return next((step for step in reversed(self.steps) if step.id == id), None)


def read(folder: Path) -> Record:
    """Read the run in ``folder``. Raises :class:`NotADirectoryError` when there is no folder."""
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no run folder {folder}")
    unreadable: list[str] = []
    events = _events(folder / "events.jsonl", unreadable)
    steps, notes = _steps(events)
    ended = max((_number(e.get("at")) for e in events), default=0.0)
    started = _started(events)
    summary = files.read(
        folder, RunRecord, unreadable, clean=_clean, missing=_missing(folder, started)
    )
    if summary is None:
        run = _unfinished(folder, steps, events, started, ended, unreadable)
    else:
        run = replace(summary, folder=folder)
    plan = files.read(folder, PlanRecord, unreadable, clean=_clean)
    backups = files.read(folder, BackupsRecord, unreadable, clean=_clean)
    probes = files.read(folder, ProbesRecord, unreadable, clean=_clean)
    suites = _suites(folder, unreadable) or ((Suite("gate", run.cases),) if run.cases else ())
    return Record(
        run=run,
        finished=summary is not None,
        started=started or (run.started if summary is not None else None),
        ended=max(ended, run.seconds),
        steps=steps,
        notes=notes,
        suites=suites,
        plan=plan,
        backups=backups,
        backup_files=_files(folder, "backups"),
        probes=probes.series if probes else (),
        tables=_tables(folder, unreadable),
        evidence=_files(folder, "evidence"),
        reports=_files(folder, "reports"),
        logs=(*_files(folder, "watch"), *_files(folder, "logs")),
        watched=_watched(folder, unreadable),
        unreadable=tuple(unreadable),
    )


# -- events -> steps -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    id: str
    subject: str
    reason: str
    parent: str
    begun: float
    ended: float | None = None
    failed: bool = False
    problem: str = ""
    cancelled: bool = False
    notes: list[Note] = field(default_factory=list)

    def closed(self) -> Step:
        return Step(
            id=self.id,
            reason=self.reason,
            parent=self.parent,
            begun=self.begun,
            ended=self.ended,
            failed=self.failed,
            problem=self.problem,
            notes=tuple(self.notes),
            subject=self.subject,
            cancelled=self.cancelled,
        )


def _events(path: Path, unreadable: list[str]) -> list[dict[str, Any]]:
    found, bad = [], 0
    for line in files.text(path, unreadable).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            bad += 1
            continue
        if isinstance(event, dict):
            found.append(event)
        else:
            bad += 1
    if bad:
        unreadable.append(f"{bad} {'line' if bad == 1 else 'lines'} of {path.name}")
    return found


def _steps(events: Iterable[Mapping[str, Any]]) -> tuple[tuple[Step, ...], tuple[Note, ...]]:
    steps: list[_Open] = []
    loose: list[Note] = []
    for event in events:
        kind, id = str(event.get("kind", "")), str(event.get("step", ""))
        subject = _clean(str(event.get("subject") or ""))
        at, text = _number(event.get("at")), _clean(str(event.get("text", "")))
        here = next(
            (s for s in reversed(steps) if (s.id, s.subject) == (id, subject) and s.ended is None),
            None,
        )
        parent = str(event.get("parent") or "")
        match kind:
            case "step.started":
                steps.append(_Open(id, subject, text, parent, at))
            case "step.finished" | "step.failed":
                if here is None:  # its beginning was not recorded: its seconds say when
                    begun = at - _number(event.get("seconds"))
                    here = _Open(id, subject, "", parent, max(0.0, begun))
                    steps.append(here)
                here.ended, here.failed = at, kind == "step.failed"
                here.problem = text if here.failed else ""
                here.cancelled = event.get("cancelled") is True
            case "watch":  # its files have it
                continue
            case _ if text:
                (loose if here is None else here.notes).append(Note(at, text))
    return tuple(s.closed() for s in steps), tuple(loose)


def _started(events: Iterable[Mapping[str, Any]]) -> datetime | None:
    for event in events:
        try:
            when = datetime.fromisoformat(str(event.get("time")))
        except ValueError:
            continue
        return when - timedelta(seconds=_number(event.get("at")))
    return None


# -- a run without a summary -----------------------------------------------------------------------


def _missing(folder: Path, started: datetime | None) -> dict[str, Any]:
    """What stands for a property that a summary does not have."""
    return {
        "id": folder.name,
        "command": "",
        "outcome": Outcome.FAILED.value,
        "exit_code": -1,
        "started": (started or datetime.fromtimestamp(0, UTC)).isoformat(),
        "seconds": 0.0,
        "steps": [],
        "folder": str(folder),
    }


def _unfinished(
    folder: Path,
    steps: tuple[Step, ...],
    events: list[dict[str, Any]],
    started: datetime | None,
    seconds: float,
    unreadable: list[str],
) -> RunRecord:
    """What a run that left no summary says by its other files."""
    failed = [step for step in steps if step.failed and step.problem]
    checks = files.read(folder, ChecksRecord, unreadable, clean=_clean)
    begin = files.load(folder / BEGIN, unreadable)
    return RunRecord(
        id=folder.name,
        command=str(begin.get("command") or "") if isinstance(begin, dict) else "",
        outcome=Outcome.FAILED,
        exit_code=-1,
        started=started or datetime.fromtimestamp(0, UTC),
        seconds=seconds,
        steps=(),
        folder=folder,
        image=_published(events),
        groups=checks.groups if checks else _groups(events, unreadable),
        change=changes.latest(
            files.cleaned(event, _clean) for event in events if event.get("kind") == CHANGE
        ),
        error=failed[0].problem if failed else "",
    )


def _groups(events: Iterable[Mapping[str, Any]], unreadable: list[str]) -> tuple[CheckGroup, ...]:
    """The checks that the run recorded when they were made."""
    by_phase: dict[str, list[Any]] = {}
    for event in events:
        if event.get("kind") == CHECK:
            by_phase.setdefault(str(event.get("phase")), []).append(event.get("check"))
    order = [phase.value for phase in Phase]
    groups = [
        {"phase": phase, "checks": checks}
        for phase, checks in sorted(
            by_phase.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99
        )
    ]
    found, dropped = files.tolerant(ChecksRecord, files.cleaned({"groups": groups}, _clean))
    if dropped:
        unreadable.append("checks of events.jsonl that are of another version")
    return found.groups if found else ()


def _published(events: Iterable[Mapping[str, Any]]) -> Image | None:
    """The image that this run built."""
    for event in events:
        if event.get("step") == StepId.BUILD and isinstance(image := event.get("image"), dict):
            found, dropped = files.tolerant(Image, image)
            if not dropped:
                return found
    return None


# -- the other files -------------------------------------------------------------------------------


def _suites(folder: Path, unreadable: list[str]) -> tuple[Suite, ...]:
    suites = []
    for path in sorted(folder.glob("junit*.xml"), key=lambda p: (p.stem != "junit", p.name)):
        label = path.stem.removeprefix("junit").lstrip("-") or "gate"
        try:
            cases = tuple(
                Case(case.name, case.outcome, case.seconds, _clean(case.message))
                for case in junit.read(path)
            )
            suites.append(Suite(label, cases, _durations(path), _about_queues(path)))
        except (junit.Unreadable, ParseError, DefusedXmlException, OSError) as problem:
            unreadable.append(_clean(str(problem)))
    return tuple(suites)


def _durations(path: Path) -> tuple[LockDuration, ...]:
    found: list[LockDuration] = []
    for case in parse(path).iter("testcase"):
        values: dict[str, list[str]] = {"lock_duration_asked": [], "lock_duration_seen": []}
        for entry in case.iter("property"):
            if (name := entry.get("name", "")) in values:
                values[name].append(str(entry.get("value", "")))
        asked, seen = values.values()
        name = f"{case.get('classname', '')}::{case.get('name', '?')}"
        found += [LockDuration(name, a, s) for a, s in zip(asked, seen, strict=False)]
    return tuple(found)


def _about_queues(path: Path) -> frozenset[str]:
    return frozenset(
        f"{case.get('classname', '')}::{case.get('name', '?')}"
        for case in parse(path).iter("testcase")
        for entry in case.iter("property")
        if (entry.get("name"), entry.get("value")) == QUEUE_TOPIC
    )


def _tables(folder: Path, unreadable: list[str]) -> tuple[Table, ...]:
    found = []
    for path in (*sorted(folder.glob("tables/*.json")), *sorted(folder.glob("reports/*.json"))):
        raw = files.load(path, unreadable)
        rows = raw.get("rows") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(rows, list):
            continue
        found.append(
            Table(
                _clean(str(raw.get("title") or path.stem)),
                _clean(str(raw.get("note") or "")),
                tuple(str(column) for column in raw.get("columns") or ()),
                tuple(
                    tuple(cell if isinstance(cell, bool) else _clean(str(cell)) for cell in row)
                    for row in rows
                    if isinstance(row, list)
                ),
            )
        )
    return tuple(found)


WATCHED = ("rollout", "pods", "events")
"""What of ``watch/`` is shown; the service's own log lines are listed, as all logs are."""


def _watched(folder: Path, unreadable: list[str]) -> tuple[tuple[str, str], ...]:
    texts = ((name, files.text(folder / "watch" / f"{name}.txt", unreadable)) for name in WATCHED)
    return tuple((name, _clean(text).rstrip()) for name, text in texts if text)


def _files(folder: Path, name: str) -> tuple[File, ...]:
    found = []
    for path in sorted((folder / name).rglob("*")):
        if path.is_file() and not path.is_symlink():
            found.append(File(path.relative_to(folder).as_posix(), path.stat().st_size))
    return tuple(found)


# -- half-written things ---------------------------------------------------------------------------


def _clean(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT} characters more)"
    # What XML and HTML cannot hold, such as a terminal's colours, goes.
    return redaction.text(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text))


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    return number if math.isfinite(number) else 0.0
