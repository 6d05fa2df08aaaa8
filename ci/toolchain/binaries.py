"""Programs: found on PATH at the pinned version, else downloaded, else built from Go modules.

The two Go modules in ``sources/`` list every command; their complete ``go.sum`` has a hash of each
dependency. ``kubernetes`` has everything that a cluster node and its clients need in one module,
so that shared packages are compiled once.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import socket
import stat
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from ci.errors import CommandFailed, ToolchainError
from ci.run.events import Events
from ci.toolchain.host import Host
from ci.toolchain.pins import SOURCES, Pins
from ci.toolchain.store import Store, content_key
from ci.tools.command import Programs
from ci.tools.wait import Clock

REACHABLE_SECONDS = 2.0
"""How long the test of all download hosts may take in each run."""
GO_MINIMUM = (1, 21)
"""Since this version Go downloads the newer toolchain that a go.mod requires."""
NOTE_EVERY_SECONDS = 15.0

# Debug information that the linker drops (-w) need not be compiled either: a sixth of the time.
BUILD_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-gcflags=all=-dwarf=false")


@dataclass(frozen=True, slots=True)
class GoModule:
    """One folder of ``sources/`` and the commands that are built from it."""

    name: str
    commands: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...] = ()
    """(package, file name) of commands whose package has another name."""

    def ldflags(self, pins: Pins) -> str:
        if self.name != "dagger":
            return "-s -w"
        version = f"v{pins.versions['dagger']}"
        package = "github.com/dagger/dagger/engine"
        return f"-s -w -X {package}.Version={version} -X {package}.Tag={version}"

    def key(self, pins: Pins) -> str:
        parts: list[str | bytes | Path] = [SOURCES / self.name, *BUILD_FLAGS, self.ldflags(pins)]
        return content_key([*parts, *self.commands, *(str(pair) for pair in self.renamed)])


KUBERNETES = GoModule(
    "kubernetes",
    (
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        "k8s.io/kubernetes/cmd/kube-proxy",
        "k8s.io/kubernetes/cmd/kubelet",
        "k8s.io/kubernetes/cmd/kubeadm",
        "k8s.io/kubernetes/cmd/kubectl",
        "sigs.k8s.io/kind",
        "helm.sh/helm/v3/cmd/helm",
        "github.com/containerd/containerd/v2/cmd/containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/ctr",
        "./coredns",
        "./pause",
    ),
    renamed=(("go.etcd.io/etcd/server/v3", "etcd"),),
)

DAGGER = GoModule(
    "dagger",
    (
        "github.com/dagger/dagger/cmd/engine",
        "github.com/dagger/dagger/cmd/dagger",
        "github.com/dagger/dagger/cmd/init",
        "github.com/dagger/dagger/cmd/dnsname",
        "github.com/dagger/dagger/cmd/dialstdio",
    ),
)

VERSION_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "dagger": ("version",),
    "kind": ("version",),
    "helm": ("version", "--short"),
    "kubectl": ("version", "--client"),
}


class Go:
    """Builds a module's commands, and notes the progress."""

    def __init__(
        self,
        host: Host,
        pins: Pins,
        store: Store,
        programs: Programs,
        clock: Clock,
        events: Events,
    ) -> None:
        self._host = host
        self._pins = pins
        self._store = store
        self._programs = programs
        self._clock = clock
        self._events = events

    def find(self, module: GoModule) -> Path | None:
        return self._store.find(module.name, module.key(self._pins))

    def build(self, module: GoModule) -> Path:
        """The folder with the module's binaries. Raises :class:`ToolchainError`."""
        return self._store.make(
            module.name, module.key(self._pins), lambda into: self._build(module, into)
        )

    def _build(self, module: GoModule, into: Path) -> None:
        go = self._go()
        folder = SOURCES / module.name
        flags = [*BUILD_FLAGS, "-ldflags", module.ldflags(self._pins)]
        everything = [*module.commands, *(package for package, _ in module.renamed)]
        # A build cache of its own, with which a killed build continues. It is deleted after the
        # build, because its gigabytes are not needed any more.
        cache = self._store.scratch(f"go-{module.name}")
        env = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOCACHE": str(cache)}
        self._events.note(f"building {module.name} from Go modules: fetching modules")
        listed = self._programs.run(
            [go, "list", "-deps", "-mod=readonly", *everything],
            log=f"go-{module.name}",
            cwd=folder,
            env=env,
            timeout=1200,
            error=ToolchainError,
        )
        total = len(listed.stdout.splitlines())
        compiled = 0
        started = noted = self._clock.monotonic()

        def count(line: str) -> None:
            nonlocal compiled, noted
            if "/" not in line and "." not in line and not line.isidentifier():
                return
            compiled += 1
            now = self._clock.monotonic()
            if now - noted >= NOTE_EVERY_SECONDS:
                noted = now
                self._events.note(
                    f"building {module.name}: {compiled} of at most {total} packages, "
                    f"{now - started:.0f} s"
                )

        for outputs, packages in [
            (str(into) + "/", list(module.commands)),
            *((str(into / name), [package]) for package, name in module.renamed),
        ]:
            self._programs.run(
                [go, "build", "-v", *flags, "-o", outputs, *packages],
                log=f"go-{module.name}",
                cwd=folder,
                env=env,
                timeout=3000,
                on_line=count,
                error=ToolchainError,
            )
        shutil.rmtree(cache, ignore_errors=True)
        self._events.note(f"built {module.name} in {self._clock.monotonic() - started:.0f} s")

    def _go(self) -> Path:
        if self._host.go is None:
            raise ToolchainError(
                "tools have to be built on this machine, but Go is not installed",
                remedy="install Go >= 1.26 (older ones from 1.21 fetch it), or use a network "
                "that reaches the official downloads",
            )
        output = self._programs.run([self._host.go, "env", "GOVERSION"], log="go").stdout
        match = re.match(r"go(\d+)\.(\d+)", output)
        if match is None or (int(match[1]), int(match[2])) < GO_MINIMUM:
            raise ToolchainError(
                f"Go {output.strip()} is too old to build the tools", remedy="install Go >= 1.26"
            )
        return self._host.go

    def module_folder(self, module: GoModule, path: str) -> Path:
        """The folder of the module ``path`` in Go's module cache."""
        result = self._programs.run(
            [self._go(), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path],
            log=f"go-{module.name}",
            cwd=SOURCES / module.name,
            env={"GOFLAGS": "", "GOWORK": "off"},
            timeout=120,
            error=ToolchainError,
        )
        folder = result.stdout.strip()
        if not folder or not Path(folder).is_dir():
            self._programs.run(
                [self._go(), "mod", "download", path],
                log=f"go-{module.name}",
                cwd=SOURCES / module.name,
                timeout=600,
                error=ToolchainError,
            )
            return self.module_folder(module, path)
        return Path(folder)


