"""Runs the steps of :mod:`ci.workflow.commands`, one after the other or in parallel, with
cancellation and cleanup."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar

from ci import texts
from ci.errors import Interrupted
from ci.results import StepId
from ci.run.events import Events
from ci.tools.command import Programs

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """The value of a step that runs in parallel to others."""

    def __init__(self, flow: Flow, future: Future[T]) -> None:
        self._flow = flow
        self._future = future

    def result(self) -> T:
        """Wait for the value. Raises what the step raised, or what ended the flow first."""
        try:
            return self._future.result()
        except BaseException as problem:
            raise self._flow.cause(problem) from None


class Flow:
    """Runs steps, some in parallel. The first failure cancels the running steps. Cleanups run last,
    in reverse order, whatever happened, after every step has ended."""

    def __init__(self, events: Events, programs: Programs) -> None:
        self._events = events
        self._programs = programs
        self._first: BaseException | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._cleanups: list[tuple[StepId, Callable[[], object]]] = []

    def step(self, id: StepId, reason: str, fn: Callable[P, T], *a: P.args, **k: P.kwargs) -> T:
        """Run a step now."""
        self._refuse_when_cancelled()
        try:
            with self._events.step(id, reason):
                return fn(*a, **k)
        except BaseException as problem:
            self._failed(problem)
            raise self.cause(problem) from None

    def beside(
        self, id: StepId, reason: str, fn: Callable[P, T], *a: P.args, **k: P.kwargs
    ) -> Pending[T]:
        """Start a step in parallel to those that follow."""
        self._refuse_when_cancelled()
        future: Future[T] = Future()

        def work() -> None:
            try:
                with self._events.step(id, reason):
                    value = fn(*a, **k)
            except BaseException as problem:
                self._failed(problem)
                future.set_exception(problem)
            else:
                future.set_result(value)

        inherited = contextvars.copy_context()  # the span this one belongs under
        thread = threading.Thread(target=inherited.run, args=(work,), name=str(id), daemon=True)
        self._threads.append(thread)
        thread.start()
        return Pending(self, future)

    def cleanup(self, id: StepId, fn: Callable[P, object], *a: P.args, **k: P.kwargs) -> None:
        """Call ``fn`` when the flow ends, however it ends."""
        self._cleanups.append((id, lambda: fn(*a, **k)))

    def cause(self, problem: BaseException) -> BaseException:
        """The error to raise: for a step that was cancelled because another failed, that other
        step's error."""
        with self._lock:
            first = self._first
        return first if first is not None and isinstance(problem, Interrupted) else problem

    def _failed(self, problem: BaseException) -> None:
        with self._lock:
            first = self._first is None
            if first:
                self._first = problem
        running = [t for t in self._threads if t.is_alive() and t is not threading.current_thread()]
        if first and (running or threading.current_thread() is not threading.main_thread()):
            self._programs.end_all()

    def _refuse_when_cancelled(self) -> None:
        if self._programs.cancel.is_set():
            raise self.cause(Interrupted("interrupted"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if problem is not None:
            self._failed(problem)
        for thread in self._threads:
            thread.join()
        for id, fn in reversed(self._cleanups):
            try:
                with self._events.step(id):
                    fn()
            except Exception as failure:
                # The next run finds and removes what a failed cleanup leaves behind.
                self._events.note(f"{texts.step_title(id)} failed: {failure}")
        if problem is None and self._first is not None:
            raise self._first
