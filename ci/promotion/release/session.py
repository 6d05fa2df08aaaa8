"""A target and everything that is needed to work on it: what every part of a promotion is given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ci.model import ServiceBusEndpoints, StandIns, Target, Tools
from ci.run.context import Context
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.settings import Settings
from ci.tools.command import Programs
from ci.tools.helm import Helm
from ci.tools.kube import Kube
from ci.tools.wait import Clock, uncancelled


class Reach(Protocol):
    """Opens a way from this machine to the Service Bus of stand-ins."""

    def __call__(
        self, kube: Kube, standins: StandIns, /
    ) -> AbstractContextManager[ServiceBusEndpoints]:
        """``kube`` is of the stand-ins' cluster. Raises :class:`ci.errors.PipelineError`."""


@dataclass(frozen=True, slots=True)
class TargetSession:
    """One target in one run: its clients, the clock, and the run it is part of.

    ``kube`` and ``helm`` name the target's own kubeconfig and context, and keep nothing of what
    they read in a log. What they do ends when the run is cancelled; :meth:`for_cleanup` is the same
    target for what has to be done all the same.
    """

    context: Context
    target: Target
    kube: Kube
    helm: Helm
    clock: Clock
    reach: Reach | None = None
    """Of a target with stand-ins."""

    @classmethod
    def open(cls, context: Context, of: Target, *, reach: Reach | None = None) -> TargetSession:
        """A session of one target, with clients of its own. ``reach`` is for one with
        stand-ins."""
        kube, helm = context.kube(of.cluster), context.helm(of.cluster)
        return cls(context, of, kube, helm, context.clock, reach)

    def for_cleanup(self) -> TargetSession:
        """The same target after a cancellation: a rollback and a cleanup come to their end."""
        return replace(
            self,
            kube=self.kube.for_cleanup(),
            helm=self.helm.for_cleanup(),
            clock=uncancelled(self.clock),
        )

    def within(self, context: Context) -> TargetSession:
        """The same target in another run's folder, with its events."""
        return replace(self, context=context)

    @property
    def events(self) -> Events:
        return self.context.events

    @property
    def programs(self) -> Programs:
        return self.context.programs

    @property
    def env(self) -> Mapping[str, str]:
        return self.context.programs.env

    @property
    def tools(self) -> Tools:
        return self.context.tools

    @property
    def settings(self) -> Settings:
        return self.context.settings

    @property
    def folder(self) -> RunFolder:
        return self.context.folder

    @property
    def run_dir(self) -> Path:
        return self.context.run_dir

    def path(self, relative: Path) -> Path:
        return self.context.path(relative)
