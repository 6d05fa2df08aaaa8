"""The backups are named as in the plan, hold no secret, and the script does what it says."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

from ci.promotion.rollback.backups import File, Recorded, make, quick_rollback, sealed

pytestmark = pytest.mark.program  # quick-rollback.sh is tried under sh

IMAGE = "registry:5000/mirror/model-engine:0123456789abcdef0123456789abcdef01234567"


def deployment(name: str) -> dict[str, Any]:
    container = {
        "name": name,
        "image": IMAGE,
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 5000}, "timeoutSeconds": 1},
        "env": [
            {"name": "DB_PASSWORD", "value": "swordfish"},
            {"name": "DATABASE_URL", "value": "postgresql://u:swordfish@db/x"},
            {"name": "LOCK", "value": "60"},
            {
                "name": "BUS",
                "valueFrom": {"secretKeyRef": {"name": "bus", "key": "connection_string"}},
            },
        ],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "uid": "1", "resourceVersion": "2", "managedFields": []},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [container]}}},
        "status": {"replicas": 2},
    }


NAMES = ("model-engine", "model-engine-endpoint-builder", "model-engine-cacher")
RECORDED = Recorded(
    kubeconfig="/nowhere/it's a kubeconfig",
    context="launch",
    namespace="launch",
    release="launch-inference",
    revision=7,
    timeout_seconds=600,
    date="2026-11-23T16:00:00+00:00",
    values={"azure": {"keyvault_name": "vault", "client_secret": "swordfish"}, "tag": "x"},
    deployments={name: deployment(name) for name in NAMES},
    gateway="model-engine",
    image=IMAGE,
    digest="sha256:" + "a" * 64,
)


def files() -> dict[str, File]:
    return {file.name: file for file in make(RECORDED)}


def test_who_is_named_reads_all_of_it_secrets_included() -> None:
    ada, ben, eve = (pyrage.x25519.Identity.generate() for _ in range(3))
    kept = sealed(RECORDED, [str(ada.to_public()), str(ben.to_public())])
    assert b"swordfish" not in kept
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(kept, [eve])
    for who in (ada, ben):
        packed = io.BytesIO(pyrage.decrypt(kept, [who]))
        with tarfile.open(fileobj=packed) as archive:
            found = {
                entry.name: member.read().decode()
                for entry in archive
                if (member := archive.extractfile(entry)) is not None
            }
        assert set(found) == set(files())
        values = yaml.safe_load(found["helm-values-backup.yaml"])
        assert values == RECORDED.values
        assert "DB_PASSWORD=swordfish" in found["current-env-vars.txt"]
        assert "left out" not in "".join(found.values())


def test_the_names_are_the_plans() -> None:
    assert set(files()) == {
        "helm-values-backup.yaml",
        "model-engine-deployment-backup.yaml",
        "endpoint-builder-deployment-backup.yaml",
        "cacher-deployment-backup.yaml",
        "current-image.txt",
        "health-checks.txt",
        "current-env-vars.txt",
        "quick-rollback.sh",
    }
    assert [name for name, file in files().items() if file.executable] == ["quick-rollback.sh"]


def test_no_file_holds_a_secret() -> None:
    for file in make(RECORDED):
        assert "swordfish" not in file.text, file.name


def test_what_is_no_secret_is_kept() -> None:
    found = files()
    assert (
        yaml.safe_load(found["helm-values-backup.yaml"].text)["azure"]["keyvault_name"] == "vault"
    )
    restored = yaml.safe_load(found["model-engine-deployment-backup.yaml"].text)
    assert restored["metadata"] == {"name": "model-engine"}
    assert "status" not in restored
    assert found["current-image.txt"].text.splitlines()[0] == IMAGE
    assert "timeoutSeconds: 1" in found["health-checks.txt"].text
    lines = found["current-env-vars.txt"].text.splitlines()
    assert "LOCK=60" in lines
    assert "DB_PASSWORD=(left out)" in lines
    assert "DATABASE_URL=postgresql://u:***@db/x" in lines
    assert "BUS from {secretKeyRef: {key: connection_string, name: bus}}" in lines
    assert "all of {configMapRef: {name: settings}}" in lines


# -- the script, run as a person would, with programs that write down what they were asked ---------


def run(
    folder: Path,
    *words: str,
    tools: tuple[str, ...] = ("helm", "kubectl"),
    env: Mapping[str, str] = {},
) -> tuple[int, str, list[list[str]]]:
    folder.mkdir(exist_ok=True)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("sh", "cat"):
        if not (programs / name).exists():
            (programs / name).symlink_to(f"/bin/{name}")
    for tool in tools:
        fake = programs / tool
        fake.write_text(
            f'#!/bin/sh\nfor w in {tool} "$@"; do printf "%s\\n" "$w"; done >>{folder}/calls\n'
            f"echo >>{folder}/calls\n"
        )
        fake.chmod(0o755)
    script = folder / "quick-rollback.sh"
    script.write_text(quick_rollback(RECORDED))
    done = subprocess.run(
        ["sh", str(script), *words],
        env={"PATH": str(programs), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    calls = folder / "calls"
    text = calls.read_text() if calls.exists() else ""
    return (
        done.returncode,
        done.stdout + done.stderr,
        [c.split("\n") for c in text.split("\n\n") if c],
    )


HELM = ["--namespace", "launch", "rollback", "launch-inference", "7", "--wait", "--timeout", "600s"]


def test_helm_is_asked_for_the_recorded_revision(tmp_path: Path) -> None:
    status, _, calls = run(tmp_path)
    assert status == 0
    assert calls == [["helm", "--kube-context", "launch", *HELM]]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_cluster_can_be_named(tmp_path: Path, how: str) -> None:
    config = tmp_path / "my kubeconfig"
    config.touch()
    words = ("--kubeconfig", str(config), "--context", "other one") if how == "option" else ()
    env = {"ROLLBACK_KUBECONFIG": str(config), "ROLLBACK_CONTEXT": "other one"}
    status, _, calls = run(tmp_path, *words, env=env if how == "environment" else {})
    assert status == 0
    assert calls == [["helm", "--kubeconfig", str(config), "--kube-context", "other one", *HELM]]


def test_without_helm_the_recorded_images_are_put_back(tmp_path: Path) -> None:
    status, _, calls = run(tmp_path, tools=("kubectl",))
    assert status == 0
    scope = ["kubectl", "--context", "launch", "--namespace", "launch"]
    assert calls == [
        *([*scope, "set", "image", f"deployment/{n}", f"{n}={IMAGE}"] for n in NAMES),
        *([*scope, "rollout", "status", f"deployment/{n}", "--timeout", "600s"] for n in NAMES),
    ]


def test_a_dry_run_calls_nothing_and_shows_everything(tmp_path: Path) -> None:
    status, said, calls = run(tmp_path, "--dry-run", "--with", "kubectl")
    assert (status, calls) == (0, [])
    assert f"set image deployment/model-engine model-engine={IMAGE}" in said
    assert "nothing was changed" in said


def test_help_names_release_revision_and_images(tmp_path: Path) -> None:
    status, said, calls = run(tmp_path, "--help", tools=())
    assert (status, calls) == (0, [])
    for wanted in ("launch-inference", "revision 7", IMAGE, "--dry-run", "it's a kubeconfig"):
        assert wanted in said


@pytest.mark.parametrize(
    ("words", "tools", "said"),
    [
        (("--wrong",), ("helm",), "unknown option --wrong"),
        (("--with", "luck"), ("helm",), "--with is helm or kubectl, not luck"),
        (("--kubeconfig",), ("helm",), "--kubeconfig needs a file"),
        (("--kubeconfig", "/nowhere/at-all"), ("helm",), "there is no file /nowhere/at-all"),
        ((), (), "neither helm nor kubectl"),
    ],
)
def test_what_cannot_work_is_said_and_nothing_called(
    tmp_path: Path, words: tuple[str, ...], tools: tuple[str, ...], said: str
) -> None:
    status, output, calls = run(tmp_path, *words, tools=tools)
    assert (status, calls) == (1, [])
    assert said in output


def test_a_failing_helm_fails_the_script(tmp_path: Path) -> None:
    run(tmp_path, "--help")
    (tmp_path / "bin" / "helm").write_text("#!/bin/sh\nexit 4\n")
    script = tmp_path / "quick-rollback.sh"
    done = subprocess.run(
        ["sh", str(script)],
        env={"PATH": f"{tmp_path / 'bin'}"},
        capture_output=True,
        check=False,
        timeout=10,
    )
    assert done.returncode == 4


def test_it_says_where_it_returns_to_before_it_acts(tmp_path: Path) -> None:
    for words in ((), ("--dry-run", "--with", "helm")):
        status, said, _ = run(tmp_path, *words)
        assert status == 0
        goal, action = said.index("to revision 7, "), said.index("+ helm")
        assert goal < action
        assert f"whose gateway runs {RECORDED.digest}:" in said
        assert f"  model-engine/model-engine  {IMAGE}" in said


def test_nothing_but_helm_needs_to_be_on_the_path(tmp_path: Path) -> None:
    run(tmp_path, "--help")
    for tool in (tmp_path / "bin").iterdir():
        tool.unlink()
    (tmp_path / "bin" / "helm").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "bin" / "helm").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(tmp_path / "quick-rollback.sh")],
        env={"PATH": f"{tmp_path / 'bin'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_names_with_shell_characters_stay_words(tmp_path: Path) -> None:
    nasty = replace(RECORDED, context='a\'b $(touch pwned) `x` "y" }')
    script = tmp_path / "s.sh"
    script.write_text(quick_rollback(nasty))
    done = subprocess.run(
        ["sh", str(script), "--dry-run", "--with", "helm"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=10,
    )
    assert f"--kube-context {nasty.context} --namespace" in done.stdout
    assert not (tmp_path / "pwned").exists()
