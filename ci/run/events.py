"""What happens in a run, as data: JSON lines in the run's folder, and to whoever listens.

Steps are also OpenTelemetry spans, so that ``dagger run`` shows them by name in its trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ci.redaction import Redactor
from ci.run_folder import RunFolder
from ci.tools.wait import Clock


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``at`` is seconds since the run began.

    ``kind`` is ``step.started``, ``step.finished`` or ``step.failed``; ``note`` or ``watch`` for
    what belongs to a step; or of the run itself ``run.cancelled``, ``run.note``, or ``run.`` and
    an outcome (:class:`ci.model.Outcome`).
    """

    kind: str
    at: float
    step: str = ""
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]

_current_step: ContextVar[str] = ContextVar("current_step", default="")


class Events:
    """The run's record. Thread-safe: steps run beside each other.

    What ``redactor`` finds secret reaches neither the file nor a listener. The run began ``ago``
    seconds ago.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        path: Path | None = None,
        redactor: Redactor | None = None,
        ago: float = 0.0,
    ) -> None:
        self._clock = clock
        self._started = clock.monotonic() - ago
        self._redactor = redactor if redactor is not None else Redactor()
        self._file = None if path is None else (RunFolder(path.parent, self._redactor), path.name)
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self.all: list[Event] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def emit(self, kind: str, text: str = "", *, step: str | None = None, **data: Any) -> None:
        """Record an event; without ``step``, of the step this context is in."""
        name = step if step is not None else _current_step.get()
        at = round(self._clock.monotonic() - self._started, 3)
        data = self._redactor.tree(data)
        event = Event(kind, at, name, self._redactor.text(text), data)
        with self._lock:
            self.all.append(event)
            if self._file is not None:
                folder, file = self._file
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "at": event.at,
                    "kind": kind,
                    "step": name,
                    "text": event.text,
                    **data,
                }
                folder.append_json(file, line)
            for listener in self._listeners:
                listener(event)

    def note(self, text: str, **data: Any) -> None:
        """Progress within the current step: what, how far."""
        self.emit("note", text, **data)

    @contextmanager
    def step(self, name: str, reason: str = "") -> Iterator[None]:
        """A named step: started, then finished or failed, with its duration in seconds."""
        inside = {"parent": outer} if (outer := _current_step.get()) else {}
        token = _current_step.set(name)
        begun = self._clock.monotonic()
        # The trace goes to `dagger run`: what failed is told there without secrets, too.
        with trace.get_tracer("pipeline").start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:
            self.emit("step.started", reason, step=name, **inside)
            try:
                yield
            except BaseException as problem:
                span.set_status(Status(StatusCode.ERROR, self._redactor.text(str(problem))))
                seconds = round(self._clock.monotonic() - begun, 3)
                self.emit(
                    "step.failed",
                    str(problem) or type(problem).__name__,
                    step=name,
                    seconds=seconds,
                )
                raise
            else:
                seconds = round(self._clock.monotonic() - begun, 3)
                self.emit("step.finished", step=name, seconds=seconds)
            finally:
                _current_step.reset(token)
