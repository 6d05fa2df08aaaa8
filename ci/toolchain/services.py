"""The two long-lived containers: the registry and the Dagger engine."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from ci.errors import ToolchainError
from ci.model import Registry
from ci.run.events import Events
from ci.toolchain.host import Host
from ci.toolchain.images import LABEL
from ci.toolchain.store import Store, content_key
from ci.tools.docker import Docker
from ci.tools.wait import Clock, wait_until

NETWORK = "kind"
"""kind puts its nodes on this network; engine and registry join, so that names resolve there."""
REGISTRY = "gate-registry"
REGISTRY_HOST = "registry.gate.internal"
"""With dots, because the engine's DNS server does not forward names without."""
REGISTRY_NAME = f"{REGISTRY_HOST}:5000"
CONFIG = f"{LABEL}.config"
REGISTRY_VOLUME = f"{REGISTRY}-data"
ENGINE_VOLUME = "queue-timeout-gate-engine"
STOP_SECONDS = 20
KEPT = {"reservedSpace": "6GB", "maxUsedSpace": "10GB", "minFreeSpace": "2GB"}
"""Limits of the engine's cache. Its default is to free a fifth of the disk, whatever fills it, and
then every build starts without a cache."""
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
"""Media type of the manifests that the Docker daemon pushes."""


def ensure_network(docker: Docker) -> None:
    docker.ensure_network(
        NETWORK,
        "--driver",
        "bridge",
        "--opt",
        "com.docker.network.bridge.enable_ip_masquerade=true",
    )


def ensure_registry(
    image: str, docker: Docker, store: Store, clock: Clock, events: Events
) -> Registry:
    """Start the registry and wait until it answers; its data is in a volume that outlives it."""
    config = content_key([image, REGISTRY_HOST])
    with store.lock("registry"):
        if not _runs_with(docker, REGISTRY, config):
            events.note("starting the registry")
            docker.remove(REGISTRY)
            ensure_network(docker)
            docker.run(
                "run",
                "--detach",
                "--name",
                REGISTRY,
                "--label",
                f"{CONFIG}={config}",
                "--network",
                NETWORK,
                "--network-alias",
                REGISTRY_HOST,
                "--publish",
                "127.0.0.1::5000",
                "--restart",
                "unless-stopped",
                "--volume",
                f"{REGISTRY_VOLUME}:/var/lib/registry",
                image,
                error=ToolchainError,
            )
        registry = Registry(REGISTRY_NAME, f"http://127.0.0.1:{docker.host_port(REGISTRY, 5000)}")

        def answers() -> bool:
            try:
                return httpx.get(f"{registry.host_url}/v2/", timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(
            "the registry",
            answers,
            timeout=30,
            clock=clock,
            interval=0.1,
            diagnose=lambda: docker.run("logs", "--tail", "5", REGISTRY, check=False).stderr,
        )
    return registry


def push(docker: Docker, registry: Registry, image: str, name: str, tag: str) -> str:
    """Push ``image`` from the daemon to the registry as ``name:tag``, unless it is there already.

    A second tag, which ends in a hash of the image's reference, tells whether ``tag`` is this
    image without asking the daemon. Returns the reference with the second tag: a kept node that
    has pulled the first one would not pull it again.
    """
    marked = f"{tag}-{content_key([image])}"
    with httpx.Client(base_url=registry.host_url, timeout=10) as client:
        by_hash, by_tag = (
            client.head(f"/v2/{name}/manifests/{one}", headers={"Accept": MANIFEST})
            for one in (marked, tag)
        )
    same = by_hash.headers.get("docker-content-digest") == by_tag.headers.get(
        "docker-content-digest"
    )
    if not (by_hash.status_code == by_tag.status_code == 200 and same):
        for one in (tag, marked):
            local = f"{registry.host_url.removeprefix('http://')}/{name}:{one}"
            docker.run("tag", image, local)
            docker.run("push", "--quiet", local, timeout=600, error=ToolchainError)
            docker.run("rmi", "--no-prune", local, check=False)
    return f"{registry.name}/{name}:{marked}"


def node_certs(folder: Path) -> Path:
    """Write the files of a node's ``/etc/containerd/certs.d``: the registry uses plain HTTP."""
    host = folder / REGISTRY_NAME
    host.mkdir(parents=True, exist_ok=True)
    (host / "hosts.toml").write_text(
        f'server = "http://{REGISTRY_NAME}"\n\n[host."http://{REGISTRY_NAME}"]\n'
        '  capabilities = ["pull", "resolve"]\n',
        encoding="utf-8",
    )
    return folder


def engine_name(docker: Docker, version: str) -> str:
    """``dagger-engine-vX``, where a plain ``dagger run`` finds it, unless another container has
    that name."""
    name = f"dagger-engine-v{version}"
    described = docker.inspect(name)
    if described is None or CONFIG in (described["Config"]["Labels"] or {}):
        return name
    return f"queue-timeout-gate-engine-v{version}"


def ensure_engine(
    image: str,
    version: str,
    host: Host,
    *,
    mirror: bool,
    home: Path,
    docker: Docker,
    store: Store,
    clock: Clock,
    events: Events,
) -> str:
    """The engine, running; returns the runner host. ``mirror``: Docker Hub's images come from
    the local registry (no network but the package registries)."""
    settings = _engine_settings(mirror=mirror)
    config = content_key([image, settings, str(host.ca_folder), *map(str, host.proxies)])
    with store.lock("dagger-engine"):
        name = engine_name(docker, version)
        if not _runs_with(docker, name, config):
            events.note("starting the Dagger engine")
            folder = home / "engine"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "engine.json").write_text(settings, encoding="utf-8")
            docker.run("stop", "--time", str(STOP_SECONDS), name, check=False)
            docker.remove(name)
            ensure_network(docker)
            _start_engine(docker, name, image, folder, host, config)
            _wait_for_engine(docker, name, clock)
    return f"docker-container://{name}"


