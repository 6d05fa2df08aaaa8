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
from ci.rehearsal.condition import Mount, Seen, Token, UnreadLog
from ci.results import (
    Because,
    CheckId,
    Count,
    Cure,
    CureId,
    Names,
    Outcome,
    Recreated,
    Unit,
    failed,
    passed,
    unknown,
)

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
    unread_logs: tuple[UnreadLog, ...] = (),
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
        unread_logs,
    )


def test_a_sound_release_passes_every_rule() -> None:
    look = seen()
    checks = condition.checks(look, look, look, change=SAME)
    assert [check for check in checks if not check.passed] == []
    assert [check.id for check in checks] == [
        CheckId.PODS_KEEP_RUNNING, CheckId.ACCOUNTS_KEPT, CheckId.TOKENS_ACCEPTED,
        CheckId.LOGS_NOT_DENIED, CheckId.UPGRADE_REPEATABLE,
    ]  # fmt: skip


# -- pods ------------------------------------------------------------------------------------------


def test_a_restart_since_the_look_before_is_found() -> None:
    old = pod("work-a", "work", "p2", restarts=3)
    before = seen(pod("web-a", "web", "p1"), old)
    assert condition.pods_keep_running(before, before) == passed(
        CheckId.PODS_KEEP_RUNNING, Count(Unit.PODS, 2), Count(Unit.COMPONENTS, 2)
    )
    again = seen(pod("web-a", "web", "p1"), pod("work-a", "work", "p2", restarts=5))
    assert condition.pods_keep_running(before, again) == failed(
        CheckId.PODS_KEEP_RUNNING, Count(Unit.RESTARTS, 2), Names(Unit.PODS, ("work-a",), 1)
    )


def test_a_restart_of_a_new_pod_is_found() -> None:
    new = seen(pod("web-a", "web", "p1"), pod("work-b", "work", "p3", restarts=1))
    found = condition.pods_keep_running(seen(), new)
    assert found.measured == (Count(Unit.RESTARTS, 1), Names(Unit.PODS, ("work-b",), 1))


def test_a_crash_loop_is_found() -> None:
    looping = pod("work-a", "work", "p2", waiting="CrashLoopBackOff")
    found = condition.pods_keep_running(seen(), seen(pod("web-a", "web", "p1"), looping))
    assert found.failed
    (reasons,) = found.measured
    assert isinstance(reasons, Names)
    assert reasons.of is Unit.REASONS
    assert "work-a" in reasons.names[0]
    assert "CrashLoopBackOff" in reasons.names[0]


def test_no_pods_are_not_sound() -> None:
    nothing = replace(seen(), deployments=())
    assert condition.pods_keep_running(seen(), nothing) == failed(
        CheckId.PODS_KEEP_RUNNING, Count(Unit.PODS, 0)
    )


# -- ServiceAccounts and tokens --------------------------------------------------------------------


def test_an_account_that_was_created_again_is_named_with_its_hook_and_cure() -> None:
    again = account("u2", hook="pre-install,pre-upgrade")
    assert condition.accounts_kept(seen(), seen(live=again)) == failed(
        CheckId.ACCOUNTS_KEPT,
        Recreated("ServiceAccount/engine", "u1", "u2", "pre-install,pre-upgrade"),
        Cure(CureId.HOOK_ANNOTATION),
    )


def test_an_account_that_is_gone_is_found() -> None:
    found = condition.accounts_kept(seen(), replace(seen(), accounts={}))
    assert found.failed
    assert found.measured[0] == Recreated("ServiceAccount/engine", "u1", "")


@pytest.mark.parametrize("when", ["before", "now"])
def test_accounts_that_cannot_be_read_are_not_called_kept(when: str) -> None:
    unread = replace(seen(), accounts=Because.FORBIDDEN)
    looks = (unread, seen()) if when == "before" else (seen(), unread)
    assert condition.accounts_kept(*looks) == unknown(CheckId.ACCOUNTS_KEPT, Because.FORBIDDEN)


