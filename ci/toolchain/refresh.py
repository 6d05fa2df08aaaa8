"""Refresh the checksums and digests of ``pins.toml`` after a version was changed there.

``python -m ci.toolchain.refresh`` asks each project for the checksum it publishes and each
registry for the digest of its tag, and rewrites those lines alone. It needs a network that
reaches them; what cannot be reached is named and keeps its line. The versions of Go modules
stand in ``sources/*/go.mod``, those of Python packages in ``requirements.lock``
(``pip-compile --generate-hashes``, see CONTRIBUTING.md).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import httpx

from ci.toolchain import pins
from ci.toolchain.pins import HERE, Pins

MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)


def published_checksum(current: Pins, tool: str, client: httpx.Client) -> str:
    """The sha256 a project publishes for its file; :class:`ValueError` when it lists none."""
    answer = client.get(current.checksums_url(tool))
    answer.raise_for_status()
    name = current.url(tool).rsplit("/", 1)[1]
    for line in answer.text.splitlines():
        words = line.split()
        if not words or not re.fullmatch(r"[0-9a-f]{64}", words[0]):
            continue
        if len(words) == 1 or words[-1].lstrip("*").endswith(name):
            return words[0]
    raise ValueError(f"{answer.url} has no checksum of {name}")


def tag_digest(current: Pins, name: str, client: httpx.Client) -> str:
    """The digest a registry has for a pinned tag, with an anonymous token where it asks for one."""
    reference = current.image_tag(name)
    host, _, rest = reference.partition("/")
    repository, tag = rest.rsplit(":", 1)
    host = "registry-1.docker.io" if host == "docker.io" else host
    url = f"https://{host}/v2/{repository}/manifests/{tag}"
    headers = {"Accept": MANIFESTS}
    answer = client.head(url, headers=headers)
    if answer.status_code == 401:
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["www-authenticate"]))
        realm = challenge.pop("realm")
        token = client.get(realm, params=challenge).raise_for_status().json()["token"]
        answer = client.head(url, headers={**headers, "Authorization": f"Bearer {token}"})
    answer.raise_for_status()
    digest: str = answer.headers["docker-content-digest"]
    return digest


def rewrite(text: str, block: str, key: str, value: str) -> str:
    """``text`` with ``key`` of ``[block]`` set to ``value``; everything else as it was."""
    pattern = rf'(^\[{re.escape(block)}\]$(?:\n(?!\[).*)*?\n{key} = ")[^"]*(")'
    changed, count = re.subn(pattern, rf"\g<1>{value}\g<2>", text, count=1, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"[{block}] has no {key}")
    return changed


def refresh(path: Path, client: httpx.Client) -> list[str]:
    """Rewrite ``path``; returns what could not be had, a line each."""
    current = pins.load(path)
    text = path.read_text(encoding="utf-8")
    missed: list[str] = []
    for tool in current.download:
        try:
            sha256 = published_checksum(current, tool, client)
            text = rewrite(text, f"download.{tool}", "sha256", sha256)
        except (httpx.HTTPError, ValueError) as problem:
            missed.append(f"{tool}: {problem}")
    for name in current.image:
        try:
            digest = tag_digest(current, name, client)
            text = rewrite(text, f"image.{name}", "digest", digest)
        except (httpx.HTTPError, ValueError, KeyError) as problem:
            missed.append(f"image {name}: {problem}")
    path.write_text(text, encoding="utf-8")
    return missed


if __name__ == "__main__":
    with httpx.Client(follow_redirects=True, timeout=30) as network:
        lines = refresh(HERE / "pins.toml", network)
    for line in lines:
        sys.stderr.write(f"not refreshed: {line}\n")
    sys.exit(1 if lines else 0)
