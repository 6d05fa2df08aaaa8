"""The whole stage against programs and an API that only remember: what is asked of Helm
and in which order, when all is well, when something is refused, and when the upgrade fails."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import Digest
from ci.errors import (
    CommandFailed,
    EvidenceRefused,
    Locked,
    PlanRefused,
    PromotionFailed,
    ProofFailed,
    RegistryRefused,
    RollbackFailed,
    VerifyFailed,
)
from ci.model import (
    BackupsRecord,
    Case,
    ChangeRecord,
    Cluster,
    Image,
    PlanRecord,
    Promotion,
    Proof,
    Release,
    Rollback,
    RollbackOutcome,
    Target,
)
from ci.promotion.probes import canary
from ci.promotion.release import health, lease, reader
from ci.promotion.release import manifest as manifest_
from ci.promotion.release.baseline import Before
from ci.promotion.release.session import TargetSession
from ci.promotion.rollback import recovery, requested
from ci.promotion.upgrade import upgrade as upgrade_
from ci.promotion.upgrade.post_upgrade_test import After
from ci.report import files
from ci.results import (
    Because,
    CauseId,
    ChangeState,
    ChartRef,
    Check,
    CheckId,
    HttpAnswer,
    Names,
    Outcome,
    Phase,
    StepId,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.run import changes
from ci.run.context import Context
from ci.run.events import CHANGE, CHECK, Events
from ci.settings import Probing, Settings
from ci.stages import promote
from ci.tools import api
from ci.tools.api import Answer
from ci.tools.command import Output, Programs
from ci.tools.wait import Cancellable, SystemClock

REPOSITORY = "registry:5000/model-engine"
OLD, NEW = Digest.from_hex("a" * 64), Digest.from_hex("b" * 64)
CHART = "name: model-engine\nversion: 0.1.13\n"


@dataclass
class World:
    """What the programs know. ``asked`` are the changes of the target, in their order."""

    tag: str = "old"
    history: list[dict[str, Any]] = field(
        default_factory=lambda: [_revision(1, "deployed", "Install complete")]
    )
    tags: dict[int, str] = field(default_factory=lambda: {1: "old"})
    """Of every revision."""
    asked: list[str] = field(default_factory=list)
    lease: dict[str, Any] = field(default_factory=dict)
    render: Callable[[str], str] = lambda tag: _manifest(tag)
    replicas: int = 1
    upgrade_status: int = 0
    upgrade_does: Callable[[], object] = lambda: None
    rollback_error: str = ""
    api: str = "nothing of the kind"
    record: dict[str, Any] = field(default_factory=dict)
    """Of revision 1, where it may be read."""
    left: list[str] = field(default_factory=list)
    """Pods of runs that were killed."""
    more: dict[str, Any] = field(default_factory=dict)
    """Values beside the tag."""
    digests: dict[str, str] = field(default_factory=lambda: {"old": OLD, "new": NEW})
    """What the pods run, by tag."""
    lost_answers: int = 0
    """How many of the next lease writes are done without their answer coming back."""

    def helm(self, words: list[str]) -> Output:
        match words:
            case ["history", *_]:
                return Output(0, json.dumps(self.history), "")
            case ["get", "values" | "manifest" | "hooks", *_] if self.record:
                raise AssertionError("it is in the record")
            case ["get", "values", *rest]:
                return Output(0, json.dumps({"tag": self.tag_of(rest), **self.more}), "")
            case ["get", "manifest", *rest]:
                return Output(0, _manifest(self.tag_of(rest)), "")
            case ["get", "hooks", *_]:
                return Output(0, "", "")
            case ["upgrade", *rest] if "--dry-run=server" in rest:
                sets = [w.partition("=")[2] for w in rest if w.startswith("tag=")]
                manifest = self.render(sets[0] if sets else self.tag)
                made = {"manifest": manifest, "hooks": [], "version": len(self.history) + 1}
                return Output(0, json.dumps(made), "")
            case ["rollback", _, number, *_]:
                self.asked.append(f"rollback {number}")
                if self.rollback_error:
                    return Output(1, "", self.rollback_error)
                self.tag, self.replicas = self.tags[int(number)], 1
                for line in self.history:
                    if line["status"] == "deployed":
                        line["status"] = "superseded"
                self.add("deployed", f"Rollback to {number}", self.tag)
                return Output(0, "", "")
        raise AssertionError(words)

    def add(self, status: str, description: str, tag: str) -> None:
        self.history.append(_revision(len(self.history) + 1, status, description))
        self.tags[len(self.history)] = tag

    def tag_of(self, words: list[str]) -> str:
        """Of the revision that helm is asked about."""
        if "--revision" not in words:
            return self.tag
        return self.tags[int(words[words.index("--revision") + 1])]

    def upgrade(self, words: Sequence[str]) -> int:
        self.asked.append("upgrade")
        assert "--reuse-values" in words
        assert "--wait" in words
        assert "--atomic" not in words
        self.tag = next(w for w in words if w.startswith("tag=")).partition("=")[2]
        status = "failed" if self.upgrade_status else "deployed"
        self.history[-1]["status"] = "superseded"
        self.add(status, "promoted", self.tag)
        self.upgrade_does()
        return self.upgrade_status

    def kubectl(self, words: list[str]) -> Output:
        match words:
            case ["get" | "describe" | "logs", *_]:
                self.asked += [] if "evidence" in self.asked[-1:] else ["evidence"]
                return Output(0, "text", "")
        raise AssertionError(words)

    def api_(self, method: str, path: str, *, body: Any, query: Any, **_: object) -> Answer:
        if query and "labelSelector" in query:
            kind = query["labelSelector"].removeprefix("queue-timeout-gate/").removesuffix("=rel")
            named = [{"metadata": {"name": name}} for name in self.left if kind in name]
            return said({"items": named})
        match (method, path.rpartition("/namespaces/launch/")[2].split("/")):
            case ("GET", ["", "api", "v1", "namespaces", "launch"]):
                return said({"kind": "Namespace"})
            case ("GET", ["deployments" | "replicasets" | "pods" | "endpointslices" as kind]):
                kinds = (item for item in self.items() if f"{item['kind'].lower()}s" == kind)
                return said({"items": list(kinds)})
            case ("GET", ["", "apis", "apps", "v1"]):
                known = {"kind": "Deployment", "name": "deployments", "namespaced": True}
                return said({"resources": [known]})
            case ("GET", ["deployments", _]):
                return said(self.items()[0])
            case ("DELETE", ["pods", name]):
                self.left.remove(name)
                self.asked.append(f"remove {name}")
                return said({})
            case ("GET", ["leases", _]):
                return said(self.lease) if self.lease else Answer(404, "")
            case ("POST" | "PUT", ["leases", *_]):
                return self.write_lease(body)
            case ("GET", ["secrets", _]):
                if self.record:
                    return said({"data": {"release": packed(self.record)}})
                return Answer(403, "forbidden")
            case ("GET", ["pods", _, "log"]):
                return Answer(200, "2026-11-23T10:00:00.000000000Z serving\n")
            case ("GET", ["horizontalpodautoscalers" | "serviceaccounts" | "events" | "services"]):
                return said({"items": []})
            case ("GET", ["services", *rest]):
                return Answer(200, self.api if rest[-1] == "openapi.json" else "ok")
        raise AssertionError((method, path))

    def write_lease(self, given: dict[str, Any]) -> Answer:
        """As the API server does it: who does not know the newest version is refused."""
        version = self.lease.get("metadata", {}).get("resourceVersion", "")
        if given["metadata"].get("resourceVersion", "") != version:
            return Answer(409, "the object has been modified; please apply your changes to it")
        self.lease = json.loads(json.dumps(given))
        self.lease["metadata"]["resourceVersion"] = str(int(version or 0) + 1)
        if self.lost_answers:
            self.lost_answers -= 1
            return Answer(0, "read: connection reset by peer")
        return said(self.lease)

    def items(self) -> list[dict[str, Any]]:
        """A Deployment that is always done rolling over."""
        container = {"name": "model-engine", "image": f"{REPOSITORY}:{self.tag}"}
        digest = self.digests[self.tag]
        one = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
        spec = {"replicas": self.replicas, "template": {"spec": {"containers": [container]}}}
        return [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "model-engine", "generation": 1},
                "spec": spec,
                "status": {"observedGeneration": 1, **one},
            },
            {"kind": "ReplicaSet", "metadata": _owned("rs", "model-engine")},
            {
                "kind": "Pod",
                "metadata": _owned("pod", "rs"),
                "spec": {"containers": [container]},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {"name": "model-engine", "imageID": f"{REPOSITORY}@{digest}"}
                    ],
                },
            },
            {
                "kind": "EndpointSlice",
                "metadata": {
                    "name": "s",
                    "labels": {"kubernetes.io/service-name": "model-engine"},
                },
                "endpoints": [{"targetRef": {"name": "pod"}, "conditions": {"ready": True}}],
            },
        ]


def _owned(name: str, owner: str) -> dict[str, Any]:
    return {"name": name, "uid": name, "ownerReferences": [{"controller": True, "name": owner}]}


def _revision(number: int, status: str, description: str) -> dict[str, Any]:
    chart = "model-engine-0.1.13"
    return {"revision": number, "status": status, "chart": chart, "description": description}


def _manifest(tag: str, replicas: int = 1) -> str:
    return (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: model-engine}\nspec:\n"
        f"  replicas: {replicas}\n  template: {{spec: {{containers: [{{name: model-engine,"
        f" image: '{REPOSITORY}:{tag}'}}]}}}}\n"
    )


def said(body: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(body))


class FakePrograms(Programs):
    """Answers from the world; starts nothing."""

    world: World

    def unlogged(self) -> Programs:
        return type(self)(env=self.env, cancel=self.cancel, redactor=self.redactor)

    def run(self, argv: Sequence[Any], **how: Any) -> Output:
        words = [str(word) for word in argv]
        answer = self._answer(words)
        if how.get("check", True) and answer.status != 0:
            output = Output(answer.status, answer.stdout, answer.stderr)
            raise self._failure(tuple(words), output, how.get("error", CommandFailed), None)
        return answer

    def _answer(self, words: list[str]) -> Output:
        match words[0]:
            case "helm":
                return self.world.helm(words[7:])
            case "kubectl":
                return self.world.kubectl(words[5:])
            case "sh":
                return Output(0, "", "")
        raise AssertionError(words)

    @contextmanager
    def background(self, argv: Sequence[Any], **how: Any) -> Iterator[Any]:
        status = self.world.upgrade([str(word) for word in argv])
        polled = iter((None, status))  # it is still at work when it is looked at first
        yield SimpleNamespace(poll=lambda: next(polled, status), returncode=status)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    healthy = (passed(CheckId.HEALTH_PATH, HttpAnswer(200), subject="/readyz"),)
    accepted = frozenset({NEW})
    monkeypatch.setattr(health, "health", lambda *a, **k: healthy)
    monkeypatch.setattr(
        promote, "proven_image", lambda _, proof: (proof.image, accepted), raising=True
    )
    monkeypatch.setattr(
        requested, "resolved", lambda _, image: (world.digests[image.rpartition(":")[2]],)
    )
    monkeypatch.setattr(FakePrograms, "world", world, raising=False)
    monkeypatch.setattr(api, "ask", lambda _, *words, **more: world.api_(*words, **more))
    return world


@pytest.fixture
def context(tmp_path: Path, world: World) -> Context:
    (tmp_path / "chart").mkdir()
    (tmp_path / "chart" / "Chart.yaml").write_text(CHART)
    (tmp_path / "kubeconfig").write_text("contexts: [{name: launch}]")
    programs = FakePrograms(env={})
    clock = Cancellable(SystemClock(), programs.cancel)
    tools = SimpleNamespace(helm="helm", kubectl="kubectl", registry=None)
    return Context(
        root=tmp_path,
        settings=Settings(),
        tools=tools,  # type: ignore[arg-type]
        programs=programs,
        clock=clock,
        events=Events(clock),
        run_dir=tmp_path / "run",
        home=None,  # type: ignore[arg-type]
    )


def target_of(context: Context) -> Target:
    root = context.root
    cluster = Cluster("launch", root / "kubeconfig", "launch", True)
    return Target(
        "prod", cluster, "launch", "rel", root / "chart", REPOSITORY,
        probing=Probing(per_second=0), pull_on_nodes=False, try_surge=False, require=REQUIRE,
    )  # fmt: skip


REQUIRE = ("release.*", "pods.*", "health.proven", "backup.*", "rollback.*", "image.published")
"""What can be checked in this world."""


def opened(context: Context, **changed: Any) -> TargetSession:
    return TargetSession.open(context, replace(target_of(context), **changed))


def proof_of(tag: str = "new") -> Proof:
    image = Image(REPOSITORY, tag, NEW)
    cases = (Case("test", Outcome.PASSED, 0.1, shows=(CheckId.HEALTH_PROVEN.value,)),)
    api = json.dumps({"paths": {"/readyz": {"get": {}}}})
    return Proof(image, cases, Path("junit.xml"), datetime(2026, 11, 23, tzinfo=UTC), api=api)


def go(
    context: Context,
    after: After | None = None,
    *,
    tag: str = "new",
    changed: Mapping[str, Any] | None = None,
    **how: Any,
) -> Promotion:
    session = opened(context, **(changed or {}))
    return promote.promote(session, proof_of(tag), after=after, **how)


def stands(context: Context) -> ChangeRecord:
    """Where the target stands, as a reader of the run's events sees it."""
    found = changes.latest(e.data for e in context.events.all if e.kind == CHANGE)
    assert found is not None
    return found


