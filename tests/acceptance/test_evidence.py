"""A release job elsewhere: another checkout, other runs, another home. It is given a digest and
a public key, and nothing else of the machine that proved the image."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.conftest import PYTHON, ROOT, Ended, Pipeline, Running

HOME = Path(os.environ.get("PIPELINE_HOME") or "~/.cache/queue-timeout-gate").expanduser()
STATE = ("state", "kubeconfigs", "locks", "logs")
"""What a home remembers; the rest are tools, which may be shared."""

SETTINGS = """
[evidence]
public_keys = ["{team}"]
{evidence}
[targets.production]
kubeconfig = "{kubeconfig}"
context = "kind-launch"
image_repository = "registry.gate.internal:5000/model-engine"
require = ["release.*", "pods.*", "health.*", "api.*", "logs.*", "backup.*", "image.*"]
{target}
"""
"""Its Service Bus is not known elsewhere: what needs it is not required."""


@dataclass(frozen=True)
class Elsewhere:
    """Another machine, as far as the pipeline can tell."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def __call__(self, *words: str, evidence: str = "", target: str = "") -> Ended:
        settings = SETTINGS.format(
            team=self.folder / "team.pub",
            kubeconfig=HOME / "kubeconfigs" / "launch",
            evidence=evidence,
            target=target,
        )
        (self.folder / "checkout" / "pipeline.toml").write_text(settings, encoding="utf-8")
        command = (PYTHON, str(self.folder / "checkout" / "pipeline.py"), *words)
        if words[0] in ("promote", "approve"):
            command += ("--target", "production")
        return Running(command, {"PIPELINE_HOME": str(self.home)}).end(300)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    ignored = shutil.ignore_patterns("runs", ".git", "__pycache__", ".*_cache", "pipeline.toml")
    shutil.copytree(ROOT, tmp_path / "checkout", ignore=ignored)
    (tmp_path / "home").mkdir()
    for entry in HOME.iterdir():
        if entry.name not in STATE:
            (tmp_path / "home" / entry.name).symlink_to(entry)
    shutil.copy(HOME / "state/keys/evidence-key.pub", tmp_path / "team.pub")
    return Elsewhere(tmp_path)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the flow proved last, by digest; the target serves it."""
    pipeline = Pipeline(tmp_path_factory.mktemp("proven"))
    ended = pipeline("promote", "--image", "last")
    assert ended.status == 0, ended.stderr
    image = ended.summary["image"]
    return f"{image['repository']}@{image['digest']}"


def back_from(digest: str, pipeline: Pipeline) -> None:
    """To another image, at once, however many revisions are of this one."""
    before = pipeline.live()
    assert before["digests"] == {digest}
    planned = pipeline("rollback", "--dry-run")
    assert planned.status == 0, planned.stderr
    assert digest in planned.stdout
    assert pipeline.live() == before
    ended = pipeline("rollback")
    assert ended.status == 0, ended.stderr
    assert digest not in pipeline.live()["digests"]


def test_a_digest_and_a_public_key_are_enough(
    elsewhere: Elsewhere, proven: str, pipeline: Pipeline
) -> None:
    digest = proven.rpartition("@")[2]
    back_from(digest, pipeline)
    ended = elsewhere("promote", "--image", proven)
    assert ended.status == 0, ended.stderr
    promotion = ended.summary["promotion"]
    assert promotion["before"]["digest"] != promotion["after"]["digest"] == digest
    assert pipeline.live()["digests"] == {digest}
    assert ended.run_dir.is_relative_to(elsewhere.folder), "its runs are its own"
    assert not list(elsewhere.home.rglob("evidence-key.pem")), "it needs no private key"
    (compared,) = (
        check
        for group in ended.summary["groups"]
        for check in group["checks"]
        if check["id"] == "api.compatible"
    )
    assert compared["outcome"] == "passed", "from the evidence alone"
    assert [value["of"] for value in compared["measured"]] == ["api-paths"]


def test_what_does_not_hold_elsewhere_is_refused(
    elsewhere: Elsewhere, proven: str, pipeline: Pipeline
) -> None:
    before = pipeline.live()

    def refused(says: str, *words: str, evidence: str = "", target: str = "") -> None:
        words = words or ("promote", "--image", proven)
        ended = elsewhere(*words, evidence=evidence, target=target)
        assert ended.status == 21, ended.stderr
        assert says in ended.error()[0]

    refused("was proven in this checkout", "promote", "--image", "last")
    refused("at most", evidence="max_age_hours = 0.0001")
    refused("were not run", evidence='require = ["test_nowhere::*"]')
    refused("production needs an approval", target="approval = true")
    refused("not among those whose approvals count", "approve", "--image", proven, "--by", "Ada")

    template = elsewhere.folder / "checkout/examples/model-engine/chart/templates/gateway.yaml"
    kept = template.read_bytes()
    template.write_bytes(kept + b"# one line more\n")
    refused("was proven with another chart")
    template.write_bytes(kept)

    stranger = ["openssl", "genpkey", "-algorithm", "ed25519"]
    key = subprocess.run(stranger, check=True, capture_output=True).stdout
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=key, check=True, capture_output=True
    ).stdout
    (elsewhere.folder / "team.pub").write_bytes(public)
    refused("signed by a key that is not trusted here")
    assert pipeline.live() == before


def test_an_approval_is_given_once_and_counts_elsewhere(elsewhere: Elsewhere, proven: str) -> None:
    approver = f'approver_keys = ["{elsewhere.home}/state/keys/evidence-key.pub"]'
    # Its own key is made by its first use; the message of a refusal names it.
    assert elsewhere("approve", "--image", proven, "--by", "Ada").status == 21
    given = elsewhere("approve", "--image", proven, "--by", "Ada", evidence=approver)
    assert given.status == 0, given.stderr
    ended = elsewhere("promote", "--image", proven, evidence=approver, target="approval = true")
    assert ended.status == 0, ended.stderr
