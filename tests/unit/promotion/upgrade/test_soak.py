"""The soak against what a cluster answers, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci import texts
from ci.digest import Digest
from ci.errors import CommandFailed, PromotionFailed
from ci.model import Cluster, Image, ProbeSeries, Target
from ci.promotion.probes.prober import BUCKETS, Account, Counting, bucket
from ci.promotion.release import logs, reader
from ci.promotion.release.logs import ErrorLines
from ci.promotion.release.rollout import Snapshot
from ci.promotion.upgrade import soak
from ci.promotion.upgrade.soak import Soak
from ci.results import (
    Because,
    Breach,
    BreachId,
    Check,
    CheckId,
    Count,
    Duration,
    Latency,
    Outcome,
    ProbePlace,
    Problem,
    Sample,
    Span,
    Unit,
)
from ci.settings import Gates, Probing, Query
from ci.tools.prometheus import Prometheus
from tests.unit.sessions import session_of

READ = ErrorLines((), ("pod",))
IMAGE = Image("r:5000/engine", "new", Digest.from_hex("b" * 64))


class ManualClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class World:
    """What is read, by the time on the clock."""

    place = ProbePlace.IN_CLUSTER

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.failed: Callable[[float], int] = lambda now: 0
        self.took: Callable[[float], float] = lambda now: 0.005
        self.restarts: Callable[[float], int] = lambda now: 0
        self.lines: Callable[[float], ErrorLines] = lambda now: READ
        self.away: Callable[[float], bool] = lambda now: False
        self.value: Callable[[float], tuple[float | None, str]] = lambda now: (0.0, "")
        self._counts = [0] * BUCKETS
        self._answered = 0
        self.answers = 30

    def account(self) -> Account:
        """30 more answers at each look."""
        self._counts[bucket(self.took(self.clock.now))] += self.answers
        self._answered += self.answers
        failed = self.failed(self.clock.now)
        return Account(
            self._answered + failed, self._answered, failed, 0, 0, 0,
            (("HTTP 500", failed),) if failed else (), tuple(self._counts),
        )  # fmt: skip

    def stop(self) -> Account:
        return self.account()

    def series(self) -> ProbeSeries:
        return ProbeSeries(self.place, None, ())

    def snapshot(self, *_: Any) -> Snapshot:
        if self.away(self.clock.now):
            raise CommandFailed("GET /pods: connection refused")
        status = {"name": "engine", "restartCount": self.restarts(self.clock.now)}
        container = {"name": "engine", "image": IMAGE.by_tag}
        pod = {
            "kind": "Pod",
            "metadata": {"name": "pod", "uid": "1"},
            "spec": {"containers": [container]},
            "status": {
                "containerStatuses": [status],
                "startTime": "2026-01-01T00:00:00Z",
            },
        }
        return Snapshot.of([pod])


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(reader, "snapshot", world.snapshot)
    monkeypatch.setattr(
        logs,
        "error_lines",
        lambda *_, since=None, **__: READ if since else world.lines(world.clock.now),
    )
    monkeypatch.setattr(Prometheus, "ask", lambda *_: world.value(world.clock.now))
    return world


class Outside(World):
    place = ProbePlace.EXTERNAL


def soaked(world: World, *others: World, probed: bool = True, **changed: Any) -> tuple[Check, ...]:
    cluster = Cluster("c", Path("k"), "c", True)
    described = {"soak_seconds": 60, "gates": Gates(), **changed}
    target = Target("prod", cluster, "launch", "rel", Path("x"), IMAGE.repository, **described)
    probers: tuple[Counting, ...] = (world, *others) if probed else ()
    made = Soak(session_of(target, clock=world.clock), probers, IMAGE, [])
    return made.watch(IMAGE)


def test_a_quiet_soak_takes_its_time_and_shows_latency_by_phase(world: World) -> None:
    limits, latency = soaked(world)
    assert world.clock.now == 60
    assert (limits.id, limits.outcome) == (CheckId.SOAK_GATES, Outcome.PASSED)
    assert limits.measured == (Duration(Span.SOAK, 60), Count(Unit.LOOKS, 13))
    assert (latency.id, latency.outcome) == (CheckId.SOAK_LATENCY, Outcome.PASSED)
    assert [value.when for value in latency.measured if isinstance(value, Latency)] == [
        "before",
        "during",
        "soak",
    ]


def test_a_soak_in_which_nobody_could_look_is_unknown(world: World) -> None:
    """The API server was away all the time: the soak took its time and showed nothing."""
    world.away = lambda _: True
    limits, _ = soaked(world)
    assert world.clock.now == 60
    assert (limits.outcome, limits.because) == (Outcome.UNKNOWN, Because.NO_ANSWER)
    assert limits.measured[0] == Count(Unit.LOOKS, 0)


def test_logs_that_may_not_be_read_all_along_are_unknown(world: World) -> None:
    world.lines = lambda _: ErrorLines((), (), ("pod",), Because.FORBIDDEN, "pods/log is forbidden")
    limits, _ = soaked(world)
    assert (limits.outcome, limits.because) == (Outcome.UNKNOWN, Because.FORBIDDEN)
    assert limits.measured[1] == Problem("pods/log is forbidden")


def test_an_api_that_was_away_for_a_while_leaves_fewer_looks(world: World) -> None:
    world.away = lambda now: now < 30
    limits, _ = soaked(world)
    assert limits.passed
    assert limits.measured[1] == Count(Unit.LOOKS, 7)


def test_without_probers_latency_is_skipped(world: World) -> None:
    _, latency = soaked(world, probed=False)
    assert (latency.id, latency.outcome) == (CheckId.SOAK_LATENCY, Outcome.SKIPPED)
    assert latency.setting == "probing.per_second"


def test_too_few_answers_show_no_latency(world: World) -> None:
    world.answers = 1
    _, latency = soaked(world)
    assert (latency.outcome, latency.because) == (Outcome.UNKNOWN, Because.TOO_FEW)


QUERY = Gates(prometheus_url="http://p", queries=(Query(name="lag", query="x", limit=1),))


def from_30(there: Any, else_: Any) -> Callable[[float], Any]:
    return lambda now: there if now >= 30 else else_


@pytest.mark.parametrize(
    ("change", "target", "id", "breach"),
    [
        ({"failed": from_30(1, 0)}, {}, CheckId.REQUESTS_ANSWERED, None),
        (
            {"failed": from_30(30, 0)},
            {"probing": Probing(allowed_failures=1000)},
            CheckId.SOAK_GATES,
            BreachId.ERROR_PERCENT,
        ),
        ({"took": from_30(2.0, 0.005)}, {}, CheckId.SOAK_LATENCY, BreachId.LATENCY_P95),
        ({"restarts": from_30(1, 0)}, {}, CheckId.SOAK_GATES, BreachId.RESTARTS),
        (
            {"lines": from_30(ErrorLines(("pod: ERROR x",), ("pod",)), READ)},
            {},
            CheckId.SOAK_GATES,
            BreachId.ERROR_LINES,
        ),
        ({"value": from_30((2.0, ""), (0.0, ""))}, {"gates": QUERY}, CheckId.SOAK_QUERY, None),
    ],
    ids=["a lost request", "an error rate", "latency", "a restart", "error lines", "a query"],
)
def test_a_breach_ends_the_soak_at_once(
    world: World,
    change: dict[str, Any],
    target: dict[str, Any],
    id: CheckId,
    breach: BreachId | None,
) -> None:
    for name, value in change.items():
        setattr(world, name, value)
    with pytest.raises(PromotionFailed) as ended:
        soaked(world, **target)
    assert world.clock.now == 30
    found = {check.id: check for check in ended.value.checks}[id]
    assert found.failed
    if breach is not None:
        assert [value.id for value in found.measured if isinstance(value, Breach)] == [breach]


def test_each_prober_has_its_latency_and_its_gates(world: World) -> None:
    outside = Outside()
    checks = soaked(world, outside)
    assert [check.subject for check in checks[1:3]] == [world.place, outside.place]
    outside.failed = from_30(1, 0)
    outside.clock = world.clock
    world.clock.now = 0
    with pytest.raises(PromotionFailed) as ended:
        soaked(world, outside)
    assert {check.subject for check in ended.value.checks} == {outside.place}


def test_a_query_that_never_answered_fails_at_the_end(world: World) -> None:
    world.value = lambda _: (None, "no sample")
    with pytest.raises(PromotionFailed) as ended:
        soaked(world, gates=QUERY)
    assert world.clock.now == 60
    (check,) = (check for check in ended.value.checks if check.id is CheckId.SOAK_QUERY)
    assert (check.outcome, check.measured[0]) == (Outcome.UNKNOWN, Problem("no sample"))
    assert texts.sentence(check) == str(ended.value)


def test_a_query_that_missed_once_is_not(world: World) -> None:
    world.value = lambda now: (None, "ConnectError") if now == 60 else (0.5, "")
    check = soaked(world, gates=QUERY)[-1]
    assert (check.subject, check.measured) == ("lag", (Sample(0.5, 1),))


def test_without_a_soak_nothing_is_read(world: World) -> None:
    world.account = None  # type: ignore[method-assign,assignment]
    cluster = Cluster("c", Path("k"), "c", True)
    target = Target("prod", cluster, "launch", "rel", Path("x"), IMAGE.repository)
    Soak(session_of(target), (world,), IMAGE, [])


def test_pod_seconds_are_the_pods_ages() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, 1, tzinfo=UTC)
    pods = [{"status": {"startTime": f"2026-01-01T00:{m}:00Z"}} for m in ("00", "59")]
    assert soak.listened(pods, now) == 600 + 60
    assert soak.listened(pods, now, longest=None) == 3600 + 60
    assert soak.listened([{"status": {}}], now) == 0
