"""The checks of a change: what Helm recorded, ServiceAccounts, health and the API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci.digest import UNKNOWN
from ci.errors import PromotionFailed
from ci.model import Cluster, Image, Release, Target
from ci.promotion.release import health
from ci.promotion.upgrade import upgrade
from ci.results import (
    Because,
    CheckId,
    Count,
    Cure,
    CureId,
    HttpAnswer,
    Names,
    Outcome,
    RevisionRef,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools.helm import Revision
from tests.unit.sessions import session_of

TARGET = Target("prod", Cluster("c", Path("k"), "c", True), "launch", "rel", Path("x"), "r/engine")
IMAGE = Image("r/engine", "new", UNKNOWN)


def test_accounts_that_were_kept_and_that_were_not() -> None:
    kept = upgrade.accounts_kept({"a": "1", "b": "2"}, {"a": "1", "b": "2", "c": "3"})
    assert (kept.outcome, kept.measured) == (Outcome.PASSED, (Count(Unit.SERVICE_ACCOUNTS, 2),))
    again = upgrade.accounts_kept({"a": "1", "b": "2"}, {"a": "9", "b": "2"})
    assert again.failed
    assert again.measured == (
        Names(Unit.SERVICE_ACCOUNTS, ("a",), 1),
        Cure(CureId.HOOK_ANNOTATION),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [(Because.FORBIDDEN, {"a": "1"}), ({"a": "1"}, Because.FORBIDDEN)],
)
def test_accounts_that_may_not_be_read_were_not_seen_to_be_kept(
    before: Mapping[str, str] | Because, after: Mapping[str, str] | Because
) -> None:
    check = upgrade.accounts_kept(before, after)
    assert (check.id, check.outcome) == (CheckId.ACCOUNTS_KEPT, Outcome.UNKNOWN)
    assert check.because is Because.FORBIDDEN


def released(status: str) -> Release:
    history = [Revision(7, status, "engine-1.0", "")]
    helm = SimpleNamespace(history=lambda *_: history)
    return upgrade.released(session_of(TARGET, helm=helm), IMAGE)


def test_a_revision_that_is_not_deployed_fails_its_check() -> None:
    assert released("deployed").revision == 7
    with pytest.raises(PromotionFailed) as ended:
        released("failed")
    (check,) = ended.value.checks
    assert (check.id, check.measured) == (
        CheckId.RELEASE_DEPLOYED, (RevisionRef(7, "failed", "engine-1.0"),),
    )  # fmt: skip


def test_a_change_that_came_to_its_end() -> None:
    check = upgrade.completed(Release(TARGET.cluster, "launch", "rel", 7, IMAGE))
    assert (check.id, check.outcome) == (CheckId.CHANGE_COMPLETED, Outcome.PASSED)
    assert check.measured == (RevisionRef(7, "deployed"),)


FINE = passed(CheckId.HEALTH_PATH, HttpAnswer(200), subject="/readyz")
BAD = failed(CheckId.HEALTH_PATH, HttpAnswer(503), subject="/readyz")
UNDESCRIBED = unknown(CheckId.API_STILL_COMPATIBLE, Because.NOT_DESCRIBED)


def test_an_unhealthy_release_carries_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "compatible", lambda *_: UNDESCRIBED)
    monkeypatch.setattr(health, "health", lambda *_: (FINE,))
    assert upgrade.healthy(session_of(TARGET), None) == (FINE, UNDESCRIBED)
    monkeypatch.setattr(health, "health", lambda *_: (BAD,))
    with pytest.raises(PromotionFailed) as ended:
        upgrade.healthy(session_of(TARGET), None)
    assert ended.value.checks == (BAD, UNDESCRIBED)
