"""The images of Kubernetes' components, assembled from binaries built on this machine."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from ci.errors import ToolchainError
from ci.toolchain.images import LABEL
from ci.toolchain.store import Store, content_key
from ci.tools.command import Programs
from ci.tools.docker import Docker

ENTRYPOINTS: Mapping[str, tuple[str, str]] = {
    "kube-apiserver": ("kube-apiserver", "/usr/local/bin/kube-apiserver"),
    "kube-controller-manager": (
        "kube-controller-manager",
        "/usr/local/bin/kube-controller-manager",
    ),
    "kube-scheduler": ("kube-scheduler", "/usr/local/bin/kube-scheduler"),
    "kube-proxy": ("kube-proxy", "/usr/local/bin/kube-proxy"),
    "coredns": ("coredns", "/coredns"),
    "etcd": ("etcd", "/usr/local/bin/etcd"),
    "pause": ("pause", "/pause"),
}
"""Image name (last part) to (binary, its path in the image, which kubeadm's manifests rely on)."""

ON_A_BASE = {"kube-proxy"}
"""Components that call other programs; the others need only their binary."""


def required(kubeadm: Path, version: str, programs: Programs) -> tuple[str, ...]:
    """The image references that kubeadm requires, for example ``registry.k8s.io/pause:3.10.1``."""
    result = programs.run(
        [kubeadm, "config", "images", "list", "--kubernetes-version", f"v{version}"],
        log="kubeadm",
        error=ToolchainError,
        timeout=60,
    )
    return tuple(line.strip() for line in result.stdout.splitlines() if line.strip())


def pause_image(references: tuple[str, ...]) -> str:
    """The sandbox image among them. Raises :class:`ToolchainError`."""
    for reference in references:
        if _name(reference) == "pause":
            return reference
    raise ToolchainError(
        f"kubeadm lists no pause image, but {', '.join(references) or 'no image at all'}"
    )


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1].split(":")[0]


def key(references: tuple[str, ...], binaries: Path, proxy_base: str) -> str:
    """What determines the components' images."""
    return content_key([binaries.name, proxy_base, *references, *map(str, ENTRYPOINTS.items())])


def save(
    references: tuple[str, ...],
    binaries: Path,
    proxy_base: str,
    docker: Docker,
    store: Store,
) -> Path:
    """A folder with ``images.tar``: every component under the reference that kubeadm requires.

    Raises :class:`ToolchainError`, before anything is made for a component that is not built.
    """
    unknown = [reference for reference in references if _name(reference) not in ENTRYPOINTS]
    if unknown:
        raise ToolchainError(
            f"kubeadm requires {', '.join(unknown)}, which the pipeline does not build",
            remedy="add it to ENTRYPOINTS in ci/toolchain/components.py and to the Go module, or"
            " pin the previous Kubernetes version",
        )

    def make(into: Path) -> None:
        for reference in references:
            name = _name(reference)
            binary, path = ENTRYPOINTS[name]
            if name in ON_A_BASE:
                _on_base(docker, reference, binaries, binary, path, proxy_base)
            else:
                _alone(docker, reference, binaries / binary, path, into)
        docker.run(
            "save",
            "--output",
            str(into / "images.tar"),
            *references,
            timeout=300,
            error=ToolchainError,
        )
        docker.run("rmi", *references, check=False)

    return store.make("node-components", key(references, binaries, proxy_base), make)


def _alone(docker: Docker, reference: str, binary: Path, path: str, into: Path) -> None:
    archive = into / "one.tar"
    with tarfile.open(archive, "w") as tar:
        for folder in ("tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        passwd = b"root:x:0:0:root:/root:/sbin/nologin\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(passwd)
        tar.addfile(entry, BytesIO(passwd))
        info = tar.gettarinfo(str(binary), path.lstrip("/"))
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = "root"
        info.mode = 0o755
        with binary.open("rb") as source:
            tar.addfile(info, source)
    docker.run(
        "import",
        "--change",
        f'ENTRYPOINT ["{path}"]',
        "--change",
        "ENV PATH=/usr/local/bin:/usr/bin:/bin",
        str(archive),
        reference,
        timeout=300,
        error=ToolchainError,
    )
    archive.unlink()


def _on_base(
    docker: Docker, reference: str, binaries: Path, binary: str, path: str, base: str
) -> None:
    container = f"queue-timeout-gate-component-{binary}"
    docker.remove(container)
    try:
        docker.run(
            "run",
            "--name",
            container,
            "--label",
            f"{LABEL}.assembling={binary}",
            "--volume",
            f"{binaries}:/toolchain:ro",
            "--entrypoint",
            "install",
            base,
            "-m",
            "0755",
            f"/toolchain/{binary}",
            path,
            error=ToolchainError,
        )
        docker.run(
            "commit",
            "--change",
            "ENTRYPOINT []",
            "--change",
            'CMD ["sh"]',
            container,
            reference,
            error=ToolchainError,
        )
    finally:
        docker.remove(container)
