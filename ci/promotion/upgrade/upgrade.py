"""The change itself, and whether it came to its end: by our own judgement, not Helm's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ci import texts
from ci.errors import Interrupted, PromotionFailed
from ci.model import Image, Release, Target
from ci.openapi_compat import Described
from ci.promotion.plan.values import sets_of
from ci.promotion.release import drift, health, reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.failure import failure
from ci.promotion.release.manifest import Rendered
from ci.promotion.release.rollout import (
    SETTLE_SECONDS,
    Expected,
    Judgement,
    Snapshot,
    Watch,
    fail_fast,
    judge,
    misplaced,
    new_pods,
    troubles,
)
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    CauseId,
    Check,
    CheckId,
    Count,
    Cure,
    CureId,
    Names,
    Phase,
    RevisionRef,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools.wait import Clock, wait_until

LOOK_SECONDS = 0.3
"""Between two looks at an upgrade: each costs the machine what it needs for the upgrade."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pod may be in a state before the upgrade is given up."""

    broken: Watch = field(default_factory=Watch)
    misplaced: Watch = field(default_factory=lambda: Watch(patience=30))


def upgrade(
    session: TargetSession,
    before: Before,
    release: Release,
    accepted: frozenset[str],
    *,
    up: Callable[[Release], None],
) -> None:
    """``helm upgrade --reuse-values --wait``; ended at once when a new pod is unrecoverable.

    ``release`` is what it shall make. ``up`` gets it as in :func:`settled`, where that can be
    seen before Helm sees it (which looks every two seconds) and the chart does nothing after that.
    """
    target = session.target
    image = release.image
    helm = session.helm
    words = helm.upgrade_words(
        target.release,
        session.path(target.chart),
        sets_of(target, before.image, image),
        description=f"promoted {image.digest}",
        new_defaults=target.chart_change,
    )
    argv = helm.argv(
        *words, "--wait", "--timeout", f"{target.timeout_seconds}s", namespace=target.namespace
    )
    kube, watch = session.kube, Patience()
    output: list[str] = []
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)
    # Where the image stays, what serves before the upgrade is no different.
    shows = image.digest not in before.digests and not ends_with_hooks(before.rendered)
    progress, looked = [""], [float("-inf")]

    with session.programs.background(
        argv, log=f"helm-upgrade-{target.cluster.name}", on_line=output.append
    ) as process:

        def finished() -> bool:
            if process.poll() is not None:
                return True
            if session.clock.monotonic() - looked[0] < LOOK_SECONDS:
                return False
            now = reader.look(kube, target)
            looked[0] = session.clock.monotonic()
            if now is not None:
                _fail_fast(now, expected, watch, session.clock)
                rollout = judge(now, expected)
                if rollout.serving and shows:
                    up(release)
                first = next(map(texts.measured, rollout.waiting), str(rollout))
                if first != progress[0]:
                    progress[0] = first
                    session.events.note(first)
            return False

        wait_until(
            "helm upgrade to end",
            finished,
            timeout=target.timeout_seconds + 60,
            clock=session.clock,
            interval=0.1,
            diagnose=lambda: progress[0] or "nothing",
        )
    if process.returncode != 0:
        if session.programs.cancel.is_set():
            raise Interrupted("interrupted during helm upgrade")
        begin = next((n for n, line in enumerate(output) if line.startswith("Error:")), -1)
        text = " ".join(" ".join(output[begin:]).split()).removeprefix("Error: ") or "no output"
        seen = f"; last seen: {progress[0]}" if progress[0] else ""
        status = process.returncode
        ended = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
        problem = PromotionFailed(f"helm upgrade {ended}: {text}{seen}")
        raise problem.carrying(Phase.DURING, cause=CauseId.HELM_FAILED)


def ends_with_hooks(rendered: Rendered) -> bool:
    """Whether an upgrade does more once the release's own objects are up."""
    hooked = (
        str((hook["metadata"].get("annotations") or {}).get("helm.sh/hook", ""))
        for hook in rendered.hooks.values()
    )
    return any("post-upgrade" in phases for phases in hooked)


def _fail_fast(now: Snapshot, expected: Expected, patience: Patience, clock: Clock) -> None:
    """Raise :class:`ci.promotion.release.rollout.UnrecoverablePod` when a new pod has been in such
    a state for several seconds, or had no place for longer."""
    moment = clock.monotonic()
    fail_fast(patience.broken, moment, troubles(new_pods(now, expected)))
    fail_fast(patience.misplaced, moment, misplaced(now, expected.deployments))


def released(session: TargetSession, image: Image) -> Release:
    """What Helm has recorded. Raises :class:`PromotionFailed` unless it is deployed."""
    target = session.target
    latest = session.helm.history(target.release, target.namespace)[-1]
    if latest.status != "deployed":
        seen = RevisionRef(latest.number, latest.status, latest.chart)
        check = failed(CheckId.RELEASE_DEPLOYED, seen)
        raise failure(PromotionFailed, Phase.DURING, (check,))
    return released_as(target, latest.number, image)


def released_as(target: Target, revision: int, image: Image) -> Release:
    return Release(target.cluster, target.namespace, target.release, revision, image)


def settled(
    session: TargetSession,
    release: Release,
    before: Before,
    accepted: frozenset[str],
    *,
    up: Callable[[Release], None],
) -> tuple[Check, ...]:
    """Our own check after Helm's: complete by digest. ``up`` is called as soon as nothing is left
    to wait for but old pods of the gateway that drain."""
    target = session.target
    kube, watch, image = session.kube, Patience(), release.image
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)

    def look(now: Snapshot, rollout: Judgement) -> None:
        _fail_fast(now, expected, watch, session.clock)
        if rollout.serving:
            up(release)

    rollout, now = reader.wait_complete(
        kube, target, expected, timeout=SETTLE_SECONDS, clock=session.clock, look=look
    )
    pods = Count(Unit.PODS, sum(len(now.pods_of(name)) for name in before.deployments))
    return (
        passed(CheckId.PODS_RUN_DIGEST, *rollout.measured),
        passed(CheckId.PODS_READY, pods),
        passed(CheckId.PODS_OLD_GONE, pods),
        passed(CheckId.RELEASE_DEPLOYED, RevisionRef(release.revision, "deployed")),
        accounts_kept(before.accounts, reader.accounts(kube, target)),
    )


def completed(release: Release) -> Check:
    """For a change that came to its end."""
    return passed(CheckId.CHANGE_COMPLETED, RevisionRef(release.revision, "deployed"))


def accounts_kept(before: Mapping[str, str] | Because, after: Mapping[str, str] | Because) -> Check:
    """Whether every ServiceAccount (name to UID) is the one it was. Failed ends no promotion: pods
    of others that use one lose access, and its cure is in the chart."""
    id = CheckId.ACCOUNTS_KEPT
    if isinstance(before, Because):
        return unknown(id, before)
    if isinstance(after, Because):
        return unknown(id, after)
    if names := drift.recreated(before, after):
        named = Names(Unit.SERVICE_ACCOUNTS, tuple(names), len(names))
        return failed(id, named, Cure(CureId.HOOK_ANNOTATION))
    return passed(id, Count(Unit.SERVICE_ACCOUNTS, len(before)))


def healthy(session: TargetSession, api: Described) -> tuple[Check, ...]:
    """The health endpoints and the API of the new release. Raises :class:`PromotionFailed` where
    one failed."""
    checks = health.health(session)
    checks += (health.compatible(session.kube, session.target, api),)
    if any(check.failed for check in checks):
        raise failure(
            PromotionFailed, Phase.DURING, checks, context="the new release is not healthy"
        )
    return checks
