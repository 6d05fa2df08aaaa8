"""Where the target stands, recorded at the moment it changes: a run that is killed says it, too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ci.promotion.release.session import TargetSession
from ci.results import ChangeState, Check, Phase


@dataclass(frozen=True, slots=True)
class Standing:
    """``recorded`` is false for a change that is not of a target: one of a rehearsal."""

    session: TargetSession
    recorded: bool = True

    def __call__(self, state: ChangeState, **known: Any) -> None:
        """``known`` as :meth:`ci.run.events.Events.changed` takes it."""
        if self.recorded:
            target = self.session.target
            self.session.events.changed(target.name, state, release=target.release, **known)

    def checked(self, phase: Phase, checks: Iterable[Check]) -> None:
        if self.recorded:
            self.session.events.checked(phase, checks)
