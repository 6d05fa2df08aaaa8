"""A terminal for tests: a pseudo-terminal of a width, read by an emulator of one.

The process's own standard streams are put on it, as a shell would, so that whatever asks the
system whether there is a terminal, or how wide it is, gets the answer it would get there.
"""

from __future__ import annotations

import os
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pyte
import pytest

from ci.report import signs
from ci.tools.wait import SystemClock, wait_until

ROWS = 24


class Screen(pyte.HistoryScreen):
    """What a person sees, with what has scrolled away; and which lines the terminal itself had
    to wrap, which ruins a view that is redrawn in place."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns, ROWS, history=10_000, ratio=0.5)
        self.redrawn: list[str] = []
        """Lines that were wrapped while the cursor was hidden: in the live view."""
        self._continued: dict[int, object] = {}
        self._lock = threading.Lock()
        self._stream = pyte.ByteStream(self)

    def feed(self, data: bytes) -> None:
        """What a program wrote; by the thread that reads it."""
        with self._lock:
            self._stream.feed(data)

    def draw(self, data: str) -> None:
        for character in data:
            wraps = self.cursor.x == self.columns
            if wraps and self.cursor.hidden:
                self.redrawn.append("".join(self._text(self.buffer[self.cursor.y])))
            super().draw(character)
            if wraps:
                line = self.buffer[self.cursor.y]
                self._continued[id(line)] = line

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        super().erase_in_line(how, private)
        if how == 2:
            self._continued.pop(id(self.buffer[self.cursor.y]), None)

    def _text(self, line: dict[int, pyte.screens.Char]) -> str:
        return "".join(line[column].data for column in range(self.columns))

    @property
    def rows(self) -> list[str]:
        """As they stand, from the first that scrolled away."""
        with self._lock:
            return [self._text(line).rstrip() for line in self._all()]

    @property
    def lines_written(self) -> list[str]:
        """As they were written: those that the terminal wrapped are whole again."""
        found: list[str] = []
        for line in self._all():
            if id(line) in self._continued and found:
                found[-1] += self._text(line)
            else:
                found.append(self._text(line))
        return [line.rstrip() for line in found]

    def _all(self) -> Iterator[dict[int, pyte.screens.Char]]:
        yield from self.history.top
        yield from (self.buffer[number] for number in range(ROWS))


@dataclass
class Terminal:
    """Where the process's output goes for a while."""

    screen: Screen | None
    """Of the terminal; none where both outputs are pipes."""
    out: list[bytes] = field(default_factory=list)
    """What the standard output got, where it is a pipe."""
    err: list[bytes] = field(default_factory=list)

    @property
    def stdout(self) -> str:
        return b"".join(self.out).decode()

    @property
    def stderr(self) -> str:
        return b"".join(self.err).decode()

    def wait_for(self, text: str) -> None:
        """Until ``text`` is on the screen, so that what is drawn in between is tried, too."""
        if (screen := self.screen) is not None:
            wait_until(
                f"{text!r} on the screen",
                lambda: any(text in row for row in screen.rows),
                timeout=10,
                clock=SystemClock(),
                interval=0.01,
                diagnose=lambda: "\n".join(screen.rows),
            )


@contextmanager
def terminal(
    columns: int | None, *, out_is_pipe: bool = False, encoding: str = "utf-8"
) -> Iterator[Terminal]:
    """The streams on a terminal of so many columns, or on pipes where ``columns`` is ``None``.

    When the block ends all that was written has been read.
    """
    found = Terminal(None if columns is None else Screen(columns))
    with ExitStack() as undo, pytest.MonkeyPatch.context() as patch:
        readers: list[threading.Thread] = []

        def read(fd: int, taker: Callable[[bytes], object]) -> None:
            def work() -> None:
                while True:
                    try:
                        data = os.read(fd, 65536)
                    except OSError:  # EIO: a terminal that nobody has open any more
                        data = b""
                    if not data:
                        return os.close(fd)
                    taker(data)

            readers.append(threading.Thread(target=work, daemon=True))
            readers[-1].start()

        def pipe(taker: Callable[[bytes], object]) -> int:
            ours, theirs = os.pipe()
            read(ours, taker)
            return theirs

        if found.screen is None:
            # As in CI: no terminal at all.
            stdin, stdout, stderr = (
                os.open(os.devnull, os.O_RDONLY),
                pipe(found.out.append),
                pipe(found.err.append),
            )
        else:
            master, slave = os.openpty()
            termios.tcsetwinsize(slave, (ROWS, found.screen.columns))
            read(master, found.screen.feed)
            stdin, stderr = slave, os.dup(slave)
            stdout = pipe(found.out.append) if out_is_pipe else os.dup(slave)
        saved = [(number, os.dup(number)) for number in (0, 1, 2)]
        streams = []
        for number, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, number)
            os.close(fd)
            mode = "r" if number == 0 else "w"
            line_buffered = 1 if found.screen is not None else -1
            stream = open(  # noqa: SIM115 - closed below, before what it stands on is replaced
                number, mode, buffering=line_buffered, encoding=encoding, closefd=False
            )
            streams.append(stream)

        def restore() -> None:
            for stream in streams:
                stream.close()
            for number, before in saved:
                os.dup2(before, number)
                os.close(before)
            for reader in readers:
                reader.join(10)
                assert not reader.is_alive(), "somebody still has the terminal open"

        undo.callback(restore)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(signs, "FRAMES_PER_SECOND", 50)  # a test waits 20 ms for a frame
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        yield found
