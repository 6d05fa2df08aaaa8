"""Why a promotion failed, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ci.errors import Interrupted, PromotionFailed, WaitTimeout, error_summary
from ci.promotion.release.rollout import UnrecoverablePod


def cause(problem: BaseException) -> str:
    """Why a promotion failed, in plain words."""
    match problem:
        case UnrecoverablePod(trouble=trouble):
            return f"the new version cannot start: {trouble}"
        case Interrupted() | KeyboardInterrupt():
            return "interrupted during the upgrade"
        case WaitTimeout():
            return f"the new version did not come up: {error_summary(problem)}"
        case _:
            return error_summary(problem)


def with_last_words(because: str, problem: BaseException, where: Path) -> str:
    """What the evidence adds to a cause: a crashed container's last line; of a wait that ended in
    vain, what forbade a pod (a quota, a policy), or why the probes of a pod failed."""
    if isinstance(problem, UnrecoverablePod):
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
    events = _lines(where / "events.txt")
    # Without a list of pods, those of all.
    for pod in unready_pods(_lines(where / "pods.txt")) or [r"\S+"]:
        if why := pulling(events, pod) or failed_probe(events, pod):
            return f"{because} ({why})"
    return because


def pulling(events: Iterable[str], pod: str) -> str:
    """The image that ``pod`` began to pull and does not have; empty when it has all. What hangs
    there reports no error: a registry that answers nothing, or slowly. ``pod`` is a pattern."""
    last = ""
    for line in events:
        if found := re.match(rf"\S*[ms]\s+\S+\s+(Pull\w+)\s+pod/({pod})\s+(.*)", line):
            last = f"pod {found[2]}: {found[3]}" if found[1] == "Pulling" else ""
    return last


def failed_probe(events: Iterable[str], pod: str) -> str:
    """What the probes of ``pod``, a pattern, failed by last; empty when none did."""
    said = [line for line in events if "probe failed" in line and re.search(rf"pod/{pod} ", line)]
    if not said:
        return ""
    before, words, after = said[-1].partition("probe failed")
    return f"{before.split()[-1].lower()} {words}{after[:160]}"


def unready_pods(listed: Iterable[str]) -> list[str]:
    """Names of pods that ``kubectl get pods`` showed with fewer containers ready than it has and
    which did not end; the youngest first, for what an earlier change left is not this one's."""
    row = r"(\S+)\s+(\d+)/(\d+)\s+(\S+)\s+\d+(?:\s+\(.*? ago\))?(?:\s+(\S+))?"
    rows = [found for line in listed if (found := re.match(row, line))]
    unready = [row for row in rows if int(row[2]) < int(row[3]) and row[4] != "Completed"]
    return [row[1] for row in sorted(unready, key=lambda row: _seconds(row[5] or ""))]


def _seconds(age: str) -> int:
    """An age as kubectl prints it: ``26s``, ``4m14s``, ``5d3h``."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 31_536_000}
    return sum(int(n) * unit[u] for n, u in re.findall(r"(\d+)([smhdy])", age))


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
