"""(Image, Cluster) -> Release, with the stand-ins for cloud services in the same cluster."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import servicebus_emulator
from ci import standins as manifests
from ci.digest import Digest
from ci.errors import ChartInvalid, DeployFailed, ForeignCluster, WaitTimeout
from ci.model import Cluster, Image, Release, ServiceBusAccess, StandIns
from ci.promotion.release import reader
from ci.promotion.release.rollout import (
    Judgement,
    Snapshot,
    UnrecoverablePod,
    Watch,
    fail_fast,
    finished,
    is_live,
    troubles,
    unsettled,
)
from ci.results import GapId, RolloutGap
from ci.run.context import Context
from ci.settings import Settings
from ci.standins import admission, cloud
from ci.tools import chart as charts
from ci.tools import diagnostics
from ci.tools.helm import reason
from ci.tools.kube import Kube
from ci.tools.wait import Pending, uncancelled, wait_until

FORGIVEN_RESTARTS = 3
"""Restarts of a container that are tolerated: the services it depends on may still be starting."""

DATABASE_SECRET = "model-engine-database"
SERVICEBUS_SECRET = "model-engine-servicebus"
REDIS_SECRET = "model-engine-redis"
TO_STANDINS = {
    "secrets": {
        "databaseSecretName": DATABASE_SECRET,
        "servicebusSecretName": SERVICEBUS_SECRET,
        "redisSecretName": REDIS_SECRET,
    }
}
"""Chart values that connect a release to the stand-ins instead of cloud services; :func:`connect`
creates the Secrets that they name."""


def standins(
    context: Context, cluster: Cluster, emulator: Image, *, namespace: str = manifests.NAMESPACE
) -> StandIns:
    """Start PostgreSQL, Redis and the Service Bus emulator in a cluster that the pipeline created,
    and wait until they are ready.

    Raises :class:`ci.errors.DeployFailed`, and at once :class:`ci.errors.ForeignCluster` for a
    cluster that is not disposable.
    """
    prepared = prepare_standins(context, cluster, namespace=namespace)
    start_standins(context, prepared, emulator)
    return prepared


def prepare_standins(
    context: Context, cluster: Cluster, *, namespace: str = manifests.NAMESPACE
) -> StandIns:
    """Create the stand-ins' credentials and return their addresses, so that a service can be
    deployed before the stand-ins run.

    Raises :class:`ci.errors.ForeignCluster` for a cluster that is not disposable.
    """
    _refuse_foreign(context, cluster)
    kube = context.kube(cluster)
    values, fresh = _secrets(kube, namespace)
    for secret in (values.postgres_password, values.redis_password, values.servicebus_key):
        context.programs.hide(secret)
    if fresh:
        kube.apply(manifests.secret(values))
    return StandIns(
        cluster=cluster,
        namespace=namespace,
        servicebus=ServiceBusAccess(
            connection_string=values.connection_string(),
            ca_pem=values.ca_pem.encode(),
            key=values.servicebus_key,
        ),
        database_url=values.database_url,
        redis_url=values.redis_url,
    )


def start_standins(context: Context, standins: StandIns, emulator: Image) -> None:
    """Apply the stand-ins' workloads and wait until they are ready. Raises
    :class:`ci.errors.DeployFailed`."""
    kube = context.kube(standins.cluster)
    workloads = manifests.workloads(
        context.tools.postgres_image,
        context.tools.redis_image,
        emulator.by_digest,
        standins.namespace,
    )
    kube.apply(workloads)
    _wait_ready(context, kube, standins.namespace, timeout=120)


def redirect_cloud(
    context: Context,
    standins: StandIns,
    images: Sequence[str],
    selector: str = admission.SELECTOR,
    names: Mapping[str, str] | None = None,
) -> None:
    """Redirect Azure's DNS names in the cluster to its stand-ins, and wait until that works, for
    images that connect to ``NAMESPACE.servicebus.windows.net`` with ``DefaultAzureCredential``.

    Pods that match ``selector`` get an identity and the stand-ins' CA when they are created;
    ``images`` are their image references. ``names`` are further DNS names, each with the
    ``SERVICE.NAMESPACE`` to redirect it to. :mod:`ci.standins.cloud` describes the details,
    and :func:`remove_overlay` undoes it. Waits for the stand-ins. Raises
    :class:`ci.errors.ForeignCluster` before anything is changed, and
    :class:`ci.errors.DeployFailed`.
    """
    cluster, namespace = standins.cluster, standins.namespace
    _refuse_foreign(context, cluster)
    kube = context.kube(cluster)
    secret, _ = _secrets(kube, namespace)
    certified_names = servicebus_emulator.names_of(secret.certificate_pem.encode())
    if not certified_names.issuperset(admission.AZURE_NAMES):
        raise DeployFailed(
            f"the stand-ins in cluster {cluster.name} were created by an older version of the"
            " pipeline: their certificate does not cover Azure's DNS names",
            remedy="delete the cluster with `python3 pipeline.py clean` (the demonstration target"
            " with --demo-target), then run again",
        )
    _wait_ready(context, kube, namespace, timeout=120)
    emulator = kube.get("deployment", manifests.SERVICEBUS, namespace=namespace)
    routes = dict.fromkeys(admission.AZURE_NAMES, manifests.servicebus_host(namespace))
    routes |= {name: f"{host}.svc.cluster.local" for name, host in (names or {}).items()}
    cloud.redirect(
        kube,
        context.clock,
        cloud.Wanted(
            routes=routes,
            selector=selector,
            images=tuple(images),
            namespace=namespace,
            emulator=emulator["spec"]["template"]["spec"]["containers"][0]["image"],
            workload=f"deployment/{manifests.SERVICEBUS}",
            ca=standins.servicebus.ca_pem.decode(),
        ),
        say=context.events.note,
    )


def remove_overlay(context: Context, cluster: Cluster) -> bool:
    """Restore the cluster's DNS and remove the admission policy; returns whether there was anything
    to undo. Raises :class:`ci.errors.ForeignCluster` before anything is changed."""
    _refuse_foreign(context, cluster)
    return cloud.restore_dns(context.kube(cluster).for_cleanup(), uncancelled(context.clock))


def deploy(
    context: Context,
    cluster: Cluster,
    standins: StandIns,
    image: Image,
    *,
    namespace: str,
    release: str,
    values: Mapping[str, Any],
) -> Release:
    """Install or upgrade the chart's release with ``image``, and wait until it is ready and every
    pod runs its digest.

    Raises :class:`ChartInvalid` before anything is changed when the chart does not render,
    :class:`DeployFailed` with the pods' states and last log lines.
    """
    chart = context.path(context.settings.gate.chart)
    merged = charts.merge(_values(context.settings, image), values)
    kube = context.kube(cluster)
    helm = context.helm(cluster)
    charts.metadata(chart)
    images: list[str] = []
    if context.settings.gate.cloud.redirect:
        rendered = charts.render(
            context.tools.helm,
            context.programs,
            chart,
            merged,
            release=release,
            namespace=namespace,
        )
        images = charts.images(rendered)
    connect(context, standins, namespace, images)
    installed = helm.run(
        "upgrade", "--install", release, str(chart), "--values", "-",
        namespace=namespace, input=yaml.safe_dump(merged), timeout=60, check=False,
    )  # fmt: skip
    if installed.status != 0:
        error = reason(installed)
        if _is_rendering(error):
            raise ChartInvalid(f"the chart {chart.name} does not render: {error}")
        raise DeployFailed(f"helm could not install release {release}: {error}")
    _wait_ready(context, kube, namespace, timeout=context.settings.gate.deploy_timeout_seconds)
    _wait_for_names(context, kube)
    _check_digest(kube, namespace, image)
    revision = helm.history(release, namespace)[-1].number
    return Release(cluster, namespace, release, revision, image)


def connect(context: Context, standins: StandIns, namespace: str, images: Sequence[str]) -> None:
    """Create the Secrets that connect a service to the stand-ins, and their namespace if it is
    missing. If the settings ask for it, also redirect the cloud's DNS names, for pods that run
    ``images``."""
    context.kube(standins.cluster).apply(_service_secrets(namespace, standins))
    described = context.settings.gate.cloud
    if described.redirect:
        redirect_cloud(context, standins, images, described.pods, described.names)
    else:
        remove_overlay(context, standins.cluster)  # left by a run with other settings


def installed(context: Context, cluster: Cluster, namespace: str, release: str) -> bool:
    """Whether the release exists and its latest revision is deployed."""
    helm = context.helm(cluster)
    result = helm.run("status", release, "-o", "json", namespace=namespace, check=False)
    return result.status == 0 and '"status":"deployed"' in result.stdout.replace(" ", "")


def settled(context: Context, cluster: Cluster, namespace: str) -> None:
    """Wait until the namespace's Deployments are ready (after a restart of the node)."""
    timeout = context.settings.gate.deploy_timeout_seconds
    _wait_ready(context, context.kube(cluster), namespace, timeout=timeout)


