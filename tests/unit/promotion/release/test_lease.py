"""A lock is taken over only from a holder that is provably gone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest

from ci.errors import Locked
from ci.promotion.release import lease
from ci.tools.kube import Kube
from ci.tools.process_identity import Process

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
    assert me.process == Process.this()
    unknown = lease.Holder("h", Process(1, "", ""))
    assert lease.Holder.parse(str(unknown)) == unknown
    for text in ("", "somebody", "a/b/c/d/e", "a/b/1/2"):
        assert lease.Holder.parse(text) is None


ME = Process.this()


@pytest.mark.parametrize(
    ("holder", "taken_over"),
    [(replace(ME, started="1"), True), (ME, False), (replace(ME, boot="another"), False)],
    ids=["ended on this machine", "runs on this machine", "of another machine"],
)
def test_only_a_holder_that_certainly_ended_is_replaced_before_its_time(
    holder: Process, taken_over: bool
) -> None:
    found = {
        "holderIdentity": str(lease.Holder("host", holder)),
        "renewTime": datetime.now(UTC).isoformat(),
    }
    kube = cast(Kube, SimpleNamespace(for_cleanup=lambda: None))
    lock = lease.Lease(kube, release="rel", namespace="launch")
    if taken_over:
        lock._refuse_held({"spec": found})
    else:
        with pytest.raises(Locked, match=f"process {ME.pid} on host"):
            lock._refuse_held({"spec": found})


def test_the_journal_is_in_our_annotations() -> None:
    assert lease.journal(held(0)) == {"step": "upgrading"}
    assert lease.journal({}) == {}
