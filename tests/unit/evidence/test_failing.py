"""What failed is told and kept, and the suite cannot sign for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ci.digest import Digest
from ci.errors import DeployFailed, ProofFailed
from ci.evidence import dsse, statement
from ci.model import Cluster, Image, Release
from ci.run.context import Context
from ci.stages import attest, prove
from ci.tools.command import Output
from ci.tools.wait import SystemClock, wait_until
from ci.workflow import handoffs
from tests.unit.evidence.fakes import REPOSITORY, machine

RELEASE = Release(
    Cluster("gate", Path("k"), "kind-gate", True),
    "launch",
    "launch-inference",
    1,
    Image(REPOSITORY, "new", Digest.from_hex("a" * 64)),
)
CASE = '<testcase classname="test_it" name="test_{}" time="1">{}</testcase>'
FAILED = '<failure message="no">no</failure>'


def suite(
    monkeypatch: pytest.MonkeyPatch,
    context: Context,
    junit: str,
    status: int,
    gateway_url: str = "http://127.0.0.1:1",
) -> dict[str, str]:
    """Let pytest be one that leaves ``junit`` and ends with ``status``; the environment it gets."""
    given: dict[str, str] = {}

    def run(argv: list[Any], *, env: dict[str, str], **_: Any) -> Output:
        given.update(context.programs.env | env)
        if junit:
            (wanted,) = [str(w).partition("=")[2] for w in argv if "--junitxml=" in str(w)]
            Path(wanted).write_text(f"<testsuites>{junit}</testsuites>")
        return Output(status, "said", "")

    monkeypatch.setattr(prove, "_described", lambda *_: {"gateway_url": gateway_url})
    monkeypatch.setattr(prove, "_keep_evidence", lambda *_: None)
    monkeypatch.setattr(context.programs, "run", run)
    return given


def test_failing_evidence_stays_in_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = machine(tmp_path)
    suite(monkeypatch, context, CASE.format(1, "") + CASE.format(2, FAILED), 1)
    with pytest.raises(ProofFailed, match="1 of 2 cases failed"):
        handoffs.proven_here(context, lambda: RELEASE, None)  # type: ignore[arg-type]
    kept = dsse.parse((context.run_dir / attest.FILE).read_bytes())
    stated = statement.read_result(kept.payload)
    assert stated.result == "FAILED"
    assert stated.started <= stated.finished


@pytest.mark.parametrize(
    ("junit", "status"),
    [("", 2), (CASE.format(1, ""), 3), (CASE.format(1, "<skipped/>"), 0)],
    ids=["nothing was written", "pytest broke down", "all skipped"],
)
def test_what_is_no_result_is_not_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junit: str, status: int
) -> None:
    context = machine(tmp_path)
    suite(monkeypatch, context, junit, status)
    with pytest.raises(ProofFailed):
        handoffs.proven_here(context, lambda: RELEASE, None)  # type: ignore[arg-type]
    assert not (context.run_dir / attest.FILE).exists()


def test_a_key_that_is_gone_does_not_hide_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = machine(tmp_path, {"evidence": {"key_file": "nowhere.pem"}})
    suite(monkeypatch, context, CASE.format(1, FAILED), 1)
    with pytest.raises(ProofFailed, match="1 of 1 cases failed"):
        handoffs.proven_here(context, lambda: RELEASE, None)  # type: ignore[arg-type]
    assert "was not signed" in context.events.all[-1].text


def test_the_suite_is_not_given_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = machine(tmp_path, {"evidence": {"key_env": "TEAM_KEY"}}, {"TEAM_KEY": "secret pem"})
    given = suite(monkeypatch, context, CASE.format(1, ""), 0)
    assert handoffs.proven_here(context, lambda: RELEASE, None).passed  # type: ignore[arg-type]
    assert given["TEAM_KEY"] == ""


def test_tests_that_started_early_end_at_once_when_there_is_nothing_to_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = machine(tmp_path)
    seen: list[bytes] = []
    places: list[Path] = []

    def run(*_: Any, env: dict[str, str], **__: Any) -> Output:
        described = Path(env["E2E_TARGET"])
        places.append(described)
        wait_until("the target's file", described.exists, timeout=10, clock=SystemClock())
        seen.append(described.read_bytes())
        return Output(3, "", "")

    def no_release() -> Release:
        raise DeployFailed("no release")

    monkeypatch.setattr(context.programs, "run", run)
    with pytest.raises(DeployFailed, match="no release"):
        handoffs.proven_here(context, no_release, None)  # type: ignore[arg-type]
    assert seen == [b""]
    assert not places[0].is_relative_to(context.run_dir), "it may hold a key"
    assert not places[0].exists()
