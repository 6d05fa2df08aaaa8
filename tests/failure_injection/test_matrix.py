"""Promotions that are made to go wrong, on a real cluster. Each case asserts how the cluster
ends (what serves, by digest; the release; the lock; requests lost) and that the cause is named.

Whatever fails before the change leaves the release as it is; whatever fails after its begin is
rolled back; what nobody could roll back says so, with the commands. Nothing is tried twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.errors import Locked, PlanRefused, PromotionFailed, ProofFailed, RollbackFailed
from ci.model import Release, RollbackOutcome
from ci.results import StepId
from ci.run.context import Context
from ci.run.events import Event
from ci.settings import Probing
from tests.failure_injection.charts import account_that_is_an_upgrade_hook, add, copied, replace
from tests.failure_injection.rig import RELEASE, Place, at_step, kill, processes, proof, until

pytestmark = pytest.mark.timeout(600)

UNTOUCHED = "refused; revision 1 serves v1"
ROLLED_BACK = "rolled back; v1 serves; 0 requests lost"
PROBES = 2000


# -- what shall work -------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.end(f"promoted; v2 serves; 0 of >= {PROBES} requests lost")
def test_clean_promotion(place: Place) -> None:
    # A starved node takes seconds to lead requests away from a pod that ends; at this rate a
    # drain of three has been seen to lose some, and the promotion to roll back for it.
    place.install(drainSeconds=10)
    enough = 0.0

    def soak(_: Release) -> None:
        time.sleep(max(0.0, enough - time.monotonic()))

    rate = 100.0
    enough = time.monotonic() + PROBES / rate * 1.5
    promoted = place.promote("v2", after=soak, probing=Probing(path="/work", per_second=rate))
    found = {check.name: check.evidence for check in promoted.checks}
    assert found["chart content is the live one"] == "templates byte by byte, defaults by value"
    said = found["requests during the change"]
    counted = re.match(r"(\d+) sent, (\d+) answered, (\d+) failed", said)
    assert counted, said
    place.ends("v2", 2)
    place.row.requests = f"{counted[3]} of {counted[1]}"
    assert int(counted[1]) >= PROBES, said
    assert int(counted[3]) == 0, said


@pytest.mark.end("copied by digest and promoted; v2 serves; 0 requests lost")
def test_image_that_only_the_proving_registry_has(place: Place) -> None:
    place.install()
    place.watch()
    mirror = place.rig.images["v2"].repository.replace("/engine", f"/{place.namespace}")
    promoted = place.promote("v2", image_repository=mirror)
    assert promoted.after.by_digest == f"{mirror}@{place.rig.images['v2'].digest}"
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end("verified; nothing is changed; v1 serves")
def test_image_that_is_served_already(place: Place) -> None:
    place.stand()
    found = place.promote("v1")
    assert not found.changed
    assert (found.from_revision, found.to_revision) == (place.first, place.first)
    checks = {check.name: check.evidence for check in found.checks}
    assert place.rig.images["v1"].digest in checks["the proven digest runs on every pod"]
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end("returned past every revision of the same image; v1 serves; 0 requests lost")
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
    place.refused(PlanRefused, "there is no revision to return to")(place.rollback)
    place.ends("v1", 4)
    place.nothing_lost()


# -- refused before the change ---------------------------------------------------------------------


@pytest.mark.end(UNTOUCHED)
@pytest.mark.parametrize("how", ["absent", "moved"])
def test_tag(place: Place, how: str) -> None:
    place.stand()
    image = place.rig.images["v2"]
    tag = "nowhere" if how == "absent" else "bad-crash"
    says = "not in the registry" if how == "absent" else place.rig.images["bad-crash"].digest
    refused = place.refused(PlanRefused, says, image.digest)
    refused(place.promote, dataclasses.replace(image, tag=tag))
    place.ends("v1", 1)


SMUGGLED: dict[str, tuple[Callable[[Path], None], str]] = {
    "template": (
        lambda chart: replace(
            chart / "templates/engine.yaml", "failureThreshold: 30", "failureThreshold: 3"
        ),
        "engine.yaml differs",
    ),
    "default": (
        lambda chart: replace(chart / "values.yaml", "builder: 1", "builder: 2"),
        "replicas.builder differs",
    ),
    "environment": (
        lambda chart: replace(
            chart / "templates/engine.yaml",
            "- {name: GIT_TAG,",
            "- {name: MODE, value: other}\n            - {name: GIT_TAG,",
        ),
        "engine.yaml differs",
    ),
    "configmap": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\ndata: {lock: 30s}\n",
        ),
        "ConfigMap/more",
    ),
    "secret": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: more}\n"
            "stringData: {password: {{ .Values.password | quote }} }\n",
        ),
        "Secret/more",
    ),
    "hook": (
        add(
            "more.yaml",
            "apiVersion: v1\nkind: ServiceAccount\n"
            'metadata: {name: more, annotations: {"helm.sh/hook": pre-upgrade}}\n',
        ),
        "ServiceAccount/more (hook)",
    ),
}


@pytest.mark.end(UNTOUCHED)
@pytest.mark.parametrize("what", SMUGGLED)
def test_smuggled_into_the_chart(place: Place, what: str, tmp_path: Path) -> None:
    if what == "default":
        place.install()  # the one that stands is given its replicas: no default counts there
    else:
        place.stand()
    change, says = SMUGGLED[what]
    change(copied(place, tmp_path))
    place.refused(PlanRefused, says)(place.promote, "v2")
    place.ends("v1", 1)


@pytest.mark.end("promoted with the chart's new default; v2 serves; 0 requests lost")
def test_chart_changed_on_purpose(place: Place, tmp_path: Path) -> None:
    place.install()
    place.watch()
    chart = copied(place, tmp_path)
    for what in ("default", "configmap"):
        SMUGGLED[what][0](chart)
    promoted = place.promote("v2", chart_change=True)
    said = {check.name: check.evidence for check in promoted.checks}
    assert "replicas.builder differs" in said["the chart is changed on purpose"]
    plan = (place.rig.folder / place.namespace / "run-1" / "plan.txt").read_text("utf-8")
    assert "ConfigMap/more data.lock: absent -> 30s (the chart, changed on purpose)" in plan
    replicas = ("get", "deployment", "engine-builder", "-o", "jsonpath={.spec.replicas}")
    assert place.kubectl(*replicas) == "2", "--reuse-values would have kept the old default"
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end(UNTOUCHED)
def test_secret_that_is_random(place: Place, tmp_path: Path) -> None:
    add(
        "random.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: random}\n"
        "stringData: {key: {{ randAlpha 8 | quote }} }\n",
    )(copied(place, tmp_path))
    place.install()
    place.refused(PlanRefused, "Secret/random", "not deterministic")(place.promote, "v2")
    place.ends("v1", 1)


@pytest.mark.end(UNTOUCHED)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("set", "env", "deployment/engine-builder", "GIT_TAG=by-hand"),
            "Deployment/engine-builder spec.template.spec.containers.engine-builder.env.GIT_TAG",
        ),
        (("label", "service/engine", "team=none", "--overwrite"), "Service/engine metadata.labels"),
    ],
    ids=["deployment", "service"],
)
def test_drift_by_hand(place: Place, words: tuple[str, ...], says: str) -> None:
    place.install()
    place.kubectl(*words)
    refused = place.refused(PlanRefused, "changed by hand", says)
    refused(place.promote, "v2")
    place.ends("v1", 1)


@pytest.mark.end(UNTOUCHED)
def test_image_that_no_node_can_pull(place: Place) -> None:
    place.stand()
    refused = place.refused(PlanRefused, "cannot pull", "ImagePull")
    refused(place.promote, "bad-layer")
    place.ends("v1", 1)


@pytest.mark.end(ROLLED_BACK)
def test_image_that_cannot_be_pulled_and_was_not_tried(place: Place) -> None:
    place.stand()
    refused = place.refused(PromotionFailed, "cannot start", "ImagePull", "rolled back")
    refused(place.promote, "bad-layer", pull_on_nodes=False)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(UNTOUCHED)
def test_migration_hook(place: Place) -> None:
    place.stand()
    refused = place.refused(PlanRefused, "migrates a database", "Job/migration-1", "pre-upgrade")
    refused(place.promote, "v2", allow_migrations=False)
    place.ends("v1", 1)


@pytest.mark.end(UNTOUCHED)
def test_autoscaler(place: Place) -> None:
    place.install()
    place.kubectl("autoscale", "deployment/engine", "--min=2", "--max=3", "--cpu=80")
    place.refused(PlanRefused, "engine", "autoscaler")(place.promote, "v2")
    place.ends("v1", 1)


@pytest.mark.end("refused; revision 1 serves v1; then rolled back by command")
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
    place.refused(PlanRefused, status, "rollback")(place.promote, "v2")
    place.ends("v1", 2, status=status)
    assert place.rollback().revision == place.first + 2
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end("refused; revision 2 of somebody else serves v2")
def test_released_by_somebody_while_we_look(place: Place) -> None:
    place.install()

    def release(event: Event) -> None:
        if (event.kind, event.step) == ("step.started", StepId.BASELINE_PROBE):
            subprocess.run(place.upgrade_words("v2", "60s"), check=True, capture_output=True)

    place.hooks.append(release)
    place.refused(PlanRefused, "now at revision 2", "somebody else")(place.promote, "v2")
    place.ends("v2", 2)


# -- rolled back after its begin -------------------------------------------------------------------


@pytest.mark.end(ROLLED_BACK)
@pytest.mark.parametrize(
    ("version", "says", "timeout"),
    [
        ("bad-crash", ("CrashLoopBackOff", "'LOCK_DURATION' is not set"), 150),
        ("bad-unready", ("readiness probe failed", "statuscode: 503"), 25),
        ("bad-unhealthy", ("not healthy", "/health", "HTTP 500"), 150),
        ("bad-slow-ready", ("not healthy", "/readyz", "the limit is 1 s"), 150),
    ],
    ids=[
        "crashes on start",
        "never ready",
        "health answers 500",
        "readyz takes longer than a second",
    ],
)
def test_new_version(place: Place, version: str, says: tuple[str, ...], timeout: int) -> None:
    place.stand()
    refused = place.refused(PromotionFailed, f"rolled back to revision {place.first}", *says)
    refused(place.promote, version, timeout_seconds=timeout)
    place.ends("v1", 3)
    place.nothing_lost()
    evidence = place.folder / "run-1" / "evidence"
    assert (evidence / "cause.txt").read_text(encoding="utf-8").strip()


@pytest.mark.end(UNTOUCHED)
def test_api_that_breaks_clients(place: Place) -> None:
    """Known from the proof, so no client ever meets it."""
    place.stand()
    refused = place.refused(PlanRefused, "break clients", "GET /tasks, 200: the field status")
    refused(place.promote, "bad-api")
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end(ROLLED_BACK)
def test_api_that_the_proof_does_not_describe(place: Place) -> None:
    """Older evidence: what breaks clients shows once it serves."""
    place.stand()
    refused = place.refused(PromotionFailed, "the field status is gone", "rolled back")
    refused(
        place.promote, "bad-api", proven=lambda image: dataclasses.replace(proof(image), api="")
    )
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end("rolled back; v1 serves")
def test_new_version_with_five_percent_errors(place: Place) -> None:
    place.stand()
    refused = place.refused(PromotionFailed, "requests were lost", "HTTP 500", "rolled back")
    refused(
        place.promote,
        "bad-leak",
        after=lambda _: time.sleep(3),
        probing=Probing(path="/work", per_second=50),
    )
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end("breached while it soaked; rolled back; v1 serves")
@pytest.mark.parametrize(
    ("version", "says", "probing"),
    [
        (
            "bad-late-leak",
            "of the requests failed while it soaked",
            Probing(path="/work", allowed_failures=10_000),
        ),
        ("bad-logs", "error lines", Probing(path="/work")),
    ],
    ids=["slow leak of errors", "error logs only"],
)
def test_soak(place: Place, version: str, says: str, probing: Probing) -> None:
    """All is well when Helm and the pods are asked; only time shows it."""
    place.stand()
    refused = place.refused(PromotionFailed, says, f"rolled back to revision {place.first}")
    refused(place.promote, version, soak_seconds=90, probing=probing)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end("soaked for 15 s and promoted; v2 serves; 0 requests lost")
def test_soak_of_a_good_version(place: Place) -> None:
    place.install(drainSeconds=10)
    place.watch()
    promoted = place.promote("v2", soak_seconds=15)
    said = {check.name: check.evidence for check in promoted.checks}
    assert said["no gate was breached in the soak"] == "15 s"
    assert "before" in said["latency, median/95 %"]
    place.ends("v2", 2)
    place.nothing_lost()


@pytest.mark.end("rolled back; v1 serves")
def test_chart_without_drain(place: Place, tmp_path: Path) -> None:
    """Pods end at once, and take with them what they are working on."""
    template = copied(place, tmp_path) / "templates" / "engine.yaml"
    text = template.read_text(encoding="utf-8")
    replace(template, next(line for line in text.splitlines() if "preStop:" in line), "")
    place.install()
    refused = place.refused(PromotionFailed, "requests were lost", "without an answer", "rolled")
    refused(place.promote, "v2", probing=Probing(path="/slow"))
    place.ends("v1", 3)


@pytest.mark.end("rolled back; v1 serves")
def test_chart_without_readiness(place: Place, tmp_path: Path) -> None:
    """Without a readiness probe pods get requests before they listen. Helm says that all is
    well; the promotion has counted."""
    template = copied(place, tmp_path) / "templates" / "engine.yaml"
    text = template.read_text(encoding="utf-8")
    probe = next(line for line in text.splitlines() if "readinessProbe:" in line)
    replace(template, probe, '          command: [sh, -c, "sleep 2; exec python3 /app.py"]')
    place.install()
    place.watch()
    refused = place.refused(PromotionFailed, "requests were lost", "rolled back")
    refused(place.promote, "v2")
    place.ends("v1", 3)


@pytest.mark.end(ROLLED_BACK)
def test_check_after_the_upgrade_fails(place: Place) -> None:
    place.stand()

    def after(_: Release) -> None:
        raise ProofFailed("test_lock_duration failed")

    refused = place.refused(PromotionFailed, "test_lock_duration failed", "rolled back")
    refused(place.promote, "v2", after=after)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(ROLLED_BACK)
def test_ctrl_c_in_mid_upgrade(place: Place) -> None:
    place.stand()
    running: list[Context] = []
    place.hooks.append(at_step(StepId.UPGRADE, lambda: running[0].programs.end_all(), later=2.5))
    running.append(place.context())
    refused = place.refused(PromotionFailed, "interrupted", "rolled back")
    refused(place.promote, "v2", context=running[0])
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(ROLLED_BACK)
def test_helm_killed_in_mid_upgrade(place: Place) -> None:
    place.stand()

    def shot() -> None:
        kill(processes(place.namespace, "upgrade", "--wait"))

    place.hooks.append(at_step(StepId.UPGRADE, shot, later=2.5))
    place.refused(PromotionFailed, "ended by signal 9", "rolled back")(place.promote, "v2")
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(UNTOUCHED)
@pytest.mark.parametrize(
    ("replicas", "says"),
    [
        ({"gateway": 1, "builder": 1}, "free ports"),
        ({"gateway": 2, "builder": 1}, "exceeded quota"),
    ],
    ids=["port", "quota"],
)
def test_no_room_is_known_before(place: Place, replicas: dict[str, int], says: str) -> None:
    port = says == "free ports"
    place.install(replicas=replicas, hostPort=30998 if port else 0)
    place.watch()
    if not port:
        place.kubectl("create", "quota", "full", "--hard=pods=4")
    refused = place.refused(PlanRefused, "no room", says)
    refused(place.promote, "v2")
    place.ends("v1", 1)
    place.nothing_lost()


@pytest.mark.end(ROLLED_BACK)
def test_quota(place: Place) -> None:
    place.install()
    place.watch()
    place.kubectl("create", "quota", "full", "--hard=pods=4")
    refused = place.refused(PromotionFailed, "exceeded quota", "rolled back to revision 1")
    refused(place.promote, "v2", timeout_seconds=20, try_surge=False)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end(ROLLED_BACK)
def test_no_room_for_the_surge(place: Place) -> None:
    place.install(replicas={"gateway": 1, "builder": 1}, hostPort=30999)
    place.watch()
    refused = place.refused(PromotionFailed, "free ports", "rolled back")
    refused(place.promote, "v2", try_surge=False)
    place.ends("v1", 3)
    place.nothing_lost()


@pytest.mark.end("rolled back; v1 serves with tokens that work")
def test_service_account_that_is_an_upgrade_hook(place: Place, tmp_path: Path) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path))
    place.install()
    context = place.context()
    refused = place.refused(PromotionFailed, "CrashLoopBackOff", "rolled back")
    refused(place.promote, "bad-crash", context=context)
    notes = [event.text for event in context.events.all if "re-created" in event.text]
    assert notes, "the re-created ServiceAccount was not named"
    assert "helm.sh/hook: pre-install" in notes[-1]
    place.ends("v1", 3)
    uid = place.kubectl("get", "serviceaccount", "engine", "-o", "jsonpath={.metadata.uid}")
    born = place.kubectl(
        "get", "serviceaccount", "engine", "-o", "jsonpath={.metadata.creationTimestamp}"
    )
    pods = place.kubectl(
        "get", "pods", "-l", "app=engine", "-o",
        "jsonpath={range .items[*]}{.metadata.creationTimestamp}{'\\n'}{end}",
    ).split()  # fmt: skip
    assert uid
    assert pods
    assert all(pod >= born for pod in pods), "a pod holds a token of the account that is gone"


@pytest.mark.alone
@pytest.mark.end("promoted or rolled back, whole; 0 requests lost")
def test_api_server_away_in_mid_upgrade(place: Place) -> None:
    place.install()
    place.watch()
    node = f"{place.rig.cluster.name}-control-plane"
    docker = str(place.rig.tools.docker)

    def shot() -> None:
        place.programs.run([docker, "exec", node, "pkill", "-KILL", "kube-apiserver"], check=False)

    place.hooks.append(at_step(StepId.UPGRADE, shot, later=2.5))
    failed = ""
    try:
        place.promote("v2")
    except PromotionFailed as problem:
        failed = place.row.cause = str(problem)
    if failed:
        assert "rolled back" in failed
        place.ends("v1", 3)
    else:
        place.ends("v2", 2)
    place.nothing_lost()


# -- two at once, and killed -----------------------------------------------------------------------


@pytest.mark.end("the second is refused; the first promotes; 0 requests lost")
def test_two_at_once(place: Place) -> None:
    place.install()
    place.watch()

    def second(_: Release) -> None:
        place.refused(Locked, "another promotion", str(os.getpid()))(place.promote, "v2")

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
    said = run(
        "exec", "--env", f"PATH={folder}/bin", "--workdir", "/", node,
        "/bin/sh", f"{folder}/quick-rollback.sh",
        "--kubeconfig", "/etc/kubernetes/admin.conf",
        "--context", f"kubernetes-admin@{place.rig.cluster.name}",
    )  # fmt: skip
    assert said.strip().endswith("done"), said


@pytest.mark.end("RollbackFailed with the commands; the script repairs; v1 serves")
@pytest.mark.parametrize("tool", ["helm", "kubectl"])
def test_rollback_itself_fails(place: Place, tool: str) -> None:
    place.install()
    place.watch()
    record = f"sh.helm.release.v1.{RELEASE}.v1"
    saved = json.loads(place.kubectl("get", "secret", record, "-o", "json"))
    for made in ("resourceVersion", "uid", "creationTimestamp"):
        del saved["metadata"][made]

    def after(_: Release) -> None:
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
