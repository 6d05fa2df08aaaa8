"""Why a promotion failed, from what was raised and from the evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.errors import CommandFailed, Interrupted, PromotionFailed
from ci.promotion.release.rollout import Trouble, UnrecoverablePod
from ci.promotion.rollback import cause
from ci.tools.command import Output
from ci.tools.helm import reason


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (KeyboardInterrupt(), "interrupted during the upgrade"),
        (Interrupted("x"), "interrupted during the upgrade"),
        (
            UnrecoverablePod(Trouble("p", "c", "CrashLoopBackOff", "it ended with 1 (Error)")),
            "the new version cannot start: pod p: container c is in CrashLoopBackOff:"
            " it ended with 1 (Error)",
        ),
        (PromotionFailed("plain words\nmore"), "plain words"),
        (CommandFailed("long argv", output="one\ntwo  words"), "two words"),
        (ValueError(), "ValueError"),
    ],
)
def test_causes_in_plain_words(problem: BaseException, said: str) -> None:
    assert cause.cause(problem) == said


def test_the_last_words_of_a_crash_are_told(tmp_path: Path) -> None:
    crash = UnrecoverablePod(Trouble("p", "c", "CrashLoopBackOff", ""))
    assert cause.with_last_words("why", crash, tmp_path) == "why"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "p.c.previous.log").write_text("start\nKeyError: 'LOCK'\n\n")
    assert cause.with_last_words("why", crash, tmp_path).endswith("words: KeyError: 'LOCK'")
    pull = UnrecoverablePod(Trouble("p", "c", "ImagePullBackOff", ""))
    assert cause.with_last_words("why", pull, tmp_path) == "why"


def test_why_a_pod_never_became_ready_is_told(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text(
        "1s Warning Unhealthy pod/p Readiness probe failed: statuscode: 503\n2s Normal Killing\n"
    )
    slow = PromotionFailed("x")
    because = "helm gave up; last seen: pod p is not ready"
    told = cause.with_last_words(because, slow, tmp_path)
    assert told == f"{because} (readiness probe failed: statuscode: 503)"
    assert cause.with_last_words("lost requests", slow, tmp_path) == "lost requests"


def test_only_pods_that_are_not_ready_are_asked_why(tmp_path: Path) -> None:
    (tmp_path / "pods.txt").write_text(
        "NAME READY STATUS\nold-a   1/1   Running   0   9s\nnew-b   0/1   Running   0   3s\n"
    )
    (tmp_path / "events.txt").write_text(
        "1s Warning Unhealthy pod/new-b   Readiness probe failed: statuscode: 503\n"
        "1s Warning Unhealthy pod/old-a   Readiness probe failed: connection refused\n"
    )
    timeout = "UPGRADE FAILED: context deadline exceeded; last seen: 1 of 2 replicas updated"
    told = cause.with_last_words(timeout, PromotionFailed("x"), tmp_path)
    assert told == f"{timeout} (readiness probe failed: statuscode: 503)"


def test_what_an_earlier_change_left_is_not_the_cause(tmp_path: Path) -> None:
    (tmp_path / "pods.txt").write_text(
        "NAME READY STATUS RESTARTS AGE\n"
        "migration-4   0/1   ErrImagePull   0   113s   10.244.0.140\n"
        "migration-6   0/1   Completed   0   20s   10.244.0.155\n"
        "new-b   0/1   Running   2 (5s ago)   1m26s   10.244.0.208\n"
    )
    (tmp_path / "events.txt").write_text(
        '113s   Normal   Pulling   pod/migration-4   Pulling image "engine:bad"\n'
        "1s   Warning   Unhealthy   pod/new-b   Readiness probe failed: statuscode: 503\n"
    )
    told = cause.with_last_words("deadline exceeded", PromotionFailed("x"), tmp_path)
    assert told == "deadline exceeded (readiness probe failed: statuscode: 503)"


def test_a_pull_that_hangs_is_told(tmp_path: Path) -> None:
    (tmp_path / "pods.txt").write_text("NAME READY STATUS\nnew-b   0/1   ContainerCreating   0\n")
    pulls = '20s   Normal   Pulling   pod/new-b   Pulling image "engine:v2"\n'
    (tmp_path / "events.txt").write_text(pulls)
    timeout = "pre-upgrade hooks failed: timed out waiting for the condition"
    told = cause.with_last_words(timeout, PromotionFailed("x"), tmp_path)
    assert told == f'{timeout} (pod new-b: Pulling image "engine:v2")'
    done = "19s   Normal   Pulled   pod/new-b   Successfully pulled image\n"
    (tmp_path / "events.txt").write_text(pulls + done)
    assert cause.with_last_words(timeout, PromotionFailed("x"), tmp_path) == timeout


def test_a_quota_is_told_where_only_a_wait_ended(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text(
        "1s   Warning   FailedCreate   job/m   Error creating: pods is forbidden: exceeded quota\n"
        "3h   Warning   FailedCreate   job/x   Error creating: long ago\n"
        "2s   Warning   Unhealthy   pod/new   Readiness probe failed: statuscode: 503\n"
    )
    timeout = "UPGRADE FAILED: pre-upgrade hooks failed: timed out waiting for the condition"
    told = cause.with_last_words(timeout, PromotionFailed("x"), tmp_path)
    assert told == f"{timeout} (pods is forbidden: exceeded quota)"
    assert cause.with_last_words("requests were lost", PromotionFailed("x"), tmp_path) == (
        "requests were lost"
    )


def test_helms_reason_is_one_line() -> None:
    assert reason(Output(1, "", "warning\nError: template: x.yaml:3: bad\n")) == (
        "template: x.yaml:3: bad"
    )
    assert reason(Output(1, "", "")) == "helm ended with 1"
