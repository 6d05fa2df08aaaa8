"""The release that is tested, as the JSON file named by ``E2E_TARGET`` describes it::

    {
      "name": "gate",
      "gateway_url": "http://127.0.0.1:18080",
      "image_version": "queue-timeout-20260101-120000",
      "health_paths": ["/health", "/healthz", "/readyz"],
      "servicebus": {
        "connection_string": "Endpoint=sb://localhost:15672;...;UseDevelopmentEmulator=true",
        "admin_connection_string": "Endpoint=sb://localhost:15443;...",
        "ca_file": "ca.crt"
      },
      "cacher": false
    }

``image_version`` may be null (any version is right), ``admin_connection_string`` may be left out
(the same as ``connection_string``), ``ca_file`` may be null (public certificate authorities).
With ``E2E_TARGET_WAIT`` the file may appear that many seconds later, at once and whole.
Without ``servicebus`` the cases that look at the broker are skipped, and say so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.waiting import wait_for


@dataclass(frozen=True, slots=True)
class ServiceBus:
    connection_string: str = field(repr=False)
    admin_connection_string: str = field(repr=False)
    ca_file: str | None


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    gateway_url: str
    image_version: str | None
    health_paths: tuple[str, ...]
    servicebus: ServiceBus | None
    cacher: bool


def wait(path: str | None, seconds: float) -> None:
    """Until the file is there."""
    if path:
        wait_for(f"{path} to be written", Path(path).exists, bool, timeout=seconds, interval=0.05)


def load(path: str | None) -> Target:
    """The target. Raises :class:`pytest.UsageError` with one line that says what to do."""
    if not path:
        raise pytest.UsageError(
            "tests/e2e needs a release to test: set E2E_TARGET to a JSON file that describes it "
            "(tests/e2e/target.py shows one), or run `python3 pipeline.py prove`"
        )
    try:
        return parse(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise pytest.UsageError(
            f"E2E_TARGET: {path} does not describe a target: {type(problem).__name__}: {problem}"
        ) from problem


def parse(raw: dict[str, Any]) -> Target:
    unknown = raw.keys() - {
        "name",
        "gateway_url",
        "image_version",
        "health_paths",
        "servicebus",
        "cacher",
    }
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(sorted(unknown))}")
    servicebus = raw.get("servicebus")
    return Target(
        name=str(raw["name"]),
        gateway_url=str(raw["gateway_url"]).rstrip("/"),
        image_version=raw.get("image_version"),
        health_paths=tuple(raw.get("health_paths", ("/health", "/healthz", "/readyz"))),
        servicebus=None if servicebus is None else _servicebus(**servicebus),
        cacher=bool(raw.get("cacher", False)),
    )


def _servicebus(
    connection_string: str, admin_connection_string: str = "", ca_file: str | None = None
) -> ServiceBus:
    return ServiceBus(connection_string, admin_connection_string or connection_string, ca_file)
