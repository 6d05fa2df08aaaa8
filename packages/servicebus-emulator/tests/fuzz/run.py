"""Fuzz the emulator's readers, guided by coverage (atheris, which is libFuzzer).

    python -m tests.fuzz.run [--seconds 600] [--jobs 2] [--memory 512] [--keep] [TARGET ...]

Each target gets ``--seconds``, in a process of its own with at most ``--memory`` MiB; one input may
take 5 s. An exception that a target does not expect, too much memory and too much time are crashes:
exit code 1, and the input stays in ``crashes/`` with the command that repeats it. ``--keep`` puts
what was found into the corpus, reduced to what adds coverage.

Atheris is not among the project's dependencies, for there is no wheel of it for every Python that
the project runs on: ``pip install --require-hashes -r tests/fuzz/requirements.lock``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CRASHES = HERE / "crashes"
SECONDS_FOR_ONE = 5
LONGEST = 4_096
"""Bytes of an input: room for every structure, and no time spent on mere length."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a target's run ended."""

    target: str
    crashed: bool
    runs: int
    kept: int
    peak_mib: int
    said: str


def fuzz(target: str, seconds: int, memory: int, *, keep: bool) -> Result:
    """Run one target."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        found, reduced = Path(name) / "found", Path(name) / "reduced"
        for folder in (found, reduced):
            folder.mkdir()
        for number, data in enumerate((*corpus.read(target), *corpus.seeds(target))):
            (found / f"{number:05}").write_bytes(data)
        CRASHES.mkdir(exist_ok=True)
        options = (
            f"-rss_limit_mb={memory}",
            f"-timeout={SECONDS_FOR_ONE}",
            f"-max_len={LONGEST}",
        )
        ended = _start(
            target,
            f"-max_total_time={seconds}",
            *options,
            f"-artifact_prefix={CRASHES}/{target}-",
            "-print_final_stats=1",
            str(found),
        )
        crashed = ended.returncode != 0
        if keep and not crashed:
            _start(target, "-merge=1", *options, str(reduced), str(found))
            corpus.write(target, (file.read_bytes() for file in reduced.iterdir()))
        return Result(
            target,
            crashed,
            _number(ended.stderr, r"stat::number_of_executed_units:\s*(\d+)"),
            len(corpus.read(target)),
            _number(ended.stderr, r"stat::peak_rss_mb:\s*(\d+)"),
            ended.stderr + ended.stdout,
        )


def _start(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "tests.fuzz.one", target, *options),
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def main() -> int:
    """Run the targets; 1 where one crashed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once (%(default)s)")
    parser.add_argument("--memory", type=int, default=512, help="MiB of a target (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="put what was found into the corpus")
    given = parser.parse_args()
    unknown = sorted(set(given.targets) - set(TARGETS))
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there is {', '.join(TARGETS)}")
    if find_spec("atheris") is None:
        parser.error("atheris is missing: pip install -r tests/fuzz/requirements.lock")
    crashed = False
    with ThreadPoolExecutor(given.jobs) as pool:
        for result in pool.map(
            lambda target: fuzz(target, given.seconds, given.memory, keep=given.keep),
            given.targets or TARGETS,
        ):
            crashed |= result.crashed
            print(
                f"{result.target}: {'CRASHED' if result.crashed else 'no crash'}, "
                f"{result.runs} runs, at most {result.peak_mib} MiB, {result.kept} inputs kept",
                flush=True,
            )
            if result.crashed:
                print("\n".join(result.said.splitlines()[-40:]), flush=True)
                print(f"to repeat: python -m tests.fuzz.one {result.target} CRASHES/FILE")
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
