"""Rehearsals on a real cluster: a change that is sound, and changes that Helm and ``/readyz`` call
sound and that are not. The live release is not touched by any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ci.model import Check, Rehearsal
from ci.stages.rehearse import state_of
from tests.failure_injection.charts import (
    account_that_is_an_upgrade_hook,
    copied,
    gateway_that_drains_longer_than_the_workers,
    pods_that_name_the_revision,
)
from tests.failure_injection.rig import RELEASE, Place

pytestmark = pytest.mark.timeout(600)


def failed(place: Place, found: Rehearsal) -> dict[str, Check]:
    """What the rehearsal objected to, by name."""
    place.row.cause = "; ".join(f"{c.name}: {c.evidence}" for c in found.failed)
    return {check.name: check for check in found.failed}


def rehearsed_and_gone(place: Place) -> None:
    """The live release is as it was, and what was rehearsed is gone, or going."""
    place.ends("v1", 1)
    phase = place.kube.run(
        "get", "namespace", f"rehearsal-{place.namespace}"[:63].rstrip("-"),
        "--ignore-not-found", "-o", "jsonpath={.status.phase}",
    ).stdout  # fmt: skip
    assert phase in ("", "Terminating")


@pytest.mark.end("passed; revision 1 serves v1")
def test_clean_rehearsal(place: Place) -> None:
    place.install()
    found = place.rehearse("v2")
    assert failed(place, found) == {}, place.row.cause
    assert found.passed
    assert (found.before.tag, found.image.tag, found.state.revision) == ("v1", "v2", 1)
    assert state_of(place.context(), place.target()) == found.state
    steps = [check.name.partition(": ")[0] for check in found.checks]
    assert list(dict.fromkeys(steps)) == [
        "upgrade", "unchanged upgrade", "failed upgrade", "return",
    ]  # fmt: skip
    asked = next(c for c in found.checks if c.name == "upgrade: requests during the change")
    assert re.match(r"[1-9]\d* sent, [1-9]\d* answered, 0 failed", asked.evidence)
    assert "replicas.gateway: 2 -> 1 (scaled to the machine)" in found.changes
    rows = json.loads((place.folder / "run-1/tables/rehearsal.json").read_text("utf-8"))["rows"]
    assert len(rows) == len(found.checks)
    assert all(row[-1] is True for row in rows)
    rehearsed_and_gone(place)

    # Another release under the same names has the same number: it was not rehearsed.
    place.helm.run("uninstall", RELEASE, "--wait", namespace=place.namespace)
    place.install(drainSeconds=4)
    other = state_of(place.context(), place.target())
    assert (other.revision, other.digest) == (found.state.revision, found.state.digest)
    assert other.values != found.state.values


@pytest.mark.end("found: ServiceAccount/engine, with its cure; revision 1 serves v1")
def test_rehearsal_finds_a_service_account_that_is_an_upgrade_hook(
    place: Place, tmp_path: Path
) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path))
    place.install()
    found = failed(place, place.rehearse("v2"))
    # Helm, the requests and the pods were content throughout.
    assert set(found) == {
        "upgrade: ServiceAccounts are kept",
        "unchanged upgrade: ServiceAccounts are kept",
        "unchanged upgrade: running pods' tokens are accepted",
        "failed upgrade: ServiceAccounts are kept",
    }
    made_anew = found["upgrade: ServiceAccounts are kept"].evidence
    assert "ServiceAccount/engine was deleted and made anew" in made_anew
    assert "it is a Helm hook, pre-install,pre-upgrade" in made_anew
    refused = found["unchanged upgrade: running pods' tokens are accepted"].evidence
    assert "ServiceAccount/engine" in refused
    for deployment in ("engine-", "engine-builder-"):
        assert deployment in refused
    for evidence in (made_anew, refused):
        assert "the cure is the annotation helm.sh/hook: pre-install" in evidence
    rehearsed_and_gone(place)


@pytest.mark.end("passed with the cure that the rehearsal names")
def test_rehearsal_passes_with_the_cure(place: Place, tmp_path: Path) -> None:
    account_that_is_an_upgrade_hook(copied(place, tmp_path), hook="pre-install")
    place.install()
    found = place.rehearse("v2")
    assert failed(place, found) == {}, place.row.cause
    tokens = [c.evidence for c in found.checks if "tokens are accepted" in c.name]
    assert tokens == ["2 tokens of the live ServiceAccounts"] * 4
    rehearsed_and_gone(place)


@pytest.mark.end("passed; pods that drain are no finding")
def test_rehearsal_of_pods_that_drain_slowly(place: Place, tmp_path: Path) -> None:
    gateway_that_drains_longer_than_the_workers(copied(place, tmp_path))
    place.install()
    found = place.rehearse("v2")
    assert failed(place, found) == {}, place.row.cause
    (same,) = (c.evidence for c in found.checks if "nothing changes" in c.name)
    assert same == "2 pods are the same, and all objects"
    rehearsed_and_gone(place)


@pytest.mark.end("found: the pods' revision; revision 1 serves v1")
def test_rehearsal_finds_an_unchanged_upgrade_that_changes_something(
    place: Place, tmp_path: Path
) -> None:
    pods_that_name_the_revision(copied(place, tmp_path))
    place.install()
    found = failed(place, place.rehearse("v2"))
    (name,) = found
    assert name == "unchanged upgrade: nothing changes where nothing was changed"
    for deployment in ("engine", "engine-builder"):
        assert f"the pods of Deployment/{deployment} were replaced" in found[name].evidence
    assert "spec.template.metadata.annotations.revision 2 -> 3" in found[name].evidence
    rehearsed_and_gone(place)


@pytest.mark.end("found: the new version crashes; revision 1 serves v1")
def test_rehearsal_of_a_version_that_crashes(place: Place) -> None:
    place.install()
    found = failed(place, place.rehearse("bad-crash"))
    (name,) = found
    assert name == "upgrade: the promotion succeeds"
    assert "CrashLoopBackOff" in found[name].evidence
    assert "'LOCK_DURATION' is not set" in found[name].evidence
    rehearsed_and_gone(place)
