"""Sessions of a target without a cluster: what is not given must not be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ci.model import Cluster, Target
from ci.promotion.release.session import Reach, TargetSession
from ci.run.context import Context
from ci.run.events import Events
from ci.run_folder import RunFolder
from ci.tools.command import Programs
from ci.tools.helm import Helm
from ci.tools.kube import Kube
from ci.tools.wait import Clock, SystemClock

CLUSTER = Cluster("c", Path("kubeconfig"), "c", True)


def session_of(
    target: Target,
    *,
    clock: Clock | None = None,
    folder: Path | None = None,
    kube: Any = None,
    helm: Any = None,
    reach: Reach | None = None,
    env: Mapping[str, str] | None = None,
) -> TargetSession:
    """``env`` are environment variables; ``kube`` and ``helm`` take the place of the clients."""
    clock = clock if clock is not None else SystemClock()
    programs = Programs(env=dict(env or {}))
    made = SimpleNamespace(
        clock=clock,
        events=Events(clock),
        programs=programs,
        kube=lambda cluster: kube or Kube(Path("kubectl"), cluster, programs, clock),
    )
    if folder is not None:
        made.run_dir, made.folder = folder, RunFolder(folder, programs.redactor)
    context = cast(Context, made)
    return TargetSession(
        context,
        target,
        kube if kube is not None else Kube(Path("kubectl"), target.cluster, programs, clock),
        helm if helm is not None else Helm(Path("helm"), target.cluster, programs),
        clock,
        reach,
    )
