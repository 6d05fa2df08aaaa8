"""One HTTP request to a service under test, never through a proxy of the environment's."""

from __future__ import annotations

import httpx

from ci.tools.api import Answer


def get(url: str, *, timeout: float) -> Answer:
    """What ``url`` answers within ``timeout`` seconds; code 0 when no answer came, and the text
    says why."""
    try:
        answer = httpx.get(url, timeout=timeout, trust_env=False)
        return Answer(answer.status_code, answer.text)
    except httpx.HTTPError as problem:
        return Answer(0, str(problem) or type(problem).__name__)