def states(context: Context) -> list[str]:
    return [e.data["state"] for e in context.events.all if e.kind == CHANGE]


def by_id(checks: Sequence[Check]) -> dict[CheckId, Check]:
    return {check.id: check for check in checks}


def heard(into: list[Release]) -> After:
    """Keeps the releases that it is asked to test, and finds nothing wrong."""

    def after(release: Release) -> tuple[Check, ...]:
        into.append(release)
        return ()

    return after


def test_a_clean_promotion(context: Context, world: World) -> None:
    releases: list[Release] = []
    done = go(context, heard(releases))
    assert world.asked == ["upgrade"]
    assert (done.before.digest, done.after.digest) == (OLD, NEW)
    assert (done.from_revision, done.to_revision) == (1, 2)
    assert releases[0].revision == 2
    assert [group.phase for group in done.groups] == [Phase.BEFORE, Phase.DURING]
    assert not any(check.failed for check in done.checks)
    assert done.changed
    assert states(context)[-2:] == [ChangeState.UNDER_WAY, ChangeState.PROMOTED]
    stood = stands(context)
    assert stood.before is not None
    assert stood.after is not None
    assert (stood.before.tag, stood.after.tag) == ("old", "new")
    assert (stood.from_revision, stood.to_revision, stood.live_revision) == (1, 2, 2)
    recorded = [e.data["check"]["id"] for e in context.events.all if e.kind == CHECK]
    assert recorded == [check.id for check in done.checks], "each as soon as it was made"
    assert done.backups is not None
    assert (done.backups / "quick-rollback.sh").exists()
    assert world.lease["spec"]["holderIdentity"] == ""
    assert lease.journal(world.lease)["step"] == "done"