def render(context: Context) -> None:
    """Check that the chart renders, before anything is built. Raises :class:`ChartInvalid`."""
    settings = context.settings
    image = Image("registry.invalid/image", "tag", Digest.from_hex("0" * 64))
    charts.render(
        context.tools.helm,
        context.programs,
        context.path(settings.gate.chart),
        charts.merge(_values(settings, image), settings.gate.values),
        release=settings.gate.release,
        namespace=settings.gate.namespace,
    )


def _refuse_foreign(context: Context, cluster: Cluster) -> None:
    """Refuse clusters that the pipeline did not create. Independent of what the caller claims: only
    its own clusters have their kubeconfigs in its own folder."""
    own = context.home.kubeconfig(cluster.name)
    if not cluster.disposable or cluster.kubeconfig != own:
        raise ForeignCluster(
            f"refusing to install stand-ins in {cluster.name}: the pipeline did not create it"
        )


def _values(settings: Settings, image: Image) -> dict[str, Any]:
    """The values that the pipeline sets; all others come from the chart or the settings."""
    values: dict[str, Any] = {}
    _put(values, settings.service.tag_value, image.tag)
    _put(values, settings.service.repository_value, image.repository)
    return charts.merge(values, TO_STANDINS)


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *folders, last = path.split(".")
    for folder in folders:
        values = values.setdefault(folder, {})
    values[last] = value


