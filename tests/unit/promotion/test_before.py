"""What is asked before a change and needs no cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.errors import ProofFailed
from ci.model import Case, Image, Outcome, Proof
from ci.promotion import before

IMAGE = Image("registry:5000/model-engine", "queue-timeout-1", "sha256:" + "a" * 64)


def proof(*outcomes: Outcome) -> Proof:
    cases = tuple(Case(f"test_{n}", outcome, 0.1) for n, outcome in enumerate(outcomes))
    return Proof(IMAGE, cases, Path("junit.xml"), datetime(2026, 11, 23, tzinfo=UTC))


def test_only_a_passing_proof_goes_on() -> None:
    before.refuse_unproven(proof(Outcome.PASSED, Outcome.SKIPPED))
    with pytest.raises(ProofFailed, match="queue-timeout-1 failed: test_1, test_2, test_3 and 1"):
        before.refuse_unproven(proof(Outcome.PASSED, *[Outcome.FAILED] * 4))
    for nothing in (proof(), proof(Outcome.SKIPPED)):
        with pytest.raises(ProofFailed, match="no test case passed"):
            before.refuse_unproven(nothing)
