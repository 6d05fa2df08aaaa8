"""Which runs are kept: by command, and what a person may need at night always."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.cli import app, session
from ci.run import retention
from ci.run.retention import PROMOTION, ROLLBACK, Run, superfluous
from ci.settings import Settings


def name(number: int) -> str:
    return f"20261130-{number:06}-aaaa"


def runs_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def made(
    folder: Path,
    number: int,
    command: str,
    *targets: str,
    code: int = 0,
    backups: bool = False,
) -> str:
    """A run's folder as a run leaves it."""
    run = folder / name(number)
    retention.begin(run, command, targets)
    (run / "summary.json").write_text(json.dumps({"command": command, "exit_code": code}))
    if backups:
        (run / "backups").mkdir()
        (run / "backups" / "quick-rollback.sh").write_text("")
    return run.name


def test_an_hourly_verify_throws_no_promotion_away(tmp_path: Path) -> None:
    kept = {
        made(tmp_path, 1, "promote", "prod", backups=True),
        made(tmp_path, 2, "rollback", "prod"),
        made(tmp_path, 3, "run", "launch", backups=True),
    }
    for number in range(10, 200):
        made(tmp_path, number, "verify", "prod")
    retention.prune(tmp_path)
    left = runs_of(tmp_path)
    assert kept < set(left)
    assert left[3:] == [name(number) for number in range(150, 200)]


def test_the_newest_promotion_stays_however_many_of_other_targets_follow(tmp_path: Path) -> None:
    kept = made(tmp_path, 1, "promote", "prod", backups=True)
    for number in range(10, 100):
        made(tmp_path, number, "promote", "staging", backups=True)
    retention.prune(tmp_path)
    assert kept in runs_of(tmp_path)
    assert len(runs_of(tmp_path)) == 51


def test_refused_promotions_do_not_replace_the_one_that_changed_the_target(tmp_path: Path) -> None:
    good = made(tmp_path, 1, "promote", "prod", backups=True)
    rolled_back = made(tmp_path, 2, "promote", "prod", code=32, backups=True)
    for number in range(10, 100):
        made(tmp_path, number, "promote", "prod", code=21)
    retention.prune(tmp_path)
    assert {good, rolled_back} < set(runs_of(tmp_path))


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"command": 3}'])
def test_what_cannot_be_read_is_kept_longest(tmp_path: Path, content: str | None) -> None:
    for number in range(210):
        (tmp_path / name(number)).mkdir()
        if content is not None:
            (tmp_path / name(number) / "run.json").write_text(content)
    for number in range(300, 400):
        made(tmp_path, number, "verify", "prod")
    retention.prune(tmp_path)
    left = runs_of(tmp_path)
    assert left[:200] == [name(number) for number in range(10, 210)]
    assert len(left) == 250


def test_runs_of_an_older_version_are_known_by_their_summary(tmp_path: Path) -> None:
    run = tmp_path / name(1)
    (run / "backups").mkdir(parents=True)
    (run / "backups" / "quick-rollback.sh").write_text("")
    promotion = {"target": "prod"}
    summary = {"command": "promote", "exit_code": 0, "promotion": promotion}
    (run / "summary.json").write_text(json.dumps(summary))
    known = retention.read(run)
    assert known == Run(name(1), "promote", ("prod",), succeeded=True, backed_up=True)


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "20200101-000000-aaaa").symlink_to(tmp_path / "notes")
    (tmp_path / "file").write_text("")
    for number in range(60):
        made(tmp_path, number, "build")
    retention.prune(tmp_path)
    assert {"notes", "20200101-000000-aaaa", "file"} < set(runs_of(tmp_path))
    assert len(runs_of(tmp_path)) == 53


def test_the_run_under_way_does_not_count_and_stays(tmp_path: Path) -> None:
    for number in range(60):
        made(tmp_path, number, "test")
    retention.prune(tmp_path, without=name(0))
    assert name(0) in runs_of(tmp_path)
    assert len(runs_of(tmp_path)) == 51


def test_there_may_be_no_runs(tmp_path: Path) -> None:
    retention.prune(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


targets = st.lists(st.sampled_from(["launch", "prod", "edge"]), max_size=2, unique=True)
arriving = st.lists(
    st.tuples(
        st.sampled_from(["run", "promote", "rollback", "verify", "build", "test", ""]),
        targets,
        st.booleans(),
        st.booleans(),
    ),
    max_size=60,
)


@given(arriving, st.integers(0, 4), st.integers(0, 6))
def test_of_each_target_the_newest_promotion_and_rollback_stay(
    sequence: list[tuple[str, list[str], bool, bool]], keep: int, keep_unknown: int
) -> None:
    """Pruned after each run, as it happens: the newest are there at every moment."""
    ever: list[Run] = []
    left: list[Run] = []
    for number, (command, of, succeeded, backed_up) in enumerate(sequence):
        run = Run(name(number), command, tuple(of), succeeded, backed_up)
        ever.append(run)
        left.append(run)
        gone = superfluous(left, keep, keep_unknown)
        left = [each for each in left if each not in gone]
        for kind in (PROMOTION, ROLLBACK):
            for target in ("launch", "prod", "edge"):
                mine = [r for r in ever if r.command in kind and target in r.targets]
                for wanted in (
                    mine[-1:],
                    [r for r in mine if r.succeeded][-1:],
                    [r for r in mine if r.backed_up][-1:],
                ):
                    assert set(wanted) <= set(left)


@given(arriving, st.integers(0, 4))
def test_what_is_of_no_use_goes(
    sequence: list[tuple[str, list[str], bool, bool]], keep: int
) -> None:
    runs = [
        Run(name(number), command, tuple(of), succeeded, backed_up)
        for number, (command, of, succeeded, backed_up) in enumerate(sequence)
    ]
    left = set(runs) - set(superfluous(runs, keep, keep))
    for command in ("verify", "build", "test", ""):
        mine = [run for run in runs if run.command == command]
        assert [run for run in mine if run in left] == (mine[-keep:] if keep else [])


def test_a_run_says_what_it_is_from_its_beginning(tmp_path: Path) -> None:
    env = {"PIPELINE_HOME": str(tmp_path / "home")}
    with session.opened(tmp_path, env, Settings(), command="promote", targets=["prod"]) as opened:
        assert retention.read(opened.run_dir) == Run(opened.run_dir.name, "promote", ("prod",))


def test_the_command_line_says_which_command_and_targets_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("")
    block = f'kubeconfig = "{kubeconfig}"\ncontext = "c"\nimage_repository = "r/x"\n'
    config = tmp_path / "pipeline.toml"
    config.write_text(
        f'[targets.a]\n{block}[targets.b]\n{block}[waves.both]\norder = [["a"], ["b"]]\n'
    )
    told: list[tuple[object, object]] = []

    def opened(*_: object, **how: object) -> None:
        told.append((how["command"], how["targets"]))
        raise OSError("enough")

    monkeypatch.setattr(session, "opened", opened)
    for words in (["verify"], ["promote", "--image", "last", "--target", "both"]):
        assert app.main([*words, "--config", str(config)]) == 1, "an error, and no traceback"
    assert told == [("verify", ["launch"]), ("promote", ["a", "b"])]
