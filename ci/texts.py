"""Every title and every sentence about a result, made here and nowhere else.

Titles and sentences are for people. Nothing reads them back: verdicts, files and other programs use
the ids and values of :mod:`ci.results`. ``tests/unit/test_renaming.py`` gives every text here
another wording and expects the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from ci.digest import Digest
from ci.results import (
    Because,
    Breach,
    BreachId,
    CauseId,
    ChangeState,
    ChartRef,
    Check,
    CheckId,
    Count,
    Cure,
    CureId,
    DifferenceReason,
    Duration,
    ExitStatus,
    GapId,
    HttpAnswer,
    ImageRef,
    Latency,
    Measured,
    Names,
    Outcome,
    Phase,
    ProbePlace,
    Problem,
    QueueState,
    Recreated,
    RehearsedStep,
    Requests,
    RevisionRef,
    RolloutGap,
    RunRef,
    Sample,
    Span,
    StepId,
    Tally,
    Tasks,
    Unit,
    VerdictId,
)

CHECK_TITLES: Mapping[CheckId, str] = {
    CheckId.RELEASE_LATEST_DEPLOYED: "the latest revision is deployed",
    CheckId.CHART_UNCHANGED: "the chart is the one that the release was made with",
    CheckId.CHART_CHANGE_INTENDED: "the chart is changed on purpose",
    CheckId.REPLICAS_NOT_AUTOSCALED: "no replica count that an autoscaler owns is reset",
    CheckId.OBJECTS_AS_RELEASED: "no live object was edited by hand",
    CheckId.PODS_SERVING_BEFORE: "every pod serves before the upgrade",
    CheckId.BACKUP_CREATED: "backups are written",
    CheckId.ROLLBACK_PREPARED: "the rollback script was tried with --dry-run",
    CheckId.IMAGE_BUILT: "the image is built",
    CheckId.IMAGE_PUBLISHED: "the image is in the registry at the proven digest",
    CheckId.IMAGE_PULLABLE: "the target's nodes can pull the image",
    CheckId.API_COMPATIBLE: "the API is backward compatible",
    CheckId.HEALTH_PROVEN: "health endpoints passed on the gate cluster",
    CheckId.HEALTH_UNDER_LOAD: "readiness under load was measured on the gate cluster",
    CheckId.MIGRATION_NOT_NEEDED: "no database migration is required",
    CheckId.TEAM_NOTIFIED: "the team is notified",
    CheckId.CAPACITY_SURGE: "the cluster has room for the rollout's surge pods",
    CheckId.CHANGE_COMPLETED: "the upgrade completed",
    CheckId.RELEASE_DEPLOYED: "the Helm release is deployed",
    CheckId.PODS_READY: "all pods are Running and Ready",
    CheckId.PODS_RUN_DIGEST: "every pod runs the digest",
    CheckId.PODS_OLD_GONE: "no pod of the previous version is left",
    CheckId.HEALTH_PATH: "the health endpoint answers",
    CheckId.API_ANSWERS: "the API answers",
    CheckId.API_STILL_COMPATIBLE: "the live API is backward compatible",
    CheckId.LOGS_NO_ERRORS: "no error lines in the pods' logs",
    CheckId.QUEUE_TIMEOUTS: "queue time-outs work on the target",
    CheckId.QUEUE_LOCK_DURATION: "the canary queue has the lock duration that was asked for",
    CheckId.REQUESTS_ANSWERED: "no request was lost",
    CheckId.TASKS_EXECUTED_ONCE: "every canary task was executed once",
    CheckId.ACCOUNTS_KEPT: "ServiceAccounts were kept",
    CheckId.SOAK_GATES: "no limit was exceeded during the soak",
    CheckId.SOAK_LATENCY: "latency during the soak",
    CheckId.SOAK_QUERY: "Prometheus query",
    CheckId.REHEARSAL_PROMOTED: "the promotion succeeds",
    CheckId.REHEARSAL_ROLLED_BACK: "a failed promotion is rolled back",
    CheckId.REHEARSAL_RETURNED: "the previous image can be restored",
    CheckId.PODS_KEEP_RUNNING: "pods of every component keep running",
    CheckId.TOKENS_ACCEPTED: "ServiceAccount tokens of running pods are accepted",
    CheckId.LOGS_NOT_DENIED: "no 401 and no 403 in the logs",
    CheckId.UPGRADE_REPEATABLE: "an upgrade without changes changes nothing",
    CheckId.ENDPOINT_USABLE: "an endpoint can be created, used and deleted",
    CheckId.TARGET_PROMOTED: "the target is promoted",
}

CHECKLIST: Mapping[CheckId, str] = {
    CheckId.BACKUP_CREATED: "All backups created",
    CheckId.ROLLBACK_PREPARED: "Rollback script tested",
    CheckId.IMAGE_BUILT: "Docker image built successfully",
    CheckId.IMAGE_PUBLISHED: "Image pushed to the registry",
    CheckId.IMAGE_PULLABLE: "Image can be pulled from the registry",
    CheckId.API_COMPATIBLE: "Code changes are backward compatible",
    CheckId.HEALTH_PROVEN: "Health check endpoint works in your code",
    CheckId.MIGRATION_NOT_NEEDED: "No database migrations required",
    CheckId.TEAM_NOTIFIED: "Team notified about upgrade",
}
"""The upgrade plan's pre-upgrade checklist, in its order and words."""

