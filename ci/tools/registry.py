"""OCI registries through the distribution API: what a tag resolves to, and copies by digest."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from ci.errors import RegistryRefused
from ci.model import Image, Login, Registry
from ci.tools.command import Programs

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CHUNK = 1 << 20


def password(login: Login, programs: Programs) -> str:
    """The password of a login, hidden from every log from here on. It travels in headers only."""
    if login.password_env:
        found = programs.env.get(login.password_env, "")
        if not found:
            raise RegistryRefused(
                f"the environment variable {login.password_env} holds no registry password",
                remedy=f"set {login.password_env}, or name a password_command",
            )
    elif login.password_command:
        # Without a log: the output is the password.
        silent = Programs(env=programs.env, cancel=programs.cancel)
        answer = silent.run(login.password_command, timeout=60, check=False)
        found = answer.stdout.strip()
        if answer.status != 0 or not found:
            last = (answer.stderr.strip().splitlines() or ["no password printed"])[-1]
            raise RegistryRefused(
                f"{login.password_command[0]} ended with {answer.status}: {last}",
                remedy="run the registry login's password_command by hand",
            )
    else:
        raise RegistryRefused("the registry login names neither password_command nor password_env")
    programs.hide(found)
    return found


class Repository:
    """One repository of a registry. Use :func:`open_repository`."""

    def __init__(self, client: httpx.Client, name: str, path: str, credentials: str) -> None:
        self.name = name
        """Registry and path, as image references use it."""
        self._client = client
        self._path = path
        self._credentials = credentials
        self._authorization = f"Basic {credentials}" if credentials else ""

    def digest(self, reference: str) -> str | None:
        """The digest a tag (or digest) resolves to; ``None`` when there is none."""
        answer = self._request("HEAD", f"manifests/{reference}", accept=True)
        if answer.status_code == 404:
            return None
        self._refuse(answer, f"{self.name}:{reference}")
        stated = answer.headers.get("docker-content-digest")
        return stated or _digest(self.manifest(reference)[0])

    def manifest(self, reference: str) -> tuple[bytes, str]:
        """A manifest's bytes and its media type."""
        answer = self._request("GET", f"manifests/{reference}", accept=True)
        self._refuse(answer, f"{self.name}:{reference}")
        return answer.content, answer.headers.get("content-type", MANIFESTS[1]).split(";")[0]

    def equivalents(self, digest: str) -> frozenset[str]:
        """``digest`` and, when it is an index, its platforms' manifests: what nodes may report."""
        content = json.loads(self.manifest(digest)[0])
        return frozenset({digest, *(m["digest"] for m in content.get("manifests", []))})

    def has(self, digest: str) -> bool:
        return self._request("HEAD", f"blobs/{digest}").status_code == 200

    def read(self, digest: str) -> Iterator[bytes]:
        """A blob's bytes, checked against its digest at the end."""
        seen = hashlib.sha256()
        url = f"/v2/{self._path}/blobs/{digest}"
        with self._client.stream(
            "GET", url, headers=self._headers(False), follow_redirects=True
        ) as answer:
            self._refuse(answer, f"{self.name}@{digest}")
            for chunk in answer.iter_bytes(CHUNK):
                seen.update(chunk)
                yield chunk
        if f"sha256:{seen.hexdigest()}" != digest:
            raise RegistryRefused(f"{self.name} gave other bytes than {digest}")

    def write(self, digest: str, size: int, content: Iterator[bytes]) -> None:
        """Store a blob."""
        begun = self._request("POST", "blobs/uploads/")
        self._refuse(begun, f"a push to {self.name}")
        place = urljoin(str(begun.request.url), begun.headers["location"])
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
                raise RegistryRefused(
                    f"the registry of {self.name} does not answer:"
                    f" {str(problem) or type(problem).__name__}"
                ) from problem
            if answer.status_code != 401 or attempt == 2:
                break
            if not self._log_in(answer.headers.get("www-authenticate", "")):
                break
        return answer

    def _log_in(self, challenge: str) -> bool:
        """Answer a ``Bearer`` challenge with a token; ``False`` when there is none to be had."""
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
    def _refuse(answer: httpx.Response, what: str) -> None:
        if answer.status_code in (401, 403):
            raise RegistryRefused(
                f"the registry refused {what}: HTTP {answer.status_code}",
                remedy="check registry_login of the target in pipeline.toml",
            )
        if answer.status_code >= 400:
            raise RegistryRefused(f"the registry answered HTTP {answer.status_code} for {what}")


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
    ours = local is not None and host == local.name
    if not path or not (ours or "." in host or ":" in host or host == "localhost"):
        raise RegistryRefused(f"{name!r} names no registry (HOST[:PORT]/NAME is wanted)")
    if ours and local is not None:
        base = local.host_url
    else:
        plain = re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", host)
        base = f"{'http' if plain else 'https'}://{host}"
    credentials = ""
    if login is not None and not ours:
        secret = password(login, programs)
        credentials = base64.b64encode(f"{login.username}:{secret}".encode()).decode()
        programs.hide(credentials)
    # The local registry is never behind a proxy; every other may be.
    with httpx.Client(base_url=base, timeout=30, trust_env=not ours) as client:
        yield Repository(client, name, path, credentials)


def copy(source: Repository, into: Repository, image: Image) -> None:
    """Copy an image by digest, bit for bit, and give it its tag there."""
    content = _copy_manifest(source, into, image.digest)
    into.write_manifest(image.tag, *content)


def _copy_manifest(source: Repository, into: Repository, digest: str) -> tuple[bytes, str]:
    content, media_type = source.manifest(digest)
    if _digest(content) != digest:
        raise RegistryRefused(f"{source.name} gave another manifest than {digest}")
    described = json.loads(content)
    for child in described.get("manifests", []):
        into.write_manifest(child["digest"], *_copy_manifest(source, into, child["digest"]))
    for blob in [*filter(None, [described.get("config")]), *described.get("layers", [])]:
        if not into.has(blob["digest"]):
            into.write(blob["digest"], int(blob["size"]), source.read(blob["digest"]))
    return content, media_type


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
