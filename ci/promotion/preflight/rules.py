"""Whether a release is fit to be changed: rules over what was read from the cluster. Pure."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ci.errors import PlanRefused, TargetNotFound
from ci.model import Check
from ci.tools.helm import Revision

Values = Mapping[str, Any]
ON_PURPOSE = "with --chart-change `plan` shows what another chart changes, and `promote` takes it"


def contexts(kubeconfig: Path) -> tuple[str, ...]:
    """Names of the contexts. Raises :class:`TargetNotFound` for a file that is no kubeconfig."""
    try:
        loaded = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    except OSError as problem:
        raise TargetNotFound(
            f"there is no kubeconfig {kubeconfig}: {problem.strerror}",
            remedy="correct kubeconfig in the target's block of pipeline.toml",
        ) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise TargetNotFound(f"{kubeconfig} is not a kubeconfig") from problem
    if not isinstance(loaded, dict):
        raise TargetNotFound(f"{kubeconfig} is not a kubeconfig")
    return tuple(str(c.get("name")) for c in loaded.get("contexts") or [])


def deployed_revision(history: Sequence[Revision], *, rollback: str) -> Revision:
    """The latest revision, which must be the deployed one: ``--reuse-values`` takes its values.

    ``rollback`` is the command that repairs, for the remedy.
    """
    latest = history[-1]
    if latest.status == "deployed":
        return latest
    good = [r for r in history if r.status == "deployed"]
    serving = f"revision {good[-1].number} is the deployed one" if good else "none is deployed"
    if latest.status.startswith("pending"):
        raise PlanRefused(
            f"revision {latest.number} is {latest.status}: an operation on the release did not"
            f" end, or is still under way ({serving})",
            remedy=f"when nobody is at work on it, repair it with `{rollback}`",
        )
    raise PlanRefused(
        f"the latest revision {latest.number} is {latest.status}, {serving}",
        remedy=f"return to a deployed revision first, for example with `{rollback}`",
    )


def returned_to(revision: Revision) -> int | None:
    """The revision that a rollback made this one of, as Helm describes it; ``None`` else."""
    match = re.fullmatch(r"Rollback to (\d+)", revision.description)
    return int(match[1]) if match else None


def origin(history: Sequence[Revision], revision: Revision) -> int:
    """The revision a rollback (of a rollback …) leads back to; a revision's own number else."""
    by_number = {r.number: r for r in history}
    number, seen = revision.number, {revision.number}
    while number in by_number:
        goal = returned_to(by_number[number])
        if goal is None or goal in seen:
            break
        number = goal
        seen.add(number)
    return number


def rendered_as(history: Sequence[Revision], revision: Revision) -> tuple[int, ...]:
    """The revisions a release may have been rendered as, the likeliest first.

    A rollback re-uses the older rendering, and Helm forgets old revisions: where the trail ends
    in one that is forgotten, every earlier number is possible.
    """
    number = origin(history, revision)
    if any(r.number == number for r in history):
        return (number,)
    return tuple(range(number, 0, -1))


def recreated(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """ServiceAccounts (name to UID) that are not the ones they were: the tokens of every pod
    that runs since before are refused, while its health answers go on."""
    return sorted(name for name, uid in before.items() if after.get(name, uid) != uid)


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


def chart_name(metadata: Mapping[str, Any]) -> str:
    """As Helm names a release's chart."""
    return f"{metadata['name']}-{metadata['version']}"


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


def record_of_release(data: str) -> dict[str, Any]:
    """A release as Helm stored it, chart, values and manifest: ``data.release`` of its Secret."""
    packed = base64.b64decode(base64.b64decode(data))
    record = json.loads(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed)
    return record if isinstance(record, dict) else {}


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
