"""Where things run: the gate cluster, and the target of a given name.

The demonstration target is created when it is missing, with its first release. Every other target
is described by a block of ``pipeline.toml`` and must exist already, or the run ends.
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
    """A fresh cluster; with ``--keep-cluster`` the kept one, if there is one."""
    name = context.settings.gate.name
    if options.keep_cluster:
        return cluster.ensure(context, name, wanted_images(context, image))
    flow.cleanup(StepId.CLEAN_UP, cluster.delete, context, name)
    return cluster.create(context, name, wanted_images(context, image))


def kept_cluster(
    flow: Flow, context: Context, options: Options, image: Pending[Image] | None = None
) -> Cluster:
    """The kept cluster; else a new one, which is deleted when the run ends unless
    ``--keep-cluster`` is given."""
    existing = cluster.find(context, context.settings.gate.name)
    return existing if existing is not None else gate_cluster(flow, context, options, image)


def wanted_images(context: Context, built: Pending[Image] | None = None) -> Iterator[str]:
    """Images that a new node pulls in advance, so that no Deployment waits for them: the service's
    previous image (it shares most layers with the one being built), the stand-ins, and last the
    image that was built."""
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
    """Delete a cluster; a failure is only noted, because the next run deletes it and a promotion
    must not fail over it."""
    try:
        cluster.delete(context, name)
    except Exception as problem:
        context.events.note(f"the cluster {name} was not deleted, the next run will: {problem}")


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
    """A session with the target and its release; the demonstration target is created when it is
    missing."""
    if target.name != DEMO_TARGET:
        return found_target(context, target)
    demo_cluster = cluster.ensure(context, DEMO_TARGET, wanted_images(context))
    standins = deploy.standins(context, demo_cluster, emulator.result())
    if not deploy.installed(context, demo_cluster, DEMO_NAMESPACE, DEMO_RELEASE):
        context.events.note(f"installing {DEMO_RELEASE} at its previous image")
        previous = build.find(context, context.settings.image.name, PREVIOUS_TAG)
        deploy.deploy(
            context,
            demo_cluster,
            standins,
            previous if previous is not None else build.build(context, PREVIOUS_TAG, record=False),
            namespace=DEMO_NAMESPACE,
            release=DEMO_RELEASE,
            values={},
        )
    else:
        deploy.settled(context, demo_cluster, DEMO_NAMESPACE)
    return _with_standins(context, target, demo_cluster, standins)


def found_target(context: Context, target: Target) -> TargetSession:
    """A session with a target that exists. Raises :class:`SettingsError` for the demonstration
    target before its first run, and :class:`ci.errors.TargetNotFound` for another target whose
    cluster, namespace or release does not exist."""
    if target.name != DEMO_TARGET:
        session = TargetSession.open(context, target)
        verification.status(session)
        return session
    demo_cluster = cluster.find(context, DEMO_TARGET)
    if demo_cluster is None:
        raise SettingsError(
            f"the demonstration target {DEMO_TARGET!r} does not exist yet",
            remedy="create it: `python3 pipeline.py run`",
        )
    emulator = build.find_emulator(context)
    if emulator is None:  # built from other source: keep the stand-ins that run there
        standins = deploy.prepare_standins(context, demo_cluster)
    else:
        standins = deploy.standins(context, demo_cluster, emulator)
    return _with_standins(context, target, demo_cluster, standins)


def _with_standins(
    context: Context, target: Target, demo_cluster: Cluster, standins: StandIns
) -> TargetSession:
    there = replace(target, cluster=demo_cluster, standins=standins)
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
