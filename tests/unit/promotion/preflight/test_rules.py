"""Whether a release is fit to be changed."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ci.errors import PlanRefused, TargetNotFound
from ci.promotion.preflight import rules
from ci.promotion.release import drift
from ci.promotion.release import history as history_
from ci.results import (
    Because,
    ChartRef,
    CheckId,
    Count,
    Names,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.tools import kubeconfig
from ci.tools.helm import Revision


def revisions(*statuses: str) -> list[Revision]:
    return [Revision(n, s, "model-engine-0.1.13", "") for n, s in enumerate(statuses, 1)]


def test_the_latest_revision_is_the_deployed_one() -> None:
    history = revisions("superseded", "deployed")
    assert history_.deployed_revision(history, rollback="x").number == 2


@pytest.mark.parametrize("status", ["pending-upgrade", "pending-rollback", "pending-install"])
def test_a_pending_release_is_refused_with_our_command(status: str) -> None:
    with pytest.raises(PlanRefused, match="revision 2 is pending") as caught:
        history_.deployed_revision(revisions("deployed", status), rollback="our rollback")
    assert "our rollback" in caught.value.remedy


def test_a_failed_latest_revision_is_refused() -> None:
    with pytest.raises(PlanRefused, match="2 is failed, revision 1 is the deployed one"):
        history_.deployed_revision(revisions("deployed", "failed"), rollback="x")
    with pytest.raises(PlanRefused, match="none is deployed"):
        history_.deployed_revision(revisions("failed"), rollback="x")


def test_a_rollback_keeps_the_older_rendering() -> None:
    def history(*descriptions: str) -> list[Revision]:
        return [Revision(n, "deployed", "c-1", d) for n, d in enumerate(descriptions, 1)]

    for descriptions, rendered in (
        (("Install complete", "Upgrade complete"), (2,)),
        (("Install complete", "Upgrade complete", "Rollback to 1"), (1,)),
        (("Install complete", "Rollback to 1", "x", "Rollback to 2"), (1,)),
        (("Rollback to 1",), (1,)),
    ):
        found = history(*descriptions)
        assert history_.rendered_as(found, found[-1]) == rendered


def test_a_forgotten_rendering_may_be_any_earlier_one() -> None:
    found = [Revision(n, "deployed", "c-1", f"Rollback to {n - 2}") for n in (6, 8)]
    assert history_.rendered_as(found, found[-1]) == (4, 3, 2, 1)


def test_recreated_service_accounts() -> None:
    assert drift.recreated({"a": "1", "b": "2"}, {"a": "1", "b": "3"}) == ["b"]
    assert drift.recreated({"a": "1"}, {}) == []
    assert drift.recreated({}, {"a": "1"}) == []


def test_a_promotion_that_was_killed_in_the_middle() -> None:
    journal = {"step": "upgrading", "revision": "1", "image": "x@sha256:1"}
    first, second = revisions("superseded", "deployed")
    rules.unfinished(journal, first, rollback="x")  # killed before it changed anything
    rules.unfinished({**journal, "step": "done"}, second, rollback="x")
    rules.unfinished({}, second, rollback="x")
    by_hand = Revision(2, "deployed", "c-1", "Rollback to 1")
    rules.unfinished(journal, by_hand, rollback="x")  # by quick-rollback.sh, for example
    with pytest.raises(PlanRefused, match="was killed in the middle") as caught:
        rules.unfinished(journal, second, rollback="our rollback")
    assert caught.value.remedy == "return to revision 1 with `our rollback`"


def test_another_chart_is_refused() -> None:
    rules.same_chart("model-engine-0.1.13", {"name": "model-engine", "version": "0.1.13"})
    with pytest.raises(PlanRefused) as caught:
        rules.same_chart("model-engine-0.1.13", {"name": "model-engine", "version": "0.2.0"})
    charts = ChartRef("model-engine-0.1.13", "model-engine-0.2.0")
    assert caught.value.checks == (failed(CheckId.CHART_UNCHANGED, charts),)


def test_contexts(tmp_path: Path) -> None:
    config = tmp_path / "config"
    with pytest.raises(TargetNotFound, match="cannot read kubeconfig"):
        kubeconfig.contexts(config)
    for text in ("- a\n", "a: [", "\0"):
        config.write_text(text)
        with pytest.raises(TargetNotFound, match="is not a kubeconfig"):
            kubeconfig.contexts(config)
    config.write_text("contexts: [{name: one}, {name: two}]")
    assert kubeconfig.contexts(config) == ("one", "two")


def test_an_autoscaler_and_fixed_replicas() -> None:
    hpa = {"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "model-engine"}}}
    fixed = {"kind": "Deployment", "metadata": {"name": "model-engine"}, "spec": {"replicas": 2}}
    free = {"kind": "Deployment", "metadata": {"name": "model-engine"}, "spec": {}}
    assert rules.autoscaled([hpa], [fixed]) == ["model-engine"]
    assert rules.autoscaled([hpa], [free]) == []
    assert rules.autoscaled([], [fixed]) == []
    id = CheckId.REPLICAS_NOT_AUTOSCALED
    assert rules.not_autoscaled([hpa], [free]) == passed(id, Count(Unit.AUTOSCALERS, 1))
    assert rules.not_autoscaled(Because.FORBIDDEN, [fixed]) == unknown(id, Because.FORBIDDEN)
    with pytest.raises(PlanRefused) as caught:
        rules.not_autoscaled([hpa], [fixed])
    assert caught.value.checks == (failed(id, Names(Unit.COMPONENTS, ("model-engine",), 1)),)


# -- the chart inside the release -----------------------------------------------------------------


def stored(chart: dict[str, Any]) -> str:
    packed = gzip.compress(json.dumps({"chart": chart}).encode())
    return base64.b64encode(base64.b64encode(packed)).decode()


def a_chart(folder: Path) -> dict[str, Any]:
    (folder / "templates").mkdir()
    (folder / "templates" / "a.yaml").write_text("kind: A\n")
    (folder / "values.yaml").write_text("tag: ''\nreplicas: {gateway: 2}\n")
    return {
        "templates": [
            {"name": "templates/a.yaml", "data": base64.b64encode(b"kind: A\n").decode()}
        ],
        "values": {"tag": "", "replicas": {"gateway": 2}},
    }


def test_the_same_chart_does_not_differ(tmp_path: Path) -> None:
    chart = history_.record_of_release(stored(a_chart(tmp_path)))["chart"]
    assert rules.chart_differences(chart, tmp_path, {}) == []


def test_a_default_that_helm_rewrote_for_reused_values_does_not_count(tmp_path: Path) -> None:
    chart = a_chart(tmp_path)
    chart["values"]["tag"] = "old-tag"
    assert rules.chart_differences(chart, tmp_path, {"tag": "old-tag"}) == []
    assert rules.chart_differences(chart, tmp_path, {}) == ["values.yaml: tag"]


def test_templates_and_defaults_that_differ(tmp_path: Path) -> None:
    chart = a_chart(tmp_path)
    (tmp_path / "templates" / "a.yaml").write_text("kind: B\n")
    (tmp_path / "values.yaml").write_text("tag: ''\nreplicas: {gateway: 3}\nnew: 1\n")
    assert rules.chart_differences(chart, tmp_path, {}) == [
        "templates/a.yaml",
        "values.yaml: replicas.gateway",
        "values.yaml: new",
    ]
    (tmp_path / "templates" / "a.yaml").unlink()
    found = rules.chart_differences(chart, tmp_path, {"replicas": {"gateway": 5}, "new": None})
    assert found == ["templates/a.yaml"]


def test_custom_resource_definitions_that_differ(tmp_path: Path) -> None:
    chart = a_chart(tmp_path)
    chart["files"] = [{"name": "crds/a.yaml", "data": base64.b64encode(b"kind: A\n").decode()}]
    (tmp_path / "crds").mkdir()
    (tmp_path / "crds" / "a.yaml").write_text("kind: A\n")
    assert rules.chart_differences(chart, tmp_path, {}) == []
    (tmp_path / "crds" / "a.yaml").write_text("kind: B\n")
    (tmp_path / "crds" / "b.yaml").write_text("kind: C\n")
    assert rules.chart_differences(chart, tmp_path, {}) == ["crds/a.yaml", "crds/b.yaml"]


def test_a_chart_is_unchanged_changed_or_not_known(tmp_path: Path) -> None:
    id = CheckId.CHART_UNCHANGED
    chart = a_chart(tmp_path)
    named = ChartRef("engine-1", "engine-1")
    assert rules.chart_is_live(chart, tmp_path, {}, chart="engine-1") == passed(id, named)
    unread = rules.chart_is_live(None, tmp_path, {}, chart="engine-1")
    assert unread == unknown(id, Because.NO_ANSWER, named)
    (tmp_path / "templates" / "a.yaml").write_text("kind: B\n")
    with pytest.raises(PlanRefused) as caught:
        rules.chart_is_live(chart, tmp_path, {})
    assert caught.value.checks == (failed(id, Names(Unit.FILES, ("templates/a.yaml",), 1)),)
    changed = rules.chart_changed(chart, tmp_path, {}, was="engine-1", now="engine-2")
    assert changed.id is CheckId.CHART_CHANGE_INTENDED
    assert changed.measured == (
        ChartRef("engine-1", "engine-2"), Names(Unit.FILES, ("templates/a.yaml",), 1),
    )  # fmt: skip


# -- drift ----------------------------------------------------------------------------------------


def spec(**container: Any) -> dict[str, Any]:
    return {
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c", **container}]}}}
    }


@pytest.mark.parametrize(
    ("released", "present"),
    [
        ({"image": "a:1"}, {"image": "a:1", "imagePullPolicy": "IfNotPresent"}),
        ({"cpu": "0.5"}, {"cpu": "500m"}),
        ({"memory": "1024Mi"}, {"memory": "1Gi"}),
        ({"env": [{"name": "A", "value": "1"}]},
         {"env": [{"name": "injected", "value": "x"}, {"name": "A", "value": "1"}]}),
        ({"env": [{"name": "A", "value": ""}]}, {"env": [{"name": "A"}]}),
        ({"resources": {}, "args": None}, {}),
        ({"stdin": False, "minReadySeconds": 0, "securityContext": {"privileged": False}}, {}),
    ],
)  # fmt: skip
def test_no_drift(released: dict[str, Any], present: dict[str, Any]) -> None:
    assert drift.drift(spec(**released), spec(**present)) == []


@pytest.mark.parametrize(
    ("released", "present", "where"),
    [
        ({"image": "a:1"}, {"image": "a:2"}, "image"),
        ({"cpu": "0.5"}, {"cpu": "600m"}, "cpu"),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": []}, "env.A"),
        ({"args": ["a"]}, {"args": ["a", "b"]}, "args"),
        ({"stdin": True}, {"stdin": False}, "stdin"),
    ],
)
def test_drift_is_named(released: dict[str, Any], present: dict[str, Any], where: str) -> None:
    found = drift.drift(spec(**released), spec(**present))
    assert found == [f"spec.template.spec.containers.c.{where}"]


@pytest.mark.parametrize(
    ("released", "present", "where"),
    [
        ({"data": {"a": "1"}}, {"data": {"a": "2", "b": "3"}}, ["data.a"]),
        ({"data": {"a": "1"}}, {}, ["data"]),
        ({"rules": [{"verbs": ["get"]}]}, {"rules": [{"verbs": ["get", "list"]}]},
         ["rules.0.verbs"]),
        ({"metadata": {"name": "c", "labels": {"a": "1"}}},
         {"metadata": {"name": "c", "uid": "u", "labels": {"a": "2", "b": "3"}}},
         ["metadata.labels.a"]),
        ({"kind": "Secret", "stringData": {"p": "swordfish"}}, {"data": {"p": "c3dvcmRmaXNo"}}, []),
        ({"kind": "Secret", "stringData": {"p": "swordfish"}}, {"data": {"p": "Z3Vlc3M="}},
         ["data.p"]),
    ],
)  # fmt: skip
def test_drift_of_any_object(
    released: dict[str, Any], present: dict[str, Any], where: list[str]
) -> None:
    assert drift.drift(released, present) == where


@pytest.mark.parametrize(
    ("kind", "version", "by_hand"),
    [
        ("ConfigMap", "v1", True),
        ("Deployment", "apps/v1", True),
        ("Role", "rbac.authorization.k8s.io/v1", True),
        ("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", False),
        ("CustomResourceDefinition", "apiextensions.k8s.io/v1", False),
        ("ScaledObject", "keda.sh/v1alpha1", False),
    ],
)
def test_whose_writing_it_is(kind: str, version: str, by_hand: bool) -> None:
    assert drift.by_hand(kind, version) is by_hand


def test_what_a_rollback_left_behind() -> None:
    recorded, live = spec(image="a:1"), spec(image="a:1")
    live["spec"]["replicas"] = 9
    live["spec"]["template"]["metadata"] = {
        "annotations": {"kubectl.kubernetes.io/restartedAt": "now"}
    }
    assert drift.unrestored(recorded, live) == []
    live["spec"]["template"]["spec"]["containers"].append({"name": "left", "image": "b:1"})
    assert drift.unrestored(recorded, live) == ["spec.template.spec.containers.left"]


def test_scaled_by_hand() -> None:
    live = spec()
    live["spec"]["replicas"] = 3
    assert drift.drift(spec(), live) == ["spec.replicas"]
