"""The programs that these tests start, and the waits for what they do.

Each program gets a session of its own, so that what it starts in turn ends with it; its output is
kept in a file, and an error carries the end of it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE = 5.0
"""Seconds in which a program has to end after SIGTERM, before SIGKILL."""

TAIL = 12
"""Lines of a program's output that an error shows."""


def wait_until(
    what: str,
    probe: Callable[[], bool],
    *,
    timeout: float,
    interval: float = 0.05,
    seen: Callable[[], str] = lambda: "nothing",
) -> None:
    """Ask ``probe`` until it says yes; ``timeout`` and ``interval`` are in seconds.

    ``what`` completes the sentence "waited for …"; ``seen`` tells what was there in the end.
    Raises ``TimeoutError``.
    """
    deadline = time.monotonic() + timeout
    while not probe():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}; last seen: {seen()}")
        time.sleep(interval)


class Programs:
    """Starts programs with the environment ``env``, and keeps their output under ``logs``."""

    def __init__(self, *, env: Mapping[str, str], logs: Path) -> None:
        self._env = dict(env)
        self._logs = logs

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        log: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """Run a program to its end; its standard output.

        ``timeout`` is in seconds, ``env`` is added to the environment, ``log`` names the file
        (the program's own name where it is not given). Raises ``AssertionError`` where the program
        does not exist, takes longer, or ends with another status than 0.
        """
        try:
            process = self._start(argv, env, cwd, stderr=subprocess.PIPE)
        except OSError as problem:
            raise AssertionError(f"cannot start {argv[0]}: {problem.strerror}") from None
        try:
            out, err = process.communicate(timeout=timeout)
            how = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            _end(process)
            out, err = process.communicate()
            how = f"took longer than {timeout:.0f} s"
        finally:
            if process.poll() is None:
                _end(process)
        words = shlex.join(argv)
        with open(self._logs / f"{log or Path(argv[0]).name}.log", "a", encoding="utf-8") as file:
            file.write(f"$ {words}\n{out}{err}")
        if how != "ended with 0":
            tail = "\n".join((err.strip() or out.strip()).splitlines()[-TAIL:])
            raise AssertionError(f"{words} {how}: {tail}")
        return out

    @contextmanager
    def background(
        self,
        argv: Sequence[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], object] | None = None,
    ) -> Iterator[subprocess.Popen[str]]:
        """A program that runs as long as the ``with`` block; ``on_line`` sees each line of either
        stream as it comes."""
        process = self._start(argv, env, None, stderr=subprocess.STDOUT)

        def keep() -> None:
            assert process.stdout is not None
            with (
                open(self._logs / f"{log}.log", "a", encoding="utf-8") as file,
                process.stdout as lines,
            ):
                for line in lines:
                    file.write(line)
                    file.flush()
                    if on_line is not None:
                        on_line(line.rstrip("\n"))

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield process
        finally:
            _end(process)
            thread.join(GRACE)

    def _start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        cwd: Path | None,
        *,
        stderr: int,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**self._env, **(env or {})},
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
        )


def _end(process: subprocess.Popen[str]) -> None:
    """End the program's whole session, also where the program itself has ended already."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
