"""The check of a new release begins once, beside the drain, and its end is waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ci.digest import UNKNOWN
from ci.errors import PromotionFailed, ProofFailed
from ci.model import Cluster, Image, Release
from ci.promotion.upgrade.post_upgrade_test import afterwards
from ci.results import Check, CheckId, Count, StepId, Unit, passed
from ci.run.events import Events
from ci.tools.wait import SystemClock

RELEASE = Release(
    Cluster("c", Path("kubeconfig"), "c", disposable=True),
    "launch",
    "r",
    2,
    Image("i", "t", UNKNOWN),
)


TESTED = passed(CheckId.QUEUE_TIMEOUTS, Count(Unit.CASES, 4))


def events() -> Events:
    return Events(SystemClock())


def test_it_runs_beside_what_follows_and_only_once() -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def after(release: Release) -> tuple[Check, ...]:
        seen.append(release)
        begun.set()
        assert go_on.wait(10)
        return (TESTED,)

    told = events()
    with afterwards(told, after) as tested:
        tested.begin(RELEASE)
        tested.begin(RELEASE)
        assert begun.wait(10)
        go_on.set()
        assert tested.end() == (TESTED,)
    assert seen == [RELEASE]
    assert [(e.kind, e.step) for e in told.all] == [
        ("step.started", StepId.TEST_TARGET),
        ("step.finished", StepId.TEST_TARGET),
    ]


def test_what_it_raises_comes_at_its_end() -> None:
    def after(_: Release) -> tuple[Check, ...]:
        raise ProofFailed("test_lock_duration failed")

    with afterwards(events(), after) as tested:
        tested.begin(RELEASE)
        with pytest.raises(ProofFailed, match="test_lock_duration"):
            tested.end()


def test_another_failure_is_told_only_when_the_check_has_ended() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def after(_: Release) -> tuple[Check, ...]:
        begun.set()
        assert go_on.wait(10)
        ended.set()
        return (TESTED,)

    def fails() -> None:
        with afterwards(events(), after) as tested:
            tested.begin(RELEASE)
            assert begun.wait(10)
            threading.Timer(0.05, go_on.set).start()
            raise PromotionFailed("old pods did not go")

    with pytest.raises(PromotionFailed, match="old pods"):
        fails()
    assert ended.is_set()


def test_without_a_check_nothing_happens() -> None:
    told = events()
    with afterwards(told, None) as tested:
        tested.begin(RELEASE)
        assert tested.end() == ()
    assert not told.all
