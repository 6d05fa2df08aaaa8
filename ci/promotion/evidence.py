"""What a failed promotion leaves behind, taken before the rollback destroys it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from ci.errors import PipelineError
from ci.model import Target
from ci.promotion import redaction
from ci.promotion.rollout import Snapshot
from ci.tools.helm import Helm
from ci.tools.kube import Kube

TAIL = "500"


def collect(
    kube: Kube,
    helm: Helm,
    target: Target,
    now: Snapshot | None,
    folder: Path,
    more: Mapping[str, Callable[[], str]],
) -> int:
    """Write everything worth knowing into ``folder``, redacted; the number of files.

    ``kube`` and ``helm`` run during cleanup; ``more`` are parts by the name of their file. A part
    that cannot be had says why in its file: evidence never stops a rollback, and no part takes
    longer than 20 s.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scope = ("--namespace", target.namespace, "--request-timeout=15s")

    def kubectl(*words: str) -> Callable[[], str]:
        def take() -> str:
            answer = kube.run(*words, *scope, check=False, timeout=20)
            return answer.stdout or answer.stderr

        return take

    def values() -> str:
        found = helm.values(target.release, target.namespace)
        return yaml.safe_dump(redaction.tree(found), sort_keys=False)

    def history() -> str:
        answer = helm.run(
            "history", target.release, namespace=target.namespace, check=False, timeout=20
        )
        return answer.stdout or answer.stderr

    parts: dict[str, Callable[[], str]] = {
        "pods.txt": kubectl("get", "pods", "-o", "wide"),
        "pods-described.txt": kubectl("describe", "pods"),
        "deployments.txt": kubectl("describe", "deployments"),
        "replicasets.txt": kubectl("get", "replicasets", "-o", "wide"),
        "endpointslices.yaml": kubectl("get", "endpointslices", "-o", "yaml"),
        "events.txt": kubectl("get", "events", "--sort-by=.lastTimestamp"),
        "helm-history.txt": history,
        "helm-values.yaml": values,
        **more,
    }
    for name in target.deployments or (now.deployments if now else ()):
        for pod in now.pods_of(name) if now else ():
            pod_name = pod["metadata"]["name"]
            status = pod.get("status") or {}
            for container in pod["spec"].get("containers") or []:
                words = ("logs", pod_name, "--container", container["name"], f"--tail={TAIL}")
                title = f"logs/{pod_name}.{container['name']}"
                parts[f"{title}.log"] = kubectl(*words)
                if any(
                    s["name"] == container["name"] and s.get("restartCount")
                    for s in status.get("containerStatuses") or []
                ):
                    parts[f"{title}.previous.log"] = kubectl(*words, "--previous")

    def write(name: str, take: Callable[[], str]) -> None:
        try:
            content = take()
        except (PipelineError, OSError, ValueError) as problem:
            content = f"could not be taken: {problem}\n"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redaction.text(content), encoding="utf-8")

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="evidence") as pool:
        for job in [pool.submit(write, name, take) for name, take in parts.items()]:
            job.result()
    return len(parts)


def pack(folder: Path) -> Path:
    """All of it as one archive beside the folder, to be handed on; for this user only."""
    archive = folder.with_name(f"{folder.name}.tar.gz")
    archive.touch(mode=0o600)
    with tarfile.open(archive, "w:gz") as sink:
        sink.add(folder, arcname=folder.name)
    return archive
