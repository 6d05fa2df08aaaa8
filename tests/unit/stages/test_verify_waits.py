"""``verify`` judges what a release comes to, not the moment in which it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import VerifyFailed
from ci.model import Check, Cluster, Target
from ci.promotion.release import health, logs, reader
from ci.promotion.release.rollout import Snapshot
from ci.run.context import Context
from ci.run.events import Events
from ci.stages import verify
from ci.tools.helm import Revision
from tests.unit.promotion.release.test_rollout import (
    OLD,
    REPOSITORY,
    draining,
    in_state,
    items,
    pod,
)
from tests.unit.promotion.upgrade.test_soak import ManualClock

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

    def error_lines(self, _kube: Any, _target: Any, pods: Any, **_: Any) -> list[str]:
        self.read += [each["metadata"]["name"] for each in pods]
        return []


def verified(monkeypatch: pytest.MonkeyPatch, world: World) -> dict[str, Check]:
    monkeypatch.setattr(reader, "snapshot", world.snapshot)
    monkeypatch.setattr(logs, "error_lines", world.error_lines)
    monkeypatch.setattr(reader, "private_kube", lambda *_, **__: None)
    monkeypatch.setattr(reader, "find", lambda *_: [Revision(3, "deployed", "engine-1", "")])
    monkeypatch.setattr(health, "health", lambda *_: (Check("/readyz", True, "HTTP 200"),))
    events = Events(world.clock)
    context = cast(Context, SimpleNamespace(clock=world.clock, events=events))
    return {check.name: check for check in verify.verify(context, TARGET)}


def test_a_release_at_rest_is_verified_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(items())
    verified(monkeypatch, world)
    assert world.clock.now == 0


def test_pods_that_still_drain_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a scale-down, a drained node or a change a moment ago."""
    world = World(draining(), draining(), items())
    checks = verified(monkeypatch, world)
    assert checks["all pods are Running and Ready"].evidence == "2 pods"
    assert world.read == ["g-1", "g-2"]
    assert 0 < world.clock.now < 5


def test_pods_that_do_not_go_are_a_finding_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(draining())
    with pytest.raises(VerifyFailed, match="old pods not gone: g-0"):
        verified(monkeypatch, world)
    assert world.clock.now >= 30


def test_a_pod_that_does_not_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([*items()[:4], in_state("ImagePullBackOff"), *items()[5:]])
    with pytest.raises(VerifyFailed, match="is in ImagePullBackOff"):
        verified(monkeypatch, world)
    assert world.clock.now == 0


def test_two_digests_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = items()
    changed[4] = pod("g-1", "gateway-1", digest=OLD)
    with pytest.raises(VerifyFailed, match="every pod runs the image"):
        verified(monkeypatch, World(changed))
