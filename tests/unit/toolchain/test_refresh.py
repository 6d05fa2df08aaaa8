"""The refresh writes published checksums and digests, and nothing else, into the pins."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from ci.toolchain import pins
from ci.toolchain.pins import HERE
from ci.toolchain.refresh import refresh, rewrite

SHA = "ab" * 32
DIGEST = f"sha256:{'cd' * 32}"


def answer(request: httpx.Request) -> httpx.Response:
    path = request.url.path
    if path.endswith("/token"):
        assert request.url.params["scope"] == "pull"
        return httpx.Response(200, json={"token": "anonymous"})
    if "/manifests/" in path:
        if request.url.host == "registry-1.docker.io" and "authorization" not in request.headers:
            challenge = 'Bearer realm="https://auth.docker.io/token",service="s",scope="pull"'
            return httpx.Response(401, headers={"www-authenticate": challenge})
        return httpx.Response(200, headers={"docker-content-digest": DIGEST})
    if path.endswith("checksums.txt"):
        current = pins.load()
        name = current.url("dagger").rsplit("/", 1)[1]
        return httpx.Response(200, text=f"{'00' * 32}  other.tar.gz\n{SHA}  {name}\n")
    if path.endswith(".sha256"):
        return httpx.Response(200, text=SHA)
    if path.endswith(".sha256sum"):
        return httpx.Response(200, text=f"{SHA}  {path.rsplit('/', 1)[1][:-10]}\n")
    return httpx.Response(404)


def not_sums(text: str) -> list[str]:
    """The lines of pins.toml that a refresh must leave as they are."""
    return [line for line in text.splitlines() if not line.startswith(("sha256 = ", "digest = "))]


def test_every_checksum_and_digest_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pins.toml"
    shutil.copy(HERE / "pins.toml", path)
    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        assert refresh(path, client) == []
    after = pins.load(path)
    assert {entry.sha256 for entry in after.download.values()} == {SHA}
    assert {entry.digest for entry in after.image.values()} == {DIGEST}
    assert after.versions == pins.load().versions
    assert not_sums(path.read_text()) == not_sums((HERE / "pins.toml").read_text())


def test_registries_are_asked_for_the_pinned_tags(tmp_path: Path) -> None:
    path = tmp_path / "pins.toml"
    shutil.copy(HERE / "pins.toml", path)
    asked: set[str] = set()

    def noting(request: httpx.Request) -> httpx.Response:
        asked.add(f"{request.url.host}{request.url.path}")
        return answer(request)

    with httpx.Client(transport=httpx.MockTransport(noting)) as client:
        assert refresh(path, client) == []
    versions = pins.load().versions
    hub = "registry-1.docker.io/v2"
    assert {one for one in asked if "/manifests/" in one} == {
        f"registry.dagger.io/v2/engine/manifests/v{versions['dagger']}",
        f"{hub}/kindest/node/manifests/v{versions['kubernetes']}",
        f"{hub}/library/registry/manifests/2",
        f"{hub}/library/postgres/manifests/{versions['postgres']}",
        f"{hub}/library/redis/manifests/{versions['redis']}",
    }


def test_a_comment_behind_a_sum_and_between_keys_stays() -> None:
    text = '# [b]\n[b]\n# why\nurl = "u"  # {version}\nsha256 = ""  # of amd64\n'
    assert rewrite(text, "b", "sha256", "3") == text.replace('""', '"3"')


def test_what_cannot_be_had_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "pins.toml"
    shutil.copy(HERE / "pins.toml", path)
    before = path.read_text()
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(503))) as client:
        missed = refresh(path, client)
    current = pins.load()
    assert len(missed) == len(current.download) + len(current.image)
    assert path.read_text() == before


def test_only_the_named_line_changes() -> None:
    text = '# c\n[a]\nsha256 = "1"\n\n[b]\nurl = "u"\nsha256 = "2"\n'
    assert rewrite(text, "b", "sha256", "3") == text.replace('"2"', '"3"')
    with pytest.raises(ValueError, match="no digest"):
        rewrite(text, "a", "digest", "3")
