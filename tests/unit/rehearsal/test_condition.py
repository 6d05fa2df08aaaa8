"""What has to hold after a change, over looks at a release of two Deployments."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from ci.promotion.plan.diff import Change
from ci.promotion.release.rollout import Snapshot
from ci.rehearsal import condition
from ci.rehearsal.condition import Mount, Seen, Token

SAME = Change("t", "t", "registry/engine", "registry/engine", 2, 3)


def account(uid: str = "u1", made: str = "2026-11-23T10:00:00Z", hook: str = "") -> dict[str, Any]:
    annotations = {"helm.sh/hook": hook} if hook else {}
    return {
        "kind": "ServiceAccount",
        "apiVersion": "v1",
        "metadata": {
            "name": "engine",
            "uid": uid,
            "creationTimestamp": made,
            "annotations": annotations,
        },
    }


def pod(name: str, owner: str, uid: str, restarts: int = 0, waiting: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "uid": uid,
            "ownerReferences": [{"name": f"{owner}-1", "controller": True}],
        },
        "spec": {
            "serviceAccountName": "engine",
            "containers": [
                {
                    "name": owner,
                    "image": "registry/engine:t",
                    "volumeMounts": [{"name": "kube-api", "mountPath": "/var/run/token/"}],
                }
            ],
            "volumes": [
                {
                    "name": "kube-api",
                    "projected": {
                        "sources": [
                            {"configMap": {"name": "kube-root-ca.crt"}},
                            {"serviceAccountToken": {"path": "token"}},
                        ]
                    },
                }
            ],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": owner, "restartCount": restarts, "state": state}],
        },
    }


def replicaset(owner: str) -> dict[str, Any]:
    owners = [{"name": owner, "controller": True}]
    return {"kind": "ReplicaSet", "metadata": {"name": f"{owner}-1", "ownerReferences": owners}}


def seen(
    *pods: dict[str, Any],
    live: dict[str, Any] | None = None,
    uid: str = "u1",
    denials: tuple[str, ...] = (),
    objects: tuple[dict[str, Any], ...] = (),
) -> Seen:
    """A look; ``uid`` is what the pods' tokens name."""
    found = pods or (pod("web-a", "web", "p1"), pod("work-a", "work", "p2"))
    now = Snapshot.of([replicaset("web"), replicaset("work"), *found])
    tokens = tuple(
        Token(mount, uid, "2026-11-23T10:00:05Z") for mount in condition.mounts(now.pods)
    )
    return Seen(
        now,
        ("web", "work"),
        {"engine": live or account()},
        tokens,
        denials,
        condition.comparable(objects),
    )


def test_a_sound_release_passes_every_rule() -> None:
    look = seen()
    checks = condition.checks(look, look, look, change=SAME)
    assert [check.name for check in checks if not check.ok] == []
    assert len(checks) == 5


# -- pods ------------------------------------------------------------------------------------------


def test_a_restart_since_the_look_before_is_found() -> None:
    old = pod("work-a", "work", "p2", restarts=3)
    before = seen(pod("web-a", "web", "p1"), old)
    assert condition.no_trouble(before, before).ok
    again = seen(pod("web-a", "web", "p1"), pod("work-a", "work", "p2", restarts=5))
    found = condition.no_trouble(before, again)
    assert not found.ok
    assert found.evidence == "pod work-a restarted 2 times"


def test_a_restart_of_a_new_pod_is_found() -> None:
    new = seen(pod("web-a", "web", "p1"), pod("work-b", "work", "p3", restarts=1))
    assert condition.no_trouble(seen(), new).evidence == "pod work-b restarted once"


def test_a_crash_loop_is_found() -> None:
    looping = pod("work-a", "work", "p2", waiting="CrashLoopBackOff")
    found = condition.no_trouble(seen(), seen(pod("web-a", "web", "p1"), looping))
    assert not found.ok
    assert "pod work-a: container work is in CrashLoopBackOff" in found.evidence


def test_no_pods_are_not_sound() -> None:
    nothing = replace(seen(), deployments=())
    assert condition.no_trouble(seen(), nothing).evidence == "there is no pod"


