"""Redirects a cloud's DNS names and identity to the stand-ins, in clusters that the pipeline
created, and restores them.

Three things are installed, each described in its module: DNS rules (:mod:`ci.standins.corefile`),
an admission policy (:mod:`ci.standins.admission`), and a record in the ConfigMap
``kube-system/stand-in-cloud``. The record is written first and deleted last. It has the original
Corefile, byte for byte, so that any process can restore it after a crash; and the CA bundles that
were found in images.

CoreDNS would reload its Corefile only after one to two minutes, so its pods are replaced. They are
deleted rather than restarted with a rollout, which would change their Deployment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ci.errors import DeployFailed
from ci.promotion.release.rollout import Watch, finished, is_live, troubles
from ci.standins import admission, corefile
from ci.standins.admission import NAME
from ci.tools.api import path_of
from ci.tools.kube import Kube
from ci.tools.wait import Clock, Pending, wait_until

SYSTEM = "kube-system"
DNS_PODS = "k8s-app=kube-dns"
READY_PORT = 8181
"""Port of CoreDNS's readiness endpoint, unless its Corefile sets another."""
ASKING_SECONDS = 180
"""Includes the time to pull the images, unless the node has them."""
EFFECT_SECONDS = 60
"""Until the policy or the DNS rules are in effect; both usually take a second or two."""

_RESOLVES = """
import socket, sys
for name, host in zip(sys.argv[1::2], sys.argv[2::2]):
    found = [{a[4][0] for a in socket.getaddrinfo(n, 443, socket.AF_INET)} for n in (name, host)]
    assert found[0] == found[1], f"{name} is {found[0]}, and {host} is {found[1]}"
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which names are redirected where, and for which pods."""

    routes: Mapping[str, str]
    """DNS names as in :mod:`ci.standins.corefile`, each with the host to redirect it to."""
    selector: str
    """The pods that get an identity and the CA."""
    images: tuple[str, ...]
    """Image references of these pods."""
    namespace: str
    """The stand-ins' namespace."""
    emulator: str
    """The emulator's image, by digest."""
    workload: str
    """A workload there that runs the emulator, for example ``deployment/servicebus``."""
    ca: str
    """PEM."""


