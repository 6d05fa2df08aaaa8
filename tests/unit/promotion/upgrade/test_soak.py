"""The soak against what a cluster answers, on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import Digest
from ci.errors import PromotionFailed
from ci.model import Cluster, Image, Target
from ci.promotion.probes.prober import BUCKETS, Account, Counting, bucket
from ci.promotion.release import logs, reader
from ci.promotion.release.rollout import Snapshot
from ci.promotion.upgrade import soak
from ci.promotion.upgrade.soak import Soak
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import Gates, Probing, Query
from ci.tools.command import Programs
from ci.tools.prometheus import Prometheus

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

    where, what = "inside the cluster", "requests"

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.failed: Callable[[float], int] = lambda now: 0
        self.took: Callable[[float], float] = lambda now: 0.005
        self.restarts: Callable[[float], int] = lambda now: 0
        self.lines: Callable[[float], list[str]] = lambda now: []
        self.value: Callable[[float], tuple[float | None, str]] = lambda now: (0.0, "")
        self._counts = [0] * BUCKETS
        self._answered = 0

    def account(self) -> Account:
        """30 more answers at each look."""
        self._counts[bucket(self.took(self.clock.now))] += 30
        self._answered += 30
        failed = self.failed(self.clock.now)
        return Account(
            self._answered + failed, self._answered, failed, 0, 0, 0,
            (("HTTP 500", failed),) if failed else (), tuple(self._counts),
        )  # fmt: skip

    def stop(self) -> Account:
        return self.account()

    def snapshot(self, *_: Any) -> Snapshot:
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
        lambda *_, since=None, **__: [] if since else world.lines(world.clock.now),
    )
    monkeypatch.setattr(reader, "private_kube", lambda *_: None)
    monkeypatch.setattr(Prometheus, "ask", lambda *_: world.value(world.clock.now))
    return world


class Outside(World):
    where = "from outside, https://engine.example/readyz"


def soaked(world: World, *others: World, **changed: Any) -> Any:
    cluster = Cluster("c", Path("k"), "c", True)
    described = {"soak_seconds": 60, "gates": Gates(), **changed}
    target = Target("prod", cluster, "launch", "rel", Path("x"), IMAGE.repository, **described)
    context = cast(
        Context,
        SimpleNamespace(clock=world.clock, events=Events(world.clock), programs=Programs(env={})),
    )
    probers: tuple[Counting, ...] = (world, *others)
    made = Soak(context, target, probers, IMAGE, [])
    return made.watch(IMAGE)


def test_a_quiet_soak_takes_its_time_and_shows_latency_by_phase(world: World) -> None:
    checks = soaked(world)
    assert world.clock.now == 60
    assert checks[0].evidence == "60 s"
    assert "before 5/5 ms" in checks[1].evidence.replace("6/6", "5/5")
    assert "soaking" in checks[1].evidence


QUERY = Gates(prometheus_url="http://p", queries=(Query(name="lag", query="x", limit=1),))


def from_30(there: Any, else_: Any) -> Callable[[float], Any]:
    return lambda now: there if now >= 30 else else_


@pytest.mark.parametrize(
    ("change", "target", "says"),
    [
        ({"failed": from_30(1, 0)}, {}, "requests were lost.*HTTP 500"),
        (
            {"failed": from_30(30, 0)},
            {"probing": Probing(allowed_failures=1000)},
            "of the requests failed while it soaked",
        ),
        ({"took": from_30(2.0, 0.005)}, {}, "answers became slow"),
        ({"restarts": from_30(1, 0)}, {}, "1 restarts of the new pods"),
        ({"lines": from_30(["pod: ERROR x"], [])}, {}, "logged 1 error lines.*ERROR x"),
        ({"value": from_30((2.0, ""), (0.0, ""))}, {"gates": QUERY}, "query 'lag' gave 2"),
    ],
    ids=["a lost request", "an error rate", "latency", "a restart", "error lines", "a query"],
)
def test_a_breach_ends_the_soak_at_once(
    world: World, change: dict[str, Any], target: dict[str, Any], says: str
) -> None:
    for name, value in change.items():
        setattr(world, name, value)
    with pytest.raises(PromotionFailed, match=says):
        soaked(world, **target)
    assert world.clock.now == 30


def test_each_prober_has_its_latency_and_its_gates(world: World) -> None:
    outside = Outside()
    evidence = [check.evidence for check in soaked(world, outside)]
    assert [text.rpartition("; ")[2] for text in evidence[1:3]] == [world.where, outside.where]
    outside.failed = from_30(1, 0)
    outside.clock = world.clock
    world.clock.now = 0
    with pytest.raises(PromotionFailed, match=r"HTTP 500.*, from outside, https") as breach:
        soaked(world, outside)
    assert world.where not in str(breach.value)


def test_a_query_that_never_answered_is_a_breach_at_the_end(world: World) -> None:
    world.value = lambda _: (None, "no sample")
    with pytest.raises(PromotionFailed, match=r"had no answer.*no sample"):
        soaked(world, gates=QUERY)
    assert world.clock.now == 60


def test_a_query_that_missed_once_is_not(world: World) -> None:
    world.value = lambda now: (None, "ConnectError") if now == 60 else (0.5, "")
    assert soaked(world, gates=QUERY)[-1].evidence == "0.5, limit 1"


def test_without_a_soak_nothing_is_read(world: World) -> None:
    world.account = None  # type: ignore[method-assign,assignment]
    cluster = Cluster("c", Path("k"), "c", True)
    target = Target("prod", cluster, "launch", "rel", Path("x"), IMAGE.repository)
    Soak(cast(Context, SimpleNamespace()), target, (world,), IMAGE, [])


def test_pod_seconds_are_the_pods_ages() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, 1, tzinfo=UTC)
    pods = [{"status": {"startTime": f"2026-01-01T00:{m}:00Z"}} for m in ("00", "59")]
    assert soak.listened(pods, now) == 600 + 60
    assert soak.listened(pods, now, longest=None) == 3600 + 60
    assert soak.listened([{"status": {}}], now) == 0
