"""Every command as a person sees it: on terminals of several widths, and in a pipe.

Behind each stands a fake that returns what the real flow returns, and takes steps meanwhile, so
that the live view is open, is redrawn, and closes before the answer is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.file_proxy import FileProxy

from ci import toolchain
from ci.cli import app, clean, selftest
from ci.cli.session import Session
from ci.digest import Digest
from ci.errors import PromotionFailed, VerifyFailed
from ci.model import (
    Case,
    DeploymentRow,
    Difference,
    Image,
    PlanRecord,
    PodRow,
    Preview,
    Promotion,
    Proof,
    Registry,
    Result,
    SelfTest,
    Status,
    Tools,
)
from ci.report import html, signs
from ci.report.signs import GLYPHS, Sign
from ci.results import (
    Because,
    CheckGroup,
    CheckId,
    DifferenceReason,
    ImageRef,
    Names,
    Outcome,
    Phase,
    StepId,
    Unit,
    passed,
    skipped,
    unknown,
)
from ci.run.context import Context
from ci.run.events import Events
from ci.toolchain import ToolState
from ci.tools.helm import Revision
from ci.workflow import commands as commands_
from tests.unit.report.screens import Terminal, terminal

WIDTHS = (60, 80, 200)
DIGEST = Digest.from_hex("ab" * 32)
OLD = Image("gate-registry:5000/model-engine", "queue-timeout-20261123-100000", DIGEST)
NEW = Image("gate-registry:5000/model-engine", "queue-timeout-20261130-100000", DIGEST)
PODS = tuple(f"launch-inference-model-engine-worker-6d9f7c5b8{n}-x2x4{n}" for n in range(3))
EVIDENCE = "24 of 24 paths and 31 of 31 schemas are as before, in every version of the API"
MEASURED = Names(Unit.REASONS, (EVIDENCE,), 1)
BEFORE = (
    passed(CheckId.BACKUP_CREATED, MEASURED),
    skipped(CheckId.API_COMPATIBLE, "service.openapi_path"),
    unknown(CheckId.CAPACITY_SURGE, Because.NOT_ADMITTED),
)
AFTER = (passed(CheckId.PODS_RUN_DIGEST, MEASURED),)

PROOF = Proof(NEW, (Case("test_a", Outcome.PASSED, 1.0),), Path("junit.xml"), datetime.now(UTC))
MOVED = Promotion("launch", OLD, NEW, 7, 8, Path("backups"), (CheckGroup(Phase.BEFORE, BEFORE),))
RESULT = Result(NEW, PROOF, MOVED, (CheckGroup(Phase.AFTER, AFTER),))
OLD_REF, NEW_REF = ImageRef(OLD.repository, OLD.tag), ImageRef(NEW.repository, NEW.tag)
IMAGE = Difference(
    "Deployment/launch-inference-model-engine-worker",
    "spec.template.spec.containers[model-engine].image",
    OLD.by_tag,
    NEW.by_tag,
    True,
    DifferenceReason.IMAGE,
)
ADDED = Difference(
    "ConfigMap/more", "", "absent", "present", False, DifferenceReason.NOT_FROM_IMAGE
)
STATUS = Status(
    "launch",
    "launch-inference",
    "launch",
    (
        Revision(7, "superseded", "model-engine-0.1.13", "Upgrade complete"),
        Revision(8, "deployed", "model-engine-0.1.13", "Rollback to 6: [bold]of an image[/]"),
    ),
    (DeploymentRow("model-engine", NEW.by_tag, 3, 3, 3),),
    tuple(PodRow(pod, "Running", True, 0, NEW.by_tag, DIGEST, None) for pod in PODS),
)
REMEDY = "run `python3 pipeline.py prove` with --toolchain"
TOOLS = (
    ToolState("docker", "20.10+", "24.0.5", "present", "ready", "", by_apt=True),
    ToolState("node image", "v1.36.4", "", "", "missing", REMEDY, DIGEST),
)
SELF_TEST = SelfTest(
    (Case("a", Outcome.PASSED, 1), Case("b", Outcome.FAILED, 1)), (("unit", "E   assert 1 == 2"),)
)


def busy(events: Events, seen: Terminal) -> None:
    """What a flow does to the live view: steps, parts of steps, notes, what is watched."""
    with events.step(StepId.VERIFY_EVIDENCE, "only what was proven may pass"):
        events.note("reading: " + "a long note that no terminal has room for, " * 8)
        seen.wait_for("verify the signed")
    with events.step(StepId.PROMOTE, "helm upgrade, only the image"):
        with events.step(
            StepId.TOOL, "why", subject="with a name that is rather long for a terminal"
        ):
            events.note("\x1b[2J\x1b[H\x07 this comes from a pod's log: 世界 " * 4)
            for number in range(30):
                events.emit("watch", f"{PODS[0]}: line {number} " + "x" * 200, step="logs")
            seen.wait_for("logs")
        seen.wait_for("promote")


@dataclass(frozen=True)
class Scene:
    """A command, what is behind it, and what a person must be able to read at its end."""

    words: tuple[str, ...]
    status: int
    shown: tuple[str, ...]
    """Whole lines, or the beginnings of some: each on a line of its own."""
    result: Any = RESULT
    problem: Exception | None = None
    err: tuple[str, ...] = ()
    """The same of the standard error, where it is not the same terminal."""

    @property
    def name(self) -> str:
        return " ".join(self.words[:1]) + (f" ({self.status})" if self.status else "")


def summary(command: str) -> tuple[str, ...]:
    return (
        "proof      1 passed",
        f"image      {NEW.by_tag}",
        f"digest     {DIGEST}",
        "promoted   launch: revision 7 -> 8",
        f"  to       {NEW.tag}  {DIGEST}",
        "checks     2 passed, 1 skipped, 1 unknown",
        f"  ✓ All backups created: {EVIDENCE}",
        "  \N{EN DASH} skipped: Code changes are backward compatible: not enabled (setting ",
        "  ? unknown: the cluster has room for the rollout's surge pods: the cluster does ",
        f"  ✓ every pod runs the digest: {EVIDENCE}",
        f"{command} succeeded after ",
    )


REFUSED = (
    "error: the upgrade would change more than the image: 1 of 2 differences do not derive from"
    " its tag"
)
SCENES = (
    Scene(("run",), 0, summary("run")),
    Scene(("build",), 0, summary("build")),
    Scene(("prove",), 0, summary("prove")),
    Scene(("promote", "--image", "last"), 0, summary("promote")),
    Scene(
        ("promote", "--image", "last"),
        32,
        ("  ✗ verify the live release  ", "promote failed (32) after "),
        problem=PromotionFailed("rolled back to revision 7: 3 of 3 pods crash: " + EVIDENCE),
        err=(
            f"error: rolled back to revision 7: 3 of 3 pods crash: {EVIDENCE}",
            f"remedy: {PromotionFailed.default_remedy}",
        ),
    ),
    Scene(("rehearse",), 0, summary("rehearse")),
    Scene(
        ("plan", "--image", "last"),
        0,
        (
            "revision 7 -> 8",
            f"- {OLD.by_tag}",
            f"+ {NEW.by_tag}",
            f"  {IMAGE.object}",
            f"    {IMAGE.path}  (the image)",
            f"    - {OLD.by_tag}",
            f"    + {NEW.by_tag}",
            "checks: 1 passed, 1 skipped, 1 unknown",
            f"✓ backups are written: {EVIDENCE}",
            "? unknown: the cluster has room for the rollout's surge pods: the cluster does ",
            "1 change in 1 object: all from the image's tag",
        ),
        result=Preview(PlanRecord(OLD_REF, NEW_REF, 7, 8, (IMAGE,)), BEFORE),
    ),
    Scene(
        ("plan", "--image", "last"),
        31,
        ("revision 7 -> 8", "! ConfigMap/more", "2 changes in 2 objects: 1 refused (!)"),
        result=Preview(PlanRecord(OLD_REF, NEW_REF, 7, 8, (IMAGE, ADDED))),
        err=(REFUSED, "remedy: deploy the other changes in a release of their own, then promote "),
    ),
    Scene(("approve", "--image", "last", "--by", "alex"), 0, summary("approve")),
    Scene(("verify",), 0, summary("verify")),
    Scene(
        ("verify",),
        34,
        ("verify failed (34) after ",),
        problem=VerifyFailed("every pod is ready: 2 of 3"),
        err=("error: every pod is ready: 2 of 3", f"remedy: {VerifyFailed.default_remedy}"),
    ),
    Scene(("rollback",), 0, ("rollback succeeded after ",), result=Result()),
    Scene(
        ("status",),
        0,
        (
            "launch: release launch-inference in namespace launch",
            "8         deployed    model-engine-0.1.13",
            *PODS,
        ),
        result=STATUS,
    ),
    Scene(("status", "--json"), 0, ("{", ' "target": "launch",', "}"), result=STATUS),
    Scene(
        ("doctor",),
        0,
        (
            "tool        pinned   found   origin   state",
            "docker      20.10+   24.0.5  present  ready",
            "node image  v1.36.4                   missing",
        ),
        result=TOOLS,
    ),
    Scene(
        ("test",),
        1,
        ("unit:", "E   assert 1 == 2", "1 passed, 1 failed"),
        result=SELF_TEST,
    ),
    Scene(("test",), 0, ("1 passed",), result=SelfTest(SELF_TEST.cases[:1])),
    Scene(
        ("clean", "--dry-run"),
        0,
        ("would be removed",),
        result=clean.Survey(
            (clean.Item(clean.Kind.CLUSTER, "gate", "the throwaway cluster"),), (), True
        ),
    ),
)
BEHIND = (
    *("run", "build_only", "prove_only", "promote_to", "rehearse_only"),
    *("plan", "approve_only", "verify_only", "roll_back", "status"),
)
"""The functions of :mod:`ci.workflow.commands` that commands call."""
BRIEF = ("plan", "status", "doctor")
"""Whose live view goes when it is closed: all that matters is what they show."""
VIEWLESS = ("clean",)
"""It asks and lists, and has no live view."""


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A guard: whatever writes to the terminal while a live view is open raises."""
    written: list[str] = []

    def refuse(_self: FileProxy, text: str) -> int:
        written.append(text)
        raise AssertionError(f"{text!r} was printed into the live view")

    monkeypatch.setattr(FileProxy, "write", refuse)
    yield written
    assert written == []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Scene, Terminal], int]:
    """Run a scene's command in this process, with its fake behind it."""
    nothing = Path("/nonexistent")
    tools = Tools(
        docker=nothing, dagger=nothing, kind=nothing, helm=nothing, kubectl=nothing,
        node_image="", node_brings_cni=False, runner_host="",
        registry=Registry("gate-registry:5000", "http://127.0.0.1:1"),
        postgres_image="", redis_image="", node_certs_dir=nothing, kubelet_patch="",
    )  # fmt: skip
    monkeypatch.setattr(app, "ROOT", tmp_path)
    for name in ("examples", "tests"):  # what the default settings name has to be there
        (tmp_path / name).symlink_to(app.__file__.rpartition("/ci/")[0] + f"/{name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGGER_SESSION_PORT", "1")  # nothing continues under a `dagger run`
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    monkeypatch.setattr(toolchain, "obtain", lambda *_: tools)
    monkeypatch.setattr(html, "write", lambda *_: None)

    def run(scene: Scene, seen: Terminal) -> int:
        def behind(context: Context | Session, *_: object, **__: object) -> Any:
            busy(context.events, seen)
            if scene.problem is not None:
                with context.events.step(StepId.VERIFY, "the plan's success criteria"):
                    raise scene.problem
            return scene.result

        def inspected(*given: Any) -> Any:
            busy(given[3], seen)
            return scene.result

        with pytest.MonkeyPatch.context() as patch:
            for name in BEHIND:
                patch.setattr(commands_, name, behind)
            patch.setattr(toolchain, "inspect", inspected)
            patch.setattr(selftest, "run", behind)
            patch.setattr(clean, "survey", lambda _: scene.result)
            return app.main(list(scene.words))

    return run


