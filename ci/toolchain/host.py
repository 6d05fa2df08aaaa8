"""Properties of this host; workarounds are applied only where they are needed."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24
"""Bit number, include/uapi/linux/capability.h."""

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Host:
    """Properties of the machine."""

    is_root: bool
    is_debian: bool
    """apt and dpkg exist, so packages can be installed and images assembled."""
    cgroup_v1: bool
    can_sys_resource: bool
    """Without it, runc refuses ``--privileged`` ("unable to apply caps")."""
    ca_folder: Path | None
    """The CA certificates an administrator added, for networks that inspect TLS."""
    proxies: tuple[tuple[str, str], ...]
    go: Path | None

    @property
    def kubelet_patch(self) -> str:
        """A KubeletConfiguration patch this host needs; Kubernetes >= 1.35 refuses cgroup v1."""
        if not self.cgroup_v1:
            return ""
        return (
            "apiVersion: kubelet.config.k8s.io/v1beta1\n"
            "kind: KubeletConfiguration\n"
            "failCgroupV1: false\n"
        )


def inspect(env: Mapping[str, str]) -> Host:
    """Inspect the host; ``env`` is its environment."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        can = True
    else:
        bounding = re.search(
            r"^CapBnd:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.M
        )
        can = bounding is None or bool(int(bounding[1], 16) >> CAP_SYS_RESOURCE & 1)
    ca_folder = Path("/usr/local/share/ca-certificates")
    go = shutil.which("go", path=env.get("PATH"))
    return Host(
        is_root=os.geteuid() == 0,
        is_debian=shutil.which("apt-get") is not None and shutil.which("dpkg") is not None,
        cgroup_v1=not Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        can_sys_resource=can,
        ca_folder=ca_folder if any(ca_folder.rglob("*.crt")) else None,
        proxies=tuple((name, env[name]) for name in PROXIES if env.get(name)),
        go=Path(go) if go else None,
    )
