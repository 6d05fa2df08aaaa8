"""Takes only a passing Proof -> Promotion: the upgrade plan, with its hopes measured.

Before the upgrade everything is a question, and a wrong answer leaves the target untouched.
From the moment the upgrade begins every way out but success is the same: evidence first, then
``helm rollback`` to the recorded revision, then proof that the old image serves again.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace

from ci.context import Context
from ci.errors import PipelineError, PlanRefused, RollbackFailed
from ci.model import Check, Image, Promotion, Proof, Target
from ci.promotion import checks as checks_
from ci.promotion import lease, live, plan, preflight
from ci.promotion.afterwards import After, afterwards
from ci.promotion.before import (
    back_up,
    inspect,
    note_begin,
    proven_image,
    refuse_changed,
    refuse_unproven,
    rollback_command,
    tick,
)
from ci.promotion.canary import Canary
from ci.promotion.change import healthy, released, released_as, settled, upgrade
from ci.promotion.planning import make_plan, refuse_more_than_the_image, rendering, sets_of
from ci.promotion.probing import counted, probing_inside, probing_outside, steady
from ci.promotion.pull import Pull
from ci.promotion.recovery import recover, so_far, verify_old
from ci.promotion.rollout import Expected
from ci.promotion.soak import Soak
from ci.promotion.surge import Surge
from ci.promotion.trial import remove_left
from ci.promotion.watching import Watching
from ci.tools.helm import Revision


def promote(
    context: Context, target: Target, proof: Proof, *, after: After | None = None
) -> Promotion:
    """Promote the proven image to ``target``.

    ``after`` is called with the new release once it is up, and raises when it finds it wanting
    (the flow passes the end-to-end queue-timeout test). Raises :class:`ProofFailed`,
    :class:`TargetNotFound`, :class:`PlanRefused`, :class:`RegistryRefused` or :class:`Locked`
    with the target untouched; :class:`PromotionFailed` when it was rolled back;
    :class:`RollbackFailed` when that failed and a person has to act.
    """
    step, folder = context.events.step, context.run_dir / "backups"
    with ExitStack() as held:
        with step("check the proof", "only what passed may be promoted"):
            refuse_unproven(proof)
        with step("find the target", "a wrong name ends here, before anything is touched"):
            history = live.find(context, target)
        with step("take the lock", "one promotion at a time per release"):
            kube = live.private_kube(context, target)
            lock = held.enter_context(
                lease.Lease(kube, release=target.release, namespace=target.namespace)
            )
            remove_left(kube, target)
            preflight.unfinished(lock.found, history[-1], rollback=rollback_command(target))
        with step("find the image", "the tag must be the proven digest where the target pulls"):
            image, accepted = proven_image(context, target, proof)
        with step("check the release", "the latest revision serves, whole, and as released"):
            same = held.enter_context(rendering(context, target, {}))
            before = inspect(context, target, history)
            sets = sets_of(target, before.image, image)
            new = held.enter_context(rendering(context, target, sets))
        with step("start the prober", "every request during the change is accounted for"):
            inside = held.enter_context(probing_inside(context, target, before))
            outside = held.enter_context(probing_outside(target))
            canary = held.enter_context(Canary(context, target))
            gateway = before.snapshot.deployments[target.gateway]
            pull = held.enter_context(Pull(context, target, image, gateway, before.pods))
            surge = held.enter_context(Surge(context, target, before.deployments, before.snapshot))
        with step("back up", "what a rollback needs, readable without this project"):
            prepared = back_up(context, target, before, folder)
        with step("plan", "nothing may change but what derives from the image's tag"):
            planned = make_plan(context, target, before, image, history, same, new)
            refuse_more_than_the_image(context, planned)
        with step("tick the checklist", "the plan's own, each item with its evidence"):
            asked = (
                prepared,
                checks_.api_kept(target, proof, before.openapi),
                checks_.ready_under_load(proof),
                checks_.no_migration(context, target, before.rendered),
                pull.check(),
                surge.check(),
            )
            ticked = tick(context, proof, image, folder, asked)
        with step("ask the service", "it answers steadily before the change"):
            probers = steady(context, target, inside, outside, held)
            canary.steady()
            soak = Soak(context, target, probers, before.image, before.pods)
        with step("check again", "nobody changed the release while we looked"):
            refuse_changed(context, target, before.revision)
            watching = held.enter_context(Watching(context, target, before.deployments))
            note_begin(lock, before, image)
        checks: tuple[Check, ...] = ()
        try:
            with afterwards(context.events, after) as tested:
                with step("upgrade", "helm upgrade --reuse-values, with only the tag"):
                    wanted = released_as(target, planned.change.new_revision, image)
                    upgrade(context, target, before, wanted, accepted, up=tested.begin)
                with step("judge the pods", "the proven digest on every pod, old pods gone"):
                    release = released(context, target, image)
                    checks += settled(context, release, target, before, accepted, up=tested.begin)
                with step("ask for health", "as a client sees it"):
                    checks += healthy(context, target, before.openapi)
                tested.end()
            if target.soak_seconds:
                reason = "what shows only with time shows before it is called done"
                with step("soak", reason), watching.rarely():
                    checks += soak.watch(image)
            with step("count the probes", "no request may be lost in a change"):
                checks += counted(target, probers, canary)
        except BaseException as problem:
            found = before.checks + asked + checks + so_far(probers, problem)
            recover(context, target, before, folder, lock, problem, found)
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


def preview(context: Context, target: Target, proof: Proof) -> plan.Plan:
    """What promoting the proven image would change, allowed or not, and what can be asked of the
    target without a trace. Changes nothing, refuses nothing but a target that is not fit to be
    changed."""
    history = live.find(context, target)
    image = Image(target.image_repository, proof.image.tag, proof.image.digest)
    with ExitStack() as held:
        same = held.enter_context(rendering(context, target, {}))
        before = inspect(context, target, history)
        sets = sets_of(target, before.image, image)
        new = held.enter_context(rendering(context, target, sets))
        planned = make_plan(context, target, before, image, history, same, new)
    asked = (
        checks_.told(checks_.API, lambda: checks_.api_kept(target, proof, before.openapi)),
        checks_.ready_under_load(proof),
        checks_.told(
            checks_.NO_MIGRATION, lambda: checks_.no_migration(context, target, before.rendered)
        ),
    )
    return replace(planned, checks=before.checks + asked)


def rollback(context: Context, target: Target, revision: int | None = None) -> int:
    """Return the release to ``revision``, else to the one an unfinished promotion recorded, else
    to the last good one; verified. Repairs what a killed run left pending.

    Returns the number of the revision that is deployed now. Raises :class:`PlanRefused` when
    there is nothing to return to, :class:`RollbackFailed` when it did not work.
    """
    step = context.events.step
    with step("find the target", "a wrong name ends here, before anything is touched"):
        history = live.find(context, target)
    kube = live.private_kube(context, target)
    with lease.Lease(kube, release=target.release, namespace=target.namespace) as lock:
        remove_left(kube, target)
        journal = lock.found
        unfinished = journal.get("step") == "upgrading"
        goal = choose(history, revision, journal.get("revision", "") if unfinished else "")
        helm = live.private_helm(context, target)
        rendered = plan.parse(
            helm.manifest(target.release, target.namespace, goal.number), hooks=""
        )
        repository, tag = live.released_image(target, rendered)
        digests = journal.get("digests", "") if journal.get("revision") == str(goal.number) else ""
        expected = Expected(
            tuple(
                name
                for name in live.deployments_of(target, rendered.objects)
                if any(key[1] == "Deployment" and key[3] == name for key in rendered.objects)
            ),
            target.gateway,
            repository,
            tag,
            frozenset(filter(None, digests.split(","))),
        )
        try:
            with step("roll back", f"to revision {goal.number}, {tag}"):
                context.helm(target.cluster).rollback(
                    target.release, goal.number, target.namespace, timeout=target.timeout_seconds
                )
            with step("verify the rollback", "every pod runs the old image, and it answers"):
                verify_old(context, target, expected)
        except PipelineError as problem:
            raise RollbackFailed(
                f"the rollback of {target.release} to revision {goal.number} failed:"
                f" {live.failed_to_text(problem)}",
                remedy="look at the pods with"
                f" `python3 pipeline.py status --target {target.name}` and repeat the rollback",
            ) from problem
        with suppress(PipelineError):
            lock.note(step="rolled back")
    return context.helm(target.cluster).history(target.release, target.namespace)[-1].number


def choose(history: list[Revision], asked: int | None, recorded: str) -> Revision:
    """The revision to return to. Pure. Raises :class:`PlanRefused` when there is none."""
    usable = {r.number: r for r in history if r.status in ("deployed", "superseded")}
    known = ", ".join(map(str, usable)) or "none"
    if asked is not None:
        if asked not in usable:
            raise PlanRefused(
                f"there is no revision {asked} to return to", remedy=f"there are: {known}"
            )
        return usable[asked]
    if recorded.isdigit() and int(recorded) in usable:
        return usable[int(recorded)]
    latest = history[-1]
    # What was rolled back already is not where to go: before a rollback is before its goal.
    before = preflight.origin(history, latest)
    deployed = [r for r in usable.values() if r.status == "deployed" and r is not latest]
    older = [r for r in usable.values() if r.number < before]
    if not (deployed or older):
        raise PlanRefused(
            f"there is no revision before {before} to return to",
            remedy=f"name one with --revision; there are: {known}",
        )
    return (deployed or older)[-1]