REASONS: Mapping[Because, str] = {
    Because.FORBIDDEN: "not permitted to read it",
    Because.NO_ANSWER: "no answer",
    Because.NOT_DESCRIBED: "the service publishes no API description",
    Because.NOT_COMPARABLE: "the API description cannot be compared",
    Because.NOT_ADMITTED: "the cluster does not admit the test pod",
    Because.NOT_OFFERED: "the service has no such API",
    Because.NOT_IN_EVIDENCE: "the proof does not contain it",
    Because.TOO_FEW: "too few measurements to compare",
    Because.LOST: "its measurements were lost",
    Because.NOT_REACHED: "the run ended before it was checked",
}

TURNED_OFF = "not enabled (setting {setting})"
NOT_MET = "not met"
"""Before the titles of checks that failed, which say what should be."""

REMEDY_UNMET = (
    "turn the check on, or take it out of `require` in [targets.{target}] of pipeline.toml"
    ' (for example "!queue.*")'
)

_CHART = (
    "promote with the chart that the release was made with; with --chart-change `plan` shows what"
    " another chart changes, and `promote` takes it"
)
REMEDIES: Mapping[CheckId, str] = {
    CheckId.CHART_UNCHANGED: _CHART,
    CheckId.REPLICAS_NOT_AUTOSCALED: "the upgrade would reset the replicas: leave them out of the"
    " chart where a HorizontalPodAutoscaler is, or remove the HorizontalPodAutoscaler",
    CheckId.PODS_SERVING_BEFORE: "repair the release first: from a broken one there is nothing to"
    " roll back to",
    CheckId.API_COMPATIBLE: "keep the old API beside the new one; where no client uses it, turn the"
    ' comparison off for this change with service.openapi_path = ""',
    CheckId.MIGRATION_NOT_NEEDED: "no rollback of the image undoes a migration: do it in a change"
    " of its own that works with both versions, or set allow_migrations = true for the target and"
    ' take "migration.*" out of its `require`',
    CheckId.IMAGE_PUBLISHED: "tags must not move: build and prove again, under a new tag",
    CheckId.IMAGE_PULLABLE: "push the image there, correct the release's pull secrets, or see that"
    " its registry answers the nodes; the target was not touched",
    CheckId.CAPACITY_SURGE: "make room, or let old pods go first (maxUnavailable); try_surge ="
    " false for the target leaves it to the change. The target was not touched",
}
"""What to do where a check failed before the change."""

CURES: Mapping[CureId, str] = {
    CureId.HOOK_ANNOTATION: "set the annotation helm.sh/hook: pre-install alone (without"
    " pre-upgrade), or remove it; until then the pods need a restart after every upgrade",
    CureId.POD_TEMPLATE_VARIES: "remove from the pod template what differs at every upgrade"
    " (a revision, a date)",
    CureId.QUERY_WITHOUT_SERIES: "where no series means zero, write `… or vector(0)`",
}

