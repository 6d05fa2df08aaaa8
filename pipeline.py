#!/usr/bin/env python3
"""The entry point: creates the Python environment on first use, then starts ``ci.cli.app``.

Only the standard library is used until the environment exists. It is created once per content of
``requirements.lock``, under ``$PIPELINE_HOME/venvs``; a marker that is written last distinguishes a
complete one from one whose creation was killed.
"""

# No annotations import and no f-strings up to the version check: an old Python must get as far
# as the message that says what is wrong.
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the point of the check
    sys.stderr.write("error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
    sys.stderr.write("\nremedy: run `python3.11 pipeline.py`, or install a newer Python\n")
    sys.exit(2)

import errno
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
ENTERED = "_QUEUE_TIMEOUT_GATE_VENV"
"""Set to the environment's path for the second start, so that there is no third."""

EXIT_TOOLCHAIN = 4
EXIT_DISK_FULL = 6
EXIT_INTERRUPTED = 130


class Refused(Exception):
    """One line, its remedy, and an exit code (the same as in ``ci.errors``)."""

    def __init__(self, message: str, remedy: str, status: int) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.status = status


def home(env: dict[str, str]) -> Path:
    """The folder of everything that is kept between runs."""
    return Path(env.get("PIPELINE_HOME") or "~/.cache/queue-timeout-gate").expanduser().absolute()


def key(lock: bytes) -> str:
    """Hash of what determines the environment: the lock file and this Python."""
    python = f"{sys.version}|{sys.base_prefix}"
    return hashlib.sha256(lock + b"\0" + python.encode()).hexdigest()[:16]


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def environment(venvs: Path) -> Path:
    """The environment's folder; created if it is missing or incomplete."""
    name = key(LOCK.read_bytes())
    venv = venvs / name
    marker = venv / ".complete"
    if marker.exists() and os.access(venv / "bin" / "python", os.X_OK):
        return venv
    venvs.mkdir(parents=True, exist_ok=True)
    with open(venvs / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is creating the Python environment: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists() and os.access(venv / "bin" / "python", os.X_OK):
            return venv
        if venv.exists():
            say("removing an incomplete Python environment")
            shutil.rmtree(venv)
        started = time.monotonic()
        try:
            make(venv)
        except BaseException:
            shutil.rmtree(venv, ignore_errors=True)
            raise
        with open(marker, "w") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        say(f"Python environment ready after {time.monotonic() - started:.0f} s")
    return venv


def make(venv: Path) -> None:
    """Create a virtual environment with exactly the packages of ``requirements.lock``, by hash."""
    total = LOCK.read_text(encoding="utf-8").count("==")
    say(f"creating the Python environment, once: {total} packages, hashes checked")
    log = venv.with_name(venv.name + ".log")
    python = venv / "bin" / "python"
    create = [sys.executable, "-m", "venv", str(venv)]
    pip = [str(python), "-m", "pip"]
    if importlib.util.find_spec("ensurepip") is None:
        # Debian's python3 has no ensurepip: use its pip, or install the package that has it.
        if importlib.util.find_spec("pip") is not None:
            create.insert(3, "--without-pip")
            pip = [sys.executable, "-m", "pip", "--python", str(python)]
        elif os.geteuid() == 0 and shutil.which("apt-get"):
            say("installing python3-venv (this Python comes without ensurepip)")
            quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
            call(["apt-get", "update", "-q"], log, env=quiet)
            call(["apt-get", "install", "-q", "-y", "python3-venv"], log, env=quiet)
        else:
            raise Refused(
                "this Python cannot create a virtual environment (no ensurepip, no pip)",
                "install python3-venv, or run as root on Debian to have it installed",
                EXIT_TOOLCHAIN,
            )
    call(create, log)
    resolved = 0
    shown = time.monotonic()

    def progress(line: str) -> None:
        nonlocal resolved, shown
        if line.startswith("Collecting "):
            resolved += 1
            if time.monotonic() - shown >= 3:
                shown = time.monotonic()
                say(f"  {min(resolved, total)} of {total} packages resolved")
        elif line.startswith("Installing collected packages"):
            say("  installing the packages")

    options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    requirements = ["--require-hashes", "--requirement", str(LOCK)]
    call([*pip, "install", *options, *requirements], log, see=progress)


def call(
    argv: list[str],
    log: Path,
    see: Callable[[str], None] | None = None,
    env: dict[str, str] | None = None,
) -> None:
    """Run a program, its output to ``log`` and to ``see`` line by line."""
    full = False
    with open(log, "a", encoding="utf-8") as sink:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            text=True,
            errors="replace",
        )
        try:
            for line in process.stdout or ():
                sink.write(line)
                full = full or os.strerror(errno.ENOSPC).lower() in line.lower()
                if see is not None:
                    see(line)
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if full:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if status != 0:
        raise Refused(
            f"cannot create the Python environment: {Path(argv[0]).name} ended with {status}",
            f"see {log}; check that the package index that pip is configured for is reachable",
            EXIT_TOOLCHAIN,
        )


def enter() -> None:
    """Continue inside the environment; returns at once when already there."""
    if sys.prefix == os.environ.get(ENTERED):
        return
    try:
        venv = environment(home(dict(os.environ)) / "venvs")
    except Refused as refused:
        problem, remedy, status = str(refused), refused.remedy, refused.status
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"no disk space left for the Python environment ({error.strerror})"
            remedy, status = (
                "free disk space, or set PIPELINE_HOME to a larger disk",
                EXIT_DISK_FULL,
            )
        else:
            problem = f"cannot create the Python environment: {error}"
            remedy, status = "set PIPELINE_HOME to a writable folder", EXIT_TOOLCHAIN
    except KeyboardInterrupt:
        problem, remedy = "interrupted", "run again: the incomplete environment was removed"
        status = EXIT_INTERRUPTED
    else:
        python = str(venv / "bin" / "python")
        os.execve(
            python,
            [python, str(ROOT / "pipeline.py"), *sys.argv[1:]],
            {**os.environ, ENTERED: str(venv)},
        )
    print(f"error: {problem}\nremedy: {remedy}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    enter()
    from ci.cli.app import main

    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is cleaned up and written; a lingering thread of a library must not delay the exit.
    os._exit(status)
