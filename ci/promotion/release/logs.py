"""Error lines in the logs of a release's pods."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ci import redaction
from ci.model import Target
from ci.promotion.release.rollout import (
    service_containers,
)
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    Measured,
    Names,
    Problem,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools.kube import Kube

ERROR_LINE = re.compile(
    r"\b(ERROR|CRITICAL|FATAL)\b|^Traceback \(most recent call last\)|^panic:"
    r'|"(level|severity|levelname)":\s*"(error|critical|fatal)"',
)
SHOWN = 5
"""So many error lines are kept in a check."""


@dataclass(frozen=True, slots=True)
class ErrorLines:
    """The error lines of several pods, and which pods' logs could be read at all."""

    lines: tuple[str, ...]
    """Each with the pod it is from, secrets removed."""
    read: tuple[str, ...] = ()
    """Pods of which every service container's log was read."""
    unread: tuple[str, ...] = ()
    """Pods of which a log could not be read, or which have no service container."""
    because: Because = Because.NO_ANSWER
    """Why the first of ``unread`` was not read."""
    problem: str = ""
    """The same in the words of the API."""

    def check(self) -> Check:
        """Failed where an error line was seen; unknown where none was and a pod's log could not
        be read, or there was no pod to read."""
        missing: tuple[Measured, ...] = ()
        if self.unread:
            missing = (Names(Unit.PODS, self.unread[:SHOWN], len(self.unread)),)
            missing += (Problem(self.problem),) if self.problem else ()
        if self.lines:
            seen = Names(Unit.LOG_LINES, self.lines[:SHOWN], len(self.lines))
            return failed(CheckId.LOGS_NO_ERRORS, seen, *missing)
        read = Count(Unit.PODS, len(self.read))
        if self.unread or not self.read:
            return unknown(CheckId.LOGS_NO_ERRORS, self.because, *(missing or (read,)))
        return passed(CheckId.LOGS_NO_ERRORS, read)


def error_lines(
    kube: Kube,
    target: Target,
    pods: Sequence[Mapping[str, Any]],
    *,
    tail: int = 2000,
    since: int | None = None,
    repository: str = "",
) -> ErrorLines:
    """Lines of the service's containers that report an error, and the pods that could not be read.

    Of the last ``since`` seconds when given; ``repository`` is where old pods' image is from,
    the target's own when left out.
    """
    recent = {} if since is None else {"sinceSeconds": since}
    containers = {
        str(pod["metadata"]["name"]): tuple(
            service_containers(pod["spec"], repository or target.image_repository)
        )
        for pod in pods
    }
    asked = [(name, container) for name, each in containers.items() for container in each]
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="logs") as pool:
        answers = list(
            pool.map(
                lambda each: kube.logs(
                    each[0], target.namespace, container=each[1], tailLines=tail, **recent
                ),
                asked,
            )
        )
    refused = {name: answer for (name, _), answer in zip(asked, answers, strict=True)
               if not answer.ok}  # fmt: skip
    unread = tuple(name for name, each in containers.items() if name in refused or not each)
    first = next(iter(refused.values()), None)
    return ErrorLines(
        tuple(
            f"{name}: {redaction.text(line.strip())[:200]}"
            for (name, _), answer in zip(asked, answers, strict=True)
            if answer.ok
            for line in answer.text.splitlines()
            if ERROR_LINE.search(line)
        ),
        tuple(name for name in containers if name not in unread),
        unread,
        Because.FORBIDDEN if first is not None and first.code in (401, 403) else Because.NO_ANSWER,
        redaction.text(first.problem)[:200] if first is not None else "",
    )
