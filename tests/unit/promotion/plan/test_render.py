"""What an upgrade sets, and how Helm is asked for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci.digest import Digest
from ci.model import Cluster, Image, Target
from ci.promotion.plan import values
from ci.tools.command import Programs
from ci.tools.helm import Helm

IMAGE = Image("registry:5000/model-engine", "queue-timeout-1", Digest.from_hex("a" * 64))
CLUSTER = Cluster("launch", Path("/k"), "launch", disposable=True)
TARGET = Target("prod", CLUSTER, "launch", "rel", Path("chart"), IMAGE.repository)


def test_the_repository_is_set_only_when_it_differs() -> None:
    before = replace(IMAGE, tag="old")
    assert values.sets_of(TARGET, before, IMAGE) == {"tag": "queue-timeout-1"}
    other = replace(before, repository="elsewhere:5000/model-engine")
    assert values.sets_of(TARGET, other, IMAGE) == {
        "tag": "queue-timeout-1",
        "image.repository": IMAGE.repository,
    }


def words(sets: dict[str, str]) -> list[str]:
    return Helm(Path("helm"), CLUSTER, Programs(env={})).upgrade_words("r", Path("c"), sets)


def test_the_upgrade_reuses_values_and_is_never_atomic() -> None:
    assert words({"tag": "queue-timeout-1"}) == [
        "upgrade", "r", "c", "--reuse-values", "--set", "tag=queue-timeout-1",
    ]  # fmt: skip


def test_another_chart_brings_its_defaults() -> None:
    helm = Helm(Path("helm"), CLUSTER, Programs(env={}))
    words = helm.upgrade_words("r", Path("c"), {"tag": "x"}, new_defaults=True)
    assert words[3:] == ["--reset-then-reuse-values", "--set", "tag=x"]


@pytest.mark.parametrize("tag", ["20261123", "true", "null"])
def test_a_tag_that_looks_like_something_else_stays_a_string(tag: str) -> None:
    assert words({"tag": tag})[-2:] == ["--set-string", f"tag={tag}"]
