"""Obtains every tool at its pinned version, from the first origin that has it.

Origins, in this order and shown to the user: *present* (on PATH at the pinned version),
*download* (from its project, checked against a pinned sha256), *source* (built from Go modules
or assembled from Debian packages). ``obtain`` is idempotent and quick when all is there.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from ci.digest import Digest
from ci.errors import CommandFailed, DiskFull, DockerUnavailable, Interrupted, ToolchainError
from ci.model import Registry, Tools
from ci.results import StepId
from ci.run.events import Events
from ci.toolchain import components, pins, recipes, services
from ci.toolchain.binaries import (
    DAGGER,
    KUBERNETES,
    Go,
    GoModule,
    Unreachable,
    download,
    present,
    reachable,
)
from ci.toolchain.daemon import ensure_daemon, find_docker
from ci.toolchain.host import inspect as inspect_host
from ci.toolchain.images import PREFIX, Assembler, Recipe
from ci.toolchain.store import Store, content_key
from ci.tools.command import Programs
from ci.tools.docker import Docker
from ci.tools.wait import Clock

__all__ = ["Mode", "ToolState", "inspect", "obtain"]

Mode = Literal["auto", "download", "source"]
T = TypeVar("T")

NEEDED_BYTES = 14 * 2**30
"""Free disk, in bytes, needed to obtain everything (docs/measured.md has the measured sizes)."""
CLIENTS: Mapping[str, GoModule] = {
    "dagger": DAGGER,
    "kind": KUBERNETES,
    "helm": KUBERNETES,
    "kubectl": KUBERNETES,
}
"""Programs that run on the host, and the Go module from which each can be built."""
IMAGES: Mapping[str, tuple[str, str]] = {
    "node": ("kind node image", "kind-node"),
    "engine": ("dagger engine", "dagger-engine"),
    "registry": ("registry", "registry"),
    "postgres": ("postgres", "postgres"),
    "redis": ("redis", "redis"),
}
"""Every pinned image: its title, and the recipe with which it can be assembled instead."""
GO_BUILT = ("node", "engine")
"""Images assembled from binaries built from Go modules; the others use Debian packages only."""


@dataclass(frozen=True, slots=True)
class ToolState:
    """One line of ``doctor``."""

    name: str
    pinned: str
    found: str
    origin: str
    state: str
    """``ready`` or ``missing``."""
    remedy: str
    checksum: Digest | None = None
    """Pinned checksum of the download or digest of the image; without one, it is never downloaded
    or pulled."""
    by_apt: bool = False
    """Whether it is the distribution's package, whose signature apt checks."""


@dataclass(frozen=True, slots=True)
class _Images:
    """The images that need no compiler, and the registry they were pushed to."""

    registry: Registry
    postgres: str
    redis: str
    redis_version: str
    """The pinned one where the image was pulled, Debian's where it was assembled."""
    mirror: bool


def obtain(
    home: Path,
    programs: Programs,
    clock: Clock,
    events: Events,
    env: Mapping[str, str],
    mode: Mode = "auto",
) -> Tools:
    """Obtain every tool that a run needs, and start the registry and the Dagger engine.

    Raises :class:`ci.errors.ToolchainError`, :class:`ci.errors.DockerUnavailable` or
    :class:`ci.errors.DiskFull`.
    """
    return _Obtaining(home, programs, clock, events, env, mode).tools()


def inspect(
    home: Path,
    programs: Programs,
    clock: Clock,
    events: Events,
    env: Mapping[str, str],
    mode: Mode = "auto",
) -> tuple[ToolState, ...]:
    """The state of every tool, without obtaining or starting anything."""
    return _Obtaining(home, programs, clock, events, env, mode).states()


