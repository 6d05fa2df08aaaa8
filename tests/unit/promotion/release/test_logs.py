"""Error lines, and logs that could not be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ci.model import Cluster, Target
from ci.promotion.release.logs import ErrorLines, error_lines
from ci.results import Because, CheckId, Count, Names, Outcome, Problem, Unit
from ci.tools.api import Answer
from ci.tools.kube import Kube

TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")


def pod(name: str, image: str = "r/engine:1") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "engine", "image": image}]},
    }


class Api:
    def __init__(self, **answers: Answer) -> None:
        self.answers = answers

    def logs(self, name: str, *_: object, **__: object) -> Answer:
        return self.answers[name]


FORBIDDEN = Answer(403, '{"reason": "Forbidden", "message": "pods/log is forbidden"}')
FINE, BAD = Answer(200, "serving\n"), Answer(200, "fine\nERROR lock lost\n")


def read(*pods: dict[str, Any], **answers: Answer) -> ErrorLines:
    return error_lines(cast(Kube, Api(**answers)), TARGET, pods)


def test_logs_without_an_error_line_pass_by_the_number_of_pods() -> None:
    check = read(pod("a"), pod("b"), a=FINE, b=FINE).check()
    assert (check.id, check.outcome) == (CheckId.LOGS_NO_ERRORS, Outcome.PASSED)
    assert check.measured == (Count(Unit.PODS, 2),)


def test_an_error_line_fails_whatever_else_could_not_be_read() -> None:
    found = read(pod("a"), pod("b"), a=BAD, b=FORBIDDEN)
    assert (found.read, found.unread) == (("a",), ("b",))
    check = found.check()
    assert check.failed
    assert check.measured[0] == Names(Unit.LOG_LINES, ("a: ERROR lock lost",), 1)
    assert check.measured[1] == Names(Unit.PODS, ("b",), 1)


@pytest.mark.parametrize(
    ("answer", "because", "problem"),
    [
        (FORBIDDEN, Because.FORBIDDEN, "Error from server (Forbidden): pods/log is forbidden"),
        (Answer(0, "timed out"), Because.NO_ANSWER, "timed out"),
    ],
)
def test_a_log_that_cannot_be_read_is_unknown(
    answer: Answer, because: Because, problem: str
) -> None:
    check = read(pod("a"), pod("b"), a=FINE, b=answer).check()
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, because)
    assert check.measured == (Names(Unit.PODS, ("b",), 1), Problem(problem))


def test_where_no_log_was_read_nothing_passes() -> None:
    assert read().check().outcome is Outcome.UNKNOWN
    other = read(pod("a", image="elsewhere/proxy:1"))
    assert other.unread == ("a",)
    assert other.check().outcome is Outcome.UNKNOWN
