"""What is kept between runs, under ``$PIPELINE_HOME``: records, locks, kubeconfigs.

Records are JSON files written whole (temporary file, fsync, rename), so that a kill at any
moment leaves the old one or the new one. A lock is held by the kernel for the process and ends
with it, so that no stale lock exists; who holds it is written inside, for the error message.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ci.digest import Digest
from ci.errors import Locked
from ci.model import Image
from ci.tools.process_identity import Process

RUN_ID = "_QUEUE_TIMEOUT_GATE_RUN_ID"
"""Environment variable that names the run folder of a child run, so that its parent knows where to
read the result."""
RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-z]{4}")
"""The name of a run's folder; folders with other names are never touched."""

DEFAULT = "~/.cache/queue-timeout-gate"


def run_id(now: datetime) -> str:
    """Sorts by time; the random end keeps two runs of one second apart."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def path(env: Mapping[str, str]) -> Path:
    """The folder; ``pipeline.py`` computes the same before it can import this."""
    return Path(env.get("PIPELINE_HOME") or DEFAULT).expanduser().absolute()


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster that the pipeline created. Its owner tells a stale one from one in use."""

    name: str
    owner: Process
    kept: bool
    """Outlives its run on purpose: the demonstration target, or ``--keep-cluster``."""
    determined_by: str
    """Hash of the node image and the configuration it was made of."""


@dataclass(frozen=True, slots=True)
class Proven:
    """The image that was proven last in a checkout, by the image name of its settings. It is only a
    reference: the proof is the evidence in the registry."""

    name: str
    """``image.name`` of the settings."""
    checkout: str
    """The checkout's folder, links resolved."""
    image: Image
    at: datetime
    """When the proof was finished; UTC."""
    run: str


class Home:
    """The records and locks under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"

    def kubeconfig(self, cluster: str) -> Path:
        return self.folder / "kubeconfigs" / cluster

    # Clusters ------------------------------------------------------------------------------

    def clusters(self) -> dict[str, ClusterRecord]:
        records = {}
        for file in sorted((self.state / "clusters").glob("*.json")):
            record = read(file)
            if record is not None:
                try:
                    owner = Process(**record.pop("owner"))
                    records[file.stem] = ClusterRecord(owner=owner, **record)
                except (KeyError, TypeError):
                    continue  # written by another version of the pipeline: ignored
        return records

    def put_cluster(self, record: ClusterRecord) -> None:
        write(self.state / "clusters" / f"{record.name}.json", asdict(record))

    def drop_cluster(self, name: str) -> None:
        (self.state / "clusters" / f"{name}.json").unlink(missing_ok=True)
        self.kubeconfig(name).unlink(missing_ok=True)

    # Images --------------------------------------------------------------------------------

    def image(self, source: str) -> dict[str, str] | None:
        """The image last built from a source with this content hash."""
        return read(self.state / "images" / f"{source}.json")

    def put_image(self, source: str, record: Mapping[str, str]) -> None:
        write(self.state / "images" / f"{source}.json", dict(record))

    def put_proven(self, proven: Proven) -> None:
        of = hashlib.sha256(f"{proven.checkout}\0{proven.name}".encode()).hexdigest()[:16]
        record = asdict(proven) | {"at": proven.at.isoformat()}
        write(self.state / "last-proven" / f"{of}.json", record)

    def proven(self) -> tuple[Proven, ...]:
        """What was proven last in each checkout on this machine, newest first."""
        images = []
        for file in (self.state / "last-proven").glob("*.json"):
            record = read(file)
            if record is not None:
                try:
                    at = datetime.fromisoformat(record.pop("at"))
                    image = record.pop("image")
                    image = Image(image["repository"], image["tag"], Digest(image["digest"]))
                    images.append(Proven(at=at, image=image, **record))
                except (KeyError, TypeError, ValueError):
                    continue  # written by another version
        return tuple(sorted(images, key=lambda proven: proven.at, reverse=True))

    # Packages ------------------------------------------------------------------------------

    def installed(self) -> tuple[str, ...]:
        """Debian packages that the pipeline installed on this machine."""
        record = read(self.state / "installed.json") or {}
        packages = record.get("packages")
        return tuple(packages) if isinstance(packages, list) else ()

    def put_installed(self, packages: Iterable[str]) -> None:
        packages_now = [*self.installed(), *packages]
        write(self.state / "installed.json", {"packages": list(dict.fromkeys(packages_now))})

    # Locks ---------------------------------------------------------------------------------

    @contextmanager
    def lock(self, name: str, resource: str) -> Iterator[None]:
        """Hold the lock ``name`` while in the block; ``resource`` names it in the error. Raises
        :class:`ci.errors.Locked` at once when another run holds it, instead of waiting
        silently."""
        file = self.folder / "locks" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                raise Locked(
                    f"another run (process {holder or 'unknown'}) uses {resource}",
                    remedy=f"wait for process {holder or 'unknown'} to end, then run again",
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def write(file: Path, value: Mapping[str, Any]) -> None:
    """Write a record atomically; only its owner can read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as sink:
            os.chmod(temporary, 0o600)
            json.dump(value, sink, indent=1, default=str)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(file: Path) -> dict[str, Any] | None:
    """A record, or ``None`` when there is none that can be read."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
