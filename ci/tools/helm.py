"""Helm, always with an explicit kubeconfig, context and namespace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import yaml

from ci.errors import ChartInvalid, CommandFailed, PipelineError
from ci.model import Cluster
from ci.model import Revision as Revision
from ci.tools.command import Output, Programs, RunOptions

READING = frozenset({"get", "history", "list", "show", "status", "template"})
"""Commands that change nothing."""


class Helm:
    """Releases of one cluster through the helm program."""

    def __init__(
        self, helm: Path, cluster: Cluster, programs: Programs, *, during_cleanup: bool = False
    ) -> None:
        self.cluster = cluster
        self._helm = helm
        self._programs = programs
        self._reading = programs.unlogged()
        self._during_cleanup = during_cleanup

    def for_cleanup(self) -> Helm:
        """The same cluster, with programs that also run after the run was cancelled."""
        return Helm(self._helm, self.cluster, self._programs, during_cleanup=True)

    def argv(self, *arguments: str, namespace: str) -> list[str]:
        """The complete command line: program, kubeconfig, context, namespace, ``words``."""
        return [
            str(self._helm),
            "--kubeconfig",
            str(self.cluster.kubeconfig),
            "--kube-context",
            self.cluster.context,
            "--namespace",
            namespace,
            *arguments,
        ]

    def run(self, *arguments: str, namespace: str, **options: Unpack[RunOptions]) -> Output:
        """Any helm command. ``timeout`` is for the program, not helm's own; by default 120 s. What
        a command prints that only reads is kept in no log: values and manifests hold secrets that
        no pattern recognises."""
        run_options: RunOptions = {"log": f"helm-{self.cluster.name}", "timeout": 120, **options}
        if self._during_cleanup:
            run_options["during_cleanup"] = True
        reads = arguments[0] in READING or any(a.startswith("--dry-run") for a in arguments)
        programs = self._reading if reads else self._programs
        return programs.run(self.argv(*arguments, namespace=namespace), **run_options)

    def history(self, release: str, namespace: str) -> list[Revision]:
        """Revisions, oldest first. Raises :class:`CommandFailed` when there is no release."""
        return revisions(self.ask_history(release, namespace, check=True))

    def ask_history(self, release: str, namespace: str, *, check: bool = False) -> Output:
        """What ``helm history`` answers; :func:`revisions` reads it."""
        return self.run(
            "history", release, "-o", "json", "--max", "256", namespace=namespace, check=check
        )

    def values(
        self, release: str, namespace: str, revision: int | None = None, *, all: bool = False
    ) -> dict[str, Any]:
        flags = ["--all"] if all else []
        flags += ["--revision", str(revision)] if revision else []
        answer = self.run("get", "values", release, *flags, "-o", "json", namespace=namespace)
        loaded: dict[str, Any] | None = json.loads(answer.stdout)
        return loaded or {}

    def manifest(self, release: str, namespace: str, revision: int | None = None) -> str:
        flags = ["--revision", str(revision)] if revision else []
        return self.run("get", "manifest", release, *flags, namespace=namespace).stdout

    def hooks(self, release: str, namespace: str, revision: int | None = None) -> str:
        flags = ["--revision", str(revision)] if revision else []
        return self.run("get", "hooks", release, *flags, namespace=namespace).stdout

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

    def upgrade_words(
        self,
        release: str,
        chart: Path,
        sets: Mapping[str, str],
        *,
        description: str = "",
        new_defaults: bool = False,
    ) -> list[str]:
        """``upgrade RELEASE CHART --reuse-values --set …``: all values except ``sets`` are kept.
        With ``new_defaults`` (for another chart) only the supplied values are kept, and defaults
        are the new chart's.

        A value of only digits is set as a string: Helm would store it as a number and return it
        in scientific notation at the next upgrade.
        """
        reuse = "--reset-then-reuse-values" if new_defaults else "--reuse-values"
        arguments = ["upgrade", release, str(chart), reuse]
        for key, value in sets.items():
            numeric = value.isdigit() or value in ("true", "false", "null")
            arguments += ["--set-string" if numeric else "--set", f"{key}={value}"]
        if description:
            arguments += ["--description", description]
        return arguments

    def render_upgrade(
        self,
        release: str,
        chart: Path,
        namespace: str,
        sets: Mapping[str, str],
        *,
        new_defaults: bool = False,
        validate: bool = True,
    ) -> dict[str, Any]:
        """The release that :meth:`upgrade_words` would make, rendered by the server. To
        ``validate`` it against the server's OpenAPI takes about a second of a core.

        Raises :class:`ci.errors.ChartInvalid` with Helm's own reason.
        """
        arguments = self.upgrade_words(release, chart, sets, new_defaults=new_defaults)
        if not validate:
            arguments.append("--disable-openapi-validation")
        answer = self.run(
            *arguments, "--dry-run=server", "-o", "json", namespace=namespace, check=False
        )
        if answer.status != 0:
            raise ChartInvalid(f"the chart {chart.name} does not render: {reason(answer)}")
        rendered: dict[str, Any] = json.loads(answer.stdout)
        return rendered

    def rollback(self, release: str, revision: int, namespace: str, *, timeout: int) -> None:
        """``helm rollback --wait`` to an explicit revision. ``timeout`` in seconds."""
        self.run(
            "rollback",
            release,
            str(revision),
            "--wait",
            "--timeout",
            f"{timeout}s",
            namespace=namespace,
            timeout=timeout + 30,
        )


def revisions(answer: Output) -> list[Revision]:
    """The revisions that ``helm history -o json`` printed, oldest first."""
    return [
        Revision(int(r["revision"]), r["status"], r["chart"], r["description"])
        for r in json.loads(answer.stdout)
    ]


def reason(answer: Output) -> str:
    """Helm's error in one line: the text after its last ``Error:``."""
    lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("Error: ") for line in lines if line.startswith("Error:")]
    return (errors or lines or [f"helm ended with {answer.status}"])[-1]
