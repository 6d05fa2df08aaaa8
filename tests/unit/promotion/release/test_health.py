"""What a release answers, and what it does not: its API and who may ask for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ci.model import Cluster, Target
from ci.openapi_compat import Described
from ci.promotion.release import health, reader
from ci.results import Because, CheckId, Count, HttpAnswer, Outcome, Unit
from ci.tools.api import Answer
from ci.tools.kube import Kube

TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")
DESCRIBED = '{"paths": {"/tasks": {}}}'


class Api:
    def __init__(self, code: int, text: str = "") -> None:
        self.answer = Answer(code, text)

    def ask(self, *_: object, **__: object) -> Answer:
        return self.answer


def kube(code: int, text: str = "") -> Kube:
    return cast(Kube, Api(code, text))


@pytest.mark.parametrize(
    ("code", "text", "found"),
    [
        (200, DESCRIBED, {"paths": {"/tasks": {}}}),
        (200, "<html>", Because.NOT_DESCRIBED),
        (404, "", Because.NOT_DESCRIBED),
        (403, "", Because.FORBIDDEN),
        (503, "", Because.NO_ANSWER),
        (0, "timed out", Because.NO_ANSWER),
    ],
)
def test_why_there_is_no_description(code: int, text: str, found: Described) -> None:
    assert health.openapi(kube(code, text), TARGET) == found
    check = health.compatible(kube(code, text), TARGET, {"paths": {"/tasks": {}}})
    assert check.id is CheckId.API_STILL_COMPATIBLE
    if isinstance(found, Because):
        assert (check.outcome, check.because) == (Outcome.UNKNOWN, found)
    else:
        assert (check.outcome, check.measured) == (Outcome.PASSED, (Count(Unit.API_PATHS, 1),))


def test_a_comparison_that_is_turned_off_is_skipped() -> None:
    check = health.compatible(kube(200, DESCRIBED), replace(TARGET, openapi_path=""), None)
    assert (check.outcome, check.setting) == (Outcome.SKIPPED, "service.openapi_path")


def test_a_health_path_is_measured_by_its_answer() -> None:
    fine, *_ = health.health_without_forward(kube(200, "ok"), TARGET)
    assert (fine.id, fine.subject, fine.outcome) == (
        CheckId.HEALTH_PATH, TARGET.health_paths[0], Outcome.PASSED,
    )  # fmt: skip
    assert fine.measured == (HttpAnswer(200, body="ok"),)
    away, *_ = health.health_without_forward(kube(0, "timed out"), TARGET)
    assert (away.outcome, away.measured) == (Outcome.FAILED, (HttpAnswer(0, body="timed out"),))


@pytest.mark.parametrize(
    ("code", "because"),
    [(403, Because.FORBIDDEN), (401, Because.FORBIDDEN), (0, Because.NO_ANSWER)],
)
def test_service_accounts_that_cannot_be_read_are_not_none(code: int, because: Because) -> None:
    assert reader.accounts(kube(code), TARGET) is because
    assert reader.accounts(kube(200, '{"items": []}'), TARGET) == {}
