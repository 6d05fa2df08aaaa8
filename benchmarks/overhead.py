"""Times a whole promotion against a bare ``helm upgrade --wait``, in turn and in one run.

Both change the demonstration target from its previous image to the one that was proven last. The
difference is the price of everything that the promotion does beside the upgrade; where it goes is
read from the promotion's own record. Written to ``benchmarks/PROMOTION.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.compare import ROOT, measure, note_to
from ci import texts
from ci.model import Image
from ci.promotion.release import reader
from ci.promotion.release.rollout import Expected
from ci.promotion.release.session import TargetSession
from ci.report import files
from ci.results import CheckId, StepId
from ci.run import state as homes
from ci.run.context import Context
from ci.run.events import Events
from ci.settings import DEMO_TARGET, load
from ci.stages import build, prove
from ci.toolchain import obtain
from ci.tools.command import Programs
from ci.tools.wait import SystemClock
from ci.workflow import environments

RESULTS = ROOT / "benchmarks" / "PROMOTION.md"
GOAL_SECONDS = 15
SETTLE_SECONDS = 180
PIPELINE = [sys.executable, str(ROOT / "pipeline.py")]


@dataclass(frozen=True, slots=True)
class Promoted:
    """One promotion: how long the program took, and each of its steps."""

    seconds: float
    parts: Mapping[str, float]
    """Seconds that nothing but this part took, by name; together they are ``seconds``."""
    requests: str
    tasks: str


def opened(env: Mapping[str, str], folder: Path) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    clock, programs = SystemClock(), Programs(env=env, logs=folder / "logs")
    events, home = Events(clock), homes.Home(homes.path(env))
    tools = obtain(home.folder, programs, clock, events, env)
    return Context(ROOT, load(ROOT / "pipeline.toml"), tools, programs, clock, events, folder, home)


def helm_upgrade(session: TargetSession, tag: str, log: Path) -> float:
    """What the upgrade plan types by hand, and nothing else. Seconds."""
    helm, target = session.helm, session.target
    words = helm.upgrade_words(target.release, target.chart, {target.tag_value: tag})
    argv = helm.argv(*words, "--wait", "--timeout", "10m", namespace=target.namespace)
    return measure(argv, session.env, log).seconds


def settle(session: TargetSession, tag: str) -> None:
    """Until only pods of ``tag`` are left: terminating pods must not count."""
    target = session.target
    expected = Expected(
        target.deployments, target.gateway, target.image_repository, tag, frozenset()
    )
    reader.wait_complete(
        session.kube, target, expected, timeout=SETTLE_SECONDS, clock=session.clock
    )


def promotion(image: Image, env: Mapping[str, str]) -> Promoted:
    """``pipeline.py promote`` as its user starts it."""
    log = ROOT / "runs" / "benchmark-promotion" / "promote.log"
    run = homes.run_id(datetime.now(UTC))
    words = [*PIPELINE, "promote", "--image", image.by_digest]
    taken = measure(words, {**env, homes.RUN_ID: run}, log).seconds
    return recorded(ROOT / "runs" / run, taken)


def recorded(run: Path, taken: float) -> Promoted:
    """A promotion that took ``taken`` seconds, from its run's folder."""
    summary = files.summary(run)
    checks = {check.id: check for check in summary.checks} if summary else {}
    for id in (CheckId.REQUESTS_ANSWERED, CheckId.TASKS_EXECUTED_ONCE):
        if id not in checks or not checks[id].passed:
            sys.exit(
                f"error: a promotion without its safety measures nothing: {id.value} did not pass\n"
                f"remedy: see {run / 'report.html'}"
            )
    return Promoted(
        taken,
        parts(run, taken),
        texts.evidence(checks[CheckId.REQUESTS_ANSWERED]),
        texts.evidence(checks[CheckId.TASKS_EXECUTED_ONCE]),
    )


