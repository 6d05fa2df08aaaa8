"""Endpoints of one test, which leave nothing behind."""

from __future__ import annotations

import uuid
from typing import Any

from tests.e2e.broker import Broker
from tests.e2e.gateway import Gateway


class Endpoints:
    """Makes endpoints under names of their own, and removes them with their queues."""

    def __init__(self, gateway: Gateway, broker: Broker | None) -> None:
        self._gateway = gateway
        self._broker = broker
        self._names: list[str] = []

    def name(self) -> str:
        """A name nobody else uses; whatever gets it is removed at the end."""
        name = f"e2e-{uuid.uuid4().hex[:12]}"
        self._names.append(name)
        return name

    def create(self, **options: Any) -> dict[str, Any]:
        """An endpoint that is READY."""
        name = self.name()
        self._gateway.create(name, **options)
        return self._gateway.wait_ready(name)

    def remove_all(self) -> None:
        """Through the API; what it leaves behind is removed too, and is a failure."""
        found = []
        for name in self._names:
            status = self._gateway.http.delete(f"/v1/model-endpoints/{name}").status_code
            if status != 404:
                found.append(name)
        try:
            for name in found:
                self._gateway.wait_gone(name)
        finally:
            left = [
                name
                for name in self._names
                if self._broker is not None and self._broker.delete(_queue(name))
            ]
        assert not left, f"endpoints were deleted and their queues were not: {left}"


def _queue(endpoint_name: str) -> str:
    return f"launch-endpoint-{endpoint_name}"