GAPS: Mapping[GapId, str] = {
    GapId.NO_DEPLOYMENT: "{object}: no such Deployment",
    GapId.NOT_OBSERVED: "{object}: the controller has not seen the change yet",
    GapId.NO_CONTAINER: "{object}: no container runs {value}",
    GapId.OTHER_IMAGE: "{object}: container {names} is to run {value}",
    GapId.REPLICAS_UPDATED: "{object}: {count} of {desired} replicas updated",
    GapId.REPLICAS_AVAILABLE: "{object}: {count} of {desired} replicas available",
    GapId.REPLICAS_PRESENT: "{object}: {count} of {desired} replicas present",
    GapId.PODS_NEW: "{object}: {count} of {desired} pods are new",
    GapId.PODS_RUNNING: "{object}: {count} of {desired} pods run",
    GapId.PODS_NOT_READY: "{object}: not ready: {names}",
    GapId.PODS_OLD: "{object}: old pods not gone: {names}",
    GapId.PODS_OLDER_REPLICASET: "{object}: pods of an older ReplicaSet still run: {names}",
    GapId.PODS_TERMINATING: "{object}: pods still terminate: {names}",
    GapId.OTHER_DIGEST: "{object}: pod {names} runs {value}",
    GapId.ROUTES_TO_OLD: "Service {object} still routes to {names}",
    GapId.ROUTES_NOT_TO_NEW: "Service {object} does not route to {names} yet",
}
NO_IMAGE_YET = "no image yet"

BREACHES: Mapping[BreachId, str] = {
    BreachId.ERROR_PERCENT: "{value:.1f} % of the requests failed during the soak,"
    " {before:.1f} % before the change, limit {limit:.1f} %",
    BreachId.LATENCY_P95: "95 % of the answers within {seconds} during the soak,"
    " within {seconds_before} before the change, limit {seconds_limit}",
    BreachId.RESTARTS: "{value:.0f} container restarts of the new pods during the soak,"
    " limit {limit:.0f}",
    BreachId.ERROR_LINES: "{value:.0f} error lines in the new pods' logs; at the previous version's"
    " rate ({before:.1f} a minute and pod) the limit is {limit:.0f}",
}

UNITS: Mapping[Unit, tuple[str, str]] = {
    Unit.PODS: ("pod", "pods"),
    Unit.NODES: ("node", "nodes"),
    Unit.COMPONENTS: ("component", "components"),
    Unit.OBJECTS: ("object", "objects"),
    Unit.FIELDS: ("field", "fields"),
    Unit.AUTOSCALERS: ("HorizontalPodAutoscaler", "HorizontalPodAutoscalers"),
    Unit.API_PATHS: ("API path compared", "API paths compared"),
    Unit.API_CHANGES: ("breaking API change", "breaking API changes"),
    Unit.LOG_LINES: ("log line", "log lines"),
    Unit.FILES: ("file", "files"),
    Unit.HOOKS: ("hook", "hooks"),
    Unit.CASES: ("case", "cases"),
    Unit.RECIPIENTS: ("recipient", "recipients"),
    Unit.TOKENS: ("token", "tokens"),
    Unit.SERVICE_ACCOUNTS: ("ServiceAccount", "ServiceAccounts"),
    Unit.CONTAINERS: ("container", "containers"),
    Unit.RESTARTS: ("restart", "restarts"),
    Unit.REASONS: ("reason", "reasons"),
    Unit.VALUES: ("value", "values"),
    Unit.BREACHES: ("limit exceeded", "limits exceeded"),
    Unit.LOOKS: ("look", "looks"),
    Unit.EVICTED_PODS: ("evicted pod", "evicted pods"),
    Unit.REPLACED_DEPLOYMENTS: ("replaced Deployment", "replaced Deployments"),
    Unit.REPLICA_SETS: ("ReplicaSet", "ReplicaSets"),
    Unit.DELETED_PODS: ("deleted pod", "deleted pods"),
}

SPANS: Mapping[Span, str] = {
    Span.READY: "ready within",
    Span.SOAK: "watched for",
    Span.ROLLOUT: "rolled out in",
    Span.PULL: "pulled within",
}

OUTCOMES: Mapping[Outcome, str] = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "skipped",
    Outcome.UNKNOWN: "unknown",
}

PHASES: Mapping[Phase, str] = {
    Phase.BEFORE: "Before the change",
    Phase.DURING: "During the change",
    Phase.AFTER: "On the live release",
    Phase.REHEARSAL: "In the rehearsal",
    Phase.TARGETS: "Targets",
}

PROBE_PLACES: Mapping[ProbePlace, str] = {
    ProbePlace.IN_CLUSTER: "from a pod in the cluster",
    ProbePlace.API_PROXY: "through the Kubernetes API server",
    ProbePlace.EXTERNAL: "from outside the cluster",
}

REHEARSED_STEPS: Mapping[RehearsedStep, str] = {
    RehearsedStep.UPGRADE: "in the upgrade",
    RehearsedStep.REPEAT: "in an upgrade without changes",
    RehearsedStep.FAILURE: "in a failed upgrade",
    RehearsedStep.RETURN: "in the return to the previous image",
}

