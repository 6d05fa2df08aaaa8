"""A run that another one starts leaves its folder where that one looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.cli import session as sessions
from ci.run import state
from ci.settings import Settings

GIVEN = "20261123-163045-ab12"


def folder_of(root: Path, value: str) -> str:
    env = {"PIPELINE_HOME": str(root / "home"), state.RUN_ID: value}
    with sessions.opened(root, env, Settings(), command="promote") as session:
        assert state.RUN_ID not in session.programs.env, "a run of its own gets another folder"
        assert session.run_dir.is_dir()
        return session.run_dir.relative_to(root / "runs").as_posix()


def test_the_folder_has_the_name_that_was_given(tmp_path: Path) -> None:
    assert folder_of(tmp_path, GIVEN) == GIVEN


@pytest.mark.parametrize("value", ["", "../../etc", "/tmp/x", "20261123-163045-ab12/..", "x"])
def test_a_name_that_is_none_is_passed_over(tmp_path: Path, value: str) -> None:
    found = folder_of(tmp_path, value)
    assert state.RUN_NAME.fullmatch(found)
    assert found != value


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    assert folder_of(tmp_path, GIVEN) == GIVEN
    assert folder_of(tmp_path, GIVEN) != GIVEN
