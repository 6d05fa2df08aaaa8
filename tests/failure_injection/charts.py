"""The chart of the service, made wrong in one way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.failure_injection.rig import CHART, Place


def copied(place: Place, tmp_path: Path) -> Path:
    """A chart that a case may change."""
    folder = tmp_path / "chart"
    shutil.copytree(CHART, folder)
    place.chart = folder
    return folder


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file.name} has no {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def add(name: str, text: str) -> Callable[[Path], None]:
    def change(chart: Path) -> None:
        (chart / "templates" / name).write_text(text, encoding="utf-8")

    return change


def account_that_is_an_upgrade_hook(chart: Path, hook: str = "pre-install,pre-upgrade") -> None:
    """Every pod runs as a ServiceAccount that Helm deletes and makes anew at each upgrade."""
    add(
        "account.yaml",
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: engine\n"
        f'  annotations: {{"helm.sh/hook": "{hook}", "helm.sh/hook-weight": "-5"}}\n',
    )(chart)
    replace(
        chart / "templates/engine.yaml",
        "terminationGracePeriodSeconds",
        "serviceAccountName: engine\n      terminationGracePeriodSeconds",
    )


def pods_that_name_the_revision(chart: Path) -> None:
    """Every upgrade replaces every pod, whether anything was changed or not."""
    replace(
        chart / "templates/engine.yaml",
        "template:\n    metadata: {labels:",
        'template:\n    metadata: {annotations: {revision: "{{ $.Release.Revision }}"}, labels:',
    )


def gateway_that_drains_longer_than_the_workers(chart: Path) -> None:
    """Its old pods are there long after the new version serves, as on a machine under load."""
    replace(
        chart / "templates/engine.yaml",
        "preStop: {sleep: {seconds: {{ $.Values.drainSeconds }} }}",
        'preStop: {sleep: {seconds: {{ ternary 14 1 (eq $name "engine") }} }}',
    )
