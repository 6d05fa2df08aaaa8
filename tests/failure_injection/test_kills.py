"""SIGKILL at every step of the journal. Whoever comes next is never hindered by a lock, and finds
either nothing to repair, or half a change that he is told of and one rollback repairs."""

from __future__ import annotations

import pytest

from ci.errors import PlanRefused
from ci.results import StepId, VerdictId
from tests.failure_injection.kills import AFTER, BEFORE, REPAIRS, Kill, survive
from tests.failure_injection.rig import Place, processes, until
from tests.failure_injection.victim import killed

pytestmark = pytest.mark.timeout(600)


@pytest.mark.end(note=f"killed {len(BEFORE)} times, untouched; 0 requests lost")
def test_killed_before_the_change(place: Place) -> None:
    place.stand()
    for shot in BEFORE:
        survive(place, shot)


@pytest.mark.end(note="next is refused, or nothing is to repair; v1 serves; 0 requests lost")
@pytest.mark.parametrize("shot", AFTER, ids=str)
def test_killed(place: Place, shot: Kill) -> None:
    place.stand()
    survive(place, shot)


@pytest.mark.end(note=f"{len(REPAIRS)} rollbacks killed; the next repairs; 0 requests lost")
def test_killed_in_the_repair(place: Place) -> None:
    place.stand()
    killed(place, "v2", StepId.VERIFY_DIGESTS)
    for shot in REPAIRS:
        survive(place, shot)
    place.rollback()
    place.first = place.history()[-1].number
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end(VerdictId.PROMOTED, note="after kills before the change; 0 requests lost")
def test_next_promotion(place: Place) -> None:
    place.install()
    place.watch()
    for step in (StepId.ACQUIRE_LEASE, StepId.PLAN, StepId.RECHECK_RELEASE, StepId.UPGRADE):
        killed(place, "v2", step)
        assert place.end().version == "v1"
    place.promote("v2")
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(VerdictId.REFUSED, VerdictId.RETURNED, note="0 requests lost")
def test_helm_went_on(place: Place) -> None:
    place.stand()
    killed(place, "v2", StepId.UPGRADE, 2.5)
    until(
        "the orphaned Helm to end",
        lambda: not processes(place.namespace, "upgrade", "--wait"),
        timeout=120,
    )
    place.refused(PlanRefused, "pipeline.py rollback")(place.promote, "v2")
    place.rollback()
    place.ends("v1", 3)
    place.nothing_lost()
