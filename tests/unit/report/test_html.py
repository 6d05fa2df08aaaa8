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

from ci.model import Case, ProbeBucket, ProbesRecord
from ci.report import __main__ as command
from ci.report import html, views, wording
from ci.report.record import Record, Step, Suite, read
from ci.results import (
    Because,
    CauseId,
    ChangeState,
    Check,
    CheckGroup,
    CheckId,
    Outcome,
    Phase,
    Problem,
    RunRef,
    Tone,
    VerdictId,
    failed,
    passed,
    unknown,
)
from tests.unit.report import sample
from tests.unit.report.folders import (
    CHANGE,
    CHECKS_FAILED,
    GROUPS,
    NEW,
    NEW_DIGEST,
    OLD,
    OLD_DIGEST,
    PROBES,
    REFUSED,
    Folder,
    broken,
    promoted,
    run,
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


def verdict(folder: Path) -> wording.Verdict:
    found = read(folder)
    return wording.of(found.run, found.steps, finished=found.finished)


# -- the verdict -----------------------------------------------------------------------------------


def test_a_promotion_names_both_ends(tmp_path: Path) -> None:
    folder = promoted(tmp_path / "1")
    found = verdict(folder.path)
    assert (found.tone, found.word) == (Tone.GOOD, "Promoted")
    assert found.sentence == (
        f"launch was promoted from {OLD} (revision 3) to {NEW} (revision 4), the digest that was"
        " proven."
    )
    text = page(folder.path).text
    assert OLD_DIGEST in text
    assert NEW_DIGEST in text
    assert "rollback --target launch --revision 3" in text


@pytest.mark.parametrize(
    ("code", "state", "id", "tone"),
    [
        (32, ChangeState.ROLLED_BACK, VerdictId.ROLLED_BACK, Tone.WARN),
        (32, None, VerdictId.ROLLED_BACK, Tone.WARN),
        (32, ChangeState.UNTOUCHED, VerdictId.UPGRADE_NOT_BEGUN, Tone.WARN),
        (33, ChangeState.ROLLBACK_FAILED, VerdictId.ROLLBACK_FAILED, Tone.ALARM),
        (33, ChangeState.UNDER_WAY, VerdictId.ROLLBACK_FAILED, Tone.ALARM),
        (33, None, VerdictId.ROLLBACK_FAILED, Tone.ALARM),
        (34, ChangeState.PROMOTED, VerdictId.PROMOTED_NOT_VERIFIED, Tone.BAD),
        (34, ChangeState.ALREADY_SERVED, VerdictId.NOT_VERIFIED, Tone.BAD),
        (130, ChangeState.ROLLED_BACK, VerdictId.INTERRUPTED_ROLLED_BACK, Tone.WARN),
        (130, ChangeState.UNDER_WAY, VerdictId.INTERRUPTED_UNDER_WAY, Tone.ALARM),
        (130, ChangeState.PROMOTED, VerdictId.INTERRUPTED_PROMOTED, Tone.BAD),
        (130, ChangeState.ROLLBACK_FAILED, VerdictId.ROLLBACK_FAILED, Tone.ALARM),
        (1, ChangeState.UNDER_WAY, VerdictId.FAILED_UNDER_WAY, Tone.ALARM),
        (41, ChangeState.PROMOTED, VerdictId.FAILED_PROMOTED, Tone.BAD),
        (40, ChangeState.ROLLED_BACK, VerdictId.FAILED_ROLLED_BACK, Tone.WARN),
    ],
)
def test_a_failure_after_the_upgrade_began(
    tmp_path: Path, code: int, state: ChangeState | None, id: VerdictId, tone: Tone
) -> None:
    folder = broken(tmp_path, code, "any words at all", state=state)
    found = verdict(folder.path)
    assert (found.id, found.tone) == (id, tone)
    text = page(folder.path).text
    assert found.sentence in text
    assert "any words at all" in text
    assert f"Exit code {code}" in text
    assert (OLD_DIGEST in text) is (state is not ChangeState.ALREADY_SERVED)


def test_a_rollback_says_what_serves_again_and_why(tmp_path: Path) -> None:
    folder = broken(tmp_path, 32, "lost", cause=CauseId.REQUESTS_LOST)
    assert f"launch serves {OLD} (revision 3) again, verified" in verdict(folder.path).sentence
    assert "Cause requests were lost during the change" in page(folder.path).text


@pytest.mark.parametrize(
    ("code", "called", "id", "sentence"),
    [
        (20, "run", VerdictId.NOT_PROMOTED_NOT_PROVEN, "the target was not touched"),
        (20, "prove", VerdictId.NOT_PROVEN, "did not pass"),
        (22, "run", VerdictId.NOT_PROMOTED_NOT_REHEARSED, "the target was not touched"),
        (22, "rehearse", VerdictId.NOT_REHEARSED, "broke the release"),
        (31, "promote", VerdictId.REFUSED, "the target was not touched"),
        (30, "run", VerdictId.NOT_PROMOTED, "the target was not touched"),
        (10, "build", VerdictId.FAILED, "in the step “build and push the image”"),
        (34, "verify", VerdictId.NOT_VERIFIED, "does not meet"),
        (130, "run", VerdictId.INTERRUPTED, "the target was not touched"),
        (33, "rollback", VerdictId.RETURN_FAILED, "nobody has verified"),
    ],
)
def test_a_failure_before_the_upgrade(
    tmp_path: Path, code: int, called: str, id: VerdictId, sentence: str
) -> None:
    folder = Folder(tmp_path)
    folder.step("build", 0, 5, "broken")
    folder.summary(
        command=called, outcome=Outcome.FAILED, exit_code=code, error="broken", image=None
    )
    found = verdict(tmp_path)
    assert found.id is id
    assert sentence in found.sentence
    assert found.tone is not Tone.GOOD


@pytest.mark.parametrize(
    ("called", "state", "id"),
    [
        ("build", None, VerdictId.BUILT),
        ("prove", None, VerdictId.PROVEN),
        ("rehearse", None, VerdictId.REHEARSED),
        ("approve", None, VerdictId.APPROVED),
        ("verify", None, VerdictId.VERIFIED),
        ("rollback", ChangeState.ROLLED_BACK, VerdictId.RETURNED),
        ("rollback", ChangeState.ALREADY_SERVED, VerdictId.ALREADY_RETURNED),
        ("promote", ChangeState.PROMOTED, VerdictId.PROMOTED),
        ("promote", ChangeState.ALREADY_SERVED, VerdictId.ALREADY_SERVED),
        ("run", ChangeState.ALREADY_SERVED, VerdictId.ALREADY_SERVED),
        ("test", None, VerdictId.CHECKS_PASSED),
        ("of another version", None, VerdictId.PASSED),
    ],
)
def test_every_command_has_a_sentence_for_success(
    tmp_path: Path, called: str, state: ChangeState | None, id: VerdictId
) -> None:
    change = replace(CHANGE, state=state) if state else None
    Folder(tmp_path).summary(command=called, change=change)
    found = verdict(tmp_path)
    assert (found.id, found.tone) == (id, Tone.GOOD)
    assert found.sentence.endswith(".")
    assert "{" not in found.sentence


@pytest.mark.parametrize(
    ("state", "id"),
    [
        (None, VerdictId.UNFINISHED),
        (ChangeState.UNTOUCHED, VerdictId.UNFINISHED),
        (ChangeState.UNDER_WAY, VerdictId.UNFINISHED_UNDER_WAY),
        (ChangeState.PROMOTED, VerdictId.UNFINISHED_PROMOTED),
        (ChangeState.ROLLED_BACK, VerdictId.UNFINISHED_ROLLED_BACK),
        (ChangeState.ROLLBACK_FAILED, VerdictId.ROLLBACK_FAILED),
    ],
)
def test_a_run_that_was_killed_is_judged_by_where_its_target_stands(
    tmp_path: Path, state: ChangeState | None, id: VerdictId
) -> None:
    folder = Folder(tmp_path)
    folder.step("upgrade", 1, None, parent="promote")
    if state is not None:
        folder.change(state)
    found = verdict(tmp_path)
    assert found.id is id
    alarm = state in (ChangeState.UNDER_WAY, ChangeState.ROLLBACK_FAILED)
    assert (found.tone is Tone.ALARM) is alarm
    text = page(tmp_path).text
    assert ("pipeline.py rollback --target launch" in text) is alarm
    assert "nothing says how this step ended" in text


def of_targets(*checks: Check) -> tuple[CheckGroup, ...]:
    return (CheckGroup(Phase.TARGETS, checks),)


def target(name: str, state: ChangeState) -> Check:
    ref = RunRef("1", 0, 5.0, state)
    return passed(CheckId.TARGET_PROMOTED, ref, subject=name)


@pytest.mark.parametrize(
    ("checks", "id", "sentence"),
    [
        (
            (target("a", ChangeState.PROMOTED), target("b", ChangeState.ALREADY_SERVED)),
            VerdictId.ALL_PROMOTED,
            "All 2 targets",
        ),
        ((target("a", ChangeState.ALREADY_SERVED),), VerdictId.ALL_SERVED, "already"),
        (
            (
                target("a", ChangeState.PROMOTED),
                failed(CheckId.TARGET_PROMOTED, RunRef("2", 31, 1.0), subject="b"),
                unknown(CheckId.TARGET_PROMOTED, Because.NOT_REACHED, subject="c"),
            ),
            VerdictId.NOT_EVERYWHERE,
            "1 of 3 targets",
        ),
    ],
)
def test_several_targets_have_one_verdict(
    tmp_path: Path, checks: tuple[Check, ...], id: VerdictId, sentence: str
) -> None:
    Folder(tmp_path).summary(command="promote", groups=of_targets(*checks))
    found = verdict(tmp_path)
    assert found.id is id
    assert sentence in found.sentence


def test_a_killed_promotion_of_several_claims_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("run.json", '{"command": "promote"}')
    folder.step("promote-target", 0, None, subject="a")
    assert "touched" not in verdict(tmp_path).sentence


def test_a_failed_check_of_the_project_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("self-test", 0, 1, "ended with 1", subject="ruff")
    folder.step("self-test", 1, 2, subject="mypy")
    folder.step("self-test", 2, 3, "ended with 1", subject="unit")
    folder.summary(command="test", outcome=Outcome.FAILED, exit_code=1, error="a check failed")
    assert verdict(tmp_path).sentence == "Not every check passed: ruff, unit."


def test_the_step_that_is_blamed_is_not_one_that_was_cancelled(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("gate-cluster", 0, 3, "any words", cancelled=True)
    folder.step("build", 1, 4, "no such file")
    folder.summary(command="run", outcome=Outcome.FAILED, exit_code=10, error="no such file")
    assert "in the step “build and push the image”" in verdict(tmp_path).sentence


def test_the_part_that_failed_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.event("step.started", "promote", at=0)
    folder.step("acquire-lease", 1, 2, "held by another", parent="promote")
    folder.event("step.failed", "promote", "held by another", at=3, seconds=3)
    folder.summary(command="promote", outcome=Outcome.FAILED, exit_code=7, error="held by another")
    assert "in the step “promote: acquire the Lease”" in verdict(tmp_path).sentence


def test_a_run_that_never_began_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("tools", 0, 5)
    folder.summary(command="run", outcome=Outcome.FAILED, exit_code=3, error="no target 'nope'")
    assert "before it had begun its work" in verdict(tmp_path).sentence


def test_what_was_watched_has_a_section(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.step("upgrade", 0, 5)
    folder.write("watch/events.txt", "    1.0 s  Warning Unhealthy pod/engine-1: <no answer>\n")
    text = page(tmp_path).text
    assert "Watched during the change" in text
    assert "pod/engine-1: <no answer>" in text


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
        "2 changes to the release, each with its reason",
        "the Helm release is deployed",
        "revision 4 deployed",
        "9 passed, 1 skipped, 2 unknown",
        "skipped : not enabled (setting service.openapi_path)",
        "unknown : not permitted to read it",
        "Pre-upgrade checklist",
        "Docker image built successfully",
        "2 of 713 failed",
        "HTTP 503",
        "771 ms",
        "lock duration is what was asked [45]",
        "45 s",
        "2 passed, 1 failed, 1 skipped",
        "Shown on the gate, through the real client",
        "expected <b>2</b> deliveries",
        "the target runs no cacher",
        "quick-rollback.sh",
        "helm 3.21.4",
    ):
        assert said in text


def test_refused_changes_are_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.leave(REFUSED)
    folder.summary(
        command="promote", outcome=Outcome.FAILED, exit_code=31, error="more", image=None
    )
    text = page(tmp_path).text
    assert "1 change refused" in text
    assert "ConfigMap/settings" in text
    assert "does not derive from the image" in text


def test_a_failed_verification_shows_its_checks(tmp_path: Path) -> None:
    groups = (CheckGroup(Phase.AFTER, CHECKS_FAILED),)
    Folder(tmp_path).summary(
        command="verify", outcome=Outcome.FAILED, exit_code=34, error="not met", groups=groups
    )
    text = page(tmp_path).text
    assert "On the live release" in text
    assert "the health endpoint answers (/readyz) HTTP 503 down" in text
    assert "0 passed, 2 failed" in text


def test_every_outcome_has_its_own_sign(tmp_path: Path) -> None:
    groups = (*GROUPS, CheckGroup(Phase.TARGETS, CHECKS_FAILED))
    Folder(tmp_path).summary(command="verify", groups=groups)
    tags = page(tmp_path).tags
    labels = [a.get("aria-label") for tag, a in tags if tag == "span" and a.get("role") == "img"]
    assert {"passed", "failed", "skipped", "unknown"} <= set(labels)
    rows = [a.get("class") for tag, a in tags if tag == "tr"]
    assert (rows.count("skipped"), rows.count("unknown")) == (2, 7)  # in the checklist, too


def test_the_sample_of_the_documents_has_all_four_outcomes(tmp_path: Path) -> None:
    report = sample.make(tmp_path / "20261123-163045-ab12")
    found = read(report.parent)
    assert found.unreadable == ()
    assert {check.outcome for check in found.run.checks} == set(Outcome)
    assert "15 passed, 1 failed, 2 skipped, 2 unknown" in Page(report.read_text("utf-8")).text


def test_the_checklist_is_a_view_of_the_checks(tmp_path: Path) -> None:
    lines = views.checklist(run(tmp_path, groups=GROUPS))
    assert [(line.title, line.outcome) for line in lines[:7]] == [
        ("All backups created", Outcome.PASSED),
        ("Rollback script tested", Outcome.PASSED),
        ("Docker image built successfully", Outcome.UNKNOWN),
        ("Image pushed to the registry", Outcome.PASSED),
        ("Image can be pulled from the registry", Outcome.UNKNOWN),
        ("Code changes are backward compatible", Outcome.SKIPPED),
        ("Health check endpoint works in your code", Outcome.UNKNOWN),
    ]
    assert views.checklist(run(tmp_path, groups=GROUPS[1:])) == []


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
    suite = Suite("gate", cases, about_queues=frozenset({name}))
    assert [c.outcome for c in html.of_queues(suite)] == [Outcome.FAILED]


# -- the time line ---------------------------------------------------------------------------------


def record_of(*steps: Step, ended: float = 100.0) -> Record:
    empty = read(Path(__file__).parent)
    return replace(empty, steps=steps, ended=ended)


def step(
    id: str, begun: float, ended: float | None, parent: str = "", failed: bool = False
) -> Step:
    return Step(id, "", parent, begun, ended, failed)


def test_parts_follow_their_parent_indented() -> None:
    bars = html.timeline(
        record_of(
            step("promote", 10, 90),
            step("beside", 20, 30),
            step("plan", 12, 15, "promote"),
            step("upgrade", 20, 80, "promote", failed=True),
        )
    )
    assert [(b.step.id, b.depth, b.left, b.width, b.state) for b in bars] == [
        ("promote", 0, 10, 80, "passed"),
        ("plan", 1, 12, 3, "passed"),
        ("upgrade", 1, 20, 60, "failed"),
        ("beside", 0, 20, 10, "passed"),
    ]


def test_parts_of_what_was_over_at_once_are_left_out() -> None:
    bars = html.timeline(record_of(step("tools", 0, 0.5), step("helm", 0, 0.4, "tools")))
    assert [bar.step.id for bar in bars] == ["tools"]


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
    assert [(b.step.id, b.left, b.width) for b in tools.bars] == [
        ("tools", 0, 100),
        ("kind", 12.5, 50),
    ]
    assert [(b.step.id, b.left, b.width) for b in run.bars] == [
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


# -- requests over time ----------------------------------------------------------------------------


def test_a_chart_shows_what_failed_and_when_the_upgrade_was() -> None:
    series = PROBES.series[0]
    found = html.chart(series, record_of(step("upgrade", 22, 29), ended=60))
    assert found is not None
    assert (found.most, len(found.columns)) == (20, 36)
    lost = [column for column in found.columns if column.failed]
    assert [(column.answered, column.failed) for column in lost] == [(72, 8)]
    (span,) = found.spans
    assert (span.title, span.left) == ("helm upgrade", round(100 * 2 / 36, 3))
    assert html.chart(replace(series, buckets=()), record_of()) is None


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 50), st.integers(0, 50)), max_size=400),
    st.sampled_from([0.5, 1.0, 10.0]),
)
def test_a_condensed_course_loses_no_request(
    given_: list[tuple[float, int, int]], wide: float
) -> None:
    buckets = [ProbeBucket(at, a + f, a, f, 0.1) for at, a, f in sorted(given_)]
    made, width = html.condensed(buckets, wide)
    assert len(made) <= html.BARS + 1
    assert sum(b.answered for b in made) == sum(b.answered for b in buckets)
    assert sum(b.failed for b in made) == sum(b.failed for b in buckets)
    assert width >= wide
    found = html.chart(
        replace(PROBES.series[0], buckets=tuple(buckets), bucket_seconds=wide), record_of()
    )
    for column in found.columns if found else ():
        assert 0 <= column.left <= 100
        assert 0 <= column.answered <= 100.1
        assert 0 <= column.failed <= 100.1


# -- the file --------------------------------------------------------------------------------------


def test_what_programs_said_never_becomes_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y>'\"&`<b>`"
    folder = broken(tmp_path, 32, evil)
    folder.step(evil, 1, 2, evil)
    folder.event("note", evil, evil, at=2)
    difference = replace(REFUSED.refused[0], object=evil, path=evil, before=evil, after=evil)
    folder.leave(replace(REFUSED, differences=(difference,)))
    series = PROBES.series[0]
    folder.leave(ProbesRecord((replace(series, url=evil),)))
    folder.write("evidence/<b>.txt", "x")
    checks = (failed(CheckId.API_ANSWERS, Problem(evil), subject=evil),)
    folder.summary(
        error=evil,
        remedy=evil,
        change=replace(CHANGE, target=evil, problem=evil, cause=CauseId.UNKNOWN),
        groups=(CheckGroup(Phase.AFTER, checks),),
    )
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
