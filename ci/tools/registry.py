"""OCI registries through the distribution API: resolving tags, copying by digest, and what is
attached to an image (referrers)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from ci.digest import Digest
from ci.errors import CommandFailed, RegistryRefused
from ci.model import Image, Registry
from ci.settings import Login
from ci.tools.command import Programs

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CHUNK = 1 << 20

INDEX, MANIFEST = MANIFESTS[0], MANIFESTS[1]
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
ATTACHED_LIMIT = 8 << 20
"""Evidence is never larger; anybody with push rights may attach anything."""
REFERRERS_UNKNOWN = (400, 404, 405, 406)
"""How registries without the referrers API answer it (docker-registry 2.8: 404)."""
ATTACH_ATTEMPTS = 5


def password(login: Login, programs: Programs) -> str:
    """The password of a login, registered for redaction. It is sent only in headers."""
    if login.password_env:
        secret = programs.env.get(login.password_env, "")
        if not secret:
            raise RegistryRefused(
                f"environment variable {login.password_env} (registry password) is not set",
                remedy=f"set {login.password_env}, or name a password_command",
            )
    elif login.password_command:
        # Not logged, because the output is the password.
        silent = Programs(env=programs.env, cancel=programs.cancel, redactor=programs.redactor)
        try:
            answer = silent.run(login.password_command, timeout=60, check=False)
        except CommandFailed as problem:
            raise RegistryRefused(
                f"no registry password: {problem}",
                remedy="correct the registry login's password_command in pipeline.toml",
            ) from problem
        secret = answer.stdout.strip()
        if answer.status != 0 or not secret:
            last = (answer.stderr.strip().splitlines() or ["no password printed"])[-1]
            raise RegistryRefused(
                f"{login.password_command[0]} ended with {answer.status}: {last}",
                remedy="run the registry login's password_command by hand to see why it fails",
            )
    else:
        raise RegistryRefused("the registry login has neither password_command nor password_env")
    programs.hide(secret)
    return secret


class Repository:
    """One repository of a registry. Use :func:`open_repository`."""

    def __init__(self, client: httpx.Client, name: str, path: str, credentials: str) -> None:
        self.name = name
        """Registry and path, as image references use it."""
        self._client = client
        self._path = path
        self._credentials = credentials
        self._authorization = f"Basic {credentials}" if credentials else ""

    def digest(self, reference: str) -> Digest | None:
        """The digest a tag (or digest) resolves to; ``None`` when there is none. Raises
        :class:`ci.errors.RegistryRefused` for one that is not SHA-256."""
        answer = self._request("HEAD", f"manifests/{reference}", accept=True)
        if answer.status_code == 404:
            return None
        self._refuse(answer, f"{self.name}:{reference}")
        stated = answer.headers.get("docker-content-digest")
        if not stated:
            return Digest.of(self.manifest(reference)[0])
        try:
            return Digest(stated)
        except ValueError:
            raise RegistryRefused(
                f"{self.name}:{reference}: {stated!r} is not a SHA-256 digest"
            ) from None

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """A manifest's bytes and its media type."""
        answer = self._request("GET", f"manifests/{reference}", accept=True)
        self._refuse(answer, f"{self.name}:{reference}")
        return answer.content, answer.headers.get("content-type", MANIFESTS[1]).split(";")[0]

    def equivalents(self, digest: Digest) -> frozenset[Digest]:
        """``digest`` and, when it is an index, its platforms' manifests: what nodes may report."""
        content = json.loads(self.manifest(digest)[0])
        listed = (Digest.read(str(entry["digest"])) for entry in content.get("manifests", []))
        return frozenset({digest, *filter(None, listed)})

    def has(self, digest: str) -> bool:
        return self._request("HEAD", f"blobs/{digest}").status_code == 200

    def read(self, digest: str) -> Iterator[bytes]:
        """A blob's bytes, checked against its digest at the end."""
        checksum = hashlib.sha256()
        url = f"/v2/{self._path}/blobs/{digest}"
        try:
            with self._client.stream(
                "GET", url, headers=self._headers(False), follow_redirects=True
            ) as answer:
                self._refuse(answer, f"{self.name}@{digest}")
                for chunk in answer.iter_bytes(CHUNK):
                    checksum.update(chunk)
                    yield chunk
        except httpx.HTTPError as problem:
            raise self._silent(problem) from problem
        if Digest.from_hex(checksum.hexdigest()) != digest:
            raise RegistryRefused(
                f"{self.name} returned content that does not match digest {digest}"
            )

    def write(self, digest: str, size: int, content: Iterator[bytes]) -> None:
        """Store a blob."""
        started = self._request("POST", "blobs/uploads/")
        self._refuse(started, f"a push to {self.name}")
        place = urljoin(str(started.request.url), started.headers["location"])
        url = httpx.URL(place).copy_merge_params({"digest": digest})
        answer = self._client.put(
            url,
            content=content,
            headers={
                **self._headers(False),
                "content-length": str(size),
                "content-type": "application/octet-stream",
            },
            timeout=600,
        )
        self._refuse(answer, f"a push to {self.name}")

    def write_manifest(self, reference: str, content: bytes, media_type: str) -> None:
        answer = self._request(
            "PUT", f"manifests/{reference}", content=content, content_type=media_type
        )
        self._refuse(answer, f"a push to {self.name}:{reference}")

    # Referrers: what is attached to an image ----------------------------------------------------

    def attach(
        self,
        digest: str,
        content: bytes,
        *,
        artifact_type: str,
        media_type: str,
        annotations: Mapping[str, str],
    ) -> str:
        """Attach ``content`` to the image ``digest``; the digest of the manifest that holds it.

        A registry with the referrers API says so in its response (``OCI-Subject``) and lists them
        itself; for any other the list is kept under the image's referrers tag, as the OCI
        distribution specification says.
        """
        subject, subject_type = self.manifest(digest)
        if Digest.of(subject) != digest:
            raise RegistryRefused(
                f"{self.name} returned a manifest that does not match digest {digest}"
            )
        for blob in (EMPTY, content):
            if not self.has(Digest.of(blob)):
                self.write(Digest.of(blob), len(blob), iter([blob]))
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": artifact_type,
                "config": _descriptor(EMPTY, EMPTY_TYPE),
                "layers": [_descriptor(content, media_type)],
                "subject": _descriptor(subject, subject_type),
                "annotations": dict(annotations),
            }
        ).encode()
        manifest_digest = Digest.of(manifest)
        answer = self._request(
            "PUT", f"manifests/{manifest_digest}", content=manifest, content_type=MANIFEST
        )
        self._refuse(answer, f"a push to {self.name}@{manifest_digest}")
        if answer.headers.get("oci-subject") != digest:
            described = {
                **_descriptor(manifest, MANIFEST),
                "artifactType": artifact_type,
                "annotations": dict(annotations),
            }
            self._list_under_tag(digest, described)
        return manifest_digest

    def attached(self, digest: str, *, artifact_type: str, media_type: str) -> list[bytes]:
        """What is attached to ``digest`` with these types, checked against its own digests.

        Nothing else is checked: whoever may push may attach. Damaged or too large entries are
        skipped, so that they cannot hide valid ones; the first problem is raised only when no
        entry is valid.
        """
        contents, problems = [], []
        for entry in self.referrers(digest):
            if entry.get("artifactType") != artifact_type:
                continue
            try:
                manifest, _ = self.manifest(str(entry.get("digest")))
                if Digest.of(manifest) != entry.get("digest"):
                    raise RegistryRefused(
                        f"{self.name} returned an attached manifest that does not match its digest"
                    )
                contents += [self._small(layer) for layer in _layers(manifest, media_type)]
            except RegistryRefused as problem:
                problems.append(problem)
        if problems and not contents:
            raise problems[0]
        return contents

    def referrers(self, digest: str) -> list[dict[str, Any]]:
        """Descriptors of every manifest whose subject is ``digest``."""
        descriptors: list[dict[str, Any]] = []
        path = f"referrers/{digest}"
        while path:
            answer = self._request("GET", path, accept=True)
            if answer.status_code in REFERRERS_UNKNOWN:
                return self._tagged(digest)[0]
            self._refuse(answer, f"the referrers of {self.name}@{digest}")
            descriptors += _descriptors(answer.content)
            following = answer.links.get("next", {}).get("url", "")
            path = _relative(following, answer.request.url, f"/v2/{self._path}/")
        return descriptors

    def _tagged(self, digest: str) -> tuple[list[dict[str, Any]], bool]:
        """(descriptors under the referrers tag, whether the tag exists)."""
        tag = referrers_tag(digest)
        answer = self._request("GET", f"manifests/{tag}", accept=True)
        if answer.status_code == 404:
            return [], False
        self._refuse(answer, f"{self.name}:{tag}")
        kind = answer.headers.get("content-type", "").split(";")[0]
        if kind != INDEX:
            raise RegistryRefused(
                f"{self.name}:{tag} should be an OCI index of referrers, but is"
                f" {kind or 'of an unknown media type'}",
                remedy=f"find out who pushed the tag {tag}, and delete it",
            )
        return _descriptors(answer.content), True

    def _list_under_tag(self, digest: str, described: dict[str, Any]) -> None:
        """Add a descriptor to the list under the referrers tag. Such registries have no
        compare-and-swap, so the list is read again after writing, and added to again if another
        client has overwritten it."""
        tag = referrers_tag(digest)
        for _ in range(ATTACH_ATTEMPTS):
            listed, _found = self._tagged(digest)
            if any(entry.get("digest") == described["digest"] for entry in listed):
                return
            index = {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [*listed, described],
            }
            self.write_manifest(tag, json.dumps(index).encode(), INDEX)
        if all(entry.get("digest") != described["digest"] for entry in self._tagged(digest)[0]):
            raise RegistryRefused(
                f"{self.name}:{tag} was overwritten by another client {ATTACH_ATTEMPTS} times",
                remedy="run again when no other run attaches evidence to this image",
            )

    def _small(self, digest: str) -> bytes:
        """Read a blob into memory; its size is limited."""
        content = bytearray()
        for chunk in self.read(digest):
            content += chunk
            if len(content) > ATTACHED_LIMIT:
                raise RegistryRefused(
                    f"{self.name}@{digest} is too large: over {ATTACHED_LIMIT >> 20} MiB"
                )
        return bytes(content)

    def _headers(self, accept: bool) -> dict[str, str]:
        headers = {"authorization": self._authorization} if self._authorization else {}
        return {**headers, "accept": ", ".join(MANIFESTS)} if accept else headers

    def _request(
        self,
        method: str,
        path: str,
        *,
        accept: bool = False,
        content: bytes | None = None,
        content_type: str = "",
    ) -> httpx.Response:
        for attempt in (1, 2):
            headers = self._headers(accept)
            if content_type:
                headers["content-type"] = content_type
            try:
                answer = self._client.request(
                    method, f"/v2/{self._path}/{path}", headers=headers, content=content
                )
            except httpx.HTTPError as problem:
                raise self._silent(problem) from problem
            if answer.status_code != 401 or attempt == 2:
                break
            if not self._log_in(answer.headers.get("www-authenticate", "")):
                break
        return answer

    def _silent(self, problem: httpx.HTTPError) -> RegistryRefused:
        return RegistryRefused(
            f"the registry of {self.name} does not answer: {str(problem) or type(problem).__name__}"
        )

    def _log_in(self, challenge: str) -> bool:
        """Answer a ``Bearer`` challenge with a token; ``False`` when the challenge is of another
        kind."""
        if not challenge.lower().startswith("bearer "):
            return False
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        realm = fields.pop("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            return False
        fields["scope"] = f"repository:{self._path}:pull,push"
        headers = {"authorization": f"Basic {self._credentials}"} if self._credentials else {}
        answer = self._client.get(realm, params=fields, headers=headers)
        self._refuse(answer, f"the login to {self.name}")
        body: dict[str, Any] = answer.json()
        self._authorization = f"Bearer {body.get('token') or body.get('access_token')}"
        return True

    @staticmethod
    def _refuse(answer: httpx.Response, operation: str) -> None:
        if answer.status_code in (401, 403):
            raise RegistryRefused(
                f"the registry refused {operation}: HTTP {answer.status_code}",
                remedy="check registry_login of the target in pipeline.toml",
            )
        if answer.status_code >= 400:
            raise RegistryRefused(
                f"the registry answered HTTP {answer.status_code} for {operation}"
            )


@contextmanager
def open_repository(
    name: str,
    *,
    local: Registry | None = None,
    login: Login | None = None,
    programs: Programs,
) -> Iterator[Repository]:
    """A repository named as image references name it, for example ``HOST:PORT/model-engine``.

    ``local`` is the registry that this host reaches under another address than the nodes do.
    """
    host, _, path = name.partition("/")
    is_local = local is not None and host == local.name
    if not path or not (is_local or "." in host or ":" in host or host == "localhost"):
        raise RegistryRefused(f"{name!r} has no registry host; write it as HOST[:PORT]/NAME")
    if is_local and local is not None:
        base = local.host_url
    else:
        plain = re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host)
        base = f"{'http' if plain else 'https'}://{host}"
    credentials = ""
    if login is not None and not is_local:
        secret = password(login, programs)
        credentials = base64.b64encode(f"{login.username}:{secret}".encode()).decode()
        programs.hide(credentials)
    # The local registry is never behind a proxy; others may be.
    with httpx.Client(base_url=base, timeout=30, trust_env=not is_local) as client:
        yield Repository(client, name, path, credentials)


