"""Why a promotion failed, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ci.errors import Interrupted, PromotionFailed, WaitTimeout
from ci.promotion import live
from ci.promotion.change import Hopeless


def cause(problem: BaseException) -> str:
    """Why a promotion failed, in plain words."""
    match problem:
        case Hopeless(trouble=trouble):
            return f"the new version cannot start: {trouble}"
        case Interrupted() | KeyboardInterrupt():
            return "interrupted during the upgrade"
        case WaitTimeout():
            return f"the new version did not come up: {live.failed_to_text(problem)}"
        case _:
            return live.failed_to_text(problem)


def with_last_words(because: str, problem: BaseException, where: Path) -> str:
    """What the evidence adds to a cause: a crashed container's last line; of a wait that ended in
    vain, what forbade a pod (a quota, a policy), or why the probes of a pod failed."""
    if isinstance(problem, Hopeless):
        if problem.trouble.reason != "CrashLoopBackOff":
            return because
        base = where / "logs" / f"{problem.trouble.pod}.{problem.trouble.container}"
        for suffix in (".previous.log", ".log"):
            lines = _lines(base.with_name(base.name + suffix))
            if lines:
                return f"{because}, its last words: {lines[-1][:200]}"
        return because
    waited = any(
        words in because for words in ("not ready", "deadline exceeded", "timed out waiting")
    )
    if not waited or not isinstance(problem, (PromotionFailed, WaitTimeout)):
        return because
    forbidden = [
        found[1]
        for line in _lines(where / "events.txt")
        if (found := re.match(r"\S*[ms]\s.*\sFailedCreate\s.*?Error creating: (.*)", line))
    ]
    if forbidden:
        return f"{because} ({forbidden[-1][:200]})"
    unready = unready_pods(_lines(where / "pods.txt"))
    if waiting := pulling(_lines(where / "events.txt"), unready):
        return f"{because} ({waiting})"
    probes = [
        line
        for line in _lines(where / "events.txt")
        if "probe failed" in line
        and (not unready or any(f"pod/{name} " in line for name in unready))
    ]
    if probes:
        words = probes[-1].partition("probe failed")
        return f"{because} ({words[0].split()[-1].lower()} probe failed{words[2][:160]})"
    return because


def pulling(events: Iterable[str], pods: Iterable[str]) -> str:
    """The image that one of ``pods`` began to pull and does not have; empty when none does. What
    hangs there reports no error: a registry that answers nothing, or slowly."""
    last: dict[str, str] = {}
    for line in events:
        if found := re.match(r"\S*[ms]\s+\S+\s+(Pull\w+)\s+pod/(\S+)\s+(.*)", line):
            last[found[2]] = found[3] if found[1] == "Pulling" else ""
    return next((f"pod {pod}: {last[pod]}" for pod in pods if last.get(pod)), "")


def unready_pods(listed: Iterable[str]) -> list[str]:
    """Names of pods that ``kubectl get pods`` showed with fewer containers ready than it has."""
    counted = (re.match(r"(\S+)\s+(\d+)/(\d+)\s", line) for line in listed)
    return [found[1] for found in counted if found and int(found[2]) < int(found[3])]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
