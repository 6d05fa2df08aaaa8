"""THE list: the steps of each command, their order, what runs in parallel, and why each is needed.

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
            "a chart that does not render would fail only after the build",
            deploy.render,
            context,
        )
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "clusters that a killed run left would use up this machine's memory",
            cluster.remove_stale,
            context,
        )
        tag = build.new_tag(context)
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "without its image the stand-ins cannot start; unchanged source is not rebuilt",
            build.build_emulator,
            context,
        )
        image = flow.beside(
            StepId.BUILD,
            "a second build or push could promote another digest than was proven",
            build.build,
            context,
            tag,
        )
        cluster_ready = flow.beside(
            StepId.GATE_CLUSTER,
            "objects left by an earlier run could make the tests pass",
            environments.gate_cluster,
            flow,
            context,
            options,
            image,
        )
        looked_up = flow.beside(
            StepId.LOOK_UP_TARGET,
            "a target that cannot be reached would be noticed only after the tests",
            environments.find_target,
            context,
            chosen,
            emulator,
        )
        gate_cluster = cluster_ready.result()
        release, proven = prove_on(flow, context, gate_cluster, emulator, image)
        session = looked_up.result()
        rehearsed: tuple[CheckGroup, ...] = ()
        if chosen.rehearsal:
            rehearsal = flow.step(
                StepId.REHEARSE,
                "a chart or image that breaks this release would break the target",
                handoffs.rehearse,
                session,
                gate_cluster,
                emulator.result(),
                proven,
            )
            rehearsed = (CheckGroup(Phase.REHEARSAL, rehearsal.checks),)
        if not options.keep_cluster:
            flow.beside(
                StepId.DELETE_GATE_CLUSTER,
                "it is no longer needed, and would slow the promotion down",
                environments.quietly_delete,
                context,
                gate_cluster.name,
            )
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "an image without valid signed evidence must not be promoted",
            handoffs.evidence,
            context,
            handoffs.source(context, release.image.by_digest, chosen),
            chosen,
            options,
        )
        promoted = flow.step(
            StepId.PROMOTE,
            "any change besides the image would deploy what was not proven",
            handoffs.promote,
            session,
            proof,
            force=options.force,
        )
        checks = flow.step(
            StepId.VERIFY,
            "helm can report success while pods are not ready or run another digest",
            verification.verify,
            session,
            promoted.after,
        )
        return Result(release.image, proof, promoted, (*rehearsed, *live(checks)))


def prove_on(
    flow: Flow,
    context: Context,
    gate_cluster: Cluster,
    emulator: Pending[Image],
    image: Pending[Image],
) -> tuple[Release, Proof]:
    """Deploy to the gate cluster, test, and sign the evidence: the part that ``run`` and ``prove``
    share."""
    standins = flow.step(
        StepId.STANDIN_CREDENTIALS,
        "without them the service cannot log in to the stand-ins",
        deploy.prepare_standins,
        context,
        gate_cluster,
    )
    cloud = flow.beside(
        StepId.START_STANDINS,
        "without PostgreSQL, Redis and Service Bus the service is not ready",
        deploy.start_standins,
        context,
        standins,
        emulator.result(),
    )
    deployed = flow.beside(
        StepId.DEPLOY,
        "the tests need the built image and its chart running in a cluster",
        handoffs.deploy_gate,
        context,
        gate_cluster,
        standins,
        image,
    )

    def released() -> Release:
        cloud.result()
        return deployed.result()

    proof = flow.step(
        StepId.PROVE,
        "an image with wrong queue time-outs must not reach a target",
        handoffs.proven_here,
        context,
        released,
        standins,
    )
    flow.step(
        StepId.ATTEST,
        "without signed evidence attached to the image, nobody can promote it",
        handoffs.attested,
        context,
        proof,
    )
    return deployed.result(), proof


def live(checks: tuple[Check, ...]) -> tuple[CheckGroup, ...]:
    """The checks of the live release, as the group for the phase after the change."""
    return (CheckGroup(Phase.AFTER, checks),)


def build_only(context: Context, options: Options) -> Result:
    """Build and publish, nothing else."""
    with Flow(context.events, context.programs) as flow:
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "without its image the stand-ins cannot start; unchanged source is not rebuilt",
            build.build_emulator,
            context,
        )
        tag = build.new_tag(context)
        image = flow.step(
            StepId.BUILD,
            "a second build or push could promote another digest than was proven",
            build.build,
            context,
            tag,
        )
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
            "a chart that does not render would fail only after the build",
            deploy.render,
            context,
        )
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "clusters that a killed run left would use up this machine's memory",
            cluster.remove_stale,
            context,
        )
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "without its image the stand-ins cannot start; unchanged source is not rebuilt",
            build.build_emulator,
            context,
        )
        image = flow.beside(
            StepId.BUILD,
            "the tests would run an old image; unchanged source is not rebuilt",
            handoffs.latest_or_built,
            context,
        )
        gate_cluster = flow.step(
            StepId.GATE_CLUSTER,
            "the tests need a cluster; one kept by --keep-cluster is reused",
            environments.kept_cluster,
            flow,
            context,
            options,
            image,
        )
        release, proof = prove_on(flow, context, gate_cluster, emulator, image)
        return Result(release.image, proof)


def rehearse_only(context: Context, options: Options, image: str) -> Result:
    """Rehearse a proven image on the gate cluster, with a target's live release. Changes no
    target. A promotion to a target that requires a rehearsal checks for the signed verdict."""
    attest.check_keys(context)
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    source = handoffs.source(context, image, target)
    with (
        context.home.lock("gate", f"the {context.settings.gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step(
            StepId.REMOVE_STALE_CLUSTERS,
            "clusters that a killed run left would use up this machine's memory",
            cluster.remove_stale,
            context,
        )
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "an image that was not proven cannot be promoted, rehearsed or not",
            attest.verified,
            context,
            source,
            target.chart,
        )
        emulator = flow.beside(
            StepId.BUILD_EMULATOR,
            "without its image the stand-ins cannot start; unchanged source is not rebuilt",
            build.build_emulator,
            context,
        )
        session = flow.step(
            StepId.LOOK_UP_TARGET,
            "the cluster and its release must exist and be reachable",
            environments.found_target,
            context,
            target,
        )
        gate_cluster = flow.step(
            StepId.GATE_CLUSTER,
            "the tests need a cluster; one kept by --keep-cluster is reused",
            environments.kept_cluster,
            flow,
            context,
            options,
        )
        rehearsal = flow.step(
            StepId.REHEARSE,
            "a chart or image that breaks this release would break the target",
            handoffs.rehearse,
            session,
            gate_cluster,
            emulator.result(),
            proof,
        )
        return Result(proof.image, proof, groups=(CheckGroup(Phase.REHEARSAL, rehearsal.checks),))


def promote_only(context: Context, options: Options, image: str) -> Result:
    """Promote an image that was proven on any machine; ``image`` is REPOSITORY@DIGEST or
    ``last``."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    source = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "an image without valid signed evidence must not be promoted",
            handoffs.evidence,
            context,
            source,
            target,
            options,
        )
        session = flow.step(
            StepId.LOOK_UP_TARGET,
            "the cluster and its release must exist and be reachable",
            environments.found_target,
            context,
            target,
        )
        promoted = flow.step(
            StepId.PROMOTE,
            "any change besides the image would deploy what was not proven",
            handoffs.promote,
            session,
            proof,
            force=options.force,
        )
        checks = flow.step(
            StepId.VERIFY,
            "helm can report success while pods are not ready or run another digest",
            verification.verify,
            session,
            promoted.after,
        )
        return Result(proof.image, proof, promoted, live(checks))


