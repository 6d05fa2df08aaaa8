"""What a setting refers to: an environment variable, a program, a file or a folder.

A field of the settings that refers to one is declared with the type that says so, and is then
checked with all others, before anything is done. Whatever such a setting holds may be a secret
that was put there by mistake: a value that does not look like a name is refused and never shown.
"""

from __future__ import annotations

import os
import re
import shutil
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from ci.errors import PipelineError, SettingsError, TargetNotFound

SECRET = "reference_is_no_name"
"""Type of pydantic's error for a value that is no name, and so perhaps a secret."""
REMEDY_SECRET = (
    "put the secret where the setting's name says (a variable, a program's output, a file) and"
    " its name into pipeline.toml; if it was a real one, replace it"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
SHOWN_VARIABLE = re.compile(r"(?!AKIA|ASIA)[A-Z_][A-Z0-9_]{0,63}|[A-Za-z_]{1,64}")
"""Names that are shown: a token, unlike them, has small letters and digits."""
NO_NAME = re.compile(r"[\x00-\x1f\x7f;=]|:/|-----|AccountKey", re.IGNORECASE)
"""What no path and no program's name has, but connection strings, URLs and PEM have."""
TOKEN = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_+-]{16,}")


class Kind(StrEnum):
    """What is referred to."""

    VARIABLE = "environment variable"
    COMMAND = "program"
    FILE = "file"
    FOLDER = "folder"


class Feature(StrEnum):
    """What only some commands do with a block of the settings."""

    SIGN = "sign"
    """Sign evidence, a rehearsal or an approval."""
    CHANGE = "change"
    """Change a target, and not only look at it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Marks a field's type in the settings."""

    kind: Kind
    only: Feature | None = None
    """The feature that needs it; ``None``: whatever uses the block."""
    error: type[PipelineError] = SettingsError
    """Raised where what is referred to is not there."""
    instead: str = ""
    """The setting of the same block that goes before this one: it is not looked at then."""


