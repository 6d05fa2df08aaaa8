"""What a run found out, as data: outcomes, checks, measured values. Texts are made of it elsewhere.

Four outcomes, never three. *Passed* and *failed* were measured. *Skipped* was turned off by a
setting, which is named. *Unknown* was asked, and there was no answer that says either: a log that
may not be read, an API that describes itself nowhere, a prober that was lost. Neither of the last
two is ever shown or counted as passed.

A :class:`Check` is identified by its :class:`CheckId`, which never changes; its title and the
sentence about what was measured are made of it by :mod:`ci.texts` and by nothing else. No verdict
may depend on a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Discriminator


class Outcome(StrEnum):
    """How a check, a case, a step or a run ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """Turned off by a setting, or excused by the test itself."""
    UNKNOWN = "unknown"
    """Asked, and no answer says either."""


class CheckId(StrEnum):
    """Every check there is. The values are stable: targets name them in ``require`` (globs), files
    and other programs keep them. Add to the end of a group; never rename, never use one again."""

    # The release before the change.
    RELEASE_LATEST_DEPLOYED = "release.latest-deployed"
    CHART_UNCHANGED = "chart.unchanged"
    CHART_CHANGE_INTENDED = "chart.change-intended"
    REPLICAS_NOT_AUTOSCALED = "replicas.not-autoscaled"
    OBJECTS_AS_RELEASED = "objects.as-released"
    PODS_SERVING_BEFORE = "pods.serving-before"
    # The upgrade plan's checklist.
    BACKUP_CREATED = "backup.created"
    ROLLBACK_PREPARED = "rollback.prepared"
    IMAGE_BUILT = "image.built"
    IMAGE_PUBLISHED = "image.published"
    IMAGE_PULLABLE = "image.pullable"
    API_COMPATIBLE = "api.compatible"
    HEALTH_PROVEN = "health.proven"
    HEALTH_UNDER_LOAD = "health.under-load"
    MIGRATION_NOT_NEEDED = "migration.not-needed"
    TEAM_NOTIFIED = "team.notified"
    # Room for the rollout.
    CAPACITY_SURGE = "capacity.surge"
    # The change, and the upgrade plan's success criteria.
    CHANGE_COMPLETED = "change.completed"
    RELEASE_DEPLOYED = "release.deployed"
    PODS_READY = "pods.ready"
    PODS_RUN_DIGEST = "pods.run-digest"
    PODS_OLD_GONE = "pods.old-gone"
    HEALTH_PATH = "health.path"
    API_ANSWERS = "api.answers"
    API_STILL_COMPATIBLE = "api.still-compatible"
    LOGS_NO_ERRORS = "logs.no-errors"
    QUEUE_TIMEOUTS = "queue.timeouts"
    """The end-to-end tests of queue time-outs on the target itself."""
    QUEUE_LOCK_DURATION = "queue.lock-duration"
    """The canary's queue: lock duration as asked, empty, no dead letters."""
    REQUESTS_ANSWERED = "requests.answered"
    TASKS_EXECUTED_ONCE = "tasks.executed-once"
    ACCOUNTS_KEPT = "accounts.kept"
    """No ServiceAccount was deleted and created again."""
    # The soak.
    SOAK_GATES = "soak.gates"
    SOAK_LATENCY = "soak.latency"
    SOAK_QUERY = "soak.query"
    # The rehearsal; its checks also use the ids above, with the rehearsed step as their subject.
    REHEARSAL_PROMOTED = "rehearsal.promoted"
    REHEARSAL_ROLLED_BACK = "rehearsal.rolled-back"
    REHEARSAL_RETURNED = "rehearsal.returned"
    PODS_KEEP_RUNNING = "pods.keep-running"
    TOKENS_ACCEPTED = "tokens.accepted"
    LOGS_NOT_DENIED = "logs.not-denied"
    UPGRADE_REPEATABLE = "upgrade.repeatable"
    """An upgrade that changes nothing replaces no pod and changes no object."""
    ENDPOINT_USABLE = "endpoint.usable"
    # Several targets.
    TARGET_PROMOTED = "target.promoted"


