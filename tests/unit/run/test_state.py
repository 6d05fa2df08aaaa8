"""Records that are whole or not there, locks that end with their holder, owners for certain."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.digest import Digest
from ci.errors import Locked
from ci.model import Image
from ci.run import state as homes
from ci.run.state import ClusterRecord, Home, Proven
from ci.tools.process_identity import Process


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_clusters_are_remembered_and_forgotten(home: Home) -> None:
    record = ClusterRecord("gate", Process.this(), kept=False, determined_by="x")
    home.put_cluster(record)
    assert home.clusters() == {"gate": record}
    home.drop_cluster("gate")
    assert home.clusters() == {}


def test_a_record_cut_off_counts_as_none(home: Home) -> None:
    home.put_image("hash", {"digest": "sha256:1"})
    file = home.state / "images" / "hash.json"
    file.write_text(file.read_text()[:7])
    assert home.image("hash") is None
    (home.state / "clusters").mkdir(parents=True)
    (home.state / "clusters" / "old.json").write_text('{"name": "old"}')
    assert home.clusters() == {}


def test_the_newest_proof_comes_first_and_each_checkout_has_its_own(home: Home) -> None:
    def proven(checkout: str, hour: int) -> Proven:
        at = datetime(2026, 11, 30, hour, tzinfo=UTC)
        image = Image("r/x", "t", Digest.from_hex(f"{hour:064x}"))
        return Proven("model-engine", checkout, image, at, "run")

    for each in (proven("/a", 1), proven("/b", 2), proven("/a", 3)):
        home.put_proven(each)
    assert home.proven() == (proven("/a", 3), proven("/b", 2))
    (home.state / "last-proven" / "old.json").write_text('{"at": "now"}')
    assert len(home.proven()) == 2


def test_a_record_is_readable_by_its_owner_only(home: Home) -> None:
    home.put_image("hash", {"digest": "sha256:1"})
    assert (home.state / "images" / "hash.json").stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_record(home: Home) -> None:
    file = home.state / "x.json"
    homes.write(file, {"a": 1})

    class Unprintable:
        def __str__(self) -> str:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        homes.write(file, {"a": Unprintable()})
    assert homes.read(file) == {"a": 1}
    assert list(file.parent.iterdir()) == [file]


def test_a_lock_is_refused_while_held_and_free_after(home: Home) -> None:
    with (
        home.lock("gate", "the gate cluster"),
        pytest.raises(Locked, match="the gate cluster"),
        home.lock("gate", "the gate cluster"),
    ):
        pass
    with home.lock("gate", "the gate cluster"):
        pass


def test_home_is_where_the_environment_says(tmp_path: Path) -> None:
    assert homes.path({"PIPELINE_HOME": str(tmp_path)}) == tmp_path
    assert homes.path({"PIPELINE_HOME": ""}).name == "queue-timeout-gate"