def assert_shown(lines: list[str], wanted: tuple[str, ...]) -> None:
    """Each on a line of its own, in their order, from its beginning, and nothing before it."""
    rest = iter(lines)
    for line in wanted:
        if not any(found.startswith(line) for found in rest):
            raise AssertionError(f"not shown: {line!r}\n" + "\n".join(lines))


def test_every_command_has_a_scene() -> None:
    commands = {c.name or (c.callback and c.callback.__name__) for c in app.app.registered_commands}
    assert {scene.words[0] for scene in SCENES} == commands


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
@pytest.mark.parametrize("columns", WIDTHS)
def test_on_a_terminal_all_of_it_can_be_read(
    columns: int, scene: Scene, run: Callable[[Scene, Terminal], int], printed: list[str]
) -> None:
    with terminal(columns) as seen:
        assert run(scene, seen) == scene.status
    screen = seen.screen
    assert screen is not None
    lines = screen.lines_written
    assert_shown(lines, scene.shown + scene.err)
    text = "\n".join(lines)
    assert screen.redrawn == [], "the terminal had to wrap a line of the live view"
    assert "since the start" not in text, "something of the live view is left"
    assert not set(GLYPHS[Sign.RUNNING].frames) & set(text), "a step seems to run still"
    assert not screen.cursor.hidden
    assert screen.cursor.x == 0, "the shell's prompt would be glued to the last line"
    if scene.words[0] in BRIEF + VIEWLESS:
        assert "verify the signed" not in text
    else:
        once = [line for line in lines if line.startswith("✓ verify the signed")]
        assert len(once) == 1, "a step stands there once, however often it was drawn"


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_in_a_pipe_it_is_lines_and_nothing_else(
    scene: Scene, run: Callable[[Scene, Terminal], int], printed: list[str]
) -> None:
    with terminal(None) as seen:
        assert run(scene, seen) == scene.status
    assert_shown(seen.stdout.splitlines(), scene.shown)
    assert_shown(seen.stderr.splitlines(), scene.err)
    assert "\x1b" not in seen.stdout + seen.stderr
    assert "\r" not in seen.stdout + seen.stderr