def test_what_killed_runs_left_goes_first(context: Context, world: World) -> None:
    world.left = ["promotion-prober-1", "promotion-pull-2"]
    go(context)
    assert world.asked == ["remove promotion-pull-2", "remove promotion-prober-1", "upgrade"]


HOOK = {"metadata": {"name": "h", "annotations": {"helm.sh/hook": "pre-upgrade,post-upgrade"}}}


@pytest.mark.parametrize(
    ("served", "hooks", "begins"),
    [
        (OLD, {}, True),
        (NEW, {}, False),  # what serves before the upgrade is no different
        (OLD, {("v1", "Job", "", "h"): HOOK}, False),  # Helm goes on once all is up
    ],
)
def test_the_check_begins_before_helm_ends_where_the_change_shows(
    context: Context, served: str, hooks: dict[manifest_.Key, Any], begins: bool
) -> None:
    target = Target(
        "prod", Cluster("launch", context.root / "kubeconfig", "launch", True), "launch", "rel",
        context.root / "chart", REPOSITORY,
    )  # fmt: skip
    before = SimpleNamespace(
        deployments=("model-engine",),
        digests=frozenset({served}),
        image=Image(REPOSITORY, "old", Digest(served)),
        rendered=manifest_.Rendered({}, hooks),
    )
    wanted = upgrade_.released_as(target, 2, Image(REPOSITORY, "new", NEW))
    begun: list[Release] = []
    session = TargetSession.open(context, target)
    upgrade_.upgrade(session, cast(Before, before), wanted, frozenset({NEW}), up=begun.append)
    assert begun == ([wanted] if begins else [])


