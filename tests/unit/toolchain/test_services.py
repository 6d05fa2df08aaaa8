"""The registry and the Dagger engine: started once, kept, and replaced when they are others."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ci.errors import ToolchainError, WaitTimeout
from ci.model import Registry
from ci.run.events import Events
from ci.toolchain import services
from ci.toolchain.store import Store
from ci.tools.command import Output, Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, ManualClock, failed, said, take_over
from tests.unit.serving import serving
from tests.unit.toolchain.test_host import host

IMAGE = "queue-timeout-gate/registry:abc"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return take_over(monkeypatch)


class Daemon:
    """The containers that a Docker daemon has; ``run`` adds one, ``rm`` removes it."""

    def __init__(self, machine: Machine, port: int = 1) -> None:
        self.containers: dict[str, dict[str, Any]] = {}
        self.port = port
        self.refuses: dict[str, Output] = {}
        """How a docker command ends, by its first word."""
        machine.answer = self.answer

    def answer(self, words: list[str]) -> Output | None:
        if words[1] in self.refuses:
            return self.refuses[words[1]]
        match words[1:]:
            case ["container", "inspect", name]:
                found = self.containers.get(name)
                return said(json.dumps([found])) if found else failed("no such container")
            case ["network", "inspect", _]:
                return failed("no such network")
            case ["port", *_]:
                return said(f"127.0.0.1:{self.port}\n")
            case ["rm", *_, name]:
                self.containers.pop(name, None)
            case ["run", *rest]:
                key, _, value = rest[rest.index("--label") + 1].partition("=")
                self.containers[rest[rest.index("--name") + 1]] = described({key: value})
        return None


def described(labels: dict[str, str] | None, *, running: bool = True) -> dict[str, Any]:
    return {"State": {"Running": running}, "Config": {"Labels": labels}}


class RegistryApi(BaseHTTPRequestHandler):
    """A registry with the manifests of ``tags`` (reference to digest)."""

    tags: dict[str, str]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_HEAD(self) -> None:
        digest = self.tags.get(self.path.removeprefix("/v2/"))
        there = digest is not None
        self.send_response(200 if there and services.MANIFEST in self.headers["Accept"] else 404)
        if digest:
            self.send_header("docker-content-digest", digest)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tags() -> dict[str, str]:
    return {}


@pytest.fixture
def port(tags: dict[str, str]) -> Iterator[int]:
    handler = type("Handler", (RegistryApi,), {"tags": tags})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as found:
        yield found


def docker() -> Docker:
    return Docker(Path("/bin/docker"), Programs(env={}))


def values(words: list[str], option: str) -> list[str]:
    """What each ``option`` of a command line is followed by."""
    return [words[n + 1] for n, word in enumerate(words) if word == option]


# -- the registry ---------------------------------------------------------------------------------


def ensured(home: Path, image: str = IMAGE) -> Registry:
    clock = ManualClock(least=10)
    return services.ensure_registry(image, docker(), Store(home), clock, Events(clock))


def test_a_registry_is_started_where_only_this_host_reaches_it(
    machine: Machine, tmp_path: Path, port: int
) -> None:
    Daemon(machine, port)
    registry = ensured(tmp_path)
    assert registry == Registry("registry.gate.internal:5000", f"http://127.0.0.1:{port}")
    (started,) = machine.words("docker", "run")
    assert started[-1] == IMAGE
    assert values(started, "--publish") == ["127.0.0.1::5000"]
    assert values(started, "--network") == ["kind"]
    assert values(started, "--network-alias") == ["registry.gate.internal"]
    assert values(started, "--volume") == ["gate-registry-data:/var/lib/registry"]
    assert machine.words("docker", "network", "create")


def test_a_registry_that_runs_is_used_as_it_is(machine: Machine, tmp_path: Path, port: int) -> None:
    Daemon(machine, port)
    first = ensured(tmp_path)
    machine.forget()
    assert ensured(tmp_path) == first
    assert [words[1] for words in machine.words("docker")] == ["container", "port"]


@pytest.mark.parametrize("change", ["another image", "stopped", "somebody else's"])
def test_a_registry_that_is_not_as_wanted_is_replaced(
    machine: Machine, tmp_path: Path, port: int, change: str
) -> None:
    daemon = Daemon(machine, port)
    ensured(tmp_path)
    if change == "stopped":
        daemon.containers["gate-registry"]["State"]["Running"] = False
    if change == "somebody else's":
        daemon.containers["gate-registry"] = described(None)
    machine.forget()
    ensured(tmp_path, "other:1" if change == "another image" else IMAGE)
    asked = [words[1] for words in machine.words("docker") if words[1] in ("rm", "run")]
    assert asked == ["rm", "run"]


def test_a_registry_that_docker_cannot_start_says_why(machine: Machine, tmp_path: Path) -> None:
    Daemon(machine).refuses["run"] = failed("Unable to find image", 125)
    with pytest.raises(ToolchainError, match=r"ended with 125: Unable to find image") as caught:
        ensured(tmp_path)
    assert caught.value.exit_code == 4


def test_a_registry_that_never_answers_is_not_waited_for_forever(
    machine: Machine, tmp_path: Path
) -> None:
    Daemon(machine, port=1).refuses["logs"] = Output(0, "", "panic: no space")
    with pytest.raises(WaitTimeout, match=r"waited 30 s for the registry.*panic: no space"):
        ensured(tmp_path)


# -- pushing --------------------------------------------------------------------------------------


def pushed(port: int, image: str = "local/redis:1") -> str:
    registry = Registry("registry.gate.internal:5000", f"http://127.0.0.1:{port}")
    return services.push(docker(), registry, image, "standins/redis", "7.2")


def test_an_image_is_pushed_under_its_tag_and_under_one_that_names_its_content(
    machine: Machine, port: int
) -> None:
    reference = pushed(port)
    name, _, marked = reference.rpartition(":")
    assert name == "registry.gate.internal:5000/standins/redis"
    assert marked.startswith("7.2-")
    local = [f"127.0.0.1:{port}/standins/redis:{tag}" for tag in ("7.2", marked)]
    assert [words[-1] for words in machine.words("docker", "push")] == local
    tagged = [words[2:] for words in machine.words("docker", "tag")]
    assert tagged == [["local/redis:1", each] for each in local]
    assert [words[-1] for words in machine.words("docker", "rmi")] == local, "left in the daemon"


def test_an_image_that_is_there_is_not_pushed_again(
    machine: Machine, port: int, tags: dict[str, str]
) -> None:
    reference = pushed(port)
    marked = reference.rpartition(":")[2]
    machine.forget()
    for tag in ("7.2", marked):
        tags[f"standins/redis/manifests/{tag}"] = "sha256:1"
    assert pushed(port) == reference
    assert machine.started == []


@pytest.mark.parametrize(
    "there",
    [
        {"7.2": "sha256:2"},
        {"7.2": "sha256:2", "mine": "sha256:1"},
        {"7.2": ""},  # of a registry that states no digest
        {"mine": ""},
    ],
)
def test_a_tag_that_is_another_image_is_moved(
    machine: Machine, port: int, tags: dict[str, str], there: dict[str, str]
) -> None:
    marked = pushed(port).rpartition(":")[2]
    machine.forget()
    for tag, digest in there.items():
        tags[f"standins/redis/manifests/{marked if tag == 'mine' else tag}"] = digest
    pushed(port)
    assert len(machine.words("docker", "push")) == 2


def test_another_image_has_another_reference_although_the_tag_is_the_same(
    machine: Machine, port: int
) -> None:
    assert pushed(port, "local/redis:1") != pushed(port, "local/redis:2")


def test_a_push_that_is_refused_says_why(machine: Machine, port: int) -> None:
    machine.answer = lambda words: failed("denied") if words[1] == "push" else None
    with pytest.raises(ToolchainError, match=r"docker push .* ended with 1: denied"):
        pushed(port)


def test_nodes_know_that_the_registry_speaks_plain_http(tmp_path: Path) -> None:
    folder = services.node_certs(tmp_path / "certs.d")
    text = (folder / "registry.gate.internal:5000" / "hosts.toml").read_text()
    address = "http://registry.gate.internal:5000"
    assert tomllib.loads(text) == {
        "server": address,
        "host": {address: {"capabilities": ["pull", "resolve"]}},
    }


# -- the engine -----------------------------------------------------------------------------------


def engine(home: Path, *, mirror: bool = False, **facts: object) -> str:
    clock = ManualClock()
    return services.ensure_engine(
        "engine:1",
        "0.21.8",
        host(**facts),
        mirror=mirror,
        home=home,
        docker=docker(),
        store=Store(home),
        clock=clock,
        events=Events(clock),
    )


def test_an_engine_is_started_with_what_this_host_needs(machine: Machine, tmp_path: Path) -> None:
    Daemon(machine)
    ca = tmp_path / "ca"
    proxies = (("https_proxy", "http://proxy:3128"),)
    assert engine(tmp_path, ca_folder=ca, proxies=proxies) == (
        "docker-container://dagger-engine-v0.21.8"
    )
    (started,) = machine.words("docker", "run")
    assert started[-1] == "engine:1"
    assert "--privileged" in started
    assert values(started, "--volume") == [
        "queue-timeout-gate-engine:/var/lib/dagger",
        f"{tmp_path}/engine:/etc/dagger:ro",
        f"{ca}:/usr/local/share/ca-certificates:ro",
    ]
    assert values(started, "--env") == ["https_proxy=http://proxy:3128"]
    (awaited,) = machine.words("docker", "exec")
    assert awaited[-3:] == ["test", "-S", "/run/dagger/engine.sock"]


@pytest.mark.parametrize("mirror", [False, True])
def test_the_engine_pulls_from_docker_hub_only_where_it_can(
    machine: Machine, tmp_path: Path, mirror: bool
) -> None:
    Daemon(machine)
    engine(tmp_path, mirror=mirror)
    written = json.loads((tmp_path / "engine" / "engine.json").read_text())
    registries = written["registries"]
    assert registries["registry.gate.internal:5000"] == {"http": True}
    hub = {"mirrors": ["registry.gate.internal:5000"]} if mirror else None
    assert registries.get("docker.io") == hub
    assert written["gc"]["maxUsedSpace"] == "10GB", "else it takes a fifth of the disk"


def test_an_engine_that_runs_is_used_as_it_is(machine: Machine, tmp_path: Path) -> None:
    Daemon(machine)
    name = engine(tmp_path)
    machine.forget()
    assert engine(tmp_path) == name
    assert {words[1] for words in machine.words("docker")} == {"container"}


@pytest.mark.parametrize(
    "facts",
    [{"mirror": True}, {"proxies": (("http_proxy", "http://p"),)}, {"ca_folder": Path("/c")}],
)
def test_an_engine_of_other_settings_is_stopped_in_peace_and_started_again(
    machine: Machine, tmp_path: Path, facts: dict[str, Any]
) -> None:
    Daemon(machine)
    engine(tmp_path)
    machine.forget()
    engine(tmp_path, **facts)
    asked = [words[1] for words in machine.words("docker") if words[1] in ("stop", "rm", "run")]
    assert asked == ["stop", "rm", "run"]


def test_an_engine_of_somebody_else_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    daemon = Daemon(machine)
    daemon.containers["dagger-engine-v0.21.8"] = described({"of": "another project"})
    assert engine(tmp_path) == "docker-container://queue-timeout-gate-engine-v0.21.8"
    assert "dagger-engine-v0.21.8" in daemon.containers
    touched = [words[1:] for words in machine.words("docker") if "dagger-engine-v0.21.8" in words]
    assert touched == [["container", "inspect", "dagger-engine-v0.21.8"]]


def test_an_engine_that_does_not_come_up_shows_its_last_words(
    machine: Machine, tmp_path: Path
) -> None:
    daemon = Daemon(machine)
    daemon.refuses = {"exec": failed(""), "logs": Output(0, "", "iptables: not permitted")}
    with pytest.raises(WaitTimeout, match=r"60 s for the Dagger engine.*iptables: not permitted"):
        engine(tmp_path)