EVICTED = "evicted by their node, not by the upgrade: {names}"
REPLACED = "the pods were replaced of {names}"
NEW_REPLICA_SETS = "a new ReplicaSet: {names}"
DELETED = (
    "{names} deleted, with the pod template and the ReplicaSet the same (by a hook of the chart, a"
    " node drain, or by hand; `kubectl get events` says when)"
)
RECREATED = "{object} was deleted and created again (UID {before} -> {after})"
GONE = "{object} was deleted (UID {before})"
HOOK = "it is a Helm hook: {hook}"

DIFFERENCE_REASONS: Mapping[DifferenceReason, str] = {
    DifferenceReason.IMAGE: "the image",
    DifferenceReason.TAG: "the image tag",
    DifferenceReason.TAG_CHECKSUM: "a checksum of something that contains the image tag",
    DifferenceReason.REVISION: "the Helm revision number",
    DifferenceReason.CHART: "the chart, changed on purpose",
    DifferenceReason.NOT_FROM_IMAGE: "does not derive from the image",
    DifferenceReason.NOT_PROVEN_IMAGE: "not the proven image",
    DifferenceReason.OTHER_IMAGE: "replaces an image that is not the release's",
    DifferenceReason.NOT_DETERMINISTIC: "not deterministic: two renderings differ",
    DifferenceReason.CHART_OR_VALUES: "the chart or the values differ from the live release",
    DifferenceReason.OBJECT_FROM_TAG: "the object exists with one of the image tags only",
    DifferenceReason.ONE_SIDE_ONLY: "the object exists on one side only",
}

CAUSES: Mapping[CauseId, str] = {
    CauseId.UNKNOWN: "the cause is not known",
    CauseId.INTERRUPTED: "the run was interrupted",
    CauseId.PODS_NOT_READY: "pods did not become ready",
    CauseId.CONTAINER_CRASHED: "a container crashed",
    CauseId.IMAGE_NOT_PULLED: "the image could not be pulled",
    CauseId.NOT_SCHEDULED: "a pod could not be scheduled",
    CauseId.ADMISSION_REFUSED: "the cluster refused to create a pod",
    CauseId.HELM_FAILED: "helm upgrade failed",
    CauseId.WRONG_DIGEST: "a pod runs another digest",
    CauseId.HEALTH_FAILED: "a health endpoint failed",
    CauseId.API_BROKEN: "the new API breaks clients of the previous one",
    CauseId.REQUESTS_LOST: "requests were lost during the change",
    CauseId.TASKS_LOST: "queued tasks were lost or executed twice",
    CauseId.QUEUE_NOT_AS_ASKED: "a queue does not have the settings that were asked for",
    CauseId.TESTS_FAILED: "the queue time-out tests failed on the target",
    CauseId.SOAK_BREACHED: "a limit was exceeded during the soak",
    CauseId.REQUIRED_NOT_CHECKED: "a required check was skipped or had no answer",
    CauseId.CLUSTER_UNREACHABLE: "the cluster's API did not answer",
    CauseId.TIMED_OUT: "a deadline passed",
}

STATES: Mapping[ChangeState, str] = {
    ChangeState.NONE: "no target is changed",
    ChangeState.UNTOUCHED: "nothing was changed",
    ChangeState.UNDER_WAY: "the change has begun",
    ChangeState.PROMOTED: "promoted",
    ChangeState.ALREADY_SERVED: "served already, nothing was changed",
    ChangeState.ROLLED_BACK: "rolled back",
    ChangeState.ROLLBACK_FAILED: "the rollback failed",
}

