"""Every reason to refuse, each with its sentence and its remedy; and what decides among many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from ci.digest import Digest
from ci.errors import EvidenceRefused
from ci.evidence import dsse, statement
from ci.evidence.keys import PrivateKey
from ci.evidence.rules import Policy, Wanted, approved, decide, uncovered
from ci.evidence.statement import Approval, Rehearsed, Subject, TestResult
from ci.model import Case
from ci.results import Outcome

KEY, OTHER = (PrivateKey(ed25519.Ed25519PrivateKey.generate()) for _ in range(2))
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
IMAGE = Subject("registry:5000/model-engine", "a" * 64, "queue-timeout-1")
CHART = Subject("model-engine-0.1.13", "b" * 64)
NAME = f"registry:5000/model-engine@sha256:{'a' * 64}"
WANTED = Wanted(NAME, Digest.from_hex("a" * 64), CHART)
POLICY = Policy((KEY.public,), timedelta(hours=24), approvers=(KEY.public,))
PASSING = TestResult(
    subjects=(IMAGE, CHART),
    result=statement.PASSED,
    cases=tuple(Case(f"test_it::test_{n}", Outcome.PASSED, 1.0) for n in range(3)),
    started=NOW - timedelta(hours=1, minutes=1),
    finished=NOW - timedelta(hours=1),
    run="20261123-090000-aaaa",
    suite="c" * 64,
)


def signed(result: TestResult | Approval | Rehearsed, key: PrivateKey = KEY) -> bytes:
    return signed_json(result.to_json(), key)


def signed_json(payload: bytes, key: PrivateKey = KEY) -> bytes:
    return dsse.sign(payload, statement.PAYLOAD_TYPE, key).to_json()


def ending(*outcomes: Outcome) -> TestResult:
    cases = tuple(Case(f"test_it::test_{n}", o, 1.0) for n, o in enumerate(outcomes))
    failed = Outcome.FAILED in outcomes
    return replace(PASSING, cases=cases, result=statement.FAILED if failed else statement.PASSED)


def edited(envelope: bytes, **changes: Any) -> bytes:
    """The same envelope, its statement changed by somebody without the key."""
    read = dsse.parse(envelope)
    raw = json.loads(read.payload)
    raw["predicate"].update(changes)
    return replace(read, payload=json.dumps(raw).encode()).to_json()


def unsigned(envelope: bytes) -> bytes:
    return replace(dsse.parse(envelope), signatures=()).to_json()


def test_what_was_proven_is_accepted_and_says_who_signed() -> None:
    accepted = decide([signed(PASSING)], WANTED, POLICY, now=NOW)
    assert accepted.result == PASSING
    assert accepted.key == KEY.public
    assert accepted.tag == "queue-timeout-1"


another_image = replace(PASSING, subjects=(replace(IMAGE, digest="d" * 64), CHART))
another_chart = replace(PASSING, subjects=(IMAGE, replace(CHART, digest="e" * 64)))
old = replace(PASSING, finished=NOW - timedelta(hours=30))
ahead = replace(PASSING, finished=NOW + timedelta(hours=1))
skipped = ending(Outcome.PASSED, Outcome.SKIPPED)
failed = ending(Outcome.PASSED, Outcome.FAILED)

REFUSED: list[tuple[str, list[bytes], str, str]] = [
    ("nothing attached", [], "no evidence is attached to registry", "pipeline.py prove"),
    ("another digest", [signed(another_image)], "is of another image", "pipeline.py prove"),
    ("edited", [edited(signed(failed), result="PASSED")], "was changed after it was signed",
     "prove it again"),
    ("expired", [signed(old)], "is 30.0 h old, at most 24.0 h are accepted", "max_age_hours"),
    ("from the future", [signed(ahead)], "is dated 1.0 h in the future", "clock"),
    ("unsigned", [unsigned(signed(PASSING))], "is not signed", "prove it again"),
    ("wrong key", [signed(PASSING, OTHER)],
     f"by a key that is not trusted here ({OTHER.public.id[:16]})", "public_keys"),
    ("failed case", [signed(failed)], "failed: test_it::test_1", "correct what failed"),
    ("skipped required case", [signed(skipped)], "did not pass in the proof", "evidence.require"),
    ("another chart", [signed(another_chart)], "proven with another chart", "gate.chart"),
    ("no chart", [signed(replace(PASSING, subjects=(IMAGE,)))], "another chart", "gate.chart"),
    ("no tag", [signed(replace(PASSING, subjects=(replace(IMAGE, tag=""), CHART)))],
     "does not name its tag", "prove it again"),
    ("no case", [signed(replace(PASSING, cases=()))], "no case that passed", "prove it again"),
    ("result at odds", [signed(replace(PASSING, result="WARNED"))], "its result is WARNED",
     "correct"),
    ("garbage", [b"\x00garbage"], "is not understood: it is not JSON", "prove it again"),
    ("signed garbage", [dsse.sign(b"garbage", statement.PAYLOAD_TYPE, KEY).to_json()],
     "the signed evidence of registry:5000/model-engine@", "prove it again"),
    ("something else", [dsse.sign(b"{}", "application/spdx+json", KEY).to_json()],
     "no evidence is attached", "pipeline.py prove"),
    ("an approval only", [signed(Approval((IMAGE, CHART), "Ada", "production", NOW))],
     "no evidence is attached", "pipeline.py prove"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("attached", "reason", "remedy"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_anything_else_is_refused(attached: list[bytes], reason: str, remedy: str) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        decide(attached, WANTED, POLICY, now=NOW)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 21


def test_what_others_attach_hides_nothing() -> None:
    noise = [b"", b"\x00", signed(PASSING, OTHER), unsigned(signed(failed)),
             edited(signed(PASSING), result="FAILED"), signed(another_image)]  # fmt: skip
    assert decide([*noise, signed(PASSING), *noise], WANTED, POLICY, now=NOW).result == PASSING


def test_the_newest_proof_decides() -> None:
    earlier = replace(PASSING, finished=NOW - timedelta(hours=2))
    with pytest.raises(EvidenceRefused, match=r"newest proof .* failed"):
        decide([signed(failed), signed(earlier)], WANTED, POLICY, now=NOW)
    later = replace(PASSING, finished=NOW - timedelta(minutes=1))
    assert decide([signed(later), signed(failed)], WANTED, POLICY, now=NOW).result == later


def test_a_proof_with_another_chart_does_not_decide() -> None:
    later = replace(another_chart, finished=NOW)
    assert decide([signed(later), signed(PASSING)], WANTED, POLICY, now=NOW).result == PASSING


def test_the_reason_that_came_furthest_is_told() -> None:
    with pytest.raises(EvidenceRefused, match="another chart"):
        decide([b"", signed(PASSING, OTHER), signed(another_chart)], WANTED, POLICY, now=NOW)


@pytest.mark.parametrize(
    ("require", "unmatched", "missed"),
    [
        (("*",), [], ["a::skipped", "b::failed[1]"]),
        (("*", "!a::*"), [], ["b::failed[1]"]),
        (("*", "!a::skipped", "!b::failed[1]"), [], []),
        (("a::passed",), [], []),
        (("b::failed[1]",), [], ["b::failed[1]"]),
        (("c::*", "a::passed"), ["c::*"], []),
        (("!*",), [], []),
        ((), [], []),
    ],
)
def test_required_cases(require: Sequence[str], unmatched: list[str], missed: list[str]) -> None:
    cases = [
        Case("a::passed", Outcome.PASSED, 1),
        Case("a::skipped", Outcome.SKIPPED, 0),
        Case("b::failed[1]", Outcome.FAILED, 1),
    ]
    without, not_passed = uncovered(cases, require)
    assert (without, [case.name for case in not_passed]) == (unmatched, missed)


def test_a_required_case_that_was_not_run() -> None:
    policy = replace(POLICY, require=("test_it::*", "test_other::*"))
    with pytest.raises(EvidenceRefused, match=r"were not run .*: test_other::\*"):
        decide([signed(PASSING)], WANTED, policy, now=NOW)


def test_an_excused_case_may_be_skipped() -> None:
    policy = replace(POLICY, require=("*", "!test_it::test_1"))
    assert decide([signed(skipped)], WANTED, policy, now=NOW).result == skipped


CONSENT = Approval((IMAGE,), "Ada", "production", NOW - timedelta(minutes=5))


def test_an_approval_counts_for_its_image_and_target() -> None:
    attached = [signed(PASSING), b"", signed(CONSENT)]
    assert approved(attached, WANTED, POLICY, "production", now=NOW).by == "Ada"


@pytest.mark.parametrize(
    ("attached", "reason"),
    [
        ([signed(PASSING)], "has none$"),
        ([signed(replace(CONSENT, target="staging"))], "is for staging"),
        ([signed(replace(CONSENT, subjects=(CHART,)))], "of another image"),
        ([signed(replace(CONSENT, at=NOW - timedelta(days=2)))], r"by Ada is 48\.0 h old"),
        ([signed(replace(CONSENT, at=NOW + timedelta(days=2)))], "in the future"),
        ([signed(CONSENT, OTHER)], "not trusted here"),
        ([unsigned(signed(CONSENT))], "is not signed"),
        ([edited(signed(CONSENT), target="production2")], "changed after it was signed"),
    ],
)
def test_any_other_consent_is_none(attached: list[bytes], reason: str) -> None:
    with pytest.raises(EvidenceRefused, match=reason) as caught:
        approved(attached, WANTED, POLICY, "production", now=NOW)
    assert str(caught.value).startswith("production needs an approval")
    assert "approve --image" in caught.value.remedy


def test_only_approvers_approve() -> None:
    policy = replace(POLICY, approvers=(OTHER.public,))
    with pytest.raises(EvidenceRefused, match="not trusted here"):
        approved([signed(CONSENT)], WANTED, policy, "production", now=NOW)
    assert approved([signed(CONSENT, OTHER)], WANTED, policy, "production", now=NOW)
