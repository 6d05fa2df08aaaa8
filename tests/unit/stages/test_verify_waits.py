"""``verify`` judges what a release comes to, not the moment in which it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.errors import VerifyFailed
from ci.model import Cluster, Target
from ci.promotion.release import health, logs, reader
from ci.promotion.release.logs import ErrorLines
from ci.promotion.release.rollout import Snapshot
from ci.results import (
    Check,
    CheckId,
    Count,
    GapId,
    HttpAnswer,
    ImageRef,
    RolloutGap,
    Unit,
    passed,
)
from ci.stages import verify
from ci.tools.helm import Revision
from tests.unit.promotion.release.test_rollout import (
    NEW,
    OLD,
    REPOSITORY,
    draining,
    in_state,
    items,
    pod,
)
from tests.unit.promotion.upgrade.test_soak import ManualClock
from tests.unit.sessions import session_of

TARGET = Target(
    "prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("chart"), REPOSITORY,
    gateway="gateway", deployments=("gateway", "cacher"),
)  # fmt: skip


class World:
    """What is listed, look by look; the last for good."""

    def __init__(self, *looks: list[dict[str, Any]]) -> None:
        self.clock = ManualClock()
        self.looks: Iterator[list[dict[str, Any]]] = iter(looks)
        self.last: list[dict[str, Any]] = []
        self.read: list[str] = []

    def snapshot(self, *_: Any) -> Snapshot:
        self.last = next(self.looks, self.last)
        return Snapshot.of(self.last)

    def error_lines(self, _kube: Any, _target: Any, pods: Any, **_: Any) -> ErrorLines:
        self.read += [each["metadata"]["name"] for each in pods]
        return ErrorLines((), tuple(self.read))


def verified(monkeypatch: pytest.MonkeyPatch, world: World) -> dict[CheckId, Check]:
    monkeypatch.setattr(reader, "snapshot", world.snapshot)
    monkeypatch.setattr(logs, "error_lines", world.error_lines)
    monkeypatch.setattr(reader, "find", lambda *_: [Revision(3, "deployed", "engine-1", "")])
    monkeypatch.setattr(
        health, "health", lambda *_: (passed(CheckId.HEALTH_PATH, HttpAnswer(200)),)
    )
    session = session_of(TARGET, clock=world.clock)
    return {check.id: check for check in verify.verify(session)}


def wrong(monkeypatch: pytest.MonkeyPatch, world: World, id: CheckId) -> Check:
    with pytest.raises(VerifyFailed) as caught:
        verified(monkeypatch, world)
    found = {check.id: check for check in caught.value.checks}[id]
    assert found.failed
    return found


def test_a_release_at_rest_is_verified_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(items())
    verified(monkeypatch, world)
    assert world.clock.now == 0


def test_pods_that_still_drain_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a scale-down, a drained node or a change a moment ago."""
    world = World(draining(), draining(), items())
    checks = verified(monkeypatch, world)
    assert checks[CheckId.PODS_READY].measured == (Count(Unit.PODS, 2),)
    assert world.read == ["g-1", "g-2"]
    assert 0 < world.clock.now < 5


def test_pods_that_do_not_go_are_a_finding_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(draining())
    found = wrong(monkeypatch, world, CheckId.PODS_RUN_DIGEST)
    assert RolloutGap(GapId.PODS_OLD, "gateway", ("g-0",)) in found.measured
    assert world.clock.now >= 30


def test_a_pod_that_does_not_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([*items()[:4], in_state("ImagePullBackOff"), *items()[5:]])
    found = wrong(monkeypatch, world, CheckId.PODS_READY)
    assert any("ImagePullBackOff" in str(value) for value in found.measured)
    assert world.clock.now == 0


def test_two_digests_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = items()
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    found = wrong(monkeypatch, World(changed), CheckId.PODS_RUN_DIGEST)
    assert {each.digest for each in found.measured if isinstance(each, ImageRef)} == {NEW, OLD}