def present(tool: str, version: str, programs: Programs, env: Mapping[str, str]) -> Path | None:
    """The path of ``tool`` on PATH, if it reports ``version``; else ``None``."""
    path = shutil.which(tool, path=env.get("PATH"))
    if path is None:
        return None
    try:
        result = programs.run(
            [path, *VERSION_COMMANDS[tool]], log="versions", check=False, timeout=10
        )
    except CommandFailed:
        return None
    exact = re.search(rf"\bv?{re.escape(version)}(?![\w.])", result.stdout)
    return Path(path) if result.status == 0 and exact else None


class Unreachable(ToolchainError):
    """An official download could not be fetched; in ``auto`` another origin is tried."""


def reachable(
    hosts: Sequence[str], connect: Callable[..., socket.socket] = socket.create_connection
) -> frozenset[str]:
    """Which of ``hosts`` (``name`` or ``name:port``, else 443) accept a connection. All are tried
    in parallel, so that an unreachable network costs two seconds in total, however slow its
    resolver is."""
    accepted: set[str] = set()

    def ask(host: str) -> None:
        name, _, port = host.partition(":")
        try:
            connect((name, int(port or 443)), timeout=REACHABLE_SECONDS).close()
        except OSError:
            return
        accepted.add(host)

    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + REACHABLE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return frozenset(accepted)


def download(tool: str, pins: Pins, into: Path, client: httpx.Client) -> None:
    """Download ``tool`` into the folder ``into``; the checksum is verified before the file is
    written.

    Raises :class:`Unreachable` when the server refuses, :class:`ToolchainError` when the
    checksum differs.
    """
    entry = pins.download[tool]
    url = pins.url(tool)
    try:
        answer = client.get(url)
        answer.raise_for_status()
    except httpx.HTTPError as problem:
        raise Unreachable(f"cannot download {tool} from {url}: {problem}") from problem
    checksum = hashlib.sha256(answer.content).hexdigest()
    if checksum != entry.sha256:
        raise ToolchainError(
            f"{url} has SHA-256 {checksum}, but {entry.sha256} is pinned",
            remedy="do not use it; find out why the file changed, then run"
            " `python -m ci.toolchain.refresh`",
        )
    data = answer.content
    if entry.member:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            try:
                member = archive.extractfile(entry.member)
            except KeyError:
                member = None
            if member is None:
                raise ToolchainError(
                    f"the archive {url} has no file {entry.member}",
                    remedy="correct `member` of this download in pins.toml",
                )
            data = member.read()
    path = into / tool
    path.write_bytes(data)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