STEP_TITLES: Mapping[StepId, str] = {
    StepId.TOOLS: "obtain the tools",
    StepId.TOOL: "obtain",
    StepId.RENDER_CHART: "render the chart",
    StepId.REMOVE_STALE_CLUSTERS: "remove stale clusters",
    StepId.BUILD_EMULATOR: "build the Service Bus emulator",
    StepId.BUILD: "build and push the image",
    StepId.GATE_CLUSTER: "start the gate cluster",
    StepId.LOOK_UP_TARGET: "look up the target",
    StepId.STANDIN_CREDENTIALS: "generate stand-in credentials",
    StepId.START_STANDINS: "start the stand-ins",
    StepId.DEPLOY: "deploy to the gate cluster",
    StepId.PROVE: "run the end-to-end tests",
    StepId.ATTEST: "sign and attach the evidence",
    StepId.VERIFY_EVIDENCE: "verify the signed evidence",
    StepId.REHEARSE: "rehearse the promotion",
    StepId.DELETE_GATE_CLUSTER: "delete the gate cluster",
    StepId.APPROVE: "sign the approval",
    StepId.PROMOTE: "promote",
    StepId.PROMOTE_TARGET: "promote to",
    StepId.VERIFY: "verify the live release",
    StepId.ROLLBACK: "roll back",
    StepId.CLEAN_UP: "clean up",
    StepId.CHECK_PROOF: "check the proof",
    StepId.FIND_RELEASE: "find the Helm release",
    StepId.ACQUIRE_LEASE: "acquire the Lease",
    StepId.RESOLVE_DIGEST: "resolve the image digest",
    StepId.INSPECT_RELEASE: "inspect the live release",
    StepId.VERIFY_SERVED: "verify what is served",
    StepId.START_PROBERS: "start the probers",
    StepId.BACK_UP: "write the backups",
    StepId.PLAN: "plan the upgrade",
    StepId.PREFLIGHT: "pre-upgrade checklist",
    StepId.BASELINE_PROBE: "baseline probe",
    StepId.RECHECK_RELEASE: "recheck the release",
    StepId.UPGRADE: "helm upgrade",
    StepId.VERIFY_DIGESTS: "verify pod digests",
    StepId.CHECK_HEALTH: "check health endpoints",
    StepId.TEST_TARGET: "test queue time-outs on the target",
    StepId.SOAK: "soak",
    StepId.ACCOUNT_REQUESTS: "account for requests",
    StepId.CHOOSE_REVISION: "choose the revision",
    StepId.REACH_CLUSTER: "reach the cluster's API",
    StepId.COLLECT_DIAGNOSTICS: "collect diagnostics",
    StepId.HELM_ROLLBACK: "helm rollback",
    StepId.VERIFY_ROLLBACK: "verify the rollback",
    StepId.READ_RELEASE: "read the live release",
    StepId.ADAPT_RELEASE: "adapt the release to the gate cluster",
    StepId.INSTALL_RELEASE: "install the release on the gate cluster",
    StepId.REHEARSAL_BASELINE: "record the release before the rehearsal",
    StepId.REHEARSE_UPGRADE: "rehearse the upgrade",
    StepId.REHEARSE_REPEAT: "rehearse an upgrade without changes",
    StepId.REHEARSE_FAILURE: "rehearse a failed upgrade",
    StepId.REHEARSE_RETURN: "rehearse the return to the previous image",
    StepId.SELF_TEST: "check",
}
"""Verb phrases. A step's subject follows its title: ``obtain`` and ``kind``."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A verdict for people: a word or two, a sentence, and what to do where the run itself cannot
    say it. The sentence and the remedy may name ``{target}``, ``{old}``, ``{new}`` (image tags),
    ``{old_at}``, ``{new_at}`` (tags with their revisions), ``{tag}`` (of the run's image),
    ``{where}`` (in which step), ``{untouched}`` (that the target was not, where that is known),
    ``{names}`` (of failed checks), ``{promoted}`` and ``{total}``."""

    word: str
    sentence: str
    remedy: str = ""


_LOOK = (
    "see what it serves with `python3 pipeline.py status --target {target}`, and return it to what"
    " it served before with `python3 pipeline.py rollback --target {target}`"
)

