"""What a command prints that only reads is kept in no log."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ci.model import Cluster
from ci.tools.command import Programs
from ci.tools.helm import Helm
from ci.tools.kube import Kube
from ci.tools.wait import SystemClock

pytestmark = pytest.mark.program
SECRET = "a-word-no-pattern-knows"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\necho {SECRET}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def logged(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.rglob("*.log"))


def test_helm_and_kubectl_keep_only_what_commands_print_that_change(
    tmp_path: Path, program: Path
) -> None:
    cluster, logs = Cluster("c", tmp_path / "k", "c", True), tmp_path / "logs"
    programs = Programs(env={"PATH": "/bin:/usr/bin"}, logs=logs)
    helm, kube = Helm(program, cluster, programs), Kube(program, cluster, programs, SystemClock())
    helm.run("get", "values", "r", namespace="n")
    helm.run("upgrade", "r", "chart", "--dry-run=server", namespace="n")
    helm.for_cleanup().run("history", "r", namespace="n")
    kube.run("get", "secrets")
    assert SECRET not in logged(logs)
    helm.run("rollback", "r", "1", namespace="n")
    assert SECRET in logged(logs)
