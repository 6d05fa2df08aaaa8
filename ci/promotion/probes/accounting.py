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
from ci.run.context import Context
from ci.tools.wait import SystemClock, wait_until

BASELINE_PROBES = 5
"""Answers the prober must have before the upgrade may begin."""


@contextmanager
def probing_inside(
    context: Context, target: Target, before: Before
) -> Iterator[InsideProber | None]:
    """A prober in the target's namespace, removed at the end; none where it is turned off or not
    allowed. It starts beside the next steps."""
    if target.probing.per_second <= 0 or not target.probing.inside:
        yield None
        return
    try:
        inside = InsideProber(
            context.kube(target.cluster),
            target,
            before.snapshot.deployments[target.gateway],
            before.image.by_tag,
        )
    except CommandFailed as problem:
        context.events.note(f"no prober inside the cluster: {reader.failed_to_text(problem)}")
        yield None
        return
    try:
        yield inside
    finally:
        inside.remove()


@contextmanager
def probing_outside(target: Target) -> Iterator[Prober | None]:
    """A prober that takes the way of clients outside the cluster, where one is given."""
    if target.probing.per_second <= 0 or not target.probing.outside_url:
        yield None
        return
    # Its HTTP library takes time to load, which most targets need not spend.
    from ci.promotion.probes import external

    with external.client(target) as client, external.prober(target, client) as prober:
        yield prober


def steady(
    context: Context,
    target: Target,
    inside: InsideProber | None,
    outside: Prober | None,
    held: ExitStack,
) -> tuple[Counting, ...]:
    """The probers that will count, once they have their first answers: the one inside, else one
    through the API server, which lives in ``held``; and the one outside, where there is one.

    Raises :class:`PlanRefused` when the service does not answer steadily before the change.
    """
    if target.probing.per_second <= 0:
        return ()
    within = _within(context, target, inside, held)
    if outside is None:
        return (within,)
    wait_for_answers(
        context,
        target,
        outside,
        PlanRefused,
        remedy="repair the way in, or mend its address (probing.outside_url)",
    )
    return within, outside


def _within(
    context: Context, target: Target, inside: InsideProber | None, held: ExitStack
) -> Counting:
    if inside is not None:
        try:
            wait_for_answers(context, target, inside, CommandFailed)
            return inside
        except (CommandFailed, WaitTimeout) as problem:
            context.events.note(
                f"no answers to the prober inside the cluster ({reader.failed_to_text(problem)}):"
                " probing through the API server"
            )
    prober = held.enter_context(
        Prober(
            api_proxy.sender(reader.private_kube(context, target), target),
            per_second=target.probing.per_second,
            timeout=target.probing.timeout_seconds,
            clock=SystemClock(),
        )
    )
    wait_for_answers(context, target, prober, PlanRefused)
    return prober


def wait_for_answers(
    context: Context,
    target: Target,
    prober: Counting,
    error: type[PipelineError],
    *,
    remedy: str = "repair the service, or allow get of services/proxy; the prober's path and rate"
    " are settings",
) -> None:
    """Wait for the first answers; raise ``error`` at the first request that fails."""

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
        clock=context.clock,
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
