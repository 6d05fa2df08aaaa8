"""Where stages meet: what a step of :mod:`ci.workflow.commands` does when one stage
alone cannot do it.

Stages never import each other; what one of them needs of another is handed to it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from ci.digest import Digest
from ci.errors import EvidenceRefused, PipelineError, ProofFailed, SettingsError
from ci.model import Cluster, Image, Promotion, Proof, Rehearsal, Release, StandIns, Target
from ci.promotion.preflight.required import SERVICE_BUS
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade.post_upgrade_test import After
from ci.results import (
    Check,
    CheckId,
    Count,
    Measured,
    Names,
    Outcome,
    Phase,
    Problem,
    Unit,
    failed,
    passed,
    skipped,
)
from ci.run.context import Context
from ci.run.scheduler import Pending
from ci.settings import Options
from ci.stages import attest, build, deploy, prove
from ci.stages import promote as promotion
from ci.stages import rehearse as rehearsing
from ci.workflow import notifications


def latest_or_built(context: Context) -> Image:
    found = build.latest(context)
    if found is not None:
        context.events.note(f"source unchanged: {found.by_tag}")
        return found
    return build.build(context, build.new_tag(context))


def deploy_gate(
    context: Context, here: Cluster, standins: StandIns, image: Pending[Image]
) -> Release:
    gate = context.settings.gate
    return deploy.deploy(
        context,
        here,
        standins,
        image.result(),
        namespace=gate.namespace,
        release=gate.release,
        values=gate.values,
    )


def rehearse(session: TargetSession, here: Cluster, emulator: Image, proof: Proof) -> Rehearsal:
    """The rehearsal, with stand-ins of its own beside the gate's. Its verdict, whatever it is, is
    signed and attached to the image; raises :class:`ci.errors.RehearsalFailed`."""
    context, target = session.context, session.target
    place = f"standins-{target.name}"[:63].rstrip("-")
    try:
        standins = deploy.standins(context, here, emulator, namespace=place)
        actors = rehearsing.Actors(
            promote=partial(promotion.promote, recorded=False),
            roll_back=partial(promotion.rollback, recorded=False),
            use=lambda inside, release, label: prove.prove(
                inside, lambda: release, standins, select=prove.QUICK, label=label
            ),
        )
        found = rehearsing.rehearse(
            session,
            here,
            proof,
            actors,
            standins=standins,
            redirect=deploy.TO_STANDINS,
            prepare=lambda namespace, image: deploy.connect(
                context, standins, namespace, [image.by_tag]
            ),
        )
    finally:
        with suppress(PipelineError):
            deploy.remove_overlay(context, here)  # it leads to stand-ins that go
        with suppress(PipelineError):
            rehearsing.remove(context.kube(here).for_cleanup(), place)
    wanted = source(context, proof.image.by_digest, target)
    attest.attach_rehearsal(context, wanted, target.chart, found)
    rehearsing.refuse_failed(found)
    return found


def unrehearsed(
    session: TargetSession, proof: Proof, *, force: bool = False
) -> EvidenceRefused | None:
    """Why the target may not be changed: a rehearsal is asked for, and no passed one of this
    image with the target's release as it is now is attached to the image. Raised at once, unless
    the target runs the image already: what changes nothing needs no rehearsal."""
    context, target = session.context, session.target
    if not target.rehearsal:
        return None
    wanted = source(context, proof.image.by_digest, target)
    state = rehearsing.state_of(session)
    try:
        attest.rehearsed(
            context,
            wanted,
            target.chart,
            target.name,
            state,
            require=rehearsing.required(target),
        )
    except EvidenceRefused as refusal:
        if force or state.digest != proof.image.digest:
            raise
        return refusal
    return None


def promote(session: TargetSession, proof: Proof, *, force: bool = False) -> Promotion:
    """The promotion, with the plan's own queue-timeout check on the target at its end. An image
    that is served already is verified only, unless ``force`` wants the upgrade all the same."""
    context, target = session.context, session.target
    refusal = unrehearsed(session, proof, force=force)

    with ExitStack() as held:
        done = held.enter_context(notifications.notifying(session, proof.image))
        promoted = promotion.promote(
            session,
            proof,
            after=held.enter_context(tests_of(session)),
            force=force,
            refusal=refusal,
        )
        done.append(promoted)
    if promoted.after.repository != proof.image.repository:
        try:
            attest.follow(context, proof.image, promoted.after, target.login)
        except PipelineError as problem:  # the image is promoted; its evidence is where it was
            context.events.note(f"the evidence was not copied along: {problem}")
    return promoted


@contextmanager
def tests_of(session: TargetSession) -> Iterator[After]:
    """The queue-timeout flow on the target, as a promotion calls it; its program starts now, and
    the way to its Service Bus is opened, for that takes seconds. Where no setting names the
    target's Service Bus, the check is skipped. Raises :class:`ci.errors.SettingsError` where
    one does and the variable is not set."""
    context, target = session.context, session.target
    connection = session.env.get(target.servicebus_env, "")
    if target.standins is None and target.servicebus_env and not connection:
        raise SettingsError(
            f"the environment variable {target.servicebus_env} is not set"
            f" (servicebus_connection_string_env of {target.name})",
            remedy=f"export {target.servicebus_env}",
        )
    if target.standins is None and not connection:
        yield lambda _: (skipped(CheckId.QUEUE_TIMEOUTS, SERVICE_BUS),)
        return
    patience = target.timeout_seconds + prove.RELEASE_SECONDS

    def after(release: Release) -> tuple[Check, ...]:
        failures: list[Proof] = []
        try:
            proof = tests.prove(
                release, target.standins, servicebus=connection, on_failure=failures.append
            )
        except ProofFailed as problem:
            raise problem.carrying(Phase.DURING, _failed_tests(problem, failures)) from None
        cases = sum(case.outcome is Outcome.PASSED for case in proof.cases)
        return (passed(CheckId.QUEUE_TIMEOUTS, Count(Unit.CASES, cases)),)

    with prove.started(
        context,
        select=prove.QUICK,
        label="target",
        patience=patience,
        standins=target.standins,
    ) as tests:
        yield after


def _failed_tests(problem: ProofFailed, failures: Sequence[Proof]) -> Check:
    """Which cases failed; without any, why the tests came to no end."""
    names = tuple(case.name for proof in failures for case in proof.failed)
    measured: Measured = Names(Unit.CASES, names, len(names)) if names else Problem(str(problem))
    return failed(CheckId.QUEUE_TIMEOUTS, measured)


def proven_here(context: Context, released: Callable[[], Release], standins: StandIns) -> Proof:
    """The whole suite; what failed is signed and kept in the run's folder, too."""

    def keep(failed: Proof) -> None:
        try:
            attest.write(context, failed)
        except PipelineError as problem:  # the failed cases are the news
            context.events.note(f"the failing evidence was not signed: {problem}")

    return prove.prove(context, released, standins, on_failure=keep)


