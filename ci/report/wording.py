"""A verdict for people: the texts of :mod:`ci.texts` filled with what the run says. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci import texts
from ci.model import ChangeRecord, RunRecord
from ci.report import verdict
from ci.results import ChangeState, ImageRef, StepId, Tone, VerdictId

if TYPE_CHECKING:
    from ci.report.record import Step

SHORT_COMMIT = 12
"""Characters of a tag that is a Git commit: as Git itself says it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    id: VerdictId
    tone: Tone
    word: str
    sentence: str
    remedy: str = ""
    """What to do, where the run itself cannot say it."""


def of(run: RunRecord, steps: Sequence[Step], *, finished: bool) -> Verdict:
    """``steps`` are those of the run's events, in the order they began."""
    id = verdict.identify(run, finished=finished)
    wording, facts = texts.VERDICTS[id], _facts(run, steps)
    return Verdict(
        id,
        verdict.tone(id),
        wording.word,
        wording.sentence.format_map(facts),
        wording.remedy.format_map(facts),
    )


def target(run: RunRecord) -> str:
    return run.change.target if run.change else texts.THE_TARGET


def _facts(run: RunRecord, steps: Sequence[Step]) -> dict[str, str]:
    change = run.change or ChangeRecord("", state=ChangeState.NONE)
    old = short(change.before) or texts.OLD_IMAGE
    new = short(change.after) or texts.NEW_IMAGE
    broken = failures(steps)
    targets = verdict.several(run)
    return {
        "target": target(run),
        "old": old,
        "new": new,
        "old_at": _at(old, change.from_revision),
        "new_at": _at(new, change.to_revision),
        "tag": run.image.tag if run.image else texts.THE_IMAGE,
        "where": _where(broken, steps),
        "untouched": _untouched(run, steps),
        "names": ", ".join(step.subject or step.title for step in broken),
        "promoted": str(sum(check.passed for check in targets)),
        "total": str(len(targets)),
    }


def short(image: ImageRef | None) -> str:
    """The tag; one that is a commit, as short as Git says it."""
    if image is None:
        return ""
    return image.tag[:SHORT_COMMIT] if re.fullmatch("[0-9a-f]{40}", image.tag) else image.tag


def failures(steps: Sequence[Step]) -> list[Step]:
    """The steps that failed by themselves, in that order. Those beside them were cancelled."""
    failed = [step for step in steps if step.failed and not step.parent]
    failed.sort(key=lambda step: step.ended or 0.0)
    return [step for step in failed if not step.cancelled] or failed


def _where(broken: Sequence[Step], steps: Sequence[Step]) -> str:
    if not broken:
        return texts.WHERE_BEGIN
    first = broken[0]
    part = next((s.title for s in steps if s.failed and s.parent == first.id), "")
    title = f"{first.title}: {part}" if part else first.title
    return texts.WHERE_STEP.format(step=title)


def _untouched(run: RunRecord, steps: Sequence[Step]) -> str:
    """Said of commands that would have changed a target; not where other runs changed several."""
    changes = run.command in (*verdict.PROMOTING, verdict.ROLLBACK)
    if not changes or any(step.id == StepId.PROMOTE_TARGET for step in steps):
        return ""
    return texts.UNTOUCHED.format(target=target(run))


def _at(tag: str, revision: int | None) -> str:
    return tag if revision is None else texts.AT_REVISION.format(tag=tag, revision=revision)
