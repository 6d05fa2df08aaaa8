"""A build ends with its digest, with the reason that it has none, or when it is cancelled."""

from __future__ import annotations

import threading
from pathlib import Path

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
    with pytest.raises(RegistryRefused, match="gave no digest"):
        build_and_publish(RECIPE, threading.Event())


def test_a_failed_build_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = BuildFailed("the image does not build: in step `make`: error 2")
    works(monkeypatch, problem)
    with pytest.raises(BuildFailed) as caught:
        build_and_publish(RECIPE, threading.Event())
    assert caught.value is problem


def test_a_session_that_breaks_off_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, sdk.ClientError("connection refused"))
    with pytest.raises(BuildFailed, match="broke off: connection refused") as caught:
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