def copy(source: Repository, into: Repository, image: Image) -> None:
    """Copy an image by digest, unchanged, and tag it there."""
    content = _copy_manifest(source, into, image.digest)
    into.write_manifest(image.tag, *content)


def _copy_manifest(source: Repository, into: Repository, digest: str) -> tuple[bytes, str]:
    content, media_type = source.manifest(digest)
    if Digest.of(content) != digest:
        raise RegistryRefused(
            f"{source.name} returned a manifest that does not match digest {digest}"
        )
    described = json.loads(content)
    for child in described.get("manifests", []):
        into.write_manifest(child["digest"], *_copy_manifest(source, into, child["digest"]))
    for blob in [*filter(None, [described.get("config")]), *described.get("layers", [])]:
        if not into.has(blob["digest"]):
            into.write(blob["digest"], int(blob["size"]), source.read(blob["digest"]))
    return content, media_type


def copy_attached(source: Repository, into: Repository, digest: str, *, artifact_type: str) -> int:
    """Attach in ``into`` what ``source`` has attached to ``digest``; how many were copied."""
    present = {entry.get("digest") for entry in into.referrers(digest)}
    copied = 0
    for entry in source.referrers(digest):
        if entry.get("artifactType") != artifact_type or entry.get("digest") in present:
            continue
        content, media_type = _copy_manifest(source, into, str(entry["digest"]))
        answer = into._request(
            "PUT", f"manifests/{entry['digest']}", content=content, content_type=media_type
        )
        into._refuse(answer, f"a push to {into.name}@{entry['digest']}")
        if answer.headers.get("oci-subject") != digest:
            into._list_under_tag(digest, entry)
        copied += 1
    return copied


