"""Requests at a steady rate from before the change to its end: which prober sends them, and the
account of every one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from ci.errors import CommandFailed, PipelineError, PlanRefused, PromotionFailed, WaitTimeout
from ci.model import Check, Target
from ci.promotion.probes import api_proxy
from ci.promotion.probes.canary import Canary
from ci.promotion.probes.in_cluster import InsideProber
from ci.promotion.probes.prober import Counting, Prober
from ci.promotion.release import reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.session import TargetSession
from ci.tools.wait import wait_until

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
        session.events.note(f"no prober inside the cluster: {reader.failed_to_text(problem)}")
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
    if outside is None:
        return (within,)
    wait_for_answers(
        session,
        outside,
        PlanRefused,
        remedy="repair the way in, or mend its address (probing.outside_url)",
    )
    return within, outside


def _within(session: TargetSession, inside: InsideProber | None, held: ExitStack) -> Counting:
    target = session.target
    if inside is not None:
        try:
            wait_for_answers(session, inside, CommandFailed)
            return inside
        except (CommandFailed, WaitTimeout) as problem:
            session.events.note(
                f"no answers to the prober inside the cluster ({reader.failed_to_text(problem)}):"
                " probing through the API server"
            )
    prober = held.enter_context(
        Prober(
            api_proxy.sender(session.kube, target),
            per_second=target.probing.per_second,
            timeout=target.probing.timeout_seconds,
            clock=session.for_cleanup().clock,
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
            raise error(
                f"{target.probing.path} does not answer steadily before the change,"
                f" {prober.where}: {now.problems[0][0]}",
                remedy=remedy,
            )
        return now is not None and now.answered >= BASELINE_PROBES

    wait_until(
        f"{BASELINE_PROBES} answers of {target.probing.path} {prober.where}",
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
        return (Check("requests during the change", True, "not probed: turned off"),)
    checks = []
    for prober in probers:
        final = prober.stop()
        if final is None:
            raise PromotionFailed(
                f"the prober {prober.where} was lost: nobody knows whether requests were"
            )
        if final.failed > target.probing.allowed_failures:
            raise PromotionFailed(f"requests were lost during the change: {final}, {prober.where}")
        name = f"{prober.what} during the change"
        checks.append(Check(name, True, f"{final}, {prober.where}"))
    return tuple(checks)