class Because(StrEnum):
    """Why a check is unknown: what kind of answer there was none of."""

    FORBIDDEN = "forbidden"
    NO_ANSWER = "no-answer"
    NOT_DESCRIBED = "not-described"
    """The service describes no API where it was asked."""
    NOT_COMPARABLE = "not-comparable"
    NOT_ADMITTED = "not-admitted"
    """The cluster does not admit the pod that would have tried it."""
    NOT_OFFERED = "not-offered"
    """The service has no such API."""
    NOT_IN_EVIDENCE = "not-in-evidence"
    """The proof has no such case or document."""
    LOST = "lost"
    """What measured it was lost."""
    TOO_FEW = "too-few"
    """Too few measurements to compare."""
    NOT_REACHED = "not-reached"
    """The run ended before it was asked."""


class Unit(StrEnum):
    """What is counted or named."""

    PODS = "pods"
    NODES = "nodes"
    COMPONENTS = "components"
    OBJECTS = "objects"
    FIELDS = "fields"
    AUTOSCALERS = "autoscalers"
    API_PATHS = "api-paths"
    API_CHANGES = "api-changes"
    LOG_LINES = "log-lines"
    FILES = "files"
    HOOKS = "hooks"
    CASES = "cases"
    RECIPIENTS = "recipients"
    TOKENS = "tokens"
    SERVICE_ACCOUNTS = "service-accounts"
    CONTAINERS = "containers"
    RESTARTS = "restarts"
    REASONS = "reasons"
    """Why a pod or a rollout is not as it should be, each as Kubernetes says it."""
    VALUES = "values"
    BREACHES = "breaches"
    """Limits of the soak that were exceeded."""
    LOOKS = "looks"
    """Times at which a release was looked at with an answer to every question."""
    EVICTED_PODS = "evicted-pods"
    """By their node; no change did that."""
    REPLACED_DEPLOYMENTS = "replaced-deployments"
    """Deployments whose pods were replaced."""
    REPLICA_SETS = "replica-sets"
    """``OLD -> NEW``, of a Deployment that made a new one."""
    DELETED_PODS = "deleted-pods"
    """Gone, with the pod template and the ReplicaSet the same: deleted by a hook of the chart, by a
    node drain or by hand."""


class Span(StrEnum):
    """What a duration is of."""

    READY = "ready"
    SOAK = "soak"
    ROLLOUT = "rollout"
    PULL = "pull"
    """The slowest node's."""


# -- measured values -------------------------------------------------------------------------------
# Each has a ``kind``, so that JSON tells them apart. Durations are seconds.


@dataclass(frozen=True, slots=True)
class Count:
    of: Unit
    value: int
    limit: int | None = None
    kind: Literal["count"] = "count"


@dataclass(frozen=True, slots=True)
class Names:
    """Things by their names or paths: pods, fields of objects, lines of a log. Text of others."""

    of: Unit
    names: tuple[str, ...]
    """The first of them."""
    total: int
    kind: Literal["names"] = "names"


@dataclass(frozen=True, slots=True)
class Duration:
    of: Span
    seconds: float
    limit_seconds: float | None = None
    kind: Literal["duration"] = "duration"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by repository and tag, with its digest (``sha256:…``) where it is known."""

    repository: str
    tag: str
    digest: str = ""
    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class RevisionRef:
    """A Helm revision. ``chart`` is ``NAME-VERSION``."""

    number: int
    status: str = ""
    chart: str = ""
    kind: Literal["revision"] = "revision"


@dataclass(frozen=True, slots=True)
class ChartRef:
    """The chart of a change: ``NAME-VERSION`` before and after."""

    before: str
    after: str
    kind: Literal["chart"] = "chart"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """``status`` 0: no answer, and ``body`` says why."""

    status: int
    seconds: float | None = None
    limit_seconds: float | None = None
    body: str = ""
    kind: Literal["http-answer"] = "http-answer"


@dataclass(frozen=True, slots=True)
class Requests:
    """The account of one prober's requests: sent = answered + failed + still under way."""

    sent: int
    answered: int
    failed: int
    longest_gap_seconds: float
    median_seconds: float
    slowest_seconds: float
    problems: tuple[tuple[str, int], ...] = ()
    """(what happened, how often), the most frequent first."""
    allowed_failures: int = 0
    kind: Literal["requests"] = "requests"

    @property
    def under_way(self) -> int:
        return self.sent - self.answered - self.failed


