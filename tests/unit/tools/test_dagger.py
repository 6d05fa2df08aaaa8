"""A build by Dagger: its digest, and how its failures are told. No session is opened."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import anyio
import dagger as client
import pytest

from ci.errors import BuildFailed, Interrupted, PipelineError, RegistryRefused
from ci.tools import dagger
from ci.tools.dagger import Recipe

DIGEST = f"sha256:{'a' * 64}"
RECIPE = Recipe(
    Path("/source"),
    "registry:5000/engine:1",
    dockerfile="docker/Dockerfile",
    include=("app",),
    build_args={"VERSION": "1"},
    secrets={"pip": "hunter2hunter2"},
)


class Refusal(client.QueryError):
    """What the engine says; the real one is made of a request and its answer."""

    def __new__(cls, *_: object) -> Self:
        return Exception.__new__(cls)

    def __init__(self, text: str, stderr: str = "", command: tuple[str, ...] = ()) -> None:
        Exception.__init__(self, text)
        self.text, self.stderr, self.command = text, stderr, command

    def __str__(self) -> str:
        return self.text


class Session:
    """Dagger's client and everything that it hands out; it remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.published = f"registry:5000/engine:1@{DIGEST}"
        self.build: Exception | None = None
        self.publish_: Exception | None = None
        self.endless = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        def called(*words: Any, **how: Any) -> Any:
            self.asked.append((name, words, how))
            return words[0] if name == "set_secret" else self

        return called

    async def sync(self) -> Self:
        if self.endless:
            await anyio.sleep(60)
        if self.build is not None:
            raise self.build
        return self

    async def publish(self, reference: str, **how: Any) -> str:
        self.asked.append(("publish", (reference,), how))
        if self.publish_ is not None:
            raise self.publish_
        return self.published

    def how(self, name: str) -> dict[str, Any]:
        (found,) = (how for each, _, how in self.asked if each == name)
        return found


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session()
    monkeypatch.setattr(client, "Connection", lambda _config: made)
    return made


def built(recipe: Recipe = RECIPE) -> str:
    return str(dagger.build_and_publish(recipe, threading.Event()))


def refused() -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        built()
    return caught.value


def test_the_digest_is_the_registrys(session: Session) -> None:
    assert built() == DIGEST
    assert session.how("docker_build")["dockerfile"] == "docker/Dockerfile"
    assert session.how("docker_build")["secrets"] == ["pip"]
    assert session.how("directory") == {"include": ["app"], "exclude": []}


@pytest.mark.parametrize("for_docker", [False, True])
def test_layers_are_packed_so_that_who_pulls_can_read_them(
    session: Session, for_docker: bool
) -> None:
    built(Recipe(Path("/source"), "registry:5000/engine:1", for_docker=for_docker))
    packed = client.ImageLayerCompression.Gzip if for_docker else client.ImageLayerCompression.Zstd
    assert session.how("publish")["forced_compression"] is packed


def test_a_failed_step_is_named_with_its_output(session: Session) -> None:
    session.build = Refusal("exit code: 1", "no such package", ("/bin/sh", "-c", "pip install x"))
    problem = refused()
    assert isinstance(problem, BuildFailed)
    assert "pip install x" in str(problem)
    assert "no such package" in str(problem)


def test_a_registry_that_does_not_take_it(session: Session) -> None:
    session.publish_ = Refusal("trying again\n401 Unauthorized")
    problem = refused()
    assert isinstance(problem, RegistryRefused)
    assert "401 Unauthorized" in str(problem)
    assert "registry:5000" in problem.remedy


def test_a_session_that_breaks_off_is_a_failed_build(session: Session) -> None:
    session.build = client.ClientConnectionError("refused")
    problem = refused()
    assert isinstance(problem, BuildFailed)
    assert "doctor" in problem.remedy


def test_an_answer_without_a_digest_is_refused(session: Session) -> None:
    session.published = "registry:5000/engine:1"
    assert isinstance(refused(), RegistryRefused)


def test_ctrl_c_ends_a_build_that_goes_on(session: Session) -> None:
    session.endless = True
    cancel = threading.Event()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    with pytest.raises(Interrupted):
        dagger.build_and_publish(RECIPE, cancel)
    timer.join()
