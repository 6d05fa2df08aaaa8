"""THE list: what a run does, in which order, what beside what, and why.

A step takes the values that earlier steps returned, so a wrong order is a type error. The
machinery is :mod:`ci.run.scheduler`; where things run is
:mod:`ci.workflow.environments`; a step that needs more than one stage stands in
:mod:`ci.workflow.handoffs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ci.model import Cluster, Image, Preview, Proof, Release, Result, Status
from ci.results import Check, CheckGroup, Phase, StepId
from ci.run.context import Context
from ci.run.scheduler import Flow, Pending
from ci.settings import DEMO_TARGET, Options
from ci.stages import attest, build, cluster, deploy
from ci.stages import promote as promotion
from ci.stages import verify as verification
from ci.workflow import environments, fleet, handoffs


def run(context: Context, options: Options) -> Result:
    """Build, prove on a fresh cluster, promote what was proven, verify."""
    attest.check_keys(context)
    gate = context.settings.gate
    chosen = environments.resolve(context, options.target)
    with (
        context.home.lock("gate", f"the {gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step(
            StepId.RENDER_CHART,
            "one that does not render ends the run at once",
            deploy.render,
            context,
        )
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "what a killed run left is removed first",
            cluster.remove_stale,
            context,
        )
        tag = build.new_tag(context)
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "its content is its tag: built once",
            build.build_emulator,
            context,
        )
        image = flow.beside(
            StepId.BUILD, "the one build and the one push", build.build, context, tag
        )
        place = flow.beside(
            StepId.GATE_CLUSTER,
            "a fresh cluster, beside the build",
            environments.gate_cluster,
            flow,
            context,
            options,
            image,
        )
        target = flow.beside(
            StepId.LOOK_UP_TARGET,
            "it must be there before anything is proven for it",
            environments.find_target,
            context,
            chosen,
            emulator,
        )
        here = place.result()
        release, proven = prove_on(flow, context, here, emulator, image)
        goal = target.result()
        rehearsed: tuple[CheckGroup, ...] = ()
        if chosen.rehearsal:
            rehearsal = flow.step(
                StepId.REHEARSE,
                "what breaks the target's release breaks it here first",
                handoffs.rehearse,
                goal,
                here,
                emulator.result(),
                proven,
            )
            rehearsed = (CheckGroup(Phase.REHEARSAL, rehearsal.checks),)
        if not options.keep_cluster:
            flow.beside(
                StepId.DELETE_GATE_CLUSTER,
                "it is not needed any more, and the promotion needs its cores",
                environments.quietly_delete,
                context,
                here.name,
            )
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "what the registry holds decides, not what we remember",
            handoffs.evidence,
            context,
            handoffs.source(context, release.image.by_digest, chosen),
            chosen,
            options,
        )
        promoted = flow.step(
            StepId.PROMOTE,
            "only the image changes; what is served already is verified",
            handoffs.promote,
            goal,
            proof,
            force=options.force,
        )
        checks = flow.step(
            StepId.VERIFY,
            "the plan's success criteria, on the live state",
            verification.verify,
            goal,
            promoted.after,
        )
        return Result(release.image, proof, promoted, (*rehearsed, *live(checks)))


def prove_on(
    flow: Flow, context: Context, here: Cluster, emulator: Pending[Image], image: Pending[Image]
) -> tuple[Release, Proof]:
    """From a cluster to evidence: what ``run`` and ``prove`` have in common."""
    standins = flow.step(
        StepId.STANDIN_CREDENTIALS,
        "passwords, keys and certificates of their own in every cluster",
        deploy.prepare_standins,
        context,
        here,
    )
    cloud = flow.beside(
        StepId.START_STANDINS,
        "the cloud, for the gate",
        deploy.start_standins,
        context,
        standins,
        emulator.result(),
    )
    deployed = flow.beside(
        StepId.DEPLOY,
        "the image under test; it waits for its cloud by itself",
        handoffs.deploy_gate,
        context,
        here,
        standins,
        image,
    )

    def released() -> Release:
        cloud.result()
        return deployed.result()

    proof = flow.step(
        StepId.PROVE,
        "the end-to-end tests decide; they start beside what they test",
        handoffs.proven_here,
        context,
        released,
        standins,
    )
    flow.step(
        StepId.ATTEST,
        "signed, and found by digest from any machine",
        handoffs.attested,
        context,
        proof,
    )
    return deployed.result(), proof


def live(checks: tuple[Check, ...]) -> tuple[CheckGroup, ...]:
    """What was verified on the live release."""
    return (CheckGroup(Phase.AFTER, checks),)


def build_only(context: Context, options: Options) -> Result:
    """Build and publish, nothing else."""
    with Flow(context.events, context.programs) as flow:
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "its content is its tag: built once",
            build.build_emulator,
            context,
        )
        tag = build.new_tag(context)
        image = flow.step(StepId.BUILD, "the one build and the one push", build.build, context, tag)
        emulator.result()
        return Result(image)


def builds_nothing(context: Context) -> bool:
    """Whether ``prove`` needs no build, and so no Dagger session: the source is unchanged."""
    return build.latest(context) is not None and build.find_emulator(context) is not None


def emulator_built(context: Context) -> bool:
    """Whether ``rehearse`` needs no build."""
    return build.find_emulator(context) is not None


def prove_only(context: Context, options: Options) -> Result:
    """Prove the source as it is, on a kept cluster when there is one. Promotes nothing."""
    attest.check_keys(context)
    gate = context.settings.gate
    with (
        context.home.lock("gate", f"the {gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step(
            StepId.RENDER_CHART,
            "one that does not render ends the run at once",
            deploy.render,
            context,
        )
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "what a killed run left is removed first",
            cluster.remove_stale,
            context,
        )
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "its content is its tag: built once",
            build.build_emulator,
            context,
        )
        image = flow.beside(
            StepId.BUILD, "unchanged source is not built again", handoffs.latest_or_built, context
        )
        here = flow.step(
            StepId.GATE_CLUSTER,
            "a kept cluster saves time",
            environments.kept_cluster,
            flow,
            context,
            options,
            image,
        )
        release, proof = prove_on(flow, context, here, emulator, image)
        return Result(release.image, proof)


def rehearse_only(context: Context, options: Options, image: str) -> Result:
    """Rehearse a proven image on the gate cluster, with a target's live release. Changes no
    target; the signed verdict is what a promotion asks for."""
    attest.check_keys(context)
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    wanted = handoffs.source(context, image, target)
    with (
        context.home.lock("gate", f"the {context.settings.gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "what a killed run left is removed first",
            cluster.remove_stale,
            context,
        )
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "only what was proven is worth a rehearsal",
            attest.verified,
            context,
            wanted,
            target.chart,
        )
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "its content is its tag: built once",
            build.build_emulator,
            context,
        )
        goal = flow.step(
            StepId.LOOK_UP_TARGET,
            "it must be there",
            environments.found_target,
            context,
            target,
        )
        here = flow.step(
            StepId.GATE_CLUSTER,
            "a kept cluster saves time",
            environments.kept_cluster,
            flow,
            context,
            options,
        )
        rehearsal = flow.step(
            StepId.REHEARSE,
            "what breaks the target's release breaks it here first",
            handoffs.rehearse,
            goal,
            here,
            emulator.result(),
            proof,
        )
        return Result(proof.image, proof, groups=(CheckGroup(Phase.REHEARSAL, rehearsal.checks),))


def promote_only(context: Context, options: Options, image: str) -> Result:
    """Promote an image that was proven, on whichever machine; ``image`` is REPOSITORY@DIGEST or
    ``last``."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    wanted = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "only what was proven may pass",
            handoffs.evidence,
            context,
            wanted,
            target,
            options,
        )
        goal = flow.step(
            StepId.LOOK_UP_TARGET,
            "it must be there",
            environments.found_target,
            context,
            target,
        )
        promoted = flow.step(
            StepId.PROMOTE,
            "only the image changes; what is served already is verified",
            handoffs.promote,
            goal,
            proof,
            force=options.force,
        )
        checks = flow.step(
            StepId.VERIFY,
            "the plan's success criteria, on the live state",
            verification.verify,
            goal,
            promoted.after,
        )
        return Result(proof.image, proof, promoted, live(checks))