def packed(record: dict[str, Any]) -> str:
    compressed = gzip.compress(json.dumps(record).encode())
    return base64.b64encode(base64.b64encode(compressed)).decode()


def test_a_release_whose_record_may_be_read_is_read_at_once(context: Context, world: World) -> None:
    world.record = {
        "config": {"tag": "old"}, "manifest": _manifest("old"),  # no hooks: Helm leaves them out
        "chart": {"templates": [], "values": {}},
    }  # fmt: skip
    chart = "model-engine-0.1.13"
    done = go(context)
    assert by_id(done.checks)[CheckId.CHART_UNCHANGED] == passed(
        CheckId.CHART_UNCHANGED, ChartRef(chart, chart)
    )
    world.history, world.tag = [_revision(1, "deployed", "")], "old"
    world.record["chart"]["values"] = {"replicas": 3}
    with pytest.raises(PlanRefused) as caught:
        go(context)
    differing = Names(Unit.FILES, ("values.yaml: replicas",), 1)
    assert failed(CheckId.CHART_UNCHANGED, differing) in caught.value.checks


def test_a_chart_that_cannot_be_read_is_not_called_unchanged(
    context: Context, world: World
) -> None:
    check = by_id(go(context).checks)[CheckId.CHART_UNCHANGED]
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, Because.NO_ANSWER)


def refuse_pending(world: World) -> None:
    world.history.append(_revision(2, "pending-upgrade", "Preparing upgrade"))


def refuse_more(world: World) -> None:
    world.render = lambda tag: _manifest(tag, replicas=1 if tag == "old" else 5)


def refuse_random(world: World) -> None:
    numbers = iter(range(1, 100))
    world.render = lambda tag: _manifest(tag, replicas=next(numbers))


def refuse_drift(world: World) -> None:
    world.replicas = 4


def refuse_api(world: World) -> None:
    world.api = json.dumps({"paths": {"/tasks": {"get": {}}, "/readyz": {"get": {}}}})


def refuse_killed(world: World) -> None:
    world.history = [_revision(1, "superseded", ""), _revision(2, "deployed", "")]
    notes = {f"{lease.ANNOTATION}{k}": v for k, v in (("step", "upgrading"), ("revision", "1"))}
    world.lease = {"metadata": {"annotations": notes, "resourceVersion": "1"}, "spec": {}}


@pytest.mark.parametrize(
    ("prepare", "said", "check"),
    [
        (refuse_pending, "pending-upgrade", None),
        (refuse_more, "Deployment/model-engine spec.replicas: 1 -> 5", None),
        (refuse_random, "not deterministic", None),
        (refuse_drift, "spec.replicas", CheckId.OBJECTS_AS_RELEASED),
        (refuse_killed, "killed in the middle", None),
        (refuse_api, "/tasks is gone", CheckId.API_COMPATIBLE),
    ],
)
def test_a_refusal_leaves_the_target_untouched(
    context: Context,
    world: World,
    prepare: Callable[[World], None],
    said: str,
    check: CheckId | None,
) -> None:
    prepare(world)
    with pytest.raises(PlanRefused, match=said) as caught:
        go(context)
    assert [each.id for each in caught.value.checks if each.failed] == ([check] if check else [])
    assert set(states(context)) == {ChangeState.UNTOUCHED}
    assert world.asked == []
    assert world.tag == "old"
    assert world.lease["spec"]["holderIdentity"] == ""  # the lock is free again


def test_another_holder_is_waited_for_by_nobody(context: Context, world: World) -> None:
    now = datetime.now(UTC).isoformat()
    spec = {"holderIdentity": "h/other/1/2/r", "renewTime": now, "leaseDurationSeconds": 30}
    world.lease = {"metadata": {"resourceVersion": "1"}, "spec": spec}
    with pytest.raises(Locked, match="process 1 on h"):
        go(context)
    assert world.asked == []
    assert world.lease["spec"]["holderIdentity"] == "h/other/1/2/r"


def after_fails(_: object) -> tuple[Check, ...]:
    raise PromotionFailed("the lock duration is ignored")


def after_is_interrupted(_: object) -> tuple[Check, ...]:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("status", "after", "said", "cause"),
    [
        (1, None, "helm upgrade ended with 1", CauseId.HELM_FAILED),
        (0, after_fails, "the lock duration is ignored", CauseId.UNKNOWN),
        (0, after_is_interrupted, "", CauseId.INTERRUPTED),
    ],
)
def test_any_failure_takes_evidence_then_rolls_back_to_the_recorded_revision(
    context: Context, world: World, status: int, after: After | None, said: str, cause: CauseId
) -> None:
    world.upgrade_status = status
    with pytest.raises(PromotionFailed, match=f"{said}.*rolled back to revision 1") as caught:
        go(context, after)
    assert caught.value.cause is cause
    assert states(context)[-2:] == [ChangeState.UNDER_WAY, ChangeState.ROLLED_BACK]
    assert (stands(context).cause, stands(context).live_revision) == (cause, 3)
    assert world.asked == ["upgrade", "evidence", "rollback 1"]
    assert world.tag == "old"
    where = context.run_dir / "evidence"
    assert str(where) in caught.value.remedy
    with tarfile.open(context.run_dir / "evidence.tar.gz") as archive:
        kept = set(archive.getnames())
    assert {"evidence/cause.txt", "evidence/helm-values.diff", "evidence/queues.txt"} <= kept
    assert said in (where / "cause.txt").read_text()
    found = by_id(caught.value.checks)
    assert found[CheckId.PODS_SERVING_BEFORE].passed
    assert found[CheckId.CHANGE_COMPLETED].failed
    assert lease.journal(world.lease)["step"] == "rolled back"


