"""kind clusters: created, kept and deleted. Each is recorded with its owner before it is created,
so that the cluster of a killed run is recognised, whenever it was killed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from contextlib import suppress

from ci.errors import ClusterFailed, WaitTimeout
from ci.model import Cluster
from ci.run.context import Context
from ci.run.state import ClusterRecord
from ci.tools.api import path_of
from ci.tools.kind import Kind, configuration
from ci.tools.process_identity import Process
from ci.tools.wait import wait_until

READY_SECONDS = 90


def create(context: Context, name: str, pull: Iterable[str] = ()) -> Cluster:
    """Create a cluster. An older one of this name is deleted if the pipeline created it.

    ``pull`` are images that the node pulls while the control plane starts; the iterator may block
    until the next image has been built. Raises :class:`ci.errors.ClusterFailed`, also when a
    cluster of this name exists that the pipeline did not create.
    """
    kind = _kind(context)
    if name in kind.clusters():
        if name not in context.home.clusters():
            raise ClusterFailed(
                f"a kind cluster named {name!r} exists that the pipeline did not create",
                remedy=f"run `kind delete cluster --name {name}` if you do not need it, "
                "or set another name under [gate] in pipeline.toml",
            )
        context.events.note(f"deleting the cluster {name} of an earlier run")
        kind.delete(name, context.home.kubeconfig(name))
    kubeconfig = context.home.kubeconfig(name)
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    kubeconfig.unlink(missing_ok=True)
    record = ClusterRecord(name, Process.this(), kept=False, determined_by=_determined_by(context))
    context.home.put_cluster(record)
    pulls: list[threading.Thread] = []

    def see(line: str) -> None:
        if line.startswith(" •"):  # kind prints each step twice, at its start and end
            context.events.note(line.strip(" •.…"))
        if "Writing configuration" in line and not pulls:  # the node's container runs
            thread = threading.Thread(
                target=_pull, args=(kind, name, pull), name=f"pull into {name}", daemon=True
            )
            pulls.append(thread)
            thread.start()

    kind.create(
        name,
        context.tools.node_image,
        kubeconfig,
        _configuration(context),
        on_line=see,
    )
    cluster = named(context, name)
    _answer_names_early(context, cluster)
    _wait_for_accounts(context, cluster)
    return cluster


def find(context: Context, name: str) -> Cluster | None:
    """The kept cluster, if its API server answers and it has the current node image; else
    ``None``."""
    record = context.home.clusters().get(name)
    if record is None or not record.kept or record.determined_by != _determined_by(context):
        return None
    kubeconfig = context.home.kubeconfig(name)
    kind = _kind(context)
    if not kubeconfig.exists() or name not in kind.clusters():
        return None
    if not kind.running(name):
        context.events.note(f"restarting the node of cluster {name}")
        kind.start(name)
    cluster = named(context, name)
    try:
        wait_until(
            f"the API server of cluster {name}",
            lambda: context.kube(cluster).run("get", "--raw", "/readyz", check=False).status == 0,
            timeout=READY_SECONDS,
            clock=context.clock,
        )
    except WaitTimeout:
        return None
    return cluster


def ensure(context: Context, name: str, pull: Iterable[str] = ()) -> Cluster:
    """The kept cluster of this name; created, and kept from then on, if there is none."""
    cluster = find(context, name)
    if cluster is None:
        cluster = create(context, name, pull)
        keep(context, cluster)
    return cluster


def keep(context: Context, cluster: Cluster) -> None:
    """Let the cluster outlive this run."""
    context.home.put_cluster(
        ClusterRecord(cluster.name, Process.this(), True, _determined_by(context))
    )


def delete(context: Context, name: str) -> None:
    """Delete the cluster, complete or not, if it is recorded as created by the pipeline."""
    if name in context.home.clusters():
        _kind(context).delete(name, context.home.kubeconfig(name))
        context.home.drop_cluster(name)


def stale(context: Context) -> list[str]:
    """Names of clusters whose run was killed before it could delete them."""
    return [
        record.name
        for record in context.home.clusters().values()
        if not record.kept and not record.owner.alive()
    ]


def remove_stale(context: Context) -> None:
    for name in stale(context):
        context.events.note(f"deleting the cluster {name} of a run that was killed")
        delete(context, name)


def _answer_names_early(context: Context, cluster: Cluster) -> None:
    """Route DNS queries to CoreDNS before its pods are ready. CoreDNS answers within seconds, but
    kubeadm's readiness probe runs only every 10 s; until then queries are dropped, and a resolver
    retries only after 5 s."""
    context.kube(cluster).run(
        "patch", "service", "kube-dns", "--namespace", "kube-system",
        "--patch", '{"spec": {"publishNotReadyAddresses": true}}',
    )  # fmt: skip


def _wait_for_accounts(context: Context, cluster: Cluster) -> None:
    """Wait for the namespace's default ServiceAccount: pods are rejected until the controller
    manager has created it."""
    kube = context.kube(cluster)
    wait_until(
        f"the default ServiceAccount of cluster {cluster.name}",
        lambda: kube.ask("GET", path_of("serviceaccounts", "default", "default")).ok,
        timeout=READY_SECONDS,
        clock=context.clock,
        interval=0.3,
    )


def _pull(kind: Kind, name: str, references: Iterable[str]) -> None:
    """Pull images one after the other, most urgent first, because the disk limits the speed.

    Best effort: an image that is not pulled here is pulled by the kubelet, which reports what is
    wrong. The iterator waits for the next image's build, which may raise; the build's own step
    reports that.
    """
    with suppress(Exception):
        for reference in references:
            kind.pull(name, reference)


def _kind(context: Context) -> Kind:
    return Kind(context.tools.kind, context.tools.docker, context.programs)


def named(context: Context, name: str) -> Cluster:
    """The cluster of this name, whether it is there or not."""
    return Cluster(name, context.home.kubeconfig(name), f"kind-{name}", disposable=True)


def _determined_by(context: Context) -> str:
    text = context.tools.node_image + _configuration(context)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _configuration(context: Context) -> str:
    tools = context.tools
    return configuration(
        tools.node_certs_dir, tools.kubelet_patch, brings_cni=tools.node_brings_cni
    )
