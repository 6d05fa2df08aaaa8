"""Every exit code by its real way: the command line itself, with a machine on which no program
starts (:mod:`tests.unit.machine`) and a cluster and a registry in memory (:mod:`tests.unit.live`).
The code that finds the condition runs; no test raises the error itself.

:data:`REACHED` names for every code the test that reaches it, here or on real clusters.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ci import errors
from ci.cli import app
from ci.cli.session import HANDOVER, Handover
from ci.digest import Digest
from ci.model import Cluster, Image, Registry, Result
from ci.run.context import Context
from ci.run.state import Home
from ci.settings import Options, load
from ci.stages import build, deploy
from ci.toolchain import pins
from ci.tools.api import Answer
from ci.tools.command import Output
from ci.tools.process_identity import Process
from ci.tools.wait import Cancellable, SystemClock
from ci.workflow import commands, handoffs
from tests.unit.evidence.fakes import FakeRegistry, proof
from tests.unit.evidence.fakes import machine as described_machine
from tests.unit.live import REPOSITORY, Live, serving_here
from tests.unit.machine import Machine, failed, said, take_over

ROOT = Path(__file__).resolve().parents[3]

REACHED: dict[int, tuple[str, ...]] = {
    0: (
        "tests/unit/cli/test_exit_codes.py::test_what_is_well_is_done",
        "tests/acceptance/test_flow.py::test_what_is_proven_is_promoted",
    ),
    1: ("tests/unit/cli/test_exit_codes.py::test_what_nobody_foresaw_is_a_defect",),
    2: ("tests/unit/cli/test_app.py::test_an_unknown_command_is_a_usage_error",),
    3: (
        "tests/unit/cli/test_app.py::test_a_foreseen_failure_is_two_lines_and_its_exit_code",
        "tests/acceptance/test_bad_input.py::test_settings_that_make_no_sense",
    ),
    4: (
        "tests/unit/cli/test_exit_codes.py::test_a_tool_that_cannot_be_had",
        "tests/acceptance/test_bad_input.py::test_a_home_that_cannot_be_written",
    ),
    5: (
        "tests/unit/cli/test_exit_codes.py::test_a_daemon_that_does_not_answer",
        "tests/acceptance/test_bad_input.py::test_docker_that_does_not_answer",
    ),
    6: (
        "tests/unit/cli/test_exit_codes.py::test_a_disk_without_room_for_the_tools",
        "tests/acceptance/test_bad_input.py::test_a_full_disk_leaves_nothing_that_looks_whole",
    ),
    7: (
        "tests/unit/cli/test_exit_codes.py::test_a_gate_that_another_run_uses",
        "tests/acceptance/test_flow.py::test_ctrl_c_while_the_cluster_is_made_leaves_nothing",
    ),
    10: (
        "tests/unit/cli/test_exit_codes.py::test_a_source_without_a_dockerfile",
        "tests/acceptance/test_bad_input.py::test_a_dockerfile_that_does_not_build",
    ),
    11: (
        "tests/unit/cli/test_exit_codes.py::test_a_registry_that_refuses",
        "tests/acceptance/test_bad_input.py::test_a_registry_that_refuses_the_login",
    ),
    12: ("tests/unit/cli/test_exit_codes.py::test_a_cluster_of_somebody_else_in_the_way",),
    13: (
        "tests/unit/cli/test_exit_codes.py::test_a_chart_that_does_not_render",
        "tests/acceptance/test_bad_input.py::test_a_chart_that_does_not_render",
    ),
    14: (
        "tests/unit/cli/test_exit_codes.py::test_a_release_that_does_not_come_up_on_the_gate",
        "tests/acceptance/test_bad_input.py::test_a_release_that_does_not_become_ready",
    ),
    15: ("tests/unit/cli/test_exit_codes.py::test_stand_ins_for_a_cluster_of_somebody_else",),
    20: (
        "tests/unit/cli/test_exit_codes.py::test_a_case_that_fails",
        "tests/acceptance/test_flow.py::test_a_broken_queue_timeout_is_never_promoted",
    ),
    21: (
        "tests/unit/cli/test_exit_codes.py::test_an_image_without_evidence",
        "tests/acceptance/test_evidence.py::test_what_does_not_hold_elsewhere_is_refused",
    ),
    22: (
        "tests/unit/cli/test_exit_codes.py::test_a_live_release_that_does_not_come_up_on_the_gate",
    ),
    30: (
        "tests/unit/cli/test_exit_codes.py::test_a_target_that_is_not_there",
        "tests/acceptance/test_bad_input.py::test_a_target_that_does_not_exist",
    ),
    31: (
        "tests/unit/cli/test_exit_codes.py::test_a_release_that_is_not_fit_to_be_changed",
        "tests/unit/cli/test_exit_codes.py::test_a_required_check_that_is_turned_off",
    ),
    32: ("tests/unit/cli/test_exit_codes.py::test_an_upgrade_that_fails_is_rolled_back",),
    33: ("tests/unit/cli/test_exit_codes.py::test_a_rollback_that_fails",),
    34: (
        "tests/unit/cli/test_exit_codes.py::test_a_release_that_does_not_meet_the_criteria",
        "tests/acceptance/test_bad_input.py::test_criteria_that_are_not_met",
    ),
    40: ("tests/unit/cli/test_exit_codes.py::test_a_cluster_that_never_takes_pods",),
    41: ("tests/unit/cli/test_exit_codes.py::test_a_program_that_fails",),
    130: (
        "tests/unit/cli/test_exit_codes.py::test_ctrl_c",
        "tests/acceptance/test_flow.py::test_ctrl_c_during_the_promotion_rolls_back",
    ),
}
"""Node ids by exit code: each test runs a command and asserts this status."""


# -- the table ------------------------------------------------------------------------------------


def codes() -> set[int]:
    """Every exit code that ``ci.errors`` defines."""
    found, left = set(), [errors.PipelineError]
    while left:
        kind = left.pop()
        found.add(kind.exit_code)
        left += kind.__subclasses__()
    return found


def test_every_exit_code_has_a_test_that_reaches_it() -> None:
    assert codes() | {0, 2} == set(REACHED)
    assert all(REACHED.values())


def test_every_exit_code_stands_in_the_documentation() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    texts = "\n".join(page.read_text("utf-8") for page in pages)
    (table,) = re.findall(r"^#+ Exit codes\n(.*?)^#", texts + "\n#", re.MULTILINE | re.DOTALL)
    documented = re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    assert sorted(map(int, documented)) == sorted(REACHED)


@pytest.mark.parametrize(
    ("code", "node"), [(code, node) for code, nodes in REACHED.items() for node in nodes]
)
def test_a_test_of_the_table_is_there_and_asserts_its_code(code: int, node: str) -> None:
    path, _, name = node.partition("::")
    file = ROOT / path
    assert file.name.startswith("test_")
    for item in ast.parse(file.read_text("utf-8")).body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            numbers = {each.value for each in ast.walk(item) if isinstance(each, ast.Constant)}
            assert code in numbers, f"{node} asserts another status than {code}"
            return
    raise AssertionError(f"there is no test {node}")


# -- the command line on a machine of its own -----------------------------------------------------

SETTINGS = """
[service]
deployments = ["model-engine"]
health_paths = ["/readyz"]
openapi_path = ""
[image]
context = "source"
[gate]
chart = "chart"
[prove]
tests = "suite"
[targets.prod]
kubeconfig = "{kubeconfig}"
context = "prod"
image_repository = "{repository}"
chart = "chart"
pull_on_nodes = false
try_surge = false
require = ["release.*", "pods.*", "logs.*", "backup.*", "rollback.*", "image.*", "!image.pullable"]
[targets.prod.probing]
per_second = 0
"""


@dataclass
class Box:
    """A checkout, a home, a target and everything that a command meets."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    machine: Machine
    live: Live
    registry: FakeRegistry
    context: Context
    refusing: bool = False
    """Whether the registry wants a login that nobody has."""

    @property
    def config(self) -> Path:
        return self.context.root / "pipeline.toml"

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The registry: it has the emulator, and what a test puts into it."""
        if self.refusing:
            return httpx.Response(401, headers={"www-authenticate": 'Basic realm="r"'})
        if not request.url.path.startswith("/v2/model-engine/"):
            return httpx.Response(200, headers={"docker-content-digest": f"sha256:{'e' * 64}"})
        return self.registry(request)

    def __call__(self, *words: str, tools: bool = True) -> tuple[int, str]:
        """The status of a command, and its last line but one. ``tools``: they are handed over, as
        by the process that obtained them; else the command obtains them itself."""
        for name in (HANDOVER, "DAGGER_SESSION_PORT"):
            self.monkeypatch.delenv(name, raising=False)
        if tools:
            self.hand_over()
        status = app.main([*words, "--config", str(self.config)])
        printed = self.capsys.readouterr()
        assert "Traceback" not in printed.err
        if status in (0, 2):
            return status, printed.out
        error, remedy = printed.err.strip().splitlines()[-2:]
        assert error.startswith("error: "), printed.err
        assert remedy.startswith("remedy: "), printed.err
        return status, error

    def hand_over(self) -> None:
        """The next command is given its tools, and builds under ``dagger run``."""
        context = self.context
        handed = Handover(context.run_dir, context.tools, time.time(), (), Process.this())
        self.monkeypatch.setenv(HANDOVER, str(handed.save()))
        self.monkeypatch.setenv("DAGGER_SESSION_PORT", "1")

    def built(self) -> Image:
        """The image of the source as it is: it is in the registry, and recorded."""
        digest = Digest(self.registry.image("queue-timeout-1"))
        image = Image(REPOSITORY, "queue-timeout-1", digest)
        self.context.home.put_image(
            build.source_hash(self.context),
            {"repository": image.repository, "tag": image.tag, "digest": image.digest},
        )
        self.live.digests[image.tag] = image.digest
        return image

    def proven(self) -> str:
        """An image with signed evidence, by digest."""
        image = self.built()
        passed = proof(image.digest)
        handoffs.attested(self.context, replace(passed, image=image, api=""))
        return image.by_digest

    def has(self, *programs: str) -> None:
        """Programs on PATH; nothing else is."""
        folder = self.context.root.parent / "bin"
        folder.mkdir()
        for name in programs:
            (folder / name).touch(0o755)
        self.monkeypatch.setenv("PATH", str(folder))

    def disk(self, gib: int) -> None:
        """So much of it is free."""
        seen = SimpleNamespace(f_bavail=gib * 2**18, f_frsize=4096)
        self.monkeypatch.setattr(os, "statvfs", lambda _: seen)


@pytest.fixture
def box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Box]:
    machine, live, registry = take_over(monkeypatch), Live(), FakeRegistry()
    context = described_machine(tmp_path)
    (tmp_path / "kubeconfig").write_text("contexts: [{name: prod}]")
    (context.root / "source").mkdir()
    (context.root / "source" / "Dockerfile").touch()
    monkeypatch.setattr(app, "ROOT", context.root)
    monkeypatch.setenv("PIPELINE_HOME", str(context.home.folder))
    for name in ("DOCKER_HOST", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    here = Box(monkeypatch, capsys, machine, live, registry, context)
    with serving_here(live, machine, monkeypatch, lambda request: here.answer(request)) as port:
        settings = SETTINGS.format(kubeconfig=tmp_path / "kubeconfig", repository=REPOSITORY)
        here.config.write_text(settings)
        tools = {name: Path("/bin") / name for name in ("docker", "kind", "helm", "kubectl")}
        local = Registry(REPOSITORY.partition("/")[0], f"http://127.0.0.1:{port}")
        here.context = replace(
            context,
            settings=load(here.config),
            tools=replace(context.tools, registry=local, **tools),  # type: ignore[arg-type]
        )
        yield here


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleeping takes no time, and the clock is as late as if it had; Ctrl-C still ends a sleep."""
    slept = [0.0]
    monotonic = SystemClock.monotonic

    def in_no_time(sleep: Callable[[Any, float], None]) -> Callable[[Any, float], None]:
        def replaced(self: Any, seconds: float) -> None:
            sleep(self, 0)
            slept[0] += seconds

        return replaced

    monkeypatch.setattr(SystemClock, "sleep", in_no_time(SystemClock.sleep))
    monkeypatch.setattr(Cancellable, "sleep", in_no_time(Cancellable.sleep))
    monkeypatch.setattr(SystemClock, "monotonic", lambda self: monotonic(self) + slept[0])