@pytest.mark.parametrize("scene", [s for s in SCENES if s.words[0] in BRIEF], ids=lambda s: s.name)
def test_the_answer_alone_goes_into_a_pipe_and_the_terminal_is_left_clean(
    scene: Scene, run: Callable[[Scene, Terminal], int], printed: list[str]
) -> None:
    with terminal(80, out_is_pipe=True) as seen:
        assert run(scene, seen) == scene.status
    assert seen.screen is not None
    assert_shown(seen.stdout.splitlines(), scene.shown)
    assert "\x1b" not in seen.stdout
    assert_shown(seen.screen.lines_written, scene.err)
    assert len([line for line in seen.screen.lines_written if line]) == len(scene.err)
    if "--json" in scene.words:
        assert json.loads(seen.stdout)["target"] == "launch"


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_table_too_wide_for_the_terminal_loses_nothing(
    columns: int, run: Callable[[Scene, Terminal], int]
) -> None:
    (scene,) = (s for s in SCENES if s.words == ("status",))
    with terminal(columns) as seen:
        run(scene, seen)
    assert seen.screen is not None
    text = "\n".join(seen.screen.lines_written)
    for pod in PODS:
        assert pod in text
    assert text.count(NEW.tag) == len(PODS)
    assert text.count(DIGEST[:19]) == len(PODS)
    assert "Rollback to 6: [bold]of an image[/]" in text
    assert len(seen.screen.lines_written) == len(seen.screen.rows), "a row was wrapped"


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_remedy_stands_below_its_tool_where_there_is_no_room_beside_it(
    columns: int, run: Callable[[Scene, Terminal], int]
) -> None:
    (scene,) = (s for s in SCENES if s.words == ("doctor",))
    with terminal(columns) as seen:
        run(scene, seen)
    assert seen.screen is not None
    lines = [line for line in seen.screen.lines_written if line]
    if columns == 200:
        assert lines[-1].endswith(f"missing  {DIGEST.short}  {REMEDY}")
    else:
        assert lines[-1] == f"    remedy: {REMEDY}"


