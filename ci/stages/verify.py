"""Reads the live state and compares it with the upgrade plan's success criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

from ci import texts
from ci.digest import UNKNOWN
from ci.errors import Interrupted, PipelineError, VerifyFailed, WaitTimeout, error_summary
from ci.model import DeploymentRow, Image, PodRow, Status, Target
from ci.promotion.preflight.inspect import SERVING_SECONDS
from ci.promotion.release import health as health_
from ci.promotion.release import logs, manifest, reader
from ci.promotion.release.rollout import (
    Expected,
    Judgement,
    Snapshot,
    digests_of,
    judge,
    ready,
    restarts,
    service_containers,
    terminating,
    troubles,
)
from ci.promotion.release.session import TargetSession
from ci.results import (
    Check,
    CheckId,
    Count,
    Measured,
    Names,
    Phase,
    Problem,
    RevisionRef,
    Unit,
    failed,
    judged,
    unmet,
)
from ci.tools.kube import Kube
from ci.tools.registry import open_repository

SHOWN = 5
"""So many pods are named in a check."""


def status(session: TargetSession) -> Status:
    """Revisions, Deployments and pods of a target as they are now. Changes nothing."""
    target = session.target
    history = reader.find(session)
    now = reader.snapshot(session.kube, target.namespace)
    names = _names(session, now)
    return Status(
        target=target.name,
        release=target.release,
        namespace=target.namespace,
        history=tuple(history),
        deployments=tuple(_deployment_row(name, now) for name in names if name in now.deployments),
        pods=tuple(row for name in names for row in _pod_rows(name, now)),
    )


def _names(session: TargetSession, now: Snapshot) -> tuple[str, ...]:
    target = session.target
    if target.deployments:
        return target.deployments
    helm = session.helm
    rendered = manifest.parse(helm.manifest(target.release, target.namespace), "")
    return reader.deployments_of(target, rendered.objects) or tuple(now.deployments)


def _deployment_row(name: str, now: Snapshot) -> DeploymentRow:
    deployment = now.deployments[name]
    counts = deployment.get("status") or {}
    return DeploymentRow(
        name,
        ":".join(reader.image_of(deployment)),
        int(deployment["spec"].get("replicas", 1)),
        int(counts.get("updatedReplicas", 0)),
        int(counts.get("availableReplicas", 0)),
    )


def _pod_rows(name: str, now: Snapshot) -> list[PodRow]:
    rows = []
    for pod in now.pods_of(name):
        repository = reader.image_of(now.deployments[name])[0] if name in now.deployments else ""
        images = service_containers(pod["spec"], repository)
        stuck = troubles([pod])
        phase = stuck[0].reason if stuck else str((pod.get("status") or {}).get("phase", "?"))
        if terminating(pod):
            phase = "Terminating"
        begun = (pod.get("status") or {}).get("startTime")
        rows.append(
            PodRow(
                name=pod["metadata"]["name"],
                phase=phase,
                ready=ready(pod),
                restarts=restarts(pod),
                image=next(iter(images.values()), ""),
                digest=next(iter(digests_of(pod, repository).values()), UNKNOWN),
                started=datetime.fromisoformat(begun) if begun else None,
            )
        )
    return rows


def verify(session: TargetSession, image: Image | None = None) -> tuple[Check, ...]:
    """The plan's success criteria, each with its evidence.

    ``image`` is what shall run; without it, what the release names. Raises
    :class:`VerifyFailed` naming every criterion that is not met, and every one that the target
    requires and that nobody could check; it carries all checks.
    """
    target = session.target
    kube = session.kube
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="verify") as pool:
        answers = pool.submit(_answers, session)
        history = reader.find(session)
        now = reader.snapshot(kube, target.namespace)
        health = answers.result()
    names = _names(session, now)
    running, digests = reader.running_image(target, now)
    repository, tag = running.repository, running.tag
    accepted: frozenset[str] = digests if len(digests) == 1 else frozenset()
    if image is not None:
        repository, tag = target.image_repository, image.tag
        accepted = _accepted(session, image)
    expected = Expected(names, target.gateway, repository, tag, accepted)
    rollout, now = _settled(session, kube, expected, now)
    _, digests = reader.running_image(target, now)
    pods = [pod for name in names for pod in now.live_pods_of(name)]
    latest = history[-1]
    checks = (
        judged(
            CheckId.RELEASE_DEPLOYED,
            latest.status == "deployed",
            RevisionRef(latest.number, latest.status, latest.chart),
        ),
        _pods_ready(pods),
        judged(CheckId.PODS_RUN_DIGEST, rollout.complete and len(digests) == 1, *rollout.measured),
        *health,
        logs.error_lines(kube, target, pods).check(),
    )
    session.events.checked(Phase.AFTER, checks)
    missing = unmet(checks, target.require)
    if missing or any(check.failed for check in checks):
        raise _unmet(target, checks, missing)
    return checks


def _pods_ready(pods: Sequence[Mapping[str, Any]]) -> Check:
    """Every pod is Running and Ready, and there is one."""
    stuck = troubles(pods)
    unready = tuple(str(p["metadata"]["name"]) for p in pods if not ready(p))
    measured: tuple[Measured, ...] = (Count(Unit.PODS, len(pods)),)
    if stuck:
        measured += (Names(Unit.REASONS, tuple(map(str, stuck[:SHOWN])), len(stuck)),)
    elif unready:
        measured += (Names(Unit.PODS, unready[:SHOWN], len(unready)),)
    ok = bool(pods) and not unready and not stuck
    return judged(CheckId.PODS_READY, ok, *measured)


def _unmet(target: Target, checks: tuple[Check, ...], missing: tuple[Check, ...]) -> VerifyFailed:
    """The error that names every criterion that failed, and those ``missing``."""
    parts = [texts.sentence(check) for check in checks if check.failed]
    if missing:
        parts.append(texts.unmet(missing))
    error = VerifyFailed(f"{target.release} does not meet its criteria: {'; '.join(parts)}")
    return error.carrying(Phase.AFTER, *checks)


def _settled(
    session: TargetSession, kube: Kube, expected: Expected, now: Snapshot
) -> tuple[Judgement, Snapshot]:
    """The judgement of ``now``; where all that is wrong is that pods drain (after a change, a
    scale-down or the loss of a node), that of what is there once they have gone."""
    target = session.target
    rollout = judge(now, expected)
    if rollout.complete or not judge(now.without_terminating(), expected).complete:
        return rollout, now
    with suppress(WaitTimeout):
        return reader.wait_complete(
            kube, target, expected, timeout=SERVING_SECONDS, clock=session.clock
        )
    now = reader.snapshot(kube, target.namespace)
    return judge(now, expected), now


def _answers(session: TargetSession) -> tuple[Check, ...]:
    """Every health path, as a client asks it; one check that failed where there is no way."""
    try:
        return health_.health(session)
    except Interrupted:
        raise
    except PipelineError as problem:
        return (failed(CheckId.API_ANSWERS, Problem(error_summary(problem))),)


def _accepted(session: TargetSession, image: Image) -> frozenset[str]:
    """The digest and, of an index, its platforms' manifests."""
    target = session.target
    with open_repository(
        target.image_repository,
        local=session.tools.registry,
        login=target.login,
        programs=session.programs,
    ) as repository:
        return repository.equivalents(image.digest)