# -- ServiceAccounts and tokens --------------------------------------------------------------------


def test_an_account_that_was_made_anew_is_named_with_its_hook_and_cure() -> None:
    again = account("u2", hook="pre-install,pre-upgrade")
    found = condition.accounts_kept(seen(), seen(live=again))
    assert not found.ok
    assert "ServiceAccount/engine was deleted and made anew (UID u1 -> u2)" in found.evidence
    assert "it is a Helm hook, pre-install,pre-upgrade" in found.evidence
    assert "helm.sh/hook: pre-install alone" in found.evidence


def test_an_account_that_is_gone_is_found() -> None:
    found = condition.accounts_kept(seen(), replace(seen(), accounts={}))
    assert not found.ok
    assert "ServiceAccount/engine is gone" in found.evidence


def test_tokens_of_the_account_that_is_gone_are_found_with_their_pods() -> None:
    found = condition.tokens_valid(seen(live=account("u2")))
    assert not found.ok
    assert "the tokens of web-a, work-a are of a ServiceAccount/engine that is gone" in (
        found.evidence
    )
    assert "neither Helm nor a rollback repairs that" in found.evidence
    assert condition.CURE in found.evidence


@pytest.mark.parametrize(
    ("made", "ok"), [("2026-11-23T10:00:00Z", True), ("2026-11-23T10:00:09Z", False)]
)
def test_where_no_token_can_be_read_the_pods_age_tells(made: str, ok: bool) -> None:
    assert condition.tokens_valid(seen(live=account("u2", made), uid="")).ok is ok


def test_pods_without_tokens_have_none_to_lose() -> None:
    assert condition.tokens_valid(replace(seen(live=account("u2")), tokens=())).ok


def test_every_token_file_of_a_pod_is_found() -> None:
    (found,) = condition.mounts([pod("web-a", "web", "p1")])
    assert found == Mount("web-a", "web", "/var/run/token/token", "engine")


def token(claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2ln"


def test_a_token_says_whose_it_is() -> None:
    claims = {"kubernetes.io": {"serviceaccount": {"name": "engine", "uid": "0b5e-4"}}}
    assert condition.account_uid(token(claims) + "\n") == "0b5e-4"


@pytest.mark.parametrize(
    "text", ["", "no token", "a.b.c", "a.%%%.c", token([]), token({"kubernetes.io": {}})]
)
def test_what_is_no_token_says_nothing(text: str) -> None:
    assert condition.account_uid(text) == ""


# -- logs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "kubernetes.client.exceptions.ApiException: (401)  Reason: Unauthorized",
        'pods is forbidden: User "system:serviceaccount:x:y" cannot list',
        '10.0.0.1 - "GET /api/v1/pods HTTP/1.1" 403 Forbidden',
        "requests.exceptions.HTTPError: 401 Client Error: for url: https://x",
        '{"level": "error", "status_code": 403}',
        "azure: Response status: 401",
    ],
)
def test_a_denied_request_in_a_log_is_found(line: str) -> None:
    assert condition.denials("web-a", f"starting\n{line}\n") == [f"web-a: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "took 401 ms",
        "pod model-403-xyz started",
        "queue has 401 messages",
        'GET /readyz HTTP/1.1" 200 401',
        "served 403 requests",
    ],
)
def test_a_number_is_no_denial(line: str) -> None:
    assert condition.denials("web-a", line) == []


def test_what_a_log_says_of_a_denial_holds_no_secret() -> None:
    (found,) = condition.denials("web-a", "401 Unauthorized: Bearer abcdefghijklmnop")
    assert "abcdefghijklmnop" not in found


def test_a_denial_that_is_usual_is_no_finding_and_a_new_kind_is() -> None:
    usual = "web-a: GET /v1/x from 10.0.0.7: 401 Unauthorized"
    first = seen(denials=(usual,))
    again = seen(denials=("web-b: GET /v1/x from 10.0.0.99: 401 Unauthorized",))
    assert condition.nothing_denied(first, again).ok
    worse = seen(denials=(usual, "work-a: cannot list pods: 403 Forbidden"))
    found = condition.nothing_denied(first, worse)
    assert not found.ok
    assert found.evidence == "1 lines, first: work-a: cannot list pods: 403 Forbidden"


