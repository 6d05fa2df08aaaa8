"""What has to hold after each change, judged from what was seen on the cluster. Pure.

Helm and ``/readyz`` may both be content while the service is broken, so neither is asked. The
case that teaches it: a ServiceAccount that is a ``pre-upgrade`` hook is deleted and created again
by every upgrade. The tokens of pods that run since before name the UID of the one that is gone and
are answered with 401 from then on; where the upgrade replaces no pod, nothing ever heals that,
and a rollback, which replaces no pod either, does not.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci import redaction
from ci.model import Difference
from ci.promotion.plan import diff
from ci.promotion.release import drift
from ci.promotion.release.manifest import Rendered
from ci.promotion.release.rollout import (
    Object,
    Replacement,
    Snapshot,
    replacement,
    restart_counts,
    restarts_since,
    troubles,
)
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    Cure,
    CureId,
    Measured,
    Names,
    Recreated,
    Unit,
    failed,
    passed,
    unknown,
)

SHOWN = 10
"""How many of several names a check keeps."""
LINE_LENGTH = 200
"""Of a log line that a check keeps."""
HOOK = "helm.sh/hook"


@dataclass(frozen=True, slots=True)
class Mount:
    """A token of a ServiceAccount that a container holds."""

    pod: str
    container: str
    path: str
    account: str


@dataclass(frozen=True, slots=True)
class Token:
    """What a container's token says of itself."""

    mount: Mount
    uid: str
    """Of the ServiceAccount it was made for; empty when it could not be read."""
    pod_made: str
    """When the pod was made, ISO 8601 as the API gives it."""
    unread: Because = Because.NO_ANSWER
    """Why there is no ``uid``."""


@dataclass(frozen=True, slots=True)
class UnreadLog:
    """A pod whose log could not be read."""

    pod: str
    because: Because


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a release."""

    now: Snapshot
    deployments: tuple[str, ...]
    accounts: Mapping[str, Object] | Because
    """ServiceAccounts, live, by name; or why they could not be read."""
    tokens: tuple[Token, ...]
    denials: tuple[str, ...]
    """Log lines that tell of a 401 or a 403, with the pod they are from."""
    objects: Rendered
    """The release's own objects, live."""
    unread_logs: tuple[UnreadLog, ...] = ()

    @property
    def pods(self) -> list[Object]:
        """Those that run on; what terminates or finished is no part of what a change came to."""
        return [pod for name in self.deployments for pod in self.now.live_pods_of(name)]


def mounts(pods: Iterable[Object]) -> list[Mount]:
    """Every ServiceAccount token that the pods' containers have as a file."""
    found = []
    for pod in pods:
        spec = pod["spec"]
        paths = {
            volume["name"]: source["serviceAccountToken"]["path"]
            for volume in spec.get("volumes") or []
            for source in (volume.get("projected") or {}).get("sources") or []
            if "serviceAccountToken" in source
        }
        found += [
            Mount(
                pod["metadata"]["name"],
                container["name"],
                f"{mount['mountPath'].rstrip('/')}/{paths[mount['name']]}",
                str(spec.get("serviceAccountName", "default")),
            )
            for container in spec.get("containers") or []
            for mount in container.get("volumeMounts") or []
            if mount["name"] in paths
        ]
    return found


