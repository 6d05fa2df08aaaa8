"""The manifests of the admission policy. What they do to a pod is the API server's business, and
is seen in ``tests/integration/test_cloud.py``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ci.standins import admission
from ci.standins.admission import Expression, cel

CERTIFI = "/usr/lib/certifi/cacert.pem"
BUNDLES = {"registry:5000/engine:v1": [CERTIFI], "plain@sha256:0": []}


def policy(**changed: Any) -> tuple[list[dict[str, Any]], str]:
    given = {
        "selector": admission.SELECTOR,
        "bundles": BUNDLES,
        "emulator": "emulator@sha256:1",
        "ca": "CA\n",
        "spared": "standins",
    }
    return admission.policy(**{**given, **changed})


def test_the_policy_chooses_pods_by_label_and_spares_the_stand_ins() -> None:
    (made, binding), _ = policy()
    constraints = made["spec"]["matchConstraints"]
    assert constraints["objectSelector"] == {"matchLabels": {"azure.workload.identity/use": "true"}}
    spared = constraints["namespaceSelector"]["matchExpressions"][0]
    assert (spared["operator"], spared["values"]) == ("NotIn", ["kube-system", "standins"])
    assert binding["spec"] == {"policyName": made["metadata"]["name"]}
    assert made["spec"]["failurePolicy"] == "Fail"


def test_an_image_is_known_by_its_reference_and_by_its_repository() -> None:
    (made, _), _ = policy()
    variables = {entry["name"]: entry["expression"] for entry in made["spec"]["variables"]}
    assert json.loads(variables["bundles"]) == {
        **BUNDLES,
        "registry:5000/engine": [CERTIFI],
        "plain": [],
    }
    assert json.loads(variables["repositories"]) == ["plain", "registry:5000/engine"]


@pytest.mark.parametrize(
    "changed",
    [{"ca": "other"}, {"bundles": {}}, {"emulator": "other"}, {"selector": "a=b"}, {"spared": "x"}],
)
def test_every_difference_is_another_version(changed: dict[str, Any]) -> None:
    assert policy()[1] == policy()[1] != policy(**changed)[1]


def test_the_version_stands_in_the_init_container() -> None:
    (made, _), version = policy()
    expression = made["spec"]["mutations"][-1]["jsonPatch"]["expression"]
    assert f'{{name: "{admission.VERSION}", value: "{version}"}}' in expression


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        ("", {}),
        ("app=engine", {"matchLabels": {"app": "engine"}}),
        ("app=, b/c=d", {"matchLabels": {"app": "", "b/c": "d"}}),
        ("tier", {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
    ],
)
def test_a_selector_is_read_as_kubectl_reads_it(selector: str, labels: dict[str, Any]) -> None:
    assert admission.labels(selector) == labels


def test_the_example_is_a_pod_that_the_selector_chooses() -> None:
    pod = admission.example("app=engine,tier")
    assert pod["metadata"]["labels"] == {"app": "engine", "tier": ""}
    assert admission.version_of(pod) == ""


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("redis", "redis"),
        ("redis:7", "redis"),
        ("host:5000/a/b", "host:5000/a/b"),
        ("host:5000/a/b:t", "host:5000/a/b"),
        ("host:5000/a/b:t@sha256:0", "host:5000/a/b"),
    ],
)
def test_a_repository_has_no_tag_and_no_digest(image: str, repository: str) -> None:
    assert admission.repository(image) == repository


def test_literals_of_cel_name_their_types() -> None:
    value = {"name": 'a "b"\n', "items": [{"key": Expression("x + 1")}], "ok": True, "n": 3}
    assert cel(value, "Object.spec") == (
        r'Object.spec{name: "a \"b\"\n", items: [Object.spec.items{key: x + 1}], ok: true, n: 3}'
    )