def promote_to(
    context: Context, names: Sequence[str], options: Options, image: str, words: Sequence[str]
) -> Result:
    """Promote to one target, or to several in order; ``words`` are the options for each."""
    known = [DEMO_TARGET, *context.settings.targets]
    chosen = fleet.order(names, context.settings, known)
    if len(chosen.targets) == 1:
        return promote_only(context, replace(options, target=chosen.targets[0]), image)
    # Once for all: a proof that ends meanwhile must not send the later targets another image.
    image = handoffs.named(context, image)
    return Result(groups=fleet.promote(context, chosen, image, words))


def plan(context: Context, options: Options, image: str) -> Preview:
    """What promoting a proven image would change on a target. Changes nothing."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    wanted = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "it names the tag, and only what was proven may pass",
            attest.verified,
            context,
            wanted,
            target.chart,
        )
        goal = flow.step(
            StepId.LOOK_UP_TARGET,
            "it must be there",
            environments.found_target,
            context,
            target,
        )
        found = flow.step(
            StepId.PLAN,
            "rendered by the target's own server, with its live values",
            promotion.preview,
            goal,
            proof,
        )
    return context.programs.redactor.data(found)


def approve_only(context: Context, options: Options, image: str) -> Result:
    """Approve a proven image for a target, for a later promotion on whichever machine."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    wanted = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "nobody approves what was not proven",
            attest.verified,
            context,
            wanted,
            target.chart,
        )
        flow.step(
            StepId.APPROVE,
            "a second statement beside the evidence",
            attest.approve,
            context,
            wanted,
            options.target,
            options.approve,
        )
        return Result(proof.image, proof)


def verify_only(context: Context, options: Options) -> Result:
    """The success criteria of a target, as it is now."""
    target = environments.resolve(context, options.target)
    with Flow(context.events, context.programs) as flow:
        goal = flow.step(
            StepId.LOOK_UP_TARGET,
            "it must be there",
            environments.found_target,
            context,
            target,
        )
        checks = flow.step(StepId.VERIFY, "the plan's success criteria", verification.verify, goal)
        return Result(groups=live(checks))


def roll_back(
    context: Context, options: Options, revision: int | None, *, dry_run: bool = False
) -> Result:
    """Return a target to an earlier revision; with ``dry_run`` only look up which, and what would
    change."""
    target = environments.resolve(context, options.target)
    with Flow(context.events, context.programs) as flow:
        goal = flow.step(
            StepId.LOOK_UP_TARGET,
            "it must be there",
            environments.found_target,
            context,
            target,
        )
        found = flow.step(
            StepId.ROLLBACK,
            "to what served before",
            promotion.rollback,
            goal,
            revision,
            dry_run=dry_run,
        )
        return Result(rollback=found)


def status(context: Context, options: Options) -> Status:
    """What a target runs. Changes nothing."""
    target = environments.resolve(context, options.target)
    return verification.status(environments.found_target(context, target))