def _engine_settings(*, mirror: bool) -> str:
    """The engine's ``engine.json``."""
    registries: dict[str, object] = {REGISTRY_NAME: {"http": True}}
    if mirror:
        registries["docker.io"] = {"mirrors": [REGISTRY_NAME]}
    return json.dumps({"registries": registries, "gc": KEPT}, indent=2)


def _start_engine(
    docker: Docker, name: str, image: str, settings: Path, host: Host, config: str
) -> None:
    """``settings`` is the folder of ``engine.json``; ``config`` marks what it was started with."""
    options = ["--volume", f"{settings}:/etc/dagger:ro"]
    if host.ca_folder is not None:
        options += ["--volume", f"{host.ca_folder}:/usr/local/share/ca-certificates:ro"]
    for variable, value in host.proxies:
        options += ["--env", f"{variable}={value}"]
    docker.run(
        "run",
        "--detach",
        "--privileged",
        "--name",
        name,
        "--label",
        f"{CONFIG}={config}",
        "--network",
        NETWORK,
        "--restart",
        "unless-stopped",
        "--stop-timeout",
        str(STOP_SECONDS),
        "--volume",
        f"{ENGINE_VOLUME}:/var/lib/dagger",
        *options,
        image,
        error=ToolchainError,
    )


def _wait_for_engine(docker: Docker, name: str, clock: Clock) -> None:
    listens = ("exec", name, "test", "-S", "/run/dagger/engine.sock")
    wait_until(
        "the Dagger engine",
        lambda: docker.run(*listens, check=False).status == 0,
        timeout=60,
        clock=clock,
        interval=0.2,
        diagnose=lambda: docker.run("logs", "--tail", "3", name, check=False).stderr,
    )


def _runs_with(docker: Docker, name: str, config: str) -> bool:
    described = docker.inspect(name)
    return (
        described is not None
        and bool(described["State"]["Running"])
        and (described["Config"]["Labels"] or {}).get(CONFIG) == config
    )
