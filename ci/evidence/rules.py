"""Whether what is attached to an image allows its promotion. Pure: ``now`` is passed in.

Anybody who may push to a registry may attach anything to an image, and remove what others
attached. So statements of other kinds are passed over, and what no trusted key signed decides
nothing; it is only named when there is nothing better. Of the trusted ones about this image and
this chart the newest decides: a proof that failed is not outweighed by an older one that passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TypeVar

from ci import texts
from ci.digest import Digest
from ci.errors import EvidenceRefused
from ci.evidence import dsse, statement
from ci.evidence.keys import PublicKey
from ci.evidence.statement import Approval, Rehearsed, Subject, TestResult
from ci.model import Case, ReleaseState
from ci.results import Outcome, unmet

T = TypeVar("T")

SKEW = timedelta(minutes=5)
"""How far another machine's clock may be ahead of ours."""

PROVE = "prove it: `python3 pipeline.py prove`"
PROVE_AGAIN = "prove it again: `python3 pipeline.py prove`"


@dataclass(frozen=True, slots=True)
class Policy:
    """What evidence must be to be relied on."""

    trusted: tuple[PublicKey, ...]
    max_age: timedelta
    require: tuple[str, ...] = ("*",)
    """Globs of cases that must have passed; those after ``!`` need not."""
    approvers: tuple[PublicKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be promoted: an image and, with it, a chart."""

    image: str
    """As the person named it, for messages."""
    digest: Digest
    chart: Subject


@dataclass(frozen=True, slots=True)
class Accepted:
    """Evidence that may be relied on."""

    result: TestResult
    key: PublicKey
    tag: str


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Why one candidate was not taken; the one that came furthest is reported."""

    came: int
    at: datetime | None
    error: EvidenceRefused


def decide(attached: Iterable[bytes], wanted: Wanted, policy: Policy, *, now: datetime) -> Accepted:
    """The evidence that allows the promotion, or :class:`EvidenceRefused` with the one reason
    that matters most. ``attached`` are envelopes as the registry gave them."""
    flaws: list[_Flaw] = []
    about: list[tuple[TestResult, PublicKey, Subject]] = []
    for content in attached:
        try:
            found = _trusted(content, policy.trusted, statement.TEST_RESULT, wanted.image)
            if found is None:
                continue
            payload, key = found
            result = _understood(payload, wanted.image)
            about.append((result, key, _about(result, wanted)))
        except _Refusal as refusal:
            flaws.append(refusal.flaw)
    if about:
        result, key, subject = max(about, key=lambda entry: entry[0].finished)
        _refuse_result(result, wanted)
        _refuse_age(result, wanted, policy, now)
        _refuse_cases(result.cases, policy.require, wanted)
        return Accepted(result, key, subject.tag)
    if flaws:
        oldest = datetime.min.replace(tzinfo=now.tzinfo)
        raise max(flaws, key=lambda flaw: (flaw.came, flaw.at or oldest)).error
    raise EvidenceRefused(f"no evidence is attached to {wanted.image}", remedy=PROVE)


def approved(
    attached: Iterable[bytes], wanted: Wanted, policy: Policy, target: str, *, now: datetime
) -> Approval:
    """The approval of ``wanted`` for ``target``, or :class:`EvidenceRefused`."""
    found, flaws = _read(
        attached, policy.approvers, statement.APPROVAL, wanted.image, statement.read_approval
    )
    for given in found:
        if not any(s.digest == wanted.digest.hex for s in given.subjects):
            flaws.append("is of another image")
        elif given.target != target:
            flaws.append(f"is for {given.target}")
        elif now - given.at > policy.max_age:
            flaws.append(f"by {given.by} is {_hours(now - given.at)} old")
        elif given.at - now > SKEW:
            flaws.append(f"by {given.by} is dated in the future")
        else:
            return given
    flaw = f" (the one attached {flaws[-1]})" if flaws else ""
    raise EvidenceRefused(
        f"{target} needs an approval, {wanted.image} has none{flaw}",
        remedy=f"let a person approve it: `python3 pipeline.py approve --image {wanted.image}"
        f" --target {target} --by NAME`",
    )


def rehearsed(
    attached: Iterable[bytes],
    wanted: Wanted,
    policy: Policy,
    target: str,
    state: ReleaseState,
    *,
    require: Sequence[str],
    now: datetime,
) -> Rehearsed:
    """The passed rehearsal of ``wanted`` on ``target``'s release as it is now, in ``state``, that
    left no check out which ``require`` names; or :class:`EvidenceRefused`. The newest decides."""
    found, flaws = _read(
        attached, policy.trusted, statement.REHEARSAL, wanted.image, statement.read_rehearsal
    )
    about: list[Rehearsed] = []
    for given in found:
        digests = {subject.digest for subject in given.subjects}
        if wanted.digest.hex not in digests:
            flaws.append("is of another image")
        elif wanted.chart.digest not in digests:
            flaws.append("is of another chart")
        elif given.target != target:
            flaws.append(f"is for {given.target}")
        else:
            about.append(given)
    newest = max(about, key=lambda given: given.at, default=None)
    if newest is not None:
        why = _rehearsal_flaw(newest, policy, state, require, now)
        if not why:
            return newest
        flaws.append(why)
    flaw = f" (the one attached {flaws[-1]})" if flaws else ""
    raise EvidenceRefused(
        f"{target} needs a passed rehearsal, {wanted.image} has none{flaw}",
        remedy=f"rehearse it: `python3 pipeline.py rehearse --image {wanted.image}"
        f" --target {target}`",
    )


def _rehearsal_flaw(
    given: Rehearsed, policy: Policy, state: ReleaseState, require: Sequence[str], now: datetime
) -> str:
    failed = [texts.title(check) for check in given.checks if check.failed]
    if left_out := unmet(given.checks, (*given.require, *require)):
        failed.append(texts.unmet(left_out))
    if given.result != statement.PASSED or left_out:
        return f"failed: {_names(failed) or 'nothing was checked'}"
    if given.state.revision != state.revision:
        return f"is of revision {given.state.revision}, the release is at {state.revision}"
    if given.state.digest != state.digest:
        return f"began with {given.state.digest.short}, the release serves {state.digest.short}"
    if given.state.values != state.values:
        return f"is of other values than the release has at revision {state.revision}"
    if now - given.at > policy.max_age:
        return f"is {_hours(now - given.at)} old"
    if given.at - now > SKEW:
        return "is dated in the future"
    return ""


def uncovered(cases: Sequence[Case], require: Sequence[str]) -> tuple[list[str], list[Case]]:
    """(globs that match no case, required cases that did not pass)."""
    wanted = [glob for glob in require if not glob.startswith("!")]
    excused = [glob[1:] for glob in require if glob.startswith("!")]
    unmatched = [glob for glob in wanted if not any(_matches(c.name, [glob]) for c in cases)]
    missed = [
        case
        for case in cases
        if case.outcome is not Outcome.PASSED
        and _matches(case.name, wanted)
        and not _matches(case.name, excused)
    ]
    return unmatched, missed


class _Refusal(Exception):
    def __init__(
        self, came: int, message: str, remedy: str, at: datetime | None = None, brief: str = ""
    ) -> None:
        super().__init__(message)
        self.brief = brief
        self.flaw = _Flaw(came, at, EvidenceRefused(message, remedy=remedy))


def _read(
    attached: Iterable[bytes],
    keys: Sequence[PublicKey],
    kind: str,
    image: str,
    read: Callable[[bytes], T],
) -> tuple[list[T], list[str]]:
    """(statements of ``kind`` that one of ``keys`` signed, why others are none)."""
    found: list[T] = []
    flaws: list[str] = []
    for content in attached:
        try:
            trusted = _trusted(content, keys, kind, image)
            if trusted is not None:
                found.append(read(trusted[0]))
        except _Refusal as refusal:
            if refusal.flaw.came:  # what is no envelope may be anything
                flaws.append(refusal.brief)
        except statement.OtherVersion as problem:
            flaws.append(str(problem))
        except statement.NotUnderstood as problem:
            flaws.append(f"is not understood: {problem}")
    return found, flaws


def _trusted(
    content: bytes, keys: Sequence[PublicKey], kind: str, image: str
) -> tuple[bytes, PublicKey] | None:
    """(payload, the trusted key that signed it); ``None`` for what is of another kind."""
    try:
        envelope = dsse.parse(content)
    except dsse.Malformed as problem:
        message = f"what is attached to {image} as evidence is not understood: {problem}"
        raise _Refusal(0, message, PROVE_AGAIN) from None
    if envelope.payload_type != statement.PAYLOAD_TYPE:
        return None
    if statement.kind(envelope.payload) not in (kind, ""):
        return None
    if not envelope.signatures:
        brief = "is not signed"
        raise _Refusal(1, f"the evidence of {image} {brief}", PROVE_AGAIN, brief=brief)
    key = dsse.signer(envelope, keys)
    if key is not None:
        return envelope.payload, key
    hints = [hint for hint, _ in envelope.signatures]
    if any(trusted.id in hints for trusted in keys):
        brief, remedy = "was changed after it was signed", f"{PROVE_AGAIN}, and ask who changed it"
        raise _Refusal(3, f"the evidence of {image} {brief}", remedy, brief=brief)
    named = f" ({hints[0][:16]})" if hints[0] else ""
    brief = f"is signed by a key that is not trusted here{named}"
    remedy = "if you trust it, name its public key with evidence.public_keys in pipeline.toml"
    raise _Refusal(2, f"the evidence of {image} {brief}", remedy, brief=brief)


def _understood(payload: bytes, image: str) -> TestResult:
    try:
        return statement.read_result(payload)
    except statement.NotUnderstood as problem:
        message = f"the signed evidence of {image} is not understood: {problem}"
        raise _Refusal(4, message, PROVE_AGAIN) from None


def _about(result: TestResult, wanted: Wanted) -> Subject:
    """The image among the subjects; the chart must be among them, too."""
    subject = result.of(wanted.digest.hex)
    if subject is None:
        others = ", ".join(s.name for s in result.subjects) or "nothing"
        message = f"the evidence attached to {wanted.image} is of another image ({others})"
        raise _Refusal(5, message, PROVE, result.finished)
    if not subject.tag:
        message = f"the evidence of {wanted.image} does not name its tag"
        raise _Refusal(5, message, PROVE_AGAIN, result.finished)
    if result.of(wanted.chart.digest) is None:
        others = ", ".join(f"{s.name} {s.short}" for s in result.subjects if s is not subject)
        raise _Refusal(
            6,
            f"{wanted.image} was proven with another chart than the target's"
            f" {wanted.chart.name} {wanted.chart.short} ({others or 'none'})",
            "promote with the chart it was proven with, or prove it with this one"
            " (gate.chart in pipeline.toml)",
            result.finished,
        )
    return subject


def _refuse_result(result: TestResult, wanted: Wanted) -> None:
    failed = [case.name for case in result.cases if case.outcome is Outcome.FAILED]
    if failed or result.result != statement.PASSED:
        names = _names(failed) or f"its result is {result.result or 'empty'}"
        raise EvidenceRefused(
            f"the newest proof of {wanted.image} failed: {names}",
            remedy="correct what failed, then prove it",
        )
    if not any(case.outcome is Outcome.PASSED for case in result.cases):
        raise EvidenceRefused(
            f"the proof of {wanted.image} has no case that passed", remedy=PROVE_AGAIN
        )


def _refuse_age(result: TestResult, wanted: Wanted, policy: Policy, now: datetime) -> None:
    age = now - result.finished
    if age < -SKEW:
        raise EvidenceRefused(
            f"the evidence of {wanted.image} is dated {_hours(-age)} in the future",
            remedy="correct the clock of this machine or of the one that proved it",
        )
    if age > policy.max_age:
        raise EvidenceRefused(
            f"the evidence of {wanted.image} is {_hours(age)} old, at most"
            f" {_hours(policy.max_age)} are accepted",
            remedy=f"{PROVE_AGAIN} (evidence.max_age_hours sets the limit)",
        )


def _refuse_cases(cases: Sequence[Case], require: Sequence[str], wanted: Wanted) -> None:
    unmatched, missed = uncovered(cases, require)
    if missed:
        names = _names([f"{case.name} ({case.outcome.value})" for case in missed])
        raise EvidenceRefused(
            f"required cases did not pass in the proof of {wanted.image}: {names}",
            remedy="prove it where they can run, or excuse them with evidence.require",
        )
    if unmatched:
        raise EvidenceRefused(
            f"required cases were not run in the proof of {wanted.image}: {_names(unmatched)}",
            remedy="prove it with the whole suite, or correct evidence.require",
        )


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(name == glob or fnmatchcase(name, glob) for glob in globs)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.1f} h"
