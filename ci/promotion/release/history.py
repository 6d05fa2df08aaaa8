"""What the revisions of a release serve, and which of them a rollback returns to. Pure.

Theory. A revision's number says nothing about what it serves: an upgrade that changes nothing has
a number of its own, and so has every rollback. Who rolls back wants to get away from what serves
now, so revisions are compared by their content. The way back leads to the newest revision that

- was deployed once (``deployed`` or ``superseded``; a failed or pending one never served whole);
- serves something else than the current one: other images, other values, or another chart;
- was not itself rolled back: with ``Rollback to 1`` as revision 3, revision 2 is what somebody
  wanted to get away from.

A release whose latest revision is failed or pending is repaired instead: a rollback that did not
come to its end is brought there, and what an upgrade left half done is undone.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.digest import UNKNOWN, Digest
from ci.errors import PlanRefused
from ci.model import Target
from ci.promotion.release.manifest import Rendered
from ci.tools.helm import Revision

DEPLOYED_ONCE = ("deployed", "superseded")
"""Statuses of revisions that have served."""
_LASTING = ("Deployment", "StatefulSet", "DaemonSet", "CronJob")
"""Kinds whose containers are compared. Jobs and Pods come to an end, and charts like to name them
after the revision."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a revision serves, whatever its number is."""

    image: str
    """Of the gateway, as its container names it; empty where the revision has no gateway."""
    chart: str
    """Name and version."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """User-supplied, without the image's tag and repository: ``image`` says these."""
    others: frozenset[tuple[str, str]] = frozenset()
    """(``KIND/NAME/CONTAINER``, image) of the containers that run another image than the
    gateway's."""
    templates: str = ""
    """SHA-256 of the chart's templates; empty where they cannot be read."""
    digest: Digest = UNKNOWN
    """What ``image`` is known to be; empty where nobody knows."""
    equivalents: frozenset[str] = frozenset()
    """The digest and, of an index, its platforms' manifests: what nodes may report."""

    def same_as(self, other: Content) -> bool:
        """Whether nothing would change from one to the other but what a tag is called."""
        templates = {self.templates, other.templates} - {""}
        return (
            (self.image == other.image or bool(self.equivalents & other.equivalents))
            and (self.chart, self.others, self.values) == (other.chart, other.others, other.values)
            and len(templates) < 2
        )


@dataclass(frozen=True, slots=True)
class Goal:
    """The revision to return to."""

    revision: Revision
    same: bool
    """Whether it serves what the latest revision, a deployed one, serves already."""


def choose(
    history: Sequence[Revision],
    content: Callable[[Revision], Content],
    *,
    asked: int | None = None,
    recorded: int | None = None,
) -> Goal:
    """The revision that a rollback returns to: the one that is ``asked`` for, else the one that
    an unfinished promotion ``recorded``, else as the theory above has it.

    ``history`` is oldest first and not empty; ``content`` is asked only where it decides. Raises
    :class:`PlanRefused` when there is none.
    """
    latest = history[-1]
    usable = {r.number: r for r in history if r.status in DEPLOYED_ONCE}
    known = ", ".join(map(str, usable)) or "none"

    def goal(revision: Revision) -> Goal:
        here = latest.status == "deployed"
        same = here and (revision is latest or content(revision).same_as(content(latest)))
        return Goal(revision, same)

    if asked is not None:
        if asked not in usable:
            found = next((r.status for r in history if r.number == asked), "")
            why = f": it is {found} and was never deployed" if found else ""
            raise PlanRefused(
                f"there is no revision {asked} to return to{why}",
                remedy=f"name one that was deployed: {known}",
            )
        return goal(usable[asked])
    if recorded is not None and recorded in usable:
        return goal(usable[recorded])
    undone = rolled_back(history)
    if latest.status != "deployed":
        return Goal(_repaired(history, usable, undone), False)
    now = content(latest)
    for revision in reversed(history[:-1]):
        if revision.number not in usable or revision.number in undone:
            continue
        if not content(revision).same_as(now):
            return Goal(revision, False)
    raise PlanRefused(
        "there is no revision to return to: none that was deployed before serves anything else"
        f" than revision {latest.number} ({now.image})",
        remedy=f"promote another image, or name a revision with --revision; there are: {known}",
    )


def rolled_back(history: Sequence[Revision]) -> frozenset[int]:
    """Numbers of the revisions that a rollback left behind."""
    found: set[int] = set()
    for revision in history:
        if revision.status in DEPLOYED_ONCE:
            goal = returned_to(revision)
            if goal is not None:
                found.update(range(goal + 1, revision.number))
    return frozenset(found)


def _repaired(
    history: Sequence[Revision], usable: Mapping[int, Revision], undone: frozenset[int]
) -> Revision:
    """Where a release goes whose latest revision is failed or pending."""
    latest = history[-1]
    goal = returned_to(latest)
    if goal is not None and goal in usable:
        return usable[goal]
    deployed = [r for r in usable.values() if r.status == "deployed"]
    older = [r for r in usable.values() if r.number not in undone]
    if not (deployed or older):
        raise PlanRefused(
            f"there is no revision to return to: revision {latest.number} is {latest.status}, and"
            " none before it was deployed",
            remedy="install the release anew, or repair it with `helm upgrade`",
        )
    return (deployed or older)[-1]


# -- reading a revision's content ------------------------------------------------------------------


def images_of(rendered: Rendered) -> dict[str, str]:
    """Image of every container of what lasts, init containers included, by
    ``KIND/NAME/CONTAINER``."""
    found: dict[str, str] = {}
    for (_, kind, _, name), item in rendered.objects.items():
        if kind not in _LASTING:
            continue
        spec = item.get("spec") or {}
        if kind == "CronJob":
            spec = (spec.get("jobTemplate") or {}).get("spec") or {}
        pod = (spec.get("template") or {}).get("spec") or {}
        for group in ("initContainers", "containers"):
            for container in pod.get(group) or []:
                where = f"{kind}/{name}/{container.get('name', '?')}"
                found[where] = str(container.get("image", ""))
    return found


def without(values: Mapping[str, Any], dotted: Sequence[str]) -> dict[str, Any]:
    """A copy of Helm values without some of them, and without blocks that are empty then."""
    kept: dict[str, Any] = dict(values)
    for name in dotted:
        head, _, rest = name.partition(".")
        inner = kept.get(head)
        if not rest:
            kept.pop(head, None)
        elif isinstance(inner, Mapping):
            left = without(inner, [rest])
            if left or not inner:
                kept[head] = left
            else:
                del kept[head]
    return kept


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


def record_of_release(data: str) -> dict[str, Any]:
    """A release as Helm stored it, chart, values and manifest: ``data.release`` of its Secret."""
    packed = base64.b64decode(base64.b64decode(data))
    record = json.loads(gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed)
    return record if isinstance(record, dict) else {}


def rollback_command(target: Target) -> str:
    return f"python3 pipeline.py rollback --target {target.name}"