@dataclass(frozen=True, slots=True)
class Found:
    """A setting that refers to something."""

    path: tuple[str, ...]
    """Its keys in ``pipeline.toml``, outermost first."""
    value: str
    """A variable's name, a command's first word, a path."""
    reference: Reference

    @property
    def key(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """A reference that leads nowhere: one clause, and what to do."""

    found: Found
    text: str
    remedy: str


def _variable(name: str) -> str:
    if name and not VARIABLE.fullmatch(name):
        raise _no_name("the name of an environment variable (letters, digits, underscores)")
    return name


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if words and (not words[0].strip() or len(words[0]) > 255 or NO_NAME.search(words[0])):
        raise _no_name("a program and its arguments")
    return words


def _path(path: Path) -> Path:
    if len(str(path)) > 4096 or NO_NAME.search(str(path)):
        raise _no_name("a path")
    return path


def _no_name(wanted: str) -> PydanticCustomError:
    return PydanticCustomError(
        SECRET, "is not {wanted}; the value may be a secret and is not shown", {"wanted": wanted}
    )


EnvName = Annotated[str, AfterValidator(_variable), Reference(Kind.VARIABLE)]
"""Name of an environment variable; empty: none. Set but empty counts as not set."""
Command = Annotated[tuple[str, ...], AfterValidator(_command), Reference(Kind.COMMAND)]
"""A program, found on PATH or named by a path, and its arguments; empty: none."""
ExistingFile = Annotated[Path, Field(strict=False), AfterValidator(_path), Reference(Kind.FILE)]
ExistingFolder = Annotated[Path, Field(strict=False), AfterValidator(_path), Reference(Kind.FOLDER)]
"""Relative to the checkout, as every path of the settings; ``~`` is the home folder."""
Kubeconfig = Annotated[
    Path,
    Field(strict=False),
    AfterValidator(_path),
    Reference(Kind.FILE, error=TargetNotFound),
]
"""A target without it does not exist."""


def reference_of(annotation: Any) -> Reference | None:
    """The mark of a field's type, however deep it stands in it; the outermost where there are
    several."""
    if typing.get_origin(annotation) is Annotated:
        marks = [mark for mark in annotation.__metadata__ if isinstance(mark, Reference)]
        return marks[-1] if marks else reference_of(annotation.__origin__)
    found = map(reference_of, typing.get_args(annotation))
    return next((mark for mark in found if mark is not None), None)


def references(block: BaseModel, path: tuple[str, ...] = ()) -> Iterator[Found]:
    """Every setting of ``block``, and of the blocks in it, that refers to something."""
    hints = typing.get_type_hints(type(block), include_extras=True)
    for name in type(block).model_fields:
        value, here = getattr(block, name), (*path, name)
        mark = reference_of(hints[name])
        if mark is None:
            yield from _within(value, here)
        elif not value or (mark.instead and getattr(block, mark.instead)):
            continue
        elif mark.kind is Kind.COMMAND:
            yield Found(here, value[0], mark)
        else:
            for each in value if isinstance(value, tuple) else (value,):
                yield Found(here, str(each), mark)


def _within(value: Any, path: tuple[str, ...]) -> Iterator[Found]:
    if isinstance(value, BaseModel):
        yield from references(value, path)
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _within(each, (*path, str(name)))
    elif isinstance(value, tuple):
        for number, each in enumerate(value):
            yield from _within(each, (*path, str(number)))


def check(
    settings: BaseModel,
    used: Collection[str],
    features: Collection[Feature],
    *,
    env: Mapping[str, str],
    root: Path,
) -> None:
    """Look for everything that the blocks in ``used`` (keys such as ``gate`` or ``targets.prod``,
    or single settings) refer to, and that one of ``features`` needs.

    Raises :class:`ci.errors.SettingsError` that names every setting whose reference leads
    nowhere; :class:`ci.errors.TargetNotFound` where only kubeconfigs are not there.
    """
    problems = [
        problem
        for found in references(settings)
        if any(f"{found.key}.".startswith(f"{each}.") for each in used)
        and (found.reference.only is None or found.reference.only in features)
        and (problem := problem_of(found, env, root)) is not None
    ]
    if not problems:
        return
    first = next((p for p in problems if p.found.reference.error is SettingsError), problems[0])
    text = "; ".join(f"{problem.found.key}: {problem.text}" for problem in problems)
    raise first.found.reference.error(text, remedy=first.remedy)


def problem_of(found: Found, env: Mapping[str, str], root: Path) -> Problem | None:
    """Why a reference leads nowhere; ``None`` where it does not."""
    setting = found.path[-1]
    if found.reference.kind is Kind.VARIABLE:
        if env.get(found.value, "").strip():
            return None
        shown = bool(SHOWN_VARIABLE.fullmatch(found.value))
        state = "is empty" if found.value in env else "is not set"
        what = f"the environment variable {found.value}" if shown else "the variable it names"
        hidden = "" if shown else " (the name may be a secret and is not shown)"
        remedy = f"export {found.value}" if shown else "export the variable"
        return Problem(
            found, f"{what} {state}{hidden}", f"{remedy}, or correct {setting} in pipeline.toml"
        )
    shown = "/" in found.value or "." in found.value or not TOKEN.fullmatch(found.value)
    named = found.value if shown else "it names, which may be a secret and is not shown,"
    remedy = f"correct {found.key} in pipeline.toml"
    if found.reference.kind is Kind.COMMAND:
        if shutil.which(found.value, path=env.get("PATH", os.defpath)) is not None:
            return None
        return Problem(
            found, f"the program {named} is not on PATH", f"install the program, or {remedy}"
        )
    path = root / Path(found.value).expanduser()
    if found.reference.kind is Kind.FOLDER:
        there = path.is_dir()
    else:
        there = path.exists() and not path.is_dir()
    if not there:
        return Problem(found, f"there is no {found.reference.kind} {named}", remedy)
    if not os.access(path, os.R_OK):
        what = f"the {found.reference.kind} {named} cannot be read"
        return Problem(found, what, f"give yourself the right to read it, or {remedy}")
    return None
