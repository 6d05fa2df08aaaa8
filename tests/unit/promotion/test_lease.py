"""A lock is taken over only from a holder that is provably gone."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from ci.promotion import lease

NOW = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)


def held(seconds_ago: float, holder: str = "h/b/1/2/r") -> dict[str, object]:
    renewed = (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 30},
        "metadata": {"annotations": {"queue-timeout-gate/step": "upgrading", "other": "x"}},
    }


@pytest.mark.parametrize(("ago", "holds"), [(0, True), (59, True), (61, False), (-100, True)])
def test_it_holds_for_its_duration_and_an_allowance_for_clocks(ago: float, holds: bool) -> None:
    assert bool(lease.held_by(held(ago), NOW)) is holds


def test_a_released_lease_is_nobodys() -> None:
    assert lease.held_by(held(0, holder=""), NOW) == ""
    assert lease.held_by({}, NOW) == ""


def test_a_holder_can_be_read_back() -> None:
    me = lease.Holder.me()
    assert lease.Holder.parse(str(me)) == me
    assert me.pid == os.getpid()
    for text in ("", "somebody", "a/b/c/d/e", "a/b/1/2"):
        assert lease.Holder.parse(text) is None


def test_gone_means_another_process_has_the_number_on_this_very_machine() -> None:
    holder = lease.Holder("host", "boot", 10, "500")
    assert not lease.gone(holder, here="boot", started_now="500")
    assert lease.gone(holder, here="boot", started_now="")
    assert lease.gone(holder, here="boot", started_now="900")
    assert not lease.gone(holder, here="another", started_now="")
    unknown = lease.Holder("host", "?", 10, "")
    assert not lease.gone(unknown, here="?", started_now="500")


def test_the_journal_is_in_our_annotations() -> None:
    assert lease.journal(held(0)) == {"step": "upgrading"}
    assert lease.journal({}) == {}
