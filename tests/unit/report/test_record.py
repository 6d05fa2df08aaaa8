"""A run's folder is read as far as it was written, and nothing in it can stop the reading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci.model import Outcome
from ci.promotion.probes.in_cluster import InsideProber
from ci.promotion.probes.prober import Account
from ci.report import html, record
from ci.report.record import Note
from tests.unit.report.folders import (
    ACCOUNT,
    JUNIT,
    NEW,
    NEW_DIGEST,
    OLD_DIGEST,
    REFUSED,
    REPOSITORY,
    Folder,
    failed,
    promoted,
)


def test_there_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="no run folder"):
        record.read(tmp_path / "none")


def test_an_empty_folder_is_a_run_that_left_nothing(tmp_path: Path) -> None:
    found = record.read(tmp_path)
    assert (found.finished, found.steps, found.started) == (False, (), None)
    assert found.unreadable == ()


def test_the_summary_becomes_the_models_record_again(tmp_path: Path) -> None:
    run = record.read(promoted(tmp_path / "1").path).run
    assert run.promotion is not None
    assert (run.promotion.from_revision, run.promotion.to_revision) == (3, 4)
    assert run.promotion.before.digest == OLD_DIGEST
    assert run.image is not None
    assert (run.image.tag, run.folder) == (NEW, tmp_path / "1")
    assert run.versions == (("helm", "3.21.4"),)
    assert [check.name for check in run.checks] == ["release is deployed"]


def test_what_a_failed_promotion_had_found_out_is_shown(tmp_path: Path) -> None:
    folder = failed(tmp_path, 32, "requests were lost")
    said = {"name": "requests until it failed", "ok": False, "evidence": ACCOUNT}
    folder.summary(outcome="failed", exit_code=32, attempted=[said])
    found = record.read(tmp_path)
    (probes,) = found.probes
    assert probes.where == "requests until it failed"
    assert html.checks(found)[0][0] == "Until it failed"


def test_steps_have_a_beginning_an_end_a_parent_and_notes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "gate", "a fresh cluster", at=1)
    folder.event("step.started", "build", at=2)
    folder.event("note", "gate", "preparing", at=2.5)
    folder.event("step.failed", "build", "no such file", at=3, seconds=1)
    folder.event("run.cancelled", "", "SIGINT: stopping", at=4)
    found = record.read(tmp_path)
    gate, build = found.steps
    assert (gate.begun, gate.ended, gate.reason) == (1, None, "a fresh cluster")
    assert gate.notes == (Note(2.5, "preparing"),)
    assert (build.ended, build.failed, build.problem) == (3, True, "no such file")
    assert found.notes == (Note(4, "SIGINT: stopping"),)
    assert found.ended == 4


def test_a_step_that_happens_twice_stays_two(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("verify", 1, 2, "not yet")
    folder.step("verify", 3, 5)
    found = record.read(tmp_path)
    assert [(s.begun, s.ended, s.failed) for s in found.steps] == [(1, 2, True), (3, 5, False)]
    assert found.step("verify") is found.steps[1]


def test_the_end_of_a_step_says_when_it_began_if_nothing_else_does(tmp_path: Path) -> None:
    Folder(tmp_path).event("step.finished", "build", at=9, seconds=4)
    assert [(s.begun, s.ended) for s in record.read(tmp_path).steps] == [(5, 9)]


def test_a_file_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    whole = promoted(tmp_path / "whole")
    names = ("events.jsonl", "summary.json", "junit.xml", "plan.txt", "backups/quick-rollback.sh")
    cut = Folder(tmp_path / "cut")
    for name in names:
        content = (whole.path / name).read_text("utf-8")
        for end in range(0, len(content), max(1, len(content) // 15)):
            cut.write(name, content[:end])
            record.read(cut.path)
        cut.write(name, content)
    assert record.read(cut.path).unreadable == ()


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("events.jsonl", '{"kind": "note", "at": 1, "text": "x"}\n[1]\n{"kind": "st')
    folder.write("summary.json", '{"id": ')
    folder.write("junit.xml", "<testsuites>")
    found = record.read(tmp_path)
    assert len(found.notes) == 1
    assert not found.finished
    said = "; ".join(found.unreadable)
    assert "2 lines of events.jsonl" in said
    assert "summary.json is cut off" in said
    assert "junit.xml cannot be read" in said


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"steps": 5, "cases": "x", "checks": {}, "versions": [1], "promotion": [], "image": 1},
        {"steps": [1, {"name": "a"}], "cases": [{"name": "a", "outcome": "?"}], "checks": [{}]},
        {"outcome": "?", "exit_code": "x", "seconds": None, "promotion": {"before": {}}},
        {"steps": [{"name": "a", "seconds": 1, "outcome": "passed"}], "versions": "ab"},
    ],
)
def test_a_summary_of_another_shape_loses_only_what_is_wrong(
    tmp_path: Path, summary: dict[str, object]
) -> None:
    folder = Folder(tmp_path)
    folder.write("summary.json", json.dumps(summary))
    found = record.read(tmp_path)
    assert found.finished
    assert found.run.promotion is None


def test_cases_come_from_every_junit_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("junit-target.xml", JUNIT)
    folder.write("junit.xml", JUNIT)
    found = record.read(tmp_path)
    assert [suite.label for suite in found.suites] == ["gate", "target"]
    assert [case.outcome for case in found.suites[0].cases] == [
        Outcome.PASSED,
        Outcome.PASSED,
        Outcome.FAILED,
        Outcome.SKIPPED,
    ]
    duration = found.suites[0].durations[0]
    assert (duration.asked, duration.seen) == ("45 s", "45 s")


def test_a_junit_file_that_names_entities_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path).write(
        "junit.xml", '<!DOCTYPE a [<!ENTITY b "c">]><testsuites>&b;</testsuites>'
    )
    found = record.read(tmp_path)
    assert found.suites == ()
    assert found.unreadable


def test_the_plan_is_read_line_by_line(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("plan.txt", REFUSED + "  something else entirely\n")
    plan = record.read(tmp_path).plan
    assert plan is not None
    assert (plan.from_revision, plan.to_revision) == ("3", "4")
    image, hook, odd = (change for change in plan.changes if change.allowed)
    assert (image.object, image.after) == ("Deployment/model-engine", f"{REPOSITORY}:{NEW}")
    assert image.path == "spec.template.spec.containers[model-engine].image"
    assert (hook.object, hook.path) == ("Job/migrate-3 (hook)", "metadata.name")
    assert hook.reason == "the release's revision"
    assert odd.object == "something else entirely"
    (refused,) = plan.refused
    assert (refused.object, refused.before, refused.after) == ("ConfigMap/settings", "10", "20")


def test_the_backups_say_what_to_return_to(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.backups()
    saved = record.read(tmp_path).backups
    assert saved is not None
    assert (saved.release, saved.namespace) == ("launch-inference", "launch")
    assert (saved.context, saved.revision) == ("kind-launch", "3")
    assert saved.digest == OLD_DIGEST
    assert [file.path for file in saved.files] == [
        "backups/current-image.txt",
        "backups/quick-rollback.sh",
    ]


def test_what_was_watched_is_shown_but_the_services_own_words(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "upgrade", at=0)
    folder.event("watch", "pods", "engine-1: Running", at=1)
    folder.write("watch/pods.txt", "    1.0 s  engine-1: Running\n")
    folder.write("watch/logs.txt", "    1.0 s  engine-1: said <b>\n")
    found = record.read(tmp_path)
    assert found.watched == (("pods", "    1.0 s  engine-1: Running"),)
    assert [file.path for file in found.logs] == ["watch/logs.txt", "watch/pods.txt"]
    assert not found.notes
    assert not found.steps[0].notes


def test_the_published_image_is_known_without_a_summary(tmp_path: Path) -> None:
    text = f"published {REPOSITORY}@{NEW_DIGEST}"
    folder = Folder(tmp_path)
    folder.event("step.started", "build", at=0)
    folder.event("note", "build", text, at=1, digest=NEW_DIGEST, tag=NEW)
    image = record.read(tmp_path).published
    assert image is not None
    assert (image.by_tag, image.digest) == (f"{REPOSITORY}:{NEW}", NEW_DIGEST)


@pytest.mark.parametrize("where", ["check", "error", "step"])
def test_the_probes_are_found_where_they_were_written(tmp_path: Path, where: str) -> None:
    folder = Folder(tmp_path)
    text = f"requests were lost during the change: {ACCOUNT}"
    if where == "step":
        folder.step("count the probes", 1, 2, text, parent="promote")
    check = [{"name": "requests", "ok": True, "evidence": ACCOUNT}]
    folder.summary(checks=check if where == "check" else [], error=text if where == "error" else "")
    (probes,) = record.read(tmp_path).probes
    assert (probes.sent, probes.answered, probes.failed) == (713, 711, 2)
    assert (probes.why, probes.longest_gap) == ("HTTP 503", 0.47)
    assert (probes.median, probes.slowest) == (23, 771)


@pytest.mark.parametrize("sent", [713, 715])
@pytest.mark.parametrize("problems", [(), (("ConnectError: (refused)", 2),)])
@pytest.mark.parametrize(
    "place",
    ["", "through the API server", InsideProber.where, "from outside, https://e.example/readyz"],
)
def test_the_probers_own_words_are_understood(
    tmp_path: Path, sent: int, problems: tuple[tuple[str, int], ...], place: str
) -> None:
    account = Account(sent, 711, 2, 0.47, 0.771, 0.023, problems)
    evidence = f"{account}, {place}" if place else str(account)
    Folder(tmp_path).summary(checks=[{"name": "requests", "ok": True, "evidence": evidence}])
    (probes,) = record.read(tmp_path).probes
    assert (probes.sent, probes.answered, probes.failed) == (sent, 711, 2)
    assert probes.under_way == sent - 713
    assert (probes.longest_gap, probes.median, probes.slowest) == (0.47, 23, 771)
    assert probes.why == (problems[0][0] if problems else "")
    assert probes.place == place


def test_tables_that_stages_leave_are_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    table = {"title": "Failures", "columns": ["case", "met"], "rows": [["crash", True], 5]}
    folder.write("tables/a.json", json.dumps(table))
    folder.write("reports/matrix.json", json.dumps(table | {"title": "Matrix"}))
    folder.write("tables/b.json", "[]")
    folder.write("tables/c.json", "{")
    found = record.read(tmp_path)
    kept, matrix = found.tables
    assert (kept.title, kept.rows) == ("Failures", (("crash", True),))
    assert matrix.title == "Matrix"
    assert found.unreadable == ("c.json is cut off or not JSON",)


def test_secrets_and_terminal_codes_do_not_pass(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    secret = "Endpoint=sb://x/;SharedAccessKey=c3dvcmRmaXNo and password=swordfish"
    folder.step("build", 0, 1, f"\x1b[31m{secret}\x00")
    folder.event("note", "", secret, at=1)
    folder.summary(error=secret, remedy=secret, outcome="failed", exit_code=1)
    folder.write("evidence/cause.txt", secret)
    folder.write("junit.xml", JUNIT.replace("the target runs no cacher", secret))
    said = str(record.read(tmp_path))
    assert "c3dvcmRmaXNo" not in said
    assert "swordfish" not in said
    assert "\x1b" not in said
    assert "\x00" not in said


def test_a_text_without_end_is_cut(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("note", "", "x" * 100_000, at=1)
    (note,) = record.read(tmp_path).notes
    assert len(note.text) < 5000
    assert "characters more" in note.text
