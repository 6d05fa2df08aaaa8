"""The pinned versions and checksums, read from ``pins.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ci.digest import Digest

HERE = Path(__file__).parent
SOURCES = HERE / "sources"


class Download(BaseModel):
    """A tool that its project publishes as one file; ``member`` is its path in an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str
    sha256: str
    checksums: str = ""
    member: str = ""
    version_of: str = ""


class PinnedImage(BaseModel):
    """An image of a public registry, pulled by digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reference: str
    digest: str


class Pins(BaseModel):
    """All of ``pins.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    versions: dict[str, str]
    download: dict[str, Download]
    image: dict[str, PinnedImage]

    def url(self, tool: str) -> str:
        """The download address of ``tool`` at its pinned version."""
        return self._filled(tool, self.download[tool].url)

    def checksums_url(self, tool: str) -> str:
        """Where the project publishes the checksum of :meth:`url`."""
        return self._filled(tool, self.download[tool].checksums)

    def _filled(self, tool: str, template: str) -> str:
        return template.format(version=self.versions[self.download[tool].version_of or tool])

    def image_reference(self, name: str) -> str:
        """``repository:tag@digest``, what a daemon pulls."""
        return f"{self.image_tag(name)}@{self.image[name].digest}"

    def image_version(self, name: str) -> str:
        """The version that the pinned image is of: its tag, without a leading ``v``."""
        return self.image_tag(name).rpartition(":")[2].removeprefix("v")

    def image_digest(self, name: str) -> Digest | None:
        """``None`` where none is pinned: the image is then assembled, never pulled."""
        digest = self.image[name].digest
        return Digest(digest) if digest else None

    def checksum(self, tool: str) -> Digest | None:
        """``None`` where none is pinned: the tool is then built, never downloaded."""
        sha256 = self.download[tool].sha256
        return Digest.from_hex(sha256) if sha256 else None

    def image_tag(self, name: str) -> str:
        """``repository:tag``, what a registry is asked for."""
        return self.image[name].reference.format(**self.versions)


def load(path: Path = HERE / "pins.toml") -> Pins:
    return Pins.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
