"""A Docker daemon: a running one is used; else one is installed and started; else an error."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from ci.errors import DiskFull, DockerUnavailable, PipelineError, WaitTimeout
from ci.run.events import Events
from ci.run.state import Home
from ci.toolchain.host import Host
from ci.toolchain.store import Store
from ci.tools.command import Programs
from ci.tools.docker import Docker
from ci.tools.wait import Clock, wait_until

PACKAGES = ("docker.io", "iptables", "ca-certificates")
START_SECONDS = 60.0


def find_docker(env: Mapping[str, str]) -> Path | None:
    path = shutil.which("docker", path=env.get("PATH"))
    return Path(path) if path else None


def ensure_daemon(
    home: Path,
    host: Host,
    store: Store,
    programs: Programs,
    clock: Clock,
    events: Events,
    env: Mapping[str, str],
) -> Docker:
    """A Docker daemon that answers; installed and started if there is none.

    Raises :class:`ci.errors.DockerUnavailable`.
    """
    docker = _answering(programs, env)
    if docker is not None:
        return docker
    with store.lock("docker-daemon"):
        docker = _answering(programs, env)  # another run may have started it meanwhile
        if docker is not None:
            return docker
        _refuse_to_start(host, env)
        if shutil.which("dockerd", path=_sbin(env)) is None:
            _install(home, host, programs, events)
        path = find_docker(env)
        if path is None:
            raise DockerUnavailable(
                "dockerd is installed, but its client `docker` is not on PATH",
                remedy="install the client (on Debian the package docker-cli), and run again",
            )
        _start(home, host, programs, events, env)
        docker = Docker(path, programs)
        _wait(docker, home / "logs" / "dockerd.log", clock)
        return docker


def _answering(programs: Programs, env: Mapping[str, str]) -> Docker | None:
    path = find_docker(env)
    if path is None:
        return None
    docker = Docker(path, programs)
    return docker if docker.answers() else None


def _refuse_to_start(host: Host, env: Mapping[str, str]) -> None:
    if env.get("DOCKER_HOST"):
        raise DockerUnavailable(
            f"no Docker daemon answers at DOCKER_HOST={env['DOCKER_HOST']}",
            remedy="start that daemon, or unset DOCKER_HOST",
        )
    if not host.is_root:
        raise DockerUnavailable("no Docker daemon answers, and only root can start one")


def _install(home: Path, host: Host, programs: Programs, events: Events) -> None:
    if not host.is_debian:
        raise DockerUnavailable(
            "Docker is not installed, and the pipeline can install it on Debian only",
            remedy="install Docker Engine, start it, and run again",
        )
    events.note("installing Docker from the distribution's packages")
    install_packages(PACKAGES, programs, home=home, error=DockerUnavailable)


def _wait(docker: Docker, log: Path, clock: Clock) -> None:
    try:
        wait_until(
            "the Docker daemon",
            docker.answers,
            timeout=START_SECONDS,
            clock=clock,
            diagnose=lambda: _tail(log),
        )
    except WaitTimeout as problem:
        raise DockerUnavailable(
            f"the Docker daemon was started but does not answer: {problem}",
            remedy=f"see the reason in {log}, then run again",
        ) from problem


def _start(
    home: Path, host: Host, programs: Programs, events: Events, env: Mapping[str, str]
) -> None:
    dockerd = shutil.which("dockerd", path=_sbin(env))
    assert dockerd is not None
    argv = [dockerd]
    if not host.can_sys_resource:
        events.note(
            "this host lacks CAP_SYS_RESOURCE: containers are started through a wrapper of runc"
        )
        runtime = _install_runtime(home, env)
        argv += ["--add-runtime", f"capped={runtime}", "--default-runtime", "capped"]
    events.note("starting the Docker daemon")
    programs.daemon(argv, log=home / "logs" / "dockerd.log")


def _install_runtime(home: Path, env: Mapping[str, str]) -> Path:
    """Install the wrapper of runc: a shell script that runs ``oci_runtime.py`` with this Python."""
    runc = shutil.which("runc", path=_sbin(env))
    if runc is None:
        raise DockerUnavailable("runc is not installed", remedy="install the package runc")
    python = Path(sys.base_prefix) / "bin" / "python3"
    program = home / "bin" / "oci_runtime.py"
    wrapper = home / "bin" / "runc-without-sys-resource"
    program.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("oci_runtime.py").read_text(encoding="utf-8")
    _replace(program, source)
    _replace(wrapper, f'#!/bin/sh\nexec "{python}" -IS "{program}" "{runc}" "$@"\n')
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return wrapper


def _replace(path: Path, text: str) -> None:
    """Write a file atomically, because another process may be reading it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def install_packages(
    packages: tuple[str, ...], programs: Programs, *, home: Path, error: type[PipelineError]
) -> None:
    """Install Debian packages with the host's own apt configuration, and record under ``home``
    which of them were not there before. Raises ``error`` when apt
    cannot, and :class:`DiskFull` when there is no room for them."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    new = _not_installed(packages, programs)
    programs.run(["apt-get", "update", "-qq"], log="apt", env=quiet, timeout=300, check=False)
    done = programs.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
        log="apt",
        env=quiet,
        timeout=900,
        check=False,
    )
    if done.status == 0:
        Home(home).put_installed(new)  # `clean` lists them
    if done.status != 0:
        last_line = done.stderr.strip().splitlines()[-1:] or ["no output"]
        message = f"apt-get cannot install {' '.join(packages)}: {last_line[0]}"
        if re.search("no space|enough free space", done.stderr, re.I):
            raise DiskFull(message)
        raise error(
            message,
            remedy=f"run `apt-get install {' '.join(packages)}` to see why, then run again",
        )


def _not_installed(packages: tuple[str, ...], programs: Programs) -> tuple[str, ...]:
    """The packages that apt will newly install; those installed before are never listed for
    removal."""
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${Package}\\n"]
    result = programs.run([*query, *packages], log="apt", timeout=30, check=False)
    installed = {line.split()[-1] for line in result.stdout.splitlines() if line.startswith("ii ")}
    return tuple(package for package in packages if package not in installed)


def _sbin(env: Mapping[str, str]) -> str:
    return env.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"


def _tail(log: Path) -> str:
    try:
        return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
    except OSError:
        return "no log"
