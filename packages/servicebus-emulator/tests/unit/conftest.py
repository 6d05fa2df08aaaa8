"""A namespace whose clock is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from uuid import UUID

import pytest
import uvloop

from ci.servicebus.broker.model import Draft
from ci.servicebus.broker.namespace import Namespace

SHELL = {"test_server", "test_bad_input", "test_websocket"}
"""Modules whose tests run with either loop that a server may have."""


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """asyncio's own loop for all tests, and for some of them uvloop's, too."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in SHELL:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture
def namespace() -> Namespace:
    """With lock tokens that can be told apart."""
    numbers = count(1)
    return Namespace(new_token=lambda: UUID(int=next(numbers)))


def draft(body: str = "m", **options: object) -> Draft:
    """A message of one byte."""
    return Draft(body, 1, **options)  # type: ignore[arg-type]