def with_programs(box: Box, more: Callable[[list[str]], Output | None]) -> None:
    """What ``more`` does not answer is answered as before."""
    before = box.machine.answer
    box.machine.answer = lambda words: more(words) or before(words)


# -- 0 to 7 ---------------------------------------------------------------------------------------


def test_what_is_well_is_done(box: Box) -> None:
    assert box("verify", "--target", "prod")[0] == 0


def test_what_nobody_foresaw_is_a_defect(box: Box) -> None:
    box.live.broken = lambda method, path: Answer(200, "[]") if path.endswith("/pods") else None
    status, error = box("status", "--target", "prod")
    assert (status, "a defect of the pipeline" in error) == (1, True)


def pinned(words: list[str]) -> Output | None:
    """Programs that say that they are of the pinned versions."""
    versions = pins.load().versions
    if words[0] in ("kind", "helm", "dagger"):
        return said(f"v{versions[words[0]]}\n")
    return said(f"v{versions['kubernetes']}\n") if words[0] == "kubectl" else None


def docker(box: Box) -> Callable[[list[str]], Output | None]:
    """A daemon that has every image and no container."""

    def answer(words: list[str]) -> Output | None:
        match words[:3]:
            case ["docker", "container", "inspect"]:
                return failed("no such container")
            case ["docker", "port", _]:
                return said(f"127.0.0.1:{box.live.port}")
        return None

    return answer