def test_tokens_of_the_account_that_is_gone_are_found_with_their_pods() -> None:
    assert condition.tokens_accepted(seen(live=account("u2"))) == failed(
        CheckId.TOKENS_ACCEPTED,
        Names(Unit.SERVICE_ACCOUNTS, ("engine",), 1),
        Names(Unit.PODS, ("web-a", "work-a"), 2),
        Cure(CureId.HOOK_ANNOTATION),
    )
    assert condition.tokens_accepted(replace(seen(), accounts={})).failed


def test_tokens_that_were_read_and_are_of_the_live_account_are_counted() -> None:
    assert condition.tokens_accepted(seen()) == passed(
        CheckId.TOKENS_ACCEPTED, Count(Unit.TOKENS, 2)
    )


def test_where_no_token_can_be_read_an_older_pods_age_tells() -> None:
    found = condition.tokens_accepted(seen(live=account("u2", "2026-11-23T10:00:09Z"), uid=""))
    assert found.failed


def test_tokens_that_cannot_be_read_are_not_called_accepted() -> None:
    look = seen(uid="")
    first, second = look.tokens
    forbidden = replace(first, unread=Because.FORBIDDEN)
    assert condition.tokens_accepted(replace(look, tokens=(second, forbidden))) == unknown(
        CheckId.TOKENS_ACCEPTED, Because.FORBIDDEN, Names(Unit.PODS, ("web-a", "work-a"), 2)
    )
    found = condition.tokens_accepted(look)
    assert (found.outcome, found.because) == (Outcome.UNKNOWN, Because.NO_ANSWER)


def test_one_token_that_cannot_be_read_leaves_the_check_unknown() -> None:
    look = seen()
    unread = replace(look.tokens[0], uid="")
    found = condition.tokens_accepted(replace(look, tokens=(unread, look.tokens[1])))
    assert found.measured == (Names(Unit.PODS, ("web-a",), 1),)
    assert found.outcome is Outcome.UNKNOWN


def test_tokens_of_accounts_that_cannot_be_read_are_not_called_accepted() -> None:
    found = condition.tokens_accepted(replace(seen(), accounts=Because.NO_ANSWER))
    assert found == unknown(CheckId.TOKENS_ACCEPTED, Because.NO_ANSWER)


def test_pods_without_tokens_have_none_to_lose() -> None:
    found = condition.tokens_accepted(replace(seen(live=account("u2")), tokens=()))
    assert found == passed(CheckId.TOKENS_ACCEPTED, Count(Unit.TOKENS, 0))


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
    assert condition.nothing_denied(first, again) == passed(
        CheckId.LOGS_NOT_DENIED, Count(Unit.PODS, 2)
    )
    worse = seen(denials=(usual, "work-a: cannot list pods: 403 Forbidden"))
    assert condition.nothing_denied(first, worse) == failed(
        CheckId.LOGS_NOT_DENIED,
        Names(Unit.LOG_LINES, ("work-a: cannot list pods: 403 Forbidden",), 1),
    )


def test_a_log_that_cannot_be_read_is_not_one_without_denials() -> None:
    unread = UnreadLog("web-a", Because.NO_ANSWER), UnreadLog("work-a", Because.FORBIDDEN)
    assert condition.nothing_denied(seen(), seen(unread_logs=unread)) == unknown(
        CheckId.LOGS_NOT_DENIED, Because.FORBIDDEN, Names(Unit.PODS, ("web-a", "work-a"), 2)
    )
    worse = seen(denials=("work-a: 403 Forbidden",), unread_logs=unread[:1])
    assert condition.nothing_denied(seen(), worse).failed, "what was read says enough"


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
    assert condition.unchanged(before, now, SAME) == failed(
        CheckId.UPGRADE_REPEATABLE,
        Names(Unit.REPLACED_DEPLOYMENTS, ("Deployment/web",), 1),
        Names(
            Unit.FIELDS,
            ("Deployment/web spec.template.metadata.annotations.revision 2 -> 3",),
            1,
        ),
        Cure(CureId.POD_TEMPLATE_VARIES),
    )


def ending(found: dict[str, Any]) -> dict[str, Any]:
    found["metadata"]["deletionTimestamp"] = "2026-11-23T16:00:00Z"
    return found


