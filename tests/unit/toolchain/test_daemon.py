"""A Docker daemon is used where one answers, else installed and started, else refused clearly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ci.errors import DiskFull, DockerUnavailable
from ci.run.events import Events
from ci.toolchain import daemon
from ci.toolchain.daemon import install_packages
from ci.toolchain.store import Store
from ci.tools.command import Output, Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, ManualClock, failed, take_over
from tests.unit.toolchain.test_host import host


class Box:
    """A host whose programs are the files of one folder."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.home = folder / "home"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.machine = machine
        self.answering = False
        """Whether a daemon answers."""
        self.comes_up = True
        self.apt = Output(0, "", "")
        self.packages_bring = ["docker", "dockerd", "runc"]
        machine.answer = self.answer

    def has(self, *programs: str) -> None:
        for name in programs:
            (self.bin / name).touch(0o755)

    def answer(self, words: list[str]) -> Output | None:
        match words:
            case ["docker", "version", *_]:
                up = self.answering or (self.machine.daemons and self.comes_up)
                return None if up else failed("Cannot connect to the Docker daemon")
            case ["apt-get", "install", *_]:
                if self.apt.status == 0:
                    self.has(*self.packages_bring)
                return self.apt
        return None

    def ensure(self, *, env: dict[str, str] | None = None, **facts: object) -> Docker:
        env = {"PATH": str(self.bin), **(env or {})}
        clock = ManualClock()
        programs = Programs(env=env)
        return daemon.ensure_daemon(
            self.home, host(**facts), Store(self.home), programs, clock, Events(clock), env
        )


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    found = Box(tmp_path, take_over(monkeypatch))
    which = shutil.which
    # The folders of this machine itself must not be looked into.
    monkeypatch.setattr(
        "ci.toolchain.daemon.shutil.which", lambda name, path=None: which(name, path=str(found.bin))
    )
    return found


def test_a_daemon_that_answers_is_used(box: Box) -> None:
    box.has("docker", "dockerd")
    box.answering = True
    assert box.ensure(is_root=False).path == box.bin / "docker"
    assert [words[:2] for words in box.machine.words()] == [["docker", "version"]]
    assert box.machine.daemons == []


def test_one_that_came_up_while_we_waited_for_the_lock_is_used(box: Box) -> None:
    box.has("docker", "dockerd")
    answers = iter([failed("no daemon"), None])
    box.machine.answer = lambda words: next(answers)
    box.ensure()
    assert box.machine.daemons == []


@pytest.mark.parametrize(
    ("programs", "facts", "env", "message", "remedy"),
    [
        (
            ("docker",),
            {"is_root": True},
            {"DOCKER_HOST": "tcp://there:1"},
            "no Docker daemon answers at DOCKER_HOST=tcp://there:1",
            "start that daemon, or unset DOCKER_HOST",
        ),
        (
            ("docker",),
            {"is_root": False},
            {},
            "only root can start one",
            "start Docker, or run as root",
        ),
        ((), {"is_root": False}, {}, "only root can start one", "start Docker, or run as root"),
        ((), {"is_debian": False}, {}, "can install it on Debian only", "install Docker Engine"),
        (
            ("docker", "dockerd"),
            {"can_sys_resource": False},
            {},
            "runc is not installed",
            "install the package runc",
        ),
    ],
)
def test_a_daemon_that_cannot_be_had_is_refused_and_nothing_is_installed(
    box: Box,
    programs: tuple[str, ...],
    facts: dict[str, object],
    env: dict[str, str],
    message: str,
    remedy: str,
) -> None:
    box.has(*programs)
    with pytest.raises(DockerUnavailable, match=message) as caught:
        box.ensure(env=env, **facts)
    assert caught.value.remedy.startswith(remedy)
    assert box.machine.words("apt-get") == []
    assert box.machine.daemons == []


def test_an_installed_daemon_is_started_and_waited_for(box: Box) -> None:
    box.has("docker", "dockerd", "runc")
    assert box.ensure().path == box.bin / "docker"
    log = box.home / "logs" / "dockerd.log"
    assert box.machine.daemons == [([str(box.bin / "dockerd")], log)]
    assert box.machine.words("apt-get") == [], "it is there"


def test_docker_is_installed_where_it_is_missing(box: Box) -> None:
    box.ensure()
    assert [words[1] for words in box.machine.words("apt-get")] == ["update", "install"]
    (installed,) = box.machine.words("apt-get", "install")
    assert {"docker.io", "iptables", "ca-certificates", "--no-install-recommends"} <= set(installed)
    assert box.machine.how("apt-get", "install")["env"] == {"DEBIAN_FRONTEND": "noninteractive"}
    assert len(box.machine.daemons) == 1


def test_a_package_without_a_client_is_said_so(box: Box) -> None:
    box.packages_bring = ["dockerd"]
    with pytest.raises(DockerUnavailable, match="its client `docker` is not on PATH") as caught:
        box.ensure()
    assert "docker-cli" in caught.value.remedy


@pytest.mark.parametrize(
    ("stderr", "kind", "says"),
    [
        ("W: old\nE: Unable to locate package docker.io", DockerUnavailable, "Unable to locate"),
        ("E: You don't have enough free space in /var/cache", DiskFull, "free space"),
        ("dpkg: error: No space left on device", DiskFull, "No space left on device"),
        ("", DockerUnavailable, "no output"),
    ],
)
def test_packages_that_cannot_be_installed(
    box: Box, stderr: str, kind: type[Exception], says: str
) -> None:
    box.apt = failed(stderr, 100)
    with pytest.raises(kind, match=rf"apt-get cannot install a b: .*{says}"):
        install_packages(("a", "b"), Programs(env={}), home=box.home, error=DockerUnavailable)


def test_a_host_that_withholds_a_capability_starts_containers_through_the_wrapper(
    box: Box,
) -> None:
    box.has("docker", "dockerd", "runc")
    box.ensure(can_sys_resource=False)
    wrapper = box.home / "bin" / "runc-without-sys-resource"
    ((argv, _),) = box.machine.daemons
    assert argv[1:] == ["--add-runtime", f"capped={wrapper}", "--default-runtime", "capped"]
    assert wrapper.stat().st_mode & 0o111 == 0o111
    program = box.home / "bin" / "oci_runtime.py"
    assert f'-IS "{program}" "{box.bin / "runc"}" "$@"' in wrapper.read_text()
    assert "CAP_SYS_RESOURCE" in program.read_text()
    assert sorted(each.name for each in wrapper.parent.iterdir()) == [program.name, wrapper.name]


def test_a_daemon_that_does_not_come_up_shows_its_log(box: Box) -> None:
    box.has("docker", "dockerd")
    box.comes_up = False
    log = box.home / "logs" / "dockerd.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\nsecond\nthird\nfailed to start: no iptables\n")
    with pytest.raises(DockerUnavailable, match=r"60 s.*third \| failed to start") as caught:
        box.ensure()
    assert str(log) in caught.value.remedy


def test_a_daemon_without_a_log_is_refused_as_clearly(box: Box) -> None:
    box.has("docker", "dockerd")
    box.comes_up = False
    with pytest.raises(DockerUnavailable, match="last seen: no log"):
        box.ensure()
