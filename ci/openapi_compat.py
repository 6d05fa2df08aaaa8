"""Whether a client of the old API can go on with the new one: rules over two OpenAPI documents.

No Python library for this is kept well, so these are own rules, and few: a path, a method, a
success status, a field of an answer that is gone or has another type, and a parameter, a body or a
field of a request that is newly required, each breaks a client. What is added does not. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    Names,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)

Document = Mapping[str, Any]
Described = Document | Because | None
"""A description, or why there is none; ``None``: the service publishes none."""
SETTING = "service.openapi_path"
SHOWN = 5
"""So many breaking changes are kept in a check."""
LIMIT = 1 << 20
"""Bytes of a description at most, where it is kept: ten times that of a large service."""
METHODS = ("get", "put", "post", "delete", "patch", "head", "options")


def read(text: str) -> Document | None:
    """A description from what a service answers; ``None`` when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    described = isinstance(found, dict) and isinstance(found.get("paths"), dict)
    return found if described else None


def check(id: CheckId, old: Described, new: Described, *, path: str) -> Check:
    """Whether clients of the old API can go on. Skipped where ``path``, at which services describe
    their API, is empty; unknown where a description is missing or is no OpenAPI document."""
    if not path:
        return skipped(id, SETTING)
    for described in (old, new):
        if described is None or isinstance(described, Because):
            return unknown(id, described or Because.NOT_DESCRIBED)
    assert isinstance(old, Mapping)
    assert isinstance(new, Mapping)
    try:
        broken = breaking(old, new)
        compared = len(old["paths"])
    except (AttributeError, KeyError, TypeError):
        return unknown(id, Because.NOT_COMPARABLE)
    if broken:
        return failed(id, Names(Unit.API_CHANGES, tuple(broken[:SHOWN]), len(broken)))
    return passed(id, Count(Unit.API_PATHS, compared))


def breaking(old: Document, new: Document) -> list[str]:
    """Every change that breaks a client, in one line each."""
    return list(_paths(old, new))


def _paths(old: Document, new: Document) -> Iterator[str]:
    for path, item in (old.get("paths") or {}).items():
        other = (new.get("paths") or {}).get(path)
        if other is None:
            yield f"{path} is gone"
            continue
        for method in METHODS:
            if method not in item:
                continue
            title = f"{method.upper()} {path}"
            if method not in other:
                yield f"{title} is gone"
                continue
            yield from _parameters(title, item[method], other[method], old, new)
            yield from _request(title, item[method], other[method], old, new)
            yield from _answers(title, item[method], other[method], old, new)


def _parameters(title: str, one: Any, other: Any, old: Document, new: Document) -> Iterator[str]:
    def named(operation: Any, document: Document) -> dict[tuple[str, str], Any]:
        found = (_resolved(p, document) for p in operation.get("parameters") or [])
        return {(p["in"], p["name"]): p for p in found}

    before, after = named(one, old), named(other, new)
    for key, parameter in after.items():
        was = before.get(key, {})
        if parameter.get("required") and not was.get("required"):
            yield f"{title} now requires the {key[0]} parameter {key[1]}"


def _request(title: str, one: Any, other: Any, old: Document, new: Document) -> Iterator[str]:
    before, after = (
        _resolved(operation.get("requestBody") or {}, document)
        for operation, document in ((one, old), (other, new))
    )
    if after.get("required") and not before:
        yield f"{title} now requires a body"
        return
    was, is_ = _schema(before, old), _schema(after, new)
    required = set(was.get("required") or [])
    for name in is_.get("required") or []:
        if name not in required:
            yield f"{title} now requires the field {name}"
    yield from _types(f"{title}, request", was, is_, old, new, gone=is_ != {})


def _answers(title: str, one: Any, other: Any, old: Document, new: Document) -> Iterator[str]:
    for status, answer in (one.get("responses") or {}).items():
        if not str(status).startswith("2"):
            continue
        after = (other.get("responses") or {}).get(status)
        if after is None:
            yield f"{title} no longer answers {status}"
            continue
        was = _schema(_resolved(answer, old), old)
        is_ = _schema(_resolved(after, new), new)
        yield from _types(f"{title}, {status}", was, is_, old, new, gone=True)


def _types(
    title: str, was: Any, is_: Any, old: Document, new: Document, *, gone: bool, depth: int = 0
) -> Iterator[str]:
    """Fields that are gone or have another type, those of inner objects included."""
    was, is_ = _resolved(was, old), _resolved(is_, new)
    if not was or depth > 12:
        return
    if was.get("type") and is_.get("type") and was["type"] != is_["type"]:
        yield f"{title} has the type {is_['type']}, it had {was['type']}"
        return
    for name, field in (was.get("properties") or {}).items():
        other = (is_.get("properties") or {}).get(name)
        if other is None:
            if gone and not is_.get("additionalProperties"):
                yield f"{title}: the field {name} is gone"
            continue
        yield from _types(f"{title}.{name}", field, other, old, new, gone=gone, depth=depth + 1)
    if was.get("items") and is_.get("items"):
        yield from _types(
            f"{title}[]", was["items"], is_["items"], old, new, gone=gone, depth=depth + 1
        )


def _schema(content: Any, document: Document) -> Any:
    """The JSON schema of a body or an answer; empty when it has none."""
    json = (content.get("content") or {}).get("application/json") or {}
    return _resolved(json.get("schema") or {}, document)


def _resolved(item: Any, document: Document) -> Any:
    """What a reference within the document leads to; other references stay as they are."""
    for _ in range(8):
        reference = item.get("$ref") if isinstance(item, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return item
        item = document
        for part in reference[2:].split("/"):
            item = (item or {}).get(part.replace("~1", "/").replace("~0", "~"), {})
    return item