def referrers_tag(digest: str) -> str:
    """The tag under which referrers of ``digest`` are listed where the registry has no referrers
    API (OCI distribution specification, referrers tag schema)."""
    algorithm, _, value = digest.partition(":")
    return re.sub(r"[^a-zA-Z0-9._-]", "-", f"{algorithm[:32]}-{value[:64]}")


def _descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": Digest.of(content), "size": len(content)}


def _descriptors(index: bytes) -> list[dict[str, Any]]:
    try:
        listed = json.loads(index).get("manifests") or []
        return [entry for entry in listed if isinstance(entry, dict)]
    except (ValueError, AttributeError, TypeError):
        raise RegistryRefused("the registry returned an invalid list of referrers") from None


def _layers(manifest: bytes, media_type: str) -> list[str]:
    try:
        layers = json.loads(manifest)["layers"]
        return [str(entry["digest"]) for entry in layers if entry["mediaType"] == media_type]
    except (ValueError, LookupError, TypeError):
        raise RegistryRefused("an attached manifest is not valid") from None


def _relative(link: str, current: httpx.URL, below: str) -> str:
    """The path of the next page, relative to the repository. A link to another host or repository
    is refused, because it would receive the login."""
    if not link:
        return ""
    url = current.join(link)
    if (url.scheme, url.netloc) != (current.scheme, current.netloc) or not url.path.startswith(
        below
    ):
        raise RegistryRefused(
            f"the registry's list of referrers continues on another host: {url.host}"
        )
    query = f"?{url.query.decode()}" if url.query else ""
    return url.path.removeprefix(below) + query
