"""Rehearsals on a real cluster: a change that is sound, and changes that Helm and ``/readyz`` call
sound and that are not. The live release is not touched by any."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.model import Rehearsal
from ci.results import (
    Check,
    CheckId,
    Count,
    Cure,
    CureId,
    Names,
    Outcome,
    Problem,
    Recreated,
    RehearsedStep,
    Requests,
    Unit,
    VerdictId,
)
from ci.stages.rehearse import state_of
from tests.failure_injection.charts import (
    account_that_is_an_upgrade_hook,
    copied,
    gateway_that_drains_longer_than_the_workers,
    pods_that_name_the_revision,
)
from tests.failure_injection.rig import RELEASE, Place

pytestmark = pytest.mark.timeout(600)

PASSED = pytest.mark.end(VerdictId.REHEARSED, note="the release is untouched")
FAILED = pytest.mark.end(VerdictId.NOT_REHEARSED, note="the release is untouched")


def failed(rehearsal: Rehearsal) -> dict[tuple[str, CheckId], Check]:
    """What the rehearsal objected to, by step and check."""
    return {(check.subject, check.id): check for check in rehearsal.failed}


def rehearsed_and_gone(place: Place) -> None:
    """The live release is as it was, and what was rehearsed is gone, or going."""
    place.ends("v1", 1)
    phase = place.kube.run(
        "get", "namespace", f"rehearsal-{place.namespace}"[:63].rstrip("-"),
        "--ignore-not-found", "-o", "jsonpath={.status.phase}",
    ).stdout  # fmt: skip
    assert phase in ("", "Terminating")


@PASSED
def test_clean_rehearsal(place: Place) -> None:
    place.install()
    found = place.rehearse("v2")
    assert failed(found) == {}
    assert found.passed
    assert (found.before.tag, found.image.tag, found.state.revision) == ("v1", "v2", 1)
    assert state_of(place.session()) == found.state
    assert list(dict.fromkeys(check.subject for check in found.checks)) == list(RehearsedStep)
    checks = {(check.subject, check.id): check for check in found.checks}
    (asked,) = checks[RehearsedStep.UPGRADE, CheckId.REQUESTS_ANSWERED].measured
    assert isinstance(asked, Requests)
    assert asked.sent > 0
    assert asked.failed == 0
    assert any(change.startswith("replicas.gateway: 2 -> 1") for change in found.changes)
    # The small service has neither endpoints nor queues: that is said, and not called passed.
    assert {check.id: check.outcome for check in found.checks if not check.passed} == {
        CheckId.ENDPOINT_USABLE: Outcome.UNKNOWN,
        CheckId.TASKS_EXECUTED_ONCE: Outcome.SKIPPED,
        CheckId.QUEUE_LOCK_DURATION: Outcome.SKIPPED,
    }
    rehearsed_and_gone(place)

    # Another release under the same names has the same number: it was not rehearsed.
    place.helm.run("uninstall", RELEASE, "--wait", namespace=place.namespace)
    place.install(drainSeconds=4)
    other = state_of(place.session())
    assert (other.revision, other.digest) == (found.state.revision, found.state.digest)
    assert other.values != found.state.values


@FAILED
def test_rehearsal_finds_a_service_account_that_is_an_upgrade_hook(
    place: Place, tmp_path: Path
) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path))
    place.install()
    found = failed(place.rehearse("v2"))
    # Helm, the requests and the pods were content throughout.
    assert set(found) == {
        (RehearsedStep.UPGRADE, CheckId.ACCOUNTS_KEPT),
        (RehearsedStep.REPEAT, CheckId.ACCOUNTS_KEPT),
        (RehearsedStep.REPEAT, CheckId.TOKENS_ACCEPTED),
        (RehearsedStep.FAILURE, CheckId.ACCOUNTS_KEPT),
    }
    made_anew = found[RehearsedStep.UPGRADE, CheckId.ACCOUNTS_KEPT].measured
    account = made_anew[0]
    assert isinstance(account, Recreated)
    assert account.object == "ServiceAccount/engine"
    assert account.hook == "pre-install,pre-upgrade"
    assert account.after not in ("", account.before)
    refused = found[RehearsedStep.REPEAT, CheckId.TOKENS_ACCEPTED].measured
    named = {value.of: value.names for value in refused if isinstance(value, Names)}
    assert named[Unit.SERVICE_ACCOUNTS] == ("engine",)
    for deployment in ("engine-", "engine-builder-"):
        assert any(pod.startswith(deployment) for pod in named[Unit.PODS])
    for measured in (made_anew, refused):
        assert Cure(CureId.HOOK_ANNOTATION) in measured
    rehearsed_and_gone(place)


@pytest.mark.end(VerdictId.REHEARSED, note="with the cure that the rehearsal names")
def test_rehearsal_passes_with_the_cure(place: Place, tmp_path: Path) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path), hook="pre-install")
    place.install()
    found = place.rehearse("v2")
    assert failed(found) == {}
    tokens = [c.measured for c in found.checks if c.id is CheckId.TOKENS_ACCEPTED]
    assert tokens == [(Count(Unit.TOKENS, 2),)] * 4
    rehearsed_and_gone(place)


@pytest.mark.end(VerdictId.REHEARSED, note="pods that drain are no failure")
def test_rehearsal_of_pods_that_drain_slowly(place: Place, tmp_path: Path) -> None:
    gateway_that_drains_longer_than_the_workers(copied(place, tmp_path))
    place.install()
    found = place.rehearse("v2")
    assert failed(found) == {}
    (same,) = (c.measured for c in found.checks if c.id is CheckId.UPGRADE_REPEATABLE)
    assert same == (Count(Unit.PODS, 2),)
    rehearsed_and_gone(place)


@FAILED
def test_rehearsal_finds_an_unchanged_upgrade_that_changes_something(
    place: Place, tmp_path: Path
) -> None:
    pods_that_name_the_revision(copied(place, tmp_path))
    place.install()
    found = failed(place.rehearse("v2"))
    ((key, check),) = found.items()
    assert key == (RehearsedStep.REPEAT, CheckId.UPGRADE_REPEATABLE)
    named = {value.of: value.names for value in check.measured if isinstance(value, Names)}
    replaced = named[Unit.REPLACED_DEPLOYMENTS]
    assert set(replaced) == {"Deployment/engine", "Deployment/engine-builder"}
    revision = "spec.template.metadata.annotations.revision 2 -> 3"
    assert any(field.endswith(revision) for field in named[Unit.FIELDS])
    assert Cure(CureId.POD_TEMPLATE_VARIES) in check.measured
    rehearsed_and_gone(place)


@FAILED
def test_rehearsal_of_a_version_that_crashes(place: Place) -> None:
    place.install()
    found = failed(place.rehearse("bad-crash"))
    ((key, check),) = found.items()
    assert key == (RehearsedStep.UPGRADE, CheckId.REHEARSAL_PROMOTED)
    (problem,) = check.measured
    assert isinstance(problem, Problem)
    assert "CrashLoopBackOff" in problem.text
    assert "'LOCK_DURATION' is not set" in problem.text
    rehearsed_and_gone(place)
