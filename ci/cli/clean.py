"""Removes what the pipeline created, and lists what it leaves behind.

Looking (:func:`survey`), deciding (:func:`plan`, pure), printing (:func:`listing`) and removing
(:func:`carry_out`) are separate, so that exactly what was listed is removed. Only objects that are
recorded or labelled as the pipeline's own are ever listed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ci.cli.session import Session
from ci.errors import Interrupted, PipelineError
from ci.run.state import Home
from ci.settings import DEMO_TARGET
from ci.toolchain import pins
from ci.toolchain.images import LABEL, PREFIX
from ci.toolchain.services import CONFIG, ENGINE_VOLUME, NETWORK, REGISTRY, REGISTRY_VOLUME
from ci.tools.docker import Docker

KIND_LABEL = "io.x-k8s.kind.cluster"
UNFINISHED = (f"{PREFIX}-assemble-", f"{PREFIX}-component-")
"""Containers in which images are assembled; a killed run leaves one."""
STOP_SECONDS = 20
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

FOLDERS = {
    "store": "tools that were downloaded or built",
    "certs.d": "the nodes' containerd configuration for the registry",
    "apt": "apt's configuration for assembled images",
    "engine": "the Dagger engine's configuration",
    "state/images": "which image was built from which source",
    "state/last-proven": "which image `last` means in each checkout",
    "venvs": "Python environments; the next run creates its own again",
}
"""Folders under ``$PIPELINE_HOME``, in the order of their removal: this program runs in the last
one."""
TARGET_NEEDS = (REGISTRY, REGISTRY_VOLUME, "certs.d")
"""What a cluster that is kept needs in order to pull its images."""


class Kind(StrEnum):
    """What can be removed."""

    CLUSTER = "cluster"
    CONTAINER = "container"
    IMAGE = "image"
    VOLUME = "volume"
    FOLDER = "folder"
    KEYS = "keys"


class Scope(StrEnum):
    """The option without which an item is kept."""

    ALWAYS = "always"
    ALL = "all"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that the pipeline created."""

    kind: Kind
    name: str
    """A name in Docker; the path of a folder."""
    description: str
    scope: Scope = Scope.ALWAYS
    bytes: int | None = None
    """Size; ``None`` where it is unknown or negligible."""
    target: bool = False
    """Whether it is the demonstration target."""
    needed: bool = False
    """Whether a cluster that is kept needs it."""
    used_by: int = 0
    """Process of another run that uses it; 0 when none does."""


@dataclass(frozen=True, slots=True)
class Left:
    """Something that ``clean`` never removes, and the command that does."""

    description: str
    command: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything on this machine that the pipeline created."""

    items: tuple[Item, ...]
    left: tuple[Left, ...]
    docker: bool
    """Whether a Docker daemon answered; if not, its contents are unknown."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The options of ``clean``."""

    everything: bool = False
    keys: bool = False
    demo_target: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """An item that is kept, and why."""

    item: Item
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is removed, what is kept although it could be removed, and what ``clean`` never
    removes."""

    remove: tuple[Item, ...]
    kept: tuple[Kept, ...]
    left: tuple[Left, ...]
    docker: bool

    @property
    def asks(self) -> bool:
        """Whether the demonstration target is kept only because nobody has agreed to delete it."""
        return any(kept.item.target and not kept.item.used_by for kept in self.kept)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that could not be removed."""

    item: Item
    reason: str


# -- survey --------------------------------------------------------------------------------------


def survey(session: Session) -> Survey:
    """Find what the pipeline created: in Docker, under ``$PIPELINE_HOME`` and elsewhere on this
    machine. Changes nothing."""
    docker_path = shutil.which("docker", path=session.env.get("PATH"))
    docker = Docker(Path(docker_path), session.programs) if docker_path else None
    if docker is not None and not docker.answers():
        docker = None
    items = (*_clusters(session.home), *_in_docker(docker), *_folders(session.home))
    return Survey(items, tuple(_left(session, docker)), docker is not None)


def _clusters(home: Home) -> Iterator[Item]:
    for name, record in home.clusters().items():
        demo = name == DEMO_TARGET
        description = (
            "the demonstration target, with its releases and data" if demo else "a test cluster"
        )
        busy = not record.kept and record.owner.alive()
        yield Item(
            Kind.CLUSTER, name, description, target=demo, used_by=record.owner.pid if busy else 0
        )


