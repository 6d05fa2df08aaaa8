"""What an upgrade would change, and whether that is the image and nothing else. Pure.

Theory. Three renderings are compared: ``live``, the release as it stands (revision N, old
tag); ``same``, what an upgrade to the *old* tag would make (revision N+1); ``new``, what the
upgrade to the new tag would make (revision N+1), rendered twice where anything is refused or
the chart is another: what is random differs between ``live`` and ``same``, too.

====================  =================================  ==========================================
compared              differs by                         allowed
====================  =================================  ==========================================
``new`` / ``new``     nothing                            nothing: the template is not deterministic
``live`` / ``same``   the revision                       the revision number inside a string
``same`` / ``new``    the tag (and the repository)       image fields; labels, annotations and
                                                         environment values that are the old tag
                                                         replaced by the new one; checksum
                                                         annotations that follow from these
====================  =================================  ==========================================

A chart that is changed on purpose explains all between ``live`` and ``same``, and it is all shown;
what the tag and chance may do stays as narrow.

So a difference is allowed for its cause as well as for its look. Everything else is refused
and listed by object and path, with secrets left out. Manifest and hooks are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from ci import redaction, texts
from ci.model import Changed, Difference, PlanRecord
from ci.promotion.release.manifest import Key, Rendered
from ci.results import ChartRef, ImageRef
from ci.results import DifferenceReason as Reason

Path = tuple[str, ...]

ABSENT = object()
"""Stands for a field or an object that one side does not have."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is meant to change."""

    old_tag: str
    new_tag: str
    old_repository: str
    new_repository: str
    old_revision: int
    new_revision: int
    chart: ChartRef | None = None
    """Where the chart is changed on purpose."""


def make(
    change: Change, *, live: Rendered, same: Rendered, new: Rendered, again: Rendered
) -> PlanRecord:
    """The plan of an upgrade: what is refused comes first. See the table above for the four
    renderings."""
    found: list[Difference] = []
    random: set[tuple[str, str, bool]] = set()
    for difference in _compare(new, again, _never(change)):
        random.add(_place(difference))
        found.append(difference)
    for left, right, rule in (
        (live, same, (_by_chart if change.chart else _by_revision)(change)),
        (same, new, _by_tag(change)),
    ):
        found += [d for d in _compare(left, right, rule) if _place(d) not in random]
    return PlanRecord(
        ImageRef(change.old_repository, change.old_tag),
        ImageRef(change.new_repository, change.new_tag),
        change.old_revision,
        change.new_revision,
        tuple(sorted(found, key=lambda d: (d.allowed, d.object, d.hook, d.path))),
        change.chart,
    )


def text(plan: PlanRecord) -> str:
    """The whole plan for people, a line per difference."""
    lines = [
        f"revision {plan.from_revision} -> {plan.to_revision}",
        f"image {texts.measured(plan.before)} -> {texts.measured(plan.after)}",
        *([f"chart {texts.measured(plan.chart)}"] if plan.chart else []),
        *(f"{'  ' if d.allowed else '! '}{line(d)}" for d in plan.differences),
    ]
    return "\n".join(lines) + "\n"


def line(difference: Difference) -> str:
    """One difference for people."""
    hook = " (hook)" if difference.hook else ""
    where = f"{difference.object}{hook} {difference.path}".strip()
    why = texts.DIFFERENCE_REASONS[difference.reason]
    return f"{where}: {difference.before} -> {difference.after} ({why})"


def _place(difference: Difference) -> tuple[str, str, bool]:
    return difference.object, difference.path, difference.hook


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Changed, ...]:
    """The values in which two trees of Helm values differ, secrets left out."""
    return tuple(
        Changed(_dotted(path), _shown("", path, one), _shown("", path, other))
        for path, one, other in _leaves((), before, after)
    )


# -- the rules: each answers whether a difference is allowed, and why or why not ----------------

Verdict = tuple[bool, Reason]


