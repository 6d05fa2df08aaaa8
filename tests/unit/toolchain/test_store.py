"""A kill, a full disk or a truncated file never leaves a tool that a later run takes for whole."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from ci.errors import DiskFull, ToolchainError
from ci.toolchain.store import Store, content_key


def fill(folder: Path) -> None:
    (folder / "tool").write_bytes(b"whole")


def never(folder: Path) -> None:
    raise AssertionError(f"{folder} should not be made again")


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make("kind", "k1", fill)
    assert (made / "tool").read_bytes() == b"whole"
    assert store.make("kind", "k1", never) == made
    assert Store(tmp_path).find("kind", "k1") == made


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.make("kind", "k1", fill)
    assert store.find("kind", "k2") is None


def test_a_maker_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def half(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("kind", "k1", half)
    assert store.find("kind", "k1") is None
    assert not list((tmp_path / "store" / ".partial").iterdir())


def test_what_a_kill_left_behind_is_made_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = tmp_path / "store" / ".partial" / "kind-k1"
    partial.mkdir(parents=True)
    (partial / "tool").write_bytes(b"ha")
    (partial / "rubbish").write_bytes(b"")
    made = store.make("kind", "k1", fill)
    assert sorted(p.name for p in made.iterdir()) == ["manifest.json", "tool"]


def test_a_truncated_file_is_not_taken_for_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = store.make("kind", "k1", fill)
    (made / "tool").write_bytes(b"who")
    assert store.find("kind", "k1") is None
    assert (store.make("kind", "k1", fill) / "tool").read_bytes() == b"whole"


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="no disk space left while creating kind"):
        Store(tmp_path).make("kind", "k1", full)
    assert Store(tmp_path).find("kind", "k1") is None


def test_another_error_of_the_system_is_a_toolchain_error(tmp_path: Path) -> None:
    def refused(folder: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(ToolchainError, match="Permission denied"):
        Store(tmp_path).make("kind", "k1", refused)


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made: list[str] = []
    begun = threading.Barrier(2)

    def slow(folder: Path) -> None:
        made.append(folder.name)
        fill(folder)

    def one() -> None:
        begun.wait(5)
        Store(tmp_path).make("kind", "k1", slow)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert made == ["kind-k1"]
    assert store.find("kind", "k1") is not None


def test_the_key_covers_content_names_and_order(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "go.mod").write_text("module a")
    before = content_key([folder])
    (folder / "go.mod").write_text("module b")
    assert content_key([folder]) != before
    (folder / "go.mod").rename(folder / "go.sum")
    (folder / "go.sum").write_text("module a")
    assert content_key([folder]) != before
    assert content_key(["ab", "c"]) != content_key(["a", "bc"])