VERDICTS: Mapping[VerdictId, Wording] = {
    VerdictId.PROMOTED: Wording(
        "Promoted",
        "{target} was promoted from {old_at} to {new_at}, the digest that was proven.",
    ),
    VerdictId.ALREADY_SERVED: Wording(
        "Already served",
        "{target} serves {new_at} already, the digest that was proven: verified, nothing was"
        " changed.",
    ),
    VerdictId.ALL_PROMOTED: Wording(
        "Promoted", "All {total} targets serve the image; each has its own report."
    ),
    VerdictId.ALL_SERVED: Wording(
        "Already served",
        "All {total} targets served the image already: verified, nothing was changed.",
    ),
    VerdictId.BUILT: Wording("Built", "{tag} was built and published; nothing was promoted."),
    VerdictId.PROVEN: Wording("Proven", "{tag} passed the end-to-end tests; nothing was promoted."),
    VerdictId.REHEARSED: Wording("Rehearsed", "{tag} passed the rehearsal; nothing was promoted."),
    VerdictId.APPROVED: Wording("Approved", "{tag} was approved; nothing was promoted."),
    VerdictId.VERIFIED: Wording("Verified", "The live release meets every success criterion."),
    VerdictId.RETURNED: Wording(
        "Rolled back", "{target} was returned from {old_at} to {new_at}, verified."
    ),
    VerdictId.ALREADY_RETURNED: Wording(
        "Already there", "{target} serves {new_at} already: verified, nothing was changed."
    ),
    VerdictId.CHECKS_PASSED: Wording("Passed", "Every check passed."),
    VerdictId.PASSED: Wording("Passed", "The command did what it was asked to do."),
    VerdictId.REFUSED: Wording("Refused", "Refused before any change{untouched}."),
    VerdictId.UPGRADE_NOT_BEGUN: Wording(
        "Not promoted", "The upgrade failed before it changed anything: {target} serves {old_at}."
    ),
    VerdictId.ROLLED_BACK: Wording(
        "Rolled back",
        "The promotion to {new} failed and was rolled back: {target} serves {old_at} again,"
        " verified.",
    ),
    VerdictId.FAILED_ROLLED_BACK: Wording(
        "Failed",
        "The run failed {where}; {target} was rolled back and serves {old_at} again.",
    ),
    VerdictId.INTERRUPTED_ROLLED_BACK: Wording(
        "Interrupted",
        "The run was interrupted {where}; {target} was rolled back and serves {old_at} again.",
    ),
    VerdictId.UNFINISHED: Wording(
        "Unfinished", "The run was killed or is still running{untouched}."
    ),
    VerdictId.UNFINISHED_PROMOTED: Wording(
        "Unfinished", "{target} was promoted to {new_at}, and the record ends before the run did."
    ),
    VerdictId.UNFINISHED_ROLLED_BACK: Wording(
        "Unfinished",
        "{target} was rolled back to {old_at}, and the record ends before the run did.",
    ),
    VerdictId.NOT_PROVEN: Wording("Not proven", "The end-to-end tests did not pass."),
    VerdictId.NOT_PROMOTED_NOT_PROVEN: Wording(
        "Not promoted",
        "Nothing was promoted, because the end-to-end tests did not pass{untouched}.",
    ),
    VerdictId.NOT_REHEARSED: Wording("Not rehearsed", "The change broke the release in rehearsal."),
    VerdictId.NOT_PROMOTED_NOT_REHEARSED: Wording(
        "Not promoted",
        "Nothing was promoted, because the change broke the release in rehearsal{untouched}.",
    ),
    VerdictId.NOT_PROMOTED: Wording("Not promoted", "The run failed {where}{untouched}."),
    VerdictId.NOT_EVERYWHERE: Wording(
        "Not everywhere",
        "{promoted} of {total} targets serve the image; each has its own report.",
    ),
    VerdictId.PROMOTED_NOT_VERIFIED: Wording(
        "Promoted, not verified",
        "{target} was promoted to {new_at}, and the live release does not meet the success"
        " criteria.",
    ),
    VerdictId.NOT_VERIFIED: Wording(
        "Not verified", "The live release of {target} does not meet the success criteria."
    ),
    VerdictId.CHECKS_FAILED: Wording("Failed", "Not every check passed: {names}."),
    VerdictId.FAILED: Wording("Failed", "The run failed {where}."),
    VerdictId.FAILED_PROMOTED: Wording(
        "Failed", "The run failed {where}, after {target} was promoted to {new_at}."
    ),
    VerdictId.INTERRUPTED: Wording("Interrupted", "The run was interrupted {where}{untouched}."),
    VerdictId.INTERRUPTED_PROMOTED: Wording(
        "Interrupted",
        "The run was interrupted {where}, after {target} was promoted to {new_at}.",
    ),
    VerdictId.ROLLBACK_FAILED: Wording(
        "Act now",
        "The promotion failed and so did its rollback: nobody has verified what {target} serves.",
        _LOOK,
    ),
    VerdictId.RETURN_FAILED: Wording(
        "Act now", "The rollback failed: nobody has verified what {target} serves.", _LOOK
    ),
    VerdictId.FAILED_UNDER_WAY: Wording(
        "Act now",
        "The run failed {where} while {target} was being changed from {old} to {new}.",
        _LOOK,
    ),
    VerdictId.INTERRUPTED_UNDER_WAY: Wording(
        "Act now",
        "The run was interrupted {where} while {target} was being changed from {old} to {new}.",
        _LOOK,
    ),
    VerdictId.UNFINISHED_UNDER_WAY: Wording(
        "Act now",
        "The record ends while {target} was being changed from {old} to {new}: look at it now.",
        _LOOK,
    ),
}

