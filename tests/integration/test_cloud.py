"""Unmodified images that connect to Azure's names reach the stand-ins in a real cluster, and the
cluster is as it was when the names are given back."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import standins
from ci.model import Image, StandIns, Tools
from ci.run import state as homes
from ci.run.context import Context
from ci.run.events import Event, Events
from ci.settings import Settings
from ci.stages import build, deploy
from ci.stages import cluster as clusters
from ci.standins import admission, corefile
from ci.tools.command import Programs
from ci.tools.kube import Kube
from ci.tools.wait import Cancellable, SystemClock, wait_until
from tests.failure_injection import images

ROOT = Path(__file__).parents[2]
NAME = "parts"
HOST = "contoso-llm-engine.servicebus.windows.net"
QUEUE_PEER = ROOT / "tests/integration/queue_peer.py"
KOMBU_PEER = ROOT / "packages/servicebus-emulator/tests/compatibility/kombu_peer.py"
KOMBU_URL = f"azureservicebus://DefaultAzureCredential@{HOST.partition('.')[0]}"
LABELS = {"azure.workload.identity/use": "true"}
TODAYS = ("azure-servicebus==7.15.0", "azure-identity==1.27.0", "kombu==5.7.0")
SERVICES = ("azure-servicebus==7.14.3", "azure-identity==1.16.1", "azure-core==1.30.2")
"""The real service's image has this azure-servicebus; its neighbours are of that time."""

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}

AS_QUEUES_GO = [
    {"step": "created", "lock": "0:00:05"},
    {"step": "received", "delivery_count": 0},
    {"step": "received again", "delivery_count": 1},
    {"step": "lost"},
    {"step": "renewed", "longer": True},
    {"step": "completed", "left": 0},
]
AS_KOMBU_GOES = [
    {"step": "received", "body": {"work": 1}, "delivery_count": 0},
    {"step": "received again", "body": {"work": 1}, "delivery_count": 1},
    {"step": "settled", "body": {"work": 1}, "delivery_count": 1},
]


class Crash(Exception):
    """The process ends here, as far as the cluster can tell."""


