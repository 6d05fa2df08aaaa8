"""What the report and the terminal both show of a run's checks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ci import texts
from ci.model import RunRecord
from ci.results import Because, Check, CheckId, Outcome, Phase, Tally, unknown


@dataclass(frozen=True, slots=True)
class Line:
    """A check as it is shown."""

    outcome: Outcome
    title: str
    evidence: tuple[str, ...]
    """Why nothing was measured, if so, and each thing that was."""


def listed(checks: Iterable[Check]) -> list[Line]:
    return [_line(texts.title(check), check) for check in checks]


def _line(title: str, check: Check) -> Line:
    why = texts.why(check)
    values = (texts.measured(value) for value in check.measured)
    return Line(check.outcome, title, tuple(filter(None, (why, *values))))


def tally(checks: Sequence[Check]) -> str:
    """``24 passed, 3 skipped, 1 unknown``; empty where there are no checks."""
    return texts.tally(Tally.of(check.outcome for check in checks)) if checks else ""


def checklist(run: RunRecord) -> list[Line]:
    """The upgrade plan's pre-upgrade checklist, a view of the checks before the change; empty for
    a run that did not come to it."""
    before = {
        check.id: check
        for group in run.groups
        if group.phase is Phase.BEFORE
        for check in group.checks
        if check.id in texts.CHECKLIST
    }
    if CheckId.BACKUP_CREATED not in before and CheckId.ROLLBACK_PREPARED not in before:
        return []
    return [
        _line(words, before.get(id) or unknown(id, Because.NOT_REACHED))
        for id, words in texts.CHECKLIST.items()
    ]
