"""SIGKILL at every step of the journal: what each has to leave, and the account of many of them.

``python -m tests.failure_injection.kills --times 5`` kills five times at every step, on a
cluster of its own, adds what came of it to ``runs/kills.jsonl``, and writes
``tests/failure_injection/KILLS.md`` from all of that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ci.cli.selftest import FAILURE_INJECTION, FAILURE_INJECTION_WORKERS
from ci.errors import PlanRefused
from ci.promotion.release import lease
from ci.results import StepId
from tests.failure_injection.rig import RELEASE, ROOT, Place, kill, processes
from tests.failure_injection.victim import killed

RECORD = ROOT / "runs" / "kills.jsonl"
TABLE = Path(__file__).with_name("KILLS.md")
FOLDER = "kills"
"""Below the rig's folder: a file per case, a line per kill."""


class Leaves(StrEnum):
    """What a kill leaves behind."""

    NOTHING = "nothing to repair: the next promotion may begin"
    HALF = "half a change: the next promotion is refused, the next rollback repairs"


@dataclass(frozen=True, slots=True)
class Kill:
    """Where in a promotion of ``version``, or in a rollback when that is empty, and what is left
    then."""

    step: StepId
    leaves: Leaves
    version: str = "v2"
    later: float = 0.0
    """Seconds into the step; at 0 nothing of the step has been done."""

    def __str__(self) -> str:
        what = "a promotion" if self.version else "a rollback"
        when = f" after {self.later:g} s" if self.later else ""
        return f"{what}: {self.step}{when}"


BAD = "bad-unhealthy"
"""Comes up, and is found wanting: its promotion goes the whole way back."""
BEFORE = tuple(
    Kill(step, Leaves.NOTHING)
    for step in (
        StepId.CHECK_PROOF, StepId.FIND_RELEASE, StepId.ACQUIRE_LEASE, StepId.RESOLVE_DIGEST,
        StepId.INSPECT_RELEASE, StepId.START_PROBERS, StepId.BACK_UP, StepId.PLAN, StepId.PREFLIGHT,
        StepId.BASELINE_PROBE, StepId.RECHECK_RELEASE,
    )
)  # fmt: skip
"""Before anything is changed."""
AFTER = (
    # The journal says "upgrading", and Helm has not begun.
    Kill(StepId.UPGRADE, Leaves.NOTHING),
    Kill(StepId.UPGRADE, Leaves.HALF, later=2.5),
    Kill(StepId.VERIFY_DIGESTS, Leaves.HALF),
    Kill(StepId.CHECK_HEALTH, Leaves.HALF),
    Kill(StepId.TEST_TARGET, Leaves.HALF),
    Kill(StepId.SOAK, Leaves.HALF),
    Kill(StepId.SOAK, Leaves.HALF, later=3.0),
    Kill(StepId.ACCOUNT_REQUESTS, Leaves.HALF),
    Kill(StepId.REACH_CLUSTER, Leaves.HALF, BAD),
    Kill(StepId.COLLECT_DIAGNOSTICS, Leaves.HALF, BAD),
    Kill(StepId.HELM_ROLLBACK, Leaves.HALF, BAD),
    Kill(StepId.HELM_ROLLBACK, Leaves.HALF, BAD, later=1.5),
    Kill(StepId.VERIFY_ROLLBACK, Leaves.NOTHING, BAD),
)
REPAIRS = (
    Kill(StepId.HELM_ROLLBACK, Leaves.HALF, ""),
    Kill(StepId.HELM_ROLLBACK, Leaves.HALF, "", later=1.5),
    Kill(StepId.VERIFY_ROLLBACK, Leaves.NOTHING, ""),
)
"""Of the rollback that repairs what a promotion left, one after the other."""


LEFT = "left to the next"
"""What a kill of a rollback leaves, which the next one repairs."""


@dataclass(slots=True)
class Outcome:
    """One kill and what came of it."""

    kill: str
    serving: str = ""
    """What answered right after the kill."""
    end: str = ""
    """What serves in the end."""
    sent: int = 0
    failed: int = 0
    seconds: float = 0.0
    problem: str = ""
    """What was otherwise than promised; its case has failed then."""


def survive(place: Place, shot: Kill) -> None:
    """Kill once, look at once, repair, look again, and write down what came of it."""
    outcome, begun = Outcome(str(shot)), time.monotonic()
    sent, failed = place.witnessed()

    def write_down() -> None:
        now = place.witnessed()
        outcome.sent, outcome.failed = now[0] - sent, now[1] - failed
        outcome.seconds = round(time.monotonic() - begun, 1)
        file = place.rig.folder / FOLDER / f"{place.row.case}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(asdict(outcome)) + "\n")

    try:
        _survive(place, shot, outcome)
    except Exception as problem:  # Ctrl-C is no outcome
        outcome.problem = " ".join(f"{type(problem).__name__}: {problem}".split())[-300:]
        write_down()
        raise
    write_down()


