"""The pinned versions and checksums, read from ``pins.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict

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
        entry = self.image[name]
        return f"{entry.reference.format(**self.versions)}@{entry.digest}"


def load(path: Path = HERE / "pins.toml") -> Pins:
    return Pins.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
