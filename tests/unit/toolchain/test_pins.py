"""The pins agree with each other: one version of each thing, everywhere it is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ci.toolchain import pins
from ci.toolchain.binaries import DAGGER, KUBERNETES
from ci.toolchain.pins import SOURCES, Download, PinnedImage

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


@pytest.mark.parametrize("tool", PINS.download)
def test_every_download_has_a_sum_and_whole_addresses(tool: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", PINS.download[tool].sha256)
    assert len(set(PINS.download[tool].sha256)) > 4, "a placeholder"
    assert PINS.checksum(tool) == f"sha256:{PINS.download[tool].sha256}"
    version = PINS.versions[PINS.download[tool].version_of or tool]
    for address in (PINS.url(tool), PINS.checksums_url(tool)):
        assert re.fullmatch(r"https://[^\s{}]+", address)
        assert version in address


@pytest.mark.parametrize("name", PINS.image)
def test_every_image_has_a_digest_and_a_whole_reference(name: str) -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", PINS.image[name].digest)
    assert len(set(PINS.image[name].digest)) > 10, "a placeholder"
    assert PINS.image_digest(name) == PINS.image[name].digest
    tag = PINS.image_version(name)
    assert re.fullmatch(r"[0-9][0-9.]*", tag)
    assert re.fullmatch(
        rf"[a-z0-9./-]+:v?{re.escape(tag)}@sha256:[0-9a-f]{{64}}", PINS.image_reference(name)
    )


def test_no_two_pins_are_the_same() -> None:
    sums = [entry.sha256 for entry in PINS.download.values()]
    sums += [entry.digest for entry in PINS.image.values()]
    assert len(set(sums)) == len(sums)


def test_a_sum_that_is_not_pinned_is_none() -> None:
    bare = PINS.model_copy(
        update={
            "download": {"helm": Download(url="u", sha256="")},
            "image": {"redis": PinnedImage(reference="r:1", digest="")},
        }
    )
    assert bare.checksum("helm") is None
    assert bare.image_digest("redis") is None
