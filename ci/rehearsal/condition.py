"""What has to hold after each change, judged from what was seen on the cluster. Pure.

Helm and ``/readyz`` may both be content while the service is broken, so neither is asked. The
case that teaches it: a ServiceAccount that is a ``pre-upgrade`` hook is deleted and made anew by
every upgrade. The tokens of pods that run since before name the UID of the one that is gone and
are answered with 401 from then on; where the upgrade replaces no pod, nothing ever heals that,
and a rollback, which replaces no pod either, does not.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ci import redaction
from ci.model import Check
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

CURE = (
    "the cure is the annotation helm.sh/hook: pre-install alone (without pre-upgrade), or none;"
    " until then the pods need a restart after every upgrade"
)
UNCHANGED = "nothing changes where nothing was changed"


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


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a release."""

    now: Snapshot
    deployments: tuple[str, ...]
    accounts: Mapping[str, Object]
    """ServiceAccounts, live, by name."""
    tokens: tuple[Token, ...]
    denials: tuple[str, ...]
    """Log lines that tell of a 401 or a 403, with the pod they are from."""
    objects: Rendered
    """The release's own objects, live."""

    @property
    def pods(self) -> list[Object]:
        """Those that run on; what terminates or finished is no part of what a change came to."""
        return [pod for name in self.deployments for pod in self.now.live_pods_of(name)]

    @property
    def uids(self) -> dict[str, str]:
        return {name: item["metadata"]["uid"] for name, item in self.accounts.items()}


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
        no_trouble(before, now),
        accounts_kept(before, now),
        tokens_valid(now),
        nothing_denied(first, now),
    ]
    if change is not None:
        found.append(unchanged(before, now, change))
    return tuple(found)


def no_trouble(before: Seen, now: Seen) -> Check:
    """No pod is unrecoverable, and none restarted since the look before."""
    known = restart_counts(before.pods)
    wrong = [str(trouble) for trouble in troubles(now.pods)]
    for pod in now.pods:
        if since := restarts_since(known, pod):
            wrong.append(f"pod {pod['metadata']['name']} restarted {_times(since)}")
    if not now.pods:
        wrong.append("there is no pod")
    evidence = "; ".join(wrong) or f"{len(now.pods)} pods of {len(now.deployments)} components"
    return Check("every component's pods run on", not wrong, evidence)


def accounts_kept(before: Seen, now: Seen) -> Check:
    """No ServiceAccount was deleted and made anew."""
    again = drift.recreated(before.uids, now.uids)
    gone = sorted(set(before.uids) - set(now.uids))
    if not again and not gone:
        return Check("ServiceAccounts are kept", True, ", ".join(now.uids))
    said = [
        f"ServiceAccount/{name} was deleted and made anew"
        f" (UID {before.uids[name]} -> {now.uids[name]}){_why_account(now, name)}"
        for name in again
    ]
    said += [f"ServiceAccount/{name} is gone" for name in gone]
    return Check("ServiceAccounts are kept", False, f"{'; '.join(said)}; {CURE}")


def _why_account(now: Seen, name: str) -> str:
    annotations = now.accounts[name]["metadata"].get("annotations") or {}
    hook = annotations.get("helm.sh/hook", "")
    return f": it is a Helm hook, {hook}" if hook else ""


def tokens_valid(now: Seen) -> Check:
    """Every running pod's token is one of the live ServiceAccount."""
    refused: dict[str, list[str]] = {}
    for token in now.tokens:
        account = now.accounts.get(token.mount.account)
        if account is None:
            continue  # may not be read, or gone: that is another rule's finding
        live = account["metadata"]
        stale = (
            token.uid != live["uid"] if token.uid else token.pod_made < live["creationTimestamp"]
        )
        if stale:
            refused.setdefault(token.mount.account, []).append(token.mount.pod)
    if not refused:
        said = (
            f"{len(now.tokens)} tokens of the live ServiceAccounts" if now.tokens else "no tokens"
        )
        return Check("running pods' tokens are accepted", True, said)
    said = "; ".join(
        f"the tokens of {', '.join(sorted(set(pods)))} are of a ServiceAccount/{name} that is gone:"
        " they are answered with 401, and neither Helm nor a rollback repairs that"
        for name, pods in refused.items()
    )
    return Check("running pods' tokens are accepted", False, f"{said}; {CURE}")


def nothing_denied(first: Seen, now: Seen) -> Check:
    """No log tells of a 401 or a 403 of a kind that there was not before any change."""
    usual = {_kind_of_line(line) for line in first.denials}
    new = [line for line in now.denials if _kind_of_line(line) not in usual]
    name = "no 401 and no 403 in the logs"
    if not new:
        return Check(name, True, f"logs of {len(now.pods)} pods read")
    return Check(name, False, f"{len(new)} lines, first: {new[0][:200]}")


def unchanged(before: Seen, now: Seen, change: diff.Change) -> Check:
    """An upgrade that changes nothing replaced no pod, and no object differs by more than the
    release's revision."""
    wrong: list[str] = []
    evicted: list[str] = []
    by_rollout = False
    differences = diff.make(
        change, live=before.objects, same=now.objects, new=now.objects, again=now.objects
    ).differences
    for name in now.deployments:
        compared = replacement(before.now, now.now, name)
        evicted += compared.evicted
        if compared.replaced:
            template = [
                f"{d.path} {d.before} -> {d.after}"
                for d in differences
                if d.object == f"Deployment/{name}" and d.path.startswith("spec.template")
            ]
            by_rollout |= compared.by_rollout or bool(template)
            why = "; ".join(template) or _why_replaced(compared)
            wrong.append(f"the pods of Deployment/{name} were replaced: {why}")
    differs = [
        f"{d.object} {d.path} {d.before} -> {d.after}".replace("  ", " ")
        for d in differences
        if not d.allowed
    ]
    wrong += differs
    if not wrong:
        same = f"{len(now.pods) - len(evicted)} pods are the same, and all objects"
        if evicted:
            same += f"; evicted by their node, not by the upgrade: {', '.join(evicted)}"
        return Check(UNCHANGED, True, same)
    evidence = "; ".join(wrong[:4])
    if by_rollout or differs:
        evidence += (
            "; the cure: take out of the pod template what differs at every upgrade (a revision,"
            " a date)"
        )
    return Check(UNCHANGED, False, evidence)


def _why_replaced(compared: Replacement) -> str:
    """Where no difference of the live objects' templates tells."""
    if compared.replicasets is not None:
        return f"ReplicaSet {compared.replicasets[0]} -> {compared.replicasets[1]}"
    if compared.template:
        return "the Deployment's pod template is another"
    return (
        f"{', '.join(compared.gone)} no longer run, and the pod template and the ReplicaSet are"
        " the same: they were deleted (by a hook of the chart, a node drain, or by hand);"
        " `kubectl get events` says when"
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


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
