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

    def run(self, *arguments: str, **options: Unpack[RunOptions]) -> Output:
        """Any docker command. It is ended after two minutes unless ``timeout`` says otherwise."""
        run_options: RunOptions = {"log": "docker", "timeout": 120, **options}
        return self._programs.run([self.path, *arguments], **run_options)

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
        result = self.run("container", "inspect", container, check=False)
        if result.status != 0:
            return None
        described: dict[str, Any] = json.loads(result.stdout)[0]
        return described

    def remove(self, container: str) -> None:
        """Remove a container, running or not; nothing when there is none."""
        self.run("rm", "--force", "--volumes", container, check=False, during_cleanup=True)

    def host_port(self, container: str, port: int) -> int:
        """The local port that ``port``/tcp of ``container`` is published at."""
        output = self.run("port", container, f"{port}/tcp").stdout
        return int(output.splitlines()[0].rsplit(":", 1)[1])

    def ensure_network(self, name: str, *options: str) -> None:
        if self.run("network", "inspect", name, check=False).status != 0:
            created = self.run("network", "create", *options, name, check=False)
            if created.status != 0 and "already exists" not in created.stderr:
                raise CommandFailed(
                    f"cannot create the Docker network {name}: {created.stderr.strip()}"
                )

    def containers(self, *filters: str, everything: bool = True) -> Sequence[str]:
        """Names of containers that match ``--filter`` expressions."""
        filter_options = [word for one in filters for word in ("--filter", one)]
        listed = self.run(
            "ps", *(["--all"] if everything else []), *filter_options, "--format", "{{.Names}}"
        )
        return listed.stdout.split()
