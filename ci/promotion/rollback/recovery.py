"""The way back: evidence first, then the recorded revision, then proof that the old image serves
as it did."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ci import redaction, texts
from ci.errors import Locked, PipelineError, PromotionFailed, RollbackFailed, error_summary
from ci.model import Target
from ci.promotion.probes.canary import queue_states
from ci.promotion.probes.prober import Counting
from ci.promotion.release import drift, health, lease, reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.rollout import SETTLE_SECONDS, Expected, Judgement, Snapshot
from ci.promotion.release.session import TargetSession
from ci.promotion.rollback.cause import Cause, explained, of
from ci.promotion.rollback.standing import Standing
from ci.redaction import Redactor
from ci.results import (
    Because,
    CauseId,
    ChangeState,
    Check,
    CheckGroup,
    CheckId,
    Problem,
    StepId,
    failed,
    judged,
)
from ci.run_folder import RunFolder
from ci.tools import diagnostics
from ci.tools.diagnostics import Collected
from ci.tools.helm import Helm, Revision
from ci.tools.wait import wait_until

AWAY_SECONDS = 60
"""How long the cluster's API may be away before a rollback is given up."""
ANSWER_SECONDS = 30
"""How long the old version may take to answer once its pods are ready."""


def recover(
    session: TargetSession,
    before: Before,
    folder: Path,
    lock: lease.Lease,
    problem: BaseException,
    groups: tuple[CheckGroup, ...],
    stands: Standing,
) -> NoReturn:
    """Evidence, rollback, verification; then raise how it ended, with the checks in ``groups`` and
    those that ``problem`` carries."""
    step, kept = session.events.step, session.folder.below("evidence")
    cause = of(problem)
    session.events.note(f"the promotion failed: {session.programs.redact(str(cause))}")
    try:
        with step(StepId.REACH_CLUSTER, "it may be away, and all that follows asks it"):
            reach(session, lock)
        with (
            suppress(Exception),  # not even a defect here may stop the rollback
            step(StepId.COLLECT_DIAGNOSTICS, "before it is rolled back"),
        ):
            cause = explained(cause, collect(session, before, kept))
            kept.text("cause.txt", f"{cause}\n")
            kept.pack()
        with step(StepId.HELM_ROLLBACK, f"to the recorded revision {before.revision.number}"):
            changed = roll_back(session, before.revision)
            restart_refused(session, before)
        with step(StepId.VERIFY_ROLLBACK, "the old digest on every pod, and it answers"):
            verify_old(session, before.expected(session.target))
            verify_restored(session, before)
    except BaseException as second:
        stands(ChangeState.ROLLBACK_FAILED, cause=cause.id, problem=cause.problem)
        raise _not_rolled_back(session, before, folder, cause, second).carrying_all(
            _all(groups, problem), cause.id
        ) from second
    with suppress(PipelineError):
        lock.note(step="rolled back")
    stands(
        ChangeState.ROLLED_BACK if changed else ChangeState.UNTOUCHED,
        revision=_live(session),
        cause=cause.id,
        problem=cause.problem,
    )
    raise _rolled_back(session, before, kept.path, cause, changed=changed).carrying_all(
        _all(groups, problem), cause.id
    ) from problem


def _all(groups: tuple[CheckGroup, ...], problem: BaseException) -> tuple[CheckGroup, ...]:
    return (*groups, *(problem.groups if isinstance(problem, PipelineError) else ()))


def _rolled_back(
    session: TargetSession, before: Before, kept: Path, cause: Cause, *, changed: bool
) -> PromotionFailed:
    did = f"rolled back to revision {before.revision.number}" if changed else "nothing was changed"
    where = f"the evidence is in {kept}, and as one archive beside it"
    unmet = cause.id is CauseId.REQUIRED_NOT_CHECKED
    own = texts.REMEDY_UNMET.format(target=session.target.name) if unmet else ""
    return PromotionFailed(
        f"{session.programs.redact(str(cause))}; {did}: {before.image.tag}"
        f" ({before.image.digest.short}) serves again",
        remedy=f"{own}; {where}" if own else where,
    )


def _not_rolled_back(
    session: TargetSession, before: Before, folder: Path, cause: Cause, second: BaseException
) -> RollbackFailed:
    return RollbackFailed(
        f"the promotion failed ({session.programs.redact(str(cause))}) and the rollback failed,"
        f" too: {error_summary(second)}",
        remedy=second.remedy
        if isinstance(second, Locked)
        else "act now: " + commands_for_a_human(session, before, folder),
    )


def _live(session: TargetSession) -> int | None:
    """The revision that is deployed now, as far as Helm can be asked."""
    target = session.target
    try:
        return session.for_cleanup().helm.history(target.release, target.namespace)[-1].number
    except PipelineError:
        return None


def collect(session: TargetSession, before: Before, kept: RunFolder) -> Collected:
    """Keep what the namespace looks like now."""
    target = session.target
    cleanup = session.for_cleanup()
    return diagnostics.collect(
        cleanup.kube,
        target.namespace,
        kept,
        helm=cleanup.helm,
        release=target.release,
        of=of_release(target, reader.look(cleanup.kube, target)),
        more={
            "helm-values.diff": lambda: values_diff(
                before, cleanup.helm, target, session.programs.redactor
            ),
            "queues.txt": lambda: queue_states(session),
        },
    )


