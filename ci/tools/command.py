"""The only place where programs are started (a unit test forbids :mod:`subprocess` elsewhere in
``ci``; ``pipeline.py`` and the emulator are exempt).

Every program runs in a session of its own, so that Ctrl-C reaches only the pipeline, which then
ends the program. Its output is logged in the run's folder; an error has its command line, quoted
for a shell, and the end of its output. Callers get the output unchanged; logs and errors are
redacted.
"""

from __future__ import annotations

import contextvars
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypedDict, Unpack

from ci.errors import CommandFailed, DiskFull, Interrupted, PipelineError
from ci.redaction import Redactor
from ci.run_folder import Log, RunFolder

TAIL_LINES = 12
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished program wrote. ``stdout`` and ``stderr`` are decoded as UTF-8."""

    status: int
    stdout: str
    stderr: str


class RunOptions(TypedDict, total=False):
    """How :meth:`Programs.run` runs a program; :class:`Invocation` has the defaults."""

    log: str | None
    """The file that its output is appended to, ``logs/<log>.log``; by default named for the
    program."""
    timeout: float | None
    """Seconds after which it is ended; ``None`` waits for as long as it takes."""
    check: bool
    """Whether a status other than 0 raises ``error``."""
    input: str | bytes | None
    """Its standard input; ``None`` closes it at once."""
    env: Mapping[str, str] | None
    """Added to the environment that :class:`Programs` was given."""
    cwd: Path | None
    on_line: Callable[[str], None] | None
    """Called with each line of either stream as it comes, in a thread and unredacted."""
    error: type[PipelineError]
    during_cleanup: bool
    """Whether it is also run, to its end, after the run was cancelled."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A program to start, with every :class:`RunOptions` decided."""

    argv: tuple[str, ...]
    log: str | None = None
    timeout: float | None = None
    check: bool = True
    input: str | bytes | None = None
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    on_line: Callable[[str], None] | None = None
    error: type[PipelineError] = CommandFailed
    during_cleanup: bool = False
    merge: bool = False
    """Standard error goes where standard output goes, and there is no standard input."""

    @property
    def log_name(self) -> str:
        return self.log or Path(self.argv[0]).name


