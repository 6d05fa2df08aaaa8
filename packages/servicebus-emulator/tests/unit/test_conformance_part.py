"""The part of Azure's tests that runs with the checks: its list, and who judges its report."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import parse

import pytest

from tests.conformance import part

FOLDER = Path(part.__file__).parent


def test_every_test_of_the_part_has_a_known_result() -> None:
    results = part.expected(FOLDER, "ci")
    assert len(results) > 100
    assert set(results.values()) <= {"passed", "skipped"}
    for area in ("test_queues", "test_queues_async", "test_sessions", "test_mgmt_queues"):
        assert any(f".{area}." in test for test in results), area


def test_a_test_that_is_known_to_fail_is_in_no_part(tmp_path: Path) -> None:
    (tmp_path / "results.tsv").write_text("test\tresult\treason\na.B.c\tfailed\tupstream\n")
    (tmp_path / "ci.txt").write_text("a.B.c\n")
    with pytest.raises(ValueError, match=r"a\.B\.c is neither"):
        part.expected(tmp_path, "ci")


def test_a_name_of_the_table_is_a_node_of_pytest() -> None:
    name = "tests.mgmt_tests.async.test_x.TestX.test_y[pyamqp-1.5]"
    assert part.node(name) == "tests/mgmt_tests/async/test_x.py::TestX::test_y[pyamqp-1.5]"


def read(report: Path, kind: str) -> list[str]:
    """The messages of the report's cases that ended so: ``failure`` or ``skipped``."""
    return [found.attrib["message"] for found in parse(report).iterfind(f".//testcase/{kind}")]


REPORT = """<testsuites><testsuite>
<testcase classname="t.A" name="good"/>
<testcase classname="t.A" name="known"><skipped message="upstream's reason"/></testcase>
{more}</testsuite></testsuites>"""
KNOWN = {"t.A.good": "passed", "t.A.known": "skipped"}


@pytest.mark.parametrize(
    ("more", "known", "told"),
    [
        ("", {}, None),
        ('<testcase classname="t.A" name="x"><failure message="m"/></testcase>', {}, "m"),
        (
            '<testcase classname="t.A" name="x"><skipped message="m"/></testcase>',
            {"t.A.x": "passed"},
            "results.tsv: passed; now: skipped",
        ),
        ("", {"t.A.x": "passed"}, "results.tsv: passed; now: did not run"),
        (
            '<testcase classname="t.A" name="x"/>',
            {"t.A.x": "skipped"},
            "results.tsv: skipped; now: passed",
        ),
    ],
)
def test_what_is_not_as_known_is_a_failure(
    tmp_path: Path, more: str, known: dict[str, str], told: str | None
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(more=more))
    assert part.judge(report, {**KNOWN, **known}) == (told is not None)
    assert read(report, "failure") == ([told] if told else [])


def test_a_report_that_was_not_written_is_a_failure_of_every_test(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert part.judge(report, KNOWN) == 1
    assert read(report, "failure") == [
        "results.tsv: passed; now: did not run",
        "results.tsv: skipped; now: did not run",
    ]


def test_who_may_not_open_the_ports_is_told(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert part.skip_all(report) == 0
    [message] = read(report, "skipped")
    assert "root" in message
    assert parse(report).getroot().tag == "testsuite"
