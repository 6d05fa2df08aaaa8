"""Removes what the pipeline made, and says what it leaves behind.

What there is (:func:`survey`), what goes (:func:`plan`, pure), the list that a person reads
(:func:`listing`) and the removal (:func:`carry_out`) are apart, so that what was listed is what
is removed. Only what is recorded or labelled as the pipeline's own is ever in the list.
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
    "certs.d": "how nodes reach the registry",
    "apt": "apt's configuration for images that are assembled",
    "engine": "the Dagger engine's configuration",
    "state/images": "which image was built from which source",
    "state/last-proven": "which image `last` means in each checkout",
    "venvs": "Python environments; the next run makes its own again",
}
"""Under ``$PIPELINE_HOME``, in the order in which they go: this very program runs in the last."""
TARGET_NEEDS = (REGISTRY, REGISTRY_VOLUME, "certs.d")
"""What a cluster that stays pulls its images from."""


class Kind(StrEnum):
    """What can be removed."""

    CLUSTER = "cluster"
    CONTAINER = "container"
    IMAGE = "image"
    VOLUME = "volume"
    FOLDER = "folder"
    KEYS = "keys"


class Scope(StrEnum):
    """What has to be asked for, for it to go."""

    ALWAYS = "always"
    ALL = "all"
    KEYS = "keys"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that the pipeline made."""

    kind: Kind
    name: str
    """Of a folder: its path."""
    what: str
    scope: Scope = Scope.ALWAYS
    bytes: int | None = None
    """``None`` where it is not known or makes no difference."""
    target: bool = False
    """Whether it is the demonstration target."""
    needed: bool = False
    """Whether a cluster that stays needs it."""
    used_by: int = 0
    """Process of another run that uses it; 0 when none does."""


@dataclass(frozen=True, slots=True)
class Left:
    """Something that is not removed, and how it is by hand."""

    what: str
    how: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything on this machine that is the pipeline's."""

    items: tuple[Item, ...]
    left: tuple[Left, ...]
    docker: bool
    """Whether a daemon answered; else what is in it is not known."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the person asked for."""

    everything: bool = False
    keys: bool = False
    demo_target: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """An item that stays, and why."""

    item: Item
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, what stays although it could go, and what ``clean`` never removes."""

    remove: tuple[Item, ...]
    kept: tuple[Kept, ...]
    left: tuple[Left, ...]
    docker: bool

    @property
    def asks(self) -> bool:
        """Whether only consent is missing for the demonstration target to go."""
        return any(kept.item.target and not kept.item.used_by for kept in self.kept)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that would not go."""

    item: Item
    why: str


# -- what there is --------------------------------------------------------------------------------


def survey(session: Session) -> Survey:
    """Look at Docker, at ``$PIPELINE_HOME`` and at what else the pipeline left on this machine.
    Changes nothing."""
    found = shutil.which("docker", path=session.env.get("PATH"))
    docker = Docker(Path(found), session.programs) if found else None
    if docker is not None and not docker.answers():
        docker = None
    items = (*_clusters(session.home), *_in_docker(docker), *_folders(session.home))
    return Survey(items, tuple(_left(session, docker)), docker is not None)


def _clusters(home: Home) -> Iterator[Item]:
    for name, record in home.clusters().items():
        demo = name == DEMO_TARGET
        what = "the demonstration target, with all that runs in it" if demo else "a test cluster"
        busy = not record.kept and record.owner.alive()
        yield Item(Kind.CLUSTER, name, what, target=demo, used_by=record.owner.pid if busy else 0)


