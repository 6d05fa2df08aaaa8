"""The release answers, in time, and it is the version that was built."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.target import Target

LIMIT = 1.0
"""Seconds within which a health path has to answer: the time-out of the readiness probe."""
CLIENTS, REQUESTS = 4, 100
"""Clients that ask the API, each as fast as it answers, and how often each asks."""


def test_every_health_path_answers_within_a_second(
    gateway: Gateway, target: Target, record_property: Callable[[str, object], None]
) -> None:
    record_property("shows", "health.proven")
    for path in target.health_paths:
        answer = gateway.http.get(path, timeout=LIMIT)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"


def test_readiness_answers_within_a_second_under_load(
    target: Target, record_property: Callable[[str, object], None]
) -> None:
    """A gateway that is slow to say that it is ready is taken out of the Service when it is needed
    most. Beside these clients the rest of the suite is load, too."""
    record_property("shows", "health.under-load")
    path = next((p for p in target.health_paths if "ready" in p), target.health_paths[-1])
    done = threading.Event()

    def client() -> httpx.Client:
        return httpx.Client(base_url=target.gateway_url, timeout=10 * LIMIT)

    def use() -> None:
        with client() as mine:
            for _ in range(REQUESTS):
                assert mine.get("/v1/model-endpoints").status_code == 200

    def ask() -> list[float]:
        took: list[float] = []
        with client() as mine:
            while not done.is_set():
                begun = time.monotonic()
                answer = mine.get(path)
                took.append(time.monotonic() - begun)
                assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
        return took

    with ThreadPoolExecutor(max_workers=CLIENTS + 1) as pool:
        asked = pool.submit(ask)
        try:
            for using in [pool.submit(use) for _ in range(CLIENTS)]:
                using.result()
        finally:
            done.set()
        took = sorted(asked.result())
    slowest, median = took[-1], took[len(took) // 2]
    said = (
        f"{path} answered {len(took)} times beside {CLIENTS * REQUESTS} requests of {CLIENTS}"
        f" clients, median {median * 1000:.0f} ms, slowest {slowest * 1000:.0f} ms"
    )
    record_property("evidence", said)
    assert slowest <= LIMIT, said


def test_healthz_names_the_version_under_test(gateway: Gateway, target: Target) -> None:
    if target.image_version is None:
        pytest.skip("the target names no version")
    assert gateway.http.get("/healthz").json()["version"] == target.image_version