def test_a_tool_that_cannot_be_had(box: Box) -> None:
    box.has("docker")
    box.disk(gib=100)
    with_programs(box, docker(box))
    status, error = box("build", "--toolchain", "source", tools=False)
    assert (status, "Go is not installed" in error) == (4, True)


def test_a_daemon_that_does_not_answer(box: Box) -> None:
    box.has("docker", "kind", "helm", "kubectl", "dagger")
    box.disk(gib=100)
    box.monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with_programs(box, pinned)
    with_programs(box, lambda words: failed("no daemon") if words[0] == "docker" else None)
    status, error = box("build", tools=False)
    assert (status, "DOCKER_HOST=tcp://127.0.0.1:1" in error) == (5, True)


def test_a_disk_without_room_for_the_tools(box: Box) -> None:
    box.disk(gib=3)
    status, error = box("build", tools=False)
    assert (status, "3.0 GiB free" in error) == (6, True)
    assert box.machine.started == []


def test_a_gate_that_another_run_uses(box: Box) -> None:
    with Home(box.context.home.folder).lock("gate", "the gate cluster"):
        status, error = box("prove")
    assert (status, f"process {os.getpid()}" in error) == (7, True)


# -- 10 to 15: the gate ---------------------------------------------------------------------------


def test_a_source_without_a_dockerfile(box: Box) -> None:
    (box.context.root / "source" / "Dockerfile").unlink()
    status, error = box("build")
    assert (status, "does not exist" in error) == (10, True)


