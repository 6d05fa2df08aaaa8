"""Requests at a steady rate from before the change to its end: which prober sends them, and the
account of every one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from ci import texts
from ci.errors import (
    CommandFailed,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    WaitTimeout,
    error_summary,
)
from ci.model import ProbesRecord, Target
from ci.promotion.probes import api_proxy
from ci.promotion.probes.canary import Canary
from ci.promotion.probes.in_cluster import InsideProber
from ci.promotion.probes.prober import Account, Counting, Prober
from ci.promotion.release.baseline import Before
from ci.promotion.release.failure import failure
from ci.promotion.release.session import TargetSession
from ci.report import files
from ci.results import (
    Because,
    Check,
    CheckId,
    Phase,
    ProbePlace,
    failed,
    judged,
    skipped,
    unknown,
)
from ci.tools.wait import wait_until

SETTING = "probing.per_second"
BASELINE_PROBES = 5
"""Answers the prober must have before the upgrade may begin."""


@contextmanager
def probing_inside(session: TargetSession, before: Before) -> Iterator[InsideProber | None]:
    """A prober in the target's namespace, removed at the end; none where it is turned off or not
    allowed. It starts beside the next steps."""
    target = session.target
    if target.probing.per_second <= 0 or not target.probing.inside:
        yield None
        return
    try:
        inside = InsideProber(
            session,
            before.snapshot.deployments[target.gateway],
            before.image.by_tag,
        )
    except CommandFailed as problem:
        session.events.note(f"no prober inside the cluster: {error_summary(problem)}")
        yield None
        return
    try:
        yield inside
    finally:
        inside.remove()


@contextmanager
def probing_outside(session: TargetSession) -> Iterator[Prober | None]:
    """A prober that takes the way of clients outside the cluster, where one is given."""
    target = session.target
    if target.probing.per_second <= 0 or not target.probing.outside_url:
        yield None
        return
    # Its HTTP library takes time to load, which most targets need not spend.
    from ci.promotion.probes import external

    with external.client(target) as client, external.prober(session, client) as prober:
        yield prober


def steady(
    session: TargetSession,
    inside: InsideProber | None,
    outside: Prober | None,
    held: ExitStack,
) -> tuple[Counting, ...]:
    """The probers that will count, once they have their first answers: the one inside, else one
    through the API server, which lives in ``held``; and the one outside, where there is one.

    Raises :class:`PlanRefused` when the service does not answer steadily before the change.
    """
    target = session.target
    if target.probing.per_second <= 0:
        return ()
    within = _within(session, inside, held)
    probers = (within,) if outside is None else (within, outside)
    # However the promotion ends, before the probers go.
    held.callback(record, session, probers)
    if outside is not None:
        wait_for_answers(
            session,
            outside,
            PlanRefused,
            remedy="repair the way in, or mend its address (probing.outside_url)",
        )
    return probers


def _within(session: TargetSession, inside: InsideProber | None, held: ExitStack) -> Counting:
    target = session.target
    if inside is not None:
        try:
            wait_for_answers(session, inside, CommandFailed)
            return inside
        except (CommandFailed, WaitTimeout) as problem:
            session.events.note(
                f"no answers to the prober inside the cluster ({error_summary(problem)}):"
                " probing through the API server"
            )
    prober = held.enter_context(
        Prober(
            api_proxy.sender(session.kube, target),
            per_second=target.probing.per_second,
            timeout=target.probing.timeout_seconds,
            clock=session.for_cleanup().clock,
            place=ProbePlace.API_PROXY,
            began=session.events.began,
            allowed_failures=target.probing.allowed_failures,
        )
    )
    wait_for_answers(session, prober, PlanRefused)
    return prober


def wait_for_answers(
    session: TargetSession,
    prober: Counting,
    error: type[PipelineError],
    *,
    remedy: str = "repair the service, or allow get of services/proxy; the prober's path and rate"
    " are settings",
) -> None:
    """Wait for the first answers; raise ``error`` at the first request that fails."""
    target = session.target

    def answered() -> bool:
        now = prober.account()
        if now is not None and now.failed:
            check = failed(CheckId.REQUESTS_ANSWERED, now.requests(), subject=prober.place)
            raise failure(
                error,
                Phase.BEFORE,
                (check,),
                context=f"{target.probing.path} does not answer steadily before the change",
                remedy=remedy,
            )
        return now is not None and now.answered >= BASELINE_PROBES

    wait_until(
        f"{BASELINE_PROBES} answers of {target.probing.path} {texts.PROBE_PLACES[prober.place]}",
        answered,
        timeout=target.probing.timeout_seconds + 15,
        clock=session.clock,
        interval=0.15,  # the one inside says something four times a second
    )


def counted(target: Target, probers: Sequence[Counting], canary: Canary) -> tuple[Check, ...]:
    """The account of every request and of every task. Raises :class:`PromotionFailed`."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="count") as pool:
        tasks = pool.submit(canary.account)
        requests = count_probes(target, probers)
        return requests + tasks.result()


def count_probes(target: Target, probers: Sequence[Counting]) -> tuple[Check, ...]:
    """The account of every request. Raises :class:`PromotionFailed` when too many failed, or
    when a prober was lost, so that nobody knows."""
    if not probers:
        return (skipped(CheckId.REQUESTS_ANSWERED, SETTING),)
    checks = tuple(account_of(target, prober.place, prober.stop()) for prober in probers)
    if not all(check.passed for check in checks):
        raise failure(PromotionFailed, Phase.DURING, checks)
    return checks


def account_of(target: Target, place: ProbePlace, account: Account | None) -> Check:
    """What became of a prober's requests; unknown where there is no account of them."""
    if account is None:
        return unknown(CheckId.REQUESTS_ANSWERED, Because.LOST, subject=place)
    allowed = target.probing.allowed_failures
    ok = account.failed <= allowed
    return judged(CheckId.REQUESTS_ANSWERED, ok, account.requests(allowed), subject=place)


def record(session: TargetSession, probers: Sequence[Counting]) -> None:
    """Write ``probes.json``: what each prober sent and got, over time. Stops those that still
    send. What cannot be read or written is noted: it changes no verdict."""
    try:
        for prober in probers:
            prober.stop()
        files.write(session.folder, ProbesRecord(tuple(prober.series() for prober in probers)))
    except (PipelineError, OSError) as problem:
        session.events.note(f"no requests over time were written: {error_summary(problem)}")
