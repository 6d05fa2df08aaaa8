"""What the assembled images hold: scripts that parse, and what other modules rely on."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci.toolchain import pins, recipes, services
from ci.toolchain.images import Recipe

BASE = "queue-timeout-gate/debian:1"
PAUSE = "registry.k8s.io/pause:3.10.1"


def node(**changed: Any) -> Recipe:
    """The node image's recipe, of made-up folders."""
    given: dict[str, Any] = {
        "binaries": Path("/store/kubernetes-1"),
        "kind_module": Path("/modules/kind@v0.33.0"),
        "components": Path("/store/node-components-1"),
        "kubernetes": "1.36.4",
        "pause": PAUSE,
        "restrict_oom": False,
        **changed,
    }
    places = (given.pop("binaries"), given.pop("kind_module"), given.pop("components"))
    return recipes.node(BASE, *places, **given)


EVERY = (
    recipes.python(BASE),
    recipes.registry(BASE),
    recipes.postgres(BASE),
    recipes.redis(BASE),
    recipes.kube_proxy_base(BASE),
    recipes.engine_base(BASE),
    recipes.engine(BASE, Path("/store/dagger-1")),
    recipes.node_base(BASE),
    node(),
)


def document(script: str, mark: str) -> str:
    """What a script writes between ``<<'MARK'`` and ``MARK``."""
    found = re.search(rf"<<'{mark}'\n(.*?)\n{mark}\n", script, re.DOTALL)
    assert found, f"no {mark} in the script"
    return found[1]


@pytest.mark.program
@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_a_script_is_bash(recipe: Recipe) -> None:
    subprocess.run(["bash", "-n"], input=recipe.script, text=True, check=True, timeout=10)


@pytest.mark.program
def test_the_databases_entrypoint_is_bash() -> None:
    text = document(recipes.postgres(BASE).script, "ENTRY")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=10)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_the_command_lines_of_an_image_are_lists(recipe: Recipe) -> None:
    for change in recipe.changes:
        word, _, rest = change.partition(" ")
        assert word in ("ENV", "ENTRYPOINT", "CMD", "EXPOSE", "VOLUME", "USER")
        if word in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(each, str) for each in json.loads(rest))


def test_every_image_has_a_name_of_its_own() -> None:
    assert len({recipe.tag.partition(":")[0] for recipe in EVERY}) == len(EVERY)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_an_image_follows_its_base(recipe: Recipe) -> None:
    made = {"python": recipes.python, "registry": recipes.registry, "redis": recipes.redis}
    if recipe.name in made:
        assert made[recipe.name]("debian:2").tag != recipe.tag
    assert recipe.base == BASE
    assert len(set(recipe.packages)) == len(recipe.packages)


def test_the_registry_listens_where_it_is_published_and_keeps_its_data_in_the_volume() -> None:
    recipe = recipes.registry(BASE)
    config = yaml.safe_load(document(recipe.script, "CONFIG"))
    assert config["http"]["addr"] == ":" + services.REGISTRY_NAME.partition(":")[2]
    assert config["storage"]["filesystem"]["rootdirectory"] == "/var/lib/registry"
    assert config["storage"]["delete"]["enabled"] is True
    assert "VOLUME /var/lib/registry" in recipe.changes
    assert "/etc/docker/registry/config.yml" in recipe.changes[-1]


def test_the_databases_are_the_pinned_versions() -> None:
    versions = pins.load().versions
    assert recipes.postgres(BASE).packages == (f"postgresql-{versions['postgres']}",)
    assert f"/usr/lib/postgresql/{versions['postgres']}/bin" in recipes.postgres(BASE).script


def test_the_database_takes_a_password_and_is_told_to_stop_without_waiting_for_clients() -> None:
    recipe = recipes.postgres(BASE)
    entry = document(recipe.script, "ENTRY")
    assert "${POSTGRES_PASSWORD:?" in entry, "it must not start without one"
    assert "scram-sha-256" in entry
    assert recipe.stop_signal == "SIGINT"
    assert "USER postgres" in recipe.changes


def test_the_cache_keeps_nothing_and_serves_the_cluster() -> None:
    words = json.loads(recipes.redis(BASE).changes[-1].removeprefix("ENTRYPOINT "))
    assert words[words.index("--save") + 1] == ""
    assert words[words.index("--bind") + 1] == "0.0.0.0"


def test_an_engine_is_another_when_its_binaries_are() -> None:
    one, two = (recipes.engine(BASE, Path(f"/store/dagger-{n}")) for n in (1, 2))
    moved = recipes.engine(BASE, Path("/elsewhere/dagger-1"))
    assert one.tag != two.tag
    assert one.tag == moved.tag, "the folder's name says what is in it"
    assert one.mounts == ((Path("/store/dagger-1"), "/toolchain"),)
    installed = re.findall(r"/toolchain/(\S+)", one.script)
    assert installed == ["engine", "dagger", "init", "dnsname", "dialstdio"]


def test_a_node_is_another_when_anything_in_it_is() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"binaries": Path("/store/kubernetes-2")},
        {"kind_module": Path("/modules/kind@v0.34.0")},
        {"components": Path("/store/node-components-2")},
        {"kubernetes": "1.36.5"},
        {"pause": "registry.k8s.io/pause:3.11"},
        {"restrict_oom": True},
    ]
    assert len({node(**changed).tag for changed in changes}) == len(changes)
    assert node(binaries=Path("/elsewhere/kubernetes-1")).tag == node().tag


def test_a_node_pulls_the_sandbox_that_its_kubeadm_names_and_knows_its_version() -> None:
    script = node().script
    assert f'sandbox_image = "{PAUSE}"' in script
    assert "printf %s 'v1.36.4' > /kind/version" in script
    assert "restrict_oom_score_adj = false" in script
    assert "restrict_oom_score_adj = true" in node(restrict_oom=True).script


def test_a_nodes_network_and_storage_are_what_kubernetes_reads() -> None:
    script = node().script
    network = json.loads(document(script, "CNI"))
    assert [plugin["type"] for plugin in network["plugins"]] == ["bridge", "portmap"]
    storage = yaml.safe_load(document(script, "STORAGE"))
    assert (storage["kind"], storage["metadata"]["name"]) == ("StorageClass", "standard")
    assert 'config_path = "/etc/containerd/certs.d"' in document(script, "REGISTRY")


def test_a_node_gives_systemd_the_signal_that_it_ends_on() -> None:
    assert node().stop_signal == "SIGRTMIN+3"
    assert node().seccomp is False, "containerd runs while it is made"
    assert node().mounts[1] == (Path("/modules/kind@v0.33.0/images/base/files"), "/kind-files")
