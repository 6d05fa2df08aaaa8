"""Leads a cloud's names and its identity in a cluster of our own to the stand-ins, and back.

Three things are put in, each described where it is made: names (:mod:`ci.standins.corefile`), an
admission policy (:mod:`ci.standins.admission`), and a note of our own in the ConfigMap
``kube-system/stand-in-cloud``. The note comes first and goes last. It holds the Corefile as it
was, so that whoever takes the rest away, in whichever process, after whatever crash, has it to the
byte; and which images were asked for their bundles of CA certificates.

CoreDNS would see its new Corefile by itself, after one to two minutes: its pods are replaced
instead. They are deleted, not rolled out anew, which would leave a trace in their Deployment.
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
"""Where CoreDNS says whether it is ready to answer, unless its Corefile says otherwise."""
ASKING_SECONDS = 180
"""The node pulls the images meanwhile, unless it has them."""
EFFECT_SECONDS = 60
"""Until the API server knows a policy, or CoreDNS its names; both take a second or two."""

_RESOLVES = """
import socket, sys
for name, host in zip(sys.argv[1::2], sys.argv[2::2]):
    found = [{a[4][0] for a in socket.getaddrinfo(n, 443, socket.AF_INET)} for n in (name, host)]
    assert found[0] == found[1], f"{name} is {found[0]}, and {host} is {found[1]}"
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is led where, and for whom."""

    routes: Mapping[str, str]
    """Names as :mod:`ci.standins.corefile` has them, each with the host that answers."""
    selector: str
    """The pods that get an identity and the CA."""
    images: tuple[str, ...]
    """What these pods run, as they name it."""
    namespace: str
    """Where the stand-ins are."""
    emulator: str
    """The image that they are made of, by digest."""
    workload: str
    """A workload there that runs it, for example ``deployment/servicebus``."""
    ca: str
    """PEM."""


@dataclass(frozen=True, slots=True)
class Note:
    """What stands in the cluster about what was done to it."""

    original: str
    """The Corefile as it was."""
    led: str = ""
    """As it was written."""
    loaded: str = ""
    """The one that CoreDNS's pods began with."""
    selector: str = ""
    """Of the pods that the policy changes."""
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
    """Redirect what is ``wanted``, until it has its effect. What an earlier call redirected is
    replaced.

    Raises :class:`DeployFailed`. What was done until then :func:`restore_dns` takes away.
    """
    _check_served(kube)
    current = _corefile(kube)
    known = _note(kube)
    try:
        original = corefile.without(current)
        if known is not None and current == known.led:
            original = known.original
        led = corefile.redirect(original, wanted.routes)
    except corefile.Unreadable as problem:
        raise DeployFailed(f"CoreDNS's Corefile cannot be edited: {problem}") from problem
    note = replace(known or Note(original), original=original, led=led, selector=wanted.selector)
    kube.apply([note.manifest()])
    gone = _write_corefile(kube, led) if {current, note.loaded} != {led} else set()
    unasked = [image for image in wanted.images if image not in note.bundles]
    if unasked:
        found = _ask(kube, clock, wanted, unasked)
        for image, paths in found.items():
            say(f"{image}: {', '.join(paths) or 'no bundle of CA certificates'}")
        note = replace(note, bundles={**note.bundles, **found})
    manifests, version = admission.policy(
        wanted.selector, note.bundles, wanted.emulator, wanted.ca, wanted.namespace
    )
    kube.apply(manifests)
    _wait_for_policy(kube, clock, wanted.selector, version)
    _wait_for_dns(kube, clock, gone)
    _wait_for_names(kube, clock, wanted)
    kube.apply([replace(note, loaded=led).manifest()])


