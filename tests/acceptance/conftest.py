"""The pipeline as a program, as its user starts it. Nothing of ``ci`` is imported here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "model-engine"
OURS = "_QUEUE_TIMEOUT_GATE_"
PYTHON = os.environ.get("ACCEPTANCE_PYTHON", sys.executable)


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished call of ``pipeline.py``."""

    status: int
    stdout: str
    stderr: str

    @property
    def run_dir(self) -> Path:
        found = re.search(r"^run {2,}(\S+)$", self.stdout, re.MULTILINE)
        assert found, f"no run folder named in:\n{self.stdout}\n{self.stderr}"
        return Path(found[1])

    @property
    def summary(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text("utf-8"))
        return read

    @property
    def checks(self) -> dict[str, str]:
        """The outcome of every check of the run, by id; of one with several the last."""
        groups = self.summary["groups"]
        return {check["id"]: check["outcome"] for group in groups for check in group["checks"]}

    def error(self) -> tuple[str, str]:
        """Its last two lines, which have to be the error and its remedy."""
        error, remedy = self.stderr.strip().splitlines()[-2:]
        assert error.startswith("error: "), self.stderr
        assert remedy.startswith("remedy: "), self.stderr
        assert "Traceback" not in self.stderr
        return error, remedy


class Running:
    """A call of ``pipeline.py`` under way, in a process group of its own like a shell's job."""

    def __init__(self, words: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            words,
            cwd="/",
            # As from a shell of its user's: through the door, and not as a part of another run.
            env={n: v for n, v in os.environ.items() if not n.startswith(OURS)} | dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._out: list[str] = []
        self._err: list[str] = []
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._threads = [
            threading.Thread(target=self._out.extend, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._err.extend, args=(self.process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, text: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not any(text in line for line in list(self._err)):
            assert self.process.poll() is None, f"ended before {text!r}:\n{''.join(self._err)}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{''.join(self._err)}"
            time.sleep(0.1)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout: float) -> Ended:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGTERM)
            raise AssertionError(
                f"still running after {timeout} s:\n{''.join(self._err)}"
            ) from None
        for thread in self._threads:
            thread.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return Ended(self.process.returncode, "".join(self._out), "".join(self._err))


class Pipeline:
    """Starts ``pipeline.py``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(
        self, *words: str, settings: str | None = None, env: Mapping[str, str] | None = None
    ) -> Running:
        command = [PYTHON, str(ROOT / "pipeline.py"), *words]
        if settings is not None:
            file = self._folder / "pipeline.toml"
            file.write_text(settings, encoding="utf-8")
            command += ["--config", str(file)]
        if origin := os.environ.get("SELFTEST_TOOLCHAIN"):
            command += ["--toolchain", origin]
        return Running(tuple(command), env or {})

    def __call__(
        self,
        *words: str,
        settings: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> Ended:
        return self.start(*words, settings=settings, env=env).end(timeout)

    def live(self) -> dict[str, Any]:
        """What the demonstration target serves: revision, its status, digests on its pods."""
        ended = self("status", "--json")
        assert ended.status == 0, ended.stderr
        status = json.loads(ended.stdout)
        return {
            "revision": status["history"][-1]["number"],
            "status": status["history"][-1]["status"],
            "digests": {pod["digest"] for pod in status["pods"]},
            "tags": {pod["image"].rpartition(":")[2] for pod in status["pods"]},
        }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The flow first: it makes the target, and the proof, that the others ask for."""
    items.sort(key=lambda item: item.path.name != "test_flow.py")


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the sample service that a test may break."""
    copied = tmp_path / "model-engine"
    shutil.copytree(EXAMPLE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied


def containers(name: str) -> list[str]:
    """Docker containers of a kind cluster."""
    listed = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--filter", f"label=io.x-k8s.kind.cluster={name}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return listed.stdout.split()


@pytest.fixture
def no_gate_left() -> Iterator[None]:
    yield
    assert containers("gate") == [], "the gate cluster was left behind"
