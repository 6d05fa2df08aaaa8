"""The docker program, for what the toolchain does with the local daemon."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from ci.errors import CommandFailed
from ci.tools.command import Output, Programs, RunOptions


class Docker:
    """The local Docker daemon."""

    def __init__(self, docker: Path, programs: Programs) -> None:
        self.path = docker
        self._programs = programs

    def run(self, *words: str, **options: Unpack[RunOptions]) -> Output:
        """Any docker command. It is ended after two minutes unless ``timeout`` says otherwise."""
        wanted: RunOptions = {"log": "docker", "timeout": 120, **options}
        return self._programs.run([self.path, *words], **wanted)

    def answers(self) -> bool:
        """Whether the daemon answers within ten seconds."""
        return self.run("version", "-f", "{{.Server.Version}}", timeout=10, check=False).status == 0

    def image_tags(self) -> frozenset[str]:
        """Every ``repository:tag`` the daemon has."""
        listed = self.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
        return frozenset(listed.split())

    def image_exists(self, reference: str) -> bool:
        return self.run("image", "inspect", "-f", "{{.Id}}", reference, check=False).status == 0

    def inspect(self, container: str) -> dict[str, Any] | None:
        """A container as the daemon describes it, or ``None``."""
        found = self.run("container", "inspect", container, check=False)
        if found.status != 0:
            return None
        described: dict[str, Any] = json.loads(found.stdout)[0]
        return described

    def remove(self, container: str) -> None:
        """Remove a container, running or not; nothing when there is none."""
        self.run("rm", "--force", "--volumes", container, check=False, during_cleanup=True)

    def host_port(self, container: str, port: int) -> int:
        """The local port that ``port``/tcp of ``container`` is published at."""
        said = self.run("port", container, f"{port}/tcp").stdout
        return int(said.splitlines()[0].rsplit(":", 1)[1])

    def ensure_network(self, name: str, *options: str) -> None:
        if self.run("network", "inspect", name, check=False).status != 0:
            made = self.run("network", "create", *options, name, check=False)
            if made.status != 0 and "already exists" not in made.stderr:
                raise CommandFailed(f"cannot make the Docker network {name}: {made.stderr.strip()}")

    def containers(self, *filters: str, everything: bool = True) -> Sequence[str]:
        """Names of containers that match ``--filter`` expressions."""
        words = [word for one in filters for word in ("--filter", one)]
        listed = self.run(
            "ps", *(["--all"] if everything else []), *words, "--format", "{{.Names}}"
        )
        return listed.stdout.split()
