"""Which requests count, and what becomes of a promotion when some are lost."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest

from ci import texts
from ci.errors import PlanRefused, PromotionFailed
from ci.model import Cluster, ProbeSeries, ProbesRecord, Target
from ci.promotion.probes import accounting, external
from ci.promotion.probes.in_cluster import InsideProber
from ci.promotion.probes.prober import Account
from ci.promotion.release.session import TargetSession
from ci.report import files
from ci.results import Because, CheckId, Outcome, ProbePlace, Requests
from ci.settings import Probing
from tests.unit.serving import service
from tests.unit.sessions import session_of


def target(port: int, path: str = "/readyz") -> Target:
    cluster = Cluster("c", Path("k"), "c", True)
    found = Target("prod", cluster, "launch", "rel", Path("x"), "r:5000/engine")
    url = f"http://127.0.0.1:{port}{path}" if port else ""
    return replace(found, probing=Probing(per_second=50, timeout_seconds=2, outside_url=url))


@dataclass
class Ended:
    """A prober whose account is final."""

    failed: int | None
    place: ProbePlace = ProbePlace.IN_CLUSTER

    def account(self) -> Account | None:
        return self.stop()

    def stop(self) -> Account | None:
        if self.failed is None:
            return None
        why = (("HTTP 502", self.failed),) if self.failed else ()
        return Account(90 + self.failed, 90, self.failed, 0, 0, 0, why)

    def series(self) -> ProbeSeries:
        final = self.stop()
        return ProbeSeries(self.place, final.requests() if final else None, ())


def answered(where: Target, folder: Path) -> Account:
    session = session_of(where, folder=folder)
    with accounting.probing_outside(session) as prober, ExitStack() as held:
        assert prober is not None
        inside = cast(InsideProber, Ended(0))
        assert accounting.steady(session, inside, prober, held) == (inside, prober)
        return prober.stop()


def test_clients_elsewhere_are_answered(tmp_path: Path) -> None:
    with service(200) as port:
        found = answered(target(port), tmp_path)
    assert found.sent == found.answered >= accounting.BASELINE_PROBES


def test_a_way_that_fails_before_the_change_refuses_it(tmp_path: Path) -> None:
    with service(503) as port, pytest.raises(PlanRefused) as no:
        answered(target(port), tmp_path)
    assert "probing.outside_url" in no.value.remedy
    (check,) = no.value.checks
    assert (check.id, check.subject) == (CheckId.REQUESTS_ANSWERED, ProbePlace.EXTERNAL)
    assert isinstance(check.measured[0], Requests)
    assert check.measured[0].problems[0][0] == "HTTP 503"


def test_a_way_that_leads_nowhere_refuses_it(tmp_path: Path) -> None:
    with service(200) as port:
        gone = target(port)
    with pytest.raises(PlanRefused, match="ConnectError"):
        answered(gone, tmp_path)


@pytest.mark.parametrize("where", [target(0), replace(target(80), probing=Probing(per_second=0))])
def test_nobody_asks_from_outside_where_it_is_not_given(where: Target) -> None:
    with accounting.probing_outside(session_of(where)) as prober:
        assert prober is None


OUTSIDE = ProbePlace.EXTERNAL


def test_each_account_is_a_check() -> None:
    checks = accounting.count_probes(target(80), (Ended(0), Ended(0, OUTSIDE)))
    assert [(check.id, check.outcome, check.subject) for check in checks] == [
        (CheckId.REQUESTS_ANSWERED, Outcome.PASSED, ProbePlace.IN_CLUSTER),
        (CheckId.REQUESTS_ANSWERED, Outcome.PASSED, ProbePlace.EXTERNAL),
    ]
    assert checks[1].measured == (Requests(90, 90, 0, 0, 0, 0),)


@pytest.mark.parametrize(
    ("failed", "outcome", "because"),
    [(1, Outcome.FAILED, None), (None, Outcome.UNKNOWN, Because.LOST)],
)
def test_what_is_lost_outside_alone_ends_it(
    failed: int | None, outcome: Outcome, because: Because | None
) -> None:
    with pytest.raises(PromotionFailed) as lost:
        accounting.count_probes(target(80), (Ended(0), Ended(failed, OUTSIDE)))
    inside, outside = lost.value.checks
    assert inside.passed
    assert (outside.outcome, outside.because, outside.subject) == (outcome, because, OUTSIDE)
    assert texts.sentence(outside) in str(lost.value)
    assert texts.sentence(inside) not in str(lost.value)


def test_failures_that_are_allowed_pass() -> None:
    allowed = replace(target(80), probing=Probing(allowed_failures=1))
    (check,) = accounting.count_probes(allowed, (Ended(1),))
    assert check.passed
    assert check.measured[0] == Requests(91, 90, 1, 0, 0, 0, (("HTTP 502", 1),), 1)


def test_no_prober_is_told_apart_from_no_loss() -> None:
    (check,) = accounting.count_probes(target(0), ())
    assert (check.outcome, check.setting) == (Outcome.SKIPPED, "probing.per_second")


def test_no_prober_counts_where_it_is_turned_off() -> None:
    off = replace(target(0), probing=Probing(per_second=0))
    with ExitStack() as held:
        assert accounting.steady(session_of(off), None, None, held) == ()


def test_however_it_ends_the_requests_over_time_are_kept(tmp_path: Path) -> None:
    def fails(session: TargetSession) -> None:
        with ExitStack() as held:
            outside = held.enter_context(accounting.probing_outside(session))
            accounting.steady(session, cast(InsideProber, Ended(0)), outside, held)
            raise PromotionFailed("the new version is bad")

    with service(200) as port, pytest.raises(PromotionFailed):
        fails(session_of(target(port), folder=tmp_path))
    kept = files.read(tmp_path, ProbesRecord, [])
    assert kept is not None
    one, other = kept.series
    assert (one.place, other.place) == (ProbePlace.IN_CLUSTER, ProbePlace.EXTERNAL)
    assert other.url == f"http://127.0.0.1:{port}/readyz"
    assert other.final is not None
    assert sum(bucket.sent for bucket in other.buckets) == other.final.sent > 0


def test_an_address_is_kept_without_its_secrets() -> None:
    assert external.bare("https://user:pw@e.example:8443/x?token=1#y") == "https://e.example:8443/x"
