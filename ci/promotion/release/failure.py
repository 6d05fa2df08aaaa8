"""Errors that carry the checks they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ci import texts
from ci.errors import PipelineError
from ci.results import Check, Phase

E = TypeVar("E", bound=PipelineError)


def failure(
    kind: type[E],
    phase: Phase,
    checks: Iterable[Check],
    *,
    context: str = "",
    remedy: str | None = None,
) -> E:
    """An error of ``kind`` with all of ``checks``; its message names those that failed, else
    those that are unknown, after ``context``."""
    made = tuple(checks)
    wrong = [check for check in made if check.failed] or [c for c in made if not c.passed]
    message = "; ".join(map(texts.sentence, wrong))
    error = kind(f"{context}: {message}" if context else message, remedy=remedy)
    return error.carrying(phase, *made)