@dataclass(frozen=True, slots=True)
class Place:
    context: Context
    standins: StandIns
    todays: Image
    services: Image

    @property
    def kube(self) -> Kube:
        return self.context.kube(self.standins.cluster)

    def lead(self, context: Context | None = None) -> None:
        asked = [self.todays.by_tag, self.services.by_digest]
        deploy.redirect_cloud(context or self.context, self.standins, asked)

    def remove(self) -> bool:
        return deploy.remove_overlay(self.context, self.standins.cluster)

    def as_it_is(self) -> dict[str, Any]:
        """All that the overlay touches or could leave behind, without what counts or times it."""
        names = self.kube.run(
            "get", "mutatingadmissionpolicies,mutatingadmissionpolicybindings,"
            "mutatingwebhookconfigurations,validatingadmissionpolicies,clusterroles,"
            "clusterrolebindings,configmaps,secrets,serviceaccounts,services,namespaces",
            "--all-namespaces", "-o", "name",
        ).stdout  # fmt: skip
        corefile = self.kube.get("configmap", "coredns", namespace="kube-system")
        dns = self.kube.get("deployment", "coredns", namespace="kube-system")
        for found in (corefile, dns):
            for changing in ("resourceVersion", "managedFields"):
                found["metadata"].pop(changing, None)
        dns.pop("status")
        pod = self.asked(pod_of("any", self.todays.by_tag, "import this"))
        return {"names": sorted(names.split()), "corefile": corefile, "dns": dns, "pod": pod}

    def address(self, name: str) -> str:
        """What a pod finds for a name; empty when it is not known."""
        program = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
        said = self.kube.run(
            "exec", "deployment/servicebus", "--namespace", self.standins.namespace,
            "--", "python3", "-c", program, name, check=False,
        )  # fmt: skip
        assert said.status == 0 or "socket.gaierror" in said.stderr, said.stderr
        return said.stdout.strip()

    def asked(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The specification of a pod as the API server would make it."""
        made = self.kube.run(
            "create", "--dry-run=server", "-o", "json", "-f", "-", input=json.dumps(manifest)
        )
        # The API server gives the token's volume another name each time.
        alike = re.sub(r'"kube-api-access-\w+"', '"kube-api-access"', made.stdout)
        spec: dict[str, Any] = json.loads(alike)["spec"]
        return spec

    def start(self, *pods: Mapping[str, Any]) -> None:
        self.kube.run("create", "-f", "-", input=yaml.safe_dump_all(pods))

    def ended(self, name: str, phase: str) -> list[Any]:
        """What a pod has said when it has come to that end."""

        def look() -> str | None:
            now = self.kube.get("pod", name, namespace="default")["status"]["phase"]
            return now if now in ("Succeeded", "Failed") else None

        found = wait_until(
            f"the end of pod {name}",
            look,
            timeout=60,
            clock=SystemClock(),
            interval=0.5,
            diagnose=lambda: self.kube.run("describe", "pod", name).stdout[-1500:],
        )
        said = self.kube.run("logs", name).stdout
        assert found == phase, said
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def pod_of(name: str, image: str, program: str, *words: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": LABELS},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "main", "image": image, "command": ["python3", "-c", program, *words]}
                | more
            ],
        },
    }


def queue_pod(name: str, image: str, **more: Any) -> dict[str, Any]:
    return pod_of(name, image, QUEUE_PEER.read_text(encoding="utf-8"), HOST, name, **more)


@pytest.fixture(scope="module")
def place(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A cluster with stand-ins, and images that know nothing of them."""
    folder = tmp_path_factory.mktemp("cloud")
    cancel = threading.Event()
    clock = Cancellable(SystemClock(), cancel)
    programs = Programs(env=os.environ, logs=folder / "logs", cancel=cancel)
    home = homes.Home(homes.path(os.environ))
    events = Events(clock)
    context = Context(ROOT, Settings(), tools, programs, clock, events, folder, home)
    emulator = build.find_emulator(context)
    if emulator is None:
        pytest.fail("the emulator's image is not built: run `python3 pipeline.py build` first")
    todays = images.publish_packages(
        tools.registry, programs, "parts/todays", TODAYS, "/srv/packages"
    )
    venv = "/opt/venv/lib/python3.11/site-packages"
    services = images.publish_packages(tools.registry, programs, "parts/services", SERVICES, venv)
    wanted = [emulator.by_digest, tools.postgres_image, tools.redis_image]
    try:
        here = clusters.create(context, NAME, [*wanted, todays.by_tag, services.by_digest])
        yield Place(context, deploy.standins(context, here, emulator), todays, services)
    finally:
        clusters.delete(context, NAME)


def test_azures_names_lead_to_the_stand_ins_and_back(place: Place) -> None:
    before = place.as_it_is()
    crash_when_half_applied(place)
    assert place.remove()
    assert place.as_it_is() == before

    place.lead()
    place.lead()  # what is there already is no hindrance
    assert place.address(HOST) == place.address(standins.SERVICEBUS_HOST)
    place.start(
        queue_pod("todays", place.todays.by_tag),
        queue_pod("services", place.services.by_digest, securityContext=RESTRICTED),
        pod_of("kombu", place.todays.by_tag, KOMBU_PEER.read_text(), KOMBU_URL, "kombu"),
    )
    chosen_pods_are_changed_and_no_others(place, before)
    assert place.ended("todays", "Succeeded") == AS_QUEUES_GO
    assert place.ended("services", "Succeeded") == AS_QUEUES_GO
    assert place.ended("kombu", "Succeeded") == AS_KOMBU_GOES

    assert place.remove()
    assert place.as_it_is() == before
    assert not place.remove()
    assert place.address(HOST) != place.address(standins.SERVICEBUS_HOST)
    place.start(queue_pod("too-late", place.todays.by_tag))
    assert place.ended("too-late", "Failed") == []


def crash_when_half_applied(place: Place) -> None:
    """End between the names, which are led already, and the policy, which is not there yet."""

    def crash(event: Event) -> None:
        if "certifi/cacert.pem" in str(event):
            raise Crash

    events = Events(place.context.clock)
    events.listen(crash)
    with pytest.raises(Crash):
        place.lead(replace(place.context, events=events))
    found = place.kube.get("configmap", "coredns", namespace="kube-system")
    assert corefile.BEGIN in found["data"]["Corefile"]


def chosen_pods_are_changed_and_no_others(place: Place, before: Mapping[str, Any]) -> None:
    bundle = "/srv/packages/certifi/cacert.pem"

    def paths(spec: Mapping[str, Any]) -> list[str]:
        return [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]

    plain = pod_of("any", place.todays.by_tag, "import this")
    assert bundle in paths(place.asked(plain))
    unlabelled = json.loads(json.dumps(plain))
    del unlabelled["metadata"]["labels"]
    assert place.asked(unlabelled) == before["pod"]

    newer = pod_of("any", f"{place.todays.repository}:newer", "import this")
    assert bundle in paths(place.asked(newer)), "as another image of its repository"
    stranger = place.asked(pod_of("any", "example.invalid/unknown", "import this"))
    assert bundle not in paths(stranger)
    assert admission.TRUST in paths(stranger)

    own = pod_of(
        "any",
        place.todays.by_tag,
        "import this",
        env=[{"name": "AZURE_CLIENT_ID", "value": "of-the-chart"}],
        volumeMounts=[{"name": "own", "mountPath": "/srv/packages/certifi"}],
    )
    own["spec"]["volumes"] = [{"name": "own", "emptyDir": {}}]
    own["spec"]["initContainers"] = [{"name": "first", "image": place.services.by_digest}]
    spec = place.asked(own)
    assert bundle not in paths(spec)
    env = {entry["name"]: entry["value"] for entry in spec["containers"][0]["env"]}
    assert env == {**admission.environment(), "AZURE_CLIENT_ID": "of-the-chart"}
    assert [container["name"] for container in spec["initContainers"]] == [
        "stand-in-cloud",
        "first",
    ]
    first = {mount["mountPath"]: mount for mount in spec["initContainers"][1]["volumeMounts"]}
    old = "/opt/venv/lib/python3.11/site-packages/certifi/cacert.pem"
    assert first[old]["subPath"] == f"0/stores{old}"