def of_release(target: Target, now: Snapshot | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a pod is of the target's own Deployments: what else runs in its namespace is not
    ours to keep logs of."""
    if now is None:
        return lambda pod: False
    wanted = target.deployments or now.deployments
    names = {pod["metadata"]["name"] for name in wanted for pod in now.pods_of(name)}
    return lambda pod: pod["metadata"]["name"] in names


def values_diff(before: Before, helm: Helm, target: Target, redactor: Redactor) -> str:
    """What the release's values have become, without secrets."""
    was, now = (
        yaml.safe_dump(redactor.tree(dict(values))).splitlines(keepends=True)
        for values in (before.values, helm.values(target.release, target.namespace))
    )
    return "".join(difflib.unified_diff(was, now, "before", "now")) or "no difference\n"


def so_far(probers: Sequence[Counting], problem: BaseException) -> tuple[Check, ...]:
    """What ended the change, and the account of the requests until then, where none of the checks
    that ``problem`` carries has it."""
    cause = of(problem)
    carried = problem.checks if isinstance(problem, PipelineError) else ()
    problems = (Problem(redaction.text(cause.problem)),) if cause.problem else ()
    checks = [failed(CheckId.CHANGE_COMPLETED, *cause.measured, *problems)]
    if any(check.id is CheckId.REQUESTS_ANSWERED for check in carried):
        return tuple(checks)
    for prober in probers:
        with suppress(PipelineError):
            if now := prober.account():
                id, subject = CheckId.REQUESTS_ANSWERED, prober.place.value
                checks.append(judged(id, now.failed == 0, now.requests(), subject=subject))
    return tuple(checks)


def reach(session: TargetSession, lock: lease.Lease) -> None:
    """Wait for the cluster's API, which may be away for a moment (that may be why we are here).

    It is asked to renew the lock: when we were away for too long somebody else may have repaired
    the release, or be about to, and must not be undone. Raises :class:`Locked` then.
    """
    problem = [""]

    def answered() -> bool:
        problem[0] = lock.keep()
        return not problem[0]

    wait_until(
        "an answer of the cluster's API",
        answered,
        timeout=AWAY_SECONDS,
        clock=session.for_cleanup().clock,
        interval=2,
        diagnose=lambda: redaction.text(" ".join(problem[0].split())),
    )


def roll_back(session: TargetSession, recorded: Revision) -> bool:
    """``helm rollback`` to the recorded revision; ``False`` when nothing had been changed."""
    target = session.target
    helm = session.for_cleanup().helm
    latest = helm.history(target.release, target.namespace)[-1]
    if latest.number == recorded.number and latest.status == "deployed":
        return False
    helm.rollback(target.release, recorded.number, target.namespace, timeout=target.timeout_seconds)
    return True


def restart_refused(session: TargetSession, before: Before) -> None:
    """Restart the service when the upgrade re-created a ServiceAccount (some charts make it in
    a hook): the old pods' tokens are refused from then on, and no rollback repairs that."""
    target = session.target
    kube = session.for_cleanup().kube
    now = reader.accounts(kube, target)
    if isinstance(before.accounts, Because) or isinstance(now, Because):
        return  # which were re-created is not known
    names = drift.recreated(before.accounts, now)
    if not names:
        return
    session.events.note(
        f"ServiceAccount {', '.join(names)} was re-created by the upgrade: restarting the pods,"
        " whose tokens are refused; the cure is the annotation helm.sh/hook: pre-install"
    )
    for name in before.deployments:
        kube.run("rollout", "restart", f"deployment/{name}", "--namespace", target.namespace)
        kube.run(
            "rollout", "status", f"deployment/{name}", "--namespace", target.namespace,
            f"--timeout={target.timeout_seconds}s", timeout=target.timeout_seconds + 30,
        )  # fmt: skip


def verify_old(session: TargetSession, expected: Expected) -> tuple[Judgement, Snapshot]:
    """Wait until what is expected serves from every pod, and answers."""
    target = session.target
    cleanup = session.for_cleanup()
    kube = cleanup.kube
    judged, now = reader.wait_complete(
        kube, target, expected, timeout=SETTLE_SECONDS, clock=cleanup.clock
    )

    def answers() -> bool | None:
        return all(c.passed for c in health.health_without_forward(kube, target)) or None

    wait_until(
        f"{', '.join(target.health_paths)} of the old version",
        answers,
        timeout=ANSWER_SECONDS,
        clock=cleanup.clock,
        diagnose=lambda: "; ".join(
            texts.sentence(check)
            for check in health.health_without_forward(kube, target)
            if not check.passed
        ),
    )
    return judged, now


def verify_restored(session: TargetSession, before: Before) -> None:
    """Raise unless the live Deployments are what was recorded before the change."""
    target = session.target
    kube = session.for_cleanup().kube
    now = reader.snapshot(kube, target.namespace)
    left = [
        f"Deployment/{name} {path}"
        for name in before.deployments
        for path in drift.unrestored(before.snapshot.deployments[name], now.deployments[name])
    ]
    if left:
        raise RollbackFailed(f"the rollback left {'; '.join(left[:4])} otherwise than before")


def commands_for_a_human(session: TargetSession, before: Before, folder: Path) -> str:
    """The exact commands that do by hand what failed here."""
    target = session.target
    helm = session.helm
    by_hand = shlex.join(
        helm.argv(
            "rollback",
            target.release,
            str(before.revision.number),
            "--wait",
            "--timeout",
            f"{target.timeout_seconds}s",
            namespace=target.namespace,
        )
    )
    script = shlex.quote(str(folder / "quick-rollback.sh"))
    return f"`{script}`, or `{by_hand}`; without helm: `{script} --with kubectl`"