def account_uid(token: str) -> str:
    """UID of the ServiceAccount that a token was made for; empty for what is no such token."""
    parts = token.strip().split(".")
    if len(parts) != 3:
        return ""
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return str(claims["kubernetes.io"]["serviceaccount"]["uid"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        return ""


# -- 401 and 403 in logs ---------------------------------------------------------------------------

_DENIED = re.compile(
    r"""\b40[13]\b .{0,12} \b(unauthori[sz]ed|forbidden|client\ error)
      | (http/\d(\.\d)?"? | status(_|\ )?(code)?"? | \bcode"? | response) [\s:=\[(<]{1,3} 40[13]\b
      | \b(unauthori[sz]ed | reason:\ forbidden | forbidden:)""",
    re.IGNORECASE | re.VERBOSE,
)
_VARIABLE = re.compile(r"[0-9a-f]{8,}|\d+", re.IGNORECASE)


def denials(pod: str, log: str) -> list[str]:
    """Lines that tell of a request that was answered with 401 or 403, secrets left out."""
    return [
        f"{pod}: {redaction.text(line.strip())}"
        for line in log.splitlines()
        if _DENIED.search(line)
    ]


def _kind_of_line(line: str) -> str:
    """A log line without its pod and without what differs each time."""
    return _VARIABLE.sub("#", line.partition(": ")[2])


# -- the rules -------------------------------------------------------------------------------------


def checks(
    first: Seen, before: Seen, now: Seen, *, change: diff.Change | None = None
) -> tuple[Check, ...]:
    """Everything that has to hold. ``first`` is the release before any change, ``before`` the
    look before this one; with ``change`` an upgrade that changes nothing lies between."""
    found = [
        pods_keep_running(before, now),
        accounts_kept(before, now),
        tokens_accepted(now),
        nothing_denied(first, now),
    ]
    if change is not None:
        found.append(unchanged(before, now, change))
    return tuple(found)


def pods_keep_running(before: Seen, now: Seen) -> Check:
    """No pod is unrecoverable, and none restarted since the look before."""
    known = restart_counts(before.pods)
    reasons = [str(trouble) for trouble in troubles(now.pods)]
    restarted = {
        pod["metadata"]["name"]: since for pod in now.pods if (since := restarts_since(known, pod))
    }
    if reasons or restarted or not now.pods:
        what: list[Measured] = [] if now.pods else [Count(Unit.PODS, 0)]
        if reasons:
            what.append(_names(Unit.REASONS, reasons))
        if restarted:
            what += [
                Count(Unit.RESTARTS, sum(restarted.values())),
                _names(Unit.PODS, list(restarted)),
            ]
        return failed(CheckId.PODS_KEEP_RUNNING, *what)
    return passed(
        CheckId.PODS_KEEP_RUNNING,
        Count(Unit.PODS, len(now.pods)),
        Count(Unit.COMPONENTS, len(now.deployments)),
    )


def accounts_kept(before: Seen, now: Seen) -> Check:
    """No ServiceAccount was deleted, or deleted and created again."""
    if isinstance(before.accounts, Because):
        return unknown(CheckId.ACCOUNTS_KEPT, before.accounts)
    if isinstance(now.accounts, Because):
        return unknown(CheckId.ACCOUNTS_KEPT, now.accounts)
    was, uids = _uids(before.accounts), _uids(now.accounts)
    gone = sorted(set(was) - set(uids))
    deleted = [
        Recreated(
            f"ServiceAccount/{name}", was[name], uids.get(name, ""), _hook(now.accounts.get(name))
        )
        for name in (*drift.recreated(was, uids), *gone)
    ]
    if deleted:
        return failed(CheckId.ACCOUNTS_KEPT, *deleted[:SHOWN], Cure(CureId.HOOK_ANNOTATION))
    return passed(CheckId.ACCOUNTS_KEPT, _names(Unit.SERVICE_ACCOUNTS, list(uids)))


def tokens_accepted(now: Seen) -> Check:
    """Every running pod's token is one of the live ServiceAccount."""
    accounts = now.accounts
    if not now.tokens:
        return passed(CheckId.TOKENS_ACCEPTED, Count(Unit.TOKENS, 0))
    if isinstance(accounts, Because):
        return unknown(CheckId.TOKENS_ACCEPTED, accounts)
    stale = [token for token in now.tokens if _stale(token, accounts)]
    if stale:
        return failed(
            CheckId.TOKENS_ACCEPTED,
            _names(Unit.SERVICE_ACCOUNTS, sorted({token.mount.account for token in stale})),
            _names(Unit.PODS, sorted({token.mount.pod for token in stale})),
            Cure(CureId.HOOK_ANNOTATION),
        )
    unread = [token for token in now.tokens if not token.uid]
    if unread:
        return unknown(
            CheckId.TOKENS_ACCEPTED,
            _foremost(token.unread for token in unread),
            _names(Unit.PODS, sorted({token.mount.pod for token in unread})),
        )
    return passed(CheckId.TOKENS_ACCEPTED, Count(Unit.TOKENS, len(now.tokens)))


def _stale(token: Token, accounts: Mapping[str, Object]) -> bool:
    """Whether the token is of a ServiceAccount that is gone. Where it could not be read, a pod that
    is older than the ServiceAccount says it, too; a younger one says nothing."""
    account = accounts.get(token.mount.account)
    if account is None:
        return True
    live = account["metadata"]
    made = str(live["creationTimestamp"])
    return bool(token.uid != live["uid"]) if token.uid else token.pod_made < made


def nothing_denied(first: Seen, now: Seen) -> Check:
    """No log tells of a 401 or a 403 of a kind that there was not before any change."""
    usual = {_kind_of_line(line) for line in first.denials}
    new = [line[:LINE_LENGTH] for line in now.denials if _kind_of_line(line) not in usual]
    if new:
        return failed(CheckId.LOGS_NOT_DENIED, _names(Unit.LOG_LINES, new))
    if unread := now.unread_logs:
        because = _foremost(log.because for log in unread)
        names = _names(Unit.PODS, [log.pod for log in unread])
        return unknown(CheckId.LOGS_NOT_DENIED, because, names)
    return passed(CheckId.LOGS_NOT_DENIED, Count(Unit.PODS, len(now.pods)))


def unchanged(before: Seen, now: Seen, change: diff.Change) -> Check:
    """An upgrade that changes nothing replaced no pod, and no object differs by more than the
    release's revision."""
    differences = diff.make(
        change, live=before.objects, same=now.objects, new=now.objects, again=now.objects
    ).differences
    found: list[_Replaced] = []
    evicted: list[str] = []
    for name in now.deployments:
        compared = replacement(before.now, now.now, name)
        evicted += compared.evicted
        if compared.replaced:
            found.append(_Replaced(name, compared, tuple(_template(name, differences))))
    fields = [_field(d) for d in differences if not d.allowed]
    fields += [field for each in found for field in each.fields if field not in fields]
    if not found and not fields:
        same: list[Measured] = [Count(Unit.PODS, len(now.pods) - len(evicted))]
        if evicted:
            same.append(_names(Unit.EVICTED_PODS, evicted))
        return passed(CheckId.UPGRADE_REPEATABLE, *same)
    named = {
        Unit.REPLACED_DEPLOYMENTS: [f"Deployment/{each.deployment}" for each in found],
        Unit.FIELDS: fields,
        Unit.REPLICA_SETS: [name for each in found for name in each.replicasets],
        Unit.DELETED_PODS: [name for each in found for name in each.deleted],
    }
    what: list[Measured] = [_names(unit, names) for unit, names in named.items() if names]
    if fields or any(each.by_rollout for each in found):
        what.append(Cure(CureId.POD_TEMPLATE_VARIES))
    return failed(CheckId.UPGRADE_REPEATABLE, *what)


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A Deployment whose pods were replaced, and how."""

    deployment: str
    compared: Replacement
    template: tuple[str, ...]
    """What differs in its pod template, by the live objects."""

    @property
    def by_rollout(self) -> bool:
        return self.compared.by_rollout or bool(self.template)

    @property
    def fields(self) -> tuple[str, ...]:
        if self.template or not self.compared.template:
            return self.template
        return (f"Deployment/{self.deployment} spec.template",)

    @property
    def replicasets(self) -> tuple[str, ...]:
        """The old and the new one, where no field says why there is a new one."""
        pair = self.compared.replicasets
        return () if pair is None or self.template else (" -> ".join(pair),)

    @property
    def deleted(self) -> tuple[str, ...]:
        return () if self.by_rollout else self.compared.gone


def _template(deployment: str, differences: Iterable[Difference]) -> Iterator[str]:
    for difference in differences:
        if difference.object == f"Deployment/{deployment}" and (
            difference.path.startswith("spec.template")
        ):
            yield _field(difference)


def _field(difference: Difference) -> str:
    where = " ".join(filter(None, (difference.object, difference.path)))
    return f"{where} {difference.before} -> {difference.after}"


def _uids(accounts: Mapping[str, Object]) -> dict[str, str]:
    return {name: str(item["metadata"]["uid"]) for name, item in accounts.items()}


def _hook(account: Object | None) -> str:
    """The account's Helm hook; empty where it is none."""
    annotations = (account or {"metadata": {}})["metadata"].get("annotations") or {}
    return str(annotations.get(HOOK, ""))


def _names(of: Unit, names: Sequence[str]) -> Names:
    return Names(of, tuple(names[:SHOWN]), len(names))


def _foremost(reasons: Iterable[Because]) -> Because:
    """One of several: what is forbidden stays so, and somebody can allow it."""
    found = list(reasons)
    return Because.FORBIDDEN if Because.FORBIDDEN in found else found[0]


# -- live objects, so that two looks can be compared -----------------------------------------------

_OF_THE_SERVER = ("name", "namespace", "labels", "annotations")
_BOOKKEEPING = ("deployment.kubernetes.io/", "kubectl.kubernetes.io/", "meta.helm.sh/")


def comparable(items: Iterable[Object]) -> Rendered:
    """Live objects without what the server keeps in them. Jobs run anew each time by nature."""
    found = {}
    for item in items:
        if item["kind"] in ("Job", "Pod"):
            continue
        metadata = {k: v for k, v in item["metadata"].items() if k in _OF_THE_SERVER}
        metadata["annotations"] = dict(_annotations(metadata.get("annotations") or {}))
        kept = {k: v for k, v in item.items() if k not in ("status", "metadata")}
        key = (
            str(item["apiVersion"]),
            str(item["kind"]),
            str(metadata.get("namespace", "")),
            str(metadata["name"]),
        )
        found[key] = {**kept, "metadata": metadata}
    return Rendered(found, {})


def _annotations(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if not key.startswith(_BOOKKEEPING):
            yield key, value