def _in_docker(docker: Docker | None) -> Iterator[Item]:
    if docker is None:
        return
    listed = docker.run("ps", "--all", "--format", "{{.Names}}\t{{.Image}}").stdout
    image_of = dict(line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    for name in docker.containers(f"label={CONFIG}"):
        description = "the registry" if name == REGISTRY else "the Dagger engine"
        yield Item(Kind.CONTAINER, name, description, needed=name in TARGET_NEEDS)
    for name in image_of:
        if name.startswith(UNFINISHED):
            yield Item(Kind.CONTAINER, name, "left by a run that was killed")
    nodes = docker.containers(f"label={KIND_LABEL}")
    needed = {image_of.get(name, "") for name in (*nodes, REGISTRY)}
    yield from _images(docker, needed)
    volumes = _volume_sizes(docker)
    for name, description in (
        (REGISTRY_VOLUME, "every image built on this machine, with its evidence"),
        (ENGINE_VOLUME, "the Dagger engine's cache"),
    ):
        if name in volumes:
            needs = name in TARGET_NEEDS
            yield Item(Kind.VOLUME, name, description, Scope.ALL, volumes[name], needed=needs)


def _images(docker: Docker, needed: set[str]) -> Iterator[Item]:
    command = (
        "images",
        "--filter",
        f"label={LABEL}",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.ID}}",
    )
    origins = {}
    for line in docker.run(*command).stdout.splitlines():
        name, _, id = line.partition(" ")
        origins[id if "<none>" in name else name] = "assembled here"
    pinned = pins.load()
    for name, entry in pinned.image.items():
        reference = pinned.image_reference(name)
        if entry.digest and docker.image_exists(reference):
            origins[reference] = "pulled by its pinned digest"
    if not origins:
        return
    output = docker.run("image", "inspect", "--format", "{{.Size}}", *origins, check=False).stdout
    sizes = [int(line) for line in output.split() if line.isdigit()]
    complete = len(sizes) == len(origins)
    known_sizes: Sequence[int | None] = sizes if complete else [None] * len(origins)
    for (name, description), size in zip(origins.items(), known_sizes, strict=True):
        yield Item(Kind.IMAGE, name, description, Scope.ALL, size, needed=name in needed)


def _volume_sizes(docker: Docker) -> Mapping[str, int | None]:
    """Every volume's size in bytes by its name; ``None`` where Docker does not tell."""
    names = docker.run("volume", "ls", "--format", "{{.Name}}").stdout.split()
    sizes: dict[str, int | None] = dict.fromkeys(names)
    command = ("system", "df", "--verbose", "--format", "{{json .Volumes}}")
    try:
        for volume in json.loads(docker.run(*command, timeout=60, check=False).stdout):
            sizes[volume["Name"]] = bytes_of(volume["Size"])
    except (ValueError, KeyError, TypeError):
        pass  # an older Docker, without sizes
    return sizes


def bytes_of(text: str) -> int | None:
    """A size as Docker prints it, for example ``1.2GB``, in bytes; ``None`` for another form."""
    match = re.fullmatch(r"([0-9.]+)([kMGT]?B)", text)
    return round(float(match[1]) * UNITS[match[2]]) if match else None


def _folders(home: Home) -> Iterator[Item]:
    for name, description in FOLDERS.items():
        folder = home.folder / name
        if folder.is_dir():
            needed = name in TARGET_NEEDS
            yield Item(
                Kind.FOLDER, str(folder), description, Scope.ALL, size_of(folder), needed=needed
            )
    keys = home.state / "keys"
    if keys.is_dir():
        description = (
            "the signing key: without it, evidence signed on this machine is not trusted here"
        )
        yield Item(Kind.KEYS, str(keys), description, Scope.KEYS)


def _left(session: Session, docker: Docker | None) -> Iterator[Left]:
    runs = session.root / "runs"
    if runs.is_dir():
        yield Left(f"{runs}: reports, evidence and backups of runs", f"rm -r {runs}", size_of(runs))
    if packages := session.home.installed():
        names = " ".join(packages)
        yield Left(
            f"Debian packages that the pipeline installed: {names}",
            f"apt-get purge --autoremove {names}",
        )
    if (session.home.folder / "logs" / "dockerd.log").exists():
        yield Left(
            "the Docker daemon that the pipeline started, its data in /var/lib/docker, and the"
            f" folders bin/ and logs/ under {session.home.folder}, which it uses",
            f"stop dockerd, then rm -r {session.home.folder}",
        )
    if docker is not None:
        named = docker.run("network", "ls", "--format", "{{.Name}}").stdout.split()
        if NETWORK in named:
            yield Left(
                f"the Docker network {NETWORK}, which other kind clusters use as well",
                f"docker network rm {NETWORK}",
            )
    go = shutil.which("go", path=session.env.get("PATH"))
    if go is not None:
        output = session.programs.run([go, "env", "GOMODCACHE"], timeout=30, check=False).stdout
        cache = Path(output.strip())
        if output.strip() and cache.is_dir():
            yield Left(
                f"{cache}: Go's module cache, which other Go projects use as well",
                "go clean -modcache",
                size_of(cache),
            )


