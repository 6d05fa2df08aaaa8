"""A target as it is at a moment: what ``status`` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ci.digest import Digest
from ci.tools.helm import Revision


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    name: str
    image: str
    desired: int
    updated: int
    available: int


@dataclass(frozen=True, slots=True)
class PodRow:
    name: str
    phase: str
    """The phase, or what keeps it from running."""
    ready: bool
    restarts: int
    image: str
    digest: Digest
    """:data:`ci.digest.UNKNOWN` until a container has started."""
    started: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """What a terminal table shows of a target."""

    target: str
    release: str
    namespace: str
    history: tuple[Revision, ...]
    deployments: tuple[DeploymentRow, ...]
    pods: tuple[PodRow, ...]
