"""Which checks run when: the failure matrix only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from ci import selftest

REPORTS = Path("/reports")


def names(**how: bool) -> list[str]:
    return [
        check.name for check in selftest.checks("/bin/python", REPORTS, **{"quick": False, **how})
    ]


def test_the_matrix_is_a_list_of_its_own() -> None:
    assert names(matrix=True) == ["matrix"]
    assert "matrix" not in names()
    assert "matrix" not in names(quick=True)
    for real in ("clients", "flow", "parts"):
        assert real in names()
        assert real not in names(quick=True)


def test_every_tested_case_is_counted_from_its_report() -> None:
    for how in ({"quick": False}, {"quick": False, "matrix": True}):
        for check in selftest.checks("/bin/python", REPORTS, **how):
            written = f"--junitxml={REPORTS / check.name}.xml" in check.argv
            assert written == check.counted
