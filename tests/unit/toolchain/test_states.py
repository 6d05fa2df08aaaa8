"""``doctor``: every tool and image with the sum it is pinned to, and the version that is in use."""

from __future__ import annotations

import io
import sys
from collections.abc import Set
from pathlib import Path

import pytest

from ci import toolchain
from ci.report import terminal as report
from ci.run.events import Events
from ci.toolchain import Mode, ToolState, pins
from ci.toolchain.pins import Download, PinnedImage, Pins
from ci.tools.command import Output, Programs
from tests.unit.machine import Machine, ManualClock, failed, said, take_over
from tests.unit.report.screens import terminal

PINS = pins.load()
DOWNLOADED = {"dagger": "dagger", "kind": "kind", "helm": "helm", "kubectl": "kubectl"}
PULLED = {
    "kind node image": "node",
    "dagger engine": "engine",
    "registry": "registry",
    "postgres": "postgres",
    "redis": "redis",
}


NONE: Set[str] = frozenset()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(toolchain, "find_docker", lambda _: Path("/bin/docker"))
    return take_over(monkeypatch)


def states(home: Path, mode: Mode = "auto") -> dict[str, ToolState]:
    clock = ManualClock()
    env = {"PATH": str(home / "nothing")}
    found = toolchain.inspect(home, Programs(env=env), clock, Events(clock), env, mode)
    assert len({state.name for state in found}) == len(found)
    return {state.name: state for state in found}


def daemon(
    machine: Machine,
    *,
    pulled: Set[str] = NONE,
    assembled: Set[str] = NONE,
    version: str = "29.0.1",
) -> None:
    """A daemon with these images: public ones by name, and those of recipes."""
    references = {PINS.image_reference(name) for name in pulled}

    def answer(words: list[str]) -> Output | None:
        match words[1:]:
            case ["version", *_]:
                return said(f"{version}\n")
            case ["images", *_]:
                return said("".join(f"queue-timeout-gate/{name}:0a1b\n" for name in assembled))
            case ["image", "inspect", *_, reference]:
                return said("sha256:1\n") if reference in references else failed("No such image")
        return None

    machine.answer = answer


def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Pins(
        versions=PINS.versions,
        download={
            tool: Download(**{**entry.model_dump(), "sha256": ""})
            for tool, entry in PINS.download.items()
        },
        image={
            name: PinnedImage(reference=entry.reference, digest="")
            for name, entry in PINS.image.items()
        },
    )
    monkeypatch.setattr(pins, "load", lambda: bare)


def test_every_tool_and_image_has_the_sum_it_is_pinned_to(machine: Machine, tmp_path: Path) -> None:
    daemon(machine)
    found = states(tmp_path)
    assert set(DOWNLOADED.values()) == set(PINS.download)
    assert set(PULLED.values()) == set(PINS.image)
    assert set(found) == {"docker", *DOWNLOADED, *PULLED}
    for name, tool in DOWNLOADED.items():
        assert found[name].checksum == f"sha256:{PINS.download[tool].sha256}"
    for name, image in PULLED.items():
        assert found[name].checksum == PINS.image[image].digest
    assert {state.state for name, state in found.items() if name != "docker"} == {"missing"}
    assert found["docker"].by_apt


def test_what_was_pulled_is_in_use_at_its_pinned_version(machine: Machine, tmp_path: Path) -> None:
    daemon(machine, pulled={"redis", "postgres", "node"}, assembled={"redis"})
    found = states(tmp_path)
    redis = found["redis"]
    assert (redis.pinned, redis.found, redis.origin) == ("7.2", "7.2", "download")
    assert redis.state == "ready"
    assert (found["postgres"].found, found["postgres"].origin) == ("15", "download")
    node = found["kind node image"]
    assert (node.found, node.origin) == (PINS.versions["kubernetes"], "download")
    assert found["registry"].state == "missing"
    assert found["registry"].remedy == "`python3 pipeline.py run` obtains it"


@pytest.mark.parametrize(
    ("mode", "pulled"), [("auto", NONE), ("source", {"redis"})], ids=["auto", "source"]
)
def test_what_was_assembled_is_debians_version(
    machine: Machine, tmp_path: Path, mode: Mode, pulled: Set[str]
) -> None:
    daemon(machine, pulled=pulled, assembled={"redis", "postgres", "registry", "kind-node"})
    found = states(tmp_path, mode)
    redis = found["redis"]
    assert (redis.pinned, redis.found, redis.origin) == ("7.2", "7.0", "source (Debian)")
    assert (found["postgres"].found, found["postgres"].origin) == ("15", "source (Debian)")
    assert (found["registry"].found, found["registry"].origin) == ("2", "source (Debian)")
    assert found["kind node image"].origin == "source"
    assert found["dagger engine"].state == "missing"


def test_without_a_daemon_images_are_missing(tmp_path: Path, machine: Machine) -> None:
    machine.answer = lambda _: failed("Cannot connect to the Docker daemon")
    found = states(tmp_path)
    assert {state.state for state in found.values()} == {"missing"}
    assert all(state.remedy for state in found.values())


def shown(found: dict[str, ToolState], columns: int) -> list[str]:
    with terminal(columns) as seen:
        report.doctor(tuple(found.values()), sys.stdout)
    assert seen.screen is not None
    return [line for line in seen.screen.lines_written if line]


def short(name: str) -> str:
    if name in PULLED:
        return PINS.image[PULLED[name]].digest[:19]
    return f"sha256:{PINS.download[name].sha256}"[:19]


def test_at_80_columns_each_sum_stands_in_its_row(machine: Machine, tmp_path: Path) -> None:
    daemon(machine, pulled={"node"}, assembled={"redis", "registry"})
    lines = shown(states(tmp_path), 80)
    assert lines[0].split() == ["tool", "pinned", "found", "origin", "state", "checksum"]
    docker, *rows = (line for line in lines[1:] if not line.startswith(" "))
    assert docker.endswith("checked by apt")
    assert len(rows) == len(DOWNLOADED) + len(PULLED)
    for row in rows:
        (name,) = (name for name in (*PULLED, *DOWNLOADED) if row.startswith(f"{name}  "))
        assert row.endswith(f"  {short(name)}")
    assert all(len(line) <= 80 for line in lines)


def test_at_80_columns_a_long_version_moves_the_sums_below(
    machine: Machine, tmp_path: Path
) -> None:
    daemon(machine, assembled={"redis", "registry"}, version="20.10.24+dfsg1")
    lines = shown(states(tmp_path), 80)
    assert all(len(line) <= 80 for line in lines)
    for name in (*PULLED, *DOWNLOADED):
        (at,) = (n for n, line in enumerate(lines) if line.startswith(f"{name}  "))
        assert lines[at + 1].startswith(f"    checksum: {short(name)}")


def test_where_none_is_pinned_it_says_so(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpinned(monkeypatch)
    daemon(machine, assembled={"redis"})
    found = states(tmp_path)
    stream = io.StringIO()
    report.doctor(tuple(found.values()), stream)
    _, docker, *rows = stream.getvalue().splitlines()
    assert "no checksum pinned" not in docker
    assert len(rows) == len(DOWNLOADED) + len(PULLED)
    for row in rows:
        assert "no checksum pinned" in row
        assert "`python -m ci.toolchain.refresh` pins its checksum" in row
    assert found["redis"].remedy == "`python -m ci.toolchain.refresh` pins its checksum"
