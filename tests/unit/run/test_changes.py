"""Where a target stands is read from the events of a run, whether it ended or was killed."""

from __future__ import annotations

from ci.results import CauseId, ChangeState
from ci.run import changes

FIRST = {"target": "prod", "state": "untouched", "release": "launch", "from_revision": 7}


def test_without_an_event_nothing_is_known() -> None:
    assert changes.latest([]) is None


def test_what_was_said_before_stays_known() -> None:
    found = changes.latest([FIRST, {"target": "prod", "state": "under-way", "to_revision": 8}])
    assert found is not None
    assert found.state is ChangeState.UNDER_WAY
    assert (found.release, found.from_revision, found.to_revision) == ("launch", 7, 8)


def test_the_last_state_counts() -> None:
    later = [
        {"target": "prod", "state": "under-way"},
        {"target": "prod", "state": "rolled-back", "cause": next(iter(CauseId)).value},
    ]
    found = changes.latest([FIRST, *later])
    assert found is not None
    assert found.state is ChangeState.ROLLED_BACK
    assert found.cause is next(iter(CauseId))


def test_what_cannot_be_understood_is_passed_over() -> None:
    found = changes.latest([FIRST, {"target": "prod", "state": "no such state", "release": "x"}])
    assert found is not None
    assert found.state is ChangeState.UNTOUCHED
    assert found.release == "launch"
    assert changes.latest([{"state": "promoted"}]) is None, "of no target"
