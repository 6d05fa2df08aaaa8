"""What ``verify`` reads, and that each wrong state of the release is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci import texts
from ci.digest import Digest
from ci.errors import TargetNotFound, VerifyFailed
from ci.model import Cluster, Image, Registry, Target
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    GapId,
    HttpAnswer,
    ImageRef,
    Measured,
    Names,
    Outcome,
    Problem,
    RevisionRef,
    RolloutGap,
    Unit,
)
from ci.run.context import Context
from ci.stages import verify
from ci.tools.api import Answer
from tests.unit.evidence.fakes import FakeRegistry, machine
from tests.unit.live import GATEWAY, NAMESPACE, OLD, RELEASE, REPOSITORY, Live, owned, serving_here
from tests.unit.machine import Machine, ManualClock, take_over

PATHS = ("/health", "/readyz")
OTHER = Digest.from_hex("b" * 64)


@dataclass
class Verified:
    """A target and the run that looks at it."""

    live: Live
    programs: Machine
    registry: FakeRegistry
    context: Context
    target: Target

    @property
    def session(self) -> TargetSession:
        return TargetSession.open(self.context, self.target)

    def __call__(self, image: Image | None = None) -> tuple[Check, ...]:
        return verify.verify(self.session, image)


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Verified]:
    live, registry, programs = Live(), FakeRegistry(), take_over(monkeypatch)
    context = machine(tmp_path)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("contexts: [{name: prod}]")
    tools = replace(context.tools, helm=Path("/bin/helm"), kubectl=Path("/bin/kubectl"))
    with serving_here(live, programs, monkeypatch, registry) as port:
        tools = replace(
            tools, registry=Registry("registry.example:5000", f"http://127.0.0.1:{port}")
        )
        yield Verified(
            live,
            programs,
            registry,
            replace(context, tools=tools, clock=ManualClock()),
            Target(
                "prod", Cluster("prod", kubeconfig, "prod", False), NAMESPACE, RELEASE,
                context.root / "chart", REPOSITORY, gateway=GATEWAY, health_paths=PATHS,
            ),
        )  # fmt: skip


def test_a_release_that_is_as_it_should_be(verified: Verified) -> None:
    checks = verified()
    assert [(check.id, check.subject) for check in checks] == [
        (CheckId.RELEASE_DEPLOYED, ""),
        (CheckId.PODS_READY, ""),
        (CheckId.PODS_RUN_DIGEST, ""),
        *((CheckId.HEALTH_PATH, path) for path in PATHS),
        (CheckId.LOGS_NO_ERRORS, ""),
    ]
    assert {check.outcome for check in checks} == {Outcome.PASSED}
    image = ImageRef(REPOSITORY, "old", OLD)
    assert checks[2].measured == (Count(Unit.PODS, 1), image)
    assert checks[-1].measured == (Count(Unit.PODS, 1),)
    assert set(PATHS) == set(verified.live.paths), "every health path, as a client asks it"


def test_nothing_is_changed(verified: Verified) -> None:
    verified()
    assert {method for method, _ in verified.live.asked} == {"GET"}
    assert {verb.split()[0] for verb in verified.live.helm_verbs} <= {"history", "get", "list"}


def test_the_logs_of_every_pod_are_read(verified: Verified) -> None:
    second = dict(verified.live.pod, metadata=owned("second", "rs"))
    verified.live.objects["pods"].append(second)
    with pytest.raises(VerifyFailed):  # one is wanted
        verified()
    logs = {path.split("/")[-2] for _, path in verified.live.asked if path.endswith("/log")}
    assert logs == {f"{GATEWAY}-old", "second"}


def other_digest(live: Live) -> None:
    second = dict(live.pod, metadata=owned("second", "rs"))
    status = {"name": GATEWAY, "imageID": f"{REPOSITORY}@{OTHER}"}
    second["status"] = dict(live.pod["status"], containerStatuses=[status])
    live.objects["pods"].append(second)
    live.deployment["spec"]["replicas"] = 2
    for count in ("replicas", "updatedReplicas", "availableReplicas"):
        live.deployment["status"][count] = 2
    endpoint = dict(live.objects["endpointslices"][0]["endpoints"][0])
    endpoint["targetRef"] = {"kind": "Pod", "name": "second"}
    live.objects["endpointslices"][0]["endpoints"].append(endpoint)


def crashing(live: Live) -> None:
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    live.pod["status"]["containerStatuses"][0]["state"] = waiting


def scaled_to_nothing(live: Live) -> None:
    live.deployment["spec"]["replicas"] = 0
    for count in ("replicas", "updatedReplicas", "availableReplicas"):
        live.deployment["status"][count] = 0
    live.objects["pods"].clear()


DEPLOYED, READY, DIGEST = (
    CheckId.RELEASE_DEPLOYED, CheckId.PODS_READY, CheckId.PODS_RUN_DIGEST
)  # fmt: skip
HEALTH, LOGS = CheckId.HEALTH_PATH, CheckId.LOGS_NO_ERRORS
POD = f"{GATEWAY}-old"

WRONG: dict[str, tuple[Callable[[Live], object], CheckId, Measured]] = {
    "the release failed": (
        lambda live: live.history[-1].update(status="failed"),
        DEPLOYED,
        RevisionRef(1, "failed", "model-engine-0.1.13"),
    ),
    "an upgrade is under way": (
        lambda live: live.history[-1].update(status="pending-upgrade"),
        DEPLOYED,
        RevisionRef(1, "pending-upgrade", "model-engine-0.1.13"),
    ),
    "a pod is not ready": (
        lambda live: live.pod["status"]["conditions"][0].update(status="False"),
        READY,
        Names(Unit.PODS, (POD,), 1),
    ),
    "a pod crashes": (
        crashing,
        READY,
        Names(Unit.REASONS, (f"pod {POD}: container {GATEWAY} is in CrashLoopBackOff",), 1),
    ),
    "no pod is left": (scaled_to_nothing, READY, Count(Unit.PODS, 0)),
    "a replica is missing": (
        lambda live: live.deployment["status"].update(availableReplicas=0),
        DIGEST,
        RolloutGap(GapId.REPLICAS_AVAILABLE, GATEWAY, count=0, desired=1),
    ),
    "the controller has not seen the change": (
        lambda live: live.deployment["metadata"].update(generation=2),
        DIGEST,
        RolloutGap(GapId.NOT_OBSERVED, GATEWAY),
    ),
    "an old pod is still there": (
        lambda live: live.pod["metadata"].update(deletionTimestamp="2026-11-23T10:00:00Z"),
        DIGEST,
        RolloutGap(GapId.PODS_OLD, GATEWAY, (POD,)),
    ),
    "the Service leads nowhere": (
        lambda live: live.objects["endpointslices"].clear(),
        DIGEST,
        RolloutGap(GapId.ROUTES_NOT_TO_NEW, GATEWAY, (POD,)),
    ),
    "pods run different digests of one tag": (
        other_digest,
        DIGEST,
        ImageRef(REPOSITORY, "old", OTHER),
    ),
    "there is an error in the logs": (
        lambda live: setattr(live, "log", "fine\nERROR lock lost\n"),
        LOGS,
        Names(Unit.LOG_LINES, (f"{POD}: ERROR lock lost",), 1),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_state_is_found_and_measured(verified: Verified, what: str) -> None:
    damage, id, measured = WRONG[what]
    damage(verified.live)
    with pytest.raises(VerifyFailed) as caught:
        verified()
    assert caught.value.exit_code == 34
    assert RELEASE in str(caught.value)
    found = {check.id: check for check in caught.value.checks}[id]
    assert found.failed
    assert measured in found.measured
    assert texts.sentence(found) in str(caught.value)


@pytest.mark.parametrize(("path", "status"), [("/readyz", 500), ("/health", 404)])
def test_a_health_path_that_answers_otherwise_fails(
    verified: Verified, path: str, status: int
) -> None:
    verified.live.answers[path] = status
    with pytest.raises(VerifyFailed) as caught:
        verified()
    (failed,) = (check for check in caught.value.checks if check.failed)
    assert (failed.id, failed.subject) == (HEALTH, path)
    (answer,) = failed.measured
    assert isinstance(answer, HttpAnswer)
    assert (answer.status, answer.limit_seconds) == (status, 1.0)


def test_a_gateway_that_is_missing_is_named(verified: Verified) -> None:
    verified.live.objects["deployments"][0]["metadata"].update(name="renamed")
    with pytest.raises(TargetNotFound, match=GATEWAY):
        verified()


# -- what nobody could check ----------------------------------------------------------------------


def refuses_logs(code: int) -> Callable[[str, str], Answer | None]:
    status = {"kind": "Status", "reason": "Forbidden", "message": "pods/log is forbidden"}
    text = json.dumps(status) if code else "timed out"
    return lambda _, path: Answer(code, text) if path.endswith("/log") else None


@pytest.mark.parametrize(("code", "because"), [(403, Because.FORBIDDEN), (0, Because.NO_ANSWER)])
def test_logs_that_cannot_be_read_have_not_shown_that_there_is_no_error(
    verified: Verified, code: int, because: Because
) -> None:
    verified.live.broken = refuses_logs(code)
    with pytest.raises(VerifyFailed) as caught:
        verified()
    assert caught.value.exit_code == 34
    logs = caught.value.checks[-1]
    assert (logs.id, logs.outcome, logs.because) == (LOGS, Outcome.UNKNOWN, because)
    assert logs.measured[0] == Names(Unit.PODS, (POD,), 1)
    assert texts.unmet([logs]) in str(caught.value)


def test_a_check_that_is_not_required_may_stay_unknown(verified: Verified) -> None:
    verified.live.broken = refuses_logs(403)
    verified.target = replace(verified.target, require=("release.*", "pods.*"))
    assert verified()[-1].outcome is Outcome.UNKNOWN


def test_every_check_is_recorded_when_it_is_made(verified: Verified) -> None:
    checks = verified()
    recorded = [event for event in verified.context.events.all if event.kind == "check"]
    assert [event.data["check"]["id"] for event in recorded] == [check.id for check in checks]


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        (lambda _: (["error: unable to forward port: pod is not running"], 1), "unable to forward"),
        (lambda _: (["Forwarding from 127.0.0.1:1 -> 80"], None), "refused"),
    ],
    ids=["no way to a pod", "nobody listens"],
)
def test_a_service_that_cannot_be_reached_fails_its_criterion_and_no_more(
    verified: Verified, serve: Callable[[list[str]], tuple[list[str], int | None]], says: str
) -> None:
    verified.programs.serve = serve
    with pytest.raises(VerifyFailed) as caught:
        verified()
    wrong = [check for check in caught.value.checks if check.failed]
    assert {check.id for check in wrong} <= {CheckId.API_ANSWERS, HEALTH}
    (measured,) = wrong[0].measured
    assert isinstance(measured, Problem | HttpAnswer)
    assert says in (measured.text if isinstance(measured, Problem) else measured.body)


def test_everything_that_is_wrong_is_named_at_once(verified: Verified) -> None:
    verified.live.history[-1].update(status="failed")
    verified.live.answers["/readyz"] = 503
    with pytest.raises(VerifyFailed) as caught:
        verified()
    assert [c.id for c in caught.value.checks if c.failed] == [DEPLOYED, HEALTH]


@pytest.mark.parametrize("what", ["namespace", "release", "context"])
def test_a_target_that_is_not_there_is_no_unmet_criterion(verified: Verified, what: str) -> None:
    if what == "namespace":
        verified.live.namespaces.clear()
    if what == "release":
        verified.live.history.clear()
    if what == "context":
        verified.target.cluster.kubeconfig.write_text("contexts: [{name: other}]")
    with pytest.raises(TargetNotFound, match=what):
        verified()


# -- held against an image ------------------------------------------------------------------------


def promoted(verified: Verified) -> Image:
    """An image that is in the registry and that every pod runs."""
    digest = verified.registry.image("new")
    verified.live.digests["new"] = digest
    verified.live.released("new", "deployed")
    return Image(REPOSITORY, "new", Digest(digest))


def test_every_pod_runs_the_image_that_was_promoted(verified: Verified) -> None:
    verified(promoted(verified))


def test_pods_of_the_image_before_are_not_the_ones_promoted(verified: Verified) -> None:
    image = promoted(verified)
    verified.live.released("old", "deployed")
    with pytest.raises(VerifyFailed) as caught:
        verified(image)
    gap = RolloutGap(GapId.OTHER_IMAGE, GATEWAY, (GATEWAY,), value=f"{REPOSITORY}:old")
    assert gap in caught.value.checks[2].measured


def test_the_tag_alone_proves_nothing(verified: Verified) -> None:
    image = promoted(verified)
    verified.live.digests["new"] = OTHER
    verified.live.roll()
    with pytest.raises(VerifyFailed) as caught:
        verified(image)
    gap = RolloutGap(GapId.OTHER_DIGEST, GATEWAY, (f"{GATEWAY}-new",), value=OTHER)
    assert gap in caught.value.checks[2].measured


# -- status ---------------------------------------------------------------------------------------


def test_a_status_shows_what_runs(verified: Verified) -> None:
    found = verify.status(verified.session)
    assert (found.target, found.release, found.namespace) == ("prod", RELEASE, NAMESPACE)
    assert [(each.number, each.status) for each in found.history] == [(1, "deployed")]
    (deployment,) = found.deployments
    assert (deployment.name, deployment.image) == (GATEWAY, f"{REPOSITORY}:old")
    assert (deployment.desired, deployment.updated, deployment.available) == (1, 1, 1)
    (pod,) = found.pods
    assert (pod.name, pod.phase, pod.ready, pod.restarts) == (f"{GATEWAY}-old", "Running", True, 0)
    assert (pod.image, pod.digest) == (f"{REPOSITORY}:old", OLD)
    assert pod.started == datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert {method for method, _ in verified.live.asked} == {"GET"}


def test_a_status_says_what_keeps_a_pod_from_serving(verified: Verified) -> None:
    crashing(verified.live)
    verified.live.pod["status"]["containerStatuses"][0]["restartCount"] = 4
    (pod,) = verify.status(verified.session).pods
    assert (pod.phase, pod.restarts) == ("CrashLoopBackOff", 4)
    verified.live.pod["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z"
    (pod,) = verify.status(verified.session).pods
    assert pod.phase == "Terminating"


def test_a_status_shows_only_the_deployments_that_the_settings_name(verified: Verified) -> None:
    verified.target = replace(verified.target, deployments=("model-engine-cacher",))
    found = verify.status(verified.session)
    assert (found.deployments, found.pods) == ((), ())
