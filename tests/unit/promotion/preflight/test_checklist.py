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
from ci.model import Case, Cluster, Image, Proof, Target
from ci.promotion.preflight import checklist, image_pull
from ci.promotion.release.manifest import parse
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    ExitStatus,
    ImageRef,
    Names,
    Outcome,
    Phase,
    Problem,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.settings import Notify, Settings
from ci.tools.command import Output

ROOT = Path(__file__).resolve().parents[4]
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
    programs = SimpleNamespace(
        run=lambda *_, **__: Output(status, "table jobs: + column\n", ""), redact=str
    )
    session = SimpleNamespace(programs=programs, target=replace(TARGET, **changed))
    return checklist.no_migration(cast(TargetSession, session), parse("", text))


MIGRATION = CheckId.MIGRATION_NOT_NEEDED
HOOKS = Names(Unit.HOOKS, ("Job/migration (pre-upgrade: “migrat”)",), 1)


def test_a_migration_hook_fails_unless_it_is_allowed_and_then_is_not_checked() -> None:
    assert ask(hook()) == passed(MIGRATION, Count(Unit.HOOKS, 0))
    assert ask(hook(name="migration")) == failed(MIGRATION, HOOKS)
    allowed = ask(hook(name="migration"), allow_migrations=True)
    assert allowed == skipped(MIGRATION, "allow_migrations", HOOKS)


def test_the_configured_command_decides() -> None:
    agrees = ask("", migration_command=("check",))
    assert agrees == passed(MIGRATION, Count(Unit.HOOKS, 0), ExitStatus("check", 0))
    refuses = ask("", status=3, migration_command=("check",))
    assert refuses.outcome is Outcome.FAILED
    assert ExitStatus("check", 3, "table jobs: + column") in refuses.measured
    also = ask(hook(name="migration"), 3, migration_command=("check",), allow_migrations=True)
    assert also.failed, "a hook that may migrate says nothing of another migration"


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


def proof(*cases: Case, api: str = "") -> Proof:
    return Proof(IMAGE, cases, Path("x"), datetime(2026, 1, 1, tzinfo=UTC), api=api)


def api(proven: str, live: Any, **changed: Any) -> Check:
    return checklist.api_compatible(replace(TARGET, **changed), proof(api=proven), live)


COMPATIBLE = CheckId.API_COMPATIBLE


def test_an_api_that_breaks_clients_fails_before_the_change() -> None:
    assert api(json.dumps(API), API) == passed(COMPATIBLE, Count(Unit.API_PATHS, 1))
    assert api('{"paths": {}}', API).failed


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (api("", API), unknown(COMPATIBLE, Because.NOT_IN_EVIDENCE)),
        (
            api(json.dumps(API), Because.NOT_DESCRIBED),
            unknown(COMPATIBLE, Because.NOT_DESCRIBED),
        ),
        (api(json.dumps(API), Because.FORBIDDEN), unknown(COMPATIBLE, Because.FORBIDDEN)),
        (api("", API, openapi_path=""), skipped(COMPATIBLE, "service.openapi_path")),
    ],
)
def test_an_api_that_is_not_known_is_neither_passed_nor_failed(
    check: Check, expected: Check
) -> None:
    assert check == expected


def test_what_the_proof_shows_is_what_its_cases_say_that_they_show() -> None:
    """Not what they are called: the names are the team's own."""
    named = Case("test_health::test_readiness_under_load", Outcome.PASSED, 2.0, "slowest 80 ms")
    nothing = unknown(CheckId.HEALTH_UNDER_LOAD, Because.NOT_IN_EVIDENCE)
    assert checklist.ready_under_load(proof(named)) == nothing
    assert checklist.health_proven(proof(named)).outcome is Outcome.UNKNOWN
    load = Case("test_x::test_1", Outcome.PASSED, 2.0, "slowest 80 ms", ("health.under-load",))
    asked = Case("test_x::test_2", Outcome.PASSED, 0.1, shows=("health.proven",))
    assert checklist.ready_under_load(proof(load, asked)) == passed(
        CheckId.HEALTH_UNDER_LOAD, Problem("slowest 80 ms")
    )
    assert checklist.health_proven(proof(load, asked)) == passed(
        CheckId.HEALTH_PROVEN, Names(Unit.CASES, ("test_2",), 1)
    )
    excused = replace(asked, outcome=Outcome.SKIPPED)
    assert checklist.health_proven(proof(load, excused)).outcome is Outcome.UNKNOWN


def test_the_projects_own_suite_says_what_its_cases_show() -> None:
    """Both are required by default, of the demonstration target, too."""
    text = (ROOT / "tests" / "e2e" / "test_health.py").read_text("utf-8")
    for id in (CheckId.HEALTH_PROVEN, CheckId.HEALTH_UNDER_LOAD):
        assert f'record_property("shows", "{id.value}")' in text


def test_who_is_notified_is_counted() -> None:
    nobody = skipped(CheckId.TEAM_NOTIFIED, "notify")
    assert checklist.team_notified(Settings()) == nobody
    later = Notify(url_env="A", on=("failure",))
    assert checklist.team_notified(Settings(notify=(later,))) == nobody
    found = checklist.team_notified(Settings(notify=(later, Notify(url_env="B"))))
    assert found == passed(CheckId.TEAM_NOTIFIED, Count(Unit.RECIPIENTS, 1))


def test_the_image_is_named_by_digest_where_it_was_built_and_where_it_is_pulled() -> None:
    there = replace(IMAGE, repository="elsewhere/engine")
    built, published = checklist.image_checks(proof(), there)
    assert built.measured == (ImageRef("r/engine", "new", IMAGE.digest),)
    assert published.measured == (ImageRef("elsewhere/engine", "new", IMAGE.digest),)


def test_what_failed_is_refused_with_its_remedy_and_nothing_else_is() -> None:
    well = [passed(COMPATIBLE), unknown(CheckId.HEALTH_PROVEN, Because.NOT_IN_EVIDENCE)]
    checklist.refuse_failed(well)
    wrong = failed(COMPATIBLE, Names(Unit.API_CHANGES, ("/tasks is gone",), 1))
    with pytest.raises(PlanRefused, match="/tasks is gone") as caught:
        checklist.refuse_failed([*well, wrong])
    assert [(g.phase, g.checks) for g in caught.value.groups] == [(Phase.BEFORE, (wrong,))]
    assert "service.openapi_path" in caught.value.remedy
