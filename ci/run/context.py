"""What every stage is given: settings, tools, programs, clock, events and the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ci.model import Cluster, Tools
from ci.run.events import Events
from ci.run.state import Home
from ci.run_folder import RunFolder
from ci.settings import Settings
from ci.tools.command import Programs
from ci.tools.helm import Helm
from ci.tools.kube import Kube
from ci.tools.wait import Clock


@dataclass(frozen=True, slots=True)
class Context:
    """One run. Frozen: nothing a stage does changes what the next one is given."""

    root: Path
    """The checkout."""
    settings: Settings
    tools: Tools
    programs: Programs
    clock: Clock
    events: Events
    run_dir: Path
    """``runs/<id>``: events, logs, JUnit, backups."""
    home: Home
    """What is kept between runs."""

    @property
    def folder(self) -> RunFolder:
        """Writes into :attr:`run_dir`, redacted; nothing else writes there."""
        return RunFolder(self.run_dir, self.programs.redactor)

    def kube(self, cluster: Cluster) -> Kube:
        return Kube(self.tools.kubectl, cluster, self.programs, self.clock)

    def helm(self, cluster: Cluster) -> Helm:
        return Helm(self.tools.helm, cluster, self.programs)

    def path(self, relative: Path) -> Path:
        """A path of the settings, relative to the checkout; ``~`` is the home folder."""
        return self.root / relative.expanduser()
