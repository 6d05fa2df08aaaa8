"""A run's folder is read as far as it was written, and nothing in it can stop the reading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ci.report import record
from ci.report.record import Note
from ci.results import (
    CauseId,
    ChangeState,
    CheckGroup,
    CheckId,
    Outcome,
    Phase,
    ProbePlace,
    Problem,
    StepId,
    failed,
)
from tests.unit.report.folders import (
    AFTER,
    BACKUPS,
    BEFORE,
    CHANGE,
    CHECKS_AFTER,
    CHECKS_FAILED,
    GROUPS,
    JUNIT,
    NEW,
    NEW_DIGEST,
    OLD_DIGEST,
    PROBES,
    REFUSED,
    REPOSITORY,
    REQUESTS,
    Folder,
    broken,
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
    assert run.groups == GROUPS
    assert run.change == CHANGE


def test_what_a_failed_promotion_had_found_out_is_there(tmp_path: Path) -> None:
    broken(tmp_path, 32, "requests were lost", cause=CauseId.REQUESTS_LOST)
    found = record.read(tmp_path).run
    assert found.groups == GROUPS[:1]
    assert found.change is not None
    assert (found.change.state, found.change.cause) == (
        ChangeState.ROLLED_BACK,
        CauseId.REQUESTS_LOST,
    )


def test_a_run_that_was_killed_says_where_its_target_stands(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("run.json", json.dumps({"command": "promote", "targets": ["launch"]}))
    folder.change(ChangeState.UNTOUCHED, at=1, live_revision=3)
    folder.event("change", "upgrade", "", at=2, target="launch", state="under-way")
    folder.write("events.jsonl", (tmp_path / "events.jsonl").read_text() + '{"kind": "change", "st')
    found = record.read(tmp_path).run
    assert found.command == "promote"
    assert found.change is not None
    assert found.change.state is ChangeState.UNDER_WAY
    assert (found.change.before, found.change.after) == (BEFORE, AFTER)
    assert (found.change.from_revision, found.change.live_revision) == (3, 3)


def test_a_run_that_was_killed_keeps_the_checks_that_it_made(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for check in CHECKS_FAILED:
        folder.check(Phase.AFTER, check)
    folder.check(Phase.BEFORE, GROUPS[0].checks[0])
    folder.event("check", "verify", "", at=5, phase="before", check={"id": "no.such"})
    found = record.read(tmp_path)
    assert found.run.groups == (
        CheckGroup(Phase.BEFORE, GROUPS[0].checks[:1]),
        CheckGroup(Phase.AFTER, CHECKS_FAILED),
    )
    assert found.unreadable == ("checks of events.jsonl that are of another version",)


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


def test_steps_of_one_id_are_told_apart_by_their_subject(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "tool", at=1, subject="kind")
    folder.event("step.started", "tool", at=2, subject="helm")
    folder.event("note", "tool", "downloading", at=2.5, subject="kind")
    folder.event("step.finished", "tool", at=3, seconds=2, subject="kind")
    kind, helm = record.read(tmp_path).steps
    assert (kind.subject, kind.ended, kind.notes) == ("kind", 3, (Note(2.5, "downloading"),))
    assert (helm.subject, helm.ended) == ("helm", None)
    assert kind.title == "obtain kind"


def test_a_step_that_happens_twice_stays_two(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("verify", 1, 2, "not yet")
    folder.step("verify", 3, 5)
    found = record.read(tmp_path)
    assert [(s.begun, s.ended, s.failed) for s in found.steps] == [(1, 2, True), (3, 5, False)]
    assert found.step(StepId.VERIFY) is found.steps[1]


def test_the_end_of_a_step_says_when_it_began_if_nothing_else_does(tmp_path: Path) -> None:
    Folder(tmp_path).event("step.finished", "build", at=9, seconds=4)
    assert [(s.begun, s.ended) for s in record.read(tmp_path).steps] == [(5, 9)]


def test_a_file_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    whole = promoted(tmp_path / "whole")
    names = (
        "events.jsonl",
        "summary.json",
        "junit.xml",
        "plan.json",
        "probes.json",
        "backups/backups.json",
    )
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
        {"steps": [{"id": "a", "seconds": 1, "outcome": "passed"}], "versions": "ab"},
        {"seconds": 10**400, "exit_code": 1e300, "change": {"target": "a"}, "started": "yesterday"},
        {"groups": [{"phase": "before", "checks": [{"id": "x"}]}, {"phase": "?", "checks": []}]},
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
    assert found.run.outcome is Outcome.FAILED


def test_only_the_check_that_is_not_understood_is_left_out(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "1")
    path = folder.path / "summary.json"
    raw = json.loads(path.read_text("utf-8"))
    raw["groups"][2]["checks"][0]["id"] = "of.another.version"
    raw["groups"][2]["checks"][2]["measured"] = [{"kind": "of another version"}]
    raw["change"]["cause"] = "of another version"
    raw["of another version"] = {"x": 1}
    path.write_text(json.dumps(raw), "utf-8")
    found = record.read(folder.path)
    assert found.run.groups == (*GROUPS[:2], CheckGroup(Phase.AFTER, CHECKS_AFTER[1:]))
    assert found.run.change == replace(CHANGE, cause=None)
    (named,) = found.unreadable
    assert "groups.2.checks.0" in named
    assert "change.cause" in named


def test_a_summary_of_another_schema_version_is_named(tmp_path: Path) -> None:
    Folder(tmp_path).write("summary.json", json.dumps({"schema_version": 9, "command": "run"}))
    found = record.read(tmp_path)
    assert found.run.command == "run"
    assert found.unreadable[0] == "summary.json has schema version 9, read as 1"


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


def test_the_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    Folder(tmp_path).leave(REFUSED)
    plan = record.read(tmp_path).plan
    assert plan == REFUSED
    (refused,) = plan.refused
    assert (refused.object, refused.before, refused.after) == ("ConfigMap/settings", "10", "20")


def test_the_backups_say_what_to_return_to(tmp_path: Path) -> None:
    Folder(tmp_path).backups()
    found = record.read(tmp_path)
    assert found.backups == BACKUPS
    assert [file.path for file in found.backup_files] == [
        "backups/backups.json",
        "backups/quick-rollback.sh",
    ]


def test_backups_without_a_description_are_listed(tmp_path: Path) -> None:
    Folder(tmp_path).write("backups/quick-rollback.sh", "#!/bin/sh\n")
    found = record.read(tmp_path)
    assert found.backups is None
    assert len(found.backup_files) == 1


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
    folder = Folder(tmp_path)
    folder.event("step.started", "build", at=0)
    image = {"repository": REPOSITORY, "tag": NEW, "digest": NEW_DIGEST}
    folder.event("note", "build", "any words", at=1, image=image)
    found = record.read(tmp_path).run.image
    assert found is not None
    assert (found.by_tag, found.digest) == (f"{REPOSITORY}:{NEW}", NEW_DIGEST)


def test_requests_are_read_with_their_course(tmp_path: Path) -> None:
    Folder(tmp_path).leave(PROBES)
    (series,) = record.read(tmp_path).probes
    assert series.place is ProbePlace.IN_CLUSTER
    assert series.final == REQUESTS
    assert (len(series.buckets), sum(b.failed for b in series.buckets)) == (36, 2)


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
    folder.summary(
        error=secret,
        remedy=secret,
        outcome=Outcome.FAILED,
        exit_code=1,
        change=replace(CHANGE, problem=secret),
        groups=(CheckGroup(Phase.AFTER, (failed(CheckId.API_ANSWERS, Problem(secret)),)),),
    )
    folder.leave(replace(REFUSED, differences=(replace(REFUSED.refused[0], after=secret),)))
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
