"""A target's live values -> values for a release of the same chart on the gate cluster. Pure.

Everything stays but four kinds of values, and each change is shown:

======================  =====================================================================
what leads to a cloud   is redirected to the stand-ins, as the caller's ``redirect`` says; names of
                        cloud hosts that are left are shown, too: nothing answers to them here
secrets                 are not taken along: a rehearsed service that could log in to the target's
                        queues would take its messages
replicas                at most ``Limits.replicas``; 0 stays 0
requested resources     at most ``Limits.cpu`` and ``Limits.memory``; devices, node selectors and
                        affinities, which name another cluster's machines, go
======================  =====================================================================

Limits of resources stay: a process that needs its memory would be killed under a lower one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ci import redaction
from ci.promotion.release import drift
from ci.tools.chart import merge

Path = tuple[str, ...]

REDIRECTED = "redirected to the stand-ins"
SCALED = "scaled to the machine"
PLACED = "names machines of the target"
SECRET = "a secret of the target: not taken along"
LEFT = "a cloud's name that nothing here answers to: left as it is"

_REPLICAS = re.compile(r"^(min|max)?_?replicas?(_?count)?$", re.IGNORECASE)
_PLACEMENT = ("nodeSelector", "affinity")
_ORDINARY = ("cpu", "memory", "ephemeral-storage")
_CLOUD = re.compile(
    r"\.(windows\.net|azurecr\.io|azure\.com|azure\.net|amazonaws\.com|googleapis\.com)\b"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one machine can carry."""

    replicas: int = 1
    """Of one component."""
    cpu: str = "50m"
    """Requested by one container, a Kubernetes quantity; as ``memory``."""
    memory: str = "128Mi"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One value that is another here than on the target, or that should be."""

    path: str
    live: str
    here: str
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.live} -> {self.here} ({self.why})"


@dataclass(frozen=True, slots=True)
class Adapted:
    values: dict[str, Any]
    """For ``helm install``."""
    changes: tuple[Adaptation, ...]


def adapt(
    supplied: Mapping[str, Any],
    every: Mapping[str, Any],
    redirect: Mapping[str, Any],
    limits: Limits,
) -> Adapted:
    """``supplied`` are the release's own values, ``every`` these over the chart's defaults."""
    changes: list[Adaptation] = []
    kept = _without_secrets((), supplied, "", changes)
    over: dict[str, Any] = {}
    for path, live, here, why in _scaled((), every, limits):
        _put(over, path, here)
        changes.append(_change(path, live, here, why))
    for path, here in _leaves((), redirect):
        live = _at(every, path)
        if live != here:
            changes.append(_change(path, live, here, REDIRECTED))
    values = merge(merge(kept, over), redirect)
    for path, live in _leaves((), merge(merge(dict(every), over), redirect)):
        if isinstance(live, str) and _CLOUD.search(live):
            changes.append(_change(path, live, live, LEFT))
    return Adapted(values, tuple(changes))


def _without_secrets(path: Path, value: Any, name: str, changes: list[Adaptation]) -> Any:
    """A copy. ``name`` tells a secret, as its shape does; numbers are none (``max_tokens``)."""
    if isinstance(value, Mapping):
        entry = {"value": str(value["name"])} if set(value) == {"name", "value"} else {}
        return {
            key: _without_secrets((*path, str(key)), inner, entry.get(key, str(key)), changes)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _without_secrets((*path, str(number)), inner, name, changes)
            for number, inner in enumerate(value)
        ]
    if not isinstance(value, str):
        return value
    here: str = redaction.tree(value, name=name)
    if here != value:
        changes.append(Adaptation(".".join(path), redaction.HIDDEN, here, SECRET))
    return here


def _scaled(
    path: Path, values: Mapping[str, Any], limits: Limits
) -> Iterator[tuple[Path, Any, Any, str]]:
    """(path, live value, value here, why) of everything that does not fit."""
    for key, value in values.items():
        here = (*path, str(key))
        if key in _PLACEMENT and value:
            # Null is Helm's way to take a default away.
            yield here, value, None, PLACED
        elif _REPLICAS.match(str(key)):
            for inner, count in _leaves(here, value):
                if isinstance(count, int) and count > limits.replicas:
                    yield inner, count, limits.replicas, SCALED
        elif key in ("requests", "limits") and isinstance(value, Mapping):
            yield from _fitting(here, value, limits)
        elif isinstance(value, Mapping):
            yield from _scaled(here, value, limits)


def _fitting(
    path: Path, resources: Mapping[str, Any], limits: Limits
) -> Iterator[tuple[Path, Any, Any, str]]:
    most = {"cpu": limits.cpu, "memory": limits.memory} if path[-1] == "requests" else {}
    for name, amount in resources.items():
        if name not in _ORDINARY:
            yield (*path, str(name)), amount, None, PLACED
            continue
        wanted, allowed = drift.amount(amount), drift.amount(most.get(name, amount))
        if wanted is not None and allowed is not None and wanted > allowed:
            yield (*path, str(name)), amount, most[name], SCALED


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves((*path, str(key)), inner)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _leaves((*path, str(number)), inner)
    else:
        yield path, value


def _at(values: Any, path: Path) -> Any:
    for part in path:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _put(values: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _change(path: Path, live: Any, here: Any, why: str) -> Adaptation:
    return Adaptation(".".join(path), _shown(path, live), _shown(path, here), why)


def _shown(path: Path, value: Any) -> str:
    if value is None:
        return "none"
    text = " ".join(str(redaction.tree(value, name=path[-1])).split())
    return text if len(text) <= 80 else f"{text[:77]}…"
