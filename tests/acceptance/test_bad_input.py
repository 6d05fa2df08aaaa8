"""Each ends in one line, a remedy and its exit code, with nothing harmed."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.acceptance.conftest import Pipeline

pytestmark = pytest.mark.usefixtures("no_gate_left")

HOME = Path(os.environ.get("PIPELINE_HOME") or "~/.cache/queue-timeout-gate").expanduser()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[image]\nnmae = 'x'\n", "image.nmae"),
        ("[prove]\nworkers = 'many'\n", "prove.workers"),
        ("[image\n", "not TOML"),
        ("[targets.launch]\ncontext='x'\nkubeconfig='x'\nimage_repository='r/x'\n", "launch"),
    ],
)
def test_settings_that_make_no_sense(pipeline: Pipeline, settings: str, says: str) -> None:
    ended = pipeline("run", settings=settings)
    assert ended.status == 3
    assert says in ended.error()[0]


def test_a_settings_file_that_is_not_there(pipeline: Pipeline) -> None:
    ended = pipeline("run", "--config", "/nowhere/pipeline.toml")
    assert ended.status == 3
    assert "/nowhere/pipeline.toml" in ended.error()[0]


def test_a_target_nobody_described(pipeline: Pipeline) -> None:
    ended = pipeline("run", "--target", "prod")
    assert ended.status == 3
    assert "prod" in ended.error()[0]


def test_a_dockerfile_that_does_not_build(pipeline: Pipeline, source: Path) -> None:
    dockerfile = source / "Dockerfile"
    dockerfile.write_text(
        dockerfile.read_text().replace("EXPOSE 5000", "RUN echo it-went-wrong && false\n")
    )
    ended = pipeline("build", settings=f'[image]\ncontext = "{source}"\n')
    assert ended.status == 10, ended.stderr
    assert "it-went-wrong" in ended.error()[0]


def test_a_missing_dockerfile(pipeline: Pipeline, source: Path) -> None:
    (source / "Dockerfile").unlink()
    ended = pipeline("build", settings=f'[image]\ncontext = "{source}"\n')
    assert ended.status == 10
    assert "image.dockerfile" in ended.error()[0]


def test_a_chart_that_does_not_render(pipeline: Pipeline, source: Path) -> None:
    template = source / "chart" / "templates" / "gateway.yaml"
    template.write_text(template.read_text() + "\n{{ .Values.nothing.here }}\n")
    ended = pipeline("run", settings=f'[gate]\nchart = "{source / "chart"}"\n')
    assert ended.status == 13
    assert "does not render" in ended.error()[0]


def test_a_release_that_does_not_become_ready(pipeline: Pipeline) -> None:
    """Its pods need more than the one second that it is given."""
    ended = pipeline("prove", settings="[gate]\ndeploy_timeout_seconds = 1\n")
    assert ended.status == 14, ended.stderr
    error, _ = ended.error()
    assert "waited 1 s for the Deployments in launch" in error
    assert "pods: " in error, "it says what they are doing"


def test_criteria_that_are_not_met(pipeline: Pipeline) -> None:
    """Of a release that is well, but for a path that it does not have."""
    before = pipeline.live()
    ended = pipeline("verify", settings='[service]\nhealth_paths = ["/readyz", "/nowhere"]\n')
    assert ended.status == 34, ended.stderr
    error, _ = ended.error()
    assert "/nowhere" in error
    assert "/readyz" not in error
    assert pipeline.live() == before


TARGET = """
[targets.other]
kubeconfig = "{kubeconfig}"
context = "{context}"
namespace = "{namespace}"
release = "{release}"
image_repository = "{repository}"
{more}
"""


def target(**changed: str) -> str:
    values = {
        "kubeconfig": str(HOME / "kubeconfigs" / "launch"),
        "context": "kind-launch",
        "namespace": "launch",
        "release": "launch-inference",
        "repository": "registry.gate.internal:5000/model-engine",
        "more": "",
    }
    return TARGET.format(**{**values, **changed})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"kubeconfig": "/nowhere/kubeconfig"}, "/nowhere/kubeconfig"),
        ({"context": "nowhere"}, "nowhere"),
        ({"namespace": "nowhere"}, "nowhere"),
        ({"release": "nowhere"}, "nowhere"),
    ],
)
def test_a_target_that_does_not_exist(
    pipeline: Pipeline, changed: dict[str, str], says: str
) -> None:
    before = pipeline.live()
    ended = pipeline("promote", "--image", "last", "--target", "other", settings=target(**changed))
    assert ended.status == 30, ended.stderr
    assert says in ended.error()[0]
    assert pipeline.live() == before


class _Refusing(BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = _refuse

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def refusing_registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_registry_that_refuses_the_login(pipeline: Pipeline, refusing_registry: str) -> None:
    before = pipeline.live()
    more = '[targets.other.registry_login]\npassword_command = ["echo", "not-the-password"]'
    ended = pipeline(
        "promote",
        "--image",
        "last",
        "--target",
        "other",
        settings=target(repository=f"{refusing_registry}/model-engine", more=more),
    )
    assert ended.status == 11, ended.stderr
    assert "refused" in ended.error()[0]
    assert "not-the-password" not in ended.stderr
    assert pipeline.live() == before


def test_docker_that_does_not_answer(pipeline: Pipeline) -> None:
    ended = pipeline("run", env={"DOCKER_HOST": "tcp://127.0.0.1:1"})
    assert ended.status == 5, ended.stderr
    assert "Docker" in ended.error()[0]


def test_an_image_that_was_never_proven(pipeline: Pipeline) -> None:
    ended = pipeline("promote", "--image", f"registry.gate.internal:5000/x@sha256:{'0' * 64}")
    assert ended.status == 21
    assert "there is no image" in ended.error()[0]


def test_an_image_without_a_digest(pipeline: Pipeline) -> None:
    ended = pipeline("promote", "--image", "model-engine:latest")
    assert ended.status == 3
    assert "by digest" in ended.error()[0]


def test_a_home_that_cannot_be_written(pipeline: Pipeline) -> None:
    ended = pipeline("doctor", env={"PIPELINE_HOME": "/proc/nowhere"})
    assert ended.status == 4
    assert "PIPELINE_HOME" in ended.error()[1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 5 MB, on which not even a Python environment has room."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_that_looks_whole(pipeline: Pipeline, small_disk: Path) -> None:
    for _ in range(2):
        ended = pipeline("run", env={"PIPELINE_HOME": str(small_disk)})
        assert ended.status == 6, ended.stderr
        assert "no disk space" in ended.error()[0]
        assert not [each for each in (small_disk / "venvs").iterdir() if each.is_dir()]