def _is_rendering(error: str) -> bool:
    signs = ("template:", "parse error", "values don't meet", "execution error", "YAML parse")
    return any(sign in error for sign in signs)


def _service_secrets(namespace: str, standins: StandIns) -> list[dict[str, Any]]:
    contents = {
        DATABASE_SECRET: {"database_url": standins.database_url},
        SERVICEBUS_SECRET: {
            "connection_string": standins.servicebus.connection_string,
            "ca.crt": standins.servicebus.ca_pem.decode(),
        },
        REDIS_SECRET: {"redis_url": standins.redis_url},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        *(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "stringData": data,
            }
            for name, data in contents.items()
        ),
    ]


def _secrets(kube: Kube, namespace: str) -> tuple[manifests.Secrets, bool]:
    """The stand-ins' secrets, and whether they are new."""
    stored = kube.read("secrets", manifests.SECRET, namespace)
    if stored is not None:
        data = stored.get("data") or {}
        decoded = {key: base64.b64decode(text).decode() for key, text in data.items()}
        try:
            return manifests.Secrets.of(decoded, namespace), False
        except KeyError:
            pass  # written by an older version of the pipeline: create new ones
    ca, certificate, key = _certificate(namespace)
    created = manifests.Secrets(
        postgres_password=secrets.token_hex(16),
        redis_password=secrets.token_hex(16),
        servicebus_key=base64.b64encode(secrets.token_bytes(32)).decode(),
        ca_pem=ca,
        certificate_pem=certificate,
        key_pem=key,
        namespace=namespace,
    )
    return created, True


