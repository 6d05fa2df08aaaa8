"""The verdict of a rehearsal: signed beside the proof, and asked for by a promotion."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ci import texts
from ci.digest import Digest
from ci.errors import EvidenceRefused
from ci.evidence import dsse, statement
from ci.evidence.rules import decide, rehearsed
from ci.evidence.statement import NotUnderstood, OtherVersion, Rehearsed
from ci.model import Image, Rehearsal, ReleaseState
from ci.results import (
    Because,
    CheckId,
    Count,
    Cure,
    CureId,
    Names,
    Recreated,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.stages import attest
from tests.unit.evidence.fakes import FakeRegistry, machine
from tests.unit.evidence.test_attest import chart, prove, trusting
from tests.unit.evidence.test_evidence_rules import (
    CHART,
    CONSENT,
    IMAGE,
    NOW,
    OTHER,
    PASSING,
    POLICY,
    WANTED,
    edited,
    signed,
    signed_json,
    unsigned,
)

GOOD = passed(CheckId.PODS_KEEP_RUNNING, Count(Unit.PODS, 3), subject="upgrade")
BAD = failed(
    CheckId.ACCOUNTS_KEPT,
    Recreated("ServiceAccount/engine", "u1", "u2", "pre-upgrade"),
    Cure(CureId.HOOK_ANNOTATION),
    subject="unchanged-upgrade",
)
UNREAD = unknown(
    CheckId.LOGS_NOT_DENIED, Because.FORBIDDEN, Names(Unit.PODS, ("web-a",), 1), subject="upgrade"
)
REQUIRE = ("pods.*", "logs.*")
STATE = ReleaseState(revision=7, digest=Digest.from_hex("f" * 64), values="e" * 64)
VERDICT = Rehearsed(
    subjects=(IMAGE, CHART),
    target="production",
    state=STATE,
    result=statement.PASSED,
    checks=(GOOD,),
    require=REQUIRE,
    changes=("replicas: 3 -> 1 (scaled to the machine)",),
    run="20261123-090000-aaaa",
    at=NOW - timedelta(minutes=5),
)
FAILED = replace(VERDICT, result=statement.FAILED, checks=(GOOD, BAD))


def of_state(**changed: Any) -> bytes:
    return signed(replace(VERDICT, state=replace(STATE, **changed)))


def test_a_verdict_round_trips() -> None:
    assert statement.read_rehearsal(FAILED.to_json()) == FAILED
    assert statement.kind(VERDICT.to_json()) == statement.REHEARSAL
    unsure = replace(VERDICT, result=statement.FAILED, checks=(GOOD, UNREAD))
    assert statement.read_rehearsal(unsure.to_json()) == unsure


def test_its_checks_are_stated_by_id_outcome_and_what_was_measured() -> None:
    predicate = json.loads(FAILED.to_json())["predicate"]
    assert predicate["schemaVersion"] == 2
    good, bad = predicate["checks"]
    assert (good["id"], good["outcome"], good["subject"]) == (
        "pods.keep-running", "passed", "upgrade",
    )  # fmt: skip
    assert good["measured"] == [{"kind": "count", "of": "pods", "value": 3, "limit": None}]
    assert [value["kind"] for value in bad["measured"]] == ["recreated", "cure"]


def of_version(version: int | None) -> bytes:
    """As another version of this project would have written it."""
    raw = json.loads(VERDICT.to_json())
    predicate = raw["predicate"]
    if version is None:
        del predicate["schemaVersion"]
        predicate["checks"] = [{"name": "upgrade: pods run on", "ok": True, "evidence": "3 pods"}]
    else:
        predicate["schemaVersion"] = version
    return json.dumps(raw).encode()


@pytest.mark.parametrize("version", [None, 1, 3])
def test_a_verdict_of_another_version_is_not_misread(version: int | None) -> None:
    with pytest.raises(OtherVersion):
        statement.read_rehearsal(of_version(version))


@pytest.mark.parametrize(
    "verdict",
    [
        replace(VERDICT, checks=(GOOD, BAD)),
        replace(VERDICT, checks=()),
        replace(VERDICT, checks=(GOOD, UNREAD)),
        replace(VERDICT, result=statement.FAILED),
    ],
)
def test_a_verdict_at_odds_with_its_checks_is_not_understood(verdict: Rehearsed) -> None:
    with pytest.raises(NotUnderstood, match="not that of its checks"):
        statement.read_rehearsal(verdict.to_json())


@pytest.mark.parametrize(
    "part",
    [
        "schemaVersion", "revision", "before", "values", "target", "checks", "require", "changes",
        "finishedOn",
    ],
)  # fmt: skip
def test_a_verdict_with_a_part_of_another_type_is_not_understood(part: str) -> None:
    raw = json.loads(VERDICT.to_json())
    raw["predicate"][part] = True
    with pytest.raises(NotUnderstood):
        statement.read_rehearsal(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("id", "pods.of-another-version"),
        ("outcome", "ok"),
        ("measured", [{"kind": "count", "of": "pods", "value": "many"}]),
        ("because", "no reason"),
    ],
)
def test_a_check_that_this_version_does_not_know_is_not_understood(part: str, value: Any) -> None:
    raw = json.loads(VERDICT.to_json())
    raw["predicate"]["checks"][0][part] = value
    with pytest.raises(NotUnderstood, match=f"checks.0.{part}"):
        statement.read_rehearsal(json.dumps(raw).encode())


def test_the_passed_rehearsal_of_this_release_allows_the_promotion() -> None:
    attached = [signed(PASSING), b"", signed(CONSENT), signed(VERDICT)]
    assert rehearsed(attached, WANTED, POLICY, "production", STATE, require=(), now=NOW) == VERDICT


def test_a_rehearsal_is_no_proof() -> None:
    with pytest.raises(EvidenceRefused, match="no evidence is attached"):
        decide([signed(VERDICT)], WANTED, POLICY, now=NOW)


@pytest.mark.parametrize(
    ("attached", "reason"),
    [
        ([signed(PASSING)], "has none$"),
        ([signed(FAILED)], re.escape(f"(the one attached failed: {texts.title(BAD)})")),
        ([signed_json(of_version(None))], "made by an older version .*: rehearse again"),
        ([signed_json(of_version(3))], "made by a newer version"),
        ([signed(replace(VERDICT, target="staging"))], "is for staging"),
        ([signed(replace(VERDICT, subjects=(CHART,)))], "of another image"),
        ([signed(replace(VERDICT, subjects=(IMAGE,)))], "of another chart"),
        ([of_state(revision=6)], "is of revision 6, the release is at 7"),
        (
            [of_state(digest=Digest.from_hex("0" * 64))],
            "began with sha256:000000000000, the release",
        ),
        ([of_state(values="0" * 64)], "is of other values than the release has at revision 7"),
        ([signed(replace(VERDICT, at=NOW - timedelta(days=2)))], r"is 48\.0 h old"),
        ([signed(replace(VERDICT, at=NOW + timedelta(days=2)))], "in the future"),
        ([signed(VERDICT, OTHER)], "not trusted here"),
        ([unsigned(signed(VERDICT))], "is not signed"),
        ([edited(signed(FAILED), result="PASSED")], "changed after it was signed"),
    ],
)
def test_any_other_rehearsal_is_none(attached: list[bytes], reason: str) -> None:
    with pytest.raises(EvidenceRefused, match=reason) as caught:
        rehearsed(attached, WANTED, POLICY, "production", STATE, require=REQUIRE, now=NOW)
    assert str(caught.value).startswith("production needs a passed rehearsal")
    assert "rehearse --image" in caught.value.remedy
    assert caught.value.exit_code == 21


def test_the_newest_rehearsal_decides() -> None:
    earlier = replace(VERDICT, at=NOW - timedelta(hours=2))
    with pytest.raises(EvidenceRefused, match="failed"):
        rehearsed(
            [signed(FAILED), signed(earlier)],
            WANTED,
            POLICY,
            "production",
            STATE,
            require=(),
            now=NOW,
        )
    later = replace(VERDICT, at=NOW)
    attached = [signed(later), signed(FAILED)]
    assert rehearsed(attached, WANTED, POLICY, "production", STATE, require=(), now=NOW) == later


def test_what_the_target_requires_now_must_have_been_checked() -> None:
    """The rehearsal may have been made with less."""
    lax = signed(replace(VERDICT, checks=(GOOD, UNREAD), require=()))
    allowed = rehearsed([lax], WANTED, POLICY, "production", STATE, require=("pods.*",), now=NOW)
    assert allowed.checks == (GOOD, UNREAD)
    with pytest.raises(EvidenceRefused, match=re.escape(texts.unmet((UNREAD,)))):
        rehearsed([lax], WANTED, POLICY, "production", STATE, require=("logs.*",), now=NOW)


def test_a_verdict_travels_with_the_image(registry: FakeRegistry, tmp_path: Path) -> None:
    """Passed or not, it is attached; another machine with the public key relies on it."""
    here = machine(tmp_path / "here")
    source = prove(here, registry)
    image = Image(source.repository, "t", source.digest)
    found = Rehearsal("production", image, image, STATE, (GOOD,), (), datetime.now(UTC))
    attest.attach_rehearsal(here, source, chart(here), found)
    there = trusting(tmp_path / "there", here)
    accepted = attest.rehearsed(there, source, chart(there), "production", STATE, require=())
    assert accepted.state == STATE
    kept = (here.run_dir / attest.REHEARSAL_FILE).read_bytes()
    assert statement.read_rehearsal(dsse.parse(kept).payload) == accepted
    assert attest.verified(there, source, chart(there)).passed

    broken = replace(found, checks=(GOOD, BAD), finished=datetime.now(UTC))
    attest.attach_rehearsal(here, source, chart(here), broken)
    with pytest.raises(EvidenceRefused, match=re.escape(texts.title(BAD))):
        attest.rehearsed(there, source, chart(there), "production", STATE, require=())