@dataclass(frozen=True, slots=True)
class _Rule:
    change: Change

    def field(self, kind: str, path: Path, before: Any, after: Any) -> Verdict:
        raise NotImplementedError

    def renamed(self, name: str) -> str | None:
        """What an object of this name may be called on the other side."""
        return None

    missing: ClassVar[Reason] = Reason.ONE_SIDE_ONLY
    whole: ClassVar[bool] = False
    """Whether an object may come and go; one that comes is then shown in full."""


class _never(_Rule):
    missing = Reason.NOT_DETERMINISTIC

    def field(self, kind: str, path: Path, before: Any, after: Any) -> Verdict:
        return False, Reason.NOT_DETERMINISTIC


class _by_revision(_Rule):
    missing = Reason.CHART_OR_VALUES

    def field(self, kind: str, path: Path, before: Any, after: Any) -> Verdict:
        old, new = str(self.change.old_revision), str(self.change.new_revision)
        if kind != "Secret" and isinstance(before, str) and isinstance(after, str):
            if (before, after) == (old, new) and (_is_label(path) or _is_env(path)):
                return True, Reason.REVISION
            if _replaced(before, after, rf"(?<=[-_./]v|.[-_./]){old}(?![0-9A-Za-z])", new):
                return True, Reason.REVISION
        return False, self.missing

    def renamed(self, name: str) -> str | None:
        old, new = str(self.change.old_revision), str(self.change.new_revision)
        return re.sub(rf"(?<=[-_./]v|.[-_./]){old}(?![0-9A-Za-z])", new, name)


class _by_chart(_by_revision):
    missing = Reason.CHART
    whole = True

    def field(self, kind: str, path: Path, before: Any, after: Any) -> Verdict:
        allowed, reason = super().field(kind, path, before, after)
        return True, reason if allowed else self.missing


class _by_tag(_Rule):
    missing = Reason.OBJECT_FROM_TAG

    def field(self, kind: str, path: Path, before: Any, after: Any) -> Verdict:
        change = self.change
        if not (isinstance(before, str) and isinstance(after, str)):
            return False, Reason.NOT_FROM_IMAGE
        if _is_image(path):
            if after == f"{change.new_repository}:{change.new_tag}":
                if before == f"{change.old_repository}:{change.old_tag}":
                    return True, Reason.IMAGE
                return False, Reason.OTHER_IMAGE
            return False, Reason.NOT_PROVEN_IMAGE
        pattern = rf"(?<![0-9A-Za-z]){re.escape(change.old_tag)}(?![0-9A-Za-z])"
        if _is_label(path) or _is_env(path):
            if _replaced(before, after, pattern, change.new_tag):
                return True, Reason.TAG
            if (
                path[-2] == "annotations"
                and "checksum" in path[-1]
                and all(re.fullmatch(r"[0-9a-f]{32,128}", value) for value in (before, after))
            ):
                return True, Reason.TAG_CHECKSUM
        return False, Reason.NOT_FROM_IMAGE


def _replaced(before: str, after: str, pattern: str, instead: str) -> bool:
    """Whether ``after`` is ``before`` with some of the pattern's matches replaced."""
    kept = re.split(pattern, before)
    if len(kept) < 2 or before == after:
        return False
    matched = re.findall(pattern, before)
    either = "".join(
        re.escape(text) + f"(?:{re.escape(old)}|{re.escape(instead)})"
        for text, old in zip(kept, matched, strict=False)
    )
    return re.fullmatch(either + re.escape(kept[-1]), after) is not None


def _is_image(path: Path) -> bool:
    return (
        len(path) > 2
        and path[-1] == "image"
        and path[-3]
        in (
            "containers",
            "initContainers",
            "ephemeralContainers",
        )
    )


def _is_label(path: Path) -> bool:
    return len(path) > 2 and path[-3] == "metadata" and path[-2] in ("labels", "annotations")


def _is_env(path: Path) -> bool:
    return len(path) > 2 and path[-3] == "env" and path[-1] == "value"


# -- comparing trees ----------------------------------------------------------------------------


