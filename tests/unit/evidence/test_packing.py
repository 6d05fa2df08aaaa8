"""One digest for a folder, whoever computes it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ci.errors import ChartInvalid
from ci.evidence import packing


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    folder = tmp_path / "chart"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_bytes(b"name: x\n")
    (folder / "templates/a.yaml").write_bytes(b"a\n")
    (folder / "templates.yaml").write_bytes(b"b\n")
    return folder


def test_it_is_what_sha256sum_says_of_the_listing(chart: Path) -> None:
    listing = ""
    for path in ("Chart.yaml", "templates.yaml", "templates/a.yaml"):  # "." sorts before "/"
        content = hashlib.sha256((chart / path).read_bytes()).hexdigest()
        listing += f"{content}  {path}\n"
    assert packing.digest(chart) == hashlib.sha256(listing.encode()).hexdigest()


def test_content_and_names_matter_modes_and_times_do_not(chart: Path) -> None:
    before = packing.digest(chart)
    (chart / "Chart.yaml").chmod(0o755)
    os.utime(chart / "Chart.yaml", (0, 0))
    assert packing.digest(chart) == before
    (chart / "templates/a.yaml").rename(chart / "templates/b.yaml")
    renamed = packing.digest(chart)
    assert renamed != before
    (chart / "templates/b.yaml").write_bytes(b"c\n")
    assert packing.digest(chart) not in (before, renamed)


def test_what_a_link_leads_to_counts(chart: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/t.yaml").write_bytes(b"one\n")
    (chart / "linked").symlink_to(tmp_path / "elsewhere")
    before = packing.digest(chart)
    (tmp_path / "elsewhere/t.yaml").write_bytes(b"two\n")
    assert packing.digest(chart) != before


def test_folders_that_tools_make_can_be_left_out(chart: Path) -> None:
    before = packing.digest(chart)
    (chart / "__pycache__").mkdir()
    (chart / "__pycache__/x.pyc").write_bytes(b"x")
    assert packing.digest(chart, without=packing.MADE_BY_TOOLS) == before
    assert packing.digest(chart) != before, "a chart is what is there"


def test_what_cannot_be_read_is_refused(chart: Path, tmp_path: Path) -> None:
    with pytest.raises(ChartInvalid, match="no folder"):
        packing.digest(tmp_path / "nothing")
    (chart / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(ChartInvalid, match="gone cannot be read"):
        packing.digest(chart)
    (chart / "gone").unlink()
    (chart / "two\nlines").write_bytes(b"")
    with pytest.raises(ChartInvalid, match="cannot be listed"):
        packing.digest(chart)