def test_a_registry_that_refuses(box: Box) -> None:
    box.refusing = True
    status, error = box("promote", "--target", "prod", "--image", f"{REPOSITORY}@sha256:{'0' * 64}")
    assert (status, "HTTP 401" in error) == (11, True)


def test_a_cluster_of_somebody_else_in_the_way(box: Box) -> None:
    box.built()
    with_programs(box, lambda words: said("gate\n") if words[:2] == ["kind", "get"] else None)
    status, error = box("prove")
    assert (status, "the pipeline did not create" in error) == (12, True)


def test_a_chart_that_does_not_render(box: Box) -> None:
    why = failed("Error: template: chart/templates/x.yaml:3: nil pointer")
    with_programs(box, lambda words: why if words[:2] == ["helm", "template"] else None)
    status, error = box("prove")
    assert (status, "x.yaml:3" in error) == (13, True)


def gate(box: Box, *, cases: str = "") -> None:
    """kind makes a cluster; pytest leaves a report with ``cases``."""
    box.built()

    def answer(words: list[str]) -> Output | None:
        if words[:2] == ["kind", "create"]:
            Path(words[words.index("--kubeconfig") + 1]).write_text("clusters: []")
        if "pytest" in words:
            report = next(word for word in words if word.startswith("--junitxml="))
            text = f"<testsuites>{cases}</testsuites>"
            Path(report.partition("=")[2]).write_text(text)
            return Output(1, "", "")
        return None

    with_programs(box, answer)
    box.live.objects["serviceaccounts"] = [{"metadata": {"name": "default", "uid": "1"}}]


