"""Images are assembled once, from the host's own mirrors, and leave no container behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ci.errors import ToolchainError
from ci.run.events import Events
from ci.toolchain import images, pins
from ci.toolchain.images import Assembler, Recipe
from ci.toolchain.store import Store
from ci.tools.command import Output, Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, ManualClock, failed, said, take_over
from tests.unit.toolchain.test_host import host
from tests.unit.toolchain.test_services import values

RECIPE = Recipe(
    name="thing",
    base="debian:1",
    packages=("curl", "jq"),
    script="echo made",
    mounts=((Path("/here"), "/toolchain"),),
    changes=("USER nobody",),
)
MIRROR = "deb http://mirror/debian bookworm main\n"


class Box:
    """A host with a Docker daemon that has the images of ``tags``."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.home = folder
        self.machine = machine
        self.tags: list[str] = []
        self.fails: Callable[[list[str]], bool] = lambda words: False
        self.seen: list[str] = []
        """What apt of an assembling container was told."""
        machine.answer = self.answer

    def answer(self, words: list[str]) -> Output | None:
        if self.fails(words):
            return failed("no such luck")
        match words:
            case ["docker", "images", *_]:
                return said("\n".join(self.tags))
            case ["docker", "image", "inspect", *_, tag]:
                return None if tag in self.tags else failed("no such image")
            case ["docker", "commit" | "import", *_, tag]:
                self.tags.append(tag)
            case ["docker", "run", *_]:
                self.seen.append((self.home / "apt" / "apt.conf").read_text())
            case ["apt-config", "dump"]:
                return said(
                    'Acquire::http::Proxy "http://p";\nAPT::Get "x";\nacquire::https "y";\n'
                )
        return None

    def assembler(self, **facts: object) -> Assembler:
        programs = Programs(env={})
        docker = Docker(Path("/bin/docker"), programs)
        store, events = Store(self.home), Events(ManualClock())
        return Assembler(docker, host(**facts), pins.load(), store, programs, events, self.home)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    monkeypatch.setattr(images, "apt_mirrors", lambda suite: MIRROR)
    monkeypatch.setattr("ci.toolchain.images.shutil.which", lambda name: f"/usr/bin/{name}")
    return Box(tmp_path, take_over(monkeypatch))


# -- a recipe -------------------------------------------------------------------------------------


def test_a_recipe_is_carried_out_in_a_container_and_committed_under_its_tag(box: Box) -> None:
    assert box.assembler(proxies=(("http_proxy", "http://p"),)).make(RECIPE) == RECIPE.tag
    (ran,) = box.machine.words("docker", "run")
    assert values(ran, "--volume") == [
        "/here:/toolchain:ro",
        f"{box.home}/apt/apt.conf:/etc/apt/apt.conf.d/99-host:ro",
    ]
    assert values(ran, "--env") == ["http_proxy=http://p"]
    at = ran.index("debian:1")
    assert ran[at - 2 : at] == ["--entrypoint", "bash"]
    assert ran[at + 1 : at + 5] == ["-euo", "pipefail", "-c", ran[-1]]
    assert "apt-get install -y -qq --no-install-recommends curl jq\n" in ran[-1]
    assert ran[-1].rstrip().endswith("echo made")
    (committed,) = box.machine.words("docker", "commit")
    assert values(committed, "--change") == [
        "LABEL queue-timeout-gate.toolchain=thing",
        "USER nobody",
    ]
    assert committed[-2:] == [ran[ran.index("--name") + 1], RECIPE.tag]


def test_proxies_of_the_hosts_apt_reach_the_container_and_nothing_else_of_it(box: Box) -> None:
    box.assembler().make(RECIPE)
    assert box.seen == ['Acquire::http::Proxy "http://p";\nacquire::https "y";\n']


def test_what_the_daemon_has_is_not_made_again(box: Box) -> None:
    box.tags.append(RECIPE.tag)
    assembler = box.assembler()
    box.machine.forget()
    assert assembler.make(RECIPE) == RECIPE.tag
    assert box.machine.started == [], "all tags were asked for at once"


def test_what_was_made_meanwhile_is_not_made_again(box: Box) -> None:
    assembler = box.assembler()
    box.tags.append(RECIPE.tag)
    assembler.make(RECIPE)
    assert box.machine.words("docker", "run") == []


