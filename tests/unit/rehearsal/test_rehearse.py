"""The stage with a stage's worth of fakes: what stops it, what it goes on after, what it says."""

from __future__ import annotations

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
    Check,
    Cluster,
    Image,
    Outcome,
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
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import parse
from ci.stages import attest, promote, rehearse
from ci.stages.rehearse import Actors
from ci.tools.command import Programs
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


@dataclass
class Service:
    """What the flow hands in. ``fails`` are errors by the number of the promotion."""

    fails: dict[int, PipelineError] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()
    rolls_back: bool = True
    promotions: list[Context] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    def promote(
        self,
        context: Context,
        target: Target,
        proof: Proof,
        *,
        after: Callable[[Release], None] | None = None,
        force: bool = False,
    ) -> Promotion:
        assert (target, proof) == (TARGET, PROOF)
        assert force, "a promotion of what is served already would rehearse nothing"
        self.promotions.append(context)
        number = len(self.promotions)
        if number in self.fails:
            raise self.fails[number]
        release = Release(CLUSTER, target.namespace, target.release, number + 1, proof.image)
        if after is not None:
            try:
                after(release)
            except PromotionFailed as problem:
                raise PromotionFailed(f"{problem}; rolled back to revision 3") from problem
        asked = Check("requests during the change", True, "90 sent, 90 answered, 0 failed")
        return Promotion("prod", OLD, NEW, number, number + 1, Path("backups"), (asked,))

    def roll_back(self, context: Context, target: Target, revision: int) -> Rollback:
        assert revision == 1
        if not self.rolls_back:
            raise RollbackFailed("the old image does not start")
        sides = (Served(5, NEW, "engine-1"), Served(1, OLD, "engine-1"))
        return Rollback("prod", *sides, (), (), RollbackOutcome.ROLLED_BACK, 6)

    def use(self, context: Context, release: Release, label: str) -> None:
        self.used.append(f"{label} {release.image.tag}")
        if label in self.unusable:
            raise ProofFailed("endpoint x: UPDATE_FAILED")


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

    def make(service: Service) -> Any:
        actors = Actors(service.promote, service.roll_back, service.use)
        made = rehearse._Stage(context, TARGET, OLD, actors)
        made.perform(PROOF)
        return made

    return make


def bad(stage: Any) -> dict[str, str]:
    return {check.name: check.evidence for check in stage.checks if not check.ok}


def test_a_sound_change_goes_all_the_way(stage: Callable[..., Any]) -> None:
    service = Service()
    done = stage(service)
    assert bad(done) == {}
    assert service.used == ["upgrade new", "unchanged-upgrade new", "return old"]
    folders = [context.run_dir.name for context in service.promotions]
    assert folders == ["upgrade", "unchanged-upgrade", "failed-upgrade"]
    names = [check.name for check in done.checks]
    assert len(names) == len(set(names))
    assert "unchanged upgrade: nothing changes where nothing was changed" in names
    assert "failed upgrade: it is rolled back" in names


def test_a_service_that_is_broken_afterwards_is_found_and_all_else_is_rehearsed(
    stage: Callable[..., Any],
) -> None:
    service = Service(unusable=("unchanged-upgrade",))
    done = stage(service)
    name = "unchanged upgrade: an endpoint is created, updated, used and deleted"
    assert bad(done) == {name: "endpoint x: UPDATE_FAILED"}
    assert len(service.promotions) == 3


def test_a_change_that_is_refused_ends_the_rehearsal(stage: Callable[..., Any]) -> None:
    service = Service(fails={1: PlanRefused("more than the image would change")})
    done = stage(service)
    assert bad(done) == {"upgrade: the promotion succeeds": "more than the image would change"}
    assert len(service.promotions) == 1


def test_a_failure_that_is_not_rolled_back_is_found(stage: Callable[..., Any]) -> None:
    done = stage(Service(fails={3: RollbackFailed("and the rollback failed, too")}))
    assert bad(done) == {"failed upgrade: it is rolled back": "and the rollback failed, too"}


def test_a_failure_for_another_reason_is_no_rehearsed_one(stage: Callable[..., Any]) -> None:
    done = stage(Service(fails={3: PromotionFailed("requests were lost; rolled back")}))
    assert "failed upgrade: it is rolled back" in bad(done)


def test_a_way_back_that_does_not_work_is_found(stage: Callable[..., Any]) -> None:
    done = stage(Service(rolls_back=False))
    assert bad(done) == {"return: the old image serves again": "the old image does not start"}


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
    kept = "ServiceAccounts are kept"
    found = bad(stage(Service()))
    assert list(found) == [
        f"upgrade: {kept}", f"unchanged upgrade: {kept}", f"failed upgrade: {kept}",
    ]  # fmt: skip


# -- a look waits for what is still under way ------------------------------------------------------


OWN = (LivePod("b", 1), LivePod("b", 2))
AT_ONCE = dict.fromkeys(("promote", "roll_back", "use"))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], Any]:
    """A release whose old pod drains for so many seconds after each look; how long looks took."""
    clock, begun, asked = ManualClock(), [0.0], list[list[str]]()

    class Nothing:
        def run(self, *words: str, **_: Any) -> Any:
            asked.append(list(words))
            return SimpleNamespace(stdout="", status=0)

        def objects(self, *_: Any) -> list[Any]:
            return [account()]

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
        monkeypatch.setattr(reader, "private_kube", lambda *_, **__: Nothing())
        monkeypatch.setattr(reader, "private_helm", lambda *_: Nothing())
        stage = rehearse._Stage(context, target, OLD, Actors(**cast(Any, AT_ONCE)))
        return SimpleNamespace(stage=stage, clock=clock, begun=begun, asked=asked)

    return make


