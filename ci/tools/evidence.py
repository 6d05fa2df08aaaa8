"""What a cluster looked like when something went wrong, kept before it is torn down.

Best effort on purpose: a missing piece is noted inside the folder, never an error of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ci.errors import PipelineError
from ci.tools.kube import Kube

LOG_LINES = 2000


def collect(kube: Kube, namespaces: Sequence[str], folder: Path) -> Path:
    """Pods, events, workloads and logs of ``namespaces`` as files under ``folder``."""
    kube = kube.for_cleanup()
    folder.mkdir(parents=True, exist_ok=True)
    for namespace in namespaces:
        _keep(kube, folder / f"{namespace}-pods.txt", "get", "pods", "-o", "wide", "-n", namespace)
        _keep(
            kube,
            folder / f"{namespace}-events.txt",
            "get", "events", "--sort-by=.lastTimestamp", "-n", namespace,
        )  # fmt: skip
        _keep(
            kube,
            folder / f"{namespace}-workloads.yaml",
            "get", "deployments,replicasets,services,pods", "-o", "yaml", "-n", namespace,
        )  # fmt: skip
        for pod in _names(kube, namespace):
            for suffix, words in (("", ()), ("-previous", ("--previous",))):
                _keep(
                    kube,
                    folder / f"{namespace}-{pod}{suffix}.log",
                    "logs", pod, "-n", namespace, "--all-containers", "--timestamps",
                    f"--tail={LOG_LINES}", *words,
                    optional=bool(suffix),
                )  # fmt: skip
    return folder


def tail(kube: Kube, namespace: str, pod: str, lines: int = 8) -> str:
    """The last log lines of a pod, of its previous container when it just restarted."""
    kube = kube.for_cleanup()
    for words in (("--previous",), ()):
        said = kube.run(
            "logs", pod, "-n", namespace, "--all-containers", f"--tail={lines}", *words, check=False
        )
        if said.status == 0 and said.stdout.strip():
            return said.stdout.strip()
    return "no log lines"


def _names(kube: Kube, namespace: str) -> list[str]:
    try:
        return [pod["metadata"]["name"] for pod in kube.pods(namespace)]
    except PipelineError:
        return []


def _keep(kube: Kube, file: Path, *words: str, optional: bool = False) -> None:
    try:
        said = kube.run(*words, check=False, timeout=20)
    except PipelineError as problem:
        file.write_text(f"not to be had: {problem}\n", encoding="utf-8")
        return
    if said.status == 0:
        file.write_text(said.stdout, encoding="utf-8")
    elif not optional:
        file.write_text(f"not to be had: {said.stderr}\n", encoding="utf-8")
