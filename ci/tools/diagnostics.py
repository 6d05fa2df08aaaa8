"""The state of a namespace after a failure, collected before a rollback or a teardown destroys it.
The only collector, for the gate, the rehearsal and a target.

Best effort on purpose: the file of a part that cannot be read says why, no part takes longer than
20 s, and a failure here never hides the failure that is diagnosed. Everything is written through
the run's folder and thus redacted: objects by their structure, texts by names and shapes. The
Secrets that the pods use are read first, where that is allowed, so that their values are also
removed from logs; they are not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import yaml

from ci.errors import CommandFailed, PipelineError
from ci.redaction import Redactor
from ci.run_folder import RunFolder
from ci.tools.helm import Helm
from ci.tools.kube import Kube

LOG_LINES = 2000
"""Newest lines of each container's log."""
PART_SECONDS = 20
LIST_SECONDS = 15.0
KINDS = ("deployments", "replicasets", "services", "endpointslices", "pods", "events")

Object = Mapping[str, Any]
Part = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was collected, for whoever looks for the cause: objects as the API has them, secrets
    included. Empty where they could not be read."""

    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()
    logs: Mapping[tuple[str, str, bool], str] = field(default_factory=dict)
    """Of containers, by pod, container, and whether it is of the one before a restart."""


def collect(
    kube: Kube,
    namespace: str,
    folder: RunFolder,
    *,
    helm: Helm | None = None,
    release: str = "",
    of: Callable[[Object], bool] = lambda pod: True,
    more: Mapping[str, Part] | None = None,
) -> Collected:
    """Write the diagnostics of ``namespace`` into ``folder``.

    ``of`` selects the pods whose logs are collected; with ``helm``, the history and the supplied
    values of ``release`` are added. ``more`` are further parts by the names of their files.
    """
    kube = kube.for_cleanup()
    listed = _listed(kube, namespace)
    every = {kind: [] if isinstance(found, PipelineError) else found
             for kind, found in listed.items()}  # fmt: skip
    pods = [pod for pod in every["pods"] if of(pod)]
    logs: dict[tuple[str, str, bool], str] = {}
    learn(kube, namespace, folder.redactor, pods)
    scope = ("--namespace", namespace, "--request-timeout=15s")

    def kubectl(*words: str) -> Part:
        def take() -> str:
            answer = kube.run(*words, *scope, check=False, timeout=PART_SECONDS)
            return answer.stdout or answer.stderr

        return take

    parts: dict[str, Part] = {
        "pods.txt": kubectl("get", "pods", "-o", "wide"),
        "pods-described.txt": kubectl("describe", "pods"),
        "deployments.txt": kubectl("describe", "deployments"),
        "replicasets.txt": kubectl("get", "replicasets", "-o", "wide"),
        "events.txt": kubectl("get", "events", "--sort-by=.lastTimestamp"),
    }
    for kind in KINDS:
        parts[f"{kind}.yaml"] = _objects(folder.redactor, listed[kind])
    if helm is not None:
        parts |= _of_release(helm.for_cleanup(), release, namespace, folder.redactor)
    parts |= more or {}
    for pod in pods:
        parts |= _logs(kube, namespace, pod, logs)

    def write(name: str, take: Part) -> None:
        try:
            content = take()
        except (PipelineError, OSError, ValueError) as problem:
            content = f"could not be collected: {problem}\n"
        folder.text(name, content)

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="diagnostics") as pool:
        for job in [pool.submit(write, name, take) for name, take in parts.items()]:
            job.result()
    return Collected(every["pods"], every["events"], logs)


def learn(kube: Kube, namespace: str, redactor: Redactor, pods: Iterable[Object]) -> None:
    """Register the values of the Secrets that the pods use with ``redactor``, as far as they may be
    read; in a log, such a value may look like any other word."""
    for name in sorted({name for pod in pods for name in secrets_of(pod)}):
        try:
            secret = kube.read("secrets", name, namespace)
        except PipelineError:
            continue  # no right to read it: redaction relies on names and shapes
        if secret is not None:
            redactor.tree({"kind": "Secret", **secret})


def secrets_of(pod: Object) -> Iterator[str]:
    """Names of the Secrets whose values a pod's containers can print."""
    spec = pod.get("spec") or {}
    for group in ("initContainers", "containers"):
        for container in spec.get(group) or []:
            for entry in container.get("env") or []:
                yield from _named((entry.get("valueFrom") or {}).get("secretKeyRef"), "name")
            for source in container.get("envFrom") or []:
                yield from _named(source.get("secretRef"), "name")
    for volume in spec.get("volumes") or []:
        yield from _named(volume.get("secret"), "secretName")
        for source in (volume.get("projected") or {}).get("sources") or []:
            yield from _named(source.get("secret"), "name")


