"""Takes only a passing Proof -> Promotion: the upgrade plan, with its hopes measured.

Before the upgrade everything is a question, and a wrong answer leaves the target untouched.
From the moment the upgrade begins every way out but success is the same: evidence first, then
``helm rollback`` to the recorded revision, then proof that the old image serves again.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace

from ci.digest import Digest
from ci.errors import Interrupted, PipelineError, RollbackFailed, VerifyFailed, error_summary
from ci.model import Check, Image, Promotion, Proof, Rollback, RollbackOutcome
from ci.promotion.plan import diff
from ci.promotion.plan.render import make_plan, refuse_more_than_the_image, rendering
from ci.promotion.plan.values import sets_of
from ci.promotion.preflight import checklist, rules
from ci.promotion.preflight.checklist import tick
from ci.promotion.preflight.image_pull import Pull
from ci.promotion.preflight.inspect import (
    inspect,
    note_begin,
    proven_image,
    refuse_changed,
    refuse_unproven,
    served_already,
)
from ci.promotion.preflight.surge_capacity import Surge
from ci.promotion.probes.accounting import counted, probing_inside, probing_outside, steady
from ci.promotion.probes.canary import Canary
from ci.promotion.release import health, lease, reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.history import rollback_command
from ci.promotion.release.pods import remove_left
from ci.promotion.release.rollout import Expected, judge
from ci.promotion.release.session import TargetSession
from ci.promotion.rollback.backups import back_up
from ci.promotion.rollback.recovery import recover, so_far, verify_old
from ci.promotion.rollback.requested import Planned, on_every_pod, planned
from ci.promotion.upgrade.post_upgrade_test import After, afterwards
from ci.promotion.upgrade.soak import Soak
from ci.promotion.upgrade.upgrade import healthy, released, released_as, settled, upgrade
from ci.promotion.upgrade.watch import Watching
from ci.results import StepId


def promote(
    session: TargetSession,
    proof: Proof,
    *,
    after: After | None = None,
    force: bool = False,
    refusal: PipelineError | None = None,
) -> Promotion:
    """Promote the proven image to ``target``. An image that it serves already is verified, and
    nothing is changed, unless ``force`` wants the upgrade all the same.

    ``after`` is called with the new release once it is up, and returns its checks, or raises (the
    workflow passes the end-to-end queue-timeout test). ``refusal`` is why nothing may be changed
    (no rehearsal allows it): it is raised unless there is nothing to change. Raises
    :class:`ProofFailed`, :class:`TargetNotFound`, :class:`PlanRefused`,
    :class:`RegistryRefused` or :class:`Locked` with the target untouched, and
    :class:`VerifyFailed` when an image that is served already does not serve as it should;
    :class:`PromotionFailed` when it was rolled back; :class:`RollbackFailed` when that failed and
    a person has to act.
    """
    target = session.target
    step, folder = session.events.step, session.run_dir / "backups"
    with ExitStack() as held:
        with step(StepId.CHECK_PROOF, "only what passed may be promoted"):
            refuse_unproven(proof)
        with step(StepId.FIND_RELEASE, "a wrong name ends here, before anything is touched"):
            history = reader.find(session)
        with step(StepId.ACQUIRE_LEASE, "one promotion at a time per release"):
            kube = session.kube
            lock = held.enter_context(
                lease.Lease(kube, release=target.release, namespace=target.namespace)
            )
            remove_left(kube, target)
            rules.unfinished(lock.found, history[-1], rollback=rollback_command(target))
        with step(
            StepId.RESOLVE_DIGEST, "the tag must be the proven digest where the target pulls"
        ):
            image, accepted = proven_image(session, proof)
        with step(StepId.INSPECT_RELEASE, "the latest revision serves, whole, and as released"):
            same = held.enter_context(rendering(session, {}))
            before = inspect(session, history)
            served = not force and served_already(session, before, image, accepted)
            if not served:
                if refusal is not None:
                    raise refusal
                sets = sets_of(target, before.image, image)
                new = held.enter_context(rendering(session, sets))
        if served:
            with step(StepId.VERIFY_SERVED, "it is the proven image already: no upgrade"):
                checks = still_serves(session, before, image, accepted)
            with suppress(PipelineError):
                lock.note(step="done")
            number = before.revision.number
            session.events.note(f"already served, verified, nothing to do: revision {number}")
            return Promotion(
                target=target.name,
                before=before.image,
                after=image,
                from_revision=number,
                to_revision=number,
                backups=None,
                checks=before.checks + checks,
                changed=False,
            )
        with step(StepId.START_PROBERS, "every request during the change is accounted for"):
            inside = held.enter_context(probing_inside(session, before))
            outside = held.enter_context(probing_outside(session))
            canary = held.enter_context(Canary(session))
            gateway = before.snapshot.deployments[target.gateway]
            pull = held.enter_context(Pull(session, image, gateway, before.pods))
            surge = held.enter_context(Surge(session, before.deployments, before.snapshot))
        with step(StepId.BACK_UP, "what a rollback needs, readable without this project"):
            prepared = back_up(session, before, folder)
        with step(StepId.PLAN, "nothing may change but what derives from the image's tag"):
            planned = make_plan(session, before, image, history, same, new)
            refuse_more_than_the_image(session.context, planned)
        with step(StepId.PREFLIGHT, "the plan's own, each item with its evidence"):
            asked = (
                prepared,
                checklist.api_kept(target, proof, before.openapi),
                checklist.ready_under_load(proof),
                checklist.no_migration(session, before.rendered),
                pull.check(),
                surge.check(),
            )
            ticked = tick(session.context, proof, image, folder, asked)
        with step(StepId.BASELINE_PROBE, "it answers steadily before the change"):
            probers = steady(session, inside, outside, held)
            canary.steady()
            soak = Soak(session, probers, before.image, before.pods)
        with step(StepId.RECHECK_RELEASE, "nobody changed the release while we looked"):
            refuse_changed(session, before.revision)
            watching = held.enter_context(Watching(session, before.deployments))
            note_begin(lock, before, image)
        checks = ()
        try:
            with afterwards(session.events, after) as tested:
                with step(StepId.UPGRADE, "helm upgrade --reuse-values, with only the tag"):
                    wanted = released_as(target, planned.change.new_revision, image)
                    upgrade(session, before, wanted, accepted, up=tested.begin)
                with step(StepId.VERIFY_DIGESTS, "the proven digest on every pod, old pods gone"):
                    release = released(session, image)
                    checks += settled(session, release, before, accepted, up=tested.begin)
                with step(StepId.CHECK_HEALTH, "as a client sees it"):
                    checks += healthy(session, before.openapi)
                checks += tested.end()
            if target.soak_seconds:
                reason = "what shows only with time shows before it is called done"
                with step(StepId.SOAK, reason), watching.rarely():
                    checks += soak.watch(image)
            with step(StepId.ACCOUNT_REQUESTS, "no request may be lost in a change"):
                checks += counted(target, probers, canary)
        except BaseException as problem:
            found = before.checks + asked + checks + so_far(probers, problem)
            recover(session, before, folder, lock, problem, found)
        with suppress(PipelineError):
            lock.note(step="done")
    return Promotion(
        target=target.name,
        before=before.image,
        after=image,
        from_revision=before.revision.number,
        to_revision=release.revision,
        backups=folder,
        checks=before.checks + asked + checks,
        checklist=ticked,
    )


def still_serves(
    session: TargetSession, before: Before, image: Image, accepted: frozenset[str]
) -> tuple[Check, ...]:
    """The checks of a release that is left as it is. Raises :class:`VerifyFailed`."""
    target = session.target
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)
    judged = judge(before.snapshot, expected)
    number = before.revision.number
    try:
        answers = health.health(session)
    except PipelineError as problem:
        answers = (Check("the API answers", False, error_summary(problem)),)
    checks = (
        Check(
            "the proven digest runs on every pod",
            judged.complete,
            "; ".join(judged.waiting or judged.evidence),
        ),
        Check("the release is deployed", True, f"revision {number}, as it was"),
        *answers,
    )
    failed = [f"{check.name}: {check.evidence}" for check in checks if not check.ok]
    if failed:
        unwell = VerifyFailed(
            f"revision {number} serves {image.tag} already, and not as it should:"
            f" {'; '.join(failed)}",
            remedy=f"nothing was changed: see `python3 pipeline.py status --target {target.name}`;"
            f" --force promotes it all the same, `{rollback_command(target)}` returns to the image"
            " before",
        )
        unwell.found = before.checks + checks
        raise unwell
    return checks


def preview(session: TargetSession, proof: Proof) -> diff.Plan:
    """What promoting the proven image would change, allowed or not, and what can be asked of the
    target without a trace. Changes nothing, refuses nothing but a target that is not fit to be
    changed."""
    target = session.target
    history = reader.find(session)
    image = Image(target.image_repository, proof.image.tag, proof.image.digest)
    with ExitStack() as held:
        same = held.enter_context(rendering(session, {}))
        before = inspect(session, history)
        sets = sets_of(target, before.image, image)
        new = held.enter_context(rendering(session, sets))
        planned = make_plan(session, before, image, history, same, new)
    asked = (
        checklist.told(checklist.API, lambda: checklist.api_kept(target, proof, before.openapi)),
        checklist.ready_under_load(proof),
        checklist.told(
            checklist.NO_MIGRATION, lambda: checklist.no_migration(session, before.rendered)
        ),
    )
    return replace(planned, checks=before.checks + asked)


def rollback(
    session: TargetSession, revision: int | None = None, *, dry_run: bool = False
) -> Rollback:
    """Return the release to ``revision``, else to the one an unfinished promotion recorded, else
    to the last one that serves something else than now; verified. Repairs what a killed run left
    pending. With ``dry_run`` it is only looked up; a release that serves what is asked for
    already is verified and left as it is.

    Raises :class:`PlanRefused` when there is nothing to return to, :class:`RollbackFailed` when
    it did not work, and :class:`VerifyFailed` when what serves already does not serve as it
    should.
    """
    target = session.target
    step = session.events.step
    with step(StepId.FIND_RELEASE, "a wrong name ends here, before anything is touched"):
        history = reader.find(session)
    kube = session.kube
    with ExitStack() as held:
        if dry_run:
            journal = lease.journal(lease.read(kube, target.release, target.namespace))
        else:
            lock = held.enter_context(
                lease.Lease(kube, release=target.release, namespace=target.namespace)
            )
            remove_left(kube, target)
            journal = lock.found
            # Now nobody else of us changes it any more.
            history = session.helm.history(target.release, target.namespace)
        with step(StepId.CHOOSE_REVISION, "the last that was deployed and serves something else"):
            way = planned(session, history, revision, journal)
        if dry_run:
            return way.described
        for line in way.described.lines:
            session.events.emit("run.note", line)
        done = _there(session, way) if way.nothing_to_do else _back(session, way)
        if journal.get("step") == "upgrading" or done.outcome is RollbackOutcome.ROLLED_BACK:
            with suppress(PipelineError):
                lock.note(step="rolled back")
        return done


def _back(session: TargetSession, way: Planned) -> Rollback:
    target = session.target
    step, helm = session.events.step, session.helm
    number = way.goal.number
    try:
        with step(StepId.HELM_ROLLBACK, f"to revision {number}, {way.expected.tag}"):
            helm.rollback(target.release, number, target.namespace, timeout=target.timeout_seconds)
        with step(StepId.VERIFY_ROLLBACK, "the image of that revision on every pod, answering"):
            _, now = verify_old(session, way.expected)
            digest = on_every_pod(way.expected, now, way.known)
    except PipelineError as problem:
        raise RollbackFailed(
            f"the rollback of {target.release} to revision {number} failed:"
            f" {error_summary(problem)}",
            remedy="look at the pods with"
            f" `python3 pipeline.py status --target {target.name}` and repeat the rollback",
        ) from problem
    latest = helm.history(target.release, target.namespace)[-1].number
    return _ended(way, digest, RollbackOutcome.ROLLED_BACK, latest)


def _there(session: TargetSession, way: Planned) -> Rollback:
    """Nothing would change: what serves is verified and left as it is."""
    target = session.target
    number = way.described.before.revision
    try:
        with session.events.step(StepId.VERIFY_SERVED, "it is what was asked for already"):
            _, now = verify_old(session, way.expected)
            digest = on_every_pod(way.expected, now, way.known)
    except Interrupted:
        raise
    except PipelineError as problem:
        raise VerifyFailed(
            f"revision {number} of {target.release} is what was asked for already, and it does not"
            f" serve as it should: {error_summary(problem)}",
            remedy="look at the pods with"
            f" `python3 pipeline.py status --target {target.name}`, or return to another revision"
            " with --revision",
        ) from problem
    return _ended(way, digest, RollbackOutcome.ALREADY_THERE, number)


def _ended(way: Planned, digest: Digest, outcome: RollbackOutcome, latest: int) -> Rollback:
    after = way.described.after
    seen = replace(after, image=replace(after.image, digest=digest))
    return replace(way.described, after=seen, outcome=outcome, revision=latest)