@dataclass(frozen=True, slots=True)
class Tasks:
    """The account of the canary queue's tasks: accepted = once + lost + twice."""

    once: int
    lost: int
    twice: int
    refused: int = 0
    example: str = ""
    """What became of the first one that was lost or executed twice, or why one was refused."""
    kind: Literal["tasks"] = "tasks"

    @property
    def accepted(self) -> int:
        return self.once + self.lost + self.twice


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as Service Bus itself describes it; what it did not answer is ``None``."""

    name: str
    lock_seconds: float | None = None
    asked_lock_seconds: float | None = None
    active: int | None = None
    dead_lettered: int | None = None
    dead_letter_reason: str = ""
    exists: bool = True
    kind: Literal["queue"] = "queue"


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles of the answers of one time, in seconds, and how many requests failed."""

    when: Literal["before", "during", "soak"]
    median_seconds: float
    p95_seconds: float
    answered: int
    failed: int
    kind: Literal["latency"] = "latency"


@dataclass(frozen=True, slots=True)
class Sample:
    """The largest sample of a Prometheus query."""

    value: float
    limit: float
    kind: Literal["sample"] = "sample"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a program of the team's ended, with the last line that it printed."""

    program: str
    status: int
    last_line: str = ""
    kind: Literal["exit-status"] = "exit-status"


@dataclass(frozen=True, slots=True)
class Problem:
    """What another program or an API answered, in its words, secrets removed."""

    text: str
    kind: Literal["problem"] = "problem"


class GapId(StrEnum):
    """What a rollout that is not complete still lacks."""

    NO_DEPLOYMENT = "no-deployment"
    NOT_OBSERVED = "not-observed"
    """The controller has not seen the specification."""
    NO_CONTAINER = "no-container"
    """No container of the Deployment runs the image's repository."""
    OTHER_IMAGE = "other-image"
    REPLICAS_UPDATED = "replicas-updated"
    REPLICAS_AVAILABLE = "replicas-available"
    REPLICAS_PRESENT = "replicas-present"
    PODS_NEW = "pods-new"
    PODS_RUNNING = "pods-running"
    PODS_NOT_READY = "pods-not-ready"
    PODS_OLD = "pods-old"
    PODS_OLDER_REPLICASET = "pods-older-replicaset"
    PODS_TERMINATING = "pods-terminating"
    OTHER_DIGEST = "other-digest"
    ROUTES_TO_OLD = "routes-to-old"
    """The Service's EndpointSlices name pods that are not new."""
    ROUTES_NOT_TO_NEW = "routes-not-to-new"


@dataclass(frozen=True, slots=True)
class RolloutGap:
    """One thing that a rollout lacks."""

    id: GapId
    object: str
    """The Deployment, or of ``routes-…`` the Service."""
    names: tuple[str, ...] = ()
    """Of the pods or the container."""
    count: int | None = None
    desired: int | None = None
    value: str = ""
    """The image or the digest that is there instead; the repository that is missed."""
    kind: Literal["rollout-gap"] = "rollout-gap"


class BreachId(StrEnum):
    """Which limit of the soak was exceeded."""

    ERROR_PERCENT = "error-percent"
    """Failed requests of all, in percent."""
    LATENCY_P95 = "latency-p95"
    """Seconds within which 95 % of the answers came."""
    RESTARTS = "restarts"
    ERROR_LINES = "error-lines"


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit of the soak that was exceeded."""

    id: BreachId
    value: float
    limit: float
    before: float | None = None
    """The same before the change; of error lines their number a minute and pod."""
    example: str = ""
    """One of them, in the words of the service or of Kubernetes."""
    kind: Literal["breach"] = "breach"


@dataclass(frozen=True, slots=True)
class Cure:
    """What removes the cause of a failed check, by a stable name."""

    id: CureId
    kind: Literal["cure"] = "cure"


class CureId(StrEnum):
    HOOK_ANNOTATION = "hook-annotation"
    """The ServiceAccount is an upgrade hook: ``helm.sh/hook: pre-install`` alone, or none."""
    POD_TEMPLATE_VARIES = "pod-template-varies"
    """Take out of the pod template what differs at every upgrade."""
    QUERY_WITHOUT_SERIES = "query-without-series"
    """Let the query give zero where it has no series."""


@dataclass(frozen=True, slots=True)
class RunRef:
    """Another run of this project, which this one started."""

    id: str
    """The name of its folder, beside this run's."""
    exit_code: int | None
    """``None`` when it was killed."""
    seconds: float
    state: ChangeState | None = None
    """Where its target stands; ``None`` where it left nothing that says it."""
    kind: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class Recreated:
    """An object that was deleted, and created again unless ``after`` is empty."""

    object: str
    """``KIND/NAME``."""
    before: str
    """Its UID; as ``after``."""
    after: str
    hook: str = ""
    """The annotation ``helm.sh/hook``, where it is a Helm hook."""
    kind: Literal["recreated"] = "recreated"