WHERE_STEP = "in the step “{step}”"
UNTOUCHED = "; {target} was not touched"
WHERE_BEGIN = "before it had begun its work"
THE_TARGET = "the target"
THE_IMAGE = "The image"
OLD_IMAGE = "the previous image"
NEW_IMAGE = "the new image"
AT_REVISION = "{tag} (revision {revision})"
"""For a verdict's sentence, where nothing better is known."""


def step_title(id: str, subject: str = "") -> str:
    """What a step is called, with its subject. Of an id that this version does not know, the id."""
    known = STEP_TITLES[StepId(id)] if id in set(StepId) else id
    return f"{known} {subject}" if subject else known


def unmet(checks: Iterable[Check]) -> str:
    """The required checks that are skipped or unknown, each with why: for the one line of an
    error."""
    listed = "; ".join(
        f"{title(check)} ({OUTCOMES[check.outcome]}: {evidence(check)})" for check in checks
    )
    return f"required, and not checked: {listed}"


def title(check: Check) -> str:
    """What the check is called, with its subject."""
    name, subject = CHECK_TITLES[check.id], check.subject
    if check.id is CheckId.REQUESTS_ANSWERED and subject in set(ProbePlace):
        subject = PROBE_PLACES[ProbePlace(subject)]
    elif check.id not in (CheckId.TARGET_PROMOTED, CheckId.SOAK_QUERY) and (
        subject in set(RehearsedStep)
    ):
        subject = REHEARSED_STEPS[RehearsedStep(subject)]
    return f"{name} ({subject})" if subject else name


def why(check: Check) -> str:
    """Why nothing was measured; empty where something was."""
    if check.outcome is Outcome.SKIPPED and check.setting:
        return TURNED_OFF.format(setting=check.setting)
    return REASONS[check.because] if check.because is not None else ""


def evidence(check: Check) -> str:
    """What was measured, or why nothing was."""
    parts = [why(check), *(measured(value) for value in check.measured)]
    return "; ".join(part for part in parts if part)


def sentence(check: Check) -> str:
    """Title and evidence in one line, for an error or a log."""
    found = evidence(check)
    return f"{title(check)}: {found}" if found else title(check)


def tally(counts: Tally) -> str:
    """``24 passed, 3 skipped, 1 unknown``: what is none is left out, but for the passed."""
    parts = [f"{counts.passed} {OUTCOMES[Outcome.PASSED]}"]
    for outcome, number in (
        (Outcome.FAILED, counts.failed),
        (Outcome.SKIPPED, counts.skipped),
        (Outcome.UNKNOWN, counts.unknown),
    ):
        if number:
            parts.append(f"{number} {OUTCOMES[outcome]}")
    return ", ".join(parts)


def count(number: int, unit: Unit) -> str:
    one, several = UNITS[unit]
    return f"{number} {one if number == 1 else several}"


