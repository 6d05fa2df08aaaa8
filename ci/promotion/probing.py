"""Requests at a steady rate from before the change to its end: which prober sends them, and the
account of every one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from ci.context import Context
from ci.errors import CommandFailed, PipelineError, PlanRefused, PromotionFailed, WaitTimeout
from ci.model import Check, Target
from ci.promotion import live
from ci.promotion.before import Before
from ci.promotion.canary import Canary
from ci.promotion.inside import InsideProber
from ci.promotion.prober import Prober
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
        context.events.note(f"no prober inside the cluster: {live.failed_to_text(problem)}")
        yield None
        return
    try:
        yield inside
    finally:
        inside.remove()


def steady(
    context: Context, target: Target, inside: InsideProber | None, held: ExitStack
) -> Prober | InsideProber | None:
    """The prober that will count, once it has its first answers: the one inside, else one
    through the API server, which lives in ``held``.

    Raises :class:`PlanRefused` when the service does not answer steadily before the change.
    """
    if target.probing.per_second <= 0:
        return None
    if inside is not None:
        try:
            wait_for_answers(context, target, inside, CommandFailed)
            return inside
        except (CommandFailed, WaitTimeout) as problem:
            context.events.note(
                f"no answers to the prober inside the cluster ({live.failed_to_text(problem)}):"
                " probing through the API server"
            )
    prober = held.enter_context(
        Prober(
            live.sender(live.private_kube(context, target), target),
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
    prober: Prober | InsideProber,
    error: type[PipelineError],
) -> None:
    """Wait for the first answers; raise ``error`` at the first request that fails."""

    def answered() -> bool:
        now = prober.account()
        if now is not None and now.failed:
            raise error(
                f"{target.probing.path} does not answer steadily before the change:"
                f" {now.problems[0][0]}",
                remedy="repair the service, or allow get of services/proxy; the prober's path"
                " and rate are settings",
            )
        return now is not None and now.answered >= BASELINE_PROBES

    wait_until(
        f"{BASELINE_PROBES} answers of {target.probing.path}",
        answered,
        timeout=target.probing.timeout_seconds + 15,
        clock=context.clock,
        interval=0.15,  # the one inside says something four times a second
    )


def counted(
    target: Target, prober: Prober | InsideProber | None, canary: Canary
) -> tuple[Check, ...]:
    """The account of every request and of every task. Raises :class:`PromotionFailed`."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="count") as pool:
        tasks = pool.submit(canary.account)
        requests = count_probes(target, prober)
        return requests + tasks.result()


def count_probes(target: Target, prober: Prober | InsideProber | None) -> tuple[Check, ...]:
    """The account of every request. Raises :class:`PromotionFailed` when too many failed, or
    when the prober was lost, so that nobody knows."""
    if prober is None:
        return (Check("requests during the change", True, "not probed: turned off"),)
    final = prober.stop()
    if final is None:
        raise PromotionFailed("the prober was lost: nobody knows whether requests were")
    if final.failed > target.probing.allowed_failures:
        raise PromotionFailed(f"requests were lost during the change: {final}")
    return (Check("requests during the change", True, f"{final}, {prober.where}"),)
