"""The prober outside the cluster: this machine asks as the service's clients elsewhere do, by their
own way (an ingress, a load balancer, a name), of which those inside know nothing."""

from __future__ import annotations

import httpx

from ci.model import Target
from ci.promotion.probes.prober import Prober
from ci.promotion.release.session import TargetSession
from ci.results import ProbePlace


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
        place=ProbePlace.EXTERNAL,
        url=bare(probing.outside_url),
        began=session.events.began,
        allowed_failures=probing.allowed_failures,
    )


def bare(url: str) -> str:
    """A URL without credentials, query and fragment."""
    found = httpx.URL(url)
    return str(found.copy_with(userinfo=b"", query=None, fragment=None))


def client(target: Target) -> httpx.Client:
    """With a connection for each request: one that is kept tells nothing of whether a new client
    is let in, and may be closed by the other side just as it is used."""
    return httpx.Client(
        timeout=target.probing.timeout_seconds, limits=httpx.Limits(max_keepalive_connections=0)
    )
