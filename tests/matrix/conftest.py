"""One cluster for all cases, made and removed by the process that the user started; with xdist,
each worker gets it described. A fresh namespace for every case."""

from __future__ import annotations

import fcntl
import os
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from ci import home as homes
from ci.context import Context
from ci.events import Events
from ci.session import Origin
from ci.settings import Settings
from ci.stages import cluster as clusters
from ci.toolchain import obtain
from ci.tools.command import Programs
from ci.tools.wait import SystemClock
from tests.matrix import images
from tests.matrix.rig import ROOT, Place, Rig, Row, kill, monotonic, processes, table, write

NAME = "matrix"
RIG = pytest.StashKey[Rig]()
CONTEXT = pytest.StashKey[Context]()
PASSED = pytest.StashKey[bool]()


def folder() -> Path:
    """Where the table goes: the reports of the run that these tests are part of. What the cases
    leave is in its folder ``matrix``."""
    if given := os.environ.get("MATRIX_REPORTS"):
        return Path(given).absolute()
    return ROOT / "runs" / NAME


def _worker(config: pytest.Config) -> dict[str, Any] | None:
    found: dict[str, Any] | None = getattr(config, "workerinput", None)
    return found


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    worker = _worker(config)
    if worker is not None:
        config.stash[RIG] = pickle.loads(worker["rig"])
        return
    if config.option.collectonly:
        return
    out = folder() / NAME
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cancel = threading.Event()
    clock = SystemClock(cancel)
    programs = Programs(env=os.environ, logs=out / "logs", cancel=cancel)
    events = Events(clock, path=out / "events.jsonl")
    home = homes.Home(homes.path(os.environ))
    origin = cast(Origin, os.environ.get("FLOW_TOOLCHAIN", "auto"))
    tools = obtain(home.folder, programs, clock, events, os.environ, origin)
    context = Context(ROOT, Settings(), tools, programs, clock, events, out, home)
    config.stash[CONTEXT] = context
    made = images.publish(tools.registry, programs)
    try:
        here = clusters.create(context, NAME)
        # Probers ask for the Service by its name.
        context.kube(here).run(
            "rollout", "status", "deployment/coredns", "--namespace", "kube-system",
            "--timeout=120s", timeout=130,
        )  # fmt: skip
    except BaseException:
        clusters.delete(context, NAME)
        raise
    config.stash[RIG] = Rig(tools, here, made, out)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Asked by xdist, for each worker."""
    node.workerinput["rig"] = pickle.dumps(node.config.stash[RIG])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: runs while no other case does")
    config.addinivalue_line("markers", "end(text): how the case has to end, for the table")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``MATRIX_KILLS=20``: every kill that often, for a night's run."""
    times = int(os.environ.get("MATRIX_KILLS", "1"))
    if times > 1 and metafunc.function.__name__.startswith("test_killed"):
        metafunc.fixturenames.append("again")
        metafunc.parametrize("again", range(times))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that want the machine for themselves come last, when no other waits for them."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    context = session.config.stash.get(CONTEXT, None)
    if context is None:
        return
    table(context.run_dir, folder())
    # Helpers of promotions that a case killed: this kubeconfig is of this cluster only.
    kill(processes(str(context.home.kubeconfig(NAME))))
    clusters.delete(context, NAME)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    context = config.stash.get(CONTEXT, None)
    if context is not None:
        terminalreporter.write_line((folder() / "matrix.md").read_text(encoding="utf-8"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Rig:
    return request.config.stash[RIG]


@pytest.fixture
def alone(request: pytest.FixtureRequest, rig: Rig) -> Iterator[None]:
    """Cases run beside each other, but for those that disturb or measure the whole machine."""
    mine = request.node.get_closest_marker("alone") is not None
    path = rig.folder / "locks"
    path.mkdir(exist_ok=True)
    with open(path / "machine", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if mine else fcntl.LOCK_SH)
        yield


@pytest.fixture
def place(request: pytest.FixtureRequest, rig: Rig, alone: None) -> Iterator[Place]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    promised = request.node.get_closest_marker("end")
    row = Row(name, promised.args[0] if promised else "see the case")
    here = Place(rig, f"{name[:40].strip('-')}-{datetime.now(UTC):%H%M%S}", row)
    begun = monotonic()
    try:
        yield here
    finally:
        row.seconds = monotonic() - begun
        row.passed = request.node.stash.get(PASSED, False)
        write(rig.folder, row)
        here.remove()
