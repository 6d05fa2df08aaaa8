"""JUnit keeps the four outcomes apart, in what is read and in what is written."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from ci.report import junit
from ci.results import CheckGroup, CheckId, Outcome, Phase, Problem, failed
from tests.unit.report.folders import CHECKS_FAILED, GROUPS


def test_checks_are_read_again_with_the_same_outcomes(tmp_path: Path) -> None:
    groups = (*GROUPS, CheckGroup(Phase.TARGETS, CHECKS_FAILED))
    path = tmp_path / "checks.xml"
    path.write_text(junit.render(groups), "utf-8")
    cases = junit.read(path)
    assert [case.outcome for case in cases] == [c.outcome for g in groups for c in g.checks]
    by_name = {case.name: case for case in cases}
    assert by_name["before::api.compatible"].message == "not enabled (setting service.openapi_path)"
    assert by_name["before::image.pullable"].outcome is Outcome.UNKNOWN
    assert by_name["targets::health.path[/readyz]"].message.startswith("HTTP 503")


def test_the_counts_of_a_suite_are_those_of_its_checks() -> None:
    before = fromstring(junit.render(GROUPS))[0]
    assert before.attrib == {
        "name": "before",
        "tests": "7",
        "failures": "0",
        "errors": "1",
        "skipped": "1",
    }


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\ud800", "<&>\"'", "\ufffe"])
def test_any_text_makes_a_file_that_can_be_read(tmp_path: Path, text: str) -> None:
    check = failed(CheckId.API_ANSWERS, Problem(text), subject=text)
    path = tmp_path / "checks.xml"
    path.write_text(junit.render([CheckGroup(Phase.AFTER, (check,))]), "utf-8")
    assert [case.outcome for case in junit.read(path)] == [Outcome.FAILED]


def test_an_error_of_another_type_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(
        '<testsuite><testcase name="a"><error message="setup"/></testcase></testsuite>', "utf-8"
    )
    assert [case.outcome for case in junit.read(path)] == [Outcome.FAILED]


def test_what_a_case_shows_is_read_of_its_properties(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    shows = "".join(f'<property name="shows" value="{id}"/>' for id in ("a.b", "c.d", "a.b"))
    path.write_text(
        f'<testsuites><testcase name="t" time="1"><properties>{shows}</properties></testcase>'
        '<testcase name="u" time="1"/></testsuites>'
    )
    assert [case.shows for case in junit.read(path)] == [("a.b", "c.d"), ()]