# -- an upgrade that changes nothing ---------------------------------------------------------------


def deployment(**annotations: str) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {
            "name": "web",
            "uid": "d1",
            "generation": len(annotations),
            "annotations": {"deployment.kubernetes.io/revision": str(len(annotations))},
        },
        "spec": {"template": {"metadata": {"annotations": annotations}}},
        "status": {"replicas": 1},
    }


def config(text: str) -> dict[str, Any]:
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "settings", "uid": text},
        "data": {"file": text},
    }


def test_pods_that_were_replaced_are_found_with_the_reason() -> None:
    before = seen(objects=(deployment(revision="2"),))
    now = seen(
        pod("web-b", "web", "p9"), pod("work-a", "work", "p2"), objects=(deployment(revision="3"),)
    )
    found = condition.unchanged(before, now, SAME)
    assert not found.ok
    assert found.evidence.startswith(
        "the pods of Deployment/web were replaced: spec.template.metadata.annotations.revision"
        " 2 -> 3"
    )
    assert "the cure" in found.evidence


def ending(found: dict[str, Any]) -> dict[str, Any]:
    found["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    return found


def test_a_pod_that_drained_between_the_looks_was_not_replaced() -> None:
    """The first look comes as soon as the new version serves, beside old pods that drain."""
    own = (pod("web-a", "web", "p1"), pod("work-a", "work", "p2"))
    before = seen(*own, ending(pod("web-old", "web", "p0")))
    found = condition.unchanged(before, seen(*own), SAME)
    assert found.ok, found.evidence
    assert found.evidence == "2 pods are the same, and all objects"


def test_what_pods_that_drain_hold_and_did_is_no_finding() -> None:
    own = (pod("web-a", "web", "p1"), pod("work-a", "work", "p2"))
    old = ending(pod("web-old", "web", "p0", restarts=4, waiting="CrashLoopBackOff"))
    now = seen(*own, old)
    assert now.pods == [*own]
    assert condition.no_trouble(seen(*own), now).ok


def test_pods_that_were_deleted_are_told_from_pods_of_another_template() -> None:
    now = seen(pod("web-b", "web", "p9"), pod("work-a", "work", "p2"))
    found = condition.unchanged(seen(), now, SAME)
    assert not found.ok
    assert found.evidence == (
        "the pods of Deployment/web were replaced: web-a no longer run, and the pod template and"
        " the ReplicaSet are the same: they were deleted (by a hook of the chart, a node drain, or"
        " by hand); `kubectl get events` says when"
    )


def test_a_pod_that_its_node_evicted_is_named_and_no_finding() -> None:
    evicted = pod("web-a", "web", "p1")
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted"}
    now = seen(pod("web-b", "web", "p9"), pod("work-a", "work", "p2"), evicted)
    found = condition.unchanged(seen(), now, SAME)
    assert found.ok, found.evidence
    assert found.evidence == (
        "1 pods are the same, and all objects; evicted by their node, not by the upgrade: web-a"
    )


def test_an_object_that_differs_is_found_and_the_servers_bookkeeping_is_not() -> None:
    before = seen(objects=(config("a"), deployment()))
    found = condition.unchanged(before, seen(objects=(config("b"), deployment())), SAME)
    assert not found.ok
    assert "ConfigMap/settings data.file a -> b" in found.evidence
    same = seen(objects=(config("a"), {**deployment(), "status": {"replicas": 9}}))
    assert condition.unchanged(before, same, SAME).ok


def test_a_revision_inside_a_hooks_configuration_is_no_change() -> None:
    before, now = (seen(objects=(config(f"job-{n}"),)) for n in (2, 3))
    assert condition.unchanged(before, now, SAME).ok


def test_jobs_run_anew_each_time_by_nature() -> None:
    job = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "migration-2"}}
    assert condition.comparable([job]).objects == {}


def test_the_rule_of_an_unchanged_upgrade_is_asked_only_after_one() -> None:
    look = seen()
    assert condition.UNCHANGED not in [c.name for c in condition.checks(look, look, look)]