def tail(kube: Kube, namespace: str, pod: str, lines: int = 8) -> str:
    """The last log lines of a pod, or of its previous container if it just restarted; redacted."""
    kube = kube.for_cleanup()
    for words in (("--previous",), ()):
        answer = kube.run(
            "logs", pod, "-n", namespace, "--all-containers", f"--tail={lines}", *words, check=False
        )
        if answer.status == 0 and answer.stdout.strip():
            return kube.redact(answer.stdout.strip())
    return "no log lines"


def _named(reference: Mapping[str, Any] | None, key: str) -> Iterator[str]:
    if reference and reference.get(key):
        yield str(reference[key])


def _listed(kube: Kube, namespace: str) -> dict[str, Sequence[Object] | PipelineError]:
    """The objects of each kind, or why there are none."""

    def take(kind: str) -> Sequence[Object] | PipelineError:
        try:
            return kube.objects(kind, namespace, timeout=LIST_SECONDS)
        except PipelineError as problem:
            return problem

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="diagnostics") as pool:
        return dict(zip(KINDS, pool.map(take, KINDS), strict=True))


def _objects(redactor: Redactor, listed: Sequence[Object] | PipelineError) -> Part:
    def take() -> str:
        if isinstance(listed, PipelineError):
            raise listed
        clean = redactor.tree(list(listed))
        return yaml.safe_dump_all(clean, sort_keys=False, width=10_000) if clean else "none\n"

    return take


def _of_release(helm: Helm, release: str, namespace: str, redactor: Redactor) -> dict[str, Part]:
    def values() -> str:
        found = redactor.tree(helm.values(release, namespace))
        return yaml.safe_dump(found, sort_keys=False, width=10_000)

    def history() -> str:
        answer = helm.run(
            "history", release, namespace=namespace, check=False, timeout=PART_SECONDS
        )
        return answer.stdout or answer.stderr

    return {"helm-history.txt": history, "helm-values.yaml": values}


def _logs(
    kube: Kube, namespace: str, pod: Object, read: dict[tuple[str, str, bool], str]
) -> dict[str, Part]:
    """Of each container, and of the one before it where it was restarted. What was ``read`` is
    kept, too."""
    name = pod["metadata"]["name"]
    states = (pod.get("status") or {}).get("containerStatuses") or []
    restarted = {state["name"] for state in states if state.get("restartCount")}

    def log(container: str, *, previous: bool) -> Part:
        def take() -> str:
            answer = kube.logs(
                name, namespace, timeout=PART_SECONDS, container=container, tailLines=LOG_LINES,
                **({"previous": "true"} if previous else {}),
            )  # fmt: skip
            if not answer.ok:
                raise CommandFailed(answer.problem)
            read[name, container, previous] = answer.text
            return answer.text

        return take

    parts: dict[str, Part] = {}
    for container in pod["spec"].get("containers") or []:
        title = f"logs/{name}.{container['name']}"
        parts[f"{title}.log"] = log(container["name"], previous=False)
        if container["name"] in restarted:
            parts[f"{title}.previous.log"] = log(container["name"], previous=True)
    return parts
