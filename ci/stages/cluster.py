"""Kubernetes clusters in Docker, made, kept and removed. Each is recorded with its owner before
it is made, so that one whose run died is recognised, whenever it died."""

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
    """A new cluster. An older one of this name is removed if it is ours.

    ``pull`` are images that the node pulls while the control plane starts; asking for the next
    one may take a while. Raises
    :class:`ci.errors.ClusterFailed` when a cluster of this name exists that is not ours.
    """
    kind = _kind(context)
    if name in kind.clusters():
        if name not in context.home.clusters():
            raise ClusterFailed(
                f"a kind cluster named {name!r} exists that the pipeline did not make",
                remedy=f"`kind delete cluster --name {name}` if it is not needed, "
                "or choose another name under [gate] in pipeline.toml",
            )
        context.events.note(f"removing the {name} cluster of an earlier run")
        kind.delete(name, context.home.kubeconfig(name))
    kubeconfig = context.home.kubeconfig(name)
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    kubeconfig.unlink(missing_ok=True)
    record = ClusterRecord(name, Process.this(), kept=False, determined_by=_determined_by(context))
    context.home.put_cluster(record)
    pulls: list[threading.Thread] = []

    def see(line: str) -> None:
        if line.startswith(" •"):  # kind says each of its steps twice, at its start and end
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
    """A kept cluster that answers and is made of today's node image; ``None`` otherwise."""
    record = context.home.clusters().get(name)
    if record is None or not record.kept or record.determined_by != _determined_by(context):
        return None
    kubeconfig = context.home.kubeconfig(name)
    kind = _kind(context)
    if not kubeconfig.exists() or name not in kind.clusters():
        return None
    if not kind.running(name):
        context.events.note(f"starting the node of {name} again")
        kind.start(name)
    cluster = named(context, name)
    try:
        wait_until(
            f"the API server of {name}",
            lambda: context.kube(cluster).run("get", "--raw", "/readyz", check=False).status == 0,
            timeout=READY_SECONDS,
            clock=context.clock,
        )
    except WaitTimeout:
        return None
    return cluster


def ensure(context: Context, name: str, pull: Iterable[str] = ()) -> Cluster:
    """The kept cluster of this name, made when there is none; it is kept from then on."""
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
    """Remove the cluster, half-made or whole. Only one that is recorded as ours."""
    if name in context.home.clusters():
        _kind(context).delete(name, context.home.kubeconfig(name))
        context.home.drop_cluster(name)


def stale(context: Context) -> list[str]:
    """Clusters whose run died before it could remove them."""
    return [
        record.name
        for record in context.home.clusters().values()
        if not record.kept and not record.owner.alive()
    ]


def remove_stale(context: Context) -> None:
    for name in stale(context):
        context.events.note(f"removing the {name} cluster of a run that died")
        delete(context, name)


def _answer_names_early(context: Context, cluster: Cluster) -> None:
    """CoreDNS answers within seconds, but kubeadm's manifest has its readiness asked every 10 s;
    until then queries are dropped, and a resolver tries again only after 5 s."""
    context.kube(cluster).run(
        "patch", "service", "kube-dns", "--namespace", "kube-system",
        "--patch", '{"spec": {"publishNotReadyAddresses": true}}',
    )  # fmt: skip


def _wait_for_accounts(context: Context, cluster: Cluster) -> None:
    """Pods are refused until the controller manager has made the namespace's account."""
    kube = context.kube(cluster)
    wait_until(
        f"the service account of {cluster.name}",
        lambda: kube.ask("GET", path_of("serviceaccounts", "default", "default")).ok,
        timeout=READY_SECONDS,
        clock=context.clock,
        interval=0.3,
    )


def _pull(kind: Kind, name: str, references: Iterable[str]) -> None:
    """One after the other, most wanted first: the disk is what limits them.

    Best effort: what is not pulled here the kubelet pulls, and says what is wrong. Asking for the
    next image waits for its build, which may raise anything; that is reported by the build's step.
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
