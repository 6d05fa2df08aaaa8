"""The test of queue time-outs on a target, as a check of its promotion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import Digest
from ci.errors import ProofFailed
from ci.model import Case, Cluster, Image, Proof, Release, StandIns, Target
from ci.promotion.preflight.required import foreseen
from ci.promotion.release.session import TargetSession
from ci.results import (
    CheckGroup,
    CheckId,
    Count,
    Names,
    Outcome,
    Phase,
    Problem,
    Unit,
    failed,
    passed,
    skipped,
    unmet,
)
from ci.stages import prove
from ci.workflow import handoffs

IMAGE = Image("r/engine", "new", Digest.from_hex("b" * 64))
CLUSTER = Cluster("c", Path("k"), "c", True)
RELEASE = Release(CLUSTER, "launch", "rel", 2, IMAGE)


def opened(*, servicebus_env: str = "", **env: str) -> TargetSession:
    target = Target(
        "prod", CLUSTER, "launch", "rel", Path("x"), "r/engine", servicebus_env=servicebus_env
    )
    return cast(TargetSession, SimpleNamespace(context=None, target=target, env=env))


def proof(*outcomes: Outcome) -> Proof:
    cases = tuple(Case(f"test_{number}", each, 1.0) for number, each in enumerate(outcomes))
    return Proof(IMAGE, cases, Path("junit.xml"), datetime.now(UTC))


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> Callable[[Proof | Exception], list[str]]:
    """Lets the tests end so; the connection strings that they were given."""

    def ending(how: Proof | Exception) -> list[str]:
        given: list[str] = []

        def prove_(
            _: Release,
            standins: StandIns | None,
            *,
            servicebus: str,
            on_failure: Callable[[Proof], None],
        ) -> Proof:
            given.append(servicebus)
            if isinstance(how, Exception):
                raise how
            if how.failed:
                on_failure(how)
                raise ProofFailed("1 of 2 cases failed")
            return how

        @contextmanager
        def started(*_: object, **__: object) -> Iterator[Any]:
            yield SimpleNamespace(prove=prove_)

        monkeypatch.setattr(prove, "started", started)
        return given

    return ending


def test_it_is_skipped_by_its_setting_where_no_service_bus_is_known(
    tests: Callable[[Proof | Exception], list[str]],
) -> None:
    given = tests(AssertionError("the tests were run"))
    session = opened()
    with handoffs.tests_of(session) as after:
        checks = after(RELEASE)
    assert checks == (skipped(CheckId.QUEUE_TIMEOUTS, "servicebus_connection_string_env"),)
    assert given == []
    assert unmet(checks, session.target.require) == checks, "it is required unless said otherwise"
    assert checks[0] in foreseen(session.target, servicebus=False), "known before the change"


def test_it_counts_the_cases_that_passed(
    tests: Callable[[Proof | Exception], list[str]],
) -> None:
    given = tests(proof(Outcome.PASSED, Outcome.PASSED, Outcome.SKIPPED))
    with handoffs.tests_of(opened(servicebus_env="BUS", BUS="Endpoint=sb://x")) as after:
        assert after(RELEASE) == (passed(CheckId.QUEUE_TIMEOUTS, Count(Unit.CASES, 2)),)
    assert given == ["Endpoint=sb://x"]


@pytest.mark.parametrize(
    ("how", "measured"),
    [
        (proof(Outcome.PASSED, Outcome.FAILED), Names(Unit.CASES, ("test_1",), 1)),
        (ProofFailed("the tests did not run"), Problem("the tests did not run")),
    ],
)
def test_what_ends_the_promotion_carries_the_failed_check(
    tests: Callable[[Proof | Exception], list[str]], how: Proof | Exception, measured: Any
) -> None:
    tests(how)
    with (
        handoffs.tests_of(opened(servicebus_env="BUS", BUS="Endpoint=sb://x")) as after,
        pytest.raises(ProofFailed) as caught,
    ):
        after(RELEASE)
    check = failed(CheckId.QUEUE_TIMEOUTS, measured)
    assert caught.value.groups == (CheckGroup(Phase.DURING, (check,)),)
