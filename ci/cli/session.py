"""A run as a process: its folder, its signals, its tools, and its place under ``dagger run``.

The first process obtains the tools and then supervises ``dagger run pipeline.py …``; what it
found travels on in one file (a :class:`Handover`), so that nothing is looked for twice and both
write into the same run folder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from ci import redaction
from ci.errors import PipelineError, ToolchainError
from ci.model import Registry, StepRecord, Tools
from ci.results import Outcome, StepId
from ci.run import retention
from ci.run import state as homes
from ci.run.context import Context
from ci.run.events import Events, Listener
from ci.run.state import Home
from ci.run_folder import RunFolder
from ci.settings import Settings
from ci.tools.command import Programs
from ci.tools.process_identity import Process
from ci.tools.wait import Cancellable, Clock, SystemClock

Origin = Literal["auto", "download", "source"]

HANDOVER = "_QUEUE_TIMEOUT_GATE_RUN"
"""Environment variable with the path of the handover file."""
EXPORT_SECONDS = 2
CLEANUP_TIMEOUT = "180s"
"""How long ``dagger run`` lets us clean up after Ctrl-C before it kills us."""


def ended(events: Events) -> tuple[StepRecord, ...]:
    """The steps that came to an end, in that order."""
    parents: dict[tuple[str, str], str] = {}
    steps = []
    for event in events.all:
        key = event.step, event.subject
        if event.kind == "step.started":
            parents[key] = str(event.data.get("parent", ""))
        elif event.kind in ("step.finished", "step.failed"):
            parent = parents.get(key, "")
            steps.append(
                StepRecord(
                    StepId(event.step),
                    float(event.data["seconds"]),
                    Outcome.PASSED if event.kind == "step.finished" else Outcome.FAILED,
                    event.subject,
                    StepId(parent) if parent else None,
                )
            )
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Handover:
    """What the process before ``dagger run`` tells the one under it."""

    run_dir: Path
    tools: Tools
    begun: float
    """``time.time()`` when the first process started."""
    steps: tuple[StepRecord, ...]
    """Those that are done."""
    supervisor: Process
    """Who takes the signals for this run; when it is gone, the run ends."""

    def save(self) -> Path:
        content = json.dumps(asdict(self), default=str).encode()
        return RunFolder(self.run_dir).verbatim("handover.json", content)

    @classmethod
    def load(cls, file: Path) -> Handover:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        tools = raw["tools"]
        paths = ("docker", "dagger", "kind", "helm", "kubectl", "node_certs_dir")
        tools |= {name: Path(tools[name]) for name in paths}
        tools["registry"] = Registry(**tools["registry"])
        tools["versions"] = tuple((name, version) for name, version in tools["versions"])
        steps = TypeAdapter(tuple[StepRecord, ...]).validate_python(raw["steps"])
        supervisor = Process(**raw["supervisor"])
        return cls(Path(raw["run_dir"]), Tools(**tools), raw["begun"], steps, supervisor)


@dataclass(slots=True)
class Session:
    """Everything of a run but its tools, which :meth:`context` obtains."""

    root: Path
    env: Mapping[str, str]
    home: Home
    settings: Settings
    programs: Programs
    clock: Clock
    events: Events
    run_dir: Path
    handed: Handover | None
    begun: float
    on_signal: Callable[[int], None] | None = None
    """Takes the first signal instead of :meth:`cancel`."""

    def cancel(self, number: int) -> None:
        """End what runs; every step then comes to its end, and cleans up."""
        self.programs.end_all()
        name = signal.Signals(number).name
        self.events.emit("run.cancelled", f"{name}: stopping, cleaning up")

    def tools(self, origin: Origin) -> Tools:
        """Obtain the tools, or take those that were handed over."""
        if self.handed is not None:
            return self.handed.tools
        from ci.toolchain import obtain

        with self.events.step(StepId.TOOLS, "everything at its pinned version, found or obtained"):
            return obtain(
                self.home.folder, self.programs, self.clock, self.events, self.env, origin
            )

    def context(self, tools: Tools) -> Context:
        return Context(
            root=self.root,
            settings=self.settings,
            tools=tools,
            programs=self.programs,
            clock=self.clock,
            events=self.events,
            run_dir=self.run_dir,
            home=self.home,
        )

    @property
    def folder(self) -> RunFolder:
        """The door into :attr:`run_dir`."""
        return RunFolder(self.run_dir, self.programs.redactor)

    def elapsed(self) -> float:
        """Seconds since the first process of this run started."""
        return time.time() - self.begun

    def under_dagger(self) -> bool:
        return bool(self.env.get("DAGGER_SESSION_PORT"))

    def continue_under_dagger(self, tools: Tools, argv: Sequence[str]) -> int:
        """Do the same command under ``dagger run``, as a child; its exit status.

        We stay to take the signals: dagger ends its session at once on Ctrl-C and may then
        linger, so it must not see one; they go to the run itself, which cleans up and ends, and
        dagger after it. Raises :class:`ToolchainError` when no session came about.
        """
        done = tuple(step for step in ended(self.events) if step.outcome is Outcome.PASSED)
        inner = self.run_dir / "pid"
        inner.unlink(missing_ok=True)
        handover = Handover(self.run_dir, tools, self.begun, done, Process.this()).save()
        # --silent: dagger's own view stays away and the terminal is ours; who wants its trace
        # starts with `dagger run python pipeline.py`.
        command: list[str | Path] = [
            tools.dagger,
            "--silent",
            "run",
            "--cleanup-timeout",
            CLEANUP_TIMEOUT,
        ]
        process = self.programs.foreground(
            [*command, sys.executable, self.root / "pipeline.py", *argv],
            env={**dagger_env(tools), HANDOVER: str(handover)},
        )

        def pass_on(number: int) -> None:
            while process.poll() is None:
                try:
                    os.kill(int(inner.read_text(encoding="utf-8")), number)
                except (OSError, ValueError):
                    time.sleep(0.1)  # not started yet
                else:
                    return

        self.on_signal = pass_on
        status = process.wait()
        if not inner.exists():
            raise ToolchainError("`dagger run` could not open a session with the engine")
        inner.unlink()
        return status


def dagger_env(tools: Tools) -> dict[str, str]:
    return {
        "_EXPERIMENTAL_DAGGER_RUNNER_HOST": tools.runner_host,
        "DAGGER_NO_NAG": "1",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def opened(
    root: Path,
    env: Mapping[str, str],
    settings: Settings,
    *,
    listeners: Sequence[Callable[[Session], Listener]] = (),
    record: bool = True,
    command: str = "",
    targets: Sequence[str] = (),
) -> Iterator[Session]:
    """A session whose signals are caught: Ctrl-C cancels, and everything then cleans up.

    ``record`` false leaves no run folder (``status``, ``doctor``); with it, ``command`` and
    ``targets`` say what the run is, which decides how long its folder is kept.
    """
    handed = None
    if file := env.get(HANDOVER):
        try:
            handed = Handover.load(Path(file))
        except (OSError, ValueError, KeyError, TypeError):
            handed = None  # a file of an earlier run: start anew
        else:
            Path(file).unlink(missing_ok=True)
    home = Home(homes.path(env))
    runs = root / "runs"
    given = env.get(homes.RUN_ID, "")
    if not homes.RUN_NAME.fullmatch(given) or (runs / given).exists():
        given = homes.run_id(datetime.now(UTC))
    run_dir = handed.run_dir if handed else runs / given
    if record:
        RunFolder(run_dir).make()
        retention.begin(run_dir, command, targets)
        retention.prune(runs, without=run_dir.name)
    cancel = threading.Event()
    clock = Cancellable(SystemClock(), cancel)
    clean = {
        name: value
        for name, value in env.items()
        # What programs we start have to say is not part of the trace.
        if name not in (HANDOVER, homes.RUN_ID) and not name.startswith("OTEL_")
    }
    logs = run_dir / "logs" if record else None
    programs = Programs(env=clean, logs=logs, cancel=cancel)
    begun = handed.begun if handed else time.time()
    events = Events(
        clock,
        path=run_dir / "events.jsonl" if record else None,
        redactor=programs.redactor,
        ago=time.time() - begun,
    )
    session = Session(root, clean, home, settings, programs, clock, events, run_dir, handed, begun)
    for listener in listeners:
        events.listen(listener(session))

    with _signals(session), _telemetry(env):
        yield session


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP cancels the run; every further one only would disturb
    the cleanup, and is ignored.

    The interpreter's C handler writes the signal's number into a socket and a thread acts on
    it: nothing runs inside a handler, so none can meet a lock that it interrupted. ``dagger run``
    that dies without a word to us (SIGTERM, SIGKILL) takes the session with it; then this run
    ends, too.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.settimeout(0.5)
    ended = threading.Event()
    parent = os.getppid() if session.under_dagger() else 0
    supervisor = session.handed.supervisor if session.handed else None

    def watch() -> None:
        while not ended.is_set():
            try:
                number = ours.recv(1)[0]
            except TimeoutError:
                gone = parent and os.getppid() != parent
                if not gone and (supervisor is None or supervisor.alive()):
                    continue
                number = signal.SIGTERM
            if number in numbers:
                (session.on_signal or session.cancel)(number)
                return

    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    earlier = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    if session.handed:
        session.folder.verbatim("pid", str(os.getpid()).encode())
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier)
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(OSError):  # full, so that the watcher has enough to wake it
            theirs.send(b"\0")
        watcher.join()
        ours.close()
        theirs.close()


@contextmanager
def _telemetry(env: Mapping[str, str]) -> Iterator[None]:
    """Steps as spans in the trace of ``dagger run``, which says where by ``OTEL_…``."""
    if not env.get("DAGGER_SESSION_PORT") or not env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        yield
        return
    # A proxy that went away with `dagger run` is not worth a word, nor a wait.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    from opentelemetry import context as otel
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from ci.tools.telemetry import LiveSpans

    provider = TracerProvider(
        shutdown_on_exit=False, resource=Resource.create({"service.name": "pipeline"})
    )
    provider.add_span_processor(LiveSpans(OTLPSpanExporter(timeout=EXPORT_SECONDS)))
    trace.set_tracer_provider(provider)
    # dagger-io would add a second exporter to this provider where it finds OTEL_… set.
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    token = otel.attach(propagate.extract({"traceparent": env.get("TRACEPARENT", "")}))
    try:
        yield
    finally:
        otel.detach(token)
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        ending.join(EXPORT_SECONDS)


def explain(error: PipelineError, redact: Callable[[str], str] = redaction.text) -> str:
    """The two lines a person gets: what is wrong, what to do; without secrets."""
    said = " ".join(redact(str(error)).split())
    return f"error: {said}\nremedy: {redact(error.remedy)}"