def attested(context: Context, proof: Proof) -> None:
    """Sign what was proven and attach it to the image."""
    attest.attach(context, proof.image, attest.write(context, proof))
    prove.record(context, proof)


def evidence(context: Context, wanted: attest.Source, target: Target, options: Options) -> Proof:
    """The proof that allows a promotion, from the registry; approved where the target asks for
    it. Raises :class:`ci.errors.EvidenceRefused`."""
    proof = attest.verified(context, wanted, target.chart)
    if options.approve:
        attest.approve(context, wanted, target.name, options.approve)
    if target.approval:
        attest.approved(context, wanted, target.name)
    return proof


def named(context: Context, image: str) -> str:
    """The image's name by digest, where it was named ``last``: what this checkout proved last.
    Raises :class:`ci.errors.EvidenceRefused` where it proved none."""
    return prove.last(context).by_digest if image == "last" else image


def source(context: Context, image: str, target: Target) -> attest.Source:
    """Where the image that a person named is looked for: REPOSITORY@DIGEST, or ``last``.

    Raises :class:`ci.errors.SettingsError` for what is no such name, and what :func:`named`
    raises."""
    image = named(context, image)
    repository, _, digest = image.rpartition("@")
    named_digest = Digest.read(digest)
    if not repository or not named_digest:
        raise SettingsError(
            f"{image!r} is not an image by digest",
            remedy="give REPOSITORY@sha256:…, or `last` for what this checkout proved last",
        )
    same = target.image_repository.partition("/")[0] == repository.partition("/")[0]
    login = target.login if same else None
    host, slash, path = repository.rpartition("/")
    return attest.Source(f"{host}{slash}{path.partition(':')[0]}", named_digest, login)
