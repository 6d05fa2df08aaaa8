"""What identifies an image: the SHA-256 of its manifest, as OCI writes it."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from pydantic_core import CoreSchema, core_schema

PREFIX = "sha256:"
PATTERN = rf"{PREFIX}[0-9a-f]{{64}}"
"""As a regular expression."""
_FORM = re.compile(PATTERN)
_SHORT = 12
"""Hexadecimal digits that tell images apart for a reader."""


class Digest(str):
    """``sha256:`` and 64 hexadecimal digits. A text all the same: it compares, sorts and is written
    as one. Raises :class:`ValueError` for any other text; :data:`UNKNOWN` is the one exception."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not _FORM.fullmatch(text):
            raise ValueError(f"{text!r} is not a digest: sha256: and 64 hexadecimal digits")
        return super().__new__(cls, text)

    def __deepcopy__(self, _: Any) -> Digest:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """In a file of a run it is read as :meth:`read` does."""
        return core_schema.no_info_after_validator_function(cls.read, core_schema.str_schema())

    @classmethod
    def of(cls, content: bytes) -> Digest:
        return cls(PREFIX + hashlib.sha256(content).hexdigest())

    @classmethod
    def from_hex(cls, digits: str) -> Digest:
        """Raises :class:`ValueError`."""
        return cls(PREFIX + digits)

    @classmethod
    def read(cls, text: str) -> Digest:
        """As a file of an earlier run has it; :data:`UNKNOWN` for what is none."""
        return cls(text) if _FORM.fullmatch(text) else UNKNOWN

    @classmethod
    def found_in(cls, text: str) -> Digest | None:
        """The first one in a text such as ``docker-pullable://REPOSITORY@sha256:…``."""
        found = _FORM.search(text)
        return cls(found[0]) if found else None

    @property
    def hex(self) -> str:
        """The 64 digits alone, as in-toto and most programs write it."""
        return self[len(PREFIX) :]

    @property
    def short(self) -> str:
        """For a reader: enough digits to tell images apart."""
        return self[: len(PREFIX) + _SHORT] or "digest unknown"


UNKNOWN = str.__new__(Digest, "")
"""Of an image that no pod runs and no registry was asked about; false, and empty where it is
written."""