@dataclass(frozen=True, slots=True)
class Note:
    """The record, kept in the cluster, of what was changed in it."""

    original: str
    """The original Corefile."""
    led: str = ""
    """The Corefile with redirected names."""
    loaded: str = ""
    """The Corefile with which CoreDNS's pods started."""
    selector: str = ""
    """Label selector of the pods that the policy changes."""
    bundles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By image, the paths of its bundles of CA certificates."""

    def manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": SYSTEM},
            "data": {
                "original": self.original,
                "led": self.led,
                "loaded": self.loaded,
                "selector": self.selector,
                "bundles": json.dumps(self.bundles),
            },
        }

    @classmethod
    def of(cls, data: Mapping[str, str]) -> Note:
        bundles = json.loads(data["bundles"])
        return cls(data["original"], data["led"], data["loaded"], data["selector"], bundles)


def redirect(kube: Kube, clock: Clock, wanted: Wanted, *, say: Callable[[str], None]) -> None:
    """Redirect what is ``wanted``, and wait until it is in effect. Earlier redirects are replaced.

    Raises :class:`DeployFailed`; :func:`restore_dns` then undoes what was done so far.
    """
    _check_served(kube)
    current = _corefile(kube)
    recorded = _note(kube)
    try:
        original = corefile.without(current)
        if recorded is not None and current == recorded.led:
            original = recorded.original
        led = corefile.redirect(original, wanted.routes)
    except corefile.Unreadable as problem:
        raise DeployFailed(f"CoreDNS's Corefile cannot be edited: {problem}") from problem
    note = replace(recorded or Note(original), original=original, led=led, selector=wanted.selector)
    kube.apply([note.manifest()])
    replaced_pods = _write_corefile(kube, led) if {current, note.loaded} != {led} else set()
    unasked = [image for image in wanted.images if image not in note.bundles]
    if unasked:
        found_bundles = _ask(kube, clock, wanted, unasked)
        for image, paths in found_bundles.items():
            say(f"{image}: {', '.join(paths) or 'no CA bundle'}")
        note = replace(note, bundles={**note.bundles, **found_bundles})
    manifests, version = admission.policy(
        wanted.selector, note.bundles, wanted.emulator, wanted.ca, wanted.namespace
    )
    kube.apply(manifests)
    _wait_for_policy(kube, clock, wanted.selector, version)
    _wait_for_dns(kube, clock, replaced_pods)
    _wait_for_names(kube, clock, wanted)
    kube.apply([replace(note, loaded=led).manifest()])


def restore_dns(kube: Kube, clock: Clock) -> bool:
    """Undo :func:`redirect`, also when it was interrupted; returns whether there was anything to
    undo.

    The policy is deleted first, so that new pods are not changed any more. Existing pods keep
    their changes until they are recreated.
    """
    note = _note(kube)
    if note is None:
        return False
    kube.run(
        "delete",
        f"mutatingadmissionpolicybinding.admissionregistration.k8s.io/{NAME}",
        f"mutatingadmissionpolicy.admissionregistration.k8s.io/{NAME}",
        "--ignore-not-found",
    )
    kube.run(
        "delete", "pods", "--all-namespaces", "--selector", f"{admission.LABEL}=asking",
        "--wait=false",
    )  # fmt: skip
    current = _corefile(kube)
    try:
        original = note.original if current == note.led else corefile.without(current)
    except corefile.Unreadable as problem:
        raise DeployFailed(
            f"CoreDNS's Corefile cannot be restored: {problem}",
            remedy="restore it by hand: copy `original` of `kubectl get configmap -n"
            f" {SYSTEM} {NAME} -o yaml` into the ConfigMap coredns",
        ) from problem
    # Even if it is unchanged: an earlier call may have ended before CoreDNS's pods were replaced.
    _wait_for_dns(kube, clock, _write_corefile(kube, original))
    _wait_for_policy(kube, clock, note.selector, "")
    kube.run("delete", "configmap", NAME, "--namespace", SYSTEM, "--ignore-not-found")
    return True


# -- the cluster's state ---------------------------------------------------------------------------


def _check_served(kube: Kube) -> None:
    """Check, before anything is changed, that the API server supports the policy's API."""
    result = kube.run("get", "--raw", "/apis/admissionregistration.k8s.io/v1", check=False)
    if "mutatingadmissionpolicies" not in result.stdout:
        raise DeployFailed(
            f"cluster {kube.cluster.name} does not support MutatingAdmissionPolicy",
            remedy="use a node image of Kubernetes 1.36 or newer",
        )


def _note(kube: Kube) -> Note | None:
    output = kube.run(
        "get", "configmap", NAME, "--namespace", SYSTEM, "--ignore-not-found", "-o", "json"
    ).stdout
    return Note.of(json.loads(output)["data"]) if output.strip() else None


def _corefile(kube: Kube) -> str:
    text = kube.get("configmap", "coredns", namespace=SYSTEM)["data"]["Corefile"]
    return str(text)


def _write_corefile(kube: Kube, text: str) -> set[str]:
    """Write the Corefile and replace CoreDNS's pods; returns the UIDs of the deleted pods."""
    patch = json.dumps({"data": {"Corefile": text}})
    kube.run("patch", "configmap", "coredns", "--namespace", SYSTEM, "--patch", patch)
    pods = kube.pods(SYSTEM, DNS_PODS)
    kube.run(
        "delete", "pods", "--namespace", SYSTEM, "--selector", DNS_PODS,
        "--wait=false", "--grace-period=1",
    )  # fmt: skip
    return {pod["metadata"]["uid"] for pod in pods}