def _survive(place: Place, shot: Kill, outcome: Outcome) -> None:
    """What a kill of a promotion finds and leaves is v1, deployed; that of a rollback may leave
    to the next one what it found."""
    killed(place, shot.version, shot.step, shot.later)
    # Helm is a process of its own. Here it dies with the run, as in a power cut.
    kill(processes(place.namespace, "helm"))
    serving = place.end()
    outcome.serving = serving.version
    assert set(serving.version.split("+")) <= {"v1", shot.version or "v2"}, serving
    if shot.leaves is Leaves.HALF:
        place.refused(PlanRefused, "pipeline.py rollback")(place.promote, "v2")
        if shot.version:
            place.rollback()
    else:
        # Nobody may hold it: the next promotion begins by taking it.
        with lease.Lease(place.kube, release=RELEASE, namespace=place.namespace):
            assert (serving.version, serving.status) == ("v1", "deployed")
    if shot in BEFORE:
        assert serving.revision == place.first
        assert serving.digests == {place.rig.images["v1"].digest}
        place.saw(serving)
    elif shot.version:
        place.first = place.history()[-1].number
        place.ends("v1", 1)
    outcome.end = place.row.serves if shot.version else LEFT
    place.nothing_lost()


# -- many of them ----------------------------------------------------------------------------------


COLUMNS = (
    "killed in", "times", "served then", "left", "in the end", "lost of sent", "otherwise",
    "seconds, median",
)  # fmt: skip


def table(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """The account, a row per step."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for shot in (*BEFORE, *AFTER, *REPAIRS):
        mine = [outcome for outcome in outcomes if outcome["kill"] == str(shot)]
        took = sorted(outcome["seconds"] for outcome in mine)
        rows.append(
            [
                str(shot),
                str(len(mine)),
                _counted(outcome["serving"] for outcome in mine),
                shot.leaves.partition(":")[0],
                _counted(outcome["end"] for outcome in mine),
                f"{sum(o['failed'] for o in mine)} of {sum(o['sent'] for o in mine)}",
                str(sum(bool(o["problem"]) for o in mine)),
                f"{took[len(took) // 2]:.0f}" if took else "-",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word or 'nothing'}: {n}" for word, n in Counter(words).most_common())


def document(outcomes: Sequence[Mapping[str, Any]]) -> str:
    lost, sent, otherwise = (
        sum(outcome["failed"] for outcome in outcomes),
        sum(outcome["sent"] for outcome in outcomes),
        sum(bool(outcome["problem"]) for outcome in outcomes),
    )
    return f"""# SIGKILL at every step of the journal

{len(outcomes)} kills, the last on {datetime.now(UTC):%Y-%m-%d}, by calls of
`python -m tests.failure_injection.kills --times N`, whose counts add up.

A promotion, or the rollback that repairs what a killed one left, is a process of its own that kills
itself as a step begins, or so many seconds later; its Helm is killed with it. Right after that the
Service has to answer, and whoever comes next gets the lock at once. What is left is either nothing
to repair, or half a change: the next promotion is refused, and one rollback puts it right. In the
end `v1` has to serve, by its digest on every pod, deployed, with the lock free. A witness in the
cluster, of which the promotion knows nothing, lost {lost} of its {sent} requests; {otherwise} kills
ended otherwise than promised.

{table(outcomes)}{_otherwise(outcomes)}"""


def _otherwise(outcomes: Sequence[Mapping[str, Any]]) -> str:
    said = [f"- {each['kill']}: {each['problem']}\n" for each in outcomes if each["problem"]]
    return "".join(["\n## Otherwise than promised\n\n", *said]) if said else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="SIGKILL at every step, many times.")
    parser.add_argument("--times", type=int, default=5, help="at every step (default: 5)")
    parser.add_argument("--only", default="", help="tests by pytest's -k")
    given = parser.parse_args()
    reports = ROOT / "runs" / "kills"
    reports.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v"),
            *("-n", FAILURE_INJECTION_WORKERS),
            *("-k", given.only, "tests/failure_injection/test_kills.py"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "FAILURE_INJECTION_KILLS": str(given.times),
            "FAILURE_INJECTION_REPORTS": str(reports),
        },
        check=False,
    )
    files = sorted((reports / FAILURE_INJECTION / FOLDER).glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    with RECORD.open("a", encoding="utf-8") as sink:
        sink.writelines(f"{line}\n" for line in lines)
    every = [json.loads(line) for line in RECORD.read_text("utf-8").splitlines()]
    TABLE.write_text(document(every), encoding="utf-8")
    print(f"{len(lines)} kills in {time.monotonic() - begun:.0f} s, {len(every)} in all")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