def test_a_pod_that_drained_between_the_looks_was_not_replaced() -> None:
    """The first look comes as soon as the new version serves, beside old pods that drain."""
    own = (pod("web-a", "web", "p1"), pod("work-a", "work", "p2"))
    before = seen(*own, ending(pod("web-old", "web", "p0")))
    assert condition.unchanged(before, seen(*own), SAME) == passed(
        CheckId.UPGRADE_REPEATABLE, Count(Unit.PODS, 2)
    )


def test_what_pods_that_drain_hold_and_did_is_no_finding() -> None:
    own = (pod("web-a", "web", "p1"), pod("work-a", "work", "p2"))
    old = ending(pod("web-old", "web", "p0", restarts=4, waiting="CrashLoopBackOff"))
    now = seen(*own, old)
    assert now.pods == [*own]
    assert condition.pods_keep_running(seen(*own), now).passed


def test_pods_that_were_deleted_are_told_from_pods_of_another_template() -> None:
    now = seen(pod("web-b", "web", "p9"), pod("work-a", "work", "p2"))
    assert condition.unchanged(seen(), now, SAME) == failed(
        CheckId.UPGRADE_REPEATABLE,
        Names(Unit.REPLACED_DEPLOYMENTS, ("Deployment/web",), 1),
        Names(Unit.DELETED_PODS, ("web-a",), 1),
    )


def test_a_new_replicaset_is_named_where_no_field_tells_why_it_was_made() -> None:
    owner = [{"name": "web", "controller": True}]
    newer = {
        "kind": "ReplicaSet",
        "metadata": {
            "name": "web-2",
            "ownerReferences": owner,
            "annotations": {"deployment.kubernetes.io/revision": "2"},
        },
    }
    look = seen()
    made = [*look.now.replicasets, newer]
    now = replace(look, now=replace(look.now, replicasets=made))
    assert condition.unchanged(look, now, SAME) == failed(
        CheckId.UPGRADE_REPEATABLE,
        Names(Unit.REPLACED_DEPLOYMENTS, ("Deployment/web",), 1),
        Names(Unit.REPLICA_SETS, ("web-1 -> web-2",), 1),
        Cure(CureId.POD_TEMPLATE_VARIES),
    )


def test_a_pod_that_its_node_evicted_is_named_and_no_finding() -> None:
    evicted = pod("web-a", "web", "p1")
    evicted["status"] |= {"phase": "Failed", "reason": "Evicted"}
    now = seen(pod("web-b", "web", "p9"), pod("work-a", "work", "p2"), evicted)
    assert condition.unchanged(seen(), now, SAME) == passed(
        CheckId.UPGRADE_REPEATABLE,
        Count(Unit.PODS, 1),
        Names(Unit.EVICTED_PODS, ("web-a",), 1),
    )


def test_an_object_that_differs_is_found_and_the_servers_bookkeeping_is_not() -> None:
    before = seen(objects=(config("a"), deployment()))
    assert condition.unchanged(before, seen(objects=(config("b"), deployment())), SAME) == failed(
        CheckId.UPGRADE_REPEATABLE,
        Names(Unit.FIELDS, ("ConfigMap/settings data.file a -> b",), 1),
        Cure(CureId.POD_TEMPLATE_VARIES),
    )
    same = seen(objects=(config("a"), {**deployment(), "status": {"replicas": 9}}))
    assert condition.unchanged(before, same, SAME).passed


def test_a_revision_inside_a_hooks_configuration_is_no_change() -> None:
    before, now = (seen(objects=(config(f"job-{n}"),)) for n in (2, 3))
    assert condition.unchanged(before, now, SAME).passed


def test_jobs_run_anew_each_time_by_nature() -> None:
    job = {"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "migration-2"}}
    assert condition.comparable([job]).objects == {}


def test_the_rule_of_an_unchanged_upgrade_is_asked_only_after_one() -> None:
    look = seen()
    found = condition.checks(look, look, look)
    assert CheckId.UPGRADE_REPEATABLE not in [check.id for check in found]
