"""The named checks before a change: migrations, the image on the nodes, the checklist."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.digest import Digest
from ci.errors import PlanRefused
from ci.model import Case, Check, Cluster, Image, Outcome, Proof, Target
from ci.promotion.preflight import checklist, image_pull
from ci.promotion.release.manifest import parse
from ci.run.context import Context
from ci.tools.command import Output

IMAGE = Image("r/engine", "new", Digest.from_hex("b" * 64))
CLUSTER = Cluster("c", Path("k"), "c", True)
TARGET = Target("prod", CLUSTER, "launch", "rel", Path("x"), IMAGE.repository)


def hook(
    name: str = "job", when: str = "pre-upgrade", command: str = "run", kind: str = "Job"
) -> str:
    return (
        f"apiVersion: batch/v1\nkind: {kind}\nmetadata:\n  name: {name}\n"
        f'  annotations: {{"helm.sh/hook": "{when}"}}\nspec:\n  template:\n    spec:\n'
        f"      containers: [{{name: main, image: x, command: [{command}]}}]\n"
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (hook(name="engine-database-migration"), "Job/engine-database-migration"),
        (hook(command="alembic, upgrade, head"), "Job/job"),
        (hook(when="pre-install,post-upgrade", command="/bin/migrate.sh"), "Job/job"),
        (hook(), ""),
        (hook(name="migration", when="pre-install"), ""),
        (hook(name="migration", kind="ConfigMap"), ""),
    ],
)
def test_hooks_that_migrate_are_named(text: str, named: str) -> None:
    found = checklist.migrations(parse("", text))
    assert [each.split(" ")[0] for each in found] == ([named] if named else [])


def ask(text: str, status: int = 0, **changed: Any) -> Check:
    target = replace(TARGET, **changed)
    programs = SimpleNamespace(run=lambda *_, **__: Output(status, "table jobs: + column\n", ""))
    context = cast(Context, SimpleNamespace(programs=programs))
    return checklist.no_migration(context, target, parse("", text))


def test_a_migration_hook_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(PlanRefused, match=r"migrates a database.*Job/migration \(pre-upgrade"):
        ask(hook(name="migration"))
    assert "allowed: Job/migration" in ask(hook(name="migration"), allow_migrations=True).evidence


def test_the_configured_command_decides() -> None:
    assert "check agrees" in ask("", migration_command=("check",)).evidence
    with pytest.raises(PlanRefused, match=r"says check \(status 3\): table jobs: \+ column"):
        ask("", status=3, migration_command=("check",))


def pod(**state: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"name": "pull", "state": state}]}}


@pytest.mark.parametrize(
    ("seen", "there"),
    [
        (pod(terminated={"exitCode": 0}), True),
        (pod(terminated={"exitCode": 128, "reason": "StartError"}), True),
        (pod(waiting={"reason": "RunContainerError"}), True),
        (pod(waiting={"reason": "CreateContainerConfigError"}), True),
        (pod(waiting={"reason": "ContainerCreating"}), False),
        (pod(waiting={"reason": "ErrImagePull"}), False),
        (pod(waiting={"reason": "ImagePullBackOff"}), False),
        ({"status": {"phase": "Pending"}}, False),
    ],
)
def test_an_image_is_there_once_its_container_got_further(
    seen: dict[str, Any], there: bool
) -> None:
    assert image_pull.pulled(seen) is there


def test_a_node_that_takes_no_pod_says_why() -> None:
    assert image_pull.rejected({"status": {"phase": "Failed", "reason": "OutOfpods"}}).startswith(
        "OutOf"
    )
    assert image_pull.rejected(pod(terminated={})) == ""


def test_the_pulling_pod_has_the_releases_rights_and_no_more() -> None:
    target = Target("p", Cluster("c", Path("k"), "c", True), "n", "rel", Path("x"), "r/engine")
    own = {"imagePullSecrets": [{"name": "login"}], "serviceAccountName": "engine"}
    made = image_pull.manifest(target, {"spec": {"template": {"spec": own}}}, IMAGE, "node-1")[
        "spec"
    ]
    assert made["imagePullSecrets"] == own["imagePullSecrets"]
    assert (made["serviceAccountName"], made["nodeName"]) == ("engine", "node-1")
    assert made["automountServiceAccountToken"] is False
    assert made["containers"][0]["image"] == IMAGE.by_digest


API: dict[str, Any] = {"paths": {"/tasks": {"get": {"responses": {"200": {}}}}}}


def api(proven: str, live: Any, **changed: Any) -> Check:
    target = replace(TARGET, **changed)
    proof = Proof(IMAGE, (), Path("x"), datetime(2026, 1, 1, tzinfo=UTC), api=proven)
    return checklist.api_kept(target, proof, live)


def test_an_api_that_breaks_clients_is_refused_before_the_change() -> None:
    assert api(json.dumps(API), API).evidence == "1 paths compared"
    with pytest.raises(PlanRefused, match=r"would break clients.*: /tasks is gone") as caught:
        api('{"paths": {}}', API)
    assert "service.openapi_path" in caught.value.remedy


def test_an_api_that_is_not_known_is_said_and_not_refused() -> None:
    older = api("", API)
    assert older.ok
    assert older.evidence.startswith("not compared: the evidence describes none")
    assert "serves describes none at /openapi.json" in api(json.dumps(API), None).evidence
    assert "turned off" in api("", None, openapi_path="").evidence


def test_what_the_proof_measured_under_load_is_told() -> None:
    name = "test_health::test_readiness_answers_within_a_second_under_load"
    proof = Proof(IMAGE, (), Path("x"), datetime(2026, 1, 1, tzinfo=UTC))
    assert checklist.ready_under_load(proof).evidence.startswith("not measured")
    measured = Case(name, Outcome.PASSED, 2.0, "slowest 80 ms")
    found = checklist.ready_under_load(replace(proof, cases=(measured,)))
    assert found == Check(checklist.READY, True, "slowest 80 ms")


def test_the_checklist_is_the_plans_with_a_tick_or_the_reason() -> None:
    cases = (Case("test_health::test_health_paths", Outcome.PASSED, 0.1),)
    proof = Proof(IMAGE, cases, Path("x"), datetime(2026, 1, 1, tzinfo=UTC))
    asked = [
        Check(image_pull.Pull.name, True, "on n1"),
        Check(checklist.NO_MIGRATION, True, "none"),
        Check(checklist.API, True, "7 paths compared"),
        Check(checklist.READY, True, "slowest 80 ms"),
        Check(checklist.ROLLBACK, True, "revision 7 is there"),
    ]
    files = ["current-image.txt", "quick-rollback.sh"]
    ticked = checklist.checklist(proof, asked, files=files, pushed="r/engine:new", told=2)
    assert len(ticked) == 9
    assert all(item.ok for item in ticked)
    assert ticked[6].evidence == "test_health_paths; slowest 80 ms"
    asked[0] = Check(image_pull.Pull.name, True, "not tried: turned off (pull_on_nodes)")
    asked[2] = Check(checklist.API, True, "not compared: turned off")
    bare = checklist.checklist(proof, asked, files=files, pushed="r/engine:new", told=0)
    assert {item.name: item.evidence for item in bare if not item.ok} == {
        "Image can be pulled from ECR": "not tried: turned off (pull_on_nodes)",
        "Code changes are backward compatible": "not compared: turned off",
        "Team notified about upgrade": "nobody is configured ([[notify]])",
    }
