"""A digest is one or is refused; its prefix is cut in one place."""

from __future__ import annotations

import hashlib
import json
import re
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest

from ci.digest import UNKNOWN, Digest
from ci.model import Image

DIGITS = "0123456789abcdef" * 4
ONE = Digest(f"sha256:{DIGITS}")
ROOT = Path(__file__).resolve().parents[2]


def test_it_is_a_text_with_its_parts() -> None:
    assert f"sha256:{DIGITS}" == ONE
    assert f"{ONE}" == f"sha256:{DIGITS}"
    assert (ONE.hex, ONE.short) == (DIGITS, "sha256:0123456789ab")
    assert Digest.from_hex(DIGITS) == ONE
    assert Digest.of(b"x").hex == hashlib.sha256(b"x").hexdigest()
    assert json.loads(json.dumps({"digest": ONE})) == {"digest": ONE}


@pytest.mark.parametrize(
    "text",
    ["", DIGITS, "sha256:", f"sha256:{DIGITS[1:]}", f"sha256:{DIGITS}0", f"sha512:{DIGITS}",
     f"sha256:{DIGITS.upper()}", f" sha256:{DIGITS}", f"sha256:{DIGITS}\n"],
)  # fmt: skip
def test_nothing_else_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a digest"):
        Digest(text)
    assert Digest.read(text) is UNKNOWN


@pytest.mark.parametrize("before", ["docker-pullable://r:5000/x@", "r/x@", ""])
def test_it_is_found_in_what_a_runtime_reports(before: str) -> None:
    assert Digest.found_in(before + ONE) == ONE
    assert Digest.found_in("r/x:latest") is None


def test_an_unknown_one_is_false_and_survives_a_copy() -> None:
    assert not UNKNOWN
    assert (UNKNOWN.short, UNKNOWN.hex, str(UNKNOWN)) == ("digest unknown", "", "")
    assert deepcopy(UNKNOWN) is UNKNOWN
    assert asdict(Image("r/x", "t", UNKNOWN))["digest"] == ""
    assert asdict(Image("r/x", "t", ONE))["digest"] == ONE


def test_no_other_module_cuts_or_matches_one() -> None:
    """A second place is where one of the two forgets the prefix."""
    cuts = re.compile(
        r"""removeprefix\(["']sha256:|digest\[:?\d+:?\]|sha256:\[0-9a-f\]|f["']sha256:\{"""
    )
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted((ROOT / "ci").rglob("*.py"))
        if file.name != "digest.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if cuts.search(line)
    ]
    assert found == []
