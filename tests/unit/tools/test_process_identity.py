"""A process is the one that was meant, or it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci.tools.process_identity import Process


def proc(folder: Path, *, pid: int, started: str, boot: str) -> Path:
    """A ``/proc`` of one process."""
    stat = folder / str(pid)
    stat.mkdir(parents=True)
    fields = ["S", *["0"] * 18, started, "0"]
    (stat / "stat").write_text(f"{pid} (a ) b) {' '.join(fields)}\n")
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text(f"{boot}\n")
    (folder / "self/ns").mkdir(parents=True)
    (folder / "self/ns/pid").touch()
    return folder


def boot(folder: Path, name: str = "b1") -> str:
    return f"{name}-{(folder / 'self/ns/pid').stat().st_ino}"


@pytest.mark.parametrize(
    ("pid", "started", "name", "alive", "ended"),
    [
        (7, "500", "b1", True, False),
        (7, "400", "b1", False, True),
        (8, "500", "b1", False, True),
        (8, "", "b1", False, False),
        (7, "500", "b0", False, False),
        (8, "500", "b0", False, False),
    ],
    ids=[
        "it runs",
        "its pid was used again",
        "no process has its pid",
        "it never could be read",
        "another boot has the same numbers",
        "of another machine",
    ],
)
def test_whether_it_runs(
    tmp_path: Path, pid: int, started: str, name: str, alive: bool, ended: bool
) -> None:
    now = proc(tmp_path, pid=7, started="500", boot="b1")
    meant = Process(pid, started, boot(now, name))
    assert (meant.alive(now), meant.ended(now)) == (alive, ended)


def test_the_same_numbers_in_another_container_are_another_process(tmp_path: Path) -> None:
    here = proc(tmp_path / "here", pid=7, started="500", boot="b1")
    there = proc(tmp_path / "there", pid=7, started="500", boot="b1")
    meant = Process(7, "500", boot(there))
    assert not meant.alive(here)
    assert not meant.ended(here)


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    nobody = Process.this(tmp_path)
    assert nobody == Process(os.getpid(), "", "")
    assert not nobody.alive(tmp_path)
    assert not nobody.ended(tmp_path)


def test_a_stat_that_is_cut_off_is_none(tmp_path: Path) -> None:
    now = proc(tmp_path, pid=7, started="500", boot="b1")
    (now / "7/stat").write_text("7 (a) S 0")
    assert not Process(7, "", boot(now)).alive(now)


def test_this_process_is_alive() -> None:
    assert Process.this().alive()
    assert not Process.this().ended()
