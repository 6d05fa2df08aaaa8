"""Before the change: questions only, and what a rollback will need. A wrong answer raises, and
the target is as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ci.errors import PlanRefused, ProofFailed, WaitTimeout, error_summary
from ci.model import Check, Image, Proof, Target
from ci.promotion.preflight import rules
from ci.promotion.release import drift, health, lease, manifest, reader
from ci.promotion.release import history as history_
from ci.promotion.release.baseline import Before
from ci.promotion.release.history import rollback_command
from ci.promotion.release.rollout import Expected, judge
from ci.promotion.release.session import TargetSession
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
        names = ", ".join(case.name for case in proof.failed[:3])
        more = f" and {len(proof.failed) - 3} more" if len(proof.failed) > 3 else ""
        raise ProofFailed(f"the proof of {proof.image.by_tag} failed: {names}{more}")
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
            raise PlanRefused(
                f"{image.by_tag} is {found or 'not in the registry'}, proven was {image.digest}",
                remedy="tags must not move: build and prove again, under a new tag",
            )
        return image, there.equivalents(image.digest)


def inspect(session: TargetSession, history: list[Revision]) -> Before:
    """Read the release, and refuse one that is not fit to be changed."""
    target = session.target
    revision = history_.deployed_revision(history, rollback=rollback_command(target))
    chart = session.path(target.chart)
    metadata = charts.metadata(chart)
    if not target.chart_change:
        rules.same_chart(revision.chart, metadata)
    kube, helm = session.kube, session.helm
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="inspect") as pool:
        stored_ = pool.submit(reader.stored, kube, helm, target, revision.number)
        hpas_ = pool.submit(kube.objects, "horizontalpodautoscalers", target.namespace)
        accounts_ = pool.submit(reader.accounts, kube, target)
        openapi_ = pool.submit(health.openapi, kube, target)
        now = reader.snapshot(kube, target.namespace)
        stored = stored_.result()
        values, rendered = stored.values, stored.rendered
        present = reader.present(kube, target, rendered)
        hpas, accounts = hpas_.result(), accounts_.result()
        api = openapi_.result()
    checks = [Check("latest revision is the deployed one", True, f"revision {revision.number}")]
    if target.chart_change:
        ours = charts.chart_name(metadata)
        checks.append(
            rules.chart_changed(stored.chart, chart, values, was=revision.chart, now=ours)
        )
    else:
        checks.append(Check("chart is the live one", True, revision.chart))
        checks.append(rules.chart_is_live(stored.chart, chart, values))
    scaled = rules.autoscaled(hpas, list(rendered.objects.values()))
    if scaled:
        raise PlanRefused(
            f"the chart sets the replicas of {', '.join(scaled)}, an autoscaler does, too:"
            " the upgrade would reset them",
            remedy="leave replicas out of the chart where an HPA is, or remove the HPA",
        )
    checks.append(Check("no autoscaler is overruled", True, f"{len(hpas)} HPAs in the namespace"))
    checks.append(as_released(target, revision, rendered, present))
    deployments = reader.deployments_of(target, rendered.objects)
    asked, _ = reader.running_image(target, now)
    expected = Expected(deployments, target.gateway, asked.repository, asked.tag, frozenset())
    judged = judge(now, expected)
    try:
        if not judged.complete:  # pods of a change just before this one may still be ending
            judged, now = reader.wait_complete(
                kube, target, expected, timeout=SERVING_SECONDS, clock=session.clock
            )
    except WaitTimeout as problem:
        raise PlanRefused(
            f"the release does not serve as it should: {error_summary(problem)}",
            remedy="repair it first: from a broken release there is nothing to roll back to",
        ) from problem
    image, digests = reader.running_image(target, now)
    if len(digests) > 1:
        raise PlanRefused(
            f"the release's pods run {len(digests)} different digests of {image.by_tag}",
            remedy="its tag was moved: restart the Deployments, so that all run the same",
        )
    checks.append(Check("every pod serves before the change", True, "; ".join(judged.evidence)))
    return Before(
        revision, image, digests, deployments, rendered, now, values, accounts, api, tuple(checks)
    )


def as_released(
    target: Target, revision: Revision, rendered: manifest.Rendered, present: reader.Present
) -> Check:
    """Raise :class:`PlanRefused` when somebody changed a live object of the release by hand: the
    upgrade would take that back. What controllers write is named and no reason to refuse."""
    drifted, written = changed_since(rendered, present)
    if drifted:
        raise PlanRefused(
            f"live objects were changed by hand since the release: {'; '.join(drifted[:4])}",
            remedy="put the change into the release's values, or undo it with"
            f" `{rollback_command(target)} --revision {revision.number}`",
        )
    said = f"{len(present.objects)} objects"
    if present.unread:
        said += f"; {len(present.unread)} were not read ({present.why})"
    if written:
        said += f"; written by controllers: {', '.join(written[:4])}"
    return Check("live objects are as released", True, said)


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
