"""Reading a target: what is there, what runs, whether it answers. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import yaml

from ci import redaction
from ci.digest import UNKNOWN
from ci.errors import CommandFailed, PipelineError, TargetNotFound, error_summary
from ci.model import Image, Target
from ci.promotion.release import history as history_
from ci.promotion.release.manifest import Key, Rendered, parse
from ci.promotion.release.rollout import (
    Expected,
    Judgement,
    Snapshot,
    digests_of,
    judge,
    unsettled,
)
from ci.promotion.release.session import TargetSession
from ci.results import Because
from ci.tools import kubeconfig
from ci.tools.api import Answer, Object, items_of, path_of
from ci.tools.helm import Helm, Revision, reason, revisions
from ci.tools.kube import Kube
from ci.tools.wait import Clock, Pending, wait_until

KINDS = ("deployments", "replicasets", "pods", "endpointslices")
LOOK_SECONDS = 10
"""How long the API may take for a look."""


def find(session: TargetSession) -> list[Revision]:
    """The release's revisions, oldest first. Raises :class:`TargetNotFound` naming exactly what
    does not exist: the kubeconfig, the context, the cluster, the namespace or the release."""
    target = session.target
    cluster = target.cluster
    names = kubeconfig.contexts(cluster.kubeconfig)
    if cluster.context not in names:
        raise TargetNotFound(
            f"{cluster.kubeconfig} has no context {cluster.context!r}",
            remedy=f"its contexts are: {', '.join(names) or 'none'}",
        )
    kube, helm = session.kube, session.helm
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="find") as pool:
        history_ = pool.submit(helm.ask_history, target.release, target.namespace)
        answer = kube.ask("GET", f"/api/v1/namespaces/{target.namespace}", timeout=15)
        history = history_.result()
    if not answer.ok:
        if answer.code == 404:
            raise TargetNotFound(
                f"the cluster of context {cluster.context!r} has no namespace {target.namespace!r}"
            )
        # Who may not look at namespaces may still promote; the release tells.
        if answer.code != 403:
            raise TargetNotFound(
                f"the cluster of context {cluster.context!r} does not answer:"
                f" {redaction.text(answer.problem)}",
                remedy="check the kubeconfig, its credentials and the way to the cluster",
            )
    if history.status != 0:
        if "not found" not in history.stderr:
            raise TargetNotFound(f"helm cannot read {target.release!r}: {reason(history)}")
        there = helm.run("list", "--all", "-q", namespace=target.namespace, check=False)
        raise TargetNotFound(
            f"namespace {target.namespace!r} has no release {target.release!r}",
            remedy=f"its releases are: {', '.join(there.stdout.split()) or 'none'}",
        )
    return revisions(history)


def snapshot(kube: Kube, namespace: str) -> Snapshot:
    """Raises :class:`CommandFailed` when the API does not answer; soon, also where the network
    swallows what is sent, so that whoever looks again and again sees other things, too."""
    return Snapshot.of(
        [item for kind in KINDS for item in kube.objects(kind, namespace, timeout=LOOK_SECONDS)]
    )


def look(kube: Kube, target: Target) -> Snapshot | None:
    """The live objects; ``None`` when the API did not answer this time (Helm waits on)."""
    try:
        return snapshot(kube, target.namespace)
    except CommandFailed:
        return None


@dataclass(frozen=True, slots=True)
class Present:
    """A release's objects as they are live."""

    objects: Mapping[Key, Mapping[str, Any]]
    unread: frozenset[Key]
    """Those that may not be read, and those of other namespaces."""
    why: str


def present(kube: Kube, target: Target, rendered: Rendered) -> Present:
    """Look up every object of the release's manifest; those that are gone are in neither set."""
    own = [key for key in rendered.objects if key[2] in ("", target.namespace)]

    def asked(key: Key) -> Answer:
        version, kind, _, name = key
        return kube.find(version, kind, name, target.namespace)

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="present") as pool:
        answers = dict(zip(own, pool.map(asked, own), strict=True))
    refused = {
        key: answer.problem
        for key, answer in answers.items()
        if answer.code != 404 and not answer.ok
    }
    return Present(
        {key: answer.object() for key, answer in answers.items() if answer.ok},
        frozenset(refused) | (frozenset(rendered.objects) - frozenset(own)),
        redaction.text(next(iter(refused.values()), "of another namespace")),
    )


def accounts(kube: Kube, target: Target) -> dict[str, str] | Because:
    """UID of every ServiceAccount in the namespace, by name; or why they cannot be read."""
    found = _listed(kube, target, "serviceaccounts")
    if isinstance(found, Because):
        return found
    return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found}


def autoscalers(kube: Kube, target: Target) -> list[Object] | Because:
    """The namespace's HorizontalPodAutoscalers; or why they cannot be read."""
    return _listed(kube, target, "horizontalpodautoscalers")


def _listed(kube: Kube, target: Target, resource: str) -> list[Object] | Because:
    answer = kube.ask("GET", path_of(resource, target.namespace))
    if not answer.ok:
        return Because.FORBIDDEN if answer.code in (401, 403) else Because.NO_ANSWER
    return items_of(answer)


def deployments_of(target: Target, objects: Mapping[Key, Mapping[str, Any]]) -> tuple[str, ...]:
    """The Deployments that run the image: as configured, else those of the manifest."""
    return target.deployments or tuple(key[3] for key in objects if key[1] == "Deployment")


