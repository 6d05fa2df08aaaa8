"""Identifies a process, and tells whether another one still runs.

A pid alone is not enough: it is reused, on this boot or the next, and another container has its
own pids.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, distinguished from every other one on any machine."""

    pid: int
    started: str
    """Field 22 of ``/proc/PID/stat``: clock ticks since boot. Empty when it cannot be read."""
    boot: str
    """Of the kernel and the process name space, the same only where ``pid`` means the same. Empty
    when it cannot be read."""

    @classmethod
    def this(cls, proc: Path = PROC) -> Process:
        pid = os.getpid()
        return cls(pid, _started(pid, proc), _boot(proc))

    def alive(self, proc: Path = PROC) -> bool:
        """Whether the process is known to run."""
        return self.boot == _boot(proc) and self.started == _started(self.pid, proc) != ""

    def ended(self, proc: Path = PROC) -> bool:
        """Whether the process ran on this machine and has ended. For one of another machine or
        container neither :meth:`alive` nor this is true, because it cannot be known."""
        return self.boot == _boot(proc) != "" and self.started != _started(self.pid, proc)


def _started(pid: int, proc: Path) -> str:
    try:
        stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[19]  # the name in brackets may hold anything
    except (OSError, IndexError):
        return ""


def _boot(proc: Path) -> str:
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}-{(proc / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
