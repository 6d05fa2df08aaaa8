"""The only place where programs start (a unit test forbids :mod:`subprocess` elsewhere in ``ci``;
the door, ``pipeline.py``, and the emulator stand outside).

Every program gets its own session, so that Ctrl-C reaches us and we end it; its output goes
to the run's folder; an error carries the argv, pasteable into a shell, and the output's end.
Whoever started a program reads what it wrote as it is; logs and errors are redacted.
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ci.errors import CommandFailed, DiskFull, Interrupted, PipelineError
from ci.redaction import Redactor
from ci.run_folder import Log, RunFolder

TAIL_LINES = 12
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished program said. ``stdout`` and ``stderr`` are decoded as UTF-8."""

    status: int
    stdout: str
    stderr: str


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
        """The same, without log files: for programs that print what holds secrets."""
        return Programs(env=self.env, cancel=self.cancel, redactor=self.redactor)

    def hide(self, secret: str) -> None:
        """Never let ``secret`` reach a file of the run, the terminal or an error."""
        self.redactor.add(secret)

    def redact(self, text: str) -> str:
        return self.redactor.text(text)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        log: str | None = None,
        timeout: float | None = None,
        check: bool = True,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        error: type[PipelineError] = CommandFailed,
        during_cleanup: bool = False,
    ) -> Output:
        """Run a program to its end.

        ``log`` names the file (``logs/<log>.log``) its output is appended to; without it the
        program's own name is used. ``timeout`` is in seconds. ``env`` is added to the
        environment passed in at construction. ``on_line`` sees each line of either stream as
        it comes. ``during_cleanup`` lets a program run after the run was cancelled. Raises
        ``error`` (a :class:`CommandFailed` unless told otherwise) on a non-zero status when
        ``check``, on a time-out, and when the program does not exist.
        """
        words = tuple(os.fspath(word) for word in argv)
        process = self._start(words, env=env, cwd=cwd, during_cleanup=during_cleanup)
        data = input.encode() if isinstance(input, str) else input
        out: list[str] = []
        err: list[str] = []
        with ExitStack() as held:
            sink = self._log_file(log or Path(words[0]).name, held)
            if sink is not None:
                sink.write(f"$ {self._pasteable(words)}\n")

            def pump(stream: IO[bytes], into: list[str]) -> None:
                source = sink.source() if sink is not None else None
                with stream:
                    for raw in stream:
                        line = raw.decode("utf-8", "replace")
                        into.append(line)
                        if source is not None:
                            source.write(line)
                        if on_line is not None:
                            on_line(line.rstrip("\n"))
                if source is not None:
                    source.end()

            assert process.stdout is not None
            assert process.stderr is not None
            pumps = [
                _pump_thread(pump, process.stdout, out),
                _pump_thread(pump, process.stderr, err),
            ]
            for thread in pumps:
                thread.start()
            if process.stdin is not None:
                try:
                    if data:
                        process.stdin.write(data)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # the program ended early; its status tells
            timed_out = False
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timed_out = True
                self._end(process)
            finally:
                if process.poll() is None:  # KeyboardInterrupt while waiting
                    self._end(process)
                with self._lock:
                    self._running.discard(process)
            for thread in pumps:
                thread.join(GRACE_SECONDS)
        status = process.returncode
        output = Output(status, "".join(out), "".join(err))
        if self.cancel.is_set() and status != 0 and not during_cleanup:
            raise Interrupted(f"interrupted: {self._pasteable(words[:3])} …")
        if timed_out or (check and status != 0):
            raise self._failure(words, output, error, timeout if timed_out else None)
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
        words = tuple(os.fspath(word) for word in argv)
        process = self._start(words, env=env, cwd=None, merge=True)

        def pump() -> None:
            assert process.stdout is not None
            with ExitStack() as held, process.stdout:
                sink = self._log_file(log, held)
                source = None
                if sink is not None:
                    sink.write(f"$ {self._pasteable(words)}\n")
                    source = sink.source()
                for raw in process.stdout:
                    line = raw.decode("utf-8", "replace")
                    if source is not None:
                        source.write(line)
                    if on_line is not None:
                        on_line(line.rstrip("\n"))

        thread = _pump_thread(pump)
        thread.start()
        try:
            yield process
        finally:
            self._end(process)
            thread.join(GRACE_SECONDS)
            with self._lock:
                self._running.discard(process)

    def daemon(self, argv: Sequence[str | os.PathLike[str]], *, log: Path) -> int:
        """Start a program that outlives us (its own session, output appended to ``log``).

        Returns its process id. Only for what the machine keeps, such as the Docker daemon.
        """
        words = tuple(os.fspath(word) for word in argv)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as sink:
            process = subprocess.Popen(
                words,
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
        """A program that takes over our terminal; in a session of its own, so that Ctrl-C still
        comes to us alone. The caller waits for it and passes signals on as it sees fit."""
        words = tuple(os.fspath(word) for word in argv)
        try:
            return subprocess.Popen(words, env={**self.env, **env}, start_new_session=True)
        except OSError as problem:
            raise CommandFailed(
                f"cannot start {words[0]}: {problem.strerror}", argv=words, status=127
            ) from problem

    def end_all(self) -> None:
        """Cancel: end every running program and refuse to start more, those of a cleanup
        excepted: what undoes a half-done change must come to its end."""
        self.cancel.set()
        with self._lock:
            running = list(self._running)
        for process in running:
            self._signal(process, signal.SIGTERM)

    def _start(
        self,
        words: tuple[str, ...],
        *,
        env: Mapping[str, str] | None,
        cwd: Path | None,
        merge: bool = False,
        during_cleanup: bool = False,
    ) -> subprocess.Popen[bytes]:
        if self.cancel.is_set() and not during_cleanup:
            raise Interrupted("interrupted")
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL if merge else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                env={**self.env, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as problem:
            raise CommandFailed(
                f"cannot start {words[0]}: {problem.strerror}",
                argv=words,
                status=127,
                remedy="run `python3 pipeline.py doctor` to see what is missing",
            ) from problem
        if not during_cleanup:
            with self._lock:
                self._running.add(process)
            if self.cancel.is_set():  # cancelled while it started
                self._signal(process, signal.SIGTERM)
        return process

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

    def _log_file(self, name: str, held: ExitStack) -> Log | None:
        """The program's log, open as long as ``held`` is."""
        return None if self._logs is None else held.enter_context(self._logs.log(f"{name}.log"))

    def _pasteable(self, words: Sequence[str]) -> str:
        return shlex.join(self.redactor.words(words))

    def _failure(
        self,
        words: tuple[str, ...],
        output: Output,
        error: type[PipelineError],
        timeout: float | None,
    ) -> PipelineError:
        said = self.redact(output.stderr.strip() or output.stdout.strip())
        if re.search(r"no space left on device", said, re.IGNORECASE):
            return DiskFull(f"no space left on device, said {self._pasteable(words[:2])}")
        tail = "\n".join(said.splitlines()[-TAIL_LINES:])
        how = f"took longer than {timeout:.0f} s" if timeout else f"ended with {output.status}"
        message = (
            f"{self._pasteable(words)} {how}: {tail}" if tail else f"{self._pasteable(words)} {how}"
        )
        if issubclass(error, CommandFailed):
            argv = self.redactor.words(words)
            return error(message, argv=argv, status=output.status, output=said)
        return error(message)


def _pump_thread(pump: Callable[..., None], *args: object) -> threading.Thread:
    """A thread that reads a program's output in our context, so that what ``on_line`` notes
    belongs to the step that started the program."""
    context = contextvars.copy_context()
    return threading.Thread(target=context.run, args=(pump, *args), daemon=True)
