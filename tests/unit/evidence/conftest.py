"""A registry that every machine of a test reaches, and no other."""

from __future__ import annotations

import functools

import httpx
import pytest

from tests.unit.evidence.fakes import FakeRegistry


@pytest.fixture(params=[False, True], ids=["tag-schema", "referrers-api"])
def registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    fake = FakeRegistry(referrers=request.param)
    transport = httpx.MockTransport(fake)
    client = functools.partial(httpx.Client, transport=transport)
    monkeypatch.setattr("ci.tools.registry.httpx.Client", client)
    return fake
