"""Queries to Prometheus, or to another service with its HTTP API (Thanos, Mimir, Azure Monitor)."""

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
        """(largest sample of an instant query, ""); or (``None``, why there is none).

        https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
        """
        try:
            answer = self._client.post("/api/v1/query", data={"query": query})
            body = answer.json()
        except httpx.HTTPError as problem:
            return None, f"{type(problem).__name__}: {problem}"
        except ValueError:
            return None, f"HTTP {answer.status_code} without JSON"
        try:
            if body["status"] != "success":
                return None, f"{body.get('errorType', 'error')}: {body.get('error', '')}"[:300]
            result = body["data"]["result"]
            if body["data"]["resultType"] == "vector":
                pairs = [sample["value"] for sample in result]
            elif body["data"]["resultType"] == "scalar":
                pairs = [result]
            else:
                return None, f"the result is a {body['data']['resultType']}, not a number"
            values = [float(value) for _, value in pairs]
        except (KeyError, TypeError, ValueError):
            return None, "the response is not one of the Prometheus HTTP API"
        numbers = [value for value in values if not math.isnan(value)]
        return (max(numbers), "") if numbers else (None, "no sample")
