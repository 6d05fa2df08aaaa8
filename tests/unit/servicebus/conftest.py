"""A namespace whose clock is moved by hand."""

from __future__ import annotations

from itertools import count
from uuid import UUID

import pytest

from ci.servicebus.broker.model import Draft
from ci.servicebus.broker.namespace import Namespace


@pytest.fixture
def namespace() -> Namespace:
    """With lock tokens that can be told apart."""
    numbers = count(1)
    return Namespace(new_token=lambda: UUID(int=next(numbers)))


def draft(body: str = "m", **options: object) -> Draft:
    """A message of one byte."""
    return Draft(body, 1, **options)  # type: ignore[arg-type]
