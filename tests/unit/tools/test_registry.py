"""The distribution API: logins, digests, copies bit for bit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from ci.digest import Digest
from ci.errors import RegistryRefused
from ci.model import Image, Registry
from ci.settings import Login
from ci.tools import registry
from ci.tools.command import Programs

INDEX, MANIFEST = registry.MANIFESTS[0], registry.MANIFESTS[1]


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Fake:
    """A registry in memory, with the answers of the distribution specification."""

    def __init__(self, *, basic: str = "", bearer: str = "") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.basic, self.bearer = basic, bearer
        self.asked: list[str] = []

    def put(self, content: bytes, media_type: str, *tags: str) -> str:
        for name in (sha(content), *tags):
            self.manifests[name] = (content, media_type)
        return sha(content)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        given = request.headers.get("authorization", "")
        if request.url.path == "/token":
            if given != f"Basic {self.basic}":
                return httpx.Response(401)
            assert request.url.params["scope"] == "repository:model-engine:pull,push"
            return httpx.Response(200, json={"token": self.bearer})
        if self.bearer and given != f"Bearer {self.bearer}":
            challenge = 'Bearer realm="http://registry:5000/token",service="r"'
            return httpx.Response(401, headers={"www-authenticate": challenge})
        if self.basic and not self.bearer and given != f"Basic {self.basic}":
            return httpx.Response(401, headers={"www-authenticate": 'Basic realm="r"'})
        _, _, _, kind, name = request.url.path.split("/", 4)
        match request.method, kind:
            case ["HEAD" | "GET", "manifests"]:
                if name not in self.manifests:
                    return httpx.Response(404)
                content, media = self.manifests[name]
                headers = {"content-type": media, "docker-content-digest": sha(content)}
                return httpx.Response(200, content=content, headers=headers)
            case ["HEAD" | "GET", "blobs"]:
                found = self.blobs.get(name)
                return httpx.Response(404 if found is None else 200, content=found or b"")
            case ["POST", "blobs"]:
                return httpx.Response(202, headers={"location": "/v2/model-engine/blobs/1?a=b"})
            case ["PUT", "blobs"]:
                assert request.url.params["a"] == "b"
                self.blobs[request.url.params["digest"]] = request.read()
                return httpx.Response(201)
            case ["PUT", "manifests"]:
                self.put(request.read(), request.headers["content-type"], name)
                return httpx.Response(201)
        raise AssertionError(request)


@contextmanager
def repository(
    fake: Callable[[httpx.Request], httpx.Response], credentials: str = ""
) -> Iterator[registry.Repository]:
    with httpx.Client(
        transport=httpx.MockTransport(fake), base_url="http://registry:5000"
    ) as client:
        yield registry.Repository(client, "registry:5000/model-engine", "model-engine", credentials)


def with_an_image(fake: Fake) -> str:
    blobs = [b"{}", b"layer one", b"layer two"]
    fake.blobs = {sha(b): b for b in blobs}
    described = [{"digest": sha(b), "size": len(b)} for b in blobs]
    manifest = json.dumps({"config": described[0], "layers": described[1:]}).encode()
    child = fake.put(manifest, MANIFEST)
    index = json.dumps({"manifests": [{"digest": child, "size": len(manifest)}]}).encode()
    return fake.put(index, INDEX, "new")


def test_what_a_tag_resolves_to() -> None:
    fake = Fake()
    digest = with_an_image(fake)
    with repository(fake) as there:
        assert there.digest("new") == digest
        assert there.digest("other") is None
        assert len(there.equivalents(Digest(digest))) == 2


def test_a_copy_is_bit_for_bit_and_moves_no_blob_twice() -> None:
    source, goal = Fake(), Fake()
    digest = with_an_image(source)
    goal.blobs[sha(b"layer one")] = b"layer one"
    with repository(source) as here, repository(goal) as there:
        registry.copy(here, there, Image("x", "new", Digest(digest)))
        assert there.digest("new") == digest
    assert goal.blobs == source.blobs
    assert goal.manifests == source.manifests
    assert len([a for a in goal.asked if a.startswith("POST")]) == 2


def test_other_bytes_than_asked_for_are_refused() -> None:
    source, goal = Fake(), Fake()
    digest = with_an_image(source)
    source.blobs[sha(b"layer two")] = b"something else"
    with (
        repository(source) as here,
        repository(goal) as there,
        pytest.raises(RegistryRefused, match="does not match digest"),
    ):
        registry.copy(here, there, Image("x", "new", Digest(digest)))
    assert "new" not in goal.manifests


CREDENTIALS = base64.b64encode(b"AWS:right").decode()
WRONG = base64.b64encode(b"AWS:wrong").decode()


@pytest.mark.parametrize("bearer", ["", "a-token"])
def test_logins(bearer: str) -> None:
    fake = Fake(basic=CREDENTIALS, bearer=bearer)
    digest = with_an_image(fake)
    with repository(fake, CREDENTIALS) as there:
        assert there.digest("new") == digest
    for credentials in (WRONG, ""):
        with (
            repository(fake, credentials) as there,
            pytest.raises(RegistryRefused, match="HTTP 401") as caught,
        ):
            there.digest("new")
        assert "registry_login" in caught.value.remedy


def test_a_registry_that_does_not_answer() -> None:
    def nothing(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with (
        repository(nothing) as there,
        pytest.raises(RegistryRefused, match="does not answer: connection refused"),
    ):
        there.digest("new")


def test_a_password_from_the_environment_is_hidden() -> None:
    programs = Programs(env={"PW": "hunter2hunter2"})
    assert registry.password(Login(username="AWS", password_env="PW"), programs) == "hunter2hunter2"
    assert programs.redact("x hunter2hunter2 y") == "x *** y"
    with pytest.raises(RegistryRefused, match="variable OTHER"):
        registry.password(Login(username="AWS", password_env="OTHER"), programs)
    with pytest.raises(RegistryRefused, match="has neither"):
        registry.password(Login(username="AWS"), programs)


@pytest.mark.parametrize("name", ["model-engine", "mirror/model-engine", "host:5000"])
def test_a_name_without_a_registry_is_refused(name: str) -> None:
    with (
        pytest.raises(RegistryRefused, match="has no registry host"),
        registry.open_repository(name, programs=Programs(env={})),
    ):
        pass


def test_the_local_registry_is_reached_at_its_address_here() -> None:
    local = Registry("gate-registry:5000", "http://127.0.0.1:5001")
    with registry.open_repository(
        "gate-registry:5000/model-engine", local=local, programs=Programs(env={})
    ) as there:
        assert there._client.base_url == "http://127.0.0.1:5001"