def promote_to(
    context: Context, names: Sequence[str], options: Options, image: str, arguments: Sequence[str]
) -> Result:
    """Promote to one target, or to several in order; ``arguments`` are the command-line options
    that each promotion gets."""
    known = [DEMO_TARGET, *context.settings.targets]
    chosen = fleet.order(names, context.settings, known)
    if len(chosen.targets) == 1:
        return promote_only(context, replace(options, target=chosen.targets[0]), image)
    # Resolved once: a `prove` that ends meanwhile must not change the image of later targets.
    image = handoffs.named(context, image)
    return Result(groups=fleet.promote(context, chosen, image, arguments))


def plan(context: Context, options: Options, image: str) -> Preview:
    """What promoting a proven image would change on a target. Changes nothing."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    source = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "it names the tag; the promotion of an unproven image would be refused",
            attest.verified,
            context,
            source,
            target.chart,
        )
        session = flow.step(
            StepId.LOOK_UP_TARGET,
            "the cluster and its release must exist and be reachable",
            environments.found_target,
            context,
            target,
        )
        preview = flow.step(
            StepId.PLAN,
            "rendered elsewhere, or without the live values, a change could be missed",
            promotion.preview,
            session,
            proof,
        )
    return context.programs.redactor.data(preview)


def approve_only(context: Context, options: Options, image: str) -> Result:
    """Approve a proven image for a target, for a later promotion on any machine."""
    target = environments.resolve(context, options.target, chart_change=options.chart_change)
    source = handoffs.source(context, image, target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            StepId.VERIFY_EVIDENCE,
            "an approval of an image that was not proven is never accepted",
            attest.verified,
            context,
            source,
            target.chart,
        )
        flow.step(
            StepId.APPROVE,
            "a target with `approval = true` refuses an image without it",
            attest.approve,
            context,
            source,
            options.target,
            options.approve,
        )
        return Result(proof.image, proof)


def verify_only(context: Context, options: Options) -> Result:
    """Check the success criteria on a target's live release."""
    target = environments.resolve(context, options.target)
    with Flow(context.events, context.programs) as flow:
        session = flow.step(
            StepId.LOOK_UP_TARGET,
            "the cluster and its release must exist and be reachable",
            environments.found_target,
            context,
            target,
        )
        checks = flow.step(
            StepId.VERIFY,
            "a pod may have failed or changed its image since the last upgrade",
            verification.verify,
            session,
        )
        return Result(groups=live(checks))


def roll_back(
    context: Context, options: Options, revision: int | None, *, dry_run: bool = False
) -> Result:
    """Return a target to an earlier revision; ``dry_run`` only shows which one, and what would
    change."""
    target = environments.resolve(context, options.target)
    with Flow(context.events, context.programs) as flow:
        session = flow.step(
            StepId.LOOK_UP_TARGET,
            "the cluster and its release must exist and be reachable",
            environments.found_target,
            context,
            target,
        )
        result = flow.step(
            StepId.ROLLBACK,
            "the release has to serve an earlier image, values or chart again",
            promotion.rollback,
            session,
            revision,
            dry_run=dry_run,
        )
        return Result(rollback=result)


def status(context: Context, options: Options) -> Status:
    """What a target runs. Changes nothing."""
    target = environments.resolve(context, options.target)
    return verification.status(environments.found_target(context, target))