class Programs:
    """Starts programs, logs them under ``logs``, and ends them all when cancelled.

    ``redactor`` is the run's: what it finds secret is in no log and no error. ``logs`` may be
    ``None`` (no files).
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str],
        logs: Path | None = None,
        cancel: threading.Event | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.env = dict(env)
        self.cancel = cancel if cancel is not None else threading.Event()
        self.redactor = redactor if redactor is not None else Redactor()
        self._logs = RunFolder(logs, self.redactor) if logs is not None else None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def unlogged(self) -> Programs:
        """The same, without log files: for programs whose output has secrets."""
        return Programs(env=self.env, cancel=self.cancel, redactor=self.redactor)

    def hide(self, secret: str) -> None:
        """Never let ``secret`` reach a file of the run, the terminal or an error."""
        self.redactor.add(secret)

    def redact(self, text: str) -> str:
        return self.redactor.text(text)

    def run(self, argv: Sequence[str | os.PathLike[str]], **options: Unpack[RunOptions]) -> Output:
        """Run a program to its end.

        Raises the option ``error`` (by default :class:`CommandFailed`) on a status other than 0
        when ``check``, and on a time-out; :class:`CommandFailed` when the program cannot be
        started; :class:`ci.errors.DiskFull` when it says that the disk is full;
        :class:`ci.errors.Interrupted` when the run was cancelled.
        """
        invocation = Invocation(_words(argv), **options)
        out: list[str] = []
        err: list[str] = []
        with self._log(invocation) as log, self._started(invocation, log) as process:
            threads = [
                _in_thread(partial(_read, process.stdout, log, out, invocation.on_line)),
                _in_thread(partial(_read, process.stderr, log, err, invocation.on_line)),
                _in_thread(partial(_feed, process.stdin, invocation.input)),
            ]
            in_time = self._wait(process, invocation.timeout)
            for thread in threads:
                thread.join(GRACE_SECONDS)
        output = Output(process.returncode, "".join(out), "".join(err))
        self._raise_for(invocation, output, in_time=in_time)
        return output

    @contextmanager
    def background(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program that runs as long as the ``with`` block, both streams merged into its log."""
        invocation = Invocation(_words(argv), log=log, env=env, on_line=on_line, merge=True)
        with self._log(invocation) as sink, self._started(invocation, sink) as process:
            reader = _in_thread(partial(_read, process.stdout, sink, None, on_line))
            try:
                yield process
            finally:
                self._end(process)
                reader.join(GRACE_SECONDS)

    def daemon(self, argv: Sequence[str | os.PathLike[str]], *, log: Path) -> int:
        """Start a program that outlives the pipeline (its own session, output appended to ``log``).

        Returns its process id. Only for what the machine keeps, such as the Docker daemon.
        """
        command = tuple(os.fspath(word) for word in argv)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as sink:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,
            )
        return process.pid

    def foreground(
        self, argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program that uses the pipeline's terminal, in a session of its own, so that
        Ctrl-C reaches only the pipeline. The caller waits for it and passes signals on."""
        command = tuple(os.fspath(word) for word in argv)
        try:
            return subprocess.Popen(command, env={**self.env, **env}, start_new_session=True)
        except OSError as problem:
            raise CommandFailed(
                f"cannot start {command[0]}: {problem.strerror}", argv=command, status=127
            ) from problem

    def end_all(self) -> None:
        """Cancel: end every running program and refuse to start others. Programs of a cleanup are
        exempt, because what undoes an unfinished change must complete."""
        self.cancel.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            self._signal(process, signal.SIGTERM)

    @contextmanager
    def _started(
        self, invocation: Invocation, log: Log | None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The started program, registered for :meth:`end_all`; ended when the block is left."""
        process = self._start(invocation)
        try:
            if log is not None:
                log.write(f"$ {self._pasteable(invocation.argv)}\n")
            yield process
        finally:
            if process.poll() is None:  # the block was left by an exception
                self._end(process)
            with self._lock:
                self._running.discard(process)

    def _start(self, invocation: Invocation) -> subprocess.Popen[bytes]:
        if self.cancel.is_set() and not invocation.during_cleanup:
            raise Interrupted("interrupted")
        try:
            process = subprocess.Popen(
                invocation.argv,
                stdin=subprocess.DEVNULL if invocation.merge else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if invocation.merge else subprocess.PIPE,
                env={**self.env, **(invocation.env or {})},
                cwd=invocation.cwd,
                start_new_session=True,
            )
        except OSError as problem:
            raise CommandFailed(
                f"cannot start {invocation.argv[0]}: {problem.strerror}",
                argv=invocation.argv,
                status=127,
                remedy="run `python3 pipeline.py doctor` to see which tool is missing",
            ) from problem
        if not invocation.during_cleanup:
            with self._lock:
                self._running.add(process)
            if self.cancel.is_set():  # cancelled while it started
                self._signal(process, signal.SIGTERM)
        return process

    def _wait(self, process: subprocess.Popen[bytes], timeout: float | None) -> bool:
        """Whether the program ended by itself within ``timeout`` seconds; if not, it is ended."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._end(process)
            return False
        return True

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._signal(process, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            process.wait()

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def _log(self, invocation: Invocation) -> AbstractContextManager[Log | None]:
        return nullcontext() if self._logs is None else self._logs.log(f"{invocation.log_name}.log")

    def _pasteable(self, words: Sequence[str]) -> str:
        return shlex.join(self.redactor.words(words))

    def _raise_for(self, invocation: Invocation, output: Output, *, in_time: bool) -> None:
        """Raise if the program failed, timed out or was interrupted."""
        if self.cancel.is_set() and output.status != 0 and not invocation.during_cleanup:
            raise Interrupted(f"interrupted: {self._pasteable(invocation.argv[:3])} …")
        if not in_time:
            raise self._failure(invocation.argv, output, invocation.error, invocation.timeout)
        if invocation.check and output.status != 0:
            raise self._failure(invocation.argv, output, invocation.error, None)

    def _failure(
        self,
        command: tuple[str, ...],
        output: Output,
        error: type[PipelineError],
        timeout: float | None,
    ) -> PipelineError:
        text = self.redact(output.stderr.strip() or output.stdout.strip())
        if re.search(r"no space left on device", text, re.IGNORECASE):
            return DiskFull(f"no space left on device while running {self._pasteable(command[:2])}")
        tail = "\n".join(text.splitlines()[-TAIL_LINES:])
        how = f"timed out after {timeout:.0f} s" if timeout else f"ended with {output.status}"
        message = (
            f"{self._pasteable(command)} {how}: {tail}"
            if tail
            else f"{self._pasteable(command)} {how}"
        )
        if issubclass(error, CommandFailed):
            argv = self.redactor.words(command)
            return error(message, argv=argv, status=output.status, output=text)
        return error(message)


def _words(argv: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    return tuple(os.fspath(word) for word in argv)


def _feed(stdin: IO[bytes] | None, content: str | bytes | None) -> None:
    """Write all of a program's standard input and close it."""
    assert stdin is not None
    with suppress(BrokenPipeError), stdin:  # if it ended early, its status tells
        if content:
            stdin.write(content.encode() if isinstance(content, str) else content)


def _read(
    stream: IO[bytes] | None,
    log: Log | None,
    into: list[str] | None,
    on_line: Callable[[str], None] | None,
) -> None:
    """Read a program's output to its end: each line into the log, ``into`` and ``on_line``."""
    assert stream is not None
    source = log.source() if log is not None else None
    with stream:
        for raw in stream:
            line = raw.decode("utf-8", "replace")
            if into is not None:
                into.append(line)
            if source is not None:
                source.write(line)
            if on_line is not None:
                on_line(line.rstrip("\n"))
    if source is not None:
        source.end()


def _in_thread(work: Callable[[], None]) -> threading.Thread:
    """Start ``work`` in a thread with the caller's context, so that notes of ``on_line`` belong to
    the step that started the program."""
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(work,), daemon=True)
    thread.start()
    return thread