def _ask(kube: Kube, clock: Clock, wanted: Wanted, images: Sequence[str]) -> dict[str, list[str]]:
    """The paths of each image's CA bundles, found by a pod that mounts the images."""
    name = f"{NAME}-asking"
    scope = ("--namespace", wanted.namespace)
    pod = admission.asking(name, wanted.namespace, images, wanted.emulator)
    kube.run("delete", "pod", name, *scope, "--ignore-not-found")
    kube.run("create", "-f", "-", input=json.dumps(pod))
    watch = Watch()

    def ended() -> str | Pending:
        now = kube.get("pod", name, namespace=wanted.namespace)
        trouble = watch.see(clock.monotonic(), troubles([now]))
        if trouble is not None:
            raise DeployFailed(f"cannot look for CA bundles in {', '.join(images)}: {trouble}")
        if finished(now):
            return str(now["status"]["phase"])
        return Pending(json.dumps(now["status"].get("containerStatuses") or now["status"]))

    phase = wait_until(
        "the CA bundles of the images",
        ended,
        timeout=ASKING_SECONDS,
        clock=clock,
        interval=0.3,
    )
    output = kube.run("logs", name, *scope).stdout
    if phase == "Failed":
        raise DeployFailed(f"cannot look for CA bundles in the images: {output.strip()}")
    kube.run("delete", "pod", name, *scope, "--wait=false")
    paths: list[list[str]] = json.loads(output)
    return dict(zip(images, paths, strict=True))


# -- waiting for the effect ------------------------------------------------------------------------


def _wait_for_policy(kube: Kube, clock: Clock, selector: str, version: str) -> None:
    """Wait until a matching pod would be changed by this version of the policy; by none, if
    empty."""
    pod = json.dumps(admission.example(selector))

    def effective() -> bool | Pending:
        result = kube.run(
            "create", "--dry-run=server", "-o", "json", "-f", "-", input=pod, check=False
        )
        if result.status == 0 and admission.version_of(json.loads(result.stdout)) == version:
            return True
        return Pending((result.stderr.strip() or result.stdout)[-600:])

    wait_until("the admission policy", effective, timeout=EFFECT_SECONDS, clock=clock, interval=0.2)


def _wait_for_dns(kube: Kube, clock: Clock, gone: set[str]) -> None:
    """Wait until CoreDNS has all its replicas ready, none of them among ``gone``."""

    def ready() -> bool | Pending:
        wanted = kube.get("deployment", "coredns", namespace=SYSTEM)["spec"].get("replicas", 1)
        pods = [pod for pod in kube.pods(SYSTEM, DNS_PODS) if not finished(pod)]
        # A pod created between the listing and the deletion was deleted, too.
        fresh = [p for p in pods if is_live(p) and p["metadata"]["uid"] not in gone]
        up = sum(dns_answers(kube, pod) for pod in fresh)
        if up >= wanted and len(fresh) == len(pods):
            return True
        return Pending(f"{up}/{wanted} ready, {len(pods) - len(fresh)} old")

    wait_until(
        "CoreDNS with its Corefile", ready, timeout=EFFECT_SECONDS, clock=clock, interval=0.3
    )


def dns_answers(kube: Kube, pod: Mapping[str, Any]) -> bool:
    """Whether a CoreDNS pod is ready, by its own endpoint: the kubelet probes it only every 10
    s."""
    name = f"{pod['metadata']['name']}:{READY_PORT}"
    path = path_of("pods", SYSTEM, name, "proxy", "ready")
    return bool(pod["status"].get("podIP")) and kube.ask("GET", path, timeout=5).ok


def _wait_for_names(kube: Kube, clock: Clock, wanted: Wanted) -> None:
    """Wait until a pod resolves each name to the address of the host that it is redirected to."""
    pairs = [
        word for name, host in wanted.routes.items() for word in (name.replace("*", NAME, 1), host)
    ]

    def answered() -> bool | Pending:
        result = kube.run(
            "exec", wanted.workload, "--namespace", wanted.namespace,
            "--", "python3", "-c", _RESOLVES, *pairs, check=False,
        )  # fmt: skip
        return result.status == 0 or Pending(result.stderr.strip()[-300:])

    wait_until(
        "the redirected DNS names",
        answered,
        timeout=EFFECT_SECONDS,
        clock=clock,
        interval=0.3,
    )
