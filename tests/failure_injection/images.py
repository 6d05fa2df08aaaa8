"""The versions of the service, put together from the Python base image without a build:
one layer with the program, one configuration per version. Content decides the digests, so that a
second run finds everything in the registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ci.digest import Digest
from ci.model import Image, Registry
from ci.tools.command import Programs
from ci.tools.registry import Repository, copy, open_repository

APP = Path(__file__).parent / "app" / "app.py"
BASE = "library/python"
BASE_TAG = "3.11-slim"
VERSIONS = {
    "v1": "good",
    "v2": "good",
    "bad-crash": "crash",
    "bad-unready": "unready",
    "bad-unhealthy": "unhealthy",
    "bad-leak": "leak",
    "bad-slow-ready": "slow-ready",
    "bad-late-leak": "late-leak",
    "bad-logs": "logs",
    "bad-layer": "layer",
    "bad-api": "good",
    "large-0": "large",
    "large-1": "large",
    "large-2": "large",
    "large-3": "large",
}
"""Tag to the way it behaves; ``layer`` does not even unpack, ``large`` takes a while to pull, for
no node has any of it."""
LARGE_BYTES = 8 << 20
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def publish(registry: Registry, programs: Programs) -> dict[str, Image]:
    """Every version in the registry, by its tag."""
    name = f"{registry.name}/matrix/engine"
    with (
        open_repository(f"{registry.name}/{BASE}", local=registry, programs=programs) as source,
        open_repository(name, local=registry, programs=programs) as into,
    ):
        digest = source.digest(BASE_TAG)
        if digest is None:
            raise LookupError(f"the registry has no {BASE}:{BASE_TAG}: run the pipeline first")
        base = _amd64(source, digest)
        copy(source, into, Image(into.name, "base", base))
        return {tag: _version(into, base, tag, mode) for tag, mode in VERSIONS.items()}


def api(tag: str) -> str:
    """How a version describes its API, as it serves it; one of them has lost a field."""
    if tag not in VERSIONS:
        return ""
    fields = {"id": {"type": "string"}, "status": {"type": "string"}}
    if tag == "bad-api":
        del fields["status"]
    body = {"application/json": {"schema": {"type": "object", "properties": fields}}}
    task = {"get": {"responses": {"200": {"content": body}}}}
    return json.dumps({"openapi": "3.1.0", "paths": {"/tasks": task, "/readyz": {"get": {}}}})


SOURCE = Path(__file__).parents[2] / "examples/model-engine/model_engine"
Patch = tuple[str, str, str]
"""File, what stands in it, and what shall stand there instead."""
PATCHES: dict[str, tuple[Patch, ...]] = {
    "service-v1": (),
    "service-v2": (),
    # Every message is worked on and then handed to a second consumer, which works on it, too.
    "service-twice": (
        (
            "worker.py",
            "            await receiver.complete_message(message)\n",
            "            await (receiver.complete_message if message.delivery_count"
            " else receiver.abandon_message)(message)\n",
        ),
    ),
    # Messages are taken off the queue before anybody works on them.
    "service-loses": (
        (
            "worker.py",
            "        if spec.renew:\n",
            "        if not spec.renew:\n"
            "            return await receiver.complete_message(message)\n"
            "        if spec.renew:\n",
        ),
    ),
    "service-ignores-lock": (
        (
            "builder.py",
            "timedelta(seconds=endpoint.queue_message_timeout_duration)",
            "timedelta(seconds=30)",
        ),
    ),
}
"""Versions of the sample service: tag to what is otherwise in them."""


def publish_service(registry: Registry, programs: Programs, base_tag: str) -> dict[str, Image]:
    """Every version of the sample service, by its tag; none when the pipeline has not built it
    yet."""
    name = f"{registry.name}/matrix/service"
    with (
        open_repository(
            f"{registry.name}/model-engine", local=registry, programs=programs
        ) as source,
        open_repository(name, local=registry, programs=programs) as into,
    ):
        base = source.digest(base_tag)
        if base is None:
            return {}
        copy(source, into, Image(into.name, "base", base))
        return {
            tag: _derived(into, _amd64(into, base), tag, _patched(patches), {})
            for tag, patches in PATCHES.items()
        }


def publish_packages(
    registry: Registry, programs: Programs, name: str, packages: Sequence[str], folder: str
) -> Image:
    """The Python base image with packages in ``folder``, which is no default of any Python;
    installed once, and found again by what was asked for."""
    name = f"{registry.name}/{name}"
    with (
        open_repository(f"{registry.name}/{BASE}", local=registry, programs=programs) as source,
        open_repository(name, local=registry, programs=programs) as into,
    ):
        digest = source.digest(BASE_TAG)
        if digest is None:
            raise LookupError(f"the registry has no {BASE}:{BASE_TAG}: run the pipeline first")
        tag = hashlib.sha256(json.dumps([digest, *packages, folder]).encode()).hexdigest()[:16]
        if known := into.digest(tag):
            return Image(name, tag, known)
        base = _amd64(source, digest)
        copy(source, into, Image(name, "base", base))
        with TemporaryDirectory() as target:
            installing = [
                *(sys.executable, "-m", "pip", "install", "--no-compile", "--target", target),
                *("--only-binary=:all:", "--python-version", "3.11", *packages),
            ]
            programs.run(installing, log="pip", timeout=180)
            # Byte code that holds whatever the files' times are: pods start sooner.
            unchecked = ("--invalidation-mode", "unchecked-hash")
            compiling = [sys.executable, "-m", "compileall", "-q", *unchecked, target]
            programs.run(compiling, log="compileall", timeout=180, check=False)
            files = {
                f"{folder.strip('/')}/{path.relative_to(target)}": path.read_bytes()
                for path in sorted(Path(target).rglob("*"))
                if path.is_file()
            }
        return _derived(into, base, tag, files, {}, env=(f"PYTHONPATH={folder}",))


def _patched(patches: tuple[Patch, ...]) -> dict[str, bytes]:
    """Files of a layer; the compiled ones of the image below, which would go before, go."""
    files: dict[str, bytes] = {}
    for name, old, new in patches:
        text = (SOURCE / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise LookupError(f"{name} has {old!r} not once")
        files[f"app/model_engine/{name}"] = text.replace(old, new).encode()
        stem = name.removesuffix(".py")
        files[f"app/model_engine/__pycache__/.wh.{stem}.cpython-311.pyc"] = b""
    return files


def _amd64(source: Repository, digest: Digest) -> Digest:
    manifest = json.loads(source.manifest(digest)[0])
    for child in manifest.get("manifests", []):
        if child.get("platform", {}).get("architecture") == "amd64":
            return Digest(child["digest"])
    return digest


def _version(into: Repository, base: str, tag: str, mode: str) -> Image:
    # A layer that nodes know by its content is not even fetched: the broken one has its own.
    app = APP.read_bytes() if mode != "layer" else b"never unpacked"
    files = {"app.py": app, "api.json": api(tag).encode()}
    if mode == "large":
        # Of its own for each, and such that no compression makes it small.
        files["ballast"] = random.Random(tag).randbytes(LARGE_BYTES)
    inner = {"Entrypoint": ["python3", "/app.py"], "Cmd": [], "User": "1000"}
    return _derived(into, base, tag, files, inner, mode)


def _derived(
    into: Repository,
    base: str,
    tag: str,
    files: dict[str, bytes],
    changed: dict[str, Any],
    mode: str = "",
    env: Sequence[str] = (),
) -> Image:
    """``base`` with one more layer, and ``changed`` in how it is run."""
    manifest = json.loads(into.manifest(base)[0])
    config = json.loads(b"".join(into.read(manifest["config"]["digest"])))
    plain = _layer(files)
    packed = b"no archive" if mode == "layer" else gzip.compress(plain, mtime=0)
    inner = config.setdefault("config", {})
    environment = [e for e in inner.get("Env") or [] if not e.startswith(("APP_VERSION=", "MODE="))]
    inner.update(Env=[*environment, f"APP_VERSION={tag}", f"MODE={mode}", *env], **changed)
    config["rootfs"]["diff_ids"].append(Digest.of(plain))
    config.pop("history", None)
    content = json.dumps(config, sort_keys=True).encode()
    described: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _put(into, content, CONFIG),
        "layers": [_as_oci(layer) for layer in manifest["layers"]] + [_put(into, packed, LAYER)],
    }
    whole = json.dumps(described, sort_keys=True).encode()
    into.write_manifest(tag, whole, MANIFEST)
    return Image(into.name, tag, Digest.of(whole))


def _as_oci(layer: dict[str, Any]) -> dict[str, Any]:
    return {**layer, "mediaType": LAYER}


def _layer(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _put(into: Repository, content: bytes, media_type: str) -> dict[str, Any]:
    digest = Digest.of(content)
    if not into.has(digest):
        into.write(digest, len(content), iter([content]))
    return {"mediaType": media_type, "digest": digest, "size": len(content)}
