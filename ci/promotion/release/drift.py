"""How live objects differ from what was released or recorded. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any


def recreated(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """ServiceAccounts (name to UID) that are not the ones they were: the tokens of every pod
    that runs since before are refused, while its health answers go on."""
    return sorted(name for name, uid in before.items() if after.get(name, uid) != uid)


def unrestored(recorded: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Fields of a live object that a rollback left otherwise than they were recorded: added
    containers, fields that another manager owns. Replicas are left to autoscalers."""
    one, other = _comparable(recorded), _comparable(live)
    differing = list(_drifted(("spec",), one, other))
    return differing + [p for p in _drifted(("spec",), other, one) if p not in differing]


def _comparable(item: Mapping[str, Any]) -> dict[str, Any]:
    """A Deployment's spec without replicas and without the mark of a restart."""
    spec = {key: value for key, value in item["spec"].items() if key != "replicas"}
    template = dict(spec.get("template") or {})
    metadata = dict(template.get("metadata") or {})
    metadata["annotations"] = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key != "kubectl.kubernetes.io/restartedAt"
    }
    return {**spec, "template": {**template, "metadata": {k: v for k, v in metadata.items() if v}}}


_QUANTITY = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


OTHERS_WRITE = frozenset(
    {"APIService", "CustomResourceDefinition", "Endpoints", "EndpointSlice"}
    | {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"}
)
"""Kinds into whose content their controllers write (a certificate, for example), so that it is
not as released by design. So are objects of groups that Kubernetes does not know."""


def by_hand(kind: str, version: str) -> bool:
    """Whether what differs from the release was changed by a hand rather than by a controller."""
    group = version.rpartition("/")[0]
    own = "." not in group or group.endswith(".k8s.io")
    return own and kind not in OTHERS_WRITE


def drift(released: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Fields of a released object that the live one has otherwise. What the release does not
    state (defaults, what others add) is nobody's drift."""
    found: list[str] = []
    metadata, present = released.get("metadata") or {}, live.get("metadata") or {}
    for part in ("labels", "annotations"):
        found += _drifted(("metadata", part), metadata.get(part), present.get(part) or {})
    for key, value in _content(released).items():
        found += _drifted((key,), value, live.get(key))
    return found


def _content(released: Mapping[str, Any]) -> dict[str, Any]:
    """What an object says, as the server keeps it: a Secret's texts as base64."""
    kept = {
        k: v
        for k, v in released.items()
        if k not in ("apiVersion", "kind", "metadata", "status", "stringData")
    }
    texts = (released.get("stringData") or {}) if released.get("kind") == "Secret" else {}
    if texts:
        encoded = {k: base64.b64encode(str(v).encode()).decode() for k, v in texts.items()}
        kept["data"] = {**(kept.get("data") or {}), **encoded}
    return kept


def _drifted(path: tuple[str, ...], released: Any, live: Any) -> Iterator[str]:
    where = ".".join(path)
    if released in (None, {}, [], ""):
        return
    if live is None and released in (False, 0):
        return  # what is false or nothing is left out where it is the default
    if live is None and isinstance(released, Mapping) and not [*_drifted(path, released, {})]:
        return
    if isinstance(released, Mapping) and isinstance(live, Mapping):
        for key, value in released.items():
            yield from _drifted((*path, str(key)), value, live.get(key))
    elif isinstance(released, list) and isinstance(live, list):
        if all(isinstance(i, Mapping) and "name" in i for i in [*released, *live]):
            # By name: others may have put theirs in between (side-cars, injected variables).
            there = {i["name"]: i for i in live}
            for item in released:
                yield from _drifted((*path, str(item["name"])), item, there.get(item["name"]))
        elif len(released) != len(live):
            yield where
        else:
            for index, (one, other) in enumerate(zip(released, live, strict=True)):
                yield from _drifted((*path, str(index)), one, other)
    elif not _same_scalar(released, live):
        yield where


def _same_scalar(one: Any, other: Any) -> bool:
    if one == other and isinstance(one, bool) == isinstance(other, bool):
        return True
    if isinstance(one, bool) or one is None or other is None:
        return False
    return str(one) == str(other) or (amount(one) is not None and amount(one) == amount(other))


def amount(value: Any) -> float | None:
    """A Kubernetes quantity as a number: ``0.5`` and ``500m`` are the same."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]{0,2})", str(value))
    if not match or match[2] not in _QUANTITY:
        return None
    return round(float(match[1]) * _QUANTITY[match[2]], 6)
