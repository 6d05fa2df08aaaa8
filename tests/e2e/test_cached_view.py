"""The cacher's view of the records, where the target runs a cacher."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.endpoints import Endpoints
from tests.e2e.gateway import Gateway
from tests.e2e.target import Target
from tests.e2e.waiting import wait_for


@pytest.mark.slow
def test_the_cached_view_follows_the_record(
    endpoints: Endpoints, gateway: Gateway, target: Target
) -> None:
    if not target.cacher:
        pytest.skip("the target runs no cacher")
    endpoint = endpoints.create(queue_message_timeout_duration=25)

    def look() -> tuple[int, Any]:
        answer = gateway.http.get(f"/v1/model-endpoints/{endpoint['name']}?view=cache")
        return answer.status_code, answer.json()

    wait_for(
        "the record in the cache",
        look,
        lambda seen: seen == (200, endpoint),
    )
    gateway.delete(endpoint["name"])
    wait_for("the record to leave the cache", look, lambda seen: seen[0] == 404)
