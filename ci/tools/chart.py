"""Charts without a cluster: metadata, rendering, images, values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ci.errors import ChartInvalid
from ci.tools.command import Programs
from ci.tools.helm import reason


def metadata(chart: Path) -> dict[str, Any]:
    """``Chart.yaml``. Raises :class:`ChartInvalid` when it is missing or not a chart's."""
    path = chart / "Chart.yaml"
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ChartInvalid(f"{chart} is not a chart: no readable Chart.yaml") from problem
    except yaml.YAMLError as problem:
        raise ChartInvalid(f"{path} is not YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(loaded, dict) or not loaded.get("name") or not loaded.get("version"):
        raise ChartInvalid(f"{path} has no chart name or version")
    return loaded


def render(
    helm: Path,
    programs: Programs,
    chart: Path,
    values: dict[str, Any],
    *,
    release: str = "render",
    namespace: str = "default",
) -> str:
    """``helm template``: the manifests, or :class:`ChartInvalid` with the reason in one line."""
    metadata(chart)
    answer = programs.run(
        [
            str(helm),
            "template",
            release,
            str(chart),
            "--namespace",
            namespace,
            "--values",
            "-",
        ],
        log="helm-template",
        input=yaml.safe_dump(values),
        timeout=60,
        check=False,
    )
    if answer.status != 0:
        raise ChartInvalid(f"the chart {chart.name} does not render: {reason(answer)}")
    return answer.stdout


def images(rendered: str) -> list[str]:
    """Every image of a container in rendered manifests, once."""
    references: dict[str, None] = {}
    unseen: list[Any] = list(yaml.safe_load_all(rendered))
    while unseen:
        value = unseen.pop(0)
        if isinstance(value, list):
            unseen += value
        elif isinstance(value, Mapping):
            unseen += value.values()
            for container in [*_list(value, "initContainers"), *_list(value, "containers")]:
                if isinstance(container, Mapping) and isinstance(container.get("image"), str):
                    references[container["image"]] = None
    return list(references)


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    items = value.get(key)
    return items if isinstance(items, list) else []


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as Helm does: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        current = merged.get(key)
        if isinstance(current, dict) and isinstance(value, Mapping):
            merged[key] = merge(current, value)
        else:
            merged[key] = list(value) if isinstance(value, tuple) else value
    return merged


def chart_name(metadata: Mapping[str, Any]) -> str:
    """A release's chart as Helm names it: ``NAME-VERSION``."""
    return f"{metadata['name']}-{metadata['version']}"