def restore_dns(kube: Kube, clock: Clock) -> bool:
    """Take everything away that :func:`redirect` put in, whole or half; whether there was anything.

    The policy goes first: from then on pods are made as they are asked for. Pods that were made
    before keep what they were given until they are made anew.
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
            f"CoreDNS's Corefile cannot be given back: {problem}",
            remedy=f"the original stands in ConfigMap {NAME} in {SYSTEM}: write it back by hand",
        ) from problem
    # Also where it reads as before: CoreDNS may not have been told yet when an earlier call ended.
    _wait_for_dns(kube, clock, _write_corefile(kube, original))
    _wait_for_policy(kube, clock, note.selector, "")
    kube.run("delete", "configmap", NAME, "--namespace", SYSTEM, "--ignore-not-found")
    return True


# -- what stands in the cluster --------------------------------------------------------------------


def _check_served(kube: Kube) -> None:
    """Before anything is touched."""
    said = kube.run("get", "--raw", "/apis/admissionregistration.k8s.io/v1", check=False)
    if "mutatingadmissionpolicies" not in said.stdout:
        raise DeployFailed(
            f"{kube.cluster.name} knows no MutatingAdmissionPolicy",
            remedy="use a node image of Kubernetes 1.36 or newer",
        )


def _note(kube: Kube) -> Note | None:
    said = kube.run(
        "get", "configmap", NAME, "--namespace", SYSTEM, "--ignore-not-found", "-o", "json"
    ).stdout
    return Note.of(json.loads(said)["data"]) if said.strip() else None


def _corefile(kube: Kube) -> str:
    text = kube.get("configmap", "coredns", namespace=SYSTEM)["data"]["Corefile"]
    return str(text)


def _write_corefile(kube: Kube, text: str) -> set[str]:
    """Write it and have CoreDNS read it; the UIDs of the pods that go."""
    patch = json.dumps({"data": {"Corefile": text}})
    kube.run("patch", "configmap", "coredns", "--namespace", SYSTEM, "--patch", patch)
    pods = kube.pods(SYSTEM, DNS_PODS)
    kube.run(
        "delete", "pods", "--namespace", SYSTEM, "--selector", DNS_PODS,
        "--wait=false", "--grace-period=1",
    )  # fmt: skip
    return {pod["metadata"]["uid"] for pod in pods}


def _ask(kube: Kube, clock: Clock, wanted: Wanted, images: Sequence[str]) -> dict[str, list[str]]:
    """The paths of each image's bundles of CA certificates."""
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
            raise DeployFailed(
                f"{', '.join(images)} cannot be asked for their CA certificates: {trouble}"
            )
        if finished(now):
            return str(now["status"]["phase"])
        return Pending(json.dumps(now["status"].get("containerStatuses") or now["status"]))

    phase = wait_until(
        "the images' bundles of CA certificates",
        ended,
        timeout=ASKING_SECONDS,
        clock=clock,
        interval=0.3,
    )
    said = kube.run("logs", name, *scope).stdout
    if phase == "Failed":
        raise DeployFailed(f"images cannot be asked for their CA certificates: {said.strip()}")
    kube.run("delete", "pod", name, *scope, "--wait=false")
    found: list[list[str]] = json.loads(said)
    return dict(zip(images, found, strict=True))


# -- its effect ------------------------------------------------------------------------------------


def _wait_for_policy(kube: Kube, clock: Clock, selector: str, version: str) -> None:
    """Until a chosen pod would be changed by this version of the policy, or by none."""
    pod = json.dumps(admission.example(selector))

    def effective() -> bool | Pending:
        said = kube.run(
            "create", "--dry-run=server", "-o", "json", "-f", "-", input=pod, check=False
        )
        if said.status == 0 and admission.version_of(json.loads(said.stdout)) == version:
            return True
        return Pending((said.stderr.strip() or said.stdout)[-600:])

    wait_until("the admission policy", effective, timeout=EFFECT_SECONDS, clock=clock, interval=0.2)


def _wait_for_dns(kube: Kube, clock: Clock, gone: set[str]) -> None:
    """Until CoreDNS runs in as many pods as it should, none of them ``gone``."""

    def ready() -> bool | Pending:
        wanted = kube.get("deployment", "coredns", namespace=SYSTEM)["spec"].get("replicas", 1)
        pods = [pod for pod in kube.pods(SYSTEM, DNS_PODS) if not finished(pod)]
        # One that was made between the list of those that go and their deletion goes, too.
        fresh = [p for p in pods if is_live(p) and p["metadata"]["uid"] not in gone]
        up = sum(dns_answers(kube, pod) for pod in fresh)
        if up >= wanted and len(fresh) == len(pods):
            return True
        return Pending(f"{up}/{wanted} ready, {len(pods) - len(fresh)} old")

    wait_until(
        "CoreDNS with its Corefile", ready, timeout=EFFECT_SECONDS, clock=clock, interval=0.3
    )


def dns_answers(kube: Kube, pod: Mapping[str, Any]) -> bool:
    """What a CoreDNS pod's readiness probe asks, which the kubelet does every 10 s only."""
    name = f"{pod['metadata']['name']}:{READY_PORT}"
    path = path_of("pods", SYSTEM, name, "proxy", "ready")
    return bool(pod["status"].get("podIP")) and kube.ask("GET", path, timeout=5).ok


def _wait_for_names(kube: Kube, clock: Clock, wanted: Wanted) -> None:
    """Until a pod finds each name at the address of the host that it is led to."""
    pairs = [
        word for name, host in wanted.routes.items() for word in (name.replace("*", NAME, 1), host)
    ]

    def answered() -> bool | Pending:
        said = kube.run(
            "exec", wanted.workload, "--namespace", wanted.namespace,
            "--", "python3", "-c", _RESOLVES, *pairs, check=False,
        )  # fmt: skip
        return said.status == 0 or Pending(said.stderr.strip()[-300:])

    wait_until(
        "the names of the stand-in cloud",
        answered,
        timeout=EFFECT_SECONDS,
        clock=clock,
        interval=0.3,
    )
