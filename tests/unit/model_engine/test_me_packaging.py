"""The Dockerfile, the chart and the patch say what the pipeline relies on."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SERVICE = ROOT / "examples" / "model-engine"
CHART = SERVICE / "chart"
PATCH = ROOT / "tests" / "e2e" / "broken" / "lock-duration-ignored.patch"


def values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def template(name: str) -> str:
    return (CHART / "templates" / name).read_text()


# -- the image


def instructions() -> list[str]:
    text = (SERVICE / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_starts_from_the_official_python_and_runs_as_nobody_special() -> None:
    lines = instructions()
    assert lines[0] == "FROM python:3.11-slim"
    assert "USER 1000:1000" in lines
    assert not any("apt" in line for line in lines)


def test_a_new_version_builds_no_layer_again() -> None:
    lines = instructions()
    version = lines.index("ARG APP_VERSION=unknown")
    assert all(line.startswith(("ENV", "LABEL")) for line in lines[version + 1 :])
    assert not any("APP_VERSION" in line for line in lines[:version])


def test_new_source_installs_no_dependency_again() -> None:
    lines = instructions()
    install = next(n for n, line in enumerate(lines) if re.match("RUN .*pip install", line))
    source = lines.index("COPY model_engine model_engine")
    assert lines.index("COPY requirements.lock .") < install < source
    assert "--require-hashes" in lines[install]


def test_the_lock_holds_hashes_and_no_address() -> None:
    lock = (SERVICE / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index-url" not in lock
    pinned = re.findall(r"^[a-z][^ ]*==[^ ]+ \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z]", lock, re.MULTILINE))
    wanted = (SERVICE / "requirements.in").read_text().splitlines()
    for line in (line for line in wanted if line and not line.startswith("#")):
        name = re.split(r"[\[=]", line)[0]
        assert re.search(rf"^{name}==", lock, re.MULTILINE), f"{name} is not in the lock"


# -- the chart


def test_the_chart_is_the_plans() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["name"], chart["version"]) == ("model-engine", "0.1.13")


def test_the_values_have_the_plans_structure() -> None:
    given = values()
    assert given["azure"].keys() >= {
        "abs_account_name",
        "abs_container_name",
        "client_id",
        "servicebus_namespace",
        "keyvault_name",
    }
    config = given["config"]["values"]
    assert config["infra"].keys() >= {"cloud_provider", "docker_repo_prefix", "k8s_cluster_name"}
    assert config["launch"].keys() >= {"cache_redis_azure_host", "endpoint_namespace"}
    assert given["replicaCount"] == {"gateway": 2, "builder": 1, "cacher": 0}
    assert given["tag"] == ""


def test_the_schema_knows_every_value() -> None:
    def compare(given: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        if "properties" not in schema:
            return
        for key, value in given.items():
            assert key in schema["properties"], f"{path}{key} is not in values.schema.json"
            if isinstance(value, dict):
                compare(value, schema["properties"][key], f"{path}{key}.")

    compare(values(), json.loads((CHART / "values.schema.json").read_text()), "")


@pytest.mark.parametrize(
    ("file", "name", "module"),
    [
        ("gateway.yaml", "model-engine", "gateway"),
        ("builder.yaml", "model-engine-endpoint-builder", "builder"),
        ("cacher.yaml", "model-engine-cacher", "cacher"),
    ],
)
def test_deployment_and_container_bear_the_plans_names(file: str, name: str, module: str) -> None:
    text = template(file)
    assert f"kind: Deployment\nmetadata:\n  name: {name}\n" in text
    assert re.search(rf"- name: {name}\n\s+\{{\{{- include \"model-engine.container\"", text)
    assert f"command: [python, -m, model_engine.{module}]" in text
    assert (SERVICE / "model_engine" / f"{module}.py").is_file()
    assert "maxSurge: 25%\n      maxUnavailable: 0" in text


def test_the_gateway_is_probed_and_drained_as_planned() -> None:
    text = template("gateway.yaml")
    probe = text[text.index("readinessProbe:") : text.index("livenessProbe:")]
    assert "path: /readyz" in probe
    assert "timeoutSeconds: 1\n" in probe
    assert "failureThreshold: 30\n" in probe
    assert "containerPort: 5000" in text
    sleep = int(re.search(r"sleep:\n\s+seconds: (\d+)", text)[1])  # type: ignore[index]
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])  # type: ignore[index]
    source = (SERVICE / "model_engine" / "gateway.py").read_text()
    drain = int(re.search(r"timeout_graceful_shutdown=(\d+)", source)[1])  # type: ignore[index]
    linger = float(re.search(r"LINGER_SECONDS = ([\d.]+)", source)[1])  # type: ignore[index]
    assert sleep + linger + drain < grace


def test_an_upgrade_changes_nothing_but_images() -> None:
    text = "".join(path.read_text() for path in (CHART / "templates").glob("*.*"))
    assert "helm.sh/hook" not in text
    for unstable in ("rand", "uuidv4", "now", ".Release.Revision", "lookup "):
        assert not re.search(rf"\{{\{{[^}}]*{re.escape(unstable)}", text), unstable
    uses = [
        line.strip()
        for path in sorted((CHART / "templates").glob("*"))
        for line in path.read_text().splitlines()
        if ".Values.tag" in line
    ]
    assert uses == [
        "model-engine {{ .Values.tag }} in {{ .Release.Namespace }}.",
        '{{- if not .Values.tag }}{{ fail "set tag" }}{{ end -}}',
        "{{ .Values.image.repository }}:{{ .Values.tag }}",
    ]


def test_pods_are_restricted() -> None:
    text = template("_helpers.tpl")
    for line in (
        "runAsNonRoot: true",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
        "type: RuntimeDefault",
    ):
        assert line in text


# -- the defect that the gate has to find


def hunks(patch: str) -> list[tuple[Path, str, str]]:
    """(file, lines before, lines after) of every hunk."""
    found = []
    for part in re.split(r"^--- ", patch, flags=re.MULTILINE)[1:]:
        file = re.search(r"^\+\+\+ b/(.+)$", part, re.MULTILINE)[1]  # type: ignore[index]
        for header, body in re.findall(r"^@@ ([^@]+) @@\n((?:[ +-].*\n|\n)+)", part, re.MULTILINE):
            lines = [line or " " for line in body.splitlines()]
            before = [line[1:] for line in lines if line[0] in " -"]
            after = [line[1:] for line in lines if line[0] in " +"]
            old, new = re.fullmatch(r"-\d+,(\d+) \+\d+,(\d+)", header).groups()  # type: ignore[union-attr]
            assert (len(before), len(after)) == (int(old), int(new)), "the hunk's header is wrong"
            found.append((ROOT / file, "\n".join(before), "\n".join(after)))
    return found


def test_the_broken_variant_can_be_made() -> None:
    ((file, before, after),) = hunks(PATCH.read_text())
    source = file.read_text()
    assert source.count(before) == 1, f"{PATCH.name} does not apply any more: make it anew"
    broken = source.replace(before, after)
    ast.parse(broken)
    assert "queue_message_timeout_duration" in source
    assert "queue_message_timeout_duration" not in broken
