"""Evidence in a real registry (docker-registry 2.8, which has no referrers API)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ci.digest import Digest
from ci.errors import RegistryRefused
from ci.evidence import dsse, statement
from ci.model import Image, Tools
from ci.tools.command import Programs
from ci.tools.registry import Repository, copy, copy_attached, open_repository, referrers_tag
from tests.integration.test_registry import empty_registry

__all__ = ["empty_registry"]

ARTIFACT, LAYER = statement.PAYLOAD_TYPE, dsse.MEDIA_TYPE


@pytest.fixture
def image(tools: Tools, empty_registry: str) -> Iterator[tuple[Repository, str]]:
    """A real image in a registry of the test's own, and its digest."""
    programs = Programs(env=os.environ)
    name, tag = tools.redis_image.rsplit(":", 1)
    with (
        open_repository(name, local=tools.registry, programs=programs) as source,
        open_repository(f"{empty_registry}/copied", programs=programs) as into,
    ):
        digest = source.digest(tag)
        assert digest is not None
        copy(source, into, Image(name, tag, digest))
        yield into, digest


def attach(there: Repository, digest: str, content: bytes) -> str:
    return there.attach(
        digest, content, artifact_type=ARTIFACT, media_type=LAYER, annotations={"a": "b"}
    )


def test_what_is_attached_is_found_by_the_digest(image: tuple[Repository, str]) -> None:
    there, digest = image
    assert there.attached(digest, artifact_type=ARTIFACT, media_type=LAYER) == []
    held = [attach(there, digest, content) for content in (b"one", b"two")]
    assert there.attached(digest, artifact_type=ARTIFACT, media_type=LAYER) == [b"one", b"two"]
    assert [entry["digest"] for entry in there.referrers(digest)] == held
    assert there.digest(referrers_tag(digest)) is not None
    assert there.digest(digest) == digest
    with pytest.raises(RegistryRefused, match="HTTP 404"):
        attach(there, Digest.from_hex("0" * 64), b"of nothing")


def test_attached_at_once_none_is_damaged(image: tuple[Repository, str]) -> None:
    there, digest = image
    contents = [b"evidence %d" % number for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        held = set(pool.map(lambda content: attach(there, digest, content), contents))
    found = there.attached(digest, artifact_type=ARTIFACT, media_type=LAYER)
    assert found, "at least the last one is listed"
    assert set(found) <= set(contents)
    assert {str(entry["digest"]) for entry in there.referrers(digest)} <= held


def test_evidence_follows_its_image(
    image: tuple[Repository, str], empty_registry: str, tools: Tools
) -> None:
    there, digest = image
    attach(there, digest, b"one")
    with open_repository(f"{empty_registry}/again", programs=Programs(env=os.environ)) as again:
        copy(there, again, Image("again", "new", Digest(digest)))
        assert copy_attached(there, again, digest, artifact_type=ARTIFACT) == 1
        assert again.attached(digest, artifact_type=ARTIFACT, media_type=LAYER) == [b"one"]