def test_what_another_made_while_we_waited_for_the_lock_is_not_made_again(box: Box) -> None:
    assembler = box.assembler()
    answers = iter([failed("no such image"), said("sha256:1")])
    box.machine.answer = lambda words: next(answers)
    assert assembler.make(RECIPE) == RECIPE.tag
    assert next(answers, None) is None


@pytest.mark.parametrize("verb", ["run", "commit"])
def test_a_recipe_that_fails_leaves_no_container(box: Box, verb: str) -> None:
    box.fails = lambda words: words[:2] == ["docker", verb]
    with pytest.raises(ToolchainError, match=r"ended with 1: no such luck"):
        box.assembler().make(RECIPE)
    assert RECIPE.tag not in box.tags
    last = box.machine.started[-1]
    assert last.words[:3] == ["docker", "rm", "--force"]
    assert last.words[-1] == "queue-timeout-gate-assemble-thing"
    assert last.how["during_cleanup"], "it goes also when the run was cancelled"


def test_only_what_a_recipe_asks_for_is_given_to_its_container(box: Box) -> None:
    box.assembler().make(Recipe(name="plain", base="debian:1", script="true"))
    (plain,) = box.machine.words("docker", "run")
    assert "apt-get" not in plain[-1]
    assert "--security-opt" not in plain
    assert "--stop-signal" not in plain
    box.machine.forget()
    special = Recipe(name="s", base="debian:1", seccomp=False, stop_signal="SIGINT")
    box.assembler().make(special)
    (ran,) = box.machine.words("docker", "run")
    assert values(ran, "--security-opt") == ["seccomp=unconfined"]
    assert values(ran, "--stop-signal") == ["SIGINT"]


# -- the base -------------------------------------------------------------------------------------


def test_the_base_is_made_of_the_hosts_own_mirrors(box: Box) -> None:
    tag = box.assembler().base()
    (made,) = box.machine.words("mmdebstrap")
    assert made[-3:] == ["bookworm", f"{box.home}/store/.partial/debian.tar", "-"]
    assert box.machine.how("mmdebstrap")["input"] == MIRROR
    (imported,) = box.machine.words("docker", "import")
    assert imported[-2:] == [made[-2], tag]
    box.machine.forget()
    assert box.assembler().base() == tag
    assert box.machine.words("mmdebstrap") == []


def test_without_a_mirror_of_its_suite_mmdebstrap_takes_its_own(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_mirrors = box.assembler().base_tag()
    monkeypatch.setattr(images, "apt_mirrors", lambda suite: "")
    assembler = box.assembler()
    assert assembler.base_tag() != with_mirrors
    assembler.base()
    (made,) = box.machine.words("mmdebstrap")
    assert made[-1].endswith("debian.tar")


def test_mmdebstrap_is_installed_where_it_is_missing(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.toolchain.images.shutil.which", lambda name: None)
    box.assembler().base()
    (installed,) = box.machine.words("apt-get", "install")
    assert installed[-1] == "mmdebstrap"


def test_a_package_that_cannot_be_installed_is_no_missing_daemon(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.toolchain.images.shutil.which", lambda name: None)
    box.fails = lambda words: words[:2] == ["apt-get", "install"]
    with pytest.raises(ToolchainError, match="cannot install mmdebstrap: no such luck") as caught:
        box.assembler().base()
    assert "apt-get install mmdebstrap" in caught.value.remedy


@pytest.mark.parametrize("facts", [{"is_root": False}, {"is_debian": False}])
def test_a_host_that_can_assemble_nothing_says_what_would_help(
    box: Box, facts: dict[str, object]
) -> None:
    with pytest.raises(ToolchainError, match="needs root on Debian") as caught:
        box.assembler(**facts).base()
    assert "network that reaches the registries" in caught.value.remedy
    assert box.machine.words("mmdebstrap") == []


def test_a_base_that_fails_leaves_no_archive(box: Box) -> None:
    def fails(words: list[str]) -> bool:
        if words[0] == "mmdebstrap":
            Path(words[-2]).write_text("half")
        return words[:2] == ["docker", "import"]

    box.fails = fails
    with pytest.raises(ToolchainError, match="no such luck"):
        box.assembler().base()
    assert list((box.home / "store" / ".partial").iterdir()) == []
