"""A run's folder, read into one frozen value that everything shown of it is made from.

A run may have been killed at any moment: a file is missing, or its last line is cut off. What is
there is read, what cannot be read is named, and nothing here raises because of it. Texts pass
through the redaction once more; the programs' own logs are listed, never read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from ci import redaction
from ci.digest import Digest
from ci.model import (
    Case,
    Changed,
    Check,
    Image,
    Outcome,
    Promotion,
    Rollback,
    RollbackOutcome,
    RunRecord,
    Served,
    StepRecord,
)
from ci.report import junit

T = TypeVar("T")

TARGETS = "Targets"
"""Title of the table that a promotion of several targets leaves."""


class TargetOutcome(StrEnum):
    """How the promotion to one of several targets ended: the second column of that table."""

    PROMOTED = "promoted"
    ALREADY_SERVED = "already served"
    FAILED = "failed"
    NOT_BEGUN = "not begun"


LONGEST_TEXT = 4000
"""Characters kept of one text: a test's message can be a whole traceback."""
SMALL_FILE = 1_000_000
"""Bytes; larger ones are not what this project writes, and are not read."""


@dataclass(frozen=True, slots=True)
class Note:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the run's time line. ``ended`` is ``None`` when nothing says how it ended."""

    name: str
    reason: str
    parent: str
    begun: float
    """Seconds since the run began, as ``ended``."""
    ended: float | None = None
    failed: bool = False
    problem: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """One JUnit file: the cases of one time that the tests ran."""

    label: str
    """``gate``, or what the run called it, for example ``target``."""
    cases: tuple[Case, ...]
    durations: tuple[LockDuration, ...] = ()


@dataclass(frozen=True, slots=True)
class LockDuration:
    """What a case asked for and what the broker had: the JUnit properties
    ``lock_duration_asked`` and ``lock_duration_seen`` of one case, in pairs."""

    case: str
    asked: str
    seen: str


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the plan."""

    object: str
    path: str
    before: str
    after: str
    reason: str
    allowed: bool


@dataclass(frozen=True, slots=True)
class Plan:
    from_revision: str
    to_revision: str
    before: str
    """Image reference by tag, as ``after``."""
    after: str
    changes: tuple[Change, ...]

    @property
    def refused(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if not change.allowed)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the run, relative to its folder."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Backups:
    files: tuple[File, ...]
    release: str = ""
    namespace: str = ""
    context: str = ""
    revision: str = ""
    image: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Probes:
    """One account of the prober, read from where it was written down."""

    where: str
    sent: int
    answered: int
    failed: int
    under_way: int
    why: str
    longest_gap: float
    """Seconds."""
    median: int
    """Milliseconds, as ``slowest``."""
    slowest: int
    place: str = ""
    """Where the requests came from."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a stage left in ``tables/NAME.json``, or a test in ``reports/``: title, note,
    columns, rows. A cell that is true or false is shown as a tick or a cross."""

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
    plan: Plan | None = None
    backups: Backups | None = None
    cause: str = ""
    """What the promotion's evidence says the cause was."""
    probes: tuple[Probes, ...] = ()
    published: Image | None = None
    """The image this run built."""
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

    def step(self, name: str) -> Step | None:
        """The last step of this name."""
        return next((step for step in reversed(self.steps) if step.name == name), None)


