"""Other words for every title and sentence, for tests that nothing depends on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ci import texts
from ci.report import html

TABLES = tuple(
    name for name, value in vars(texts).items() if name.isupper() and isinstance(value, Mapping)
)
SENTENCES = tuple(
    name for name, value in vars(texts).items() if name.isupper() and isinstance(value, str)
)
TRICKY = ("passed", "FAILED", "ok:", "not", "rolled back", "nothing was changed", "skipped")
"""Words that a reader of texts would trip over."""


@contextmanager
def other_words(seed: int) -> Iterator[None]:
    """Every text of :mod:`ci.texts` is another one in the block, as ``seed`` says."""
    before = {name: getattr(texts, name) for name in (*TABLES, *SENTENCES)}
    dice = random.Random(seed)

    def word() -> str:
        return f"{dice.choice(TRICKY)} {dice.getrandbits(32):x} {dice.choice(TRICKY)}"

    try:
        for name in TABLES:
            table = {key: _other(value, word) for key, value in before[name].items()}
            setattr(texts, name, table)
        for name in SENTENCES:
            setattr(texts, name, word())
        html._environment.cache_clear()
        yield
    finally:
        for name, value in before.items():
            setattr(texts, name, value)
        html._environment.cache_clear()


def _other(value: Any, word: Callable[[], str]) -> Any:
    """The same structure with every text replaced."""
    if isinstance(value, texts.Wording):
        return texts.Wording(word(), word(), word())
    if isinstance(value, tuple):
        return tuple(_other(item, word) for item in value)
    assert isinstance(value, str)
    return word()
