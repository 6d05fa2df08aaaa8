"""Where things run: the gate's cluster, and the target that is meant by a name.

The demonstration target is made when it is missing, its first release included. A real one is a
block of ``pipeline.toml``: it is there already, or the run ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ci import standins as manifests
from ci.errors import SettingsError
from ci.model import Cluster, Image, StandIns, Target
from ci.promotion.release.session import TargetSession
from ci.results import StepId
from ci.run.context import Context
from ci.run.scheduler import Flow, Pending
from ci.settings import DEMO_TARGET, Options, TargetSettings
from ci.stages import build, cluster, deploy
from ci.stages import verify as verification

PREVIOUS_TAG = "0123456789abcdef0123456789abcdef01234567"
"""The image that the demonstration target serves before its first promotion, as in the plan."""
DEMO_NAMESPACE = "launch"
DEMO_RELEASE = "launch-inference"


# -- the gate -------------------------------------------------------------------------------------


def gate_cluster(
    flow: Flow, context: Context, options: Options, image: Pending[Image] | None = None
) -> Cluster:
    """A cluster that nothing was done to yet; with ``--keep-cluster`` one that was kept."""
    name = context.settings.gate.name
    if options.keep_cluster:
        return cluster.ensure(context, name, wanted_images(context, image))
    flow.cleanup(StepId.CLEAN_UP, cluster.delete, context, name)
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


# -- targets --------------------------------------------------------------------------------------


def resolve(context: Context, name: str, *, chart_change: bool = False) -> Target:
    """The target of this name as the settings describe it, without asking any cluster; everything
    that a command needs to know of it, looked up once.

    Raises :class:`SettingsError` for a target that no block describes.
    """
    described = context.settings.targets.get(name)
    if described is not None:
        return replace(real_target(context, name, described), chart_change=chart_change)
    if name == DEMO_TARGET:
        return replace(demo_target(context), chart_change=chart_change)
    known = [DEMO_TARGET, *context.settings.targets]
    raise SettingsError(
        f"unknown target {name!r}; known targets: {', '.join(known)}",
        remedy=f"add a [targets.{name}] block to pipeline.toml, or name another with --target",
    )


def find_target(context: Context, target: Target, emulator: Pending[Image]) -> TargetSession:
    """The target, its release there; the demonstration one is made when it is missing."""
    if target.name != DEMO_TARGET:
        return found_target(context, target)
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
    return _with_standins(context, target, here, standins)


def found_target(context: Context, target: Target) -> TargetSession:
    """A target that is there already. Raises :class:`SettingsError` for the demonstration one
    before its first run; what a real one lacks is found by the promotion's own questions."""
    if target.name != DEMO_TARGET:
        session = TargetSession.open(context, target)
        verification.status(session)
        return session
    here = cluster.find(context, DEMO_TARGET)
    if here is None:
        raise SettingsError(
            f"the demonstration target {DEMO_TARGET!r} is not there",
            remedy="`python3 pipeline.py run` makes it",
        )
    emulator = build.find_emulator(context)
    if emulator is None:  # not built from this source: what another checkout started is used
        standins = deploy.prepare_standins(context, here)
    else:
        standins = deploy.standins(context, here, emulator)
    return _with_standins(context, target, here, standins)


def _with_standins(
    context: Context, target: Target, here: Cluster, standins: StandIns
) -> TargetSession:
    there = replace(target, cluster=here, standins=standins)
    return TargetSession.open(context, there, reach=manifests.reach)


def demo_target(context: Context) -> Target:
    service = context.settings.service
    return Target(
        name=DEMO_TARGET,
        cluster=cluster.named(context, DEMO_TARGET),
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
        openapi_path=service.openapi_path,
        rehearsal=context.settings.rehearsal.required,
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
        login=described.registry_login,
        probing=described.probing,
        soak_seconds=described.soak_seconds,
        gates=described.gates,
        servicebus_env=described.servicebus_connection_string_env,
        canary_per_second=described.canary_per_second,
        pull_on_nodes=described.pull_on_nodes,
        try_surge=described.try_surge,
        allow_migrations=described.allow_migrations,
        migration_command=described.migration_command,
        openapi_path=service.openapi_path,
        require=described.require,
        rehearsal=(
            context.settings.rehearsal.required
            if described.rehearsal is None
            else described.rehearsal
        ),
        approval=described.approval,
    )