def test_a_cancelled_run_still_rolls_back(context: Context, world: World) -> None:
    world.upgrade_does = context.programs.cancel.set
    world.upgrade_status = 1
    with pytest.raises(PromotionFailed) as caught:
        go(context)
    assert caught.value.cause is CauseId.INTERRUPTED
    assert world.asked == ["upgrade", "evidence", "rollback 1"]


def test_a_rollback_that_fails_says_what_to_type(context: Context, world: World) -> None:
    world.rollback_error = "Error: release has no 1 version"
    with pytest.raises(RollbackFailed, match="has no 1 version") as caught:
        go(context, after_fails)
    assert "quick-rollback.sh" in caught.value.remedy
    assert "rollback rel 1 --wait" in caught.value.remedy
    assert stands(context).state is ChangeState.ROLLBACK_FAILED
    assert lease.journal(world.lease)["step"] == "upgrading"  # nobody verified it


def test_a_lock_that_another_took_over_is_not_rolled_back_against(
    context: Context, world: World
) -> None:
    def after(_: Release) -> tuple[Check, ...]:
        world.lease["spec"]["holderIdentity"] = "elsewhere/boot/1/2/run"
        world.lease["metadata"]["resourceVersion"] = "77"
        raise ProofFailed("the network was cut for minutes")

    with pytest.raises(RollbackFailed, match="another took over the lock") as caught:
        go(context, after)
    assert "the network was cut for minutes" in str(caught.value)
    assert "look what it does" in caught.value.remedy
    assert world.asked == ["upgrade"]
    assert world.lease["spec"]["holderIdentity"] == "elsewhere/boot/1/2/run"


def test_a_lock_whose_answer_was_lost_is_still_ours(context: Context, world: World) -> None:
    cluster = Cluster("launch", context.root / "kubeconfig", "launch", True)
    kube = context.kube(cluster)
    with lease.Lease(kube, release="rel", namespace="launch") as lock:
        world.lost_answers = 1
        assert "connection reset" in lock.keep()
        assert lock.keep() == ""
        lock.note(step="upgrading")
    assert world.lease["spec"]["holderIdentity"] == ""
    assert lease.journal(world.lease) == {"step": "upgrading"}


def test_a_failed_proof_is_not_even_looked_up(context: Context, world: World) -> None:
    unproven = replace(proof_of(), cases=(Case("t", Outcome.FAILED, 0.1),))
    with pytest.raises(ProofFailed):
        promote.promote(opened(context), unproven)
    assert world.asked == []


# -- what is served already ------------------------------------------------------------------------


def steps(context: Context) -> list[str]:
    return [event.step for event in context.events.all if event.kind == "step.started"]


def test_what_is_served_already_is_verified_and_left_alone(context: Context, world: World) -> None:
    go(context)
    world.asked.clear()
    context.events.all.clear()
    tested: list[Release] = []
    done = go(context, heard(tested))
    assert tested == [], "nothing new is to be tested"
    assert world.asked == []
    assert [line["revision"] for line in world.history] == [1, 2]
    assert not done.changed
    assert done.backups is None
    assert (done.from_revision, done.to_revision) == (2, 2)
    assert done.before.digest == done.after.digest == NEW
    found = by_id(done.checks)
    assert found[CheckId.PODS_RUN_DIGEST].passed
    assert found[CheckId.HEALTH_PATH].passed
    assert [group.phase for group in done.groups] == [Phase.BEFORE, Phase.AFTER]
    assert stands(context).state is done.state is ChangeState.ALREADY_SERVED
    assert stands(context).live_revision == 2
    assert steps(context)[-1] == StepId.VERIFY_SERVED
    not_done = {
        StepId.START_PROBERS,
        StepId.BACK_UP,
        StepId.PLAN,
        StepId.PREFLIGHT,
        StepId.UPGRADE,
        StepId.SOAK,
    }
    assert not_done.isdisjoint(steps(context)), "nothing that was not done is shown"
    assert lease.journal(world.lease)["step"] == "done"


def test_force_promotes_it_all_the_same(context: Context, world: World) -> None:
    go(context)
    tested: list[Release] = []
    done = go(context, heard(tested), force=True)
    assert world.asked == ["upgrade", "upgrade"]
    assert done.changed
    assert (done.from_revision, done.to_revision) == (2, 3)
    assert [release.revision for release in tested] == [3]


def test_a_forced_promotion_that_fails_returns_to_the_recorded_revision(
    context: Context, world: World
) -> None:
    """Not to another image: what served before the change was the right one."""
    go(context)
    with pytest.raises(PromotionFailed, match=r"rolled back to revision 2: new \(sha256:b+\)"):
        go(context, after_fails, force=True)
    assert world.asked[-1] == "rollback 2"
    assert world.tag == "new"


def moved_tag(world: World) -> None:
    world.digests["new"] = OLD


def another_value(world: World) -> None:
    world.more = {"tag": "old"}


