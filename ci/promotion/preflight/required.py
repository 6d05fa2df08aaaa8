"""What a target requires to be checked, and what ends a promotion where it is not.

A check that a setting turns off is known to be skipped before anything is done, also where it would
be made during or after the change only: nobody has to find that out by a rollback.
"""

from __future__ import annotations

from collections.abc import Iterable

from ci import openapi_compat, texts
from ci.errors import PlanRefused, PromotionFailed
from ci.model import Target
from ci.promotion.preflight.checklist import names
from ci.promotion.probes import canary
from ci.promotion.release import logs
from ci.promotion.release.baseline import Before
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    CauseId,
    Check,
    CheckId,
    Phase,
    Unit,
    skipped,
    unknown,
    unmet,
)

SERVICE_BUS = "servicebus_connection_string_env"


def foreseen(target: Target, *, servicebus: bool) -> tuple[Check, ...]:
    """The checks of a promotion that a setting turns off. ``servicebus``: whether the target's
    Service Bus can be asked. Pure."""
    asked = "" if servicebus else SERVICE_BUS
    tasks = "canary_per_second" if target.canary_per_second <= 0 else asked
    probing = "probing.per_second" if target.probing.per_second <= 0 else ""
    soak = "" if target.soak_seconds else "soak_seconds"
    off = {
        CheckId.IMAGE_PULLABLE: "" if target.pull_on_nodes else "pull_on_nodes",
        CheckId.CAPACITY_SURGE: "" if target.try_surge else "try_surge",
        CheckId.API_COMPATIBLE: "" if target.openapi_path else openapi_compat.SETTING,
        CheckId.API_STILL_COMPATIBLE: "" if target.openapi_path else openapi_compat.SETTING,
        CheckId.HEALTH_PATH: "" if target.health_paths else "service.health_paths",
        CheckId.QUEUE_TIMEOUTS: asked,
        CheckId.QUEUE_LOCK_DURATION: tasks,
        CheckId.REQUESTS_ANSWERED: probing,
        CheckId.TASKS_EXECUTED_ONCE: tasks,
        CheckId.SOAK_GATES: soak,
        CheckId.SOAK_LATENCY: soak or probing,
        CheckId.SOAK_QUERY: soak or ("" if target.gates.queries else "gates.queries"),
    }
    return tuple(skipped(id, setting) for id, setting in off.items() if setting)


def logs_readable(session: TargetSession, before: Before) -> tuple[Check, ...]:
    """The check of the new pods' logs, where the old ones' may not be read either; nothing else."""
    read = logs.error_lines(
        session.kube, session.target, before.pods, tail=1, repository=before.image.repository
    )
    if not read.unread or read.because is not Because.FORBIDDEN:
        return ()
    return (unknown(CheckId.LOGS_NO_ERRORS, Because.FORBIDDEN, names(Unit.PODS, read.unread)),)


def open_questions(
    session: TargetSession, made: Iterable[Check], ahead: Iterable[Check] = ()
) -> tuple[Check, ...]:
    """The required checks that were not made or, as far as that is known, will not be: of those
    ``made``, of ``ahead``, and of those that a setting turns off."""
    known: list[Check] = []
    for checks in (made, ahead, foreseen(session.target, servicebus=canary.known(session))):
        ids = {check.id for check in known}
        known += [check for check in checks if check.id not in ids]
    return unmet(known, session.target.require)


def refuse_unmet(
    session: TargetSession, made: Iterable[Check], ahead: Iterable[Check] = ()
) -> None:
    """Raise :class:`PlanRefused` where a required check was not made, or will not be; it carries
    the latter."""
    before = tuple(made)
    if left := open_questions(session, before, ahead):
        raise PlanRefused(texts.unmet(left), remedy=remedy(session.target)).carrying(
            Phase.BEFORE, *(check for check in left if check not in before)
        )


def roll_back_unmet(target: Target, checks: Iterable[Check]) -> None:
    """Raise :class:`PromotionFailed` where a required check of the new release was not made."""
    if left := unmet(checks, target.require):
        raise PromotionFailed(texts.unmet(left), remedy=remedy(target)).carrying(
            Phase.DURING, cause=CauseId.REQUIRED_NOT_CHECKED
        )


def remedy(target: Target) -> str:
    return texts.REMEDY_UNMET.format(target=target.name)
