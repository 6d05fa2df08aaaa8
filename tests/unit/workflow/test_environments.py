"""The gate's cluster and the target: which is made, which is found, and what is said where neither
can be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from ci.digest import Digest
from ci.errors import ClusterFailed, SettingsError
from ci.model import Cluster, Image
from ci.run.context import Context
from ci.run.scheduler import Flow
from ci.settings import DEMO_TARGET, Options
from ci.stages import build, cluster
from ci.workflow import environments
from tests.unit.evidence.fakes import machine

HERE = Cluster("gate", Path("kubeconfig"), "kind-gate", True)


class Clusters:
    """Instead of kind: clusters that are there by name, and what was done."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.done: list[str] = []
        self.pulled: list[str] = []

    def create(self, _: Context, name: str, pull: Iterable[str] = ()) -> Cluster:
        self.done.append(f"create {name}")
        self.pulled = list(pull)
        return replace(HERE, name=name)

    def ensure(self, context: Context, name: str, pull: Iterable[str] = ()) -> Cluster:
        return replace(HERE, name=name) if name in self.there else self.create(context, name, pull)

    def find(self, _: Context, name: str) -> Cluster | None:
        return replace(HERE, name=name) if name in self.there else None

    def delete(self, _: Context, name: str) -> None:
        self.done.append(f"delete {name}")


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    made = Clusters()
    for name in ("create", "ensure", "find", "delete"):
        monkeypatch.setattr(cluster, name, getattr(made, name))
    return made


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    found = machine(tmp_path)
    monkeypatch.setattr(build, "find", lambda *_: None)
    monkeypatch.setattr(build, "find_emulator", lambda *_: None)
    tools = replace(found.tools, postgres_image="postgres", redis_image="redis")
    return replace(found, tools=tools)


def test_the_gates_cluster_is_new_and_goes_when_the_run_ends(
    context: Context, clusters: Clusters
) -> None:
    clusters.there = {"gate"}
    with Flow(context.events, context.programs) as flow:
        environments.gate_cluster(flow, context, Options())
        assert clusters.done == ["create gate"]
    assert clusters.done == ["create gate", "delete gate"]


@pytest.mark.parametrize("make", [environments.gate_cluster, environments.kept_cluster])
def test_a_cluster_that_shall_be_kept_is_used_again_and_stays(
    context: Context, clusters: Clusters, make: object
) -> None:
    assert callable(make)
    clusters.there = {"gate"}
    with Flow(context.events, context.programs) as flow:
        make(flow, context, Options(keep_cluster=True))
    assert clusters.done == []


def test_a_kept_cluster_that_is_not_there_is_made_for_this_run_alone(
    context: Context, clusters: Clusters
) -> None:
    with Flow(context.events, context.programs) as flow:
        environments.kept_cluster(flow, context, Options())
    assert clusters.done == ["create gate", "delete gate"]


def test_a_new_node_pulls_what_is_known_first_and_what_is_built_last(
    context: Context, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def image(name: str) -> Image:
        return Image(name, "1", Digest(f"sha256:{'a' * 64}"))

    class Built:
        def result(self) -> Image:
            return image("built")

    monkeypatch.setattr(build, "find", lambda *_: image("before"))
    monkeypatch.setattr(build, "find_emulator", lambda *_: image("emulator"))
    wanted = list(environments.wanted_images(context, Built()))  # type: ignore[arg-type]
    assert [each.partition("@")[0] for each in wanted] == [
        "before", "postgres", "emulator", "redis", "built",
    ]  # fmt: skip


def test_a_cluster_that_does_not_go_fails_nothing(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object) -> None:
        raise ClusterFailed("it is stuck")

    monkeypatch.setattr(cluster, "delete", stuck)
    environments.quietly_delete(context, "gate")
    assert ["it is stuck" in event.text for event in context.events.all] == [True]


def test_a_target_that_no_block_describes_is_refused_by_the_names_there_are(
    context: Context,
) -> None:
    assert environments.resolve(context, DEMO_TARGET).name == DEMO_TARGET
    with pytest.raises(SettingsError, match=f"prod.*{DEMO_TARGET}") as caught:
        environments.resolve(context, "prod")
    assert "[targets.prod]" in caught.value.remedy


def test_the_demonstration_target_is_asked_for_before_its_first_run(
    context: Context, clusters: Clusters
) -> None:
    with pytest.raises(SettingsError, match=DEMO_TARGET) as caught:
        environments.found_target(context, environments.resolve(context, DEMO_TARGET))
    assert "pipeline.py run" in caught.value.remedy
    assert clusters.done == []