def _in_docker(docker: Docker | None) -> Iterator[Item]:
    if docker is None:
        return
    listed = docker.run("ps", "--all", "--format", "{{.Names}}\t{{.Image}}").stdout
    image_of = dict(line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    for name in docker.containers(f"label={CONFIG}"):
        what = "the registry" if name == REGISTRY else "the Dagger engine"
        yield Item(Kind.CONTAINER, name, what, needed=name in TARGET_NEEDS)
    for name in image_of:
        if name.startswith(UNFINISHED):
            yield Item(Kind.CONTAINER, name, "left by a run that was killed")
    nodes = docker.containers(f"label={KIND_LABEL}")
    needed = {image_of.get(name, "") for name in (*nodes, REGISTRY)}
    yield from _images(docker, needed)
    volumes = _volume_sizes(docker)
    for name, what in (
        (REGISTRY_VOLUME, "every image that was built here, and its evidence"),
        (ENGINE_VOLUME, "the Dagger engine's cache"),
    ):
        if name in volumes:
            needs = name in TARGET_NEEDS
            yield Item(Kind.VOLUME, name, what, Scope.ALL, volumes[name], needed=needs)


def _images(docker: Docker, needed: set[str]) -> Iterator[Item]:
    words = ("images", "--filter", f"label={LABEL}", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
    found = {}
    for line in docker.run(*words).stdout.splitlines():
        name, _, id = line.partition(" ")
        found[id if "<none>" in name else name] = "assembled here"
    pinned = pins.load()
    for name, entry in pinned.image.items():
        reference = pinned.image_reference(name)
        if entry.digest and docker.image_exists(reference):
            found[reference] = "pulled at its pinned digest"
    if not found:
        return
    said = docker.run("image", "inspect", "--format", "{{.Size}}", *found, check=False).stdout
    sizes = [int(line) for line in said.split() if line.isdigit()]
    known: Sequence[int | None] = sizes if len(sizes) == len(found) else [None] * len(found)
    for (name, what), size in zip(found.items(), known, strict=True):
        yield Item(Kind.IMAGE, name, what, Scope.ALL, size, needed=name in needed)


def _volume_sizes(docker: Docker) -> Mapping[str, int | None]:
    """Every volume by its name, with its size in bytes where Docker says it."""
    names = docker.run("volume", "ls", "--format", "{{.Name}}").stdout.split()
    sizes: dict[str, int | None] = dict.fromkeys(names)
    words = ("system", "df", "--verbose", "--format", "{{json .Volumes}}")
    try:
        for volume in json.loads(docker.run(*words, timeout=60, check=False).stdout):
            sizes[volume["Name"]] = bytes_of(volume["Size"])
    except (ValueError, KeyError, TypeError):
        pass  # an older Docker, which does not say
    return sizes


def bytes_of(text: str) -> int | None:
    """A size as Docker writes it, for example ``1.2GB``, in bytes."""
    found = re.fullmatch(r"([0-9.]+)([kMGT]?B)", text)
    return round(float(found[1]) * UNITS[found[2]]) if found else None


def _folders(home: Home) -> Iterator[Item]:
    for name, what in FOLDERS.items():
        folder = home.folder / name
        if folder.is_dir():
            needed = name in TARGET_NEEDS
            yield Item(Kind.FOLDER, str(folder), what, Scope.ALL, size_of(folder), needed=needed)
    keys = home.state / "keys"
    if keys.is_dir():
        what = "the key that signs evidence here: without it nothing signed by it is trusted here"
        yield Item(Kind.KEYS, str(keys), what, Scope.KEYS)


def _left(session: Session, docker: Docker | None) -> Iterator[Left]:
    runs = session.root / "runs"
    if runs.is_dir():
        yield Left(f"{runs}: reports, evidence and backups of runs", f"rm -r {runs}", size_of(runs))
    if packages := session.home.installed():
        words = " ".join(packages)
        yield Left(
            f"packages that the pipeline installed with apt: {words}",
            f"apt-get purge --autoremove {words}",
        )
    if (session.home.folder / "logs" / "dockerd.log").exists():
        yield Left(
            "the Docker daemon that the pipeline started, its data (/var/lib/docker), and bin/ and"
            f" logs/ under {session.home.folder}, which it uses",
            f"end dockerd, then rm -r {session.home.folder}",
        )
    if docker is not None:
        named = docker.run("network", "ls", "--format", "{{.Name}}").stdout.split()
        if NETWORK in named:
            yield Left(
                f"the Docker network {NETWORK}, which kind's other clusters use, too",
                f"docker network rm {NETWORK}",
            )
    go = shutil.which("go", path=session.env.get("PATH"))
    if go is not None:
        said = session.programs.run([go, "env", "GOMODCACHE"], timeout=30, check=False).stdout
        cache = Path(said.strip())
        if said.strip() and cache.is_dir():
            yield Left(
                f"{cache}: Go's module cache, which other Go programs use, too",
                "go clean -modcache",
                size_of(cache),
            )


def size_of(folder: Path) -> int:
    """Bytes of the files under a folder; what cannot be read counts as nothing."""
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total


# -- what goes ------------------------------------------------------------------------------------


def plan(survey: Survey, choice: Choice) -> Plan:
    """What goes and what stays. Pure."""
    staying = [
        item
        for item in survey.items
        if item.kind is Kind.CLUSTER and (item.used_by or (item.target and not choice.demo_target))
    ]
    remove, kept = [], []
    for item in survey.items:
        if item.used_by:
            kept.append(Kept(item, f"another run (process {item.used_by}) uses it"))
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
    lines = [f"{verb}:"] if plan.remove else ["nothing is there to be removed"]
    lines += [f"  {_line(item)}" for item in plan.remove]
    if plan.kept:
        lines += ["kept:", *(f"  {_line(kept.item)} ({kept.why})" for kept in plan.kept)]
    if not plan.docker:
        lines.append("no Docker daemon answers: clusters and containers in it are not touched")
    return lines


def leaving(plan: Plan) -> list[str]:
    """What is left behind, as lines to read."""
    lines = ["left behind:"] if plan.left else []
    for left in plan.left:
        lines.append(f"  {left.what}{_size(left.bytes)}")
        lines.append(f"    by hand: {left.how}")
    return lines


def _line(item: Item) -> str:
    return f"{item.kind} {item.name}: {item.what}{_size(item.bytes)}"


def _size(bytes: int | None) -> str:
    if bytes is None:
        return ""
    return f", {bytes / 2**30:.1f} GiB" if bytes >= 2**30 else f", {bytes / 2**20:.1f} MiB"


# -- the removal ----------------------------------------------------------------------------------


def carry_out(session: Session, plan: Plan, say: Callable[[str], None]) -> tuple[Failure, ...]:
    """Remove what the plan lists, in its order, and say each; what would not go is returned.

    Raises :class:`ci.errors.Locked` when another run uses the gate cluster, with nothing removed;
    :class:`ci.errors.Interrupted` between two items.
    """
    failures = []
    found = shutil.which("docker", path=session.env.get("PATH"))
    docker = Docker(Path(found), session.programs) if found and plan.docker else None
    with session.home.lock("gate", "the gate cluster"):
        for item in plan.remove:
            try:
                if session.programs.cancel.is_set():
                    raise Interrupted("interrupted")
                why = _remove(session.home, docker, item)
            except Interrupted as problem:
                remedy = "run it again: what was not removed yet is listed again"
                raise Interrupted(str(problem), remedy=remedy) from problem
            except (OSError, PipelineError) as problem:
                why = str(problem)
            if why:
                failures.append(Failure(item, why))
            else:
                say(f"removed {item.kind} {item.name}")
    return tuple(failures)


def _remove(home: Home, docker: Docker | None, item: Item) -> str:
    """Why it would not go; empty when it went."""
    if item.kind in (Kind.FOLDER, Kind.KEYS):
        shutil.rmtree(item.name)
        return ""
    if docker is None:
        return "no Docker daemon answers"
    match item.kind:
        case Kind.CLUSTER:
            for container in docker.containers(f"label={KIND_LABEL}={item.name}"):
                if why := _ended(docker, "rm", "--force", "--volumes", container):
                    return why
            home.drop_cluster(item.name)
        case Kind.CONTAINER:
            docker.run("stop", "--time", str(STOP_SECONDS), item.name, check=False)
            return _ended(docker, "rm", "--force", "--volumes", item.name)
        case Kind.IMAGE:
            why = _ended(docker, "rmi", item.name)
            return why if docker.image_exists(item.name) else ""  # it may go with another
        case Kind.VOLUME:
            return _ended(docker, "volume", "rm", item.name)
    return ""


def _ended(docker: Docker, *words: str) -> str:
    said = docker.run(*words, check=False)
    return " ".join(said.stderr.split()) or f"status {said.status}" if said.status else ""
