"""The stage with a stage's worth of fakes: what stops it, what it goes on after, what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import Digest
from ci.errors import (
    EvidenceRefused,
    Interrupted,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    ProofFailed,
    RehearsalFailed,
    RollbackFailed,
)
from ci.model import (
    Case,
    Cluster,
    Image,
    Promotion,
    Proof,
    Rehearsal,
    Release,
    ReleaseState,
    Rollback,
    RollbackOutcome,
    Served,
    Target,
)
from ci.promotion.release import reader
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade.post_upgrade_test import After
from ci.rehearsal.condition import Mount, UnreadLog
from ci.results import (
    Because,
    ChangeState,
    Check,
    CheckGroup,
    CheckId,
    Count,
    ImageRef,
    Names,
    Outcome,
    Phase,
    Problem,
    RehearsedStep,
    Requests,
    RevisionRef,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import parse
from ci.stages import attest, promote, rehearse
from ci.stages.rehearse import Actors
from ci.tools.api import Answer
from ci.tools.command import Output, Programs
from ci.tools.helm import Revision
from ci.tools.wait import SystemClock
from ci.workflow import environments, handoffs
from tests.unit.evidence.fakes import machine
from tests.unit.promotion.release.test_two_looks import Pod as LivePod
from tests.unit.promotion.release.test_two_looks import look as pods_look
from tests.unit.promotion.upgrade.test_soak import ManualClock
from tests.unit.rehearsal.test_condition import account, seen

OLD = Image("registry:5000/engine", "old", Digest.from_hex("a" * 64))
NEW = Image("registry:5000/engine", "new", Digest.from_hex("b" * 64))
CLUSTER = Cluster("gate", Path("kubeconfig"), "kind-gate", True)
TARGET = Target("prod", CLUSTER, "rehearsal-prod", "engine", Path("chart"), NEW.repository)
PROOF = Proof(NEW, (Case("test_it", Outcome.PASSED, 1.0),), Path("junit.xml"), datetime.now(UTC))


ASKED = passed(CheckId.REQUESTS_ANSWERED, Requests(90, 90, 0, 0.1, 0.01, 0.02))


@dataclass
class Service:
    """What the flow hands in. ``fails`` are errors by the number of the promotion."""

    fails: dict[int, PipelineError] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()
    rolls_back: bool = True
    rolls_back_failures: bool = True
    accounts: tuple[Check, ...] = (ASKED,)
    promotions: list[Context] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def promote(
        self,
        session: TargetSession,
        proof: Proof,
        *,
        after: After | None = None,
        force: bool = False,
    ) -> Promotion:
        target = session.target
        assert (target, proof) == (TARGET, PROOF)
        assert force, "a promotion of what is served already would rehearse nothing"
        self.promotions.append(session.context)
        number = len(self.promotions)
        if number in self.fails:
            raise self.fails[number]
        release = Release(CLUSTER, target.namespace, target.release, number + 1, proof.image)
        if after is not None:
            try:
                after(release)
            except PromotionFailed as problem:
                if self.rolls_back_failures:
                    raise PromotionFailed("rolled back to revision 3") from problem
        checks = (CheckGroup(Phase.DURING, self.accounts),)
        return Promotion("prod", OLD, NEW, number, number + 1, Path("backups"), checks)

    def roll_back(self, session: TargetSession, revision: int) -> Rollback:
        assert revision == 1
        if not self.rolls_back:
            raise RollbackFailed("the old image does not start")
        sides = (Served(5, NEW, "engine-1"), Served(1, OLD, "engine-1"))
        return Rollback("prod", *sides, (), (), RollbackOutcome.ROLLED_BACK, 6)

    def use(self, context: Context, release: Release, label: str) -> Proof:
        self.used.append(f"{label} {release.image.tag}")
        if label in self.unusable:
            raise ProofFailed("endpoint x: UPDATE_FAILED")
        return PROOF


def opened(context: Context, target: Target = TARGET, **clients: Any) -> TargetSession:
    """A session whose clients are not used, but for those that are given."""
    nothing = cast(Any, None)
    return TargetSession(
        context, target, clients.get("kube", nothing), clients.get("helm", nothing), context.clock
    )


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    monkeypatch.setattr(rehearse, "look", lambda *_: seen())
    monkeypatch.setattr(rehearse._Stage, "latest", lambda _: 3)
    monkeypatch.setattr(rehearse._Stage, "there_image", lambda _: ("new", NEW.repository))
    context = Context(
        tmp_path,
        parse({}, origin="test"),
        cast(Any, None),
        Programs(env={}),
        SystemClock(),
        Events(SystemClock()),
        tmp_path / "run",
        cast(Any, None),
    )

    def make(service: Service, *, offers_endpoints: bool = True) -> Any:
        use = service.use if offers_endpoints else None
        actors = Actors(service.promote, service.roll_back, use)
        made = rehearse._Stage(opened(context), OLD, actors)
        made.perform(PROOF)
        return made

    return make


def bad(stage: Any) -> list[Check]:
    return [check for check in stage.checks if check.failed]


def of(step: RehearsedStep, stage: Any) -> list[CheckId]:
    return [check.id for check in stage.checks if check.subject == step.value]


def because(id: CheckId, words: str, step: RehearsedStep) -> Check:
    return failed(id, Problem(words), subject=step.value)


STATE_CHECKS = [
    CheckId.PODS_KEEP_RUNNING,
    CheckId.ACCOUNTS_KEPT,
    CheckId.TOKENS_ACCEPTED,
    CheckId.LOGS_NOT_DENIED,
]


def test_a_sound_change_goes_all_the_way(stage: Callable[..., Any]) -> None:
    service = Service()
    done = stage(service)
    assert all(check.passed for check in done.checks)
    assert service.used == ["upgrade new", "unchanged-upgrade new", "return old"]
    folders = [context.run_dir.name for context in service.promotions]
    assert folders == ["upgrade", "unchanged-upgrade", "failed-upgrade"]
    ids = [(check.id, check.subject) for check in done.checks]
    assert len(ids) == len(set(ids))
    accounts = [CheckId.REHEARSAL_PROMOTED, CheckId.REQUESTS_ANSWERED]
    used = [CheckId.ENDPOINT_USABLE, *STATE_CHECKS]
    assert of(RehearsedStep.UPGRADE, done) == [*used, *accounts]
    assert of(RehearsedStep.REPEAT, done) == [*used, CheckId.UPGRADE_REPEATABLE, *accounts]
    assert of(RehearsedStep.FAILURE, done) == [CheckId.REHEARSAL_ROLLED_BACK, *STATE_CHECKS]
    assert of(RehearsedStep.RETURN, done) == [CheckId.REHEARSAL_RETURNED, *used]
    (returned,) = (c for c in done.checks if c.id is CheckId.REHEARSAL_RETURNED)
    old = ImageRef(OLD.repository, OLD.tag, OLD.digest)
    assert returned.measured == (RevisionRef(6), old)
    (endpoint,) = (
        c for c in done.checks if c.id is CheckId.ENDPOINT_USABLE and "return" in c.subject
    )
    assert endpoint.measured == (Count(Unit.CASES, 1),)


def test_what_the_promotion_could_not_count_is_not_called_passed(
    stage: Callable[..., Any],
) -> None:
    lost = unknown(CheckId.REQUESTS_ANSWERED, Because.LOST)
    none = skipped(CheckId.TASKS_EXECUTED_ONCE, "canary_per_second")
    done = stage(Service(accounts=(lost, none)))
    found = {c.id: c.outcome for c in done.checks if c.subject == RehearsedStep.UPGRADE.value}
    assert found[CheckId.REQUESTS_ANSWERED] is Outcome.UNKNOWN
    assert found[CheckId.TASKS_EXECUTED_ONCE] is Outcome.SKIPPED


def test_a_service_without_endpoints_is_not_called_usable(stage: Callable[..., Any]) -> None:
    done = stage(Service(), offers_endpoints=False)
    found = [check for check in done.checks if check.id is CheckId.ENDPOINT_USABLE]
    assert len(found) == 3
    assert {(c.outcome, c.because) for c in found} == {(Outcome.UNKNOWN, Because.NOT_OFFERED)}


def test_a_service_that_is_broken_afterwards_is_found_and_all_else_is_rehearsed(
    stage: Callable[..., Any],
) -> None:
    service = Service(unusable=("unchanged-upgrade",))
    done = stage(service)
    problem = "endpoint x: UPDATE_FAILED"
    assert bad(done) == [because(CheckId.ENDPOINT_USABLE, problem, RehearsedStep.REPEAT)]
    assert len(service.promotions) == 3


def test_a_change_that_is_refused_ends_the_rehearsal(stage: Callable[..., Any]) -> None:
    service = Service(fails={1: PlanRefused("more than the image would change")})
    done = stage(service)
    problem = "more than the image would change"
    assert bad(done) == [because(CheckId.REHEARSAL_PROMOTED, problem, RehearsedStep.UPGRADE)]
    assert len(service.promotions) == 1


def test_steps_that_were_not_come_to_are_unknown(stage: Callable[..., Any]) -> None:
    done = stage(Service(fails={2: PlanRefused("no")}))
    left = [(c.id, c.subject, c.because) for c in done.checks if c.outcome is Outcome.UNKNOWN]
    assert left == [
        (CheckId.REHEARSAL_ROLLED_BACK, "failed-upgrade", Because.NOT_REACHED),
        (CheckId.REHEARSAL_RETURNED, "return", Because.NOT_REACHED),
    ]


def test_a_failure_whose_rollback_fails_is_found(stage: Callable[..., Any]) -> None:
    done = stage(Service(fails={3: RollbackFailed("and the rollback failed, too")}))
    problem = "and the rollback failed, too"
    assert bad(done) == [because(CheckId.REHEARSAL_ROLLED_BACK, problem, RehearsedStep.FAILURE)]


def test_a_failure_that_is_not_rolled_back_is_found(stage: Callable[..., Any]) -> None:
    done = stage(Service(rolls_back_failures=False))
    (found,) = bad(done)
    assert (found.id, found.measured) == (CheckId.REHEARSAL_ROLLED_BACK, (RevisionRef(4),))


def test_a_failure_for_another_reason_is_no_rehearsed_one(stage: Callable[..., Any]) -> None:
    """Also where its words are those of the one that was meant."""
    done = stage(Service(fails={3: PromotionFailed(f"{rehearse.ON_PURPOSE}; rolled back")}))
    assert [check.id for check in bad(done)] == [CheckId.REHEARSAL_ROLLED_BACK]


def test_a_way_back_that_does_not_work_is_found(stage: Callable[..., Any]) -> None:
    done = stage(Service(rolls_back=False))
    problem = "the old image does not start"
    assert bad(done) == [because(CheckId.REHEARSAL_RETURNED, problem, RehearsedStep.RETURN)]


def test_ctrl_c_ends_it(stage: Callable[..., Any]) -> None:
    with pytest.raises(Interrupted):
        stage(Service(fails={2: Interrupted("interrupted")}))


def test_an_account_that_every_upgrade_makes_anew_is_found_at_each(
    stage: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = iter(["u1", "u2", "u3", "u4", "u4"])
    monkeypatch.setattr(
        rehearse, "look", lambda *_: seen(live=account(u := next(uids), hook="pre-upgrade"), uid=u)
    )
    found = bad(stage(Service()))
    assert {check.id for check in found} == {CheckId.ACCOUNTS_KEPT}
    assert [check.subject for check in found] == ["upgrade", "unchanged-upgrade", "failed-upgrade"]


# -- a look waits for what is still under way ------------------------------------------------------


OWN = (LivePod("b", 1), LivePod("b", 2))
AT_ONCE = dict.fromkeys(("promote", "roll_back", "use"))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], Any]:
    """A release whose old pod drains for so many seconds after each look; how long looks took."""
    clock, begun, asked = ManualClock(), [0.0], list[str]()

    class Nothing:
        def run(self, *words: str, **_: Any) -> Output:
            return Output(0, "", "")

        def ask(self, _: str, path: str, **__: Any) -> Answer:
            assert path.endswith("/serviceaccounts")
            return Answer(200, json.dumps({"kind": "ServiceAccountList", "items": [account()]}))

        def logs(self, pod: str, *_: Any, **__: Any) -> Answer:
            asked.append(pod)
            return Answer(200, "serving")

        def manifest(self, *_: Any) -> str:
            return ""

        hooks = manifest

    context = Context(
        tmp_path, parse({}, origin="test"), cast(Any, None), cast(Any, None), clock, Events(clock),
        tmp_path / "run", cast(Any, None),
    )  # fmt: skip
    target = replace(TARGET, deployments=("engine",))

    def make(seconds: float) -> Any:
        def snapshot(*_: Any) -> Any:
            drains = clock.now - begun[0] < seconds
            return pods_look(*OWN, *([LivePod("a", 9, terminating=True)] if drains else []))

        monkeypatch.setattr(reader, "snapshot", snapshot)
        session = opened(context, target, kube=Nothing(), helm=Nothing())
        stage = rehearse._Stage(session, OLD, Actors(**cast(Any, AT_ONCE)))
        return SimpleNamespace(stage=stage, clock=clock, begun=begun, asked=asked)

    return make


@pytest.mark.parametrize("seconds", [0, 1, 7, 100])
def test_a_look_waits_for_old_pods_to_drain(slow: Callable[[float], Any], seconds: float) -> None:
    there = slow(seconds)
    found = there.stage.look()
    assert seconds <= there.clock.now <= seconds + 1
    assert [each["metadata"]["name"] for each in found.pods] == ["engine-b-1", "engine-b-2"]
    assert sorted(there.asked) == ["engine-b-1", "engine-b-2"]


def test_pods_that_never_settle_fail_the_rehearsal_and_say_which(
    slow: Callable[[float], Any],
) -> None:
    there = slow(0)
    there.stage.look()
    there.begun[0] = float("inf")  # an old pod that does not go
    there.stage.examine_state(RehearsedStep.REPEAT)
    found, *others = there.stage.checks
    assert (found.id, found.outcome) == (CheckId.PODS_KEEP_RUNNING, Outcome.FAILED)
    (problem,) = found.measured
    assert "engine-a-9" in problem.text
    assert [(check.id, check.because) for check in others] == [
        (CheckId.ACCOUNTS_KEPT, Because.NOT_REACHED),
        (CheckId.TOKENS_ACCEPTED, Because.NOT_REACHED),
        (CheckId.LOGS_NOT_DENIED, Because.NOT_REACHED),
        (CheckId.UPGRADE_REPEATABLE, Because.NOT_REACHED),
    ]


# -- what a look could not read --------------------------------------------------------------------


class Refusing:
    """An API that refuses; kubectl that passes it on."""

    def __init__(self, code: int, stderr: str = "") -> None:
        self.code, self.stderr = code, stderr

    def ask(self, *_: Any, **__: Any) -> Answer:
        return Answer(self.code, "")

    logs = ask

    def run(self, *_: Any, **__: Any) -> Output:
        return Output(1, "", self.stderr)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(403, Because.FORBIDDEN), (401, Because.FORBIDDEN), (0, Because.NO_ANSWER)],
)
def test_what_may_not_be_read_is_told_from_what_gave_no_answer(code: int, reason: Because) -> None:
    kube = cast(Any, Refusing(code))
    assert rehearse._accounts(kube, "n") is reason
    pod = {"metadata": {"name": "web-a"}, "spec": {"containers": [{"name": "web"}]}}
    assert rehearse._log(kube, "n", pod) == ([], UnreadLog("web-a", reason))


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ('Error from server (Forbidden): pods "web-a" is forbidden', Because.FORBIDDEN),
        ('exec: "cat": executable file not found in $PATH', Because.NO_ANSWER),
    ],
)
def test_a_token_that_cannot_be_read_says_why(stderr: str, reason: Because) -> None:
    mount = Mount("web-a", "web", "/var/run/token", "engine")
    token = rehearse._token(cast(Any, Refusing(0, stderr)), "n", mount, "2026-11-23T10:00:05Z")
    assert (token.uid, token.unread) == ("", reason)


def test_one_container_whose_log_cannot_be_read_is_enough() -> None:
    class Half:
        def logs(self, *_: Any, container: str) -> Answer:
            readable = container == "web"
            return Answer(200, "GET /: 403 Forbidden") if readable else Answer(400, "waiting")

    containers = [{"name": "web"}, {"name": "proxy"}]
    pod = {"metadata": {"name": "web-a"}, "spec": {"containers": containers}}
    denials, unread = rehearse._log(cast(Any, Half()), "n", pod)
    assert denials == ["web-a: GET /: 403 Forbidden"]
    assert unread == UnreadLog("web-a", Because.NO_ANSWER)


# -- the verdict, and who wants one ----------------------------------------------------------------


GOOD = passed(CheckId.REHEARSAL_PROMOTED, RevisionRef(3), subject="upgrade")
DENIED = failed(
    CheckId.LOGS_NOT_DENIED, Names(Unit.LOG_LINES, ("web-a: 401",), 1), subject="upgrade"
)


def verdict(*checks: Check, require: tuple[str, ...] = ()) -> Rehearsal:
    made = Rehearsal(
        "prod", NEW, OLD, ReleaseState(7, OLD.digest, "e" * 64), checks, (), datetime.now(UTC)
    )
    return replace(made, require=require) if require else made


def test_a_passed_rehearsal_lets_the_run_go_on() -> None:
    rehearse.refuse_failed(verdict(GOOD))


def test_a_failed_one_ends_it_and_carries_its_checks() -> None:
    also = replace(DENIED, subject="return")
    broken = verdict(GOOD, DENIED, also)
    with pytest.raises(RehearsalFailed) as it:
        rehearse.refuse_failed(broken)
    assert it.value.exit_code == 22
    assert it.value.groups == (CheckGroup(Phase.REHEARSAL, (GOOD, DENIED, also)),)


@pytest.mark.parametrize(
    "left",
    [
        unknown(CheckId.LOGS_NOT_DENIED, Because.FORBIDDEN, subject="upgrade"),
        unknown(CheckId.REHEARSAL_RETURNED, Because.NOT_REACHED, subject="return"),
        skipped(CheckId.QUEUE_LOCK_DURATION, "canary_per_second", subject="upgrade"),
    ],
)
def test_a_required_check_that_was_not_made_is_no_passed_rehearsal(left: Check) -> None:
    unsure = verdict(GOOD, left)
    assert not unsure.passed
    with pytest.raises(RehearsalFailed):
        rehearse.refuse_failed(unsure)


def test_a_check_that_is_not_required_may_be_unknown() -> None:
    left = unknown(CheckId.TOKENS_ACCEPTED, Because.NO_ANSWER, subject="upgrade")
    assert verdict(GOOD, left).passed
    assert not verdict(GOOD, left, require=("tokens.*",)).passed


def test_nothing_checked_is_not_passed() -> None:
    assert not verdict().passed
    with pytest.raises(RehearsalFailed):
        rehearse.refuse_failed(verdict())


@pytest.mark.parametrize(
    ("everywhere", "here", "wanted"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_who_wants_a_rehearsal(
    everywhere: bool, here: bool | None, wanted: bool, tmp_path: Path
) -> None:
    block: dict[str, Any] = {
        "kubeconfig": "/k", "context": "c", "image_repository": "r.example.com/x",
    }  # fmt: skip
    if here is not None:
        block["rehearsal"] = here
    settings = parse(
        {"rehearsal": {"required": everywhere}, "targets": {"prod": block}}, origin="test"
    )
    described = replace(machine(tmp_path), settings=settings)
    assert environments.resolve(described, "prod").rehearsal is wanted
    assert environments.resolve(described, "launch").rehearsal is everywhere


@pytest.mark.parametrize("passed", [True, False])
def test_a_target_that_asks_for_a_rehearsal_is_not_promoted_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: bool
) -> None:
    """The signed verdict is looked for before anything else is done."""
    context = machine(tmp_path / "here", {"rehearsal": {"required": True}})
    state = ReleaseState(7, OLD.digest, "e" * 64)
    asked: list[tuple[str, ReleaseState]] = []
    promoted = Promotion("launch", OLD, NEW, 7, 8, Path("backups"), ())

    def rehearsed(
        _c: Context, source: Any, _chart: Path, target: str, now: ReleaseState, **_: object
    ) -> None:
        assert source.by_digest == NEW.by_digest
        asked.append((target, now))
        if not passed:
            raise EvidenceRefused(f"{target} needs a passed rehearsal")

    monkeypatch.setattr(rehearse, "state_of", lambda *_: state)
    monkeypatch.setattr(attest, "rehearsed", rehearsed)
    monkeypatch.setattr(promote, "promote", lambda *_a, **_k: promoted)
    target = replace(TARGET, name="launch", rehearsal=True)
    if passed:
        assert handoffs.promote(opened(context, target), PROOF) is promoted
    else:
        monkeypatch.setattr(promote, "promote", lambda *_a, **_k: pytest.fail("promoted"))
        with pytest.raises(EvidenceRefused, match="launch needs a passed rehearsal"):
            handoffs.promote(opened(context, target), PROOF)
    assert asked == [("launch", state)]


@pytest.mark.parametrize(
    ("digest", "force", "asked"),
    [(NEW.digest, False, True), (NEW.digest, True, False), (OLD.digest, False, False)],
    ids=["served already", "served already, and forced", "another one serves"],
)
def test_what_is_served_already_needs_no_rehearsal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digest: str, force: bool, asked: bool
) -> None:
    """The promotion is given the refusal, for it alone knows that nothing is to be changed."""
    context = machine(tmp_path / "here", {"rehearsal": {"required": True}})
    refusal = EvidenceRefused("no rehearsal of this release")
    given: list[tuple[object, bool]] = []

    def rehearsed(*_: object, **__: object) -> None:
        raise refusal

    def promoted(*_a: object, refusal: object, force: bool, **_k: object) -> Promotion:
        given.append((refusal, force))
        return Promotion("launch", NEW, NEW, 7, 7, None, (), ChangeState.ALREADY_SERVED)

    monkeypatch.setattr(rehearse, "state_of", lambda *_: ReleaseState(7, Digest(digest), "e" * 64))
    monkeypatch.setattr(attest, "rehearsed", rehearsed)
    monkeypatch.setattr(promote, "promote", promoted)
    target = replace(TARGET, name="launch", rehearsal=True)
    if asked:
        assert not handoffs.promote(opened(context, target), PROOF, force=force).changed
        assert given == [(refusal, False)]
    else:
        with pytest.raises(EvidenceRefused, match="no rehearsal of this release"):
            handoffs.promote(opened(context, target), PROOF, force=force)
        assert given == []


def test_the_state_of_a_release_is_more_than_its_number() -> None:
    history = [Revision(6, "superseded", "c-1", ""), Revision(7, "deployed", "c-1", "")]
    values = {"replicas": 3, "password": "swordfish", "date": date(2026, 11, 25)}
    first = rehearse.state(history, OLD, values)
    assert (first.revision, first.digest) == (7, OLD.digest)
    assert rehearse.state(history, NEW, values) != first
    assert rehearse.state(history, OLD, {**values, "replicas": 2}) != first
    back = [*history, Revision(8, "deployed", "c-1", "Rollback to 7")]
    assert rehearse.state(back, OLD, dict(reversed(values.items()))) == first
    secret = rehearse.state(history, OLD, {**values, "password": "guessed"})
    assert secret == first, "a signed digest would let anybody try passwords"
