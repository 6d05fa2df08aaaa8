"""Whether a release answers: its health endpoints and its API description."""

from __future__ import annotations

from dataclasses import replace

import httpx

from ci import openapi_compat, redaction
from ci.model import Target
from ci.openapi_compat import Described
from ci.promotion.release.session import TargetSession
from ci.results import Because, Check, CheckId, HttpAnswer, judged
from ci.tools.kube import Kube
from ci.tools.wait import Clock

HEALTH_SECONDS = 1.0
"""Within which a health path has to answer: the time-out of the plan's own readiness probe."""


def health(session: TargetSession, *, kube: Kube | None = None) -> tuple[Check, ...]:
    """Every health path through a port-forward, as the upgrade plan asks it."""
    target = session.target
    kube = kube or session.kube
    checks: list[Check] = []
    with (
        kube.forward_to_service(target.namespace, target.gateway, target.port) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False) as client,
    ):
        for path in target.health_paths:
            answers = [_answer(client, path, session.clock)]
            if _seconds(answers[0]) > HEALTH_SECONDS:
                # It may have been the way there: of three times the middle one counts.
                answers += [_answer(client, path, session.clock) for _ in range(2)]
            middle = sorted(answers, key=_seconds)[len(answers) // 2]
            bad = [answer for answer in answers if answer.status != 200]
            ok = not bad and _seconds(middle) <= HEALTH_SECONDS
            checks.append(judged(CheckId.HEALTH_PATH, ok, *(bad[:1] or [middle]), subject=path))
    return tuple(checks)


def _answer(client: httpx.Client, path: str, clock: Clock) -> HttpAnswer:
    """What one path answered, and in how many seconds."""
    begun = clock.monotonic()
    try:
        response = client.get(path)
        answer = HttpAnswer(response.status_code, body=_short(response.text))
    except httpx.HTTPError as problem:
        answer = HttpAnswer(0, body=_short(str(problem) or type(problem).__name__))
    return replace(answer, seconds=clock.monotonic() - begun, limit_seconds=HEALTH_SECONDS)


def _seconds(answer: HttpAnswer) -> float:
    return answer.seconds or 0.0


def _short(text: str) -> str:
    return redaction.text(" ".join(text.split())[:120])


def health_without_forward(kube: Kube, target: Target) -> tuple[Check, ...]:
    """The same through the API server: works while the run is being cancelled."""
    checks: list[Check] = []
    for path in target.health_paths:
        answer = kube.ask("GET", service_path(target, path), timeout=15)
        measured = HttpAnswer(answer.code, body=_short(answer.text))
        checks.append(judged(CheckId.HEALTH_PATH, answer.ok, measured, subject=path))
    return tuple(checks)


def service_path(target: Target, path: str) -> str:
    """A path of the Service as the API server forwards it: to any ready pod, each time anew."""
    return (
        f"/api/v1/namespaces/{target.namespace}/services/http:{target.gateway}:{target.port}"
        f"/proxy{path}"
    )


def openapi(kube: Kube, target: Target) -> Described:
    """How the service describes its API, or why there is no description."""
    if not target.openapi_path:
        return Because.NOT_DESCRIBED
    answer = kube.ask("GET", service_path(target, target.openapi_path), timeout=15)
    if answer.ok:
        return openapi_compat.read(answer.text) or Because.NOT_DESCRIBED
    if answer.code in (401, 403):
        return Because.FORBIDDEN
    return Because.NOT_DESCRIBED if 400 <= answer.code < 500 else Because.NO_ANSWER


def compatible(kube: Kube, target: Target, before: Described) -> Check:
    """The live API, held against the one ``before`` the change."""
    id = CheckId.API_STILL_COMPATIBLE
    return openapi_compat.check(id, before, openapi(kube, target), path=target.openapi_path)