def test_a_release_that_does_not_come_up_on_the_gate(box: Box, hurry: None) -> None:
    gate(box)
    box.live.deployment["status"]["availableReplicas"] = 0
    waiting = {"reason": "ImagePullBackOff", "message": "not found"}
    box.live.pod["status"]["conditions"][0]["status"] = "False"
    box.live.pod["status"]["containerStatuses"][0]["state"] = {"waiting": waiting}
    status, error = box("prove")
    assert (status, "ImagePullBackOff" in error) == (14, True)
    assert box.machine.words("kind", "delete"), "the gate is removed"


def test_stand_ins_for_a_cluster_of_somebody_else(box: Box) -> None:
    """A guard: every command that brings stand-ins makes its own cluster for them. So that one
    comes to it, it is given somebody else's."""
    theirs = Cluster("prod", box.context.root.parent / "kubeconfig", "prod", disposable=True)

    def wrong(context: Context, _: Options) -> Result:
        deploy.prepare_standins(context, theirs)
        return Result()

    box.monkeypatch.setattr(commands, "prove_only", wrong)
    status, error = box("prove")
    assert (status, "the pipeline did not create it" in error) == (15, True)
    assert box.live.asked == []


# -- 20 to 22: proof and evidence -----------------------------------------------------------------


def dns(method: str, path: str) -> Answer | None:
    """The cluster's own DNS: one pod that answers."""
    pod = {"metadata": {"name": "coredns"}, "status": {"podIP": "10.244.0.2"}}
    if path.endswith("/namespaces/kube-system/pods"):
        return Answer(200, json.dumps({"kind": "PodList", "items": [pod]}))
    return Answer(200, "OK") if "/kube-system/pods/coredns:" in path else None


def test_a_case_that_fails(box: Box) -> None:
    failure = '<failure message="lock lost">x</failure>'
    gate(box, cases=f'<testcase name="t" time="1">{failure}</testcase>')
    box.live.broken = dns
    status, error = box("prove")
    assert (status, "lock lost" in error) == (20, True)


def test_an_image_without_evidence(box: Box) -> None:
    image = box.built()
    status, error = box("promote", "--target", "prod", "--image", image.by_digest)
    assert (status, "no evidence is attached" in error) == (21, True)
    assert box.live.asked == [], "the target was not even looked at"