@pytest.mark.parametrize(
    ("encoding", "sign"), [("utf-8", "• "), ("ascii", "* ")], ids=["utf-8", "ascii"]
)
def test_a_signal_is_a_note_and_no_failure(
    encoding: str, sign: str, run: Callable[[Scene, Terminal], int]
) -> None:
    def behind(context: Context, *_: object, **__: object) -> Result:
        context.events.emit("run.cancelled", "SIGINT: stopping, cleaning up … " + "and on " * 20)
        context.events.emit("run.passed", "launch now serves revision 7")
        return Result()

    with terminal(60, encoding=encoding) as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands_, "roll_back", behind)
        assert app.main(["rollback"]) == 0
    assert seen.screen is not None
    text = "\n".join(seen.screen.rows)
    assert f"\n{sign}SIGINT: stopping, cleaning up" in text
    assert " ".join(text.split()).count("and on") == 20, "a message is never cut"
    passed = signs.symbol(Sign.PASSED, ascii_only=encoding == "ascii")
    assert f"\n{passed} launch now serves revision 7" in text
    failed = signs.symbol(Sign.FAILED, ascii_only=encoding == "ascii")
    assert failed not in text


def test_what_a_library_writes_goes_above_the_live_view(
    run: Callable[[Scene, Terminal], int],
) -> None:
    def behind(context: Context, *_: object) -> Status:
        with context.events.step(
            StepId.LOOK_UP_TARGET, "the cluster and its release must exist and be reachable"
        ):
            seen.wait_for("look up the target")
            print("a warning of a library", file=sys.stderr, flush=True)
            print("and a line of another", flush=True)
            seen.wait_for("and a line")
        return STATUS

    with terminal(80) as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands_, "status", behind)
        assert app.main(["status"]) == 0
    assert seen.screen is not None
    assert seen.screen.lines_written[:3] == [
        "a warning of a library",
        "and a line of another",
        "launch: release launch-inference in namespace launch",
    ]


def test_the_guard_of_these_tests_fails_a_command_that_prints(
    run: Callable[[Scene, Terminal], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: FileProxy, text: str) -> int:
        raise AssertionError(text)

    def behind(*_: object) -> Status:
        print("launch: release launch-inference")
        return STATUS

    monkeypatch.setattr(FileProxy, "write", refuse)
    with terminal(80) as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands_, "status", behind)
        assert app.main(["status"]) == 1
    assert seen.screen is not None
    assert any("a defect of the pipeline" in line for line in seen.screen.lines_written)
