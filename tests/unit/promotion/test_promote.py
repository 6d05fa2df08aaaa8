"""Which revision the command ``rollback`` returns to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ci.errors import PlanRefused
from ci.stages import promote
from ci.tools.helm import Revision


def revisions(*statuses: str) -> list[Revision]:
    return [Revision(n, s, "c-1", "") for n, s in enumerate(statuses, 1)]


@pytest.mark.parametrize(
    ("history", "asked", "recorded", "goal"),
    [
        (revisions("superseded", "deployed"), None, "", 1),
        (revisions("deployed", "failed"), None, "", 1),
        (revisions("deployed", "pending-upgrade"), None, "", 1),
        (revisions("superseded", "superseded", "failed"), None, "", 2),
        (revisions("superseded", "failed", "deployed"), None, "", 1),
        (revisions("superseded", "superseded", "deployed"), None, "1", 1),
        (revisions("superseded", "superseded", "deployed"), 3, "1", 3),
        (revisions("superseded", "superseded", "deployed"), None, "99", 2),
    ],
)
def test_where_to_roll_back_to(
    history: list[Revision], asked: int | None, recorded: str, goal: int
) -> None:
    assert promote.choose(history, asked, recorded).number == goal


def test_what_was_rolled_back_already_is_not_where_to_go() -> None:
    history = revisions("superseded", "superseded", "superseded", "deployed")
    history[-1] = replace(history[-1], description="Rollback to 2")
    assert promote.choose(history, None, "").number == 1
    history[-1] = replace(history[-1], description="Rollback to 1")
    with pytest.raises(PlanRefused, match="no revision before 1"):
        promote.choose(history, None, "")


@pytest.mark.parametrize(
    ("history", "asked"),
    [(revisions("deployed"), None), (revisions("pending-install"), None),
     (revisions("superseded", "failed", "deployed"), 2), (revisions("deployed"), 9)],
)  # fmt: skip
def test_nowhere_to_roll_back_to(history: list[Revision], asked: int | None) -> None:
    with pytest.raises(PlanRefused, match="there is no revision"):
        promote.choose(history, asked, "")