def parts(run: Path, taken: float) -> dict[str, float]:
    """Where the time went, by what had to be waited for: the queue time-out test runs beside the
    last old pods' end, so that only what it takes beyond that counts for it."""
    at: dict[tuple[str, str], float] = {}
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        at[event["kind"], event["step"]] = float(event["at"])
    began = {step: when for (kind, step), when in at.items() if kind == "step.started"}
    ended = {step: when for (kind, step), when in at.items() if kind == "step.finished"}
    promote, upgrade = StepId.PROMOTE, StepId.UPGRADE
    drained, tested = ended[StepId.CHECK_HEALTH], ended[StepId.TEST_TARGET]
    accounted = ended[StepId.ACCOUNT_REQUESTS]
    return {
        "start: tools, evidence, the target": began[promote],
        "questions, backups, plan, first answers": began[upgrade] - began[promote],
        "`helm upgrade --wait`, watched": ended[upgrade] - began[upgrade],
        "until the last old pod has drained, and health": drained - ended[upgrade],
        "queue time-outs on the target, beyond that": tested - drained,
        "account for requests and tasks": accounted - tested,
        "remove the probers, release the Lease": ended[promote] - accounted,
        "verify the criteria": ended[StepId.VERIFY] - ended[promote],
        "the interpreter's start, summary and report": taken - ended[StepId.VERIFY],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks/promotion", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs (default 5)")
    chosen = parser.parse_args()
    env, say = dict(os.environ), note_to(sys.stderr.write)
    folder = ROOT / "runs" / "benchmark-promotion"
    context = opened(env, folder)
    say("one run of the pipeline, not counted: it makes the target and proves an image")
    measure(PIPELINE, env, folder / "run.log")
    new = prove.last(context)
    old = build.find(context, context.settings.image.name, environments.PREVIOUS_TAG)
    if new is None or old is None:
        sys.exit(f"error: nothing to promote\nremedy: see {folder / 'run.log'}")
    session = environments.found_target(context, environments.resolve(context, DEMO_TARGET))
    bare: list[float] = []
    whole: list[Promoted] = []
    log = folder / "helm.log"

    def back() -> None:
        helm_upgrade(session, old.tag, log)
        settle(session, old.tag)

    for number in range(chosen.pairs + 1):  # the first pair warms up
        back()
        bare.append(helm_upgrade(session, new.tag, log))
        settle(session, new.tag)
        back()
        whole.append(promotion(new, env))
        name = f"{number} of {chosen.pairs}" if number else "not counted"
        say(f"{name}: helm upgrade {bare[-1]:.1f} s, promotion {whole[-1].seconds:.1f} s")
    RESULTS.write_text(report(bare[1:], whole[1:], os.cpu_count() or 0), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


def report(bare: Sequence[float], whole: Sequence[Promoted], cores: int) -> str:
    """PROMOTION.md. The figure that counts is the first."""
    seconds = [promoted.seconds for promoted in whole]
    overhead = statistics.median(w - b for w, b in zip(seconds, bare, strict=True))
    rows = [
        ("overhead: median of the pairs' differences", f"{overhead:.1f} s", f"<= {GOAL_SECONDS} s"),
        ("a whole `promote`", f"{statistics.median(seconds):.1f} s", ""),
        ("bare `helm upgrade --wait`", f"{statistics.median(bare):.1f} s", ""),
    ]
    figures = "".join(f"| {what} | {value} | {goal} |\n" for what, value, goal in rows)
    spent = "".join(
        f"| {name} | {statistics.median(p.parts[name] for p in whole):.1f} |\n"
        for name in whole[0].parts
    )
    times = {"helm": [round(b, 1) for b in bare], "promote": [round(s, 1) for s in seconds]}
    return f"""# What a promotion costs

Measured {datetime.now(UTC):%Y-%m-%d} by `benchmarks/promotion` on {cores} cores \
({platform.machine()}), {len(bare)} pairs in turn, medians. Both change the demonstration target \
between the same two images; before each, only pods of the old one are left. `promote` is the \
whole program, from its start to its exit, without a soak.

| what | measured | goal |
|---|---|---|
{figures}
The last promotion's requests: {whole[-1].requests}. Its tasks: {whole[-1].tasks}.

## Where the seconds go

Medians of what nothing else ran beside. The test of the queue time-outs takes about 7 s: a lock \
of 5 s, Service Bus's shortest, has to run out. It begins once new pods alone serve, while old \
ones of the gateway drain; a bare `helm upgrade --wait` does not wait for these.

| part | seconds |
|---|---|
{spent}
Every run, in seconds: `{json.dumps(times)}`
"""


if __name__ == "__main__":
    main()
