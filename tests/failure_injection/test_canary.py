"""Promotions of the sample service with its Service Bus: tasks through the canary queue.

The stand-ins are one set per cluster, so these cases run one after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ci.errors import PromotionFailed
from ci.model import Image, Promotion, StandIns
from ci.promotion.probes.canary import LOCK_AFTER, broker
from ci.run.context import Context
from ci.settings import Probing
from ci.stages import build, deploy
from ci.workflow.environments import PREVIOUS_TAG
from tests.failure_injection import images
from tests.failure_injection.rig import RELEASE, ROOT, Place, until

pytestmark = [pytest.mark.timeout(600), pytest.mark.shares("standins")]

DEPLOYMENTS = ("model-engine", "model-engine-endpoint-builder", "model-engine-cacher")


@dataclass(frozen=True, slots=True)
class Service:
    """The sample service, installed at its first version."""

    place: Place
    context: Context
    standins: StandIns
    versions: dict[str, Image]

    def promote(self, tag: str) -> Promotion:
        image = self.versions[tag]
        return self.place.promote(image, **self.described())

    def described(self) -> dict[str, Any]:
        return {
            "image_repository": self.versions["service-v1"].repository,
            "gateway": "model-engine",
            "health_paths": ("/health", "/healthz", "/readyz"),
            "deployments": DEPLOYMENTS,
            "probing": Probing(path="/readyz"),
            "canary_per_second": 4.0,
            "standins": self.standins,
        }

    def serves(self, tag: str, revision: int) -> None:
        """Every pod runs this version's digest, and no canary is left in the broker."""
        latest = self.place.history()[-1]
        pods = self.place.kube.pods(self.place.namespace)
        digests = {
            status["imageID"].rpartition("@")[2]
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
            for status in pod["status"]["containerStatuses"]
        }
        self.place.row.seen = f"{tag} serves, revision {latest.number} {latest.status}"
        assert (latest.number, latest.status) == (revision, "deployed")
        assert digests == {self.versions[tag].digest}


@pytest.fixture
def service(place: Place) -> Iterator[Service]:
    context = place.context()
    versions = images.publish_service(context.tools.registry, context.programs, PREVIOUS_TAG)
    emulator = build.find_emulator(context)
    if not versions or emulator is None:
        pytest.skip("the pipeline has not built the sample service and the emulator here yet")
    cluster = place.rig.cluster
    standins = deploy.standins(context, cluster, emulator)
    place.chart = ROOT / "examples/model-engine/chart"
    deploy.deploy(
        context, cluster, standins, versions["service-v1"],
        namespace=place.namespace, release=RELEASE, values={},
    )  # fmt: skip
    yield Service(place, context, standins, versions)
    # The next case has the same broker and database: what consumes goes before it begins.
    place.kubectl("delete", "deployments", "--all", "--wait=true")


@pytest.mark.end("promoted; every task executed once; the queue has the new lock duration")
def test_tasks_of_a_clean_promotion(service: Service) -> None:
    said = {check.name: check.evidence for check in service.promote("service-v2").checks}
    account = said["tasks through the canary queue"]
    sent = int(account.split()[0])
    assert sent >= 20
    assert account == f"{sent} sent, {sent} executed once, 0 lost, 0 processed twice"
    assert f"lock duration {LOCK_AFTER} s" in said["the queue is as the new version was asked for"]
    service.serves("service-v2", 2)
    queue = said["the queue is as the new version was asked for"].partition(":")[0]
    with broker(service.context, service.place.target(**service.described())) as bus:
        until("the canary's queue to be gone", lambda: bus.lock_duration(queue) is None)


@pytest.mark.end("rolled back; the first version serves")
@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("service-twice", "processed twice"),
        ("service-loses", "tasks were lost"),
        ("service-ignores-lock", "ignores the lock duration: 45 s were asked for"),
    ],
    ids=[
        "two consumers at once during the roll-over",
        "messages are lost",
        "lock duration is ignored",
    ],
)
def test_tasks_of_a_new_version(service: Service, tag: str, says: str) -> None:
    refused = service.place.refused(PromotionFailed, says, "rolled back to revision 1")
    refused(service.promote, tag)
    service.serves("service-v1", 3)
