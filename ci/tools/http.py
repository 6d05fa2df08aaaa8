"""One HTTP request to a service under test, never through a proxy from the environment."""

from __future__ import annotations

import httpx

from ci.tools.api import Answer


def get(url: str, *, timeout: float) -> Answer:
    """The response of ``url`` within ``timeout`` seconds; code 0 when there was none, and the text
    says why."""
    try:
        answer = httpx.get(url, timeout=timeout, trust_env=False)
        return Answer(answer.status_code, answer.text)
    except httpx.HTTPError as problem:
        return Answer(0, str(problem) or type(problem).__name__)