def test_a_live_release_that_does_not_come_up_on_the_gate(box: Box, hurry: None) -> None:
    gate(box)
    image = box.proven()
    waiting = {"name": "x", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    pods = [{"metadata": {"name": "p"}, "spec": {}, "status": {"containerStatuses": [waiting]}}]
    said_of = Answer(200, json.dumps({"kind": "PodList", "items": pods}))
    box.live.broken = lambda method, path: (
        said_of if path.endswith("/namespaces/rehearsal-prod/pods") else None
    )
    status, error = box("rehearse", "--target", "prod", "--image", image)
    assert (status, "CrashLoopBackOff" in error) == (22, True), error


# -- 30 to 34: the target -------------------------------------------------------------------------


def test_a_target_that_is_not_there(box: Box) -> None:
    box.live.history.clear()
    status, error = box("verify", "--target", "prod")
    assert (status, "has no release" in error) == (30, True)


def promoted(box: Box) -> tuple[int, str]:
    return box("promote", "--target", "prod", "--image", box.proven())


def upgrades(box: Box) -> list[list[str]]:
    """Upgrades that were begun, and rollbacks."""
    begun = [each.words for each in box.machine.started if "--wait" in each.words]
    return [words[7:9] for words in begun if words[0] == "helm"]


def test_a_proven_image_is_promoted(box: Box, hurry: None) -> None:
    """The others of this section are worth something only if this one passes."""
    status, _ = promoted(box)
    assert status == 0
    assert box.live.tag == "queue-timeout-1"


def test_a_release_that_is_not_fit_to_be_changed(box: Box) -> None:
    box.live.history[-1]["status"] = "pending-upgrade"
    status, error = promoted(box)
    assert (status, "pending-upgrade" in error) == (31, True)
    assert upgrades(box) == []


def test_a_required_check_that_is_turned_off(box: Box) -> None:
    text = box.config.read_text().replace('"!image.pullable"', '"queue.*"')
    box.config.write_text(text)
    status, error = promoted(box)
    assert (status, "pull_on_nodes" in error) == (31, True)
    assert "servicebus_connection_string_env" in error
    assert upgrades(box) == []
    image = box.proven()
    assert box("plan", "--target", "prod", "--image", image) == (31, f"{PREVIEW}{error[7:]}")


PREVIEW = "error: the promotion would be refused: "


def test_an_upgrade_that_fails_is_rolled_back(box: Box, hurry: None) -> None:
    box.live.upgrade_error = "Error: timed out waiting for the condition"
    status, error = promoted(box)
    assert (status, "timed out waiting" in error) == (32, True)
    assert [verb for verb, _ in upgrades(box)] == ["upgrade", "rollback"]
    assert box.live.tag == "old"


def test_a_rollback_that_fails(box: Box, hurry: None) -> None:
    box.live.upgrade_error = "Error: timed out waiting for the condition"
    box.live.rollback_error = "Error: release has no 1 version"
    status, error = promoted(box)
    assert (status, "has no 1 version" in error) == (33, True)
    assert "timed out waiting" in error


def test_a_release_that_does_not_meet_the_criteria(box: Box) -> None:
    box.live.log = "2026-11-23T10:00:00Z ERROR the lock was lost\n"
    status, error = box("verify", "--target", "prod")
    assert (status, "the lock was lost" in error) == (34, True)


# -- 40, 41, 130 ----------------------------------------------------------------------------------


def test_a_cluster_that_never_takes_pods(box: Box, hurry: None) -> None:
    gate(box)
    box.live.objects["serviceaccounts"].clear()
    status, error = box("prove")
    assert (status, "the default ServiceAccount of cluster gate" in error) == (40, True)


def test_a_program_that_fails(box: Box) -> None:
    box.built()
    with_programs(box, lambda words: failed("panic") if words[:2] == ["kind", "get"] else None)
    status, error = box("prove")
    assert (status, "kind get clusters --quiet ended with 1: panic" in error) == (41, True)


def test_ctrl_c(box: Box) -> None:
    gate(box)

    def interrupted(method: str, path: str) -> Answer | None:
        if path.endswith("/serviceaccounts/default"):
            signal.raise_signal(signal.SIGINT)
            return Answer(404, "")
        return None

    box.live.broken = interrupted
    status, error = box("prove")
    assert (status, error) == (130, "error: interrupted while waiting")
    assert box.machine.words("kind", "delete"), "what was begun is cleaned up"
