"""Peculiarities of a host are found where they are, and its own mirrors are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci.toolchain import oci_runtime
from ci.toolchain.host import Host
from ci.toolchain.images import SLIM, Recipe, apt_mirrors


def host(**changes: object) -> Host:
    facts: dict[str, object] = {
        "is_root": True,
        "is_debian": True,
        "cgroup_v1": False,
        "can_sys_resource": True,
        "ca_folder": None,
        "proxies": (),
        "go": None,
        **changes,
    }
    return Host(**facts)  # type: ignore[arg-type]


def test_only_cgroup_v1_needs_a_kubelet_patch() -> None:
    assert host().kubelet_patch == ""
    assert "failCgroupV1: false" in host(cgroup_v1=True).kubelet_patch


def test_mirrors_come_from_one_line_and_deb822_files(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://old bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror/debian bookworm main contrib\n"
        "deb http://elsewhere/cloud cloud-bookworm main\n"
    )
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "security.sources").write_text(
        "Types: deb deb-src\n# a comment\nURIs: http://mirror/security\n"
        "Suites: bookworm-security trixie-security\nComponents: main\n\n"
        "Types: deb\nURIs: http://mirror/off\nSuites: bookworm\nComponents: main\nEnabled: no\n"
    )
    assert apt_mirrors("bookworm", tmp_path).splitlines() == [
        "deb http://mirror/debian bookworm main",
        "deb http://mirror/security bookworm-security main",
    ]


def test_a_host_of_another_suite_has_no_mirror_of_ours(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror/debian trixie main\n")
    assert apt_mirrors("bookworm", tmp_path) == ""


def test_a_recipes_tag_follows_its_content_and_not_where_it_is_mounted_from() -> None:
    one = Recipe(name="a", base="b", script="true", mounts=((Path("/here"), "/x"),))
    moved = Recipe(name="a", base="b", script="true", mounts=((Path("/there"), "/x"),))
    other = Recipe(name="a", base="b", script="false")
    assert one.tag == moved.tag
    assert one.tag != other.tag
    assert SLIM


ALL = ["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"]


class Became(Exception):
    """Raised instead of becoming runc."""


@pytest.fixture
def becomes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    seen: list[list[str]] = []

    def execv(program: str, argv: list[str]) -> None:
        seen.append([program, *argv])
        raise Became

    monkeypatch.setattr("os.execv", execv)
    return seen


@pytest.mark.parametrize("words", [["create", "--bundle", "{b}", "id"], ["run", "-b={b}", "id"]])
def test_the_capability_is_taken_out_of_a_bundle(
    tmp_path: Path, becomes: list[list[str]], words: list[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"process": {"args": ["x"], "capabilities": {"bounding": ALL, "ambient": None}}})
    )
    argv = ["--root", "/r", *(word.format(b=tmp_path) for word in words)]
    with pytest.raises(Became):
        oci_runtime.main(argv, "/usr/sbin/runc")
    process = json.loads(config.read_text())["process"]
    assert process == {
        "args": ["x"],
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_ADMIN"], "ambient": None},
    }
    assert becomes == [["/usr/sbin/runc", "runc", *argv]]


def test_the_capability_is_taken_out_of_an_exec(tmp_path: Path, becomes: list[list[str]]) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"capabilities": {"effective": ALL}}))
    with pytest.raises(Became):
        oci_runtime.main(["exec", "--process", str(process), "id"], "/usr/sbin/runc")
    assert json.loads(process.read_text())["capabilities"]["effective"] == [
        "CAP_CHOWN",
        "CAP_SYS_ADMIN",
    ]


def test_other_calls_go_through_unchanged(becomes: list[list[str]]) -> None:
    with pytest.raises(Became):
        oci_runtime.main(["--root", "/r", "state", "id"], "/usr/sbin/runc")
    assert becomes == [["/usr/sbin/runc", "runc", "--root", "/r", "state", "id"]]