Measured = Annotated[
    Count
    | Names
    | Duration
    | ImageRef
    | RevisionRef
    | ChartRef
    | HttpAnswer
    | Requests
    | Tasks
    | QueueState
    | Latency
    | Sample
    | ExitStatus
    | Problem
    | Cure
    | RunRef
    | RolloutGap
    | Breach
    | Recreated,
    Discriminator("kind"),
]


# -- checks ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """One criterion, how it came out, and what was measured.

    Made by :func:`passed`, :func:`failed`, :func:`skipped` and :func:`unknown`, so that a skipped
    one has its setting and an unknown one its reason.
    """

    id: CheckId
    outcome: Outcome
    measured: tuple[Measured, ...] = ()
    subject: str = ""
    """Which one of several: a health path, the place of a prober, a query, a target, a step of
    the rehearsal."""
    setting: str = ""
    """Of a skipped one: the setting that turned it off, for example ``service.openapi_path``."""
    because: Because | None = None
    """Of an unknown one."""

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED

    @property
    def failed(self) -> bool:
        return self.outcome is Outcome.FAILED


def passed(id: CheckId, *measured: Measured, subject: str = "") -> Check:
    return Check(id, Outcome.PASSED, measured, subject)


def failed(id: CheckId, *measured: Measured, subject: str = "") -> Check:
    return Check(id, Outcome.FAILED, measured, subject)


def judged(id: CheckId, ok: bool, *measured: Measured, subject: str = "") -> Check:
    """Passed or failed by what was measured."""
    return Check(id, Outcome.PASSED if ok else Outcome.FAILED, measured, subject)


def skipped(id: CheckId, setting: str, *measured: Measured, subject: str = "") -> Check:
    """``setting`` is the one that turned it off, as ``pipeline.toml`` writes it."""
    return Check(id, Outcome.SKIPPED, measured, subject, setting=setting)


def unknown(id: CheckId, because: Because, *measured: Measured, subject: str = "") -> Check:
    return Check(id, Outcome.UNKNOWN, measured, subject, because=because)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many checks came out how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    unknown: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Tally:
        counts = Counter(outcomes)
        return cls(*(counts[outcome] for outcome in Outcome))

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.skipped + self.unknown


REQUIRED_BY_DEFAULT = (
    "release.*",
    "pods.*",
    "health.*",
    "api.*",
    "queue.*",
    "logs.*",
    "backup.*",
    "rollback.*",
    "image.*",
    "migration.*",
)
"""What the upgrade plan's success criteria and its checklist name. ``team.notified``, which the
checklist names, too, is shown and not required: who hears of a change does not make it safe."""


REQUIRED_IN_REHEARSAL = ("rehearsal.*",)
"""Of a rehearsal, on top of what its target requires."""


def required(id: CheckId, globs: Sequence[str]) -> bool:
    """Whether ``globs`` require a check; the last that matches decides, and one that begins with
    ``!`` takes out."""
    found = False
    for glob in globs:
        if fnmatchcase(id.value, glob.removeprefix("!")):
            found = not glob.startswith("!")
    return found


def unmet(checks: Iterable[Check], globs: Sequence[str]) -> tuple[Check, ...]:
    """The required checks that are skipped or unknown: nothing may be promoted past them."""
    return tuple(
        check
        for check in checks
        if check.outcome in (Outcome.SKIPPED, Outcome.UNKNOWN) and required(check.id, globs)
    )


def sound(checks: Sequence[Check], globs: Sequence[str]) -> bool:
    """Whether at least one passed, none failed, and none that ``globs`` require is skipped or
    unknown."""
    some, none_failed = any(c.passed for c in checks), not any(c.failed for c in checks)
    return some and none_failed and not unmet(checks, globs)


# -- what became of a change -----------------------------------------------------------------------


class ChangeState(StrEnum):
    """Where a target stands after a run, as far as the run knows. Recorded when it changes, so that
    a run that was killed says it, too."""

    NONE = "none"
    """The run changes no target."""
    UNTOUCHED = "untouched"
    """Nothing was changed: refused, failed or ended before the change, or the change never began
    on the server."""
    UNDER_WAY = "under-way"
    """The change had begun, and nothing says how it ended."""
    PROMOTED = "promoted"
    ALREADY_SERVED = "already-served"
    ROLLED_BACK = "rolled-back"
    ROLLBACK_FAILED = "rollback-failed"


class CauseId(StrEnum):
    """Why a change failed, as far as it is known."""

    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"
    PODS_NOT_READY = "pods-not-ready"
    CONTAINER_CRASHED = "container-crashed"
    IMAGE_NOT_PULLED = "image-not-pulled"
    NOT_SCHEDULED = "not-scheduled"
    ADMISSION_REFUSED = "admission-refused"
    HELM_FAILED = "helm-failed"
    WRONG_DIGEST = "wrong-digest"
    HEALTH_FAILED = "health-failed"
    API_BROKEN = "api-broken"
    REQUESTS_LOST = "requests-lost"
    TASKS_LOST = "tasks-lost"
    QUEUE_NOT_AS_ASKED = "queue-not-as-asked"
    TESTS_FAILED = "tests-failed"
    SOAK_BREACHED = "soak-breached"
    REQUIRED_NOT_CHECKED = "required-not-checked"
    CLUSTER_UNREACHABLE = "cluster-unreachable"
    TIMED_OUT = "timed-out"


class DifferenceReason(StrEnum):
    """Why a field that an upgrade would change may change, or may not."""

    IMAGE = "image"
    TAG = "tag"
    """A label, an annotation or an environment value that holds the tag."""
    TAG_CHECKSUM = "tag-checksum"
    """A checksum of what the tag is in."""
    REVISION = "revision"
    """The number of the Helm revision inside a string."""
    CHART = "chart"
    """Of another chart, which was asked for."""
    NOT_FROM_IMAGE = "not-from-image"
    NOT_PROVEN_IMAGE = "not-proven-image"
    OTHER_IMAGE = "other-image"
    """An image that is not the release's would be replaced."""
    NOT_DETERMINISTIC = "not-deterministic"
    """Two renderings of the same upgrade differ."""
    CHART_OR_VALUES = "chart-or-values"
    """The chart or the values are not those of the live release."""
    OBJECT_FROM_TAG = "object-from-tag"
    """An object exists with one tag only."""
    ONE_SIDE_ONLY = "one-side-only"


