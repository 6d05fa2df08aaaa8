"""Whether a release is fit to be changed: rules over what was read from the cluster. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ci.errors import PlanRefused
from ci.model import Check
from ci.tools.chart import chart_name
from ci.tools.helm import Revision

Values = Mapping[str, Any]
ON_PURPOSE = "with --chart-change `plan` shows what another chart changes, and `promote` takes it"


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
        raise PlanRefused(
            f"the live release is of chart {live}, the chart here is {ours}",
            remedy=f"promote with the chart the release was made of; {ON_PURPOSE}",
        )


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
    """What of the stored chart differs from the folder: templates by their bytes, defaults
    by value.

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
        if not path.is_file():
            found.append(f"{entry['name']} is missing here")
        elif path.read_bytes().removeprefix(b"\xef\xbb\xbf") != content:
            found.append(f"{entry['name']} differs")
    known = {str(entry["name"]) for entry in crds}
    here = {p.relative_to(folder).as_posix() for p in folder.glob("crds/**/*.yaml")}
    found += [f"{n} is not in it: an upgrade installs no CRD" for n in sorted(here - known)]
    defaults = folder / "values.yaml"
    ours = yaml.safe_load(defaults.read_text(encoding="utf-8")) if defaults.is_file() else {}
    found += [
        f"values.yaml: {'.'.join(path)} differs"
        for path in _differing((), live.get("values") or {}, ours or {}, overridden)
    ]
    return found


def chart_is_live(live: Mapping[str, Any] | None, folder: Path, overridden: Values) -> Check:
    """The chart in ``folder`` is the stored one, as far as that can be read (``None``: it cannot).
    Raises :class:`PlanRefused`."""
    name = "chart content is the live one"
    if live is None:
        return Check(
            name, True, "its stored chart cannot be read; compared by version and rendering"
        )
    differing = chart_differences(live, folder, overridden)
    if differing:
        raise PlanRefused(
            f"the chart is not the live release's: {'; '.join(differing[:4])}",
            remedy=f"promote with the chart the release was made of; {ON_PURPOSE}",
        )
    return Check(name, True, "templates byte by byte, defaults by value")


def chart_changed(
    live: Mapping[str, Any] | None, folder: Path, overridden: Values, *, was: str, now: str
) -> Check:
    """What is otherwise in the chart that is taken on purpose."""
    differing = chart_differences(live, folder, overridden) if live is not None else []
    said = "; ".join(differing) or (
        "the stored chart cannot be read" if live is None else "nothing differs"
    )
    return Check("the chart is changed on purpose", True, f"{was} -> {now}: {said}")


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


# -- drift: what somebody changed by hand ----------------------------------------------------------
