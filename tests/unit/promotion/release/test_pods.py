"""A trial with pods of ours: turned off, not admitted, without pods, and tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.errors import CommandFailed
from ci.model import Cluster, Target
from ci.promotion.release.pods import PULL, Trial
from ci.results import Because, Check, CheckId, Count, Measured, Outcome, Problem, Unit
from tests.unit.sessions import session_of

TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")
POD = {"metadata": {"name": "promotion-pull-1"}}


class Api:
    """A cluster that admits pods, or says why not."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal, self.made, self.removed = refusal, list[Any](), 0

    def for_cleanup(self) -> Api:
        return self

    def create(self, _: str, __: str, pod: Any) -> None:
        if self.refusal:
            raise CommandFailed("POST pods", output=self.refusal)
        self.made.append(pod)

    def remove_pods(self, *_: object) -> None:
        self.removed += 1


class Tried(Trial):
    id = CheckId.IMAGE_PULLABLE

    def _watched(self) -> tuple[Measured, ...]:
        return (Count(Unit.NODES, 1),)


def tried(api: Api, *pods: Any, setting: str = "") -> Check:
    session = session_of(TARGET, kube=api)
    with Tried(session, PULL, pods, setting=setting) as trial:
        return trial.check()


def test_what_was_tried_passes_with_what_was_measured() -> None:
    api = Api()
    check = tried(api, POD)
    assert (check.id, check.outcome) == (CheckId.IMAGE_PULLABLE, Outcome.PASSED)
    assert check.measured == (Count(Unit.NODES, 1),)
    assert (api.made, api.removed) == ([POD], 1)


def test_what_is_turned_off_is_skipped_and_makes_no_pod() -> None:
    api = Api()
    check = tried(api, POD, setting="pull_on_nodes")
    assert (check.outcome, check.setting) == (Outcome.SKIPPED, "pull_on_nodes")
    assert (api.made, api.removed) == ([], 0)


@pytest.mark.parametrize("refusal", ["Error from server (Forbidden): violates PodSecurity"])
def test_a_pod_that_is_not_admitted_has_shown_nothing(refusal: str) -> None:
    check = tried(Api(refusal), POD)
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, Because.NOT_ADMITTED)
    assert check.measured == (Problem(refusal),)


def test_without_a_pod_nothing_was_tried() -> None:
    assert tried(Api()).outcome is Outcome.UNKNOWN