class ProbePlace(StrEnum):
    """Where a prober sends its requests from, and by which way."""

    IN_CLUSTER = "in-cluster"
    API_PROXY = "api-proxy"
    EXTERNAL = "external"


class RehearsedStep(StrEnum):
    """What a rehearsal does to the release, in this order; the subject of each of its checks."""

    UPGRADE = "upgrade"
    REPEAT = "unchanged-upgrade"
    """An upgrade that changes nothing."""
    FAILURE = "failed-upgrade"
    RETURN = "return"
    """The rollback to the previous image."""


class Phase(StrEnum):
    """When a check was made."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"
    """On the live release, when nothing is being changed."""
    REHEARSAL = "rehearsal"
    TARGETS = "targets"
    """A check per target of several."""


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """The checks of one phase, in the order they were made."""

    phase: Phase
    checks: tuple[Check, ...]


# -- steps -----------------------------------------------------------------------------------------


class StepId(StrEnum):
    """Every step there is. As stable as :class:`CheckId`; titles are in :mod:`ci.texts`.

    Steps of one id that run at the same time, or are of different things, have a subject.
    """

    # A run.
    TOOLS = "tools"
    TOOL = "tool"
    """One of them; its subject is the tool's name."""
    RENDER_CHART = "render-chart"
    REMOVE_STALE_CLUSTERS = "remove-stale-clusters"
    BUILD_EMULATOR = "build-emulator"
    BUILD = "build"
    GATE_CLUSTER = "gate-cluster"
    LOOK_UP_TARGET = "look-up-target"
    STANDIN_CREDENTIALS = "standin-credentials"
    START_STANDINS = "start-standins"
    DEPLOY = "deploy"
    PROVE = "prove"
    ATTEST = "attest"
    VERIFY_EVIDENCE = "verify-evidence"
    REHEARSE = "rehearse"
    DELETE_GATE_CLUSTER = "delete-gate-cluster"
    APPROVE = "approve"
    PROMOTE = "promote"
    PROMOTE_TARGET = "promote-target"
    """To one of several targets, which is its subject."""
    VERIFY = "verify"
    ROLLBACK = "rollback"
    CLEAN_UP = "clean-up"
    # A promotion.
    CHECK_PROOF = "check-proof"
    FIND_RELEASE = "find-release"
    ACQUIRE_LEASE = "acquire-lease"
    RESOLVE_DIGEST = "resolve-digest"
    INSPECT_RELEASE = "inspect-release"
    VERIFY_SERVED = "verify-served"
    """What is to be promoted, or returned to, is served already."""
    START_PROBERS = "start-probers"
    BACK_UP = "back-up"
    PLAN = "plan"
    PREFLIGHT = "preflight"
    BASELINE_PROBE = "baseline-probe"
    RECHECK_RELEASE = "recheck-release"
    UPGRADE = "upgrade"
    VERIFY_DIGESTS = "verify-digests"
    CHECK_HEALTH = "check-health"
    TEST_TARGET = "test-target"
    SOAK = "soak"
    ACCOUNT_REQUESTS = "account-requests"
    # A rollback.
    CHOOSE_REVISION = "choose-revision"
    REACH_CLUSTER = "reach-cluster"
    COLLECT_DIAGNOSTICS = "collect-diagnostics"
    HELM_ROLLBACK = "helm-rollback"
    VERIFY_ROLLBACK = "verify-rollback"
    # A rehearsal.
    READ_RELEASE = "read-release"
    ADAPT_RELEASE = "adapt-release"
    INSTALL_RELEASE = "install-release"
    REHEARSAL_BASELINE = "rehearsal-baseline"
    REHEARSE_UPGRADE = "rehearse-upgrade"
    REHEARSE_REPEAT = "rehearse-repeat"
    REHEARSE_FAILURE = "rehearse-failure"
    REHEARSE_RETURN = "rehearse-return"
    # ``test``.
    SELF_TEST = "self-test"
    """One of the project's own checks, which is its subject."""


