"""THE list: what a run does, in which order, what beside what, and why.

:class:`Flow` is the machinery (threads, cancellation, cleanup); the functions below it are the
lists. A step takes the values that earlier steps returned, so a wrong order is a type error.
"""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

from ci import notices, waves
from ci.context import Context
from ci.errors import EvidenceRefused, Interrupted, PipelineError, SettingsError
from ci.events import Events
from ci.model import (
    Check,
    Cluster,
    Gates,
    Image,
    Login,
    Probing,
    Promotion,
    Proof,
    Query,
    Rehearsal,
    Release,
    StandIns,
    Target,
)
from ci.promotion.plan import Plan
from ci.settings import DEMO_TARGET, TargetSettings
from ci.stages import attest, build, cluster, deploy, prove
from ci.stages import promote as promotion
from ci.stages import rehearse as rehearsing
from ci.stages import verify as verification
from ci.tools.command import Programs

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """The value of a step that runs beside others."""

    def __init__(self, flow: Flow, name: str, future: Future[T]) -> None:
        self.name = name
        self._flow = flow
        self._future = future

    def result(self) -> T:
        """Wait for the value. Raises what the step raised, or what ended the flow first."""
        try:
            return self._future.result()
        except BaseException as problem:
            raise self._flow.cause(problem) from None