@pytest.mark.parametrize("seconds", [0, 1, 7, 100])
def test_a_look_waits_for_old_pods_to_drain(slow: Callable[[float], Any], seconds: float) -> None:
    there = slow(seconds)
    found = there.stage.look()
    assert seconds <= there.clock.now <= seconds + 1
    assert [each["metadata"]["name"] for each in found.pods] == ["engine-b-1", "engine-b-2"]
    logs = [words[1] for words in there.asked if words[0] == "logs"]
    assert logs == ["engine-b-1", "engine-b-2"]


def test_pods_that_never_settle_fail_the_rehearsal_and_say_which(
    slow: Callable[[float], Any],
) -> None:
    there = slow(0)
    there.stage.look()
    there.begun[0] = float("inf")  # an old pod that does not go
    there.stage.judge("upgrade")
    (found,) = there.stage.checks
    assert (found.name, found.ok) == ("upgrade: its pods settle", False)
    assert "waited 120 s" in found.evidence
    assert "engine: pods still terminate: engine-a-9" in found.evidence


# -- the verdict, and who wants one ----------------------------------------------------------------


def verdict(*checks: Check) -> Rehearsal:
    return Rehearsal(
        "prod", NEW, OLD, ReleaseState(7, OLD.digest, "e" * 64), checks, (), datetime.now(UTC)
    )


def test_a_passed_rehearsal_lets_the_run_go_on() -> None:
    rehearse.refuse_failed(verdict(Check("upgrade: a", True, "x")))


def test_a_failed_one_ends_it_with_the_first_finding() -> None:
    failed = verdict(
        Check("upgrade: a", True, "x"), Check("upgrade: b", False, "y"), Check("c: d", False, "z")
    )
    with pytest.raises(RehearsalFailed, match=r"prod failed: upgrade: b: y \(and 1 more\)") as it:
        rehearse.refuse_failed(failed)
    assert it.value.exit_code == 22


def test_nothing_checked_is_not_passed() -> None:
    assert not verdict().passed


@pytest.mark.parametrize(
    ("everywhere", "here", "wanted"),
    [(False, None, False), (True, None, True), (False, True, True), (True, False, False)],
)
def test_who_wants_a_rehearsal(everywhere: bool, here: bool | None, wanted: bool) -> None:
    block: dict[str, Any] = {
        "kubeconfig": "/k", "context": "c", "image_repository": "r.example.com/x",
    }  # fmt: skip
    if here is not None:
        block["rehearsal"] = here
    settings = parse(
        {"rehearsal": {"required": everywhere}, "targets": {"prod": block}}, origin="test"
    )
    context = cast(Context, SimpleNamespace(settings=settings))
    assert environments.wants_rehearsal(context, "prod") is wanted
    assert environments.wants_rehearsal(context, "launch") is everywhere


@pytest.mark.parametrize("passed", [True, False])
def test_a_target_that_asks_for_a_rehearsal_is_not_promoted_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, passed: bool
) -> None:
    """The signed verdict is looked for before anything else is done."""
    context = machine(tmp_path / "here", {"rehearsal": {"required": True}})
    state = ReleaseState(7, OLD.digest, "e" * 64)
    asked: list[tuple[str, ReleaseState]] = []
    promoted = Promotion("launch", OLD, NEW, 7, 8, Path("backups"), ())

    def rehearsed(_c: Context, source: Any, _chart: Path, target: str, now: ReleaseState) -> None:
        assert source.by_digest == NEW.by_digest
        asked.append((target, now))
        if not passed:
            raise EvidenceRefused(f"{target} needs a passed rehearsal")

    monkeypatch.setattr(rehearse, "state_of", lambda *_: state)
    monkeypatch.setattr(attest, "rehearsed", rehearsed)
    monkeypatch.setattr(promote, "promote", lambda *_a, **_k: promoted)
    target = replace(TARGET, name="launch")
    if passed:
        assert handoffs.promote(context, target, PROOF) is promoted
    else:
        monkeypatch.setattr(promote, "promote", lambda *_a, **_k: pytest.fail("promoted"))
        with pytest.raises(EvidenceRefused, match="launch needs a passed rehearsal"):
            handoffs.promote(context, target, PROOF)
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

    def rehearsed(*_: object) -> None:
        raise refusal

    def promoted(*_a: object, refusal: object, force: bool, **_k: object) -> Promotion:
        given.append((refusal, force))
        return Promotion("launch", NEW, NEW, 7, 7, None, (), changed=False)

    monkeypatch.setattr(rehearse, "state_of", lambda *_: ReleaseState(7, Digest(digest), "e" * 64))
    monkeypatch.setattr(attest, "rehearsed", rehearsed)
    monkeypatch.setattr(promote, "promote", promoted)
    target = replace(TARGET, name="launch")
    if asked:
        assert not handoffs.promote(context, target, PROOF, force=force).changed
        assert given == [(refusal, False)]
    else:
        with pytest.raises(EvidenceRefused, match="no rehearsal of this release"):
            handoffs.promote(context, target, PROOF, force=force)
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
