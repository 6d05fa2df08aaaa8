"""What is asked before a change and needs no cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.digest import Digest
from ci.errors import PlanRefused, ProofFailed
from ci.model import Case, Cluster, Image, Proof, Target
from ci.promotion.preflight import inspect as inspection
from ci.promotion.release import manifest
from ci.promotion.release.reader import Present
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    Names,
    Outcome,
    Problem,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools.helm import Revision

IMAGE = Image("registry:5000/model-engine", "queue-timeout-1", Digest.from_hex("a" * 64))


def proof(*outcomes: Outcome) -> Proof:
    cases = tuple(Case(f"test_{n}", outcome, 0.1) for n, outcome in enumerate(outcomes))
    return Proof(IMAGE, cases, Path("junit.xml"), datetime(2026, 11, 23, tzinfo=UTC))


def test_only_a_passing_proof_goes_on() -> None:
    inspection.refuse_unproven(proof(Outcome.PASSED, Outcome.SKIPPED))
    with pytest.raises(ProofFailed, match="queue-timeout-1 failed: test_1, test_2, test_3 and 1"):
        inspection.refuse_unproven(proof(Outcome.PASSED, *[Outcome.FAILED] * 4))
    for nothing in (proof(), proof(Outcome.SKIPPED)):
        with pytest.raises(ProofFailed, match="no test case passed"):
            inspection.refuse_unproven(nothing)


TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "n", "rel", Path("x"), "r/engine")
RELEASED = manifest.parse(
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: one}\n---\n"
    "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {parallelism: 1}\n---\n"
    "apiVersion: keda.sh/v1\nkind: ScaledObject\nmetadata: {name: s}\nspec: {max: 3}\n",
    "",
)
CONFIG, JOB, SCALED = RELEASED.objects


def as_released(unread: frozenset[manifest.Key] = frozenset(), **spec: object) -> Check:
    """With a ConfigMap that says ``data``, and a ScaledObject of at most ``most``."""
    objects: dict[manifest.Key, dict[str, object]] = {
        SCALED: {"spec": {"max": spec.get("most", 3)}}
    }
    if "data" in spec:
        objects[CONFIG] = {"data": {"a": spec["data"]}}
    present = Present(objects, unread, "no rights")
    return inspection.as_released(TARGET, Revision(7, "deployed", "c-1", ""), RELEASED, present)


AS_RELEASED = CheckId.OBJECTS_AS_RELEASED


def test_what_a_hand_changed_is_named_and_refused() -> None:
    """A Job that is gone has come to its end."""
    assert as_released(data="one") == passed(AS_RELEASED, Count(Unit.OBJECTS, 2))
    with pytest.raises(PlanRefused) as caught:
        as_released(data="two")
    drifted = Names(Unit.FIELDS, ("ConfigMap/c data.a",), 1)
    assert caught.value.checks == (failed(AS_RELEASED, drifted),)
    assert "--revision 7" in caught.value.remedy
    with pytest.raises(PlanRefused, match="ConfigMap/c is gone"):
        as_released()


def test_what_a_controller_wrote_is_named() -> None:
    written = Names(Unit.FIELDS, ("ScaledObject/s spec.max",), 1)
    assert as_released(data="one", most=9) == passed(AS_RELEASED, Count(Unit.OBJECTS, 2), written)


def test_what_is_not_read_is_unknown() -> None:
    assert as_released(frozenset({CONFIG})) == unknown(
        AS_RELEASED,
        Because.FORBIDDEN,
        Count(Unit.OBJECTS, 1),
        Names(Unit.OBJECTS, ("ConfigMap/c",), 1),
        Problem("no rights"),
    )
    with pytest.raises(PlanRefused, match="ConfigMap/c"):
        as_released(frozenset({SCALED}), data="two")  # drift is refused whatever else is unread