@pytest.mark.parametrize("differ", [moved_tag, another_value])
def test_only_what_is_served_from_every_pod_and_by_its_value_is_left_alone(
    context: Context, world: World, differ: Callable[[World], None]
) -> None:
    go(context)
    world.asked.clear()
    differ(world)
    with pytest.raises(EvidenceRefused):  # as soon as there is something to change
        go(context, refusal=EvidenceRefused("no rehearsal allows a change"))
    assert world.asked == []


def test_what_may_not_be_changed_is_refused_before_anything_is(
    context: Context, world: World
) -> None:
    with pytest.raises(EvidenceRefused, match="no rehearsal"):
        go(context, refusal=EvidenceRefused("no rehearsal allows a change"))
    assert world.asked == []
    assert StepId.START_PROBERS not in steps(context)


def test_what_changes_nothing_needs_no_rehearsal(context: Context, world: World) -> None:
    go(context)
    assert not go(context, refusal=EvidenceRefused("no rehearsal allows a change")).changed


def test_what_is_served_and_is_not_well_is_no_success(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(context)
    world.asked.clear()
    bad = (failed(CheckId.HEALTH_PATH, HttpAnswer(503), subject="/readyz"),)
    monkeypatch.setattr(health, "health", lambda *a, **k: bad)
    with pytest.raises(VerifyFailed, match=r"serves new already.*/readyz\): HTTP 503") as caught:
        go(context)
    assert caught.value.exit_code == 34
    assert "nothing was changed" in caught.value.remedy
    assert bad[0] in caught.value.checks
    assert world.asked == []


def test_drift_is_refused_also_where_the_image_is_served(context: Context, world: World) -> None:
    go(context)
    world.asked.clear()
    world.replicas = 4
    with pytest.raises(PlanRefused) as caught:
        go(context)
    assert by_id(caught.value.checks)[CheckId.OBJECTS_AS_RELEASED].failed
    assert world.asked == []


# -- the way back ----------------------------------------------------------------------------------


def back(context: Context, revision: int | None = None, **how: Any) -> Rollback:
    return promote.rollback(opened(context), revision, **how)


def served_twice(world: World) -> None:
    """As after a promotion of what already ran: revisions 2 and 3 serve the same."""
    world.history = [_revision(1, "superseded", "")]
    world.add("superseded", "", "new")
    world.add("deployed", "", "new")
    world.tag = "new"


def test_a_rollback_gets_away_from_the_image_that_serves(context: Context, world: World) -> None:
    served_twice(world)
    done = back(context)
    assert world.asked == ["rollback 1"]
    assert done.outcome is RollbackOutcome.ROLLED_BACK
    assert states(context)[-2:] == [ChangeState.UNDER_WAY, ChangeState.ROLLED_BACK]
    assert (stands(context).from_revision, stands(context).to_revision) == (3, 4)
    assert (done.before.revision, done.after.revision, done.revision) == (3, 1, 4)
    assert (done.before.image.digest, done.after.image.digest) == (NEW, OLD)
    assert [(c.what, c.before, c.after) for c in done.values] == [("tag", "new", "old")]
    told = [event.text for event in context.events.all if event.kind == "run.note"]
    assert told == [
        f"from revision 3: {REPOSITORY}:new ({NEW}), chart model-engine-0.1.13",
        f"to   revision 1: {REPOSITORY}:old ({OLD}), chart model-engine-0.1.13",
        "     tag: new -> old",
    ]
    kinds = [(event.kind, event.step) for event in context.events.all]
    shown = max(n for n, (kind, _) in enumerate(kinds) if kind == "run.note")
    assert shown < kinds.index(("step.started", StepId.HELM_ROLLBACK)), "shown before it acts"
    assert lease.journal(world.lease)["step"] == "rolled back"


def test_the_same_digest_under_another_tag_is_the_same_image(
    context: Context, world: World
) -> None:
    served_twice(world)
    world.tags[2], world.digests["other-tag"] = "other-tag", NEW
    assert back(context).after.revision == 1


def test_what_old_pods_still_run_is_known_without_the_registry(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that failed: what serves is what is returned to."""
    monkeypatch.setattr(requested, "resolved", lambda *_: pytest.fail("asked"))
    world.add("failed", "", "new")
    planned = back(context, dry_run=True)
    assert (planned.before.revision, planned.after.revision) == (2, 1)
    assert (planned.before.image.digest, planned.after.image.digest) == ("", OLD)
    assert back(context).revision == 3


def test_a_registry_that_is_away_does_not_hinder_a_rollback(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def away(_: TargetSession, image: str) -> tuple[str, ...]:
        asked.append(image)
        raise RegistryRefused("no route to host")

    monkeypatch.setattr(requested, "resolved", away)
    world.history, world.tag = [_revision(1, "failed", "")], "new"
    world.add("superseded", "", "old")
    world.add("deployed", "", "new")
    done = back(context)
    assert done.after.revision == 2
    assert done.after.image.digest == OLD, "as its pods run it in the end"
    assert asked == [f"{REPOSITORY}:old"]
    assert any("no route to host" in event.text for event in context.events.all)


def test_a_dry_run_shows_the_same_and_changes_nothing(context: Context, world: World) -> None:
    served_twice(world)
    planned = back(context, dry_run=True)
    assert planned.outcome is RollbackOutcome.PLANNED
    assert (planned.before.revision, planned.after.revision) == (3, 1)
    assert (planned.before.image.digest, planned.after.image.digest) == (NEW, OLD)
    assert world.asked == []
    assert world.lease == {}, "not even the lock is taken"
    assert len(world.history) == 3


def test_where_nothing_else_ever_served_it_refuses(context: Context, world: World) -> None:
    world.add("deployed", "", "old")
    with pytest.raises(PlanRefused, match="there is no revision to return to"):
        back(context)
    assert world.asked == []
    assert world.lease["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize("revision", [2, 3])
def test_a_revision_that_serves_already_is_verified_and_left_alone(
    context: Context, world: World, revision: int
) -> None:
    served_twice(world)
    done = back(context, revision)
    assert done.outcome is RollbackOutcome.ALREADY_THERE
    assert (done.after.revision, done.revision) == (revision, 3)
    assert done.after.image.digest == NEW
    assert world.asked == []
    assert StepId.VERIFY_SERVED in steps(context)
    assert StepId.HELM_ROLLBACK not in steps(context)


def test_a_change_by_hand_is_undone_by_the_revision_that_serves(
    context: Context, world: World
) -> None:
    """The remedy that a promotion names where it finds drift."""
    served_twice(world)
    world.replicas = 4
    done = back(context, 3)
    assert world.asked == ["rollback 3"]
    assert done.outcome is RollbackOutcome.ROLLED_BACK


def test_a_revision_that_would_render_otherwise_is_returned_to(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image, values and chart, and yet not the same objects (a random secret)."""
    served_twice(world)
    stored = reader.stored

    def read(kube: Any, helm: Any, target: Target, number: int) -> reader.Stored:
        found = stored(kube, helm, target, number)
        more = {"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"n": str(number)}}
        objects = {**found.rendered.objects, ("v1", "ConfigMap", "elsewhere", "m"): more}
        return replace(found, rendered=manifest_.Rendered(objects, {}))

    monkeypatch.setattr(reader, "stored", read)
    back(context, 2)
    assert world.asked == ["rollback 2"]


def test_what_serves_already_and_does_not_serve_well_is_no_success(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    served_twice(world)
    bad = (failed(CheckId.HEALTH_PATH, HttpAnswer(503), subject="/readyz"),)
    monkeypatch.setattr(health, "health_without_forward", lambda *a: bad)
    monkeypatch.setattr(recovery, "ANSWER_SECONDS", 0.0)
    with pytest.raises(VerifyFailed, match="revision 3 of rel is what was asked for already"):
        back(context, 3)
    assert world.asked == []


def test_pods_of_several_digests_are_no_old_image(context: Context, world: World) -> None:
    served_twice(world)
    items = world.items

    def mixed() -> list[dict[str, Any]]:
        found = items()
        extra = json.loads(json.dumps(found[2]))
        extra["metadata"]["name"] = "pod-2"
        extra["status"]["containerStatuses"][0]["imageID"] = f"{REPOSITORY}@sha256:{'c' * 64}"
        found[0]["spec"]["replicas"] = 2
        for count in ("replicas", "updatedReplicas", "availableReplicas"):
            found[0]["status"][count] = 2
        found[-1]["endpoints"].append(
            {"targetRef": {"name": "pod-2"}, "conditions": {"ready": True}}
        )
        return [*found, extra]

    world.items = mixed  # type: ignore[method-assign]
    with pytest.raises(
        RollbackFailed, match="2 different digests of registry:5000/model-engine:old"
    ):
        back(context)


def journal(world: World, **notes: str) -> None:
    written = {f"{lease.ANNOTATION}{key}": value for key, value in notes.items()}
    world.lease = {"metadata": {"annotations": written, "resourceVersion": "1"}, "spec": {}}


def test_what_a_killed_promotion_recorded_is_returned_to(context: Context, world: World) -> None:
    world.history = [_revision(1, "superseded", "")]
    world.add("deployed", "", "old")
    world.add("pending-upgrade", "", "new")
    world.tag = "new"
    journal(world, step="upgrading", revision="2", digests=OLD)
    done = back(context)
    assert world.asked == ["rollback 2"]
    assert done.revision == 4
    assert lease.journal(world.lease)["step"] == "rolled back"


def test_a_killed_promotion_that_had_changed_nothing_leaves_nothing_to_do(
    context: Context, world: World
) -> None:
    """Not a rollback to what served before the release that is meant to serve."""
    served_twice(world)
    journal(world, step="upgrading", revision="3", digests=NEW)
    done = back(context)
    assert done.outcome is RollbackOutcome.ALREADY_THERE
    assert world.asked == []
    assert lease.journal(world.lease)["step"] == "rolled back"
    assert back(context).after.revision == 1, "and then one goes on from there"


# -- what a target requires ------------------------------------------------------------------------


def test_a_required_check_that_a_setting_turns_off_refuses_before_the_change(
    context: Context, world: World
) -> None:
    """Also one that would be made after the change only."""
    for require, id, setting in (
        ("image.pullable", CheckId.IMAGE_PULLABLE, "pull_on_nodes"),
        ("capacity.*", CheckId.CAPACITY_SURGE, "try_surge"),
        ("requests.*", CheckId.REQUESTS_ANSWERED, "probing.per_second"),
        ("queue.*", CheckId.QUEUE_TIMEOUTS, "servicebus_connection_string_env"),
        ("soak.gates", CheckId.SOAK_GATES, "soak_seconds"),
    ):
        with pytest.raises(PlanRefused) as caught:
            go(context, changed={"require": (require,)})
        assert skipped(id, setting) in caught.value.checks
        assert setting in str(caught.value)
        assert "targets.prod" in caught.value.remedy
    assert world.asked == []
    assert stands(context).state is ChangeState.UNTOUCHED


def test_a_required_check_without_an_answer_refuses_before_the_change(
    context: Context, world: World
) -> None:
    """The service describes no API, and its proof says nothing of load."""
    with pytest.raises(PlanRefused) as caught:
        go(context, changed={"require": ("api.compatible", "health.under-load")})
    assert unknown(CheckId.API_COMPATIBLE, Because.NOT_DESCRIBED) in caught.value.checks
    assert unknown(CheckId.HEALTH_UNDER_LOAD, Because.NOT_IN_EVIDENCE) in caught.value.checks
    assert world.asked == []


def test_logs_that_may_not_be_read_refuse_before_the_change(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = world.api_

    def forbidden(method: str, path: str, **more: Any) -> Answer:
        return Answer(403, "forbidden") if path.endswith("/log") else answer(method, path, **more)

    monkeypatch.setattr(api, "ask", lambda _, *words, **more: forbidden(*words, **more))
    with pytest.raises(PlanRefused) as caught:
        go(context, changed={"require": ("logs.*",)})
    check = by_id(caught.value.checks)[CheckId.LOGS_NO_ERRORS]
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, Because.FORBIDDEN)
    assert world.asked == []
    assert go(context).changed, "where they are not required"


@pytest.mark.parametrize(
    "late",
    [
        skipped(CheckId.QUEUE_TIMEOUTS, "a setting that nobody foresaw"),
        unknown(CheckId.QUEUE_TIMEOUTS, Because.NO_ANSWER),
    ],
)
def test_a_required_check_without_an_answer_after_the_change_rolls_back(
    context: Context, world: World, late: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "known", lambda _: True)
    changed: dict[str, Any] = {"require": ("queue.timeouts",), "canary_per_second": 0.0}
    with pytest.raises(PromotionFailed) as caught:
        go(context, lambda _: (late,), changed=changed)
    assert (caught.value.exit_code, caught.value.cause) == (32, CauseId.REQUIRED_NOT_CHECKED)
    assert "[targets.prod]" in caught.value.remedy
    assert late in caught.value.checks
    assert world.asked == ["upgrade", "evidence", "rollback 1"]
    assert stands(context).cause is CauseId.REQUIRED_NOT_CHECKED
    changed |= {"require": ()}
    assert go(context, lambda _: (late,), changed=changed).changed


def test_what_is_served_already_and_cannot_be_checked_is_refused(
    context: Context, world: World
) -> None:
    go(context)
    with pytest.raises(PlanRefused) as caught:
        go(context, changed={"require": ("queue.*",)})
    unmet = skipped(CheckId.QUEUE_TIMEOUTS, "servicebus_connection_string_env")
    assert unmet in caught.value.checks
    assert world.asked == ["upgrade"]


def test_a_preview_says_what_would_be_refused(context: Context, world: World) -> None:
    found = promote.preview(opened(context, require=("queue.timeouts",)), proof_of())
    unmet = skipped(CheckId.QUEUE_TIMEOUTS, "servicebus_connection_string_env")
    assert found.unmet == (unmet,)
    assert unmet in found.checks
    assert found.plan.refused == ()
    assert (found.plan.from_revision, found.plan.to_revision) == (1, 2)
    assert promote.preview(opened(context), proof_of()).unmet == ()
    assert world.asked == []
    assert states(context) == [], "it changes nothing, and says nothing of a change"


def test_a_rehearsed_promotion_says_nothing_of_the_target(context: Context, world: World) -> None:
    go(context, recorded=False)
    promote.rollback(opened(context), recorded=False)
    assert world.asked == ["upgrade", "rollback 1"]
    assert states(context) == []
    assert not [e for e in context.events.all if e.kind == CHECK]


def test_the_run_keeps_its_plan_and_what_the_backups_are_of(context: Context, world: World) -> None:
    done = go(context)
    unreadable: list[str] = []
    plan = files.read(context.run_dir, PlanRecord, unreadable)
    backups = files.read(context.run_dir, BackupsRecord, unreadable)
    assert unreadable == []
    assert plan is not None
    assert backups is not None
    assert (plan.before.digest, plan.after.digest) == (OLD, NEW)
    assert (backups.revision, backups.image.digest, backups.target) == (1, OLD, "prod")
    assert "quick-rollback.sh" in backups.files
    created = by_id(done.checks)[CheckId.BACKUP_CREATED]
    assert created.measured == (Names(Unit.FILES, backups.files, len(backups.files)),)


def test_what_may_not_be_read_is_unknown_and_not_as_released(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = world.api_

    def forbidden(method: str, path: str, **more: Any) -> Answer:
        whole = path.endswith("/deployments/model-engine")
        return Answer(403, "forbidden") if whole else answer(method, path, **more)

    monkeypatch.setattr(api, "ask", lambda _, *words, **more: forbidden(*words, **more))
    check = by_id(go(context).checks)[CheckId.OBJECTS_AS_RELEASED]
    assert (check.outcome, check.because) == (Outcome.UNKNOWN, Because.FORBIDDEN)
    assert Names(Unit.OBJECTS, ("Deployment/model-engine",), 1) in check.measured


def test_a_service_without_the_canarys_api_is_refused_where_it_is_required(
    context: Context, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is known only when it was asked, and before the change all the same."""
    absent = unknown(CheckId.QUEUE_LOCK_DURATION, Because.NOT_OFFERED)
    monkeypatch.setattr(canary, "known", lambda _: True)
    monkeypatch.setattr(canary.Canary, "__enter__", lambda self: self)
    monkeypatch.setattr(canary.Canary, "steady", lambda _: (absent,))
    with pytest.raises(PlanRefused) as caught:
        go(context, changed={"require": ("queue.lock-duration",)})
    assert absent in caught.value.checks
    assert world.asked == []
