"""The images of Kubernetes' components: under kubeadm's names, each once, whole or not at all."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.errors import ToolchainError
from ci.toolchain import components
from ci.toolchain.store import Store
from ci.tools.command import Output, Programs
from ci.tools.docker import Docker
from tests.unit.machine import Machine, failed, said, take_over

PAUSE, COREDNS = "registry.k8s.io/pause:3.10.1", "registry.k8s.io/coredns/coredns:v1.14.5"
PROXY = "registry.k8s.io/kube-proxy:v1.36.4"
EVERY = (PAUSE, COREDNS, PROXY)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return take_over(monkeypatch)


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    folder = tmp_path / "kubernetes-0123456789ab"
    folder.mkdir()
    for name in ("pause", "coredns", "kube-proxy"):
        (folder / name).write_text(f"the program {name}")
    return folder


def saved(tmp_path: Path, binaries: Path, *references: str) -> Path:
    docker = Docker(Path("docker"), Programs(env={}))
    return components.save(
        references or EVERY, binaries, "proxy-base:1", docker, Store(tmp_path / "home")
    )


def test_kubeadm_is_asked_which_images_its_version_wants(machine: Machine) -> None:
    machine.answer = lambda _: said(f"{PAUSE}\n  {COREDNS}\n\n")
    asked = components.required(Path("/tools/kubeadm"), "1.36.4", Programs(env={}))
    assert asked == (PAUSE, COREDNS)
    assert machine.words() == [
        ["kubeadm", "config", "images", "list", "--kubernetes-version", "v1.36.4"]
    ]


def test_kubeadm_that_fails_is_a_toolchain_error(machine: Machine) -> None:
    machine.answer = lambda _: failed("unknown version")
    with pytest.raises(ToolchainError, match="unknown version"):
        components.required(Path("kubeadm"), "9", Programs(env={}))


def test_the_sandbox_image_is_the_one_kubeadm_names() -> None:
    assert components.pause_image((COREDNS, PAUSE)) == PAUSE
    with pytest.raises(ToolchainError, match="lists no pause image"):
        components.pause_image((COREDNS, "registry.k8s.io/pauses:1"))


def test_the_key_follows_everything_that_the_images_are_made_of() -> None:
    def key(references: tuple[str, ...] = EVERY, folder: str = "k-1", base: str = "b:1") -> str:
        return components.key(references, Path("/anywhere") / folder, base)

    assert key() == components.key(EVERY, Path("/elsewhere/k-1"), "b:1")
    assert len({key(), key(EVERY[:2]), key(folder="k-2"), key(base="b:2")}) == 4


def unpacked(archive: str) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of each file, by its path."""
    found = {}
    with tarfile.open(archive) as tar:
        for each in tar:
            if content := tar.extractfile(each):
                found[each.name] = (each.mode, content.read())
    return found


def remembered(machine: Machine) -> dict[str, dict[str, tuple[int, bytes]]]:
    """The files of each image that is imported, by its reference."""
    imported: dict[str, dict[str, tuple[int, bytes]]] = {}

    def answer(words: list[str]) -> Output | None:
        if words[1] == "import":
            imported[words[-1]] = unpacked(words[-2])
        if words[1] == "save":
            Path(words[words.index("--output") + 1]).write_text("every image")
        return None

    machine.answer = answer
    return imported


def test_a_component_is_alone_in_its_image_and_can_be_executed(
    machine: Machine, tmp_path: Path, binaries: Path
) -> None:
    imported = remembered(machine)
    folder = saved(tmp_path, binaries, PAUSE, COREDNS)
    assert imported[PAUSE]["pause"] == (0o755, b"the program pause")
    assert imported[COREDNS]["coredns"] == (0o755, b"the program coredns")
    assert b"root:x:0:0" in imported[PAUSE]["etc/passwd"][1]
    entries = [words[words.index("--change") + 1] for words in machine.words("docker", "import")]
    assert entries == ['ENTRYPOINT ["/pause"]', 'ENTRYPOINT ["/coredns"]']
    (written,) = machine.words("docker", "save")
    assert written[-2:] == [PAUSE, COREDNS]
    assert (folder / "images.tar").read_text() == "every image"
    assert not (folder / "one.tar").exists()
    assert machine.words("docker", "rmi") == [["docker", "rmi", PAUSE, COREDNS]]


def test_kube_proxy_stands_on_a_base_that_has_what_it_calls(
    machine: Machine, tmp_path: Path, binaries: Path
) -> None:
    remembered(machine)
    saved(tmp_path, binaries, PROXY)
    (ran,) = machine.words("docker", "run")
    assert f"{binaries}:/toolchain:ro" in ran
    at = ran.index("proxy-base:1")
    assert ran[at - 2 : at] == ["--entrypoint", "install"]
    assert ran[-2:] == ["/toolchain/kube-proxy", "/usr/local/bin/kube-proxy"]
    (committed,) = machine.words("docker", "commit")
    assert committed[-1] == PROXY
    assert committed[-2] == ran[ran.index("--name") + 1]
    assert machine.words("docker")[-3][1] == "rm", "before the images are saved"


def test_what_is_made_is_not_made_again(machine: Machine, tmp_path: Path, binaries: Path) -> None:
    remembered(machine)
    first = saved(tmp_path, binaries)
    machine.forget()
    assert saved(tmp_path, binaries) == first
    assert machine.started == []


def fails(verb: str) -> Callable[[list[str]], Output | None]:
    return lambda words: failed("no space for it") if words[1] == verb else None


@pytest.mark.parametrize("verb", ["import", "run", "commit", "save"])
def test_a_step_that_fails_leaves_nothing_that_looks_whole(
    machine: Machine, tmp_path: Path, binaries: Path, verb: str
) -> None:
    machine.answer = fails(verb)
    with pytest.raises(ToolchainError, match=f"docker {verb}.*no space for it"):
        saved(tmp_path, binaries)
    assert not list((tmp_path / "home" / "store").glob("node-components-*"))
    if verb in ("run", "commit"):
        assert machine.words("docker")[-1][:2] == ["docker", "rm"]


def test_a_component_that_nobody_builds_is_named(
    machine: Machine, tmp_path: Path, binaries: Path
) -> None:
    with pytest.raises(ToolchainError, match=r"registry.k8s.io/new-thing:v1"):
        saved(tmp_path, binaries, PAUSE, "registry.k8s.io/new-thing:v1")
    assert machine.words("docker", "save") == []
