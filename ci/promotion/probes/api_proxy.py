"""Requests through the API server's proxy, for a prober outside the cluster."""

from __future__ import annotations

from ci import redaction
from ci.model import Target
from ci.promotion.probes.prober import Send
from ci.promotion.release.health import service_path
from ci.tools.kube import Kube


def sender(kube: Kube, target: Target) -> Send:
    """Sends one probe through the API server, which picks a pod of the Service each time (a
    port-forward stays with one pod and would prove nothing about a rollout)."""
    where, seconds = service_path(target, target.probing.path), target.probing.timeout_seconds

    def send() -> str:
        answer = kube.ask("GET", where, timeout=seconds)
        if 0 < answer.code < 400:
            return ""
        body = redaction.text(" ".join(answer.text.split()))[:160]
        return f"HTTP {answer.code}: {body}" if answer.code else body

    return send
