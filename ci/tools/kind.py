"""kind: clusters of one node in Docker, with kubeconfigs of their own, never the ambient one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from ci.errors import ClusterFailed
from ci.tools.command import Programs

CERTS_D = "/etc/containerd/certs.d"
FREEZER = Path("/sys/fs/cgroup/freezer/docker")
"""Where cgroup v1 has the freezer state of containers."""


def configuration(node_certs: Path, kubelet_patch: str, *, brings_cni: bool) -> str:
    """The cluster's configuration for ``kind create cluster --config -``.

    A node image that ``brings_cni`` has its own pod network, so kind's default CNI is disabled.
    ``node_certs`` is mounted as containerd's ``certs.d`` and has the local registry's address.
    """
    # With one replica, leader election only costs CPU time. A patch replaces whole lists, so
    # kind's own argument is repeated here; Kubernetes before 1.36 uses v1beta3, for which kind
    # ignores this patch.
    alone = [{"name": "leader-elect", "value": "false"}]
    # Each controller first requests its own ServiceAccount; at the default of 20 requests per
    # second that alone takes 5 s.
    unthrottled = [
        {"name": "kube-api-qps", "value": "500"},
        {"name": "kube-api-burst", "value": "1000"},
    ]
    quick = {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "controllerManager": {
            "extraArgs": [
                {"name": "enable-hostpath-provisioner", "value": "true"},
                *alone,
                *unthrottled,
            ]
        },
        "scheduler": {"extraArgs": alone},
        # A throwaway cluster need not survive a power failure.
        "etcd": {"local": {"extraArgs": [{"name": "unsafe-no-fsync", "value": "true"}]}},
    }
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "serializeImagePulls": False,
    }
    patches = [yaml.safe_dump(quick), yaml.safe_dump(kubelet)]
    if kubelet_patch.strip():
        patches.append(kubelet_patch)
    return yaml.safe_dump(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "networking": {"disableDefaultCNI": brings_cni},
            "kubeadmConfigPatches": patches,
            "nodes": [
                {
                    "role": "control-plane",
                    "extraMounts": [
                        {"hostPath": str(node_certs), "containerPath": CERTS_D, "readOnly": True}
                    ],
                }
            ],
        }
    )


class Kind:
    """The kind program and the Docker daemon it uses."""

    def __init__(self, kind: Path, docker: Path, programs: Programs) -> None:
        self._kind = kind
        self._docker = docker
        self._programs = programs

    def clusters(self) -> list[str]:
        result = self._programs.run(
            [self._kind, "get", "clusters", "--quiet"], timeout=60, during_cleanup=True
        )
        return result.stdout.split()

    def create(
        self,
        name: str,
        image: str,
        kubeconfig: Path,
        config: str,
        *,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Create a cluster. Raises :class:`ClusterFailed` with kind's output."""
        self._programs.run(
            [
                self._kind, "create", "cluster", "--name", name, "--image", image,
                "--kubeconfig", kubeconfig, "--config", "-",
            ],
            log=f"kind-{name}",
            input=config,
            # Keep kind from even reading the ambient KUBECONFIG.
            env={"KUBECONFIG": str(kubeconfig)},
            timeout=300,
            on_line=on_line,
            error=ClusterFailed,
        )  # fmt: skip

    def delete(self, name: str, kubeconfig: Path) -> None:
        """Delete a cluster, also an incomplete one, and also after the run was cancelled."""

        def attempt(*, check: bool) -> int:
            return self._programs.run(
                [self._kind, "delete", "cluster", "--name", name, "--kubeconfig", kubeconfig],
                log=f"kind-{name}",
                env={"KUBECONFIG": str(kubeconfig)},
                timeout=120,
                check=check,
                during_cleanup=True,
            ).status

        if attempt(check=False) != 0:
            thaw(FREEZER, self._id(f"{name}-control-plane"))
            attempt(check=True)

    def running(self, name: str) -> bool:
        """Whether the cluster's node container runs."""
        result = self._programs.run(
            [self._docker, "inspect", "--format", "{{.State.Running}}", f"{name}-control-plane"],
            timeout=30,
            check=False,
        )
        return result.status == 0 and result.stdout.strip() == "true"

    def _id(self, container: str) -> str:
        """The container's id, empty when there is none."""
        return self._programs.run(
            [self._docker, "inspect", "--format", "{{.Id}}", container],
            timeout=30,
            check=False,
            during_cleanup=True,
        ).stdout.strip()

    def start(self, name: str) -> None:
        """Start a stopped node again (after a reboot)."""
        self._programs.run([self._docker, "start", f"{name}-control-plane"], timeout=60)

    def pull(self, name: str, reference: str) -> None:
        """Have the node pull an image before the first pod needs it; best effort.

        May be called as soon as the node's container is being created.
        """
        script = (
            "until [ -S /run/containerd/containerd.sock ]; do sleep 0.2; done; "
            'exec ctr --namespace k8s.io images pull --hosts-dir "$1" "$2" >/dev/null'
        )
        self._programs.run(
            [
                self._docker, "exec", f"{name}-control-plane",
                "sh", "-c", script, "pull", CERTS_D, reference,
            ],
            log=f"kind-{name}-pull",
            timeout=120,
            check=False,
        )  # fmt: skip


def thaw(freezer: Path, container: str) -> list[Path]:
    """Thaw the frozen cgroups of a container; returns their state files.

    runc freezes a v1 cgroup while it sets it up. If it is killed at that moment, it leaves
    processes that not even SIGKILL ends, and the daemon cannot remove their container.
    """
    if not container:
        return []
    frozen = [
        state
        for state in sorted((freezer / container).glob("**/freezer.state"))
        if state.read_text(encoding="ascii").strip() == "FROZEN"
    ]
    for state in frozen:
        state.write_text("THAWED", encoding="ascii")
    return frozen