class _Obtaining:
    """One call of :func:`obtain`. Compiling and assembling run in parallel; the engine and the node
    image wait for both."""

    def __init__(
        self,
        home: Path,
        programs: Programs,
        clock: Clock,
        events: Events,
        env: Mapping[str, str],
        mode: Mode,
    ) -> None:
        self.home = home
        self.programs = programs
        self.clock = clock
        self.events = events
        self.env = env
        self.mode = mode
        self.pins = pins.load()
        self.host = inspect_host(env)
        self.store = Store(home)
        self.go = Go(self.host, self.pins, self.store, programs, clock, events)
        self._reachable: frozenset[str] | None = None
        self._asking = threading.Lock()

    def tools(self) -> Tools:
        self._need_disk()
        with ThreadPoolExecutor(8, thread_name_prefix="toolchain") as pool:
            docker = self._lane(pool, "docker", self._docker)
            assembler = self._lane(pool, "images known", lambda: self._assembler(docker.result()))
            kind = self._lane(pool, "kubernetes tools", lambda: self._clients(KUBERNETES))
            dagger = self._lane(pool, "dagger tools", lambda: self._clients(DAGGER, after=kind))
            images = self._lane(pool, "images", lambda: self._images(assembler.result()))
            engine = self._lane(
                pool, "dagger engine", lambda: self._engine(assembler.result(), images, dagger)
            )
            node = self._lane(
                pool, "node image", lambda: self._node(assembler.result(), images, kind)
            )
            self._all_or_none([docker, assembler, kind, dagger, images, engine, node])
        node_image, brings_cni = node.result()
        images_made = images.result()
        return Tools(
            docker=docker.result().path,
            dagger=dagger.result()["dagger"],
            kind=kind.result()["kind"],
            helm=kind.result()["helm"],
            kubectl=kind.result()["kubectl"],
            node_image=node_image,
            node_brings_cni=brings_cni,
            runner_host=engine.result(),
            registry=images_made.registry,
            postgres_image=images_made.postgres,
            redis_image=images_made.redis,
            node_certs_dir=services.node_certs(self.home / "certs.d"),
            kubelet_patch=self.host.kubelet_patch,
            versions=self._versions(images_made),
        )

    def _versions(self, made: _Images) -> tuple[tuple[str, str], ...]:
        """The versions in use, by name; versions that are pinned but not used are left out."""
        used = {**self.pins.versions, "redis": made.redis_version}
        del used["debian_redis"]
        return tuple(sorted(used.items()))

    def states(self) -> tuple[ToolState, ...]:
        docker = self._docker_if_running()
        lines = [self._docker_state(docker)]
        lines += [self._client_state(tool) for tool in CLIENTS]
        tags = docker.image_tags() if docker is not None else frozenset()
        lines += [self._image_state(name, docker, tags) for name in IMAGES]
        return tuple(lines)

    # -- lanes -----------------------------------------------------------------------------

    def _lane(self, pool: ThreadPoolExecutor, name: str, work: Callable[[], T]) -> Future[T]:
        def run() -> T:
            with self.events.step(StepId.TOOL, subject=name):
                return work()

        # In the caller's context, so that a lane is shown below its step.
        return pool.submit(contextvars.copy_context().run, run)

    def _all_or_none(self, lanes: Sequence[Future[Any]]) -> None:
        """Wait for all lanes; when one fails, end the programs of the others and raise its
        error."""
        wait(lanes, return_when=FIRST_EXCEPTION)
        failed = [lane.exception() for lane in lanes if lane.done() and lane.exception()]
        if not failed:
            return
        was_cancelled = self.programs.cancel.is_set()
        self.programs.end_all()
        wait(lanes)
        if was_cancelled:
            raise Interrupted("interrupted while obtaining the tools")
        raise failed[0] or ToolchainError("a tool could not be obtained")

    def _docker(self) -> Docker:
        return ensure_daemon(
            self.home, self.host, self.store, self.programs, self.clock, self.events, self.env
        )

    def _clients(
        self, module: GoModule, after: Future[dict[str, Path]] | None = None
    ) -> dict[str, Path]:
        """The host's programs of ``module``; a compilation starts after ``after``, because two at a
        time would compete for CPU."""
        paths: dict[str, Path] = {}
        for tool in (tool for tool, of in CLIENTS.items() if of is module):
            path = self._present_or_downloaded(tool)
            if path is not None:
                paths[tool] = path
        missing = [tool for tool, of in CLIENTS.items() if of is module and tool not in paths]
        if missing:
            if after is not None and self.go.find(module) is None:
                after.result()
            folder = self.go.build(module)
            paths |= {tool: folder / tool for tool in missing}
        return paths

    def _present_or_downloaded(self, tool: str) -> Path | None:
        if self.mode == "source" or self.go.find(CLIENTS[tool]) is not None:
            return None
        version = self._version(tool)
        path = present(tool, version, self.programs, self.env)
        if path is not None:
            self.events.note(f"using {tool} {version} at {path}")
            return path
        entry = self.pins.download[tool]
        if not entry.sha256:
            if self.mode == "download":
                raise ToolchainError(
                    f"no checksum is pinned for the download of {tool} {version}",
                    remedy="run `python -m ci.toolchain.refresh` on a network that reaches it, "
                    "or use --toolchain source",
                )
            return None
        key = content_key([entry.sha256, entry.member])
        stored = self.store.find(tool, key)
        if stored is None and not self._can_reach(self.pins.url(tool)):
            return None
        try:
            folder = self.store.make(tool, key, lambda into: self._download(tool, into))
        except Unreachable as problem:
            if self.mode == "download":
                raise
            self.events.note(str(problem))
            return None
        return folder / tool

    def _download(self, tool: str, into: Path) -> None:
        self.events.note(f"downloading {tool} {self._version(tool)}")
        with httpx.Client(follow_redirects=True, timeout=120) as client:
            download(tool, self.pins, into, client)

    def _can_reach(self, url: str) -> bool:
        """Whether the URL's host can be reached, tested once for all hosts, within seconds. In mode
        ``download`` an unreachable host raises :class:`ToolchainError`."""
        host = _host(url)
        with self._asking:
            if self._reachable is None:
                addresses = [self.pins.url(tool) for tool in self.pins.download]
                addresses += [self.pins.image_reference(name) for name in self.pins.image]
                self._reachable = reachable(sorted({_host(one) for one in addresses}))
        if host not in self._reachable and self.mode == "download":
            raise ToolchainError(
                f"cannot reach {host}", remedy="check the network, or use --toolchain source"
            )
        return host in self._reachable

    def _pulled(self, name: str, docker: Docker) -> str | None:
        """The pinned public image, pulled by digest; ``None`` when it has to be assembled."""
        if self.mode == "source" or not self.pins.image[name].digest:
            if self.mode == "download":
                raise ToolchainError(
                    f"no digest is pinned for the image {name}",
                    remedy="run `python -m ci.toolchain.refresh` on a network that reaches it, "
                    "or use --toolchain source",
                )
            return None
        reference = self.pins.image_reference(name)
        if docker.image_exists(reference):
            return reference
        if not self._can_reach(reference):
            return None
        self.events.note(f"pulling {reference}")
        docker.run("pull", "--quiet", reference, timeout=900, error=ToolchainError)
        return reference

    def _assembler(self, docker: Docker) -> Assembler:
        return Assembler(
            docker=docker,
            host=self.host,
            pins=self.pins,
            store=self.store,
            programs=self.programs,
            events=self.events,
            home=self.home,
        )

    def _images(self, assembler: Assembler) -> _Images:
        """Start the registry, and push the stand-ins' images and (when assembled) the Python
        base."""
        docker = assembler.docker

        def image(name: str, recipe: Callable[[str], Recipe]) -> str:
            return self._pulled(name, docker) or assembler.make(recipe(assembler.base()))

        registry = services.ensure_registry(
            image("registry", recipes.registry), docker, self.store, self.clock, self.events
        )
        mirror = self._pulled("registry", docker) is None
        if mirror:
            base = assembler.base()
            suite, python = assembler.suite, self.pins.versions["python"]
            services.push(docker, registry, base, "library/debian", f"{suite}-slim")
            python_image = assembler.make(recipes.python(base))
            services.push(docker, registry, python_image, "library/python", f"{python}-slim")
        postgres = services.push(
            docker,
            registry,
            image("postgres", recipes.postgres),
            "standins/postgres",
            self.pins.versions["postgres"],
        )
        pulled = self._pulled("redis", docker)
        redis_version = self.pins.versions["redis" if pulled else "debian_redis"]
        redis = services.push(
            docker,
            registry,
            pulled or assembler.make(recipes.redis(assembler.base())),
            "standins/redis",
            redis_version,
        )
        return _Images(registry, postgres, redis, redis_version, mirror)

    def _engine(
        self, assembler: Assembler, images: Future[_Images], dagger: Future[dict[str, Path]]
    ) -> str:
        docker = assembler.docker
        image = self._pulled("engine", docker)
        if image is None:
            images.result()
            base = assembler.make(recipes.engine_base(assembler.base()))
            dagger.result()
            image = assembler.make(recipes.engine(base, self.go.build(DAGGER)))
        return services.ensure_engine(
            image,
            self.pins.versions["dagger"],
            self.host,
            mirror=images.result().mirror,
            home=self.home,
            docker=docker,
            store=self.store,
            clock=self.clock,
            events=self.events,
        )

    def _node(
        self, assembler: Assembler, images: Future[_Images], kind: Future[dict[str, Path]]
    ) -> tuple[str, bool]:
        docker = assembler.docker
        pulled = self._pulled("node", docker)
        if pulled is not None:
            return pulled, False
        images.result()
        base = assembler.base()
        node_base = assembler.make(recipes.node_base(base))
        proxy_base = assembler.make(recipes.kube_proxy_base(base))
        kind.result()
        folder = self.go.build(KUBERNETES)
        kubernetes = self.pins.versions["kubernetes"]
        references = components.required(folder / "kubeadm", kubernetes, self.programs)

        def recipe(module: Path, saved: Path) -> Recipe:
            return recipes.node(
                node_base,
                folder,
                module,
                saved,
                kubernetes=kubernetes,
                pause=components.pause_image(references),
                restrict_oom=not self.host.can_sys_resource,
            )

        # The module's folder is looked up only when the image has to be assembled: that takes time.
        name = f"kind@v{self.pins.versions['kind']}"
        saved = self.store.path("node-components", components.key(references, folder, proxy_base))
        node_recipe = recipe(Path(name), saved)
        if not assembler.has(node_recipe.tag):
            saved = components.save(references, folder, proxy_base, docker, self.store)
            assembler.make(recipe(self.go.module_folder(KUBERNETES, "sigs.k8s.io/kind"), saved))
        return node_recipe.tag, True

    def _version(self, tool: str) -> str:
        return self.pins.versions["kubernetes" if tool == "kubectl" else tool]

    def _need_disk(self) -> None:
        """Raise :class:`DiskFull` early, instead of filling the disk, when tools have to be
        built."""
        if self.go.find(KUBERNETES) is not None and self.go.find(DAGGER) is not None:
            return
        self.home.mkdir(parents=True, exist_ok=True)
        stat = os.statvfs(self.home)
        free = stat.f_bavail * stat.f_frsize
        if free < NEEDED_BYTES:
            raise DiskFull(
                f"only {free / 2**30:.1f} GiB free under {self.home}; building the tools needs "
                f"{NEEDED_BYTES / 2**30:.0f} GiB",
                remedy="free disk space, or set PIPELINE_HOME to a larger disk",
            )

    # -- doctor ----------------------------------------------------------------------------

    def _docker_if_running(self) -> Docker | None:
        path = find_docker(self.env)
        if path is None:
            return None
        docker = Docker(path, self.programs)
        return docker if docker.answers() else None

    def _docker_state(self, docker: Docker | None) -> ToolState:
        if docker is None:
            remedy = (
                "`python3 pipeline.py run` installs and starts it"
                if self.host.is_root
                else DockerUnavailable.default_remedy
            )
            return ToolState("docker", "any", "-", "distribution", "missing", remedy, by_apt=True)
        version = docker.run("version", "-f", "{{.Server.Version}}").stdout.strip()
        return ToolState("docker", "any", version, "running daemon", "ready", "", by_apt=True)

    def _client_state(self, tool: str) -> ToolState:
        version = self._version(tool)
        origin = self._client_origin(tool, version)
        return _state(tool, version, version if origin else "", origin, self.pins.checksum(tool))

    def _client_origin(self, tool: str, version: str) -> str:
        """Where the installed tool came from; empty when there is none."""
        if self.go.find(CLIENTS[tool]) is not None:
            return "source"
        entry = self.pins.download[tool]
        if entry.sha256 and self.store.find(tool, content_key([entry.sha256, entry.member])):
            return "download"
        try:
            path = present(tool, version, self.programs, self.env)
        except CommandFailed:
            return ""
        return f"present ({path})" if path is not None else ""

    def _image_state(self, name: str, docker: Docker | None, tags: frozenset[str]) -> ToolState:
        """``tags`` are all image tags in the daemon."""
        title, recipe = IMAGES[name]
        pinned, digest = self.pins.image_version(name), self.pins.image_digest(name)
        version = origin = ""
        if (
            digest is not None
            and docker is not None
            and self.mode != "source"
            and docker.image_exists(self.pins.image_reference(name))
        ):
            version, origin = pinned, "download"
        elif any(tag.startswith(f"{PREFIX}/{recipe}:") for tag in tags):
            version = self.pins.versions.get(f"debian_{name}", pinned)
            origin = "source" if name in GO_BUILT else "source (Debian)"
        return _state(title, pinned, version, origin, digest)


def _state(name: str, pinned: str, found: str, origin: str, checksum: Digest | None) -> ToolState:
    """The state of a pinned tool or image; ``found`` and ``origin`` are empty when it is
    missing."""
    remedies = [] if found else ["`python3 pipeline.py run` obtains it"]
    if checksum is None:
        remedies.append("`python -m ci.toolchain.refresh` pins its checksum")
    return ToolState(
        name=name,
        pinned=pinned,
        found=found or "-",
        origin=origin or "-",
        state="ready" if found else "missing",
        remedy="; ".join(remedies),
        checksum=checksum,
    )


def _host(address: str) -> str:
    """The host of a URL or of an image reference."""
    return address.split("://")[-1].split("/")[0]
