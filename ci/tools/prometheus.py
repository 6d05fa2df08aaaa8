"""A Prometheus (or what speaks its HTTP API: Thanos, Mimir, Azure Monitor) asked for a number."""

from __future__ import annotations

import math
from types import TracebackType

import httpx


class Prometheus:
    """Instant queries; a connection is kept while in the ``with`` block.

    ``url`` is where ``/api/v1`` is; ``token`` is sent as a bearer token when there is one.
    """

    def __init__(self, url: str, *, token: str = "", timeout: float = 10.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout, follow_redirects=True
        )

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, query: str) -> tuple[float | None, str]:
        """The largest sample now and nothing; else nothing, and in words why there is none.

        https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
        """
        try:
            answer = self._client.post("/api/v1/query", data={"query": query})
            said = answer.json()
        except httpx.HTTPError as problem:
            return None, f"{type(problem).__name__}: {problem}"
        except ValueError:
            return None, f"HTTP {answer.status_code}, and no JSON"
        try:
            if said["status"] != "success":
                return None, f"{said.get('errorType', 'error')}: {said.get('error', '')}"[:300]
            found = said["data"]["result"]
            if said["data"]["resultType"] == "vector":
                pairs = [sample["value"] for sample in found]
            elif said["data"]["resultType"] == "scalar":
                pairs = [found]
            else:
                return None, f"the result is a {said['data']['resultType']}, not a number"
            values = [float(value) for _, value in pairs]
        except (KeyError, TypeError, ValueError):
            return None, "the answer is not of Prometheus' form"
        numbers = [value for value in values if not math.isnan(value)]
        return (max(numbers), "") if numbers else (None, "no sample")
