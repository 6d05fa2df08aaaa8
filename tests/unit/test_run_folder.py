"""The door into a run's folder: what it lets through, for whom, and that there is no other."""

from __future__ import annotations

import ast
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import ci
from ci.redaction import HIDDEN, MARK, Redactor
from ci.report import junit
from ci.run_folder import RunFolder

SECRET = "S3cretOfThisTest"


@pytest.fixture(autouse=True)
def any_umask() -> Iterator[None]:
    """What the owner's shell lets others read is not what we let them read."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "1", Redactor())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_texts_data_and_logs_are_redacted_and_private(folder: RunFolder) -> None:
    folder.redactor.add(SECRET)
    folder.text("a/b/text.txt", f"known {SECRET}, password=other1\n")
    folder.json(
        "data.json", {"password": "other1", "said": [f"token=x1 {SECRET}"], "path": Path("p")}
    )
    folder.append("watch/pods.txt", f"first {SECRET}\n")
    folder.append("watch/pods.txt", "second\n")
    folder.append_json("events.jsonl", {"text": f"{SECRET}\nx"})
    folder.rendered("report.html", f"<p>password: kept</p> {SECRET}")
    assert (folder.path / "a/b/text.txt").read_text() == f"known {MARK}, password={MARK}\n"
    assert json.loads((folder.path / "data.json").read_text()) == {
        "password": HIDDEN, "said": [f"token={MARK} {MARK}"], "path": "p"
    }  # fmt: skip
    assert (folder.path / "watch/pods.txt").read_text() == f"first {MARK}\nsecond\n"
    assert json.loads((folder.path / "events.jsonl").read_text()) == {"text": f"{MARK}\nx"}
    assert (folder.path / "report.html").read_text() == f"<p>password: kept</p> {MARK}"
    for path in (folder.path, *folder.path.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_was_open_is_closed(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True, mode=0o755)
    (folder.path / "logs").mkdir(mode=0o755)
    (folder.path / "logs" / "a.log").touch(mode=0o644)
    folder.append("logs/a.log", "x\n")
    assert [mode(folder.path / name) for name in ("", "logs", "logs/a.log")] == [
        0o700,
        0o700,
        0o600,
    ]


def test_what_must_not_change_does_not(folder: RunFolder) -> None:
    content = f"password={SECRET}\r\n".encode()
    assert folder.verbatim("signed.json", content).read_bytes() == content
    assert mode(folder.verbatim("quick-rollback.sh", content, executable=True)) == 0o700


def test_a_program_says_a_secret_in_pieces(folder: RunFolder) -> None:
    with folder.log("logs/x.log") as log:
        one, other = log.source(), log.source()
        one.write("pass")
        other.write("-----BEGIN PRIVATE KEY-----\n")
        one.write(f"word={SECRET}\nnext")
        other.write("QUJDREVGR0g=\n")
        log.write("whole\n")
    written = (folder.path / "logs/x.log").read_text()
    assert written == f"{MARK}\npassword={MARK}\nwhole\nnext\n"
    log.write("after its end")
    one.write("after its end\n")
    assert (folder.path / "logs/x.log").read_text() == written


def test_a_failed_write_leaves_the_old_file(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.text("a.txt", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        folder.text("a.txt", "new")
    assert [path.name for path in folder.path.iterdir()] == ["a.txt"]
    assert (folder.path / "a.txt").read_text() == "old"


def test_a_junit_file_is_taken_over(folder: RunFolder, tmp_path: Path) -> None:
    source = tmp_path / "made.xml"
    assert folder.junit("junit.xml", source) is None
    source.write_text(
        '<testsuites><testcase classname="test_it" name="test_token[password=x]" time="1">'
        f'<properties><property name="evidence" value="token={SECRET}"/>'
        f'<property name="password" value="{SECRET}"/></properties>'
        f'<failure message="password={SECRET}&#10;x">a &lt; b, password={SECRET}</failure>'
        "</testcase></testsuites>"
    )
    path = folder.junit("junit.xml", source)
    assert path is not None
    assert SECRET not in path.read_text()
    (case,) = junit.read(path)
    assert case.name == "test_it::test_token[password=x]", "who is required is found by its name"
    assert case.message == f"password={MARK}\nx"
    assert [p.get("value") for p in ElementTree.parse(path).iter("property")] == [
        f"token={MARK}", HIDDEN
    ]  # fmt: skip
    source.write_text(f"<testsuites password={SECRET}")
    cut = folder.junit("junit.xml", source)
    assert cut is not None
    assert SECRET not in cut.read_text()


def test_the_archive_is_private_and_names_nobody(folder: RunFolder) -> None:
    evidence = folder.below("evidence")
    evidence.text("logs/a.log", "x")
    (evidence.path / "link").symlink_to("/etc/passwd")
    archive = evidence.pack()
    assert archive == folder.path / "evidence.tar.gz"
    assert mode(archive) == 0o600
    with tarfile.open(archive) as packed:
        assert {entry.name: (entry.mode, entry.uname, entry.uid) for entry in packed} == {
            "evidence": (0o700, "", 0),
            "evidence/logs": (0o700, "", 0),
            "evidence/logs/a.log": (0o600, "", 0),
        }


def test_what_programs_left_open_is_sealed(folder: RunFolder) -> None:
    folder.make()
    (folder.path / "sub").mkdir(mode=0o777)
    (folder.path / "sub" / "a.xml").touch(mode=0o666)
    folder.seal()
    assert mode(folder.path / "sub") == 0o700
    assert mode(folder.path / "sub" / "a.xml") == 0o600


# -- there is no other door ------------------------------------------------------------------------

ELSEWHERE = {
    "run_folder.py": "the door itself",
    "run/state.py": "records and locks of this machine",
    "cli/clean.py": "removes",
    "evidence/keys.py": "keys of this machine",
    "report/schemas.py": "the schemas in docs",
    "standins/trust.py": "its work is in pods",
    "tools/kind.py": "wakes a cgroup",
    "tools/command.py": "the log of a daemon, which outlives the run",
    "stages/cluster.py": "kubeconfigs of this machine",
    "stages/prove.py": "a target's description, in a temporary folder",
    "promotion/rollback/backups.py": "an archive in memory, which is encrypted",
    "promotion/probes/canary.py": "a CA in a temporary file",
}
"""Modules that write files, but none into a run's folder."""
WRITES = {"write_text", "write_bytes", "mkdir", "touch", "copyfile", "copytree", "writelines"}


def test_nothing_else_writes_into_a_runs_folder() -> None:
    """What writes at all is listed, with what it writes."""
    root = Path(ci.__file__).parent
    writing = set()
    for file in root.rglob("*.py"):
        name = file.relative_to(root).as_posix()
        if name.startswith(("servicebus/", "toolchain/")):
            continue  # neither knows of runs
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _writes(node):
                writing.add(name)
    assert writing - set(ELSEWHERE) == set()


def _writes(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(attr="open") | ast.Name(id="open"):
            texts = [a.value for a in ast.walk(call) if isinstance(a, ast.Constant)]
            return any(isinstance(t, str) and t and set(t) <= set("wax+bt") for t in texts)
        case ast.Attribute(value=ast.Name(id="os"), attr="open"):
            return True
        case ast.Attribute(attr=name):
            return name in WRITES
    return False
