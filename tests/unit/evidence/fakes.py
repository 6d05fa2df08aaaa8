"""A registry in memory, by the rules of the distribution specification, under an HTTP transport;
and contexts of machines that share nothing but it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from ci.digest import Digest
from ci.model import Case, Image, Proof, Registry, Tools
from ci.results import Outcome
from ci.run.context import Context
from ci.run.events import Events
from ci.run.state import Home
from ci.settings import Settings, parse
from ci.tools.command import Programs
from ci.tools.wait import SystemClock

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORY = "registry.example:5000/model-engine"
API = '{"paths": {"/tasks": {}}}'


def sha(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class FakeRegistry:
    """With ``referrers`` it has the referrers API of 1.1, ``page`` descriptors a page; without,
    it is one like docker-registry 2.8."""

    def __init__(self, *, referrers: bool = False, page: int = 100) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.tags: dict[str, str] = {}
        self.referrers, self.page = referrers, page
        self.before_put: Callable[[str], None] = lambda reference: None

    # What a test does to it ----------------------------------------------------------------

    def image(self, tag: str, content: bytes = b"layer") -> str:
        """An image of one layer."""
        config = json.dumps({"of": tag}).encode()
        for blob in (config, content):
            self.blobs[sha(blob)] = blob
        described = [{"digest": sha(b), "size": len(b)} for b in (config, content)]
        manifest = json.dumps(
            {"mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
        ).encode()
        self.manifests[sha(manifest)] = (manifest, MANIFEST)
        self.tags[tag] = sha(manifest)
        return sha(manifest)

    def attached(self) -> list[dict[str, Any]]:
        """Every manifest with a subject."""
        found = [json.loads(content) for content, _ in self.manifests.values()]
        return [manifest for manifest in found if "subject" in manifest]

    def envelopes(self) -> list[bytes]:
        return [self.blobs[m["layers"][0]["digest"]] for m in self.attached()]

    # The API -------------------------------------------------------------------------------

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if not (found := re.fullmatch(r"/v2/model-engine/(\w+)/(.+)", path)):
            return httpx.Response(404, json={"errors": [{"code": "NAME_UNKNOWN"}]})
        kind, name = found[1], found[2]
        match request.method, kind:
            case ["HEAD" | "GET", "manifests"]:
                digest = self.tags.get(name, name)
                if digest not in self.manifests:
                    return httpx.Response(404, json={"errors": [{"code": "MANIFEST_UNKNOWN"}]})
                content, media = self.manifests[digest]
                headers = {"content-type": media, "docker-content-digest": digest}
                body = content if request.method == "GET" else b""
                return httpx.Response(200, content=body, headers=headers)
            case ["HEAD" | "GET", "blobs"]:
                if name not in self.blobs:
                    return httpx.Response(404)
                return httpx.Response(200, content=self.blobs[name])
            case ["POST", "blobs"]:
                return httpx.Response(202, headers={"location": "/v2/model-engine/blobs/up/1"})
            case ["PUT", "blobs"]:
                content = request.read()
                if request.url.params["digest"] != sha(content):
                    return httpx.Response(400, json={"errors": [{"code": "DIGEST_INVALID"}]})
                self.blobs[sha(content)] = content
                return httpx.Response(201)
            case ["PUT", "manifests"]:
                return self._put(name, request.read(), request.headers["content-type"])
            case ["GET", "referrers"] if self.referrers:
                return self._referrers(name, int(request.url.params.get("from", 0)))
        return httpx.Response(404, text="404 page not found")

    def _put(self, reference: str, content: bytes, media: str) -> httpx.Response:
        self.before_put(reference)
        digest, described = sha(content), json.loads(content)
        needs = [described["config"], *described["layers"]] if media == MANIFEST else []
        if any(blob["digest"] not in self.blobs for blob in needs):
            return httpx.Response(400, json={"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]})
        if any(m["digest"] not in self.manifests for m in described.get("manifests", [])):
            return httpx.Response(400, json={"errors": [{"code": "MANIFEST_UNKNOWN"}]})
        if reference.startswith("sha256:") and reference != digest:
            return httpx.Response(400, json={"errors": [{"code": "DIGEST_INVALID"}]})
        self.manifests[digest] = (content, media)
        if not reference.startswith("sha256:"):
            assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", reference)
            self.tags[reference] = digest
        headers = {"docker-content-digest": digest}
        if self.referrers and "subject" in described:
            headers["oci-subject"] = described["subject"]["digest"]
        return httpx.Response(201, headers=headers)

    def _referrers(self, subject: str, begin: int) -> httpx.Response:
        found = []
        for digest, (content, media) in self.manifests.items():
            described = json.loads(content)
            if described.get("subject", {}).get("digest") == subject:
                kept = {k: described[k] for k in ("artifactType", "annotations") if k in described}
                found.append({"mediaType": media, "digest": digest, "size": len(content), **kept})
        index = {"schemaVersion": 2, "mediaType": INDEX}
        index["manifests"] = found[begin : begin + self.page]
        headers = {"content-type": INDEX}
        if begin + self.page < len(found):
            following = f"/v2/model-engine/referrers/{subject}?from={begin + self.page}"
            headers["link"] = f'<{following}>; rel="next"'
        return httpx.Response(200, content=json.dumps(index).encode(), headers=headers)


def machine(
    folder: Path,
    settings: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    *,
    local: str = "gate-registry:5000",
) -> Context:
    """A machine of its own: its checkout, its runs, its home."""
    root, run_dir = folder / "checkout", folder / "checkout/runs/20261123-100000-aaaa"
    run_dir.mkdir(parents=True)
    for name in ("chart", "chart/templates", "suite"):
        (root / name).mkdir()
    (root / "chart/Chart.yaml").write_text("name: model-engine\nversion: 0.1.13\n")
    (root / "chart/templates/gateway.yaml").write_text("kind: Deployment\n")
    (root / "suite/test_it.py").write_text("def test_it(): pass\n")
    raw: dict[str, Any] = {"gate": {"chart": "chart"}, "prove": {"tests": "suite"}}
    clock = SystemClock()
    nothing = Path("/nonexistent")
    tools = Tools(
        docker=nothing, dagger=nothing, kind=nothing, helm=nothing, kubectl=nothing,
        node_image="", node_brings_cni=False, runner_host="",
        registry=Registry(local, "http://127.0.0.1:1"),
        postgres_image="", redis_image="", node_certs_dir=nothing, kubelet_patch="",
        versions=(("helm", "3.19.0"),),
    )  # fmt: skip
    described: Settings = parse(raw | (settings or {}), origin="test")
    return Context(
        root=root,
        settings=described,
        tools=tools,
        programs=Programs(env=env or {}),
        clock=clock,
        events=Events(clock),
        run_dir=run_dir,
        home=Home(folder / "home"),
    )


def proof(digest: str, *outcomes: Outcome, finished: datetime | None = None) -> Proof:
    cases = tuple(
        Case(f"test_it::test_{number}", outcome, 1.5, "" if outcome is Outcome.PASSED else "why")
        for number, outcome in enumerate(outcomes or (Outcome.PASSED,) * 3)
    )
    when = finished or datetime.now(UTC)
    image = Image(REPOSITORY, "queue-timeout-20261123-100000", Digest(digest))
    return Proof(image, cases, Path("junit.xml"), when, started=when, api=API)
