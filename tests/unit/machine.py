"""A machine on which no program starts: what ``ci`` wants to start is written down and answered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci.errors import CommandFailed, Interrupted
from ci.tools.command import Output, Programs

OK = Output(0, "", "")


def said(stdout: str) -> Output:
    """A program that ended well."""
    return Output(0, stdout, "")


def failed(stderr: str, status: int = 1) -> Output:
    """A program that ended with an error."""
    return Output(status, "", stderr)


@dataclass(frozen=True)
class Started:
    """One program: its words, the first of them without its folder, and how it was started."""

    words: list[str]
    how: Mapping[str, Any]


@dataclass
class Machine:
    """``answer`` says how a program ends; one that it does not know ends well and silent."""

    answer: Callable[[list[str]], Output | None] = lambda words: None
    serve: Callable[[list[str]], tuple[list[str], int | None]] = lambda words: ([], None)
    """Of a program in the background: its lines, and its status (``None``: it runs on)."""
    started: list[Started] = field(default_factory=list)
    daemons: list[tuple[list[str], Path]] = field(default_factory=list)

    def words(self, *begin: str) -> list[list[str]]:
        """The words of every program that began with these, in their order."""
        return [each.words for each in self.started if each.words[: len(begin)] == list(begin)]

    def how(self, *begin: str) -> Mapping[str, Any]:
        """How the one program that began with these words was started."""
        (found,) = (each.how for each in self.started if each.words[: len(begin)] == list(begin))
        return found

    def forget(self) -> None:
        self.started.clear()

    # Instead of the methods of Programs ----------------------------------------------------

    def _note(self, programs: Programs, argv: Sequence[Any], how: Mapping[str, Any]) -> list[str]:
        if programs.cancel.is_set() and not how.get("during_cleanup"):
            raise Interrupted("interrupted")
        first, *rest = (os.fspath(word) for word in argv)
        words = [Path(first).name, *rest]
        self.started.append(Started(words, how))
        return words

    def run(self, programs: Programs, argv: Sequence[Any], **how: Any) -> Output:
        words = self._note(programs, argv, how)
        output = self.answer(words) or OK
        if how.get("on_line"):
            for line in output.stdout.splitlines():
                how["on_line"](line)
        if how.get("check", True) and output.status != 0:
            raise programs._failure(
                tuple(map(str, argv)), output, how.get("error", CommandFailed), None
            )
        return output

    @contextmanager
    def background(self, programs: Programs, argv: Sequence[Any], **how: Any) -> Iterator[Any]:
        lines, status = self.serve(self._note(programs, argv, how))
        for line in lines:
            how["on_line"](line)
        yield SimpleNamespace(poll=lambda: status, returncode=status)

    def daemon(self, _: Programs, argv: Sequence[Any], *, log: Path) -> int:
        self.daemons.append(([os.fspath(word) for word in argv], log))
        return 1


def take_over(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Every program of every :class:`Programs` is this machine's from here on."""
    made = Machine()
    for name in ("run", "background", "daemon"):
        method = getattr(made, name)

        def instead(self: Programs, *words: Any, _method: Any = method, **how: Any) -> Any:
            return _method(self, *words, **how)

        monkeypatch.setattr(Programs, name, instead)
    return made


class ManualClock:
    """Time that passes only by being slept away; each sleep takes ``least`` seconds or more."""

    def __init__(self, least: float = 0.001) -> None:
        self.now = 0.0
        self._least = least

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, self._least)
