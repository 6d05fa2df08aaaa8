"""Removes what the pipeline made: clusters and containers; on request the caches, too."""

from __future__ import annotations

import shutil
from pathlib import Path

from ci.session import Session
from ci.toolchain.images import LABEL
from ci.toolchain.services import CONFIG
from ci.tools.docker import Docker

KIND_LABEL = "io.x-k8s.kind.cluster"


def clean(session: Session, *, everything: bool) -> None:
    """Only what is recorded or labelled as ours; runs/ stays, it is evidence."""
    events, home = session.events, session.home
    with home.lock("gate", "the gate cluster"):
        found = shutil.which("docker", path=session.env.get("PATH"))
        docker = Docker(Path(found), session.programs) if found else None
        if docker is not None and docker.answers():
            for name in home.clusters():
                with events.step(f"cluster {name}"):
                    for container in docker.containers(f"label={KIND_LABEL}={name}"):
                        docker.remove(container)
                    home.drop_cluster(name)
            for container in docker.containers(f"label={CONFIG}"):
                with events.step(f"container {container}"):
                    docker.run("stop", "--time", "20", container, check=False)
                    docker.remove(container)
            if everything:
                _remove_images(session, docker)
        if everything:
            with events.step("caches", str(home.folder)):
                for part in ("store", "state", "kubeconfigs", "venvs", "certs.d", "apt"):
                    shutil.rmtree(home.folder / part, ignore_errors=True)


def _remove_images(session: Session, docker: Docker) -> None:
    with session.events.step("images and volumes"):
        listed = docker.run(
            "images", "--filter", f"label={LABEL}", "--format", "{{.Repository}}:{{.Tag}}"
        )
        for image in listed.stdout.split():
            docker.run("rmi", "--force", image, check=False)
        volumes = docker.run("volume", "ls", "--filter", f"label={LABEL}", "--format", "{{.Name}}")
        for volume in volumes.stdout.split():
            docker.run("volume", "rm", volume, check=False)