def _compare(left: Rendered, right: Rendered, rule: _Rule) -> Iterator[Difference]:
    yield from _compare_objects(left.objects, right.objects, rule, hook=False)
    yield from _compare_objects(left.hooks, right.hooks, rule, hook=True)


def _compare_objects(
    left: Mapping[Key, Mapping[str, Any]],
    right: Mapping[Key, Mapping[str, Any]],
    rule: _Rule,
    *,
    hook: bool,
) -> Iterator[Difference]:
    pairs: dict[Key, Key] = {}
    for key in left:
        other = key
        if key not in right:
            renamed = rule.renamed(key[3])
            if renamed is not None and (*key[:3], renamed) in right:
                other = (*key[:3], renamed)
        pairs[key] = other
    for key, other in pairs.items():
        title = f"{key[1]}/{key[3]}"
        if other not in right:
            yield Difference(title, "", "present", "absent", rule.whole, rule.missing, hook)
            continue
        for path, before, after in _leaves((), left[key], right[other]):
            allowed, reason = rule.field(key[1], path, before, after)
            yield Difference(
                title,
                _dotted(path),
                _shown(key[1], path, before),
                _shown(key[1], path, after),
                allowed,
                reason,
                hook,
            )
    for key in right:
        if key in pairs.values():
            continue
        title = f"{key[1]}/{key[3]}"
        yield Difference(title, "", "absent", "present", rule.whole, rule.missing, hook)
        for path, value in _values((), right[key]) if rule.whole else ():
            shown = _shown(key[1], path, value)
            yield Difference(title, _dotted(path), "absent", shown, True, rule.missing, hook)


def _leaves(path: Path, left: Any, right: Any) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in [*left, *(k for k in right if k not in left)]:
            yield from _leaves((*path, str(key)), left.get(key, ABSENT), right.get(key, ABSENT))
        return
    if isinstance(left, list) and isinstance(right, list):
        named = _by_name(left), _by_name(right)
        if named[0] is not None and named[1] is not None:
            shared = [name for name in named[0] if name in named[1]]
            if shared != [name for name in named[1] if name in named[0]]:
                yield (*path, "(order)"), ", ".join(named[0]), ", ".join(named[1])
            yield from _leaves(path, named[0], named[1])
        elif len(left) == len(right):
            for index, (one, other) in enumerate(zip(left, right, strict=True)):
                yield from _leaves((*path, str(index)), one, other)
        else:
            yield path, left, right
        return
    if type(left) is not type(right) or left != right:
        yield path, left, right


def _values(path: Path, item: Any) -> Iterator[tuple[Path, Any]]:
    """Every value in a tree that is no mapping, with its path."""
    if isinstance(item, Mapping) and item:
        for key, value in item.items():
            yield from _values((*path, str(key)), value)
    else:
        yield path, item


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """Containers, environment entries and the like by their names, so that paths say which."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if not names or any(not isinstance(name, str) for name in names):
        return None
    if len(set(names)) != len(names):
        return None
    return {str(name): item for name, item in zip(names, items, strict=True)}


def _dotted(path: Path) -> str:
    out = ""
    lists = {"containers", "initContainers", "env", "volumes", "ports", "volumeMounts"}
    for index, part in enumerate(path):
        if (index and path[index - 1] in lists) or part.isdigit():
            out += f"[{part}]"
        else:
            out += f".{part}" if out else part
    return out


def _shown(kind: str, path: Path, value: Any) -> str:
    if value is ABSENT:
        return "absent"
    if kind == "Secret" and path and path[0] in ("data", "stringData"):
        return redaction.HIDDEN
    name = path[-2] if _is_env(path) else (path[-1] if path else "")
    value = redaction.tree(value, name=name)
    shown = (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True, width=10_000)
        .removesuffix("...\n")
        .strip()
    )
    # A multi-line value (a ConfigMap's file) may hold anything: named, never printed whole.
    shown = redaction.text(" ".join(shown.split()))
    return shown if len(shown) <= 120 else f"{shown[:100]}… ({len(shown)} characters)"
