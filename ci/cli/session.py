"""A run as a process: its folder, its signals, its tools, and its continuation under
``dagger run``.

The first process obtains the tools and then supervises ``dagger run pipeline.py …``. It hands its
results over in one file (a :class:`Handover`), so that the second one need not look for the tools
again and both write into the same run folder.
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
"""How long ``dagger run`` lets the run clean up after Ctrl-C before it kills it."""


def ended(events: Events) -> tuple[StepRecord, ...]:
    """The steps that have ended, in the order of their ends."""
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
    """What the process that starts ``dagger run`` hands to the one under it."""

    run_dir: Path
    tools: Tools
    begun: float
    """``time.time()`` when the first process started."""
    steps: tuple[StepRecord, ...]
    """Steps that have ended already."""
    supervisor: Process
    """The process that receives the signals for this run; when it dies, the run ends."""

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
    """Everything of a run except the tools, which :meth:`tools` obtains."""

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
    """Called with the first signal instead of :meth:`cancel`."""

    def cancel(self, number: int) -> None:
        """End all running programs; every step then fails as interrupted, and cleans up."""
        self.programs.end_all()
        name = signal.Signals(number).name
        self.events.emit("run.cancelled", f"{name}: stopping, cleaning up")

    def tools(self, origin: Origin) -> Tools:
        """Obtain the tools, or take those that were handed over."""
        if self.handed is not None:
            return self.handed.tools
        from ci.toolchain import obtain

        with self.events.step(
            StepId.TOOLS, "a tool of another version could build or deploy something else"
        ):
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
        """Writes into :attr:`run_dir`, redacted."""
        return RunFolder(self.run_dir, self.programs.redactor)

    def elapsed(self) -> float:
        """Seconds since the first process of this run started."""
        return time.time() - self.begun

    def under_dagger(self) -> bool:
        return bool(self.env.get("DAGGER_SESSION_PORT"))

    def continue_under_dagger(self, tools: Tools, argv: Sequence[str]) -> int:
        """Repeat the command under ``dagger run``, as a child process; returns its exit status.

        This process stays to receive the signals and passes them to the run itself, which cleans
        up and ends, and dagger after it. Dagger must not receive them: on Ctrl-C it closes its
        session at once and may then hang. Raises :class:`ToolchainError` when dagger opened no
        session.
        """
        done = tuple(step for step in ended(self.events) if step.outcome is Outcome.PASSED)
        inner = self.run_dir / "pid"
        inner.unlink(missing_ok=True)
        handover = Handover(self.run_dir, tools, self.begun, done, Process.this()).save()
        # --silent keeps dagger's own view off the terminal; to see its trace, start with
        # `dagger run python pipeline.py`.
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
            raise ToolchainError("`dagger run` could not open a session with the Dagger engine")
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
    """Open a session that handles signals: Ctrl-C cancels the run, and its steps clean up.

    Without ``record`` (``status``, ``doctor``) there is no run folder. With it, ``command`` and
    ``targets`` are recorded in the folder; they decide how long it is kept.
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
    run_name = env.get(homes.RUN_ID, "")
    if not homes.RUN_NAME.fullmatch(run_name) or (runs / run_name).exists():
        run_name = homes.run_id(datetime.now(UTC))
    run_dir = handed.run_dir if handed else runs / run_name
    if record:
        RunFolder(run_dir).make()
        retention.begin(run_dir, command, targets)
        retention.prune(runs, without=run_dir.name)
    cancel = threading.Event()
    clock = Cancellable(SystemClock(), cancel)
    clean = {
        name: value
        for name, value in env.items()
        # Without OTEL_…: the spans of programs that a run starts do not belong to its trace.
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
    """The first SIGINT, SIGTERM or SIGHUP cancels the run; later ones are ignored, because they
    would disturb the cleanup.

    The interpreter's C handler writes the signal's number into a socket, and a thread acts on it.
    No Python code runs inside a signal handler, so none can deadlock on a lock that the
    interrupted code holds. When ``dagger run`` is killed, its session is lost; this run then ends
    as if it had received SIGTERM.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    receiver.settimeout(0.5)
    ended = threading.Event()
    parent = os.getppid() if session.under_dagger() else 0
    supervisor = session.handed.supervisor if session.handed else None

    def watch() -> None:
        while not ended.is_set():
            try:
                number = receiver.recv(1)[0]
            except TimeoutError:
                orphaned = parent and os.getppid() != parent
                if not orphaned and (supervisor is None or supervisor.alive()):
                    continue
                number = signal.SIGTERM
            if number in numbers:
                (session.on_signal or session.cancel)(number)
                return

    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    earlier = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
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
        with suppress(OSError):  # a full buffer wakes the watcher, too
            sender.send(b"\0")
        watcher.join()
        receiver.close()
        sender.close()


@contextmanager
def _telemetry(env: Mapping[str, str]) -> Iterator[None]:
    """Send steps as spans to the trace of ``dagger run``, which sets ``OTEL_…``."""
    if not env.get("DAGGER_SESSION_PORT") or not env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        yield
        return
    # When `dagger run` has ended, its proxy is gone: do not report that, and do not wait for it.
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
    # dagger-io adds a second exporter to this provider where OTEL_… is set.
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
    """An error as two lines: what is wrong, and the remedy; redacted."""
    message = " ".join(redact(str(error)).split())
    return f"error: {message}\nremedy: {redact(error.remedy)}"