class Flow:
    """Runs steps, some beside each other. The first failure cancels what still runs; cleanups
    run last, in reverse order, whatever happened, and after every step has come to its end."""

    def __init__(self, events: Events, programs: Programs) -> None:
        self._events = events
        self._programs = programs
        self._first: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._cleanups: list[tuple[str, Callable[[], object]]] = []

    def step(self, name: str, reason: str, fn: Callable[P, T], *a: P.args, **k: P.kwargs) -> T:
        """Run a step now."""
        self._refuse_when_cancelled()
        try:
            with self._events.step(name, reason):
                return fn(*a, **k)
        except BaseException as problem:
            self._failed(problem)
            raise self.cause(problem) from None

    def beside(
        self, name: str, reason: str, fn: Callable[P, T], *a: P.args, **k: P.kwargs
    ) -> Pending[T]:
        """Start a step beside those that follow."""
        self._refuse_when_cancelled()
        future: Future[T] = Future()

        def work() -> None:
            try:
                with self._events.step(name, reason):
                    value = fn(*a, **k)
            except BaseException as problem:
                self._failed(problem)
                future.set_exception(problem)
            else:
                future.set_result(value)

        inherited = contextvars.copy_context()  # the span this one belongs under
        thread = threading.Thread(target=inherited.run, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return Pending(self, name, future)

    def cleanup(self, name: str, fn: Callable[P, object], *a: P.args, **k: P.kwargs) -> None:
        """Call ``fn`` when the flow ends, however it ends."""
        self._cleanups.append((name, lambda: fn(*a, **k)))

    def cause(self, problem: BaseException) -> BaseException:
        """What a caller is told: a step that was cancelled because of another is not news."""
        with self._lock:
            first = self._first
        return first if first is not None and isinstance(problem, Interrupted) else problem

    def _failed(self, problem: BaseException) -> None:
        with self._lock:
            first = self._first is None
            if first:
                self._first = problem
        running = [t for t in self._threads if t.is_alive() and t is not threading.current_thread()]
        if first and (running or threading.current_thread() is not threading.main_thread()):
            self._programs.end_all()

    def _refuse_when_cancelled(self) -> None:
        if self._programs.cancel.is_set():
            raise self.cause(Interrupted("interrupted"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if problem is not None:
            self._failed(problem)
        for thread in self._threads:
            thread.join()
        for name, fn in reversed(self._cleanups):
            try:
                with self._events.step(name):
                    fn()
            except Exception as failure:
                # What a cleanup leaves behind is found and removed by the next run.
                self._events.note(f"{name} failed: {failure}")
        if problem is None and self._first is not None:
            raise self._first


# -- the lists ------------------------------------------------------------------------------------

PREVIOUS_TAG = "0123456789abcdef0123456789abcdef01234567"
"""The image that the demonstration target serves before its first promotion, as in the plan."""
DEMO_NAMESPACE = "launch"
DEMO_RELEASE = "launch-inference"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    target: str = DEMO_TARGET
    keep_cluster: bool = False
    approve: str = ""
    """Who approves the promotion, where the target asks for it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command made, for the closing summary."""

    image: Image | None = None
    proof: Proof | None = None
    promotion: Promotion | None = None
    checks: tuple[Check, ...] = ()


def run(context: Context, options: Options) -> Result:
    """Build, prove on a fresh cluster, promote what was proven, verify."""
    attest.check_keys(context)
    gate = context.settings.gate
    check_target_name(context, options.target)
    with (
        context.home.lock("gate", f"the {gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step("chart", "one that does not render ends the run at once", deploy.render, context)
        flow.step("stale", "what a killed run left is removed first", cluster.remove_stale, context)
        tag = build.new_tag(context)
        emulator = flow.beside(
            "emulator", "its content is its tag: built once", build.build_emulator, context
        )
        image = flow.beside("build", "the one build and the one push", build.build, context, tag)
        place = flow.beside(
            "gate", "a fresh cluster, beside the build", gate_cluster, flow, context, options, image
        )
        target = flow.beside(
            "target",
            "it must be there before anything is proven for it",
            find_target,
            context,
            options.target,
            emulator,
        )
        here = place.result()
        release, proven = prove_on(flow, context, here, emulator, image)
        goal = target.result()
        if wants_rehearsal(context, options.target):
            flow.step(
                "rehearse",
                "what breaks the target's release breaks it here first",
                rehearse,
                context,
                here,
                goal,
                emulator.result(),
                proven,
            )
        if not options.keep_cluster:
            flow.beside(
                "gate gone",
                "it has served; its cores help the promotion",
                quietly_delete,
                context,
                here.name,
            )
        proof = flow.step(
            "evidence",
            "what the registry holds decides, not what we remember",
            evidence,
            context,
            source(context, release.image.by_digest, options.target),
            options,
        )
        promoted = flow.step(
            "promote", "helm upgrade, only the image", promote, context, goal, proof
        )
        checks = flow.step(
            "verify",
            "the plan's success criteria, on the live state",
            verification.verify,
            context,
            goal,
            promoted.after,
        )
        return Result(release.image, proof, promoted, checks)


def prove_on(
    flow: Flow, context: Context, here: Cluster, emulator: Pending[Image], image: Pending[Image]
) -> tuple[Release, Proof]:
    """From a cluster to evidence: what ``run`` and ``prove`` have in common."""
    standins = flow.step("keys", "what opens the stand-ins", deploy.prepare_standins, context, here)
    cloud = flow.beside(
        "stand-ins",
        "the cloud, for the gate",
        deploy.start_standins,
        context,
        standins,
        emulator.result(),
    )
    deployed = flow.beside(
        "deploy",
        "the image under test; it waits for its cloud by itself",
        deploy_gate,
        context,
        here,
        standins,
        image,
    )

    def released() -> Release:
        cloud.result()
        return deployed.result()

    proof = flow.step(
        "prove",
        "the end-to-end tests decide; they start beside what they test",
        proven_here,
        context,
        released,
        standins,
    )
    flow.step("attest", "signed, and found by digest from any machine", attested, context, proof)
    return deployed.result(), proof


def build_only(context: Context, options: Options) -> Result:
    """Build and publish, nothing else."""
    with Flow(context.events, context.programs) as flow:
        emulator = flow.beside(
            "emulator", "its content is its tag: built once", build.build_emulator, context
        )
        tag = build.new_tag(context)
        image = flow.step("build", "the one build and the one push", build.build, context, tag)
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
        flow.step("chart", "one that does not render ends the run at once", deploy.render, context)
        flow.step("stale", "what a killed run left is removed first", cluster.remove_stale, context)
        emulator = flow.beside(
            "emulator", "its content is its tag: built once", build.build_emulator, context
        )
        image = flow.beside(
            "build", "unchanged source is not built again", latest_or_built, context
        )
        here = flow.step(
            "gate", "a kept cluster saves time", kept_cluster, flow, context, options, image
        )
        release, proof = prove_on(flow, context, here, emulator, image)
        return Result(release.image, proof)


def rehearse_only(context: Context, options: Options, image: str) -> Result:
    """Rehearse a proven image on the gate cluster, with a target's live release. Changes no
    target; the signed verdict is what a promotion asks for."""
    attest.check_keys(context)
    check_target_name(context, options.target)
    wanted = source(context, image, options.target)
    with (
        context.home.lock("gate", f"the {context.settings.gate.name} cluster"),
        Flow(context.events, context.programs) as flow,
    ):
        flow.step("stale", "what a killed run left is removed first", cluster.remove_stale, context)
        proof = flow.step(
            "evidence",
            "only what was proven is worth a rehearsal",
            attest.verified,
            context,
            wanted,
            chart_of(context, options.target),
        )
        emulator = flow.beside(
            "emulator", "its content is its tag: built once", build.build_emulator, context
        )
        goal = flow.step("target", "it must be there", found_target, context, options.target)
        here = flow.step("gate", "a kept cluster saves time", kept_cluster, flow, context, options)
        found = flow.step(
            "rehearse",
            "what breaks the target's release breaks it here first",
            rehearse,
            context,
            here,
            goal,
            emulator.result(),
            proof,
        )
        return Result(proof.image, proof, checks=found.checks)


def promote_only(context: Context, options: Options, image: str) -> Result:
    """Promote an image that was proven, on whichever machine; ``image`` is REPOSITORY@DIGEST or
    ``last``."""
    check_target_name(context, options.target)
    wanted = source(context, image, options.target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            "evidence", "only what was proven may pass", evidence, context, wanted, options
        )
        goal = flow.step("target", "it must be there", found_target, context, options.target)
        promoted = flow.step(
            "promote", "helm upgrade, only the image", promote, context, goal, proof
        )
        checks = flow.step(
            "verify",
            "the plan's success criteria, on the live state",
            verification.verify,
            context,
            goal,
            promoted.after,
        )
        return Result(proof.image, proof, promoted, checks)


def promote_to(
    context: Context, names: Sequence[str], approve: str, image: str, words: Sequence[str]
) -> Result:
    """Promote to one target, or to several in order; ``words`` are the options for each."""
    known = [DEMO_TARGET, *context.settings.targets]
    chosen = waves.order(names, context.settings, known)
    if len(chosen.targets) == 1:
        return promote_only(context, Options(chosen.targets[0], approve=approve), image)
    return Result(checks=waves.promote(context, chosen, image, words))


def plan(context: Context, options: Options, image: str) -> Plan:
    """What promoting a proven image would change on a target. Changes nothing."""
    check_target_name(context, options.target)
    wanted = source(context, image, options.target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            "evidence",
            "it names the tag, and only what was proven may pass",
            attest.verified,
            context,
            wanted,
            chart_of(context, options.target),
        )
        goal = flow.step("target", "it must be there", found_target, context, options.target)
        return flow.step(
            "plan",
            "rendered by the target's own server, with its live values",
            promotion.preview,
            context,
            goal,
            Image(goal.image_repository, proof.image.tag, proof.image.digest),
        )


def approve_only(context: Context, options: Options, image: str) -> Result:
    """Approve a proven image for a target, for a later promotion on whichever machine."""
    check_target_name(context, options.target)
    wanted = source(context, image, options.target)
    with Flow(context.events, context.programs) as flow:
        proof = flow.step(
            "evidence",
            "nobody approves what was not proven",
            attest.verified,
            context,
            wanted,
            chart_of(context, options.target),
        )
        flow.step(
            "approve",
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
    check_target_name(context, options.target)
    with Flow(context.events, context.programs) as flow:
        goal = flow.step("target", "it must be there", found_target, context, options.target)
        checks = flow.step(
            "verify", "the plan's success criteria", verification.verify, context, goal
        )
        return Result(checks=checks)


def roll_back(context: Context, options: Options, revision: int | None) -> int:
    """Return a target to a recorded revision; gives the revision that is deployed now."""
    check_target_name(context, options.target)
    with Flow(context.events, context.programs) as flow:
        goal = flow.step("target", "it must be there", found_target, context, options.target)
        return flow.step(
            "rollback", "to a recorded revision", promotion.rollback, context, goal, revision
        )


def status(context: Context, options: Options) -> verification.Status:
    """What a target runs. Changes nothing."""
    check_target_name(context, options.target)
    return verification.status(context, found_target(context, options.target))


# -- what the steps of the lists do ---------------------------------------------------------------


def gate_cluster(
    flow: Flow, context: Context, options: Options, image: Pending[Image] | None = None
) -> Cluster:
    """A cluster that nothing was done to yet; with ``--keep-cluster`` one that was kept."""
    name = context.settings.gate.name
    if options.keep_cluster:
        return cluster.ensure(context, name, wanted_images(context, image))
    flow.cleanup("clean up", cluster.delete, context, name)
    return cluster.create(context, name, wanted_images(context, image))


def kept_cluster(
    flow: Flow, context: Context, options: Options, image: Pending[Image] | None = None
) -> Cluster:
    """The kept cluster; else one that goes when the run ends, unless it shall be kept."""
    found = cluster.find(context, context.settings.gate.name)
    return found if found is not None else gate_cluster(flow, context, options, image)


def wanted_images(context: Context, built: Pending[Image] | None = None) -> Iterator[str]:
    """What a new node can pull before anything is deployed: the service's last image, which
    shares all but its last layers with the one that is being built, the stand-ins, and at last
    what was built."""
    last = build.find(context, context.settings.image.name, PREVIOUS_TAG)
    if last is not None:
        yield last.by_digest
    yield context.tools.postgres_image
    emulator = build.find_emulator(context)
    if emulator is not None:
        yield emulator.by_digest
    yield context.tools.redis_image
    if built is not None:
        yield built.result().by_digest


def quietly_delete(context: Context, name: str) -> None:
    """A cluster that does not go must not fail a promotion; the next run removes it."""
    try:
        cluster.delete(context, name)
    except Exception as problem:
        context.events.note(f"{name} was not removed: {problem}")


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


def check_target_name(context: Context, name: str) -> None:
    """Raises :class:`SettingsError` for a target that no block describes."""
    known = [DEMO_TARGET, *context.settings.targets]
    if name not in known:
        raise SettingsError(
            f"there is no target {name!r}; there is {', '.join(known)}",
            remedy=f"add a [targets.{name}] block to pipeline.toml, or name another with --target",
        )


def find_target(context: Context, name: str, emulator: Pending[Image]) -> Target:
    """The target, its release there; the demonstration one is made when it is missing."""
    if name != DEMO_TARGET:
        return found_target(context, name)
    here = cluster.ensure(context, DEMO_TARGET, wanted_images(context))
    standins = deploy.standins(context, here, emulator.result())
    if not deploy.installed(context, here, DEMO_NAMESPACE, DEMO_RELEASE):
        context.events.note(f"installing {DEMO_RELEASE} at its previous image")
        previous = build.find(context, context.settings.image.name, PREVIOUS_TAG)
        deploy.deploy(
            context,
            here,
            standins,
            previous if previous is not None else build.build(context, PREVIOUS_TAG, record=False),
            namespace=DEMO_NAMESPACE,
            release=DEMO_RELEASE,
            values={},
        )
    else:
        deploy.settled(context, here, DEMO_NAMESPACE)
    return demo_target(context, here, standins)


def found_target(context: Context, name: str) -> Target:
    """A target that is there already. Raises :class:`SettingsError` for the demonstration one
    before its first run; what a real one lacks is found by the promotion's own questions."""
    described = context.settings.targets.get(name)
    if described is not None:
        target = real_target(context, name, described)
        verification.status(context, target)
        return target
    here = cluster.find(context, DEMO_TARGET)
    if here is None:
        raise SettingsError(
            f"the demonstration target {DEMO_TARGET!r} is not there",
            remedy="`python3 pipeline.py run` makes it",
        )
    emulator = build.find_emulator(context)
    standins = deploy.standins(context, here, emulator) if emulator is not None else None
    return demo_target(context, here, standins)


def demo_target(context: Context, here: Cluster, standins: StandIns | None) -> Target:
    service = context.settings.service
    return Target(
        name=DEMO_TARGET,
        cluster=here,
        namespace=DEMO_NAMESPACE,
        release=DEMO_RELEASE,
        chart=context.path(context.settings.gate.chart),
        image_repository=f"{context.tools.registry.name}/{context.settings.image.name}",
        gateway=service.gateway,
        port=service.port,
        health_paths=service.health_paths,
        deployments=service.deployments,
        tag_value=service.tag_value,
        repository_values=(service.repository_value,),
        standins=standins,
    )


def real_target(context: Context, name: str, described: TargetSettings) -> Target:
    service = context.settings.service
    return Target(
        name=name,
        cluster=Cluster(
            name=name,
            kubeconfig=context.path(described.kubeconfig.expanduser()),
            context=described.context,
            disposable=False,
        ),
        namespace=described.namespace,
        release=described.release,
        chart=context.path(described.chart),
        image_repository=described.image_repository,
        timeout_seconds=described.timeout_seconds,
        gateway=service.gateway,
        port=service.port,
        health_paths=service.health_paths,
        deployments=service.deployments,
        tag_value=service.tag_value,
        repository_values=described.repository_values or (service.repository_value,),
        login=login_of(described),
        probing=Probing(**described.probing.model_dump()),
        soak_seconds=described.soak_seconds,
        gates=gates_of(described),
        servicebus_env=described.servicebus_connection_string_env,
        canary_per_second=described.canary_per_second,
        pull_on_nodes=described.pull_on_nodes,
        allow_migrations=described.allow_migrations,
        migration_command=described.migration_command,
        openapi_path=described.openapi_path,
    )


def wants_rehearsal(context: Context, name: str) -> bool:
    """Whether nothing is promoted to a target that was not rehearsed with its release."""
    described = context.settings.targets.get(name)
    asked = described.rehearsal if described is not None else None
    return context.settings.rehearsal.required if asked is None else asked


def rehearse(
    context: Context, here: Cluster, target: Target, emulator: Image, proof: Proof
) -> Rehearsal:
    """The rehearsal, with stand-ins of its own beside the gate's. Its verdict, whatever it is, is
    signed and attached to the image; raises :class:`ci.errors.RehearsalFailed`."""
    place = f"standins-{target.name}"[:63].rstrip("-")
    try:
        standins = deploy.standins(context, here, emulator, namespace=place)
        actors = rehearsing.Actors(
            promote=promotion.promote,
            roll_back=promotion.rollback,
            use=lambda inside, release, label: prove.prove(
                inside, lambda: release, standins, select=prove.QUICK, label=label
            ),
        )
        found = rehearsing.rehearse(
            context,
            here,
            target,
            proof,
            actors,
            standins=standins,
            redirect=deploy.TO_STANDINS,
            prepare=lambda namespace: deploy.connect(context, standins, namespace),
        )
    finally:
        with suppress(PipelineError):
            rehearsing.remove(context.kube(here).for_cleanup(), place)
    wanted = source(context, proof.image.by_digest, target.name)
    attest.attach_rehearsal(context, wanted, chart_of(context, target.name), found)
    rehearsing.refuse_failed(found)
    return found


def refuse_unrehearsed(context: Context, target: Target, proof: Proof) -> None:
    """Raises :class:`EvidenceRefused` where a rehearsal is asked for and no passed one of this
    image with the target's release as it is now is attached to the image."""
    if not wants_rehearsal(context, target.name):
        return
    wanted = source(context, proof.image.by_digest, target.name)
    revision = rehearsing.revision_of(context, target)
    attest.rehearsed(context, wanted, chart_of(context, target.name), target.name, revision)


def promote(context: Context, target: Target, proof: Proof) -> Promotion:
    """The promotion, with the plan's own queue-timeout check on the target at its end."""
    refuse_unrehearsed(context, target, proof)

    def after(release: Release) -> None:
        connection = context.programs.env.get(target.servicebus_env, "")
        if target.standins is None and not connection:
            context.events.note(
                "no Service Bus access for the target: the queue-timeout flow is not run there "
                "(servicebus_connection_string_env)"
            )
            return
        prove.prove(
            context,
            lambda: release,
            target.standins,
            select=prove.QUICK,
            label="target",
            servicebus=connection,
        )

    with notices.told(context, target, proof.image) as done:
        promoted = promotion.promote(context, target, proof, after=after)
        done.append(promoted)
    if promoted.after.repository != proof.image.repository:
        try:
            attest.follow(context, proof.image, promoted.after, target.login)
        except PipelineError as problem:  # the image is promoted; its evidence is where it was
            context.events.note(f"the evidence was not copied along: {problem}")
    return promoted


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


def evidence(context: Context, wanted: attest.Source, options: Options) -> Proof:
    """The proof that allows a promotion, from the registry; approved where the target asks for
    it. Raises :class:`ci.errors.EvidenceRefused`."""
    proof = attest.verified(context, wanted, chart_of(context, options.target))
    if options.approve:
        attest.approve(context, wanted, options.target, options.approve)
    described = context.settings.targets.get(options.target)
    if described is not None and described.approval:
        attest.approved(context, wanted, options.target)
    return proof


def chart_of(context: Context, name: str) -> Path:
    """The chart that a target is promoted with."""
    described = context.settings.targets.get(name)
    return context.path(described.chart if described else context.settings.gate.chart)


def source(context: Context, image: str, target: str) -> attest.Source:
    """Where the image that a person named is looked for: REPOSITORY@DIGEST, or ``last``."""
    if image == "last":
        found = prove.last(context)
        if found is None:
            raise EvidenceRefused(
                "nothing was proven on this machine yet",
                remedy="prove it: `python3 pipeline.py prove`, or name an image by digest",
            )
        image = found.by_digest
    repository, _, digest = image.rpartition("@")
    if not repository or not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise SettingsError(
            f"{image!r} is not an image by digest",
            remedy="give REPOSITORY@sha256:…, or `last` for what was proven last",
        )
    described = context.settings.targets.get(target)
    login = None
    if described is not None:
        same = described.image_repository.partition("/")[0] == repository.partition("/")[0]
        login = login_of(described) if same else None
    host, slash, path = repository.rpartition("/")
    return attest.Source(f"{host}{slash}{path.partition(':')[0]}", digest, login)


def gates_of(described: TargetSettings) -> Gates:
    gates = described.gates
    queries = tuple(Query(**query.model_dump()) for query in gates.queries)
    return Gates(**gates.model_dump(exclude={"queries"}), queries=queries)


def login_of(described: TargetSettings) -> Login | None:
    login = described.registry_login
    return Login(login.username, login.password_command, login.password_env) if login else None
