"""The prober outside the cluster: this machine asks as the service's clients elsewhere do, by their
own way (an ingress, a load balancer, a name), of which those inside know nothing."""

from __future__ import annotations

import httpx

from ci.model import Target
from ci.promotion.probes.prober import Prober
from ci.promotion.release.session import TargetSession


def prober(session: TargetSession, client: httpx.Client) -> Prober:
    """Of ``probing.outside_url``."""
    probing = session.target.probing

    def send() -> str:
        try:
            answer = client.get(probing.outside_url)
        except httpx.HTTPError as problem:
            return f"{type(problem).__name__}: {problem}"[:160]
        return "" if answer.status_code < 400 else f"HTTP {answer.status_code}"

    return Prober(
        send,
        per_second=probing.per_second,
        timeout=probing.timeout_seconds,
        clock=session.for_cleanup().clock,
        where=f"from outside, {probing.outside_url}",
        what="requests from outside",
    )


def client(target: Target) -> httpx.Client:
    """With a connection for each request: one that is kept tells nothing of whether a new client
    is let in, and may be closed by the other side just as it is used."""
    return httpx.Client(
        timeout=target.probing.timeout_seconds, limits=httpx.Limits(max_keepalive_connections=0)
    )
