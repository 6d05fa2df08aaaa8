"""The events of a run: JSON lines in the run's folder, and calls of listeners.

Steps are also OpenTelemetry spans, so that ``dagger run`` shows them by name in its trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from ci import texts
from ci.errors import Interrupted
from ci.redaction import Redactor
from ci.results import (
    CauseId,
    ChangeState,
    Check,
    ImageRef,
    Phase,
    StepId,
)
from ci.run_folder import RunFolder
from ci.tools.wait import Clock

CHANGE = "change"
CHECK = "check"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``at`` is seconds since the run began.

    ``kind`` is ``step.started``, ``step.finished`` or ``step.failed``; ``note``, ``watch`` or
    ``check`` for what belongs to a step; ``change`` for where a target stands
    (:meth:`Events.changed`); or of the run itself ``run.cancelled``, ``run.note``, or ``run.`` and
    an outcome (:class:`ci.results.Outcome`).
    """

    kind: str
    at: float
    step: str = ""
    """A :class:`ci.results.StepId`; of a ``watch`` the name of what is watched."""
    text: str = ""
    """For people; no code parses it."""
    data: dict[str, Any] = field(default_factory=dict)
    subject: str = ""
    """Of the step."""

    @property
    def title(self) -> str:
        """Of the step, for people."""
        return texts.step_title(self.step, self.subject) if self.step else ""


Listener = Callable[[Event], None]

_current_step: ContextVar[tuple[str, str]] = ContextVar("current_step", default=("", ""))
"""Id and subject."""


class Events:
    """The run's record. Thread-safe: steps run in parallel.

    What ``redactor`` considers secret reaches neither the file nor a listener. The run started
    ``ago`` seconds ago.
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

    @property
    def began(self) -> float:
        """When the run began, in seconds on its clock."""
        return self._started

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def emit(
        self,
        kind: str,
        text: str = "",
        *,
        step: str | None = None,
        subject: str = "",
        **data: Any,
    ) -> None:
        """Record an event; without ``step``, of the step this context is in."""
        if step is None:
            step, subject = _current_step.get()
        at = round(self._clock.monotonic() - self._started, 3)
        data = self._redactor.tree(data)
        event = Event(kind, at, str(step), self._redactor.text(text), data, subject)
        with self._lock:
            self.all.append(event)
            if self._file is not None:
                folder, file = self._file
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "at": event.at,
                    "kind": kind,
                    "step": event.step,
                    **({"subject": subject} if subject else {}),
                    "text": event.text,
                    **data,
                }
                folder.append_json(file, line)
            for listener in self._listeners:
                listener(event)

    def note(self, text: str, **data: Any) -> None:
        """Progress within the current step: what, how far."""
        self.emit("note", text, **data)

    def changed(
        self,
        target: str,
        state: ChangeState,
        *,
        revision: int | None = None,
        release: str = "",
        before: ImageRef | None = None,
        after: ImageRef | None = None,
        from_revision: int | None = None,
        to_revision: int | None = None,
        cause: CauseId | None = None,
        problem: str = "",
    ) -> None:
        """Record the state of a target as soon as it changes, so that the record of a killed run
        has it, too. ``revision`` is the one that is deployed now. An argument that is left out
        keeps its value of an earlier call (:func:`ci.run.changes.latest`)."""
        details: dict[str, Any] = {
            "release": release,
            "before": asdict(before) if before else None,
            "after": asdict(after) if after else None,
            "from_revision": from_revision,
            "to_revision": to_revision,
            "live_revision": revision,
            "cause": cause.value if cause else None,
            "problem": problem,
        }
        self.emit(
            CHANGE,
            f"{target}: {texts.STATES[state]}",
            target=target,
            state=state.value,
            **{name: value for name, value in details.items() if value not in (None, "")},
        )

    def checked(self, phase: Phase, checks: Iterable[Check]) -> None:
        """Record checks as soon as they are made, for the live view and for a run that is killed.
        The results of a run are what its stages return and raise, not these events."""
        for check in checks:
            self.emit(
                CHECK,
                f"{texts.OUTCOMES[check.outcome]}: {texts.sentence(check)}",
                phase=phase.value,
                check=asdict(check),
            )

    @contextmanager
    def step(self, id: StepId, reason: str = "", *, subject: str = "") -> Iterator[None]:
        """A step: started, then finished or failed, with its duration in seconds. ``subject`` says
        which one of several of the same id."""
        outer, _ = _current_step.get()
        inside = {"parent": outer} if outer else {}
        token = _current_step.set((str(id), subject))
        begun = self._clock.monotonic()
        # The trace is sent to `dagger run`: errors are redacted there, too.
        with trace.get_tracer("pipeline").start_as_current_span(
            texts.step_title(id, subject), record_exception=False, set_status_on_exception=False
        ) as span:
            self.emit("step.started", reason, step=id, subject=subject, **inside)
            try:
                yield
            except BaseException as problem:
                span.set_status(Status(StatusCode.ERROR, self._redactor.text(str(problem))))
                seconds = round(self._clock.monotonic() - begun, 3)
                self.emit(
                    "step.failed",
                    str(problem) or type(problem).__name__,
                    step=id,
                    subject=subject,
                    seconds=seconds,
                    cancelled=isinstance(problem, Interrupted),
                )
                raise
            else:
                seconds = round(self._clock.monotonic() - begun, 3)
                self.emit("step.finished", step=id, subject=subject, seconds=seconds)
            finally:
                _current_step.reset(token)
