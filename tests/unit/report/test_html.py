"""The report says in one sentence how a run ended, shows why, and needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.model import Case, Outcome
from ci.report import __main__ as command
from ci.report import html
from ci.report.html import Tone
from ci.report.record import Record, Step, Suite, read
from tests.unit.report.folders import (
    NEW,
    NEW_DIGEST,
    OLD,
    OLD_DIGEST,
    REFUSED,
    Folder,
    failed,
    promoted,
)

NOW = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
VOID = {"meta", "br", "line", "rect", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would make of it: the text, the tags, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def page(folder: Path) -> Page:
    return Page(html.render(read(folder), NOW))


# -- the verdict -----------------------------------------------------------------------------------


def test_a_promotion_names_both_ends(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "1")
    verdict = html.verdict(read(folder.path))
    assert (verdict.tone, verdict.word) == (Tone.GOOD, "Promoted")
    assert verdict.sentence == (
        f"launch was promoted from {OLD} (revision 3) to {NEW} (revision 4), the digest that was"
        " proven."
    )
    text = page(folder.path).text
    assert OLD_DIGEST in text
    assert NEW_DIGEST in text
    assert "rollback --target launch --revision 3" in text


@pytest.mark.parametrize(
    ("code", "error", "upgrade", "back", "tone", "word"),
    [
        (32, "broken; rolled back to revision 3", "broken", True, Tone.WARN, "Rolled back"),
        (32, "broken; nothing was changed: it serves", "broken", True, Tone.WARN, "Not promoted"),
        (33, "both failed", "broken", False, Tone.ALARM, "Act now"),
        (34, "not all Ready", "", None, Tone.BAD, "Promoted, not verified"),
        (130, "interrupted; rolled back", "interrupted", True, Tone.WARN, "Interrupted"),
        (130, "interrupted", "interrupted", False, Tone.ALARM, "Interrupted"),
        (1, "a defect", "a defect", False, Tone.ALARM, "Failed"),
        (41, "helm ended with 1", "", None, Tone.BAD, "Failed"),
    ],
)
def test_a_failure_after_the_upgrade_began(
    tmp_path: Path,
    code: int,
    error: str,
    upgrade: str,
    back: bool | None,
    tone: Tone,
    word: str,
) -> None:
    folder = failed(tmp_path, code, error, upgrade=upgrade, back=back)
    verdict = html.verdict(read(folder.path))
    assert (verdict.tone, verdict.word) == (tone, word)
    text = page(folder.path).text
    assert verdict.sentence in text
    assert error in text
    assert f"Exit code {code}" in text
    assert OLD_DIGEST in text


def test_a_rollback_says_what_serves_again(tmp_path: Path) -> None:
    folder = failed(tmp_path, 32, "broken; rolled back to revision 3")
    sentence = html.verdict(read(folder.path)).sentence
    assert f"launch-inference serves {OLD} (revision 3) again, verified" in sentence


@pytest.mark.parametrize(
    ("code", "called", "word", "said"),
    [
        (20, "run", "Not promoted", "the target was not touched"),
        (20, "prove", "Not proven", "did not pass"),
        (31, "promote", "Refused", "the target was not touched"),
        (30, "run", "Not promoted", "the target was not touched"),
        (10, "build", "Failed", "in the step “build”"),
        (34, "verify", "Not verified", "does not meet"),
        (130, "run", "Interrupted", "the target was not touched"),
    ],
)
def test_a_failure_before_the_upgrade(
    tmp_path: Path, code: int, called: str, word: str, said: str
) -> None:
    folder = Folder(tmp_path)
    folder.step("build", 0, 5, "broken")
    folder.summary(command=called, outcome="failed", exit_code=code, error="broken", image=None)
    verdict = html.verdict(read(tmp_path))
    assert verdict.word == word
    assert said in verdict.sentence
    assert verdict.tone is not Tone.GOOD


@pytest.mark.parametrize("called", ["build", "prove", "verify", "rollback", "test"])
def test_every_command_has_a_sentence_for_success(tmp_path: Path, called: str) -> None:
    Folder(tmp_path).summary(command=called)
    verdict = html.verdict(read(tmp_path))
    assert verdict.tone is Tone.GOOD
    assert verdict.sentence.endswith(".")


def test_a_failed_check_of_the_project_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("ruff", 0, 1, "ruff ended with 1")
    folder.step("mypy", 1, 2)
    folder.step("unit", 2, 3, "unit ended with 1")
    folder.summary(command="test", outcome="failed", exit_code=1, error="a check failed")
    assert html.verdict(read(tmp_path)).sentence == "Not every check passed: ruff, unit."


def test_the_step_that_is_blamed_is_not_one_that_was_cancelled(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("gate", 0, 5, "interrupted")
    folder.step("build", 1, 4, "no such file")
    folder.summary(command="run", outcome="failed", exit_code=10, error="no such file")
    assert "in the step “build”" in html.verdict(read(tmp_path)).sentence


def test_the_part_that_failed_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "promote", at=0)
    folder.step("take the lock", 1, 2, "held by another", parent="promote")
    folder.event("step.failed", "promote", "held by another", at=3, seconds=3)
    folder.summary(command="promote", outcome="failed", exit_code=7, error="held by another")
    assert "in the step “promote: take the lock”" in html.verdict(read(tmp_path)).sentence


def test_a_run_that_never_began_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("tools", 0, 5)
    folder.summary(command="run", outcome="failed", exit_code=3, error="no target 'nope'")
    assert "before it had begun its work" in html.verdict(read(tmp_path)).sentence


def test_a_run_killed_during_the_upgrade_is_an_alarm(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.backups()
    folder.event("step.started", "promote", at=0)
    folder.step("upgrade", 1, None, parent="promote")
    verdict = html.verdict(read(tmp_path))
    assert verdict.tone is Tone.ALARM
    assert "launch-inference was being upgraded" in verdict.sentence
    text = page(tmp_path).text
    assert "pipeline.py rollback" in text
    assert "nothing says how this step ended" in text


def test_what_was_watched_has_a_section(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("upgrade", 0, 5)
    folder.write("watch/events.txt", "    1.0 s  Warning Unhealthy pod/engine-1: <no answer>\n")
    text = page(tmp_path).text
    assert "Watched during the change" in text
    assert "pod/engine-1: <no answer>" in text


def test_a_run_killed_before_the_upgrade_is_none(tmp_path: Path) -> None:
    Folder(tmp_path).step("build", 0, None)
    assert html.verdict(read(tmp_path)).tone is Tone.WARN


def test_exit_codes_are_explained_by_the_errors() -> None:
    assert html.meaning(0) == "done"
    assert html.meaning(1) == "a defect of the pipeline itself"
    assert "rolled back" in html.meaning(32)
    assert "tests failed" in html.meaning(20)
    assert html.meaning(99) == ""


# -- the sections ----------------------------------------------------------------------------------


def test_a_report_holds_everything_of_a_promotion(tmp_path: Path) -> None:
    text = page(promoted(tmp_path / "1").path).text
    for said in (
        "Timeline",
        "2 changes to the release, every one derived",
        "release is deployed",
        "revision 4 is deployed",
        "2 of 713 failed",
        "HTTP 503",
        "771 ms",
        "lock duration is what was asked [45]",
        "45 s",
        "2 of 4 passed",
        "expected <b>2</b> deliveries",
        "the target runs no cacher",
        "quick-rollback.sh",
        "helm 3.21.4",
    ):
        assert said in text


def test_refused_changes_are_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("plan.txt", REFUSED)
    folder.summary(command="promote", outcome="failed", exit_code=31, error="more", image=None)
    text = page(tmp_path).text
    assert "1 change refused" in text
    assert "ConfigMap/settings" in text


def test_a_failed_verification_shows_its_checks(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "verify", at=0)
    folder.event("note", "verify", "ok: release is deployed: revision 4", at=1)
    folder.event("note", "verify", "FAILED: /readyz: HTTP 503: down", at=1)
    folder.event("step.failed", "verify", "not met", at=2, seconds=2)
    ((name, found),) = html.checks(read(tmp_path))
    assert name == "On the live state"
    assert [(c.name, c.ok, c.evidence) for c in found] == [
        ("release is deployed", True, "revision 4"),
        ("/readyz", False, "HTTP 503: down"),
    ]


def test_tables_of_stages_are_shown(tmp_path: Path) -> None:
    Folder(tmp_path).write(
        "tables/failures.json",
        '{"title": "What was broken", "note": "all `of` it", "columns": ["case", "met"],'
        ' "rows": [["crash on start", true], ["slow <leak>", false]]}',
    )
    text = page(tmp_path).text
    assert "What was broken" in text
    assert "crash on start" in text
    assert "slow <leak>" in text


def test_cases_are_ordered_by_what_matters() -> None:
    def case(name: str, outcome: str, seconds: float, message: str = "") -> Case:
        return Case(name, Outcome(outcome), seconds, message)

    given_ = [
        case("quick", "passed", 1),
        case("first", "failed", 1, "root"),
        case("left out", "skipped", 0),
        case("echo", "failed", 9, "follows"),
        case("slow", "passed", 5),
        case("second", "failed", 2, "root"),
    ]
    assert [c.name for c in html.ordered(given_)] == [
        "second",
        "first",
        "echo",
        "slow",
        "quick",
        "left out",
    ]


def test_a_case_that_failed_twice_is_told_once() -> None:
    name = "test_a::test_lock"
    cases = (
        Case(name, Outcome.PASSED, 1),
        Case(name, Outcome.FAILED, 1, "in teardown"),
        Case("test_a::test_health", Outcome.PASSED, 1),
    )
    assert [c.outcome for c in html.of_queues(Suite("gate", cases))] == [Outcome.FAILED]


# -- the time line ---------------------------------------------------------------------------------


def record_of(*steps: Step, ended: float = 100.0) -> Record:
    empty = read(Path(__file__).parent)
    return replace(empty, steps=steps, ended=ended)


def step(
    name: str, begun: float, ended: float | None, parent: str = "", failed: bool = False
) -> Step:
    return Step(name, "", parent, begun, ended, failed)


def test_parts_follow_their_parent_indented() -> None:
    bars = html.timeline(
        record_of(
            step("promote", 10, 90),
            step("beside", 20, 30),
            step("plan", 12, 15, "promote"),
            step("upgrade", 20, 80, "promote", failed=True),
        )
    )
    assert [(b.step.name, b.depth, b.left, b.width, b.state) for b in bars] == [
        ("promote", 0, 10, 80, "passed"),
        ("plan", 1, 12, 3, "passed"),
        ("upgrade", 1, 20, 60, "failed"),
        ("beside", 0, 20, 10, "passed"),
    ]


def test_parts_of_what_was_over_at_once_are_left_out() -> None:
    bars = html.timeline(record_of(step("tools", 0, 0.5), step("helm", 0, 0.4, "tools")))
    assert [bar.step.name for bar in bars] == ["tools"]


def test_an_unfinished_step_lasts_to_the_end() -> None:
    (bar,) = html.timeline(record_of(step("upgrade", 60, None)))
    assert (bar.state, bar.left, bar.width) == ("open", 60, 40)


def test_steps_that_name_each_other_as_parents_do_not_hang() -> None:
    html.timeline(record_of(step("a", 0, 5, "b"), step("b", 0, 5, "a"), step("c", 0, 5, "c")))


@given(
    st.lists(
        st.tuples(st.floats(0, 1e4), st.none() | st.floats(0, 1e4), st.sampled_from("abc")),
        max_size=8,
    ),
    st.floats(0, 1e4),
)
def test_every_bar_stays_on_the_axis(
    times: list[tuple[float, float | None, str]], ended: float
) -> None:
    steps = [step(parent, begun, end, parent) for begun, end, parent in times]
    for bar in html.timeline(record_of(*steps, ended=ended)):
        assert 0 <= bar.left <= 100
        assert 0 < bar.width <= 100.1


def test_tools_that_took_most_of_the_time_have_an_axis_of_their_own() -> None:
    tools, run = html.axes(
        record_of(
            step("tools", 0, 80),
            step("kind", 10, 50, "tools"),
            step("gate", 80, 100),
            step("build", 90, 95),
        )
    )
    assert [(b.step.name, b.left, b.width) for b in tools.bars] == [
        ("tools", 0, 100),
        ("kind", 12.5, 50),
    ]
    assert [(b.step.name, b.left, b.width) for b in run.bars] == [
        ("gate", 0, 100),
        ("build", 50, 25),
    ]
    assert (tools.ticks[0].label, run.ticks[0].label) == ("0", "0")


@pytest.mark.parametrize("tools", [step("tools", 0, 5), step("tools", 0, None)])
def test_one_axis_for_all_else(tools: Step) -> None:
    (axis,) = html.axes(record_of(tools, step("gate", 5, 100)))
    assert axis.title == ""
    assert len(axis.bars) == 2
    assert html.axes(record_of()) == []


@pytest.mark.parametrize("seconds", [0.0, 0.3, 4.5, 71.7, 139.1, 900, 100_000])
def test_ticks_are_few_and_round(seconds: float) -> None:
    found = html.ticks(seconds)
    assert 1 <= len(found) <= 8
    assert found[0].label == "0"
    assert all(0 <= tick.left <= 100 for tick in found)


# -- the file --------------------------------------------------------------------------------------


def test_what_programs_said_never_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y>'\"&`<b>`"
    folder = failed(tmp_path, 32, evil)
    folder.step(evil, 1, 2, evil)
    folder.event("note", evil, evil, at=2)
    folder.write("plan.txt", f"revision <b> -> </b>\n! {evil} a -> b ({evil})\n")
    folder.write("evidence/<b>.txt", "x")
    folder.write("evidence/cause.txt", evil)
    folder.write("tables/a.json", '{"title": "<i>", "columns": ["<i>"], "rows": [["<i>"]]}')
    tags = {tag for tag, _ in page(tmp_path).tags}
    assert tags.isdisjoint({"script", "img", "i"})


def test_the_file_needs_nothing_but_itself(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "1")
    folder.write("logs/helm launch.log", "x")
    text = html.render(read(folder.path), NOW)
    found = Page(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "img", "iframe"})
    links = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert "logs/helm%20launch.log" in links
    assert not [link for link in links if link is None or re.match(r"[a-z]+:|/", link)]
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    named = {attributes.get("id") for _, attributes in found.tags}
    assert {link[1:] for link in links if link and link.startswith("#")} <= named


def test_the_same_record_and_clock_give_the_same_file(tmp_path: Path) -> None:
    found = read(promoted(tmp_path / "1").path)
    assert html.render(found, NOW) == html.render(found, NOW)
    assert "23 November 2026 at 17:00:00 UTC" in html.render(found, NOW)


def test_a_folder_cut_off_anywhere_is_rendered(tmp_path: Path) -> None:
    whole = promoted(tmp_path / "whole").path
    cut = Folder(tmp_path / "cut")
    lines = (whole / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    for count in range(0, len(lines) + 1, 4):
        cut.write("events.jsonl", "".join(lines[:count]) + '{"ki')
        page(cut.path)
    summary = (whole / "summary.json").read_text("utf-8")
    cut.write("summary.json", summary[: len(summary) // 2])
    assert "Could not be read: 1 line of events.jsonl; summary.json is cut off" in (
        page(cut.path).text
    )


def test_many_notes_are_cut(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "prove", at=0)
    for number in range(html.NOTES_SHOWN + 7):
        folder.event("note", "prove", f"note {number}", at=1)
    assert "and 7 more in events.jsonl" in page(tmp_path).text


def test_backquotes_become_code() -> None:
    assert html.prose("run `a <b>` or `c`") == ("run <code>a &lt;b&gt;</code> or <code>c</code>")
    assert html.prose("an odd ` mark") == "an odd ` mark"
    assert html.prose("`a` and ` more") == "<code>a</code> and ` more"


def test_a_report_is_written_whole_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = promoted(tmp_path / "1").path
    assert command.main([str(folder)]) == 0
    first = (folder / "report.html").read_text("utf-8")
    assert command.main([str(folder)]) == 0
    again = (folder / "report.html").read_text("utf-8")
    assert first.count("\n") == again.count("\n")
    assert not list(folder.glob(".report*"))
    assert str(folder / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["nowhere"]])
def test_wrong_use_is_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(words) == 2
    said = capsys.readouterr()
    assert "usage" in said.out or "no run folder" in said.err
