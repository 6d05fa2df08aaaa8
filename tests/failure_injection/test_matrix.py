"""Promotions that are made to go wrong, on a real cluster. Each case asserts how the cluster
ends (what serves, by digest; the release; the lock; requests lost) and that the cause is named.

Whatever fails before the change leaves the release as it is; whatever fails after its begin is
rolled back; what nobody could roll back says so, with the commands. Nothing is tried twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.errors import Locked, PlanRefused, PromotionFailed, ProofFailed, RollbackFailed
from ci.model import Release, RollbackOutcome
from ci.promotion.release.history import rollback_command
from ci.results import (
    CauseId,
    Check,
    CheckId,
    DifferenceReason,
    Duration,
    ImageRef,
    Latency,
    Names,
    Requests,
    Span,
    StepId,
    VerdictId,
)
from ci.run.context import Context
from ci.run.events import Event
from ci.settings import Probing
from tests.failure_injection.charts import account_that_is_an_upgrade_hook, add, copied, replace
from tests.failure_injection.rig import (
    RELEASE,
    REQUIRE,
    WITHOUT_PULL,
    Place,
    at_step,
    kill,
    processes,
    proof,
    until,
)

pytestmark = pytest.mark.timeout(600)

PROMOTED = pytest.mark.end(VerdictId.PROMOTED, note="0 requests lost")
REFUSED = pytest.mark.end(VerdictId.REFUSED, note="the release is untouched")
ROLLED_BACK = pytest.mark.end(VerdictId.ROLLED_BACK, note="0 requests lost")
EITHER = pytest.mark.end(
    VerdictId.PROMOTED, VerdictId.ROLLED_BACK, either=True, note="whole; 0 requests lost"
)
PROBES = 2000


# -- what shall work -------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.end(VerdictId.PROMOTED, note=f"0 of >= {PROBES} requests lost")
def test_clean_promotion(place: Place) -> None:
    # A starved node takes seconds to lead requests away from a pod that ends; at this rate a
    # drain of three has been seen to lose some, and the promotion to roll back for it.
    place.install(drainSeconds=10)
    enough = 0.0

    def soak(_: Release) -> tuple[Check, ...]:
        time.sleep(max(0.0, enough - time.monotonic()))
        return ()

    rate = 100.0
    enough = time.monotonic() + PROBES / rate * 1.5
    promoted = place.promote("v2", after=soak, probing=Probing(path="/work", per_second=rate))
    checks = {check.id: check for check in promoted.checks}
    assert checks[CheckId.CHART_UNCHANGED].passed
    (requests,) = checks[CheckId.REQUESTS_ANSWERED].measured
    assert isinstance(requests, Requests)
    place.ends("v2", 2)
    place.row.sent, place.row.failed = requests.sent, requests.failed
    assert requests.sent >= PROBES, requests
    assert requests.failed == 0, requests


@pytest.mark.end(VerdictId.PROMOTED, note="copied by digest; 0 requests lost")
def test_image_that_only_the_proving_registry_has(place: Place) -> None:
    place.install()
    place.watch()
    mirror = place.rig.images["v2"].repository.replace("/engine", f"/{place.namespace}")
    promoted = place.promote("v2", image_repository=mirror)
    assert promoted.after.by_digest == f"{mirror}@{place.rig.images['v2'].digest}"
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(VerdictId.ALREADY_SERVED)
def test_image_that_is_served_already(place: Place) -> None:
    place.stand()
    found = place.promote("v1")
    assert not found.changed
    assert (found.from_revision, found.to_revision) == (place.first, place.first)
    checks = {check.id: check for check in found.checks}
    assert checks[CheckId.PODS_RUN_DIGEST].passed
    images = [v for v in checks[CheckId.PODS_RUN_DIGEST].measured if isinstance(v, ImageRef)]
    assert {image.digest for image in images} == {place.rig.images["v1"].digest}
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end(
    VerdictId.PROMOTED,
    VerdictId.PROMOTED,
    VerdictId.ALREADY_RETURNED,
    VerdictId.RETURNED,
    VerdictId.REFUSED,
    note="0 requests lost",
)
def test_rollback_past_revisions_of_the_same_image(place: Place) -> None:
    place.install(replicas={"gateway": 1, "builder": 1})
    place.watch()
    place.promote("v2")
    place.promote("v2", force=True)
    place.ends("v2", 3)
    planned = place.rollback(dry_run=True)
    place.ends("v2", 3)
    there = place.rollback(2)
    assert there.outcome is RollbackOutcome.ALREADY_THERE
    place.ends("v2", 3)
    done = place.rollback()
    assert (planned.after.revision, done.after.revision, done.revision) == (1, 1, 4)
    digests = done.before.image.digest, done.after.image.digest
    assert digests == (place.rig.images["v2"].digest, place.rig.images["v1"].digest)
    place.ends("v1", 4)
    place.refused(PlanRefused)(place.rollback)
    place.ends("v1", 4)
    place.nothing_lost()


# -- refused before the change ---------------------------------------------------------------------


@REFUSED
@pytest.mark.parametrize("how", ["absent", "moved"])
def test_tag(place: Place, how: str) -> None:
    place.stand()
    image = place.rig.images["v2"]
    tag = "nowhere" if how == "absent" else "bad-crash"
    refused = place.refused(PlanRefused, check=CheckId.IMAGE_PUBLISHED)
    problem = refused(place.promote, dataclasses.replace(image, tag=tag))
    (published,) = (c for c in problem.checks if c.id is CheckId.IMAGE_PUBLISHED)
    resolved = [value.digest for value in published.measured if isinstance(value, ImageRef)]
    moved = [place.rig.images["bad-crash"].digest] if how == "moved" else []
    assert resolved == [image.digest, *moved]
    place.ends("v1", 1)


SMUGGLED: dict[str, tuple[Callable[[Path], None], str, CheckId | None]] = {
    "template": (
        lambda chart: replace(
            chart / "templates/engine.yaml", "failureThreshold: 30", "failureThreshold: 3"
        ),
        "templates/engine.yaml",
        CheckId.CHART_UNCHANGED,
    ),
    "default": (
        lambda chart: replace(chart / "values.yaml", "builder: 1", "builder: 2"),
        "values.yaml: replicas.builder",
        CheckId.CHART_UNCHANGED,
    ),
    "environment": (
        lambda chart: replace(
            chart / "templates/engine.yaml",
            "- {name: GIT_TAG,",
            "- {name: MODE, value: other}\n            - {name: GIT_TAG,",
        ),
        "templates/engine.yaml",
        CheckId.CHART_UNCHANGED,
    ),
    "configmap": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {lock: 30s}\n",
        ),
        "ConfigMap/more",
        None,
    ),
    "secret": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: more}\n"
            "stringData: {password: {{ .Values.password | quote }} }\n",
        ),
        "Secret/more",
        None,
    ),
    "hook": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: ServiceAccount\n"
            'metadata: {name: more, annotations: {"helm.sh/hook": pre-upgrade}}\n',
        ),
        "ServiceAccount/more",
        None,
    ),
}
"""How the chart is changed, what the refusal has to name, and the check that fails; without one,
the plan shows it."""


@REFUSED
@pytest.mark.parametrize("what", SMUGGLED)
def test_smuggled_into_the_chart(place: Place, what: str, tmp_path: Path) -> None:
    if what == "default":
        place.install()  # the one that stands is given its replicas: no default counts there
    else:
        place.stand()
    change, names, check = SMUGGLED[what]
    change(copied(place, tmp_path))
    place.refused(PlanRefused, names, check=check)(place.promote, "v2")
    if check is None:
        assert names in {difference.object for difference in place.plan().refused}
    place.ends("v1", 1)


@pytest.mark.end(VerdictId.PROMOTED, note="with the chart's new default; 0 requests lost")
def test_chart_changed_on_purpose(place: Place, tmp_path: Path) -> None:
    place.install()
    place.watch()
    chart = copied(place, tmp_path)
    for what in ("default", "configmap"):
        SMUGGLED[what][0](chart)
    promoted = place.promote("v2", chart_change=True)
    checks = {check.id: check for check in promoted.checks}
    files = [v for v in checks[CheckId.CHART_CHANGE_INTENDED].measured if isinstance(v, Names)]
    assert "values.yaml: replicas.builder" in files[0].names
    reasons = {(d.object, d.path): (d.after, d.reason) for d in place.plan().differences}
    assert reasons["ConfigMap/more", "data.lock"] == ("30s", DifferenceReason.CHART)
    replicas = ("get", "deployment", "engine-builder", "-o", "jsonpath={.spec.replicas}")
    assert place.kubectl(*replicas) == "2", "--reuse-values would have kept the old default"
    place.ends("v2", 2)
    place.nothing_lost()


@REFUSED
def test_secret_that_is_random(place: Place, tmp_path: Path) -> None:
    add(
        "random.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: random}\n"
        "stringData: {key: {{ randAlpha 8 | quote }} }\n",
    )(copied(place, tmp_path))
    place.install()
    place.refused(PlanRefused, "Secret/random")(place.promote, "v2")
    reasons = {d.object: d.reason for d in place.plan().refused}
    assert reasons["Secret/random"] is DifferenceReason.NOT_DETERMINISTIC
    place.ends("v1", 1)


@REFUSED
@pytest.mark.parametrize(
    ("words", "field"),
    [
        (
            ("set", "env", "deployment/engine-builder", "GIT_TAG=by-hand"),
            "Deployment/engine-builder spec.template.spec.containers.engine-builder.env.GIT_TAG",
        ),
        (("label", "service/engine", "team=none", "--overwrite"), "Service/engine metadata.labels"),
    ],
    ids=["deployment", "service"],
)
def test_drift_by_hand(place: Place, words: tuple[str, ...], field: str) -> None:
    place.install()
    place.kubectl(*words)
    refused = place.refused(PlanRefused, field, check=CheckId.OBJECTS_AS_RELEASED)
    refused(place.promote, "v2")
    place.ends("v1", 1)


@REFUSED
def test_image_that_no_node_can_pull(place: Place) -> None:
    place.stand()
    refused = place.refused(PlanRefused, "ImagePull", check=CheckId.IMAGE_PULLABLE)
    refused(place.promote, "bad-layer")
    place.ends("v1", 1)


@ROLLED_BACK
def test_image_that_cannot_be_pulled_and_was_not_tried(place: Place) -> None:
    place.stand()
    refused = place.refused(PromotionFailed, "ImagePull", cause=CauseId.IMAGE_NOT_PULLED)
    refused(place.promote, "bad-layer", pull_on_nodes=False, require=WITHOUT_PULL)
    place.ends("v1", 3)
    place.nothing_lost()


@REFUSED
def test_migration_hook(place: Place) -> None:
    place.stand()
    refused = place.refused(
        PlanRefused, "Job/migration-", "pre-upgrade", check=CheckId.MIGRATION_NOT_NEEDED
    )
    refused(place.promote, "v2", allow_migrations=False)
    place.ends("v1", 1)


@REFUSED
def test_autoscaler(place: Place) -> None:
    place.install()
    place.kubectl("autoscale", "deployment/engine", "--min=2", "--max=3", "--cpu=80")
    refused = place.refused(PlanRefused, "engine", check=CheckId.REPLICAS_NOT_AUTOSCALED)
    refused(place.promote, "v2")
    place.ends("v1", 1)


@pytest.mark.end(VerdictId.REFUSED, VerdictId.RETURNED)
@pytest.mark.parametrize("status", ["pending-upgrade", "failed"])
def test_latest_revision(place: Place, status: str) -> None:
    place.stand()
    argv = place.upgrade_words("bad-unready", "60s" if status == "pending-upgrade" else "8s")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if status == "pending-upgrade":
            until(status, lambda: place.history()[-1].status == status)
            process.kill()
    finally:
        process.wait(60)
    place.refused(PlanRefused, status, rollback_command(place.target()))(place.promote, "v2")
    place.ends("v1", 2, status=status)
    assert place.rollback().revision == place.first + 2
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(VerdictId.REFUSED, note="revision 2 of somebody else serves v2")
def test_released_by_somebody_while_we_look(place: Place) -> None:
    place.install()

    def release(event: Event) -> None:
        if (event.kind, event.step) == ("step.started", StepId.BASELINE_PROBE):
            subprocess.run(place.upgrade_words("v2", "60s"), check=True, capture_output=True)

    place.hooks.append(release)
    context = place.context()
    place.refused(PlanRefused)(place.promote, "v2", context=context)
    ended = [event.step for event in context.events.all if event.kind == "step.failed"]
    assert ended == [StepId.RECHECK_RELEASE]
    place.ends("v2", 2)


# -- rolled back after its begin -------------------------------------------------------------------


@ROLLED_BACK
@pytest.mark.parametrize(
    ("version", "facts", "cause", "timeout"),
    [
        (
            "bad-crash",
            ("CrashLoopBackOff", "'LOCK_DURATION' is not set"),
            CauseId.CONTAINER_CRASHED,
            150,
        ),
        ("bad-unready", ("statuscode: 503",), CauseId.PODS_NOT_READY, 25),
        ("bad-unhealthy", ("/health", "HTTP 500"), CauseId.HEALTH_FAILED, 150),
        ("bad-slow-ready", ("/readyz",), CauseId.HEALTH_FAILED, 150),
    ],
    ids=[
        "crashes on start",
        "never ready",
        "health answers 500",
        "readyz takes longer than a second",
    ],
)
def test_new_version(
    place: Place, version: str, facts: tuple[str, ...], cause: CauseId, timeout: int
) -> None:
    place.stand()
    refused = place.refused(PromotionFailed, *facts, cause=cause)
    refused(place.promote, version, timeout_seconds=timeout)
    place.ends("v1", 3)
    place.nothing_lost()
    evidence = place.folder / "run-1" / "evidence"
    assert (evidence / "cause.txt").read_text(encoding="utf-8").strip()


@REFUSED
def test_api_that_breaks_clients(place: Place) -> None:
    """Known from the proof, so no client ever meets it."""
    place.stand()
    refused = place.refused(PlanRefused, "/tasks", "status", check=CheckId.API_COMPATIBLE)
    refused(place.promote, "bad-api")
    place.ends("v1", 1)
    place.nothing_lost()


@ROLLED_BACK
def test_api_that_the_proof_does_not_describe(place: Place) -> None:
    """Older evidence: what breaks clients shows once it serves."""
    place.stand()
    refused = place.refused(
        PromotionFailed, "status", cause=CauseId.API_BROKEN, check=CheckId.API_STILL_COMPATIBLE
    )
    refused(
        place.promote,
        "bad-api",
        proven=lambda image: dataclasses.replace(proof(image), api=""),
        require=(*REQUIRE, "!api.compatible"),
    )
    place.ends("v1", 3)
    place.nothing_lost()


@ROLLED_BACK
def test_new_version_with_five_percent_errors(place: Place) -> None:
    place.stand()
    refused = place.refused(
        PromotionFailed,
        "HTTP 500",
        cause=CauseId.REQUESTS_LOST,
        check=CheckId.REQUESTS_ANSWERED,
    )

    def after(_: Release) -> tuple[Check, ...]:
        time.sleep(3)
        return ()

    refused(
        place.promote,
        "bad-leak",
        after=after,
        probing=Probing(path="/work", per_second=50),
    )
    place.ends("v1", 3)
    place.nothing_lost()


@ROLLED_BACK
@pytest.mark.parametrize(
    ("version", "probing"),
    [
        ("bad-late-leak", Probing(path="/work", allowed_failures=10_000)),
        ("bad-logs", Probing(path="/work")),
    ],
    ids=["slow leak of errors", "error logs only"],
)
def test_soak(place: Place, version: str, probing: Probing) -> None:
    """All is well when Helm and the pods are asked; only time shows it."""
    place.stand()
    refused = place.refused(PromotionFailed, cause=CauseId.SOAK_BREACHED, check=CheckId.SOAK_GATES)
    refused(place.promote, version, soak_seconds=90, probing=probing)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(VerdictId.PROMOTED, note="soaked for 15 s; 0 requests lost")
def test_soak_of_a_good_version(place: Place) -> None:
    place.install(drainSeconds=10)
    place.watch()
    promoted = place.promote("v2", soak_seconds=15)
    checks = {check.id: check for check in promoted.checks}
    assert checks[CheckId.SOAK_GATES].passed
    assert Duration(Span.SOAK, 15) in checks[CheckId.SOAK_GATES].measured
    latency = [v for v in checks[CheckId.SOAK_LATENCY].measured if isinstance(v, Latency)]
    assert [each.when for each in latency] == ["before", "during", "soak"]
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(VerdictId.ROLLED_BACK)
def test_chart_without_drain(place: Place, tmp_path: Path) -> None:
    """Pods end at once, and take with them what they are working on."""
    template = copied(place, tmp_path) / "templates" / "engine.yaml"
    text = template.read_text(encoding="utf-8")
    replace(template, next(line for line in text.splitlines() if "preStop:" in line), "")
    place.install()
    refused = place.refused(
        PromotionFailed, cause=CauseId.REQUESTS_LOST, check=CheckId.REQUESTS_ANSWERED
    )
    refused(place.promote, "v2", probing=Probing(path="/slow"))
    place.ends("v1", 3)


@pytest.mark.end(VerdictId.ROLLED_BACK)
def test_chart_without_readiness(place: Place, tmp_path: Path) -> None:
    """Without a readiness probe pods get requests before they listen. Helm says that all is
    well; the promotion has counted."""
    template = copied(place, tmp_path) / "templates" / "engine.yaml"
    text = template.read_text(encoding="utf-8")
    probe = next(line for line in text.splitlines() if "readinessProbe:" in line)
    replace(template, probe, '          command: [sh, -c, "sleep 2; exec python3 /app.py"]')
    place.install()
    place.watch()
    refused = place.refused(
        PromotionFailed, cause=CauseId.REQUESTS_LOST, check=CheckId.REQUESTS_ANSWERED
    )
    refused(place.promote, "v2")
    place.ends("v1", 3)


@ROLLED_BACK
def test_check_after_the_upgrade_fails(place: Place) -> None:
    place.stand()

    def after(_: Release) -> tuple[Check, ...]:
        raise ProofFailed("test_lock_duration failed")

    refused = place.refused(PromotionFailed, "test_lock_duration failed")
    refused(place.promote, "v2", after=after)
    place.ends("v1", 3)
    place.nothing_lost()


@ROLLED_BACK
def test_ctrl_c_in_mid_upgrade(place: Place) -> None:
    place.stand()
    running: list[Context] = []
    place.hooks.append(at_step(StepId.UPGRADE, lambda: running[0].programs.end_all(), later=2.5))
    running.append(place.context())
    refused = place.refused(PromotionFailed, cause=CauseId.INTERRUPTED)
    refused(place.promote, "v2", context=running[0])
    place.ends("v1", 3)
    place.nothing_lost()


@ROLLED_BACK
def test_helm_killed_in_mid_upgrade(place: Place) -> None:
    place.stand()

    killed: list[int] = []

    def shot() -> None:
        killed.extend(processes(place.namespace, "upgrade", "--wait"))
        kill(killed)

    place.hooks.append(at_step(StepId.UPGRADE, shot, later=2.5))
    place.refused(PromotionFailed, "signal 9")(place.promote, "v2")
    assert killed, "helm upgrade had ended before"
    place.ends("v1", 3)
    place.nothing_lost()


@REFUSED
@pytest.mark.parametrize(
    ("replicas", "fact"),
    [
        ({"gateway": 1, "builder": 1}, "free ports"),
        ({"gateway": 2, "builder": 1}, "exceeded quota"),
    ],
    ids=["port", "quota"],
)
def test_no_room_is_known_before(place: Place, replicas: dict[str, int], fact: str) -> None:
    port = fact == "free ports"
    place.install(replicas=replicas, hostPort=30998 if port else 0)
    place.watch()
    if not port:
        place.kubectl("create", "quota", "full", "--hard=pods=4")
    refused = place.refused(PlanRefused, fact, check=CheckId.CAPACITY_SURGE)
    refused(place.promote, "v2")
    place.ends("v1", 1)
    place.nothing_lost()


@ROLLED_BACK
def test_quota(place: Place) -> None:
    place.install()
    place.watch()
    place.kubectl("create", "quota", "full", "--hard=pods=4")
    refused = place.refused(PromotionFailed, "exceeded quota", cause=CauseId.ADMISSION_REFUSED)
    # The quota forbids the pod that tries the pull, too: that is unknown, and may not be required.
    refused(place.promote, "v2", timeout_seconds=20, try_surge=False, require=WITHOUT_PULL)
    place.ends("v1", 3)
    place.nothing_lost()


@ROLLED_BACK
def test_no_room_for_the_surge(place: Place) -> None:
    place.install(replicas={"gateway": 1, "builder": 1}, hostPort=30999)
    place.watch()
    refused = place.refused(PromotionFailed, "free ports", cause=CauseId.NOT_SCHEDULED)
    refused(place.promote, "v2", try_surge=False)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(VerdictId.ROLLED_BACK, note="tokens of the pods work")
def test_service_account_that_is_an_upgrade_hook(place: Place, tmp_path: Path) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path))
    place.install()
    of_account = ("get", "serviceaccount", "engine", "-o", "jsonpath={.metadata.uid}")
    first = place.kubectl(*of_account)
    refused = place.refused(PromotionFailed, "CrashLoopBackOff", cause=CauseId.CONTAINER_CRASHED)
    refused(place.promote, "bad-crash")
    place.ends("v1", 3)
    uid = place.kubectl(*of_account)
    born = place.kubectl(
        "get", "serviceaccount", "engine", "-o", "jsonpath={.metadata.creationTimestamp}"
    )
    pods = place.kubectl(
        "get", "pods", "-l", "app=engine", "-o",
        "jsonpath={range .items[*]}{.metadata.creationTimestamp}{'\\n'}{end}",
    ).split()  # fmt: skip
    assert uid != first, "the chart's hook did not re-create the account"
    assert pods
    assert all(pod >= born for pod in pods), "a pod holds a token of the account that is gone"


@pytest.mark.alone
@EITHER
def test_api_server_away_in_mid_upgrade(place: Place) -> None:
    place.install()
    place.watch()
    node = f"{place.rig.cluster.name}-control-plane"
    docker = str(place.rig.tools.docker)

    def shot() -> None:
        place.programs.run([docker, "exec", node, "pkill", "-KILL", "kube-apiserver"], check=False)

    place.hooks.append(at_step(StepId.UPGRADE, shot, later=2.5))
    try:
        place.promote("v2")
    except PromotionFailed as problem:
        place.row.cause, place.row.message = problem.cause, str(problem)
        place.ends("v1", 3)
    else:
        place.ends("v2", 2)
    place.nothing_lost()


# -- two at once, and killed -----------------------------------------------------------------------


@pytest.mark.end(VerdictId.NOT_PROMOTED, VerdictId.PROMOTED, note="0 requests lost")
def test_two_at_once(place: Place) -> None:
    place.install()
    place.watch()

    def second(_: Release) -> tuple[Check, ...]:
        place.refused(Locked, str(os.getpid()))(place.promote, "v2")
        return ()

    place.promote("v2", after=second)
    place.ends("v2", 2)
    place.nothing_lost()


# -- what nobody could roll back -------------------------------------------------------------------


def elsewhere(place: Place, tool: str, script: Path) -> None:
    """Run the script on another machine: the cluster's node has this one tool, the script, and
    nothing of the project, not even Python."""
    docker, node = str(place.rig.tools.docker), f"{place.rig.cluster.name}-control-plane"
    folder = f"/root/{place.namespace}"

    def run(*words: str) -> str:
        argv = [docker, *words]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    run("exec", node, "mkdir", "-p", f"{folder}/bin")
    run("cp", "--follow-link", str(getattr(place.rig.tools, tool)), f"{node}:{folder}/bin/{tool}")
    run("cp", str(script), f"{node}:{folder}/quick-rollback.sh")
    printed = run(
        "exec", "--env", f"PATH={folder}/bin", "--workdir", "/", node,
        "/bin/sh", f"{folder}/quick-rollback.sh",
        "--kubeconfig", "/etc/kubernetes/admin.conf",
        "--context", f"kubernetes-admin@{place.rig.cluster.name}",
    )  # fmt: skip
    assert printed.strip().endswith("done"), printed


@pytest.mark.end(VerdictId.ROLLBACK_FAILED, note="the script repairs it")
@pytest.mark.parametrize("tool", ["helm", "kubectl"])
def test_rollback_itself_fails(place: Place, tool: str) -> None:
    place.install()
    place.watch()
    record = f"sh.helm.release.v1.{RELEASE}.v1"
    saved = json.loads(place.kubectl("get", "secret", record, "-o", "json"))
    for made in ("resourceVersion", "uid", "creationTimestamp"):
        del saved["metadata"][made]

    def after(_: Release) -> tuple[Check, ...]:
        place.kubectl("delete", "secret", record)
        raise ProofFailed("test_lock_duration failed")

    script = place.folder / "run-1" / "backups" / "quick-rollback.sh"
    refused = place.refused(
        RollbackFailed,
        "test_lock_duration failed",
        str(script),
        f"rollback {RELEASE} 1 --wait",
        "--with kubectl",
    )
    refused(place.promote, "v2", after=after)
    seen = place.end()
    assert (seen.version, seen.revision, seen.status) == ("v2", 2, "deployed")
    assert not seen.holder
    if tool == "helm":
        place.kubectl("create", "-f", "-", input=json.dumps(saved))
    elsewhere(place, tool, script)
    until("the old pods only", lambda: place.end().version == "v1")
    place.ends("v1", 3 if tool == "helm" else 2)
    place.nothing_lost()