# -- what a run as a whole says --------------------------------------------------------------------


class VerdictId(StrEnum):
    """How a run ended, in one word of its own."""

    # Good.
    PROMOTED = "promoted"
    ALREADY_SERVED = "already-served"
    ALL_PROMOTED = "all-promoted"
    ALL_SERVED = "all-served"
    """Of several targets each serves the image, and none had to be changed."""
    BUILT = "built"
    PROVEN = "proven"
    REHEARSED = "rehearsed"
    APPROVED = "approved"
    VERIFIED = "verified"
    RETURNED = "returned"
    """A rollback that was asked for."""
    ALREADY_RETURNED = "already-returned"
    CHECKS_PASSED = "checks-passed"
    PASSED = "passed"
    # Not promoted, and nothing is wrong on the target.
    REFUSED = "refused"
    UPGRADE_NOT_BEGUN = "upgrade-not-begun"
    ROLLED_BACK = "rolled-back"
    FAILED_ROLLED_BACK = "failed-rolled-back"
    INTERRUPTED_ROLLED_BACK = "interrupted-rolled-back"
    UNFINISHED = "unfinished"
    UNFINISHED_PROMOTED = "unfinished-promoted"
    UNFINISHED_ROLLED_BACK = "unfinished-rolled-back"
    # Bad.
    NOT_PROVEN = "not-proven"
    NOT_PROMOTED_NOT_PROVEN = "not-promoted-not-proven"
    NOT_REHEARSED = "not-rehearsed"
    NOT_PROMOTED_NOT_REHEARSED = "not-promoted-not-rehearsed"
    NOT_PROMOTED = "not-promoted"
    NOT_EVERYWHERE = "not-everywhere"
    PROMOTED_NOT_VERIFIED = "promoted-not-verified"
    NOT_VERIFIED = "not-verified"
    CHECKS_FAILED = "checks-failed"
    FAILED = "failed"
    FAILED_PROMOTED = "failed-promoted"
    INTERRUPTED = "interrupted"
    INTERRUPTED_PROMOTED = "interrupted-promoted"
    # A person has to look at the target now.
    ROLLBACK_FAILED = "rollback-failed"
    RETURN_FAILED = "return-failed"
    """A rollback that was asked for failed."""
    FAILED_UNDER_WAY = "failed-under-way"
    INTERRUPTED_UNDER_WAY = "interrupted-under-way"
    UNFINISHED_UNDER_WAY = "unfinished-under-way"


class Tone(StrEnum):
    """How much a verdict asks of whoever reads it."""

    GOOD = "good"
    WARN = "warn"
    """Not promoted, and nothing is wrong on the target."""
    BAD = "bad"
    ALARM = "alarm"
    """A person has to look at the target now."""
