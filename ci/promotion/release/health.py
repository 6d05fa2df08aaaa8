"""Whether a release answers: its health endpoints and its API description."""

from __future__ import annotations

import httpx

from ci import openapi_compat, redaction
from ci.model import Check, Target
from ci.openapi_compat import Document
from ci.promotion.release.session import TargetSession
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
            asked = [_asked(client, path, session.clock)]
            if asked[0][2] > HEALTH_SECONDS:
                # It may have been the way there: of three times the middle one counts.
                asked += [_asked(client, path, session.clock) for _ in range(2)]
            ok, said, taken = sorted(asked, key=lambda answer: answer[2])[len(asked) // 2]
            evidence = f"{said} in {taken * 1000:.0f} ms"
            if taken > HEALTH_SECONDS:
                evidence += f", the limit is {HEALTH_SECONDS:g} s"
            ok = ok and all(answer[0] for answer in asked) and taken <= HEALTH_SECONDS
            checks.append(Check(path, ok, evidence))
    return tuple(checks)


def _asked(client: httpx.Client, path: str, clock: Clock) -> tuple[bool, str, float]:
    """Whether one path answered 200, what it said, and in how many seconds."""
    begun = clock.monotonic()
    try:
        answer = client.get(path)
        said = " ".join(answer.text.split())[:120]
        ok, evidence = answer.status_code == 200, f"HTTP {answer.status_code} {said}"
    except httpx.HTTPError as problem:
        ok, evidence = False, str(problem) or type(problem).__name__
    return ok, redaction.text(evidence), clock.monotonic() - begun


def health_without_forward(kube: Kube, target: Target) -> tuple[Check, ...]:
    """The same through the API server: works while the run is being cancelled."""
    checks: list[Check] = []
    for path in target.health_paths:
        answer = kube.ask("GET", service_path(target, path), timeout=15)
        said = " ".join((answer.text if answer.ok else answer.problem).split())[:120]
        checks.append(Check(path, answer.ok, redaction.text(said)))
    return tuple(checks)


def service_path(target: Target, path: str) -> str:
    """A path of the Service as the API server forwards it: to any ready pod, each time anew."""
    return (
        f"/api/v1/namespaces/{target.namespace}/services/http:{target.gateway}:{target.port}"
        f"/proxy{path}"
    )


def openapi(kube: Kube, target: Target) -> Document | None:
    """How the service describes its API; ``None`` when it does not."""
    if not target.openapi_path:
        return None
    answer = kube.ask("GET", service_path(target, target.openapi_path), timeout=15)
    return openapi_compat.read(answer.text) if answer.ok else None


def compatible(kube: Kube, target: Target, before: Document | None) -> Check:
    """The API that serves now, held against the one that served ``before``."""
    return openapi_compat.check(
        "the API that serves is backward compatible",
        before,
        openapi(kube, target),
        missing=f"no description at {target.openapi_path or '-'}",
    )
