"""Which requests count, and what becomes of a promotion when some are lost."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ci.errors import PlanRefused, PromotionFailed
from ci.model import Cluster, Probing, Target
from ci.promotion.probes import accounting
from ci.promotion.probes.in_cluster import InsideProber
from ci.promotion.probes.prober import Account
from ci.run.context import Context
from ci.tools.wait import SystemClock
from tests.unit.serving import service


def target(port: int, path: str = "/readyz") -> Target:
    cluster = Cluster("c", Path("k"), "c", True)
    found = Target("prod", cluster, "launch", "rel", Path("x"), "r:5000/engine")
    url = f"http://127.0.0.1:{port}{path}" if port else ""
    return replace(found, probing=Probing(per_second=50, timeout_seconds=2, outside_url=url))


CONTEXT = cast(Context, SimpleNamespace(clock=SystemClock()))


@dataclass
class Ended:
    """A prober whose account is final."""

    failed: int | None
    where: str = "inside the cluster"
    what: str = "requests"

    def account(self) -> Account | None:
        return self.stop()

    def stop(self) -> Account | None:
        if self.failed is None:
            return None
        why = (("HTTP 502", self.failed),) if self.failed else ()
        return Account(90 + self.failed, 90, self.failed, 0, 0, 0, why)


def answered(where: Target) -> Account:
    with accounting.probing_outside(where) as prober, ExitStack() as held:
        assert prober is not None
        inside = cast(InsideProber, Ended(0))
        assert accounting.steady(CONTEXT, where, inside, prober, held) == (inside, prober)
        return prober.stop()


def test_clients_elsewhere_are_answered() -> None:
    with service(200) as port:
        found = answered(target(port))
    assert found.sent == found.answered >= accounting.BASELINE_PROBES


def test_a_way_that_fails_before_the_change_refuses_it() -> None:
    with (
        service(503) as port,
        pytest.raises(
            PlanRefused, match=rf"from outside, http://127.0.0.1:{port}/.*HTTP 503"
        ) as no,
    ):
        answered(target(port))
    assert "probing.outside_url" in no.value.remedy


def test_a_way_that_leads_nowhere_refuses_it() -> None:
    with service(200) as port:
        gone = target(port)
    with pytest.raises(PlanRefused, match="ConnectError"):
        answered(gone)


@pytest.mark.parametrize("where", [target(0), replace(target(80), probing=Probing(per_second=0))])
def test_nobody_asks_from_outside_where_it_is_not_given(where: Target) -> None:
    with accounting.probing_outside(where) as prober:
        assert prober is None


OUTSIDE = ("from outside, https://e.example", "requests from outside")


def test_each_account_is_a_check() -> None:
    checks = accounting.count_probes(target(80), (Ended(0), Ended(0, *OUTSIDE)))
    assert [check.name for check in checks] == [
        "requests during the change",
        "requests from outside during the change",
    ]
    assert checks[1].evidence.startswith("90 sent, 90 answered, 0 failed")
    assert checks[1].evidence.endswith(OUTSIDE[0])


@pytest.mark.parametrize(
    ("failed", "says"),
    [(1, r"lost during the change: 91 sent.*HTTP 502.*from outside"), (None, "outside.*was lost")],
)
def test_what_is_lost_outside_alone_ends_it(failed: int | None, says: str) -> None:
    with pytest.raises(PromotionFailed, match=says):
        accounting.count_probes(target(80), (Ended(0), Ended(failed, *OUTSIDE)))


def test_none_is_told_apart_from_no_loss() -> None:
    (check,) = accounting.count_probes(target(0), ())
    assert check.evidence == "not probed: turned off"


def test_no_prober_counts_where_it_is_turned_off() -> None:
    off = replace(target(0), probing=Probing(per_second=0))
    with ExitStack() as held:
        assert accounting.steady(CONTEXT, off, None, None, held) == ()
