"""The release before a change: all that the plan, the backups and a rollback need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ci.model import Image, Target
from ci.openapi_compat import Described
from ci.promotion.release import manifest
from ci.promotion.release.rollout import Expected, Snapshot
from ci.results import Because, Check
from ci.tools.helm import Revision


@dataclass(frozen=True, slots=True)
class Before:
    """The target as it was found: all that the plan, the backups and a rollback need."""

    revision: Revision
    image: Image
    digests: frozenset[str]
    deployments: tuple[str, ...]
    rendered: manifest.Rendered
    snapshot: Snapshot
    values: dict[str, Any]
    accounts: dict[str, str] | Because
    """UID of every ServiceAccount, by name; or why they cannot be read."""
    openapi: Described
    """How the service describes its API, or why there is no description."""
    checks: tuple[Check, ...]

    @property
    def pods(self) -> list[Mapping[str, Any]]:
        """Of every Deployment of the service."""
        return [pod for name in self.deployments for pod in self.snapshot.live_pods_of(name)]

    def expected(self, target: Target) -> Expected:
        return Expected(
            self.deployments, target.gateway, self.image.repository, self.image.tag, self.digests
        )
