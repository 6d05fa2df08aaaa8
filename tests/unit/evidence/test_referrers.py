"""What is attached to an image: with the referrers API, and with the tag that stands in for it."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest

from ci.errors import RegistryRefused
from ci.tools import registry as registries
from ci.tools.command import Programs
from ci.tools.registry import Repository, copy_attached, referrers_tag
from tests.unit.evidence.fakes import INDEX, MANIFEST, REPOSITORY, FakeRegistry, sha

ARTIFACT, LAYER = "application/vnd.in-toto+json", "application/vnd.dsse.envelope.v1+json"


def opened(fake: FakeRegistry) -> Repository:
    client = httpx.Client(transport=httpx.MockTransport(fake), base_url="http://registry:5000")
    return Repository(client, "registry:5000/model-engine", "model-engine", "")


def attach(there: Repository, digest: str, content: bytes, kind: str = ARTIFACT) -> str:
    return there.attach(
        digest, content, artifact_type=kind, media_type=LAYER, annotations={"a": "b"}
    )


def found(there: Repository, digest: str) -> list[bytes]:
    return there.attached(digest, artifact_type=ARTIFACT, media_type=LAYER)


def test_the_tag_of_the_specification() -> None:
    assert referrers_tag(f"sha256:{'a' * 64}") == f"sha256-{'a' * 64}"
    assert referrers_tag(f"sha512:{'b' * 128}") == f"sha512-{'b' * 64}"
    assert referrers_tag(f"test+algorithm+using+algorithm+separators+and+lots:{'c' * 90}") == (
        f"test-algorithm-using-algorithm-s-{'c' * 64}"
    )


def test_what_is_attached_is_found_by_the_digest(registry: FakeRegistry) -> None:
    digest, other = registry.image("new"), registry.image("other")
    before = registry.tags.copy()
    there = opened(registry)
    assert found(there, digest) == []
    held = [attach(there, digest, content) for content in (b"one", b"two")]
    attach(there, digest, b"an SBOM", "application/spdx+json")
    assert sorted(found(there, digest)) == [b"one", b"two"]
    assert found(there, other) == []
    assert {e["digest"] for e in there.referrers(digest)} > set(held)
    assert digest == registry.tags["new"], "the image is as it was"
    stood_in = set(registry.tags) - set(before)
    assert stood_in == (set() if registry.referrers else {referrers_tag(digest)})


def test_the_manifest_is_what_the_image_specification_asks_for(registry: FakeRegistry) -> None:
    digest = registry.image("new")
    held = attach(opened(registry), digest, b"content")
    [manifest] = registry.attached()
    assert sha(registry.manifests[held][0]) == held
    size = len(registry.manifests[digest][0])
    assert manifest["subject"] == {"mediaType": MANIFEST, "digest": digest, "size": size}
    assert manifest["artifactType"] == ARTIFACT
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert [layer["mediaType"] for layer in manifest["layers"]] == [LAYER]
    [listed] = opened(registry).referrers(digest)
    assert listed["artifactType"] == ARTIFACT
    assert listed["annotations"] == {"a": "b"}


def test_attached_twice_it_is_listed_once(registry: FakeRegistry) -> None:
    digest = registry.image("new")
    there = opened(registry)
    assert attach(there, digest, b"one") == attach(there, digest, b"one")
    assert found(there, digest) == [b"one"]


def test_every_page_is_read() -> None:
    fake = FakeRegistry(referrers=True, page=2)
    digest = fake.image("new")
    there = opened(fake)
    for number in range(5):
        attach(there, digest, b"%d" % number)
    assert sorted(found(there, digest)) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    "link", ["https://elsewhere/v2/model-engine/referrers/x", "/v2/another/referrers/x"]
)
def test_a_page_elsewhere_is_not_followed(link: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "registry"
        return httpx.Response(
            200, json={"manifests": []}, headers={"link": f'<{link}>; rel="next"'}
        )

    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://registry:5000")
    with pytest.raises(RegistryRefused, match="continues on another host"):
        Repository(client, "x", "model-engine", "").referrers(f"sha256:{'a' * 64}")


def test_a_list_that_another_overwrote_is_written_again() -> None:
    fake = FakeRegistry()
    digest = fake.image("new")
    attach(opened(fake), digest, b"first")
    tag, overwrites = referrers_tag(digest), [fake.manifests[fake.tags[referrers_tag(digest)]]]
    there = opened(fake)
    plain = there.write_manifest

    def overwritten(reference: str, content: bytes, media_type: str) -> None:
        plain(reference, content, media_type)
        if reference == tag and overwrites:  # another machine, which had read the list before
            plain(tag, *overwrites.pop())

    there.write_manifest = overwritten  # type: ignore[method-assign]
    attach(there, digest, b"second")
    assert found(there, digest) == [b"first", b"second"]


def test_a_tag_that_is_no_list_is_left_alone() -> None:
    fake = FakeRegistry()
    digest = fake.image("new")
    fake.tags[referrers_tag(digest)] = digest
    with pytest.raises(RegistryRefused, match="should be an OCI index of referrers"):
        attach(opened(fake), digest, b"one")
    assert fake.tags[referrers_tag(digest)] == digest


def test_what_is_damaged_does_not_hide_what_is_sound(registry: FakeRegistry) -> None:
    digest = registry.image("new")
    there = opened(registry)
    attach(there, digest, b"damaged")
    registry.blobs[sha(b"damaged")] = b"other bytes"
    with pytest.raises(RegistryRefused, match="does not match digest"):
        found(there, digest)
    attach(there, digest, b"sound")
    assert found(there, digest) == [b"sound"]


def test_what_is_too_large_is_not_held(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "ATTACHED_LIMIT", 10)
    digest = registry.image("new")
    there = opened(registry)
    attach(there, digest, b"x" * 11)
    with pytest.raises(RegistryRefused, match="too large"):
        found(there, digest)


@pytest.mark.parametrize("manifest", [b"{}", b"[]", b'{"layers": [1]}', b'{"layers": 3}'])
def test_a_manifest_that_is_garbage(manifest: bytes) -> None:
    fake = FakeRegistry()
    digest = fake.image("new")
    fake.manifests[sha(manifest)] = (manifest, MANIFEST)
    listed = json.dumps({"manifests": [{"digest": sha(manifest), "artifactType": ARTIFACT}]})
    fake.manifests[sha(listed.encode())] = (listed.encode(), INDEX)
    fake.tags[referrers_tag(digest)] = sha(listed.encode())
    with pytest.raises(RegistryRefused, match=r"invalid list of referrers|is not valid"):
        found(opened(fake), digest)


def test_evidence_follows_an_image_into_another_registry(registry: FakeRegistry) -> None:
    elsewhere = FakeRegistry()
    digest = registry.image("new")
    assert elsewhere.image("new") == digest
    here, there = opened(registry), opened(elsewhere)
    attach(here, digest, b"evidence")
    attach(here, digest, b"an SBOM", "application/spdx+json")
    assert copy_attached(here, there, digest, artifact_type=ARTIFACT) == 1
    assert copy_attached(here, there, digest, artifact_type=ARTIFACT) == 0
    assert found(there, digest) == [b"evidence"]


def test_an_image_that_is_not_there(registry: FakeRegistry) -> None:
    nowhere = f"sha256:{hashlib.sha256(b'nothing').hexdigest()}"
    with pytest.raises(RegistryRefused, match="HTTP 404"):
        attach(opened(registry), nowhere, b"x")


def test_through_the_front_door(registry: FakeRegistry) -> None:
    digest = registry.image("new")
    with registries.open_repository(REPOSITORY, programs=Programs(env={})) as there:
        attach(there, digest, b"one")
        assert found(there, digest) == [b"one"]


def test_a_connection_that_breaks_off_is_the_registrys(registry: FakeRegistry) -> None:
    digest = registry.image("new")
    attach(opened(registry), digest, b"one")

    def breaking(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and "/blobs/" in request.url.path:
            raise httpx.ReadError("connection reset")
        return registry(request)

    client = httpx.Client(transport=httpx.MockTransport(breaking), base_url="http://registry:5000")
    with pytest.raises(RegistryRefused, match="does not answer: connection reset"):
        found(Repository(client, "registry:5000/model-engine", "model-engine", ""), digest)
