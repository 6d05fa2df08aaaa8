"""What is known before the change to be unknown after it refuses it, where it is required."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import PlanRefused
from ci.model import Cluster, Target
from ci.promotion.preflight.required import refuse_unmet
from ci.results import Because, CheckId, Problem, unknown
from tests.unit.sessions import session_of

CANARY = unknown(CheckId.QUEUE_LOCK_DURATION, Because.NOT_OFFERED, Problem("HTTP 404"))


def target(*require: str) -> Target:
    cluster = Cluster("c", Path("k"), "c", True)
    return Target(
        "prod", cluster, "launch", "rel", Path("x"), "r/engine", servicebus_env="BUS",
        require=require,
    )  # fmt: skip


def test_a_service_without_the_canarys_api_is_refused_and_not_rolled_back() -> None:
    session = session_of(target("queue.lock-duration"), env={"BUS": "Endpoint=sb://x"})
    with pytest.raises(PlanRefused) as refused:
        refuse_unmet(session, (), (CANARY,))
    assert refused.value.checks == (CANARY,)


def test_what_is_not_required_refuses_nothing() -> None:
    session = session_of(target("pods.*"), env={"BUS": "Endpoint=sb://x"})
    refuse_unmet(session, (), (CANARY,))
