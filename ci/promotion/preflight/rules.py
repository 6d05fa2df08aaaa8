"""Whether a release is fit to be changed: rules over what was read from the cluster. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ci.errors import PlanRefused
from ci.promotion.preflight.checklist import names, refusal
from ci.results import (
    Because,
    ChartRef,
    Check,
    CheckId,
    Count,
    Names,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools.chart import chart_name
from ci.tools.helm import Revision

Values = Mapping[str, Any]


def unfinished(journal: Mapping[str, str], latest: Revision, *, rollback: str) -> None:
    """Refuse when an earlier promotion was killed after it began to change the release: what
    serves now was verified by nobody."""
    recorded = journal.get("revision", "?")
    undone = latest.status == "deployed" and latest.description == f"Rollback to {recorded}"
    if journal.get("step") != "upgrading" or recorded == str(latest.number) or undone:
        return
    raise PlanRefused(
        f"an earlier promotion to {journal.get('image', '?')} was killed in the middle; revision"
        f" {latest.number} ({latest.status}) was verified by nobody",
        remedy=f"return to revision {recorded} with `{rollback}`",
    )


def same_chart(live: str, metadata: Mapping[str, Any]) -> None:
    """Refuse another chart than the live one: ``--reuse-values`` would hide its new defaults."""
    ours = chart_name(metadata)
    if ours != live:
        raise refusal(failed(CheckId.CHART_UNCHANGED, ChartRef(live, ours)))


def not_autoscaled(
    hpas: Sequence[Mapping[str, Any]] | Because, objects: Sequence[Mapping[str, Any]]
) -> Check:
    """Raises :class:`PlanRefused` where the upgrade would reset what an autoscaler has set; unknown
    where the autoscalers cannot be read."""
    if isinstance(hpas, Because):
        return unknown(CheckId.REPLICAS_NOT_AUTOSCALED, hpas)
    if scaled := autoscaled(hpas, objects):
        raise refusal(failed(CheckId.REPLICAS_NOT_AUTOSCALED, names(Unit.COMPONENTS, scaled)))
    return passed(CheckId.REPLICAS_NOT_AUTOSCALED, Count(Unit.AUTOSCALERS, len(hpas)))


def autoscaled(
    hpas: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Deployments whose replicas are set by the chart although an autoscaler sets them, too."""
    fixed = {
        o["metadata"]["name"]
        for o in objects
        if o.get("kind") == "Deployment" and (o.get("spec") or {}).get("replicas") is not None
    }
    scaled = {
        h["spec"]["scaleTargetRef"]["name"]
        for h in hpas
        if h["spec"]["scaleTargetRef"].get("kind") == "Deployment"
    }
    return sorted(fixed & scaled)


# -- the chart inside the release -----------------------------------------------------------------


def chart_differences(live: Mapping[str, Any], folder: Path, overridden: Values) -> list[str]:
    """What of the stored chart differs from the folder: templates and CRDs by their names,
    compared by their bytes, defaults as ``values.yaml: PATH``, compared by value.

    A default that the release overrides (``overridden``: its user-supplied values) has no
    effect, and Helm itself rewrites it in the stored chart at every ``--reuse-values``; it is
    not compared. A template that only the folder has shows in the plan by what it renders; a CRD
    beside the templates shows nowhere, for Helm installs these once and never changes them.
    """
    found: list[str] = []
    crds = [e for e in live.get("files") or [] if str(e["name"]).startswith("crds/")]
    for entry in [*(live.get("templates") or []), *crds]:
        path = folder / str(entry["name"])
        content = base64.b64decode(entry.get("data") or "")
        here = path.read_bytes().removeprefix(b"\xef\xbb\xbf") if path.is_file() else None
        if here != content:
            found.append(str(entry["name"]))
    known = {str(entry["name"]) for entry in crds}
    present = {p.relative_to(folder).as_posix() for p in folder.glob("crds/**/*.yaml")}
    found += sorted(present - known)
    defaults = folder / "values.yaml"
    ours = yaml.safe_load(defaults.read_text(encoding="utf-8")) if defaults.is_file() else {}
    found += [
        f"values.yaml: {'.'.join(path)}"
        for path in _differing((), live.get("values") or {}, ours or {}, overridden)
    ]
    return found


def chart_is_live(
    live: Mapping[str, Any] | None, folder: Path, overridden: Values, *, chart: str = ""
) -> Check:
    """The chart in ``folder`` is the stored one; unknown where that cannot be read (``None``):
    then it was compared by version (``chart``) and rendering only. Raises :class:`PlanRefused`."""
    id, name = CheckId.CHART_UNCHANGED, ChartRef(chart, chart)
    if live is None:
        return unknown(id, Because.NO_ANSWER, name)
    differing = chart_differences(live, folder, overridden)
    if differing:
        raise refusal(failed(id, names(Unit.FILES, differing)))
    return passed(id, name)


def chart_changed(
    live: Mapping[str, Any] | None, folder: Path, overridden: Values, *, was: str, now: str
) -> Check:
    """What is otherwise in the chart that is taken on purpose."""
    differing = chart_differences(live, folder, overridden) if live is not None else []
    shown = (Names(Unit.FILES, tuple(differing), len(differing)),) if differing else ()
    return passed(CheckId.CHART_CHANGE_INTENDED, ChartRef(was, now), *shown)


def _differing(
    path: tuple[str, ...], live: Values, ours: Values, overridden: Any
) -> Iterator[tuple[str, ...]]:
    for key in [*live, *(k for k in ours if k not in live)]:
        here = (*path, str(key))
        above = overridden.get(key, ...) if isinstance(overridden, Mapping) else ...
        if above is None:  # the release deletes this default
            continue
        one, other = live.get(key, ...), ours.get(key, ...)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(here, one, other, above)
        elif above is ... and one != other and not (one in (..., None) and other in (..., None)):
            yield here
