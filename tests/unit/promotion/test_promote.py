"""The decisions of the promote stage that need no cluster."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.errors import CommandFailed, Interrupted, PlanRefused, PromotionFailed, ProofFailed
from ci.model import Case, Cluster, Image, Outcome, Proof, Target
from ci.promotion.rollout import Trouble
from ci.stages import promote
from ci.tools.command import Output, Programs
from ci.tools.helm import Helm, Revision, reason

IMAGE = Image("registry:5000/model-engine", "queue-timeout-1", "sha256:" + "a" * 64)
CLUSTER = Cluster("launch", Path("/k"), "launch", disposable=True)
TARGET = Target("prod", CLUSTER, "launch", "rel", Path("chart"), IMAGE.repository)


def proof(*outcomes: Outcome) -> Proof:
    cases = tuple(Case(f"test_{n}", outcome, 0.1) for n, outcome in enumerate(outcomes))
    return Proof(IMAGE, cases, Path("junit.xml"), datetime(2026, 11, 23, tzinfo=UTC))


def test_only_a_passing_proof_goes_on() -> None:
    promote.refuse_unproven(proof(Outcome.PASSED, Outcome.SKIPPED))
    with pytest.raises(ProofFailed, match="queue-timeout-1 failed: test_1, test_2, test_3 and 1"):
        promote.refuse_unproven(proof(Outcome.PASSED, *[Outcome.FAILED] * 4))
    for nothing in (proof(), proof(Outcome.SKIPPED)):
        with pytest.raises(ProofFailed, match="no test case passed"):
            promote.refuse_unproven(nothing)


def test_the_repository_is_set_only_when_it_differs() -> None:
    before = replace(IMAGE, tag="old")
    assert promote.sets_of(TARGET, before, IMAGE) == {"tag": "queue-timeout-1"}
    other = replace(before, repository="elsewhere:5000/model-engine")
    assert promote.sets_of(TARGET, other, IMAGE) == {
        "tag": "queue-timeout-1",
        "image.repository": IMAGE.repository,
    }


def words(sets: dict[str, str]) -> list[str]:
    return Helm(Path("helm"), CLUSTER, Programs(env={})).upgrade_words("r", Path("c"), sets)


def test_the_upgrade_reuses_values_and_is_never_atomic() -> None:
    assert words({"tag": "queue-timeout-1"}) == [
        "upgrade", "r", "c", "--reuse-values", "--set", "tag=queue-timeout-1",
    ]  # fmt: skip


@pytest.mark.parametrize("tag", ["20261123", "true", "null"])
def test_a_tag_that_looks_like_something_else_stays_a_string(tag: str) -> None:
    assert words({"tag": tag})[-2:] == ["--set-string", f"tag={tag}"]


def revisions(*statuses: str) -> list[Revision]:
    return [Revision(n, s, "c-1", "") for n, s in enumerate(statuses, 1)]


@pytest.mark.parametrize(
    ("history", "asked", "recorded", "goal"),
    [
        (revisions("superseded", "deployed"), None, "", 1),
        (revisions("deployed", "failed"), None, "", 1),
        (revisions("deployed", "pending-upgrade"), None, "", 1),
        (revisions("superseded", "superseded", "failed"), None, "", 2),
        (revisions("superseded", "failed", "deployed"), None, "", 1),
        (revisions("superseded", "superseded", "deployed"), None, "1", 1),
        (revisions("superseded", "superseded", "deployed"), 3, "1", 3),
        (revisions("superseded", "superseded", "deployed"), None, "99", 2),
    ],
)
def test_where_to_roll_back_to(
    history: list[Revision], asked: int | None, recorded: str, goal: int
) -> None:
    assert promote.choose(history, asked, recorded).number == goal


def test_what_was_rolled_back_already_is_not_where_to_go() -> None:
    history = revisions("superseded", "superseded", "superseded", "deployed")
    history[-1] = replace(history[-1], description="Rollback to 2")
    assert promote.choose(history, None, "").number == 1
    history[-1] = replace(history[-1], description="Rollback to 1")
    with pytest.raises(PlanRefused, match="no revision before 1"):
        promote.choose(history, None, "")


@pytest.mark.parametrize(
    ("history", "asked"),
    [(revisions("deployed"), None), (revisions("pending-install"), None),
     (revisions("superseded", "failed", "deployed"), 2), (revisions("deployed"), 9)],
)  # fmt: skip
def test_nowhere_to_roll_back_to(history: list[Revision], asked: int | None) -> None:
    with pytest.raises(PlanRefused, match="there is no revision"):
        promote.choose(history, asked, "")


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (KeyboardInterrupt(), "interrupted during the upgrade"),
        (Interrupted("x"), "interrupted during the upgrade"),
        (
            promote.Hopeless(Trouble("p", "c", "CrashLoopBackOff", "it ended with 1 (Error)")),
            "the new version cannot start: pod p: container c is in CrashLoopBackOff:"
            " it ended with 1 (Error)",
        ),
        (PromotionFailed("plain words\nmore"), "plain words"),
        (CommandFailed("long argv", output="one\ntwo  words"), "two words"),
        (ValueError(), "ValueError"),
    ],
)
def test_causes_in_plain_words(problem: BaseException, said: str) -> None:
    assert promote.cause(problem) == said


def test_the_last_words_of_a_crash_are_told(tmp_path: Path) -> None:
    crash = promote.Hopeless(Trouble("p", "c", "CrashLoopBackOff", ""))
    assert promote.with_last_words("why", crash, tmp_path) == "why"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "p.c.previous.log").write_text("start\nKeyError: 'LOCK'\n\n")
    assert promote.with_last_words("why", crash, tmp_path).endswith("words: KeyError: 'LOCK'")
    pull = promote.Hopeless(Trouble("p", "c", "ImagePullBackOff", ""))
    assert promote.with_last_words("why", pull, tmp_path) == "why"


def test_why_a_pod_never_became_ready_is_told(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text(
        "1s Warning Unhealthy pod/p Readiness probe failed: statuscode: 503\n2s Normal Killing\n"
    )
    slow = PromotionFailed("x")
    because = "helm gave up; last seen: pod p is not ready"
    told = promote.with_last_words(because, slow, tmp_path)
    assert told == f"{because} (readiness probe failed: statuscode: 503)"
    assert promote.with_last_words("lost requests", slow, tmp_path) == "lost requests"


def test_only_pods_that_are_not_ready_are_asked_why(tmp_path: Path) -> None:
    (tmp_path / "pods.txt").write_text(
        "NAME READY STATUS\nold-a   1/1   Running   0   9s\nnew-b   0/1   Running   0   3s\n"
    )
    (tmp_path / "events.txt").write_text(
        "1s Warning Unhealthy pod/new-b   Readiness probe failed: statuscode: 503\n"
        "1s Warning Unhealthy pod/old-a   Readiness probe failed: connection refused\n"
    )
    timeout = "UPGRADE FAILED: context deadline exceeded; last seen: 1 of 2 replicas updated"
    told = promote.with_last_words(timeout, PromotionFailed("x"), tmp_path)
    assert told == f"{timeout} (readiness probe failed: statuscode: 503)"


def test_a_quota_is_told_where_only_a_wait_ended(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text(
        "1s   Warning   FailedCreate   job/m   Error creating: pods is forbidden: exceeded quota\n"
        "3h   Warning   FailedCreate   job/x   Error creating: long ago\n"
        "2s   Warning   Unhealthy   pod/new   Readiness probe failed: statuscode: 503\n"
    )
    timeout = "UPGRADE FAILED: pre-upgrade hooks failed: timed out waiting for the condition"
    told = promote.with_last_words(timeout, PromotionFailed("x"), tmp_path)
    assert told == f"{timeout} (pods is forbidden: exceeded quota)"
    assert promote.with_last_words("requests were lost", PromotionFailed("x"), tmp_path) == (
        "requests were lost"
    )


def test_helms_reason_is_one_line() -> None:
    assert reason(Output(1, "", "warning\nError: template: x.yaml:3: bad\n")) == (
        "template: x.yaml:3: bad"
    )
    assert reason(Output(1, "", "")) == "helm ended with 1"
