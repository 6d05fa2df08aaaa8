"""The Helm values that an upgrade sets."""

from __future__ import annotations

from ci.model import Image, Target


def sets_of(target: Target, before: Image, after: Image) -> dict[str, str]:
    """What the upgrade sets: the tag; the repository only where it differs on purpose."""
    sets = {target.tag_value: after.tag}
    if after.repository != before.repository:
        sets.update(dict.fromkeys(target.repository_values, after.repository))
    return sets
