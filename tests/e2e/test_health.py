"""The release answers, and it is the version that was built."""

from __future__ import annotations

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.target import Target


def test_every_health_path_answers_within_a_second(gateway: Gateway, target: Target) -> None:
    for path in target.health_paths:
        answer = gateway.http.get(path, timeout=1.0)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"


def test_healthz_names_the_version_under_test(gateway: Gateway, target: Target) -> None:
    if target.image_version is None:
        pytest.skip("the target names no version")
    assert gateway.http.get("/healthz").json()["version"] == target.image_version