def _certificate(namespace: str = manifests.NAMESPACE) -> tuple[str, str, str]:
    """(CA, certificate, key) as PEM for the emulator's endpoints, under every name they have."""
    host = manifests.servicebus_host(namespace)
    short = host.removesuffix(".cluster.local")
    authority = servicebus_emulator.make_authority("queue-timeout-gate stand-ins")
    server = servicebus_emulator.issue(
        authority,
        [
            *(host, short, manifests.SERVICEBUS),
            *servicebus_emulator.DEFAULT_NAMES,
            *admission.AZURE_NAMES,
        ],
    )
    return authority.certificate.decode(), server.certificate.decode(), server.key.decode()


def _wait_ready(context: Context, kube: Kube, namespace: str, *, timeout: int) -> None:
    """Wait until every Deployment of the namespace is rolled out and no old pod is left."""
    watch = Watch()

    def rolled_out(now: Snapshot) -> Judgement:
        return Judgement(
            unsettled(now, now.deployments)
            if now.deployments
            else (RolloutGap(GapId.NO_DEPLOYMENT, ""),)
        )

    def look(now: Snapshot, _: Judgement) -> None:
        pod_troubles = troubles(now.pods, forgiven_restarts=FORGIVEN_RESTARTS)
        fail_fast(watch, context.clock.monotonic(), pod_troubles)

    folder = context.folder.below("evidence", f"deploy-{kube.cluster.name}")
    try:
        reader.wait_judged(
            f"the Deployments in {namespace}",
            kube,
            namespace,
            rolled_out,
            timeout=timeout,
            clock=context.clock,
            look=look,
            progress=context.events.note,
        )
    except WaitTimeout as problem:
        diagnostics.collect(kube, namespace, folder)
        states = ", ".join(_state(pod) for pod in kube.pods(namespace))
        raise DeployFailed(f"{problem}; pods: {states or 'none'}") from problem
    except UnrecoverablePod as problem:
        diagnostics.collect(kube, namespace, folder)
        last = diagnostics.tail(kube, namespace, problem.trouble.pod)
        raise DeployFailed(
            f"{problem}, in namespace {namespace}; its last log lines: {last}"
        ) from problem


def _wait_for_names(context: Context, kube: Kube) -> None:
    """Wait until every CoreDNS pod answers. In a new cluster the Service already routes to pods
    that are not ready (``publishNotReadyAddresses``), so lookups failed now and then while the
    second pod started."""

    def answering() -> bool | Pending:
        pods = [pod for pod in kube.pods(cloud.SYSTEM, cloud.DNS_PODS) if not finished(pod)]
        silent = [pod["metadata"]["name"] for pod in pods if not cloud.dns_answers(kube, pod)]
        return (bool(pods) and not silent) or Pending(", ".join(silent) or "no pod")

    wait_until("the cluster's DNS", answering, timeout=60, clock=context.clock, interval=0.3)


def _state(pod: Mapping[str, Any]) -> str:
    status = pod.get("status", {})
    restarts = sum(c.get("restartCount", 0) for c in status.get("containerStatuses", []))
    return f"{pod['metadata']['name']} {status.get('phase', '?')} ({restarts} restarts)"


def _check_digest(kube: Kube, namespace: str, image: Image) -> None:
    """Check that every container of a live pod runs the image's digest, whatever its tag was
    resolved to. Raises :class:`DeployFailed`."""
    for pod in filter(is_live, kube.pods(namespace)):
        for status in pod.get("status", {}).get("containerStatuses", []):
            if image.repository in status.get("image", "") and not status.get(
                "imageID", ""
            ).endswith(image.digest):
                raise DeployFailed(
                    f"pod {pod['metadata']['name']} runs {status['imageID']},"
                    f" expected {image.digest}"
                )
