"""A build ends with its digest, with the reason that it has none, or when it is cancelled."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import anyio
import dagger as sdk
import pytest

from ci.digest import Digest
from ci.errors import BuildFailed, Interrupted, RegistryRefused
from ci.tools import dagger
from ci.tools.dagger import Recipe, build_and_publish

RECIPE = Recipe(Path("/source"), "registry.example:5000/app:1")
DIGEST = Digest.from_hex("ab" * 32)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagger, "POLL_SECONDS", 0.001)


def works(monkeypatch: pytest.MonkeyPatch, result: str | Exception) -> None:
    async def published(recipe: Recipe) -> str:
        assert recipe is RECIPE
        await anyio.sleep(0)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(dagger, "_published", published)


def test_the_digest_is_the_registrys(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, f"{RECIPE.reference}@{DIGEST}")
    assert build_and_publish(RECIPE, threading.Event()) == DIGEST


def test_a_publication_without_a_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, RECIPE.reference)
    with pytest.raises(RegistryRefused, match="instead of a digest"):
        build_and_publish(RECIPE, threading.Event())


def test_a_failed_build_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = BuildFailed("the image does not build: in step `make`: error 2")
    works(monkeypatch, problem)
    with pytest.raises(BuildFailed) as caught:
        build_and_publish(RECIPE, threading.Event())
    assert caught.value is problem


def test_a_session_that_breaks_off_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, sdk.ClientError("connection refused"))
    with pytest.raises(BuildFailed, match="was lost: connection refused") as caught:
        build_and_publish(RECIPE, threading.Event())
    assert "doctor" in caught.value.remedy


def test_cancelling_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = threading.Event()
    ended: list[str] = []

    async def published(_: Recipe) -> str:
        try:
            cancel.set()
            await anyio.sleep_forever()
        finally:
            ended.append("the work")
        raise AssertionError("unreachable")

    monkeypatch.setattr(dagger, "_published", published)
    with pytest.raises(Interrupted, match="while building"):
        build_and_publish(RECIPE, cancel)
    assert ended == ["the work"]


# -- what is asked of Dagger ----------------------------------------------------------------------


class Refusal(sdk.QueryError):
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
        self.published = f"{RECIPE.reference}@{DIGEST}"
        self.build: Exception | None = None
        self.publish_: Exception | None = None

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
    monkeypatch.setattr(sdk, "Connection", lambda _config: made)
    return made


def test_a_build_is_given_its_files_arguments_and_secrets(session: Session) -> None:
    recipe = replace(
        RECIPE, dockerfile="docker/Dockerfile", include=("app",), secrets={"pip": "hunter2hunter2"}
    )
    assert build_and_publish(recipe, threading.Event()) == DIGEST
    assert session.how("directory") == {"include": ["app"], "exclude": []}
    assert session.how("docker_build")["dockerfile"] == "docker/Dockerfile"
    assert session.how("docker_build")["secrets"] == ["pip"]


@pytest.mark.parametrize("for_docker", [False, True])
def test_layers_are_packed_so_that_who_pulls_can_read_them(
    session: Session, for_docker: bool
) -> None:
    build_and_publish(replace(RECIPE, for_docker=for_docker), threading.Event())
    packed = sdk.ImageLayerCompression.Gzip if for_docker else sdk.ImageLayerCompression.Zstd
    assert session.how("publish")["forced_compression"] is packed


def test_a_failed_step_is_named_with_its_output(session: Session) -> None:
    session.build = Refusal("exit code: 1", "no such package", ("/bin/sh", "-c", "pip install x"))
    with pytest.raises(BuildFailed) as caught:
        build_and_publish(RECIPE, threading.Event())
    assert "pip install x" in str(caught.value)
    assert "no such package" in str(caught.value)


def test_a_registry_that_does_not_take_it(session: Session) -> None:
    session.publish_ = Refusal("trying again\n401 Unauthorized")
    with pytest.raises(RegistryRefused) as caught:
        build_and_publish(RECIPE, threading.Event())
    assert "401 Unauthorized" in str(caught.value)
    assert "registry.example:5000" in caught.value.remedy