def seconds(value: float) -> str:
    """Below a second in milliseconds, else with one decimal where there is one."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f}".removesuffix(".0") + " s"


def measured(value: Measured) -> str:
    """One measured value in words."""
    match value:
        case Count(of=of, value=number, limit=None):
            return count(number, of)
        case Count(of=of, value=number, limit=limit):
            return f"{count(number, of)}, limit {limit}"
        case Names():
            return _names(value)
        case Duration(of=of, seconds=taken, limit_seconds=most):
            return f"{SPANS[of]} {seconds(taken)}" + (f", limit {seconds(most)}" if most else "")
        case ImageRef(repository=repository, tag=tag, digest=found):
            name = f"{repository}:{tag}" if tag else repository
            return f"{name} ({Digest.read(found).short})" if found else name
        case RevisionRef(number=number, status=status, chart=chart):
            return " ".join(filter(None, (f"revision {number}", status, chart)))
        case ChartRef(before=before, after=after):
            return before if before == after else f"{before} -> {after}"
        case HttpAnswer():
            return _answer(value)
        case Requests():
            return _requests(value)
        case Tasks():
            return _tasks(value)
        case QueueState():
            return _queue(value)
        case Latency(when=when, median_seconds=median, p95_seconds=p95):
            ended = value.answered + value.failed
            return (
                f"{when}: median {seconds(median)}, 95 % within {seconds(p95)},"
                f" {value.failed} of {ended} failed"
            )
        case Sample(value=sample, limit=most):
            return f"{sample:g}, limit {most:g}"
        case ExitStatus(program=program, status=status, last_line=line):
            return f"{program} ended with status {status}" + (f": {line}" if line else "")
        case Problem(text=text):
            return text
        case Cure(id=id):
            return f"to fix it: {CURES[id]}"
        case RunRef(id=id, exit_code=None):
            return f"run {id} was killed"
        case RolloutGap():
            return _gap(value)
        case Breach():
            return _breach(value)
        case RunRef(id=id, exit_code=status):
            return f"run {id}" + (f" ended with exit code {status}" if status else "")
        case Recreated(object=object, before=before, after=after, hook=hook):
            text = (RECREATED if after else GONE).format(object=object, before=before, after=after)
            return f"{text}; {HOOK.format(hook=hook)}" if hook else text
        case _:
            assert_never(value)


def _gap(value: RolloutGap) -> str:
    return GAPS[value.id].format(
        object=value.object or "the release",
        names=", ".join(value.names),
        count=value.count,
        desired=value.desired,
        value=value.value or NO_IMAGE_YET,
    )


def _breach(value: Breach) -> str:
    text = BREACHES[value.id].format(
        value=value.value,
        limit=value.limit,
        before=value.before or 0.0,
        seconds=seconds(value.value),
        seconds_before=seconds(value.before or 0.0),
        seconds_limit=seconds(value.limit),
    )
    return f"{text} ({value.example})" if value.example else text


def _names(value: Names) -> str:
    shown = ", ".join(value.names)
    more = value.total - len(value.names)
    if value.of in (Unit.REASONS, Unit.API_CHANGES, Unit.BREACHES, Unit.LOG_LINES):
        shown = "; ".join(value.names)
    if value.of is Unit.LOG_LINES and value.total:
        return f"{count(value.total, value.of)}, the first: {value.names[0] if value.names else ''}"
    shown = f"{shown} and {more} more" if more > 0 else shown
    match value.of:
        case Unit.EVICTED_PODS:
            return EVICTED.format(names=shown)
        case Unit.REPLACED_DEPLOYMENTS:
            return REPLACED.format(names=shown)
        case Unit.REPLICA_SETS:
            return NEW_REPLICA_SETS.format(names=shown)
        case Unit.DELETED_PODS:
            return DELETED.format(names=shown)
        case _:
            return shown


def _answer(value: HttpAnswer) -> str:
    text = f"HTTP {value.status}" if value.status else "no answer"
    if value.body:
        text += f" {value.body}" if value.status else f": {value.body}"
    if value.seconds is not None:
        text += f" in {seconds(value.seconds)}"
        if value.limit_seconds is not None and value.seconds > value.limit_seconds:
            text += f", limit {seconds(value.limit_seconds)}"
    return text


def _requests(value: Requests) -> str:
    why = f" ({value.problems[0][0]})" if value.problems else ""
    rest = f", {value.under_way} still under way" if value.under_way else ""
    allowed = f", {value.allowed_failures} allowed" if value.allowed_failures else ""
    return (
        f"{value.failed} of {value.sent} requests failed{why}{allowed}{rest};"
        f" longest gap {seconds(value.longest_gap_seconds)},"
        f" median {seconds(value.median_seconds)}, slowest {seconds(value.slowest_seconds)}"
    )


def _tasks(value: Tasks) -> str:
    text = (
        f"{value.accepted} tasks sent, {value.once} executed once, {value.lost} lost,"
        f" {value.twice} executed twice"
    )
    if value.refused:
        text += f", {value.refused} not accepted"
    return f"{text} ({value.example})" if value.example else text


def _queue(value: QueueState) -> str:
    parts = [] if value.exists else ["there is no such queue"]
    if value.lock_seconds is not None:
        lock = f"lock duration {seconds(value.lock_seconds)}"
        if value.asked_lock_seconds not in (None, value.lock_seconds):
            lock += f", asked for {seconds(value.asked_lock_seconds or 0)}"
        parts.append(lock)
    if value.active is not None:
        parts.append(f"{value.active} active messages")
    if value.dead_lettered is not None:
        dead = f"{value.dead_lettered} dead-lettered"
        parts.append(f"{dead} ({value.dead_letter_reason})" if value.dead_letter_reason else dead)
    return f"{value.name}: " + ", ".join(parts) if parts else value.name


def lines(checks: Iterable[Check]) -> list[str]:
    return [sentence(check) for check in checks]
