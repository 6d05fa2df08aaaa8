"""From which origin a tool comes, and how obtaining them ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from ci import toolchain
from ci.errors import DiskFull, Interrupted, ToolchainError
from ci.run.events import Events
from ci.toolchain import CLIENTS, Mode, pins
from ci.toolchain.binaries import DAGGER, KUBERNETES
from ci.toolchain.store import Store
from ci.tools.command import Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, ManualClock, failed, said, take_over

PINS = pins.load()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """On which no host can be reached."""
    monkeypatch.setattr(toolchain, "reachable", lambda _: frozenset())
    return take_over(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The only folder of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def install(path: Path, *names: str) -> None:
    for name in names:
        (path / name).touch(mode=0o755)


def build(home: Path) -> None:
    """As if both modules had been compiled."""
    for module in (KUBERNETES, DAGGER):
        tools = [tool for tool, of in CLIENTS.items() if of is module]

        def write(into: Path, tools: Sequence[str] = tools) -> None:
            for tool in tools:
                (into / tool).write_text("a program")

        Store(home).make(module.name, module.key(PINS), write)


def obtaining(home: Path, path: Path, mode: Mode = "auto") -> toolchain._Obtaining:
    clock = ManualClock()
    env = {"PATH": str(path)}
    return toolchain._Obtaining(home, Programs(env=env), clock, Events(clock), env, mode)


# -- origins --------------------------------------------------------------------------------------


def test_what_is_present_is_taken(machine: Machine, home: Path, path: Path) -> None:
    install(path, "kubectl")
    machine.answer = lambda _: said(f"Client Version: v{PINS.versions['kubernetes']}")
    assert obtaining(home, path)._present_or_downloaded("kubectl") == path / "kubectl"
    assert obtaining(home, path, "source")._present_or_downloaded("kubectl") is None


def test_a_host_that_cannot_be_reached_is_passed_over_or_an_error(
    machine: Machine, home: Path, path: Path
) -> None:
    assert obtaining(home, path)._present_or_downloaded("kubectl") is None
    with pytest.raises(ToolchainError, match="cannot reach ") as caught:
        obtaining(home, path, "download")._present_or_downloaded("kubectl")
    assert "--toolchain source" in caught.value.remedy


def test_hosts_are_asked_for_once(
    machine: Machine, home: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []

    def reachable(hosts: Sequence[str]) -> frozenset[str]:
        asked.append(hosts)
        return frozenset()

    monkeypatch.setattr(toolchain, "reachable", reachable)
    one = obtaining(home, path)
    for tool in CLIENTS:
        one._present_or_downloaded(tool)
    assert len(asked) == 1
    assert len(set(asked[0])) == len(asked[0])


@pytest.mark.parametrize(
    ("mode", "there", "reached", "pulls"),
    [
        ("source", True, True, 0),
        ("auto", True, False, 0),
        ("auto", False, True, 1),
        ("auto", False, False, 0),
        ("download", False, True, 1),
    ],
)
def test_an_image_is_there_pulled_or_left_to_be_assembled(
    machine: Machine,
    home: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    there: bool,
    reached: bool,
    pulls: int,
) -> None:
    if reached:
        monkeypatch.setattr(toolchain, "reachable", frozenset)
    inspected = said("sha256:1") if there else failed("no such image")
    machine.answer = lambda words: inspected if words[1:3] == ["image", "inspect"] else None
    docker = Docker(Path("docker"), Programs(env={}))
    reference = PINS.image_reference("registry")
    pulled = obtaining(home, path, mode)._pulled("registry", docker)
    assert pulled == (reference if mode != "source" and (there or reached) else None)
    assert machine.words("docker", "pull") == [["docker", "pull", "--quiet", reference]] * pulls


# -- how it ends ----------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_said_before_anything_is_made(
    machine: Machine, home: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = SimpleNamespace(f_bavail=2**20, f_frsize=1024)
    monkeypatch.setattr(os, "statvfs", lambda _: little)
    with pytest.raises(DiskFull, match=r"only 1\.0 GiB free"):
        obtaining(home, path)._need_disk()
    build(home)
    obtaining(home, path)._need_disk()


@pytest.mark.parametrize(("cancelled", "error"), [(False, ToolchainError), (True, Interrupted)])
def test_the_first_failure_ends_the_programs_of_the_others(
    machine: Machine, home: Path, path: Path, cancelled: bool, error: type[Exception]
) -> None:
    one = obtaining(home, path)

    def slow() -> None:
        one.programs.cancel.wait(10)
        raise Interrupted("interrupted")

    def wrong() -> None:
        raise ToolchainError("no compiler")

    if cancelled:
        one.programs.cancel.set()
    with ThreadPoolExecutor(2) as pool, pytest.raises(error):
        one._all_or_none([pool.submit(slow), pool.submit(wrong)])
    assert one.programs.cancel.is_set()


def test_lanes_that_all_end_well_end_nothing(machine: Machine, home: Path, path: Path) -> None:
    one = obtaining(home, path)
    with ThreadPoolExecutor(1) as pool:
        one._all_or_none([pool.submit(threading.Event)])
    assert not one.programs.cancel.is_set()
