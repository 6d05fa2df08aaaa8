"""One cluster for all cases, made and removed by the process that the user started; with xdist,
each worker gets it described. A fresh namespace for every case."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from ci.cli.selftest import FAILURE_INJECTION
from ci.cli.session import Origin
from ci.run import state as homes
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import Settings
from ci.stages import cluster as clusters
from ci.toolchain import obtain, services
from ci.tools.command import Programs
from ci.tools.kube import Kube
from ci.tools.wait import Cancellable, SystemClock
from tests.failure_injection import images
from tests.failure_injection.rig import (
    CERTS,
    ROOT,
    Place,
    Rig,
    Row,
    Standing,
    kill,
    monotonic,
    processes,
    table,
    write,
)

RIG = pytest.StashKey[Rig]()
CONTEXT = pytest.StashKey[Context]()
WEIGHTS = (
    (Path("/sys/fs/cgroup/cpu/docker/cpu.shares"), 1024),
    (Path("/sys/fs/cgroup/docker/cpu.weight"), 100),
)
"""Where Docker's containers have their weight together (cgroup v1, v2), and what it is by default:
as much as one session of processes has. Niceness does not count across sessions (sched(7), "The
autogroup feature")."""
HEAVIER = 10
"""The cases stand for another machine, and a service that gets nothing of this one loses requests
to that: of two busy cores with six busy sessions beside it, the node got a quarter, and with this
nearly all."""
PASSED = pytest.StashKey[bool]()
STANDING = pytest.StashKey[Standing]()


def folder() -> Path:
    """Where the table goes: the reports of the run that these tests are part of. What the cases
    leave is below it, in a folder with the name of the check."""
    if given := os.environ.get("FAILURE_INJECTION_REPORTS"):
        return Path(given).absolute()
    return ROOT / "runs" / FAILURE_INJECTION


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
    out = folder() / FAILURE_INJECTION
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    cancel = threading.Event()
    clock = Cancellable(SystemClock(), cancel)
    programs = Programs(env=os.environ, logs=out / "logs", cancel=cancel)
    events = Events(clock, path=out / "events.jsonl")
    home = homes.Home(homes.path(os.environ))
    origin = cast(Origin, os.environ.get("SELFTEST_TOOLCHAIN", "auto"))
    tools = obtain(home.folder, programs, clock, events, os.environ, origin)
    # Its own, so that cases can name a registry of theirs to the node.
    tools = replace(tools, node_certs_dir=services.node_certs(out / CERTS))
    context = Context(ROOT, Settings(), tools, programs, clock, events, out, home)
    config.stash[CONTEXT] = context
    made = images.publish(tools.registry, programs)
    try:
        here = clusters.create(context, FAILURE_INJECTION)
        _ready(context.kube(here))
        weigh(HEAVIER)
    except BaseException:
        clusters.delete(context, FAILURE_INJECTION)
        raise
    config.stash[RIG] = Rig(tools, here, made, out)


def weigh(times: int) -> None:
    """Docker's containers, so many times as heavy as by default; without root's rights, or where
    a system's manager keeps them elsewhere, they stay as they are."""
    for file, usual in WEIGHTS:
        if file.exists() and os.access(file, os.W_OK):
            file.write_text(str(usual * times), encoding="ascii")


def _ready(kube: Kube) -> None:
    """Probers ask for the Service by its name, and pods that end are to be left out at once: of a
    node as busy as this one, what asks for no CPU at all gets next to none. One resolver leaves
    more to the cases' own pods than two."""
    scope = ("--namespace", "kube-system")
    proxy = {"name": "kube-proxy", "resources": {"requests": {"cpu": "100m"}}}
    patch = {"spec": {"template": {"spec": {"containers": [proxy]}}}}
    kube.run("patch", "daemonset", "kube-proxy", *scope, "--patch", json.dumps(patch))
    kube.run("scale", "deployment", "coredns", *scope, "--replicas=1")
    for name in ("daemonset/kube-proxy", "deployment/coredns"):
        kube.run("rollout", "status", name, *scope, "--timeout=120s", timeout=130)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Asked by xdist, for each worker."""
    node.workerinput["rig"] = pickle.dumps(node.config.stash[RIG])


def pytest_configure(config: pytest.Config) -> None:
    if _worker(config) is None:
        # Ctrl-C in `pipeline.py test` comes as this: the cluster goes then, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "alone: runs while no other case does")
    config.addinivalue_line("markers", "shares(what): runs while no other case with this does")
    config.addinivalue_line(
        "markers",
        "end(*verdicts, either=False, note=''): how each promotion, rollback and rehearsal of the"
        " case has to end, in order, or its only one in either of several ways",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``FAILURE_INJECTION_KILLS=5``: every kill that often, see ``kills.py``."""
    times = int(os.environ.get("FAILURE_INJECTION_KILLS", "1"))
    if times > 1 and metafunc.function.__name__.startswith("test_killed"):
        metafunc.fixturenames.append("again")
        metafunc.parametrize("again", range(times))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left with one at the end; but those that want the
    machine for themselves last, when no other waits for them."""

    def place_in_line(item: pytest.Item) -> int:
        if item.get_closest_marker("alone") is not None:
            return 3
        long = ("test_canary.py", "test_rehearsal.py", "test_network.py")
        return long.index(item.path.name) - 3 if item.path.name in long else 0

    items.sort(key=place_in_line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    context = session.config.stash.get(CONTEXT, None)
    if context is None:
        return
    table(context.run_dir, folder())
    weigh(1)
    # Helpers of promotions that a case killed: this kubeconfig is of this cluster only.
    kill(processes(str(context.home.kubeconfig(FAILURE_INJECTION))))
    clusters.delete(context, FAILURE_INJECTION)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    context = config.stash.get(CONTEXT, None)
    if context is not None:
        terminalreporter.write_line(
            (folder() / f"{FAILURE_INJECTION}.md").read_text(encoding="utf-8")
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Rig:
    return request.config.stash[RIG]


@contextmanager
def turn(rig: Rig, of: str, *, shared: bool = False) -> Iterator[None]:
    """Wait for it among the workers."""
    path = rig.folder / "locks"
    path.mkdir(exist_ok=True)
    with open(path / of, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@pytest.fixture
def alone(request: pytest.FixtureRequest, rig: Rig) -> Iterator[None]:
    """Cases run beside each other, but for those that disturb or measure the whole machine, and
    those that share what the cluster has only once."""
    mine = request.node.get_closest_marker("alone") is not None
    with ExitStack() as held:
        if shares := request.node.get_closest_marker("shares"):
            held.enter_context(turn(rig, shares.args[0]))
        held.enter_context(turn(rig, "machine", shared=not mine))
        yield


@pytest.fixture
def place(request: pytest.FixtureRequest, rig: Rig, alone: None) -> Iterator[Place]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    promised = request.node.get_closest_marker("end")
    row = Row(name, promised.args, **promised.kwargs) if promised else Row(name)
    standing = request.config.stash.setdefault(STANDING, Standing())
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    namespace = f"{name[:36].strip('-')}-{worker}-{datetime.now(UTC):%H%M%S}"
    here = Place(rig, namespace, row, standing)
    begun = monotonic()
    try:
        yield here
    finally:
        row.seconds = monotonic() - begun
        ran = request.node.stash.get(PASSED, False)
        row.passed = ran and row.kept
        write(rig.folder, row)
        here.leave()
    assert row.kept or not ran, f"it ended {row.ended}, and not {row.promised}"