def read(folder: Path) -> Record:
    """Read the run in ``folder``. Raises :class:`NotADirectoryError` when there is no folder."""
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no run folder {folder}")
    unreadable: list[str] = []
    events = _events(folder / "events.jsonl", unreadable)
    steps, notes = _steps(events)
    ended = max((_number(e.get("at")) for e in events), default=0.0)
    raw = _json(folder / "summary.json", unreadable)
    run = _summary(folder, raw) if isinstance(raw, dict) else _pieced(folder, steps, ended)
    suites = _suites(folder, unreadable) or ((Suite("gate", run.cases),) if run.cases else ())
    return Record(
        run=run,
        finished=isinstance(raw, dict),
        started=_started(events),
        ended=max(ended, run.seconds),
        steps=steps,
        notes=notes,
        suites=suites,
        plan=_plan(_text(folder / "plan.txt", unreadable)),
        backups=_backups(folder, unreadable),
        cause=_clean(_text(folder / "evidence" / "cause.txt", unreadable)).strip(),
        probes=_probes(run, steps),
        published=_published(events),
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
    name: str
    reason: str
    parent: str
    begun: float
    ended: float | None = None
    failed: bool = False
    problem: str = ""
    notes: list[Note] = field(default_factory=list)

    def closed(self) -> Step:
        return Step(
            self.name, self.reason, self.parent, self.begun, self.ended, self.failed,
            self.problem, tuple(self.notes),
        )  # fmt: skip


def _events(path: Path, unreadable: list[str]) -> list[dict[str, Any]]:
    found, bad = [], 0
    for line in _text(path, unreadable).splitlines():
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
        kind, name = str(event.get("kind", "")), str(event.get("step", ""))
        at, text = _number(event.get("at")), _clean(str(event.get("text", "")))
        here = next((s for s in reversed(steps) if s.name == name and s.ended is None), None)
        match kind:
            case "step.started":
                steps.append(_Open(name, text, str(event.get("parent") or ""), at))
            case "step.finished" | "step.failed":
                if here is None:  # its beginning was not recorded: its seconds say when
                    begun = at - _number(event.get("seconds"))
                    here = _Open(name, "", str(event.get("parent") or ""), max(0.0, begun))
                    steps.append(here)
                here.ended, here.failed = at, kind == "step.failed"
                here.problem = text if here.failed else ""
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


def _published(events: Iterable[Mapping[str, Any]]) -> Image | None:
    for event in events:
        found = re.search(r"published (\S+)@sha256:", str(event.get("text", "")))
        if found and event.get("step") == "build" and event.get("digest"):
            return Image(found[1], str(event.get("tag", "")), Digest.read(str(event["digest"])))
    return None


# -- the summary -----------------------------------------------------------------------------------


def _summary(folder: Path, raw: Mapping[str, Any]) -> RunRecord:
    """The model's own record again; a part that is not as expected is left out."""
    steps = tuple(
        StepRecord(s["name"], _number(s["seconds"]), Outcome(s["outcome"]), s.get("parent", ""))
        for s in _dicts(raw.get("steps"))
        if _has(s, "name", "seconds", "outcome")
    )
    return RunRecord(
        id=str(raw.get("id") or folder.name),
        command=str(raw.get("command") or "run"),
        outcome=_or(lambda: Outcome(str(raw.get("outcome"))), Outcome.FAILED),
        exit_code=int(_number(raw.get("exit_code"))),
        seconds=_number(raw.get("seconds")),
        steps=steps,
        folder=folder,
        image=_image(raw.get("image")),
        cases=tuple(filter(None, (_case(c) for c in _dicts(raw.get("cases"))))),
        promotion=_promotion(raw.get("promotion")),
        checks=_checks(raw.get("checks")),
        attempted=_checks(raw.get("attempted")),
        rollback=_rollback(raw.get("rollback")),
        versions=_or(lambda: tuple((str(n), str(v)) for n, v in raw.get("versions") or ()), ()),
        error=_clean(str(raw.get("error") or "")),
        remedy=_clean(str(raw.get("remedy") or "")),
    )


def _pieced(folder: Path, steps: tuple[Step, ...], seconds: float) -> RunRecord:
    """What can be said without a summary."""
    failed = [step for step in steps if step.failed and step.problem]
    tops = {step.name for step in steps if not step.parent}
    command = next(
        (
            name
            for name, needed in (
                ("run", {"prove", "promote"}),
                ("run", {"build", "target"}),
                ("promote", {"promote"}),
                ("rollback", {"rollback"}),
                ("prove", {"gate"}),
                ("build", {"build"}),
            )
            if needed <= tops
        ),
        "",
    )
    return RunRecord(
        id=folder.name,
        command=command,
        outcome=Outcome.FAILED,
        exit_code=-1,
        seconds=seconds,
        steps=(),
        folder=folder,
        error=failed[0].problem if failed else "",
    )


def _image(raw: Any) -> Image | None:
    if not isinstance(raw, dict) or not _has(raw, "repository", "tag", "digest"):
        return None
    return Image(str(raw["repository"]), str(raw["tag"]), Digest.read(str(raw["digest"])))


def _case(raw: Mapping[str, Any]) -> Case | None:
    if not _has(raw, "name", "outcome"):
        return None
    return _or(
        lambda: Case(
            str(raw["name"]),
            Outcome(raw["outcome"]),
            _number(raw.get("seconds")),
            _clean(str(raw.get("message") or "")),
        ),
        None,
    )


def _checks(raw: Any) -> tuple[Check, ...]:
    return tuple(
        Check(str(c["name"]), bool(c["ok"]), _clean(str(c["evidence"])))
        for c in _dicts(raw)
        if _has(c, "name", "ok", "evidence")
    )


def _promotion(raw: Any) -> Promotion | None:
    if not isinstance(raw, dict):
        return None
    before, after = _image(raw.get("before")), _image(raw.get("after"))
    if before is None or after is None:
        return None
    return Promotion(
        target=str(raw.get("target", "")),
        before=before,
        after=after,
        from_revision=int(_number(raw.get("from_revision"))),
        to_revision=int(_number(raw.get("to_revision"))),
        backups=Path(str(raw["backups"])) if raw.get("backups") else None,
        checks=_checks(raw.get("checks")),
        changed=bool(raw.get("changed", True)),
    )


def _rollback(raw: Any) -> Rollback | None:
    if not isinstance(raw, dict):
        return None
    before, after = _served(raw.get("before")), _served(raw.get("after"))
    outcome = _or(lambda: RollbackOutcome(str(raw.get("outcome"))), None)
    if before is None or after is None or outcome is None:
        return None
    return Rollback(
        target=str(raw.get("target", "")),
        before=before,
        after=after,
        values=_changed(raw.get("values")),
        images=_changed(raw.get("images")),
        outcome=outcome,
        revision=int(_number(raw.get("revision"))),
    )


def _served(raw: Any) -> Served | None:
    image = _image(raw.get("image")) if isinstance(raw, dict) else None
    if image is None:
        return None
    return Served(int(_number(raw.get("revision"))), image, str(raw.get("chart", "")))


def _changed(raw: Any) -> tuple[Changed, ...]:
    return tuple(
        Changed(_clean(str(c["what"])), _clean(str(c["before"])), _clean(str(c["after"])))
        for c in _dicts(raw)
        if _has(c, "what", "before", "after")
    )


# -- the other files -------------------------------------------------------------------------------

_CHANGE = re.compile(
    r"^(?:! |  )(?P<object>\S+?/\S+(?: \(hook\))?) ?(?P<path>\S*?):"
    r" (?P<before>.*?) -> (?P<after>.*) \((?P<reason>[^()]*)\)$"
)


def _plan(text: str) -> Plan | None:
    revision = re.search(r"^revision (\S+) -> (\S+)$", text, re.MULTILINE)
    image = re.search(r"^image (\S+) -> (\S+)$", text, re.MULTILINE)
    changes = []
    for line in text.splitlines():
        if line[:2] not in ("  ", "! "):
            continue
        found, allowed = _CHANGE.match(line), line.startswith("  ")
        if found is None:  # of another shape than expected: shown as it stands
            changes.append(Change(_clean(line[2:]), "", "", "", "", allowed))
            continue
        changes.append(
            Change(
                object=found["object"],
                path=found["path"],
                before=_clean(found["before"]),
                after=_clean(found["after"]),
                reason=found["reason"],
                allowed=allowed,
            )
        )
    if not (revision or image or changes):
        return None
    return Plan(
        revision[1] if revision else "",
        revision[2] if revision else "",
        image[1] if image else "",
        image[2] if image else "",
        tuple(changes),
    )


def _backups(folder: Path, unreadable: list[str]) -> Backups | None:
    files = _files(folder, "backups")
    if not files:
        return None
    script = _text(folder / "backups" / "quick-rollback.sh", unreadable)
    image = _text(folder / "backups" / "current-image.txt", unreadable).splitlines()

    def said(name: str) -> str:
        found = re.search(rf"^{name}=(?:\$\{{\w+:-)?'?([^'\s}}]*)", script, re.MULTILINE)
        return found[1] if found else ""

    digest = next((line[7:] for line in image if line.startswith("digest sha256:")), "")
    return Backups(
        files=files,
        release=said("release"),
        namespace=said("namespace"),
        context=said("context"),
        revision=said("revision"),
        image=image[0] if image else "",
        digest=digest,
    )


_ACCOUNT = re.compile(
    r"(?P<sent>\d+) sent, (?P<answered>\d+) answered, (?P<failed>\d+) failed"
    r"(?: \((?P<why>.*?)\))?(?:, (?P<open>\d+) under way)?; longest gap (?P<gap>[\d.]+) s,"
    r" median (?P<median>\d+) ms, slowest (?P<slowest>\d+) ms"
    r"(?:, (?P<place>(?:from|inside|through) [^;]*))?"
)


def _probes(run: RunRecord, steps: Iterable[Step]) -> tuple[Probes, ...]:
    """Every account of the prober that was written down, each once."""
    said = [(check.name, check.evidence) for check in _all_checks(run)]
    said += [(step.name, step.problem) for step in steps if step.failed and step.parent]
    said += [(step.name, note.text) for step in steps for note in step.notes]
    said.append(("the error", run.error))
    found: dict[str, Probes] = {}
    for where, text in said:
        for account in _ACCOUNT.finditer(text):
            found.setdefault(
                account[0],
                Probes(
                    where,
                    int(account["sent"]),
                    int(account["answered"]),
                    int(account["failed"]),
                    int(account["open"] or 0),
                    account["why"] or "",
                    float(account["gap"]),
                    int(account["median"]),
                    int(account["slowest"]),
                    account["place"] or "",
                ),
            )
    return tuple(found.values())


def _all_checks(run: RunRecord) -> tuple[Check, ...]:
    return (run.promotion.checks if run.promotion else run.attempted) + run.checks


def _suites(folder: Path, unreadable: list[str]) -> tuple[Suite, ...]:
    suites = []
    for path in sorted(folder.glob("junit*.xml"), key=lambda p: (p.stem != "junit", p.name)):
        label = path.stem.removeprefix("junit").lstrip("-") or "gate"
        try:
            cases = tuple(
                Case(case.name, case.outcome, case.seconds, _clean(case.message))
                for case in junit.read(path)
            )
            suites.append(Suite(label, cases, _durations(path)))
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


def _tables(folder: Path, unreadable: list[str]) -> tuple[Table, ...]:
    found = []
    for path in (*sorted(folder.glob("tables/*.json")), *sorted(folder.glob("reports/*.json"))):
        raw = _json(path, unreadable)
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
    texts = ((name, _text(folder / "watch" / f"{name}.txt", unreadable)) for name in WATCHED)
    return tuple((name, _clean(text).rstrip()) for name, text in texts if text)


def _files(folder: Path, name: str) -> tuple[File, ...]:
    found = []
    for path in sorted((folder / name).rglob("*")):
        if path.is_file() and not path.is_symlink():
            found.append(File(path.relative_to(folder).as_posix(), path.stat().st_size))
    return tuple(found)


# -- half-written things ---------------------------------------------------------------------------


def _text(path: Path, unreadable: list[str]) -> str:
    """The file's text, or nothing. A missing file is no news, one that cannot be read is."""
    try:
        if path.stat().st_size > SMALL_FILE and path.suffix != ".jsonl":
            unreadable.append(f"{path.name} is larger than this project writes it")
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as problem:
        unreadable.append(f"{path.name}: {problem.strerror}")
        return ""


def _json(path: Path, unreadable: list[str]) -> Any:
    text = _text(path, unreadable)
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        unreadable.append(f"{path.name} is cut off or not JSON")
        return None


def _clean(text: str) -> str:
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT} characters more)"
    # What XML and HTML cannot hold, such as a terminal's colours, goes.
    return redaction.text(re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _has(value: Mapping[str, Any], *keys: str) -> bool:
    return all(key in value for key in keys)


def _or(make: Callable[[], T], otherwise: T) -> T:
    try:
        return make()
    except (TypeError, ValueError, KeyError):
        return otherwise
