"""Rendered manifests: what a release consists of, parsed as the API server would read it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Key = tuple[str, str, str, str]
"""apiVersion, kind, namespace, name."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of a release: manifest and hooks, by what they are called."""

    objects: Mapping[Key, Mapping[str, Any]]
    hooks: Mapping[Key, Mapping[str, Any]]


def parse(manifest: str, hooks: str | Iterable[str]) -> Rendered:
    """Rendered YAML, many documents each, to objects."""
    texts = [hooks] if isinstance(hooks, str) else list(hooks)
    return Rendered(_objects([manifest]), _objects(texts))


def _objects(texts: Iterable[str]) -> dict[Key, Mapping[str, Any]]:
    found: dict[Key, Mapping[str, Any]] = {}
    for text in texts:
        for document in yaml.load_all(text, Loader=_Loader):
            if not isinstance(document, dict):
                continue
            items = document.get("items") if document.get("kind") == "List" else None
            for item in items if isinstance(items, list) else [document]:
                meta = item.get("metadata") or {}
                key = (
                    str(item.get("apiVersion", "")),
                    str(item.get("kind", "")),
                    str(meta.get("namespace") or ""),
                    str(meta.get("name") or ""),
                )
                found[key] = item
    return found


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML as Kubernetes reads it: ``yes`` and dates stay strings."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if not tag.endswith(("timestamp", "value"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.2 of Kubernetes: only true and false are booleans.
for _first in "yYnNoO":
    _Loader.yaml_implicit_resolvers[_first] = [
        (tag, pattern)
        for tag, pattern in _Loader.yaml_implicit_resolvers.get(_first, [])
        if not tag.endswith("bool")
    ]
