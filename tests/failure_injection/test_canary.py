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
from ci.results import CauseId, CheckId, QueueState, Tasks, VerdictId
from ci.run.context import Context
from ci.settings import Probing
from ci.stages import build, deploy
from ci.workflow.environments import PREVIOUS_TAG
from tests.failure_injection import images
from tests.failure_injection.rig import RELEASE, ROOT, WITHOUT_API, Place, until

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
            "require": WITHOUT_API,
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
        row = self.place.row
        row.serves, row.revision, row.status = tag, latest.number, latest.status
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


@pytest.mark.end(VerdictId.PROMOTED, note="the queue has the new lock duration")
def test_tasks_of_a_clean_promotion(service: Service) -> None:
    checks = {check.id: check for check in service.promote("service-v2").checks}
    (tasks,) = checks[CheckId.TASKS_EXECUTED_ONCE].measured
    assert isinstance(tasks, Tasks)
    assert tasks.accepted >= 20
    assert (tasks.once, tasks.lost, tasks.twice, tasks.refused) == (tasks.accepted, 0, 0, 0)
    (queue,) = checks[CheckId.QUEUE_LOCK_DURATION].measured
    assert isinstance(queue, QueueState)
    assert queue.lock_seconds == LOCK_AFTER
    service.serves("service-v2", 2)
    session = service.place.session(service.context, **service.described())
    with broker(session) as bus:
        until("the canary's queue to be gone", lambda: bus.lock_duration(queue.name) is None)


@pytest.mark.end(VerdictId.ROLLED_BACK)
@pytest.mark.parametrize(
    ("tag", "cause", "check"),
    [
        ("service-twice", CauseId.TASKS_LOST, CheckId.TASKS_EXECUTED_ONCE),
        ("service-loses", CauseId.TASKS_LOST, CheckId.TASKS_EXECUTED_ONCE),
        ("service-ignores-lock", CauseId.QUEUE_NOT_AS_ASKED, CheckId.QUEUE_LOCK_DURATION),
    ],
    ids=[
        "two consumers at once during the rollout",
        "messages are lost",
        "lock duration is ignored",
    ],
)
def test_tasks_of_a_new_version(service: Service, tag: str, cause: CauseId, check: CheckId) -> None:
    refused = service.place.refused(PromotionFailed, cause=cause, check=check)
    problem = refused(service.promote, tag)
    for value in (value for each in problem.checks for value in each.measured):
        if isinstance(value, Tasks):
            wrong = {"service-twice": value.twice, "service-loses": value.lost}
            assert wrong.get(tag, 1), value
        if isinstance(value, QueueState) and tag == "service-ignores-lock":
            assert (value.lock_seconds, value.asked_lock_seconds) == (30, LOCK_AFTER)
    service.serves("service-v1", 3)
