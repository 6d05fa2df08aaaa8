"""The pins agree with each other: one version of each thing, everywhere it is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ci.toolchain import pins
from ci.toolchain.binaries import DAGGER, KUBERNETES
from ci.toolchain.pins import SOURCES

ROOT = Path(__file__).parents[3]
PINS = pins.load()


def module_version(folder: str, module: str) -> str:
    text = (SOURCES / folder / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", text, re.M)
    assert found is not None, f"{module} is not in {folder}/go.mod"
    return found[1]


@pytest.mark.parametrize(
    ("tool", "folder", "module"),
    [
        ("kind", "kubernetes", "sigs.k8s.io/kind"),
        ("kubernetes", "kubernetes", "k8s.io/kubernetes"),
        ("helm", "kubernetes", "helm.sh/helm/v3"),
        ("containerd", "kubernetes", "github.com/containerd/containerd/v2"),
        ("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
        ("coredns", "kubernetes", "github.com/coredns/coredns"),
        ("dagger", "dagger", "github.com/dagger/dagger"),
    ],
)
def test_modules_are_built_at_the_pinned_version(tool: str, folder: str, module: str) -> None:
    assert module_version(folder, module) == PINS.versions[tool]


def test_the_engine_is_in_lockstep_with_its_python_client() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"dagger-io=={PINS.versions['dagger']}" in project["project"]["dependencies"]
    assert f"dagger-io=={PINS.versions['dagger']} \\" in (ROOT / "requirements.lock").read_text()


def test_the_engine_is_stamped_with_its_version() -> None:
    assert f"engine.Version=v{PINS.versions['dagger']}" in DAGGER.ldflags(PINS)
    assert "engine" not in KUBERNETES.ldflags(PINS)


def test_every_module_is_checked_against_a_hash_here() -> None:
    for folder in ("kubernetes", "dagger"):
        sums = (SOURCES / folder / "go.sum").read_text().splitlines()
        assert sums
        assert all(re.fullmatch(r"\S+ v\S+ h1:[A-Za-z0-9+/]{43}=", line) for line in sums)


def test_no_lock_file_names_an_address() -> None:
    locks = [*ROOT.glob("*.lock"), *ROOT.glob("examples/**/*.lock"), *ROOT.glob("ci/**/*.lock")]
    assert locks
    for lock in locks:
        assert "://" not in lock.read_text(), f"{lock} names an address"
        for line in lock.read_text().splitlines():
            if re.match(r"[a-z0-9]", line):
                assert line.endswith("\\"), f"{lock}: {line} has no hash"


def test_addresses_are_made_of_the_version() -> None:
    assert f"v{PINS.versions['kubernetes']}/" in PINS.url("kubectl")
    assert PINS.versions["kind"] in PINS.url("kind")
