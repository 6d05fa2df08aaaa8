"""Helm, always with an explicit kubeconfig, context and namespace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci.errors import CommandFailed, PipelineError
from ci.model import Cluster
from ci.tools.command import Output, Programs


@dataclass(frozen=True, slots=True)
class Revision:
    """One line of ``helm history``."""

    number: int
    status: str
    chart: str
    description: str


class Helm:
    """Releases of one cluster through the helm program."""

    def __init__(self, helm: Path, cluster: Cluster, programs: Programs) -> None:
        self.cluster = cluster
        self._helm = helm
        self._programs = programs

    def run(
        self,
        *words: str,
        namespace: str,
        input: str | None = None,
        timeout: float = 120,
        check: bool = True,
        error: type[PipelineError] = CommandFailed,
        during_cleanup: bool = False,
    ) -> Output:
        """Any helm command. ``timeout`` in seconds, for the program (not helm's own)."""
        argv = [
            str(self._helm),
            "--kubeconfig",
            str(self.cluster.kubeconfig),
            "--kube-context",
            self.cluster.context,
            "--namespace",
            namespace,
            *words,
        ]
        return self._programs.run(
            argv,
            log=f"helm-{self.cluster.name}",
            input=input,
            timeout=timeout,
            check=check,
            error=error,
            during_cleanup=during_cleanup,
        )

    def history(self, release: str, namespace: str) -> list[Revision]:
        """Revisions, oldest first. Raises :class:`CommandFailed` when there is no release."""
        answer = self.run("history", release, "-o", "json", "--max", "256", namespace=namespace)
        return [
            Revision(int(r["revision"]), r["status"], r["chart"], r["description"])
            for r in json.loads(answer.stdout)
        ]

    def values(self, release: str, namespace: str, *, all: bool = False) -> dict[str, Any]:
        words = ["--all"] if all else []
        answer = self.run("get", "values", release, *words, "-o", "json", namespace=namespace)
        loaded: dict[str, Any] | None = json.loads(answer.stdout)
        return loaded or {}

    def manifest(self, release: str, namespace: str, revision: int | None = None) -> str:
        words = ["--revision", str(revision)] if revision else []
        return self.run("get", "manifest", release, *words, namespace=namespace).stdout

    def hooks(self, release: str, namespace: str, revision: int | None = None) -> str:
        words = ["--revision", str(revision)] if revision else []
        return self.run("get", "hooks", release, *words, namespace=namespace).stdout

    def install(
        self,
        release: str,
        chart: Path,
        namespace: str,
        values: dict[str, Any],
        *,
        timeout: int,
        wait: bool = True,
        extra: Sequence[str] = (),
        error: type[PipelineError] = CommandFailed,
    ) -> None:
        """``helm upgrade --install``; values travel on standard input. ``timeout`` in seconds."""
        self.run(
            "upgrade",
            "--install",
            release,
            str(chart),
            "--create-namespace",
            "--values",
            "-",
            "--timeout",
            f"{timeout}s",
            *(["--wait"] if wait else []),
            *extra,
            namespace=namespace,
            input=yaml.safe_dump(values),
            timeout=timeout + 30,
            error=error,
        )