def image_of(deployment: Mapping[str, Any], prefer: str = "") -> tuple[str, str]:
    """Repository and tag of a Deployment's service container: the one named like the
    Deployment, else the first."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    name = prefer or deployment["metadata"]["name"]
    chosen = next((c for c in containers if c["name"] == name), containers[0])
    reference = str(chosen["image"]).partition("@")[0]
    repository, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        return reference, "latest"
    return repository, tag


def value_at(values: Mapping[str, Any], dotted: str) -> Any:
    """A Helm value by its dotted name; ``None`` when there is none."""
    here: Any = values
    for part in dotted.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def released_image(target: Target, rendered: Rendered) -> tuple[str, str]:
    """Repository and tag of the gateway in a rendered release."""
    for key, item in rendered.objects.items():
        if key[1] == "Deployment" and key[3] == target.gateway:
            return image_of(item)
    raise TargetNotFound(
        f"release {target.release!r} has no Deployment {target.gateway!r}",
        remedy="name the gateway's Deployment in pipeline.toml (service.gateway)",
    )


def wait_complete(
    kube: Kube,
    target: Target,
    expected: Expected,
    *,
    timeout: float,
    clock: Clock,
    look: Callable[[Snapshot, Judgement], None] | None = None,
) -> tuple[Judgement, Snapshot]:
    """Wait until the rollout is complete by our own judgement. ``look`` may raise to give up.
    ``timeout`` in seconds. Raises :class:`ci.errors.WaitTimeout`."""
    return wait_judged(
        f"the rollout of {target.release} to {expected.tag}",
        kube,
        target.namespace,
        lambda now: judge(now, expected),
        timeout=timeout,
        clock=clock,
        look=look,
    )


def wait_settled(
    kube: Kube, target: Target, deployments: Sequence[str], *, timeout: float, clock: Clock
) -> Snapshot:
    """Wait until nothing of any earlier change is under way (old pods drained and gone), so that
    what is seen is what stays and may be compared with another look. ``timeout`` in seconds.
    Raises :class:`ci.errors.WaitTimeout`."""
    _, now = wait_judged(
        f"the pods of {target.release} to settle",
        kube,
        target.namespace,
        lambda now: Judgement(unsettled(now, deployments)),
        timeout=timeout,
        clock=clock,
    )
    return now


def wait_judged(
    what: str,
    kube: Kube,
    namespace: str,
    assess: Callable[[Snapshot], Judgement],
    *,
    timeout: float,
    clock: Clock,
    look: Callable[[Snapshot, Judgement], None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Judgement, Snapshot]:
    """Wait until ``assess`` finds nothing missing. ``look`` gets each judgement and may raise
    to give up, ``progress`` what is missing when it changes. ``timeout`` in seconds.

    An API that does not answer (its server restarts, the network is cut for a moment) is waited
    for like everything else. Raises :class:`ci.errors.WaitTimeout`.
    """

    def probe() -> tuple[Judgement, Snapshot] | Pending:
        try:
            now = snapshot(kube, namespace)
        except CommandFailed as problem:
            return Pending(f"the API does not answer: {error_summary(problem)}")
        judged = assess(now)
        if look is not None:
            look(now, judged)
        return (judged, now) if judged.complete else Pending(str(judged))

    return wait_until(what, probe, timeout=timeout, clock=clock, interval=0.3, progress=progress)


# -- answering ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """A revision as Helm stored it."""

    values: dict[str, Any]
    """Those that the release was given."""
    rendered: Rendered
    chart: dict[str, Any] | None
    """``None`` when only Helm can read the release: it does not give the chart away."""


def stored(kube: Kube, helm: Helm, target: Target, revision: int) -> Stored:
    """From the release's Secret, all at once; where it is kept elsewhere or may not be read, from
    Helm's own commands."""
    name = f"sh.helm.release.v1.{target.release}.v{revision}"
    try:
        secret = kube.read("secrets", name, target.namespace) or {}
        record = history_.record_of_release(secret["data"]["release"])
        # Helm leaves out what is empty.
        hooks = [hook["manifest"] for hook in record.get("hooks") or []]
        rendered = parse(record.get("manifest", ""), hooks)
        return Stored(record.get("config") or {}, rendered, record["chart"])
    except (PipelineError, KeyError, ValueError, OSError, yaml.YAMLError):
        values = helm.values(target.release, target.namespace, revision)
        manifest = helm.manifest(target.release, target.namespace, revision)
        texts = helm.hooks(target.release, target.namespace, revision)
        return Stored(values, parse(manifest, texts), None)


def running_image(target: Target, now: Snapshot) -> tuple[Image, frozenset[str]]:
    """The image the gateway asks for, and every digest the service's live pods run."""
    gateway = now.deployments.get(target.gateway)
    if gateway is None:
        raise TargetNotFound(
            f"namespace {target.namespace!r} has no Deployment {target.gateway!r}",
            remedy="name the gateway's Deployment in pipeline.toml (service.gateway)",
        )
    repository, tag = image_of(gateway)
    digests = [
        digest
        for name in (target.gateway, *target.deployments)
        for pod in now.live_pods_of(name)
        for digest in digests_of(pod, repository).values()
    ]
    return Image(repository, tag, digests[0] if digests else UNKNOWN), frozenset(digests)