def size_of(folder: Path) -> int:
    """Bytes of all files under a folder; files that cannot be read are not counted."""
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total


# -- plan ----------------------------------------------------------------------------------------


def plan(survey: Survey, choice: Choice) -> Plan:
    """Decide what is removed and what is kept. Pure."""
    staying = [
        item
        for item in survey.items
        if item.kind is Kind.CLUSTER and (item.used_by or (item.target and not choice.demo_target))
    ]
    remove, kept = [], []
    for item in survey.items:
        if item.used_by:
            kept.append(Kept(item, f"in use by another run, process {item.used_by}"))
        elif item in staying:
            kept.append(Kept(item, "only removed with --demo-target"))
        elif item.scope is Scope.ALL and not choice.everything:
            continue
        elif item.scope is Scope.KEYS and not choice.keys:
            if choice.everything:
                kept.append(Kept(item, "only removed with --keys"))
        elif item.needed and staying:
            kept.append(Kept(item, f"the cluster {staying[0].name} needs it"))
        else:
            remove.append(item)
    return Plan(tuple(remove), tuple(kept), survey.left, survey.docker)


def listing(plan: Plan, *, dry_run: bool = False) -> list[str]:
    """The plan as lines to read."""
    verb = "would be removed" if dry_run else "to be removed"
    lines = [f"{verb}:"] if plan.remove else ["nothing to remove"]
    lines += [f"  {_line(item)}" for item in plan.remove]
    if plan.kept:
        lines += ["kept:", *(f"  {_line(kept.item)} ({kept.reason})" for kept in plan.kept)]
    if not plan.docker:
        lines.append("no Docker daemon answers: clusters and containers are not removed")
    return lines


def leaving(plan: Plan) -> list[str]:
    """What is left behind, as lines to read."""
    lines = ["left behind:"] if plan.left else []
    for left in plan.left:
        lines.append(f"  {left.description}{_size(left.bytes)}")
        lines.append(f"    by hand: {left.command}")
    return lines


def _line(item: Item) -> str:
    return f"{item.kind} {item.name}: {item.description}{_size(item.bytes)}"


def _size(bytes: int | None) -> str:
    if bytes is None:
        return ""
    return f", {bytes / 2**30:.1f} GiB" if bytes >= 2**30 else f", {bytes / 2**20:.1f} MiB"


# -- removal -------------------------------------------------------------------------------------


def carry_out(session: Session, plan: Plan, say: Callable[[str], None]) -> tuple[Failure, ...]:
    """Remove what the plan lists, in its order, calling ``say`` with a line for each; returns what
    could not be removed.

    Raises :class:`ci.errors.Locked`, before anything is removed, when another run uses the gate
    cluster; :class:`ci.errors.Interrupted` between two items.
    """
    failures = []
    docker_path = shutil.which("docker", path=session.env.get("PATH"))
    docker = Docker(Path(docker_path), session.programs) if docker_path and plan.docker else None
    with session.home.lock("gate", "the gate cluster"):
        for item in plan.remove:
            try:
                if session.programs.cancel.is_set():
                    raise Interrupted("interrupted")
                reason = _remove(session.home, docker, item)
            except Interrupted as problem:
                remedy = "run `python3 pipeline.py clean` again to remove the rest"
                raise Interrupted(str(problem), remedy=remedy) from problem
            except (OSError, PipelineError) as problem:
                reason = str(problem)
            if reason:
                failures.append(Failure(item, reason))
            else:
                say(f"removed {item.kind} {item.name}")
    return tuple(failures)


def _remove(home: Home, docker: Docker | None, item: Item) -> str:
    """Remove one item; returns why that failed, or an empty text."""
    if item.kind in (Kind.FOLDER, Kind.KEYS):
        shutil.rmtree(item.name)
        return ""
    if docker is None:
        return "no Docker daemon answers"
    match item.kind:
        case Kind.CLUSTER:
            for container in docker.containers(f"label={KIND_LABEL}={item.name}"):
                if reason := _failure_of(docker, "rm", "--force", "--volumes", container):
                    return reason
            home.drop_cluster(item.name)
        case Kind.CONTAINER:
            docker.run("stop", "--time", str(STOP_SECONDS), item.name, check=False)
            return _failure_of(docker, "rm", "--force", "--volumes", item.name)
        case Kind.IMAGE:
            reason = _failure_of(docker, "rmi", item.name)
            return (
                reason if docker.image_exists(item.name) else ""
            )  # removed along with another tag
        case Kind.VOLUME:
            return _failure_of(docker, "volume", "rm", item.name)
    return ""


def _failure_of(docker: Docker, *command: str) -> str:
    output = docker.run(*command, check=False)
    return " ".join(output.stderr.split()) or f"status {output.status}" if output.status else ""
