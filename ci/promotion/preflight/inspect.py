"""Before the change: questions only, and what a rollback will need. A wrong answer raises, and
the target is as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ci.errors import PlanRefused, ProofFailed, WaitTimeout
from ci.model import Image, Proof, Target
from ci.promotion.preflight import rules
from ci.promotion.preflight.checklist import image_ref, names, refusal
from ci.promotion.release import drift, health, lease, manifest, reader
from ci.promotion.release import history as history_
from ci.promotion.release.baseline import Before
from ci.promotion.release.history import rollback_command
from ci.promotion.release.rollout import Expected, Judgement, Snapshot, judge
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    ImageRef,
    Measured,
    Problem,
    RevisionRef,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools import chart as charts
from ci.tools.helm import Revision
from ci.tools.registry import copy, open_repository

SERVING_SECONDS = 30
"""How long pods of an earlier change may take to go before the release is called unfit."""


def refuse_unproven(proof: Proof) -> None:
    """Raise :class:`ProofFailed` unless the proof passed."""
    if proof.passed:
        return
    if proof.failed:
        first = ", ".join(case.name for case in proof.failed[:3])
        more = f" and {len(proof.failed) - 3} more" if len(proof.failed) > 3 else ""
        raise ProofFailed(f"the proof of {proof.image.by_tag} failed: {first}{more}")
    raise ProofFailed(f"nothing was proven about {proof.image.by_tag}: no test case passed")


def proven_image(session: TargetSession, proof: Proof) -> tuple[Image, frozenset[str]]:
    """The proven image as the target pulls it, and the digests its nodes may report.

    An image that the target's registry does not have yet is copied there by digest, bit for
    bit. A tag that resolves to anything else is refused.
    """
    target = session.target
    proven = proof.image
    image = Image(target.image_repository, proven.tag, proven.digest)
    local = session.tools.registry
    with open_repository(
        image.repository, local=local, login=target.login, programs=session.programs
    ) as there:
        found = there.digest(image.tag)
        if found is None and image.repository != proven.repository:
            session.events.note(f"copying {proven.digest.short} to {image.repository}")
            with open_repository(proven.repository, local=local, programs=session.programs) as here:
                copy(here, there, image)
            found = there.digest(image.tag)
        if found != image.digest:
            other = [ImageRef(image.repository, image.tag, found)] if found else []
            raise refusal(failed(CheckId.IMAGE_PUBLISHED, image_ref(image), *other))
        return image, there.equivalents(image.digest)


def inspect(session: TargetSession, history: list[Revision]) -> Before:
    """Read the release, and refuse one that is not fit to be changed."""
    target = session.target
    revision = history_.deployed_revision(history, rollback=rollback_command(target))
    metadata = charts.metadata(session.path(target.chart))
    if not target.chart_change:
        rules.same_chart(revision.chart, metadata)
    kube, helm = session.kube, session.helm
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="inspect") as pool:
        stored_ = pool.submit(reader.stored, kube, helm, target, revision.number)
        hpas_ = pool.submit(reader.autoscalers, kube, target)
        accounts_ = pool.submit(reader.accounts, kube, target)
        openapi_ = pool.submit(health.openapi, kube, target)
        now = reader.snapshot(kube, target.namespace)
        stored = stored_.result()
        present = reader.present(kube, target, stored.rendered)
        hpas, accounts, api = hpas_.result(), accounts_.result(), openapi_.result()
    rendered = stored.rendered
    checks = [
        passed(CheckId.RELEASE_LATEST_DEPLOYED, revision_ref(revision)),
        _chart(session, stored, revision.chart, charts.chart_name(metadata)),
        rules.not_autoscaled(hpas, list(rendered.objects.values())),
        as_released(target, revision, rendered, present),
    ]
    deployments = reader.deployments_of(target, rendered.objects)
    serving, now = _serving(session, deployments, now)
    image, digests = reader.running_image(target, now)
    if len(digests) > 1:
        moved = (ImageRef(image.repository, image.tag, digest) for digest in sorted(digests))
        raise refusal(
            failed(CheckId.PODS_SERVING_BEFORE, *moved),
            remedy="its tag was moved: restart the Deployments, so that all run the same digest",
        )
    checks.append(serving)
    return Before(
        revision,
        image,
        digests,
        deployments,
        rendered,
        now,
        stored.values,
        accounts,
        api,
        tuple(checks),
    )


def revision_ref(revision: Revision) -> RevisionRef:
    return RevisionRef(revision.number, revision.status, revision.chart)


def _chart(session: TargetSession, stored: reader.Stored, was: str, now: str) -> Check:
    """The chart that the release was made with, or another one on purpose."""
    target, folder = session.target, session.path(session.target.chart)
    if target.chart_change:
        return rules.chart_changed(stored.chart, folder, stored.values, was=was, now=now)
    return rules.chart_is_live(stored.chart, folder, stored.values, chart=was)


def _serving(
    session: TargetSession, deployments: tuple[str, ...], now: Snapshot
) -> tuple[Check, Snapshot]:
    """Whether every pod serves; pods of a change just before this one may still be ending. Raises
    :class:`PlanRefused`."""
    target = session.target
    asked, _ = reader.running_image(target, now)
    expected = Expected(deployments, target.gateway, asked.repository, asked.tag, frozenset())
    seen = [judge(now, expected)]

    def look(_: Snapshot, judged: Judgement) -> None:
        seen.append(judged)

    if not seen[-1].complete:
        try:
            _, now = reader.wait_complete(
                session.kube,
                target,
                expected,
                timeout=SERVING_SECONDS,
                clock=session.clock,
                look=look,
            )
        except WaitTimeout as problem:
            raise refusal(failed(CheckId.PODS_SERVING_BEFORE, *seen[-1].measured)) from problem
    return passed(CheckId.PODS_SERVING_BEFORE, *seen[-1].measured), now


def as_released(
    target: Target, revision: Revision, rendered: manifest.Rendered, present: reader.Present
) -> Check:
    """Whether live objects are as released; unknown where some could not be read. What controllers
    write is named and no reason to refuse. Raises :class:`PlanRefused` when somebody changed one by
    hand: the upgrade would take that back."""
    id = CheckId.OBJECTS_AS_RELEASED
    drifted, written = changed_since(rendered, present)
    if drifted:
        raise refusal(
            failed(id, names(Unit.FIELDS, drifted)),
            remedy="put the change into the release's values, or undo it with"
            f" `{rollback_command(target)} --revision {revision.number}`",
        )
    measured: list[Measured] = [Count(Unit.OBJECTS, len(present.objects))]
    if written:
        measured.append(names(Unit.FIELDS, written))
    if not present.unread:
        return passed(id, *measured)
    unread = sorted(f"{kind}/{name}" for _, kind, _, name in present.unread)
    elsewhere = all(key[2] not in ("", target.namespace) for key in present.unread)
    because = Because.NO_ANSWER if elsewhere else Because.FORBIDDEN
    return unknown(id, because, *measured, names(Unit.OBJECTS, unread), Problem(present.why))


def changed_since(
    rendered: manifest.Rendered, present: reader.Present
) -> tuple[list[str], list[str]]:
    """Fields of live objects that are not as released: changed by hand, and written by
    controllers."""
    by_hand: list[str] = []
    written: list[str] = []
    for key, released in rendered.objects.items():
        version, kind, _, name = key
        found = present.objects.get(key)
        if found is not None:
            paths = [f"{kind}/{name} {path}" for path in drift.drift(released, found)]
        elif key in present.unread or kind in ("Job", "Pod"):  # these come to an end
            paths = []
        else:
            paths = [f"{kind}/{name} is gone"]
        (by_hand if drift.by_hand(kind, version) else written).extend(paths)
    return by_hand, written


def served_already(
    session: TargetSession, before: Before, image: Image, accepted: frozenset[str]
) -> bool:
    """Whether the release serves ``image`` as it is: its tag value and every Deployment name it,
    and every pod runs one of the ``accepted`` digests. A chart that is changed on purpose is a
    change, whatever the image."""
    target = session.target
    if target.chart_change or not before.digests:
        return False
    tag = reader.value_at(before.values, target.tag_value)
    if tag is None:  # the release has the chart's default
        helm = session.helm
        every = helm.values(target.release, target.namespace, all=True)
        tag = reader.value_at(every, target.tag_value)
    if str(tag) != image.tag:
        return False
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)
    return judge(before.snapshot, expected).complete


def refuse_changed(session: TargetSession, recorded: Revision) -> None:
    target = session.target
    latest = session.helm.history(target.release, target.namespace)[-1]
    if (latest.number, latest.status) != (recorded.number, recorded.status):
        raise PlanRefused(
            f"the release is now at revision {latest.number} ({latest.status}), it was at"
            f" {recorded.number}: somebody else changes it",
            remedy="find out who, then promote again",
        )


def note_begin(lock: lease.Lease, before: Before, image: Image) -> None:
    """Into the cluster's journal: what to return to, should this run be killed."""
    lock.note(
        step="upgrading",
        revision=str(before.revision.number),
        digests=",".join(sorted(before.digests)),
        image=image.by_digest,
    )
