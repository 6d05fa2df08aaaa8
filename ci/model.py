"""The frozen values that stages hand to each other.

A stage takes the values it needs and returns the one it makes, so a wrong order is a type
error: only :mod:`ci.stages.prove` makes a :class:`Proof`, and only a passing one is promoted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from ci.digest import Digest
from ci.results import (
    REQUIRED_BY_DEFAULT,
    REQUIRED_IN_REHEARSAL,
    CauseId,
    ChangeState,
    ChartRef,
    Check,
    CheckGroup,
    DifferenceReason,
    ImageRef,
    Outcome,
    ProbePlace,
    Requests,
    StepId,
    sound,
    unmet,
)
from ci.settings import Gates, Login, Probing

SCHEMA_VERSION = 1
"""Of every JSON file that a run leaves. It is raised when a reader of the version before would
read something else than what is meant; a property that is added does not raise it."""


@dataclass(frozen=True, slots=True)
class Image:
    """An OCI image in a registry: named by its tag, identified by its digest."""

    repository: str
    """Registry and name without tag, for example ``gate-registry:5000/model-engine``."""
    tag: str
    digest: Digest

    @property
    def by_digest(self) -> str:
        return f"{self.repository}@{self.digest}"

    @property
    def by_tag(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Registry:
    """The local registry: one name for the engine and the nodes, one address for this host."""

    name: str
    """Host and port as image references use it, for example ``gate-registry:5000``."""
    host_url: str
    """Where this host reaches it, for example ``http://127.0.0.1:5001``."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything the toolchain obtained, at its pinned versions."""

    docker: Path
    dagger: Path
    kind: Path
    helm: Path
    kubectl: Path
    node_image: str
    """The kind node image, as the Docker daemon names it."""
    node_brings_cni: bool
    """True when the node image has its own pod network, so that kind installs none."""
    runner_host: str
    """Value for ``_EXPERIMENTAL_DAGGER_RUNNER_HOST``, for example ``docker-container://NAME``."""
    registry: Registry
    postgres_image: str
    redis_image: str
    """Stand-in images, as cluster nodes pull them."""
    node_certs_dir: Path
    """Folder to mount at ``/etc/containerd/certs.d`` in nodes (hosts.toml of the registry)."""
    kubelet_patch: str
    """YAML of a KubeletConfiguration patch this host needs, or ``""``."""
    versions: tuple[tuple[str, str], ...] = ()
    """(tool, version) pairs, for the report."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Kubernetes cluster, always named by kubeconfig and context, never the ambient ones."""

    name: str
    kubeconfig: Path
    context: str
    disposable: bool
    """True only for clusters the pipeline made itself; stand-ins go nowhere else."""


@dataclass(frozen=True, slots=True)
class ServiceBusAccess:
    """How clients inside and outside a cluster reach its Service Bus namespace."""

    connection_string: str
    """For pods: AMQP and administration under one host."""
    ca_pem: bytes
    """CA certificate of the administration endpoint; empty for a real namespace."""
    key: str
    """Shared access key, a secret."""


@dataclass(frozen=True, slots=True)
class ServiceBusEndpoints:
    """How this machine reaches a Service Bus namespace."""

    amqp: str
    """Connection string, a secret."""
    admin: str
    """The same for administration."""
    ca_pem: bytes = b""
    """CA certificate of the administration endpoint; empty for a real namespace."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """The stand-ins for the cloud in a disposable cluster."""

    cluster: Cluster
    namespace: str
    servicebus: ServiceBusAccess
    database_url: str
    redis_url: str


@dataclass(frozen=True, slots=True)
class Release:
    """A Helm release on a cluster that serves an image."""

    cluster: Cluster
    namespace: str
    name: str
    revision: int
    image: Image


@dataclass(frozen=True, slots=True)
class Case:
    """One end-to-end test case."""

    name: str
    outcome: Outcome
    seconds: float
    message: str = ""
    """Why it failed or was skipped; of one that passed what it measured, if anything."""
    shows: tuple[str, ...] = ()
    """Ids of the checks that it shows, as the case itself says; also such as this version does not
    know."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What was tested, of which digest, with which result."""

    image: Image
    cases: tuple[Case, ...]
    junit: Path
    finished: datetime
    started: datetime | None = None
    api: str = ""
    """How the image describes its API (OpenAPI, as JSON); empty where it does not."""

    @property
    def failed(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.outcome is Outcome.FAILED)

    @property
    def passed(self) -> bool:
        """True when at least one case passed and none failed."""
        return not self.failed and any(c.outcome is Outcome.PASSED for c in self.cases)


@dataclass(frozen=True, slots=True)
class Promotion:
    """A finished promotion: from which image and revision to which."""

    target: str
    before: Image
    after: Image
    from_revision: int
    to_revision: int
    backups: Path | None
    """``None`` where nothing was changed."""
    groups: tuple[CheckGroup, ...]
    state: ChangeState = ChangeState.PROMOTED
    """``PROMOTED``, or ``ALREADY_SERVED``: verified, and nothing was changed."""

    @property
    def changed(self) -> bool:
        return self.state is not ChangeState.ALREADY_SERVED

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for group in self.groups for check in group.checks)


@dataclass(frozen=True, slots=True)
class Served:
    """What a revision of a release serves."""

    revision: int
    image: Image
    """Of the gateway; its digest is empty where nobody knows it."""
    chart: str
    """Name and version."""

    def __str__(self) -> str:
        digest = self.image.digest or "digest unknown"
        return f"{self.image.by_tag} ({digest}), chart {self.chart}"


@dataclass(frozen=True, slots=True)
class Changed:
    """One thing that differs between two revisions, secrets left out."""

    what: str
    """A Helm value by its dotted name, or a container as ``KIND/NAME/CONTAINER``."""
    before: str
    after: str


class RollbackOutcome(StrEnum):
    PLANNED = "planned"
    """Shown, and nothing was done."""
    ALREADY_THERE = "already there"
    """The release serves it already: verified, and nothing was done."""
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True)
class Rollback:
    """A way back: from what a release serves to what an earlier revision served."""

    target: str
    before: Served
    after: Served
    """Its revision is the one that is returned to."""
    values: tuple[Changed, ...]
    images: tuple[Changed, ...]
    """Of containers that run another image than the gateway's."""
    outcome: RollbackOutcome = RollbackOutcome.PLANNED
    revision: int = 0
    """The one that is deployed at the end; 0 while it is only planned."""

    @property
    def lines(self) -> tuple[str, ...]:
        """From what to what, a line per difference."""
        return (
            f"from revision {self.before.revision}: {self.before}",
            f"to   revision {self.after.revision}: {self.after}",
            *(f"     {c.what}: {c.before} -> {c.after}" for c in (*self.images, *self.values)),
        )


@dataclass(frozen=True, slots=True)
class ReleaseState:
    """What a target's release is at a moment. Revisions alone do not tell: another release, or
    one that was installed anew, has the same numbers."""

    revision: int
    """That its chart and values are of."""
    digest: Digest
    """Of the image that its pods run."""
    values: str
    """SHA-256 of its values in hexadecimal, secrets left out."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A change as it went on the gate cluster, before its target sees it."""

    target: str
    """Whose live release was rehearsed."""
    image: Image
    before: Image
    """What the target serves."""
    state: ReleaseState
    """Of the target's release: what was rehearsed, and nothing else."""
    checks: tuple[Check, ...]
    """The subject of each is the rehearsed step."""
    changes: tuple[str, ...]
    """What is otherwise than on the target, secrets left out."""
    finished: datetime
    require: tuple[str, ...] = (*REQUIRED_BY_DEFAULT, *REQUIRED_IN_REHEARSAL)
    """Globs of the checks that must not be skipped or unknown."""

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.failed)

    @property
    def unmet(self) -> tuple[Check, ...]:
        """Required, and skipped or unknown."""
        return unmet(self.checks, self.require)

    @property
    def passed(self) -> bool:
        """True when at least one check passed, none failed, and none that is required is skipped
        or unknown."""
        return sound(self.checks, self.require)


@dataclass(frozen=True, slots=True)
class Target:
    """A release to promote to, with the shape of its service as the promotion sees it."""

    name: str
    cluster: Cluster
    namespace: str
    release: str
    chart: Path
    image_repository: str
    timeout_seconds: int = 600
    """Of ``helm upgrade --wait``."""
    gateway: str = "model-engine"
    """Service and Deployment that answer HTTP."""
    port: int = 80
    health_paths: tuple[str, ...] = ("/health", "/healthz", "/readyz")
    deployments: tuple[str, ...] = ()
    """Every Deployment that runs the image; those of the release when empty."""
    chart_change: bool = False
    """Whether the chart may be another than the live one, on purpose."""
    tag_value: str = "tag"
    repository_values: tuple[str, ...] = ("image.repository",)
    """Helm values that hold the image tag and the image repository."""
    login: Login | None = None
    probing: Probing = field(default_factory=Probing)
    soak_seconds: int = 0
    """How long the new version is watched by ``gates`` before it is called promoted."""
    gates: Gates = field(default_factory=Gates)
    servicebus_env: str = ""
    """Environment variable with a connection string of the release's Service Bus."""
    canary_per_second: float = 2.0
    """Tasks through a canary queue during the change; 0 sends none."""
    pull_on_nodes: bool = True
    """Whether the nodes pull the image before the change."""
    try_surge: bool = True
    """Whether the scheduler is asked for room before the change."""
    allow_migrations: bool = False
    """Whether the chart may migrate a database at an upgrade."""
    rehearsal: bool = False
    """Whether nothing is promoted that was not rehearsed with the target's release."""
    approval: bool = False
    """Whether a person has to approve an image."""
    migration_command: tuple[str, ...] = ()
    """Ends with another status than 0 when the image needs a database migration."""
    openapi_path: str = "/openapi.json"
    """Where the service describes its API; not compared when empty or not there."""
    require: tuple[str, ...] = REQUIRED_BY_DEFAULT
    """Globs over :class:`ci.results.CheckId`: a check that they require and that was skipped or
    had no answer refuses the change, or rolls it back (:func:`ci.results.required`)."""
    standins: StandIns | None = None
    """Of a target the pipeline made itself."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One line of ``helm history``."""

    number: int
    status: str
    chart: str
    description: str


@dataclass(frozen=True, slots=True)
class DeploymentRow:
    name: str
    image: str
    desired: int
    updated: int
    available: int


@dataclass(frozen=True, slots=True)
class PodRow:
    name: str
    phase: str
    """The phase, or what keeps it from running."""
    ready: bool
    restarts: int
    image: str
    digest: Digest
    """:data:`ci.digest.UNKNOWN` until a container has started."""
    started: datetime | None


@dataclass(frozen=True, slots=True)
class Status:
    """What a target runs."""

    target: str
    release: str
    namespace: str
    history: tuple[Revision, ...]
    deployments: tuple[DeploymentRow, ...]
    pods: tuple[PodRow, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command made, for the closing summary."""

    image: Image | None = None
    proof: Proof | None = None
    promotion: Promotion | None = None
    groups: tuple[CheckGroup, ...] = ()
    """Beside those of the promotion: of the live release, of a rehearsal, of several targets."""
    rollback: Rollback | None = None


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What ``pipeline.py test`` ran."""

    cases: tuple[Case, ...]
    """Of every check; a check without cases of its own counts as one."""
    outputs: tuple[tuple[str, str], ...] = ()
    """(check, what its program printed last) of each check that failed."""
    matrix: str = ""
    """The table of the failure matrix, as Markdown; empty where it did not run."""

    @property
    def passed(self) -> bool:
        """True when no case failed and none is unknown."""
        fine = (Outcome.PASSED, Outcome.SKIPPED)
        return all(case.outcome in fine for case in self.cases)


# -- what a run leaves: each of these is a JSON file, described by docs/schemas --------------------


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run, as the closing summary and the report show it."""

    id: StepId
    seconds: float
    outcome: Outcome
    subject: str = ""
    parent: StepId | None = None
    """The step it is part of, if any."""


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """Where a target stands, as far as the run knows. What is not known is ``None``."""

    target: str
    state: ChangeState
    release: str = ""
    before: ImageRef | None = None
    after: ImageRef | None = None
    """What the change was to make of it; what it serves is ``state``'s to say."""
    from_revision: int | None = None
    to_revision: int | None = None
    live_revision: int | None = None
    """The deployed one, when the state was recorded."""
    cause: CauseId | None = None
    """Why the change failed."""
    problem: str = ""
    """The same in the words of the program or API that said it."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """``summary.json``: a finished run as data. Everything that is shown of it is made of this."""

    id: str
    command: str
    outcome: Outcome
    exit_code: int
    started: datetime
    seconds: float
    steps: tuple[StepRecord, ...]
    folder: Path
    image: Image | None = None
    cases: tuple[Case, ...] = ()
    promotion: Promotion | None = None
    groups: tuple[CheckGroup, ...] = ()
    """Every check of the run, those of the promotion included."""
    change: ChangeRecord | None = None
    """``None`` when the run had not come to a target, or changes none."""
    rollback: Rollback | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """(tool, version) pairs."""
    error: str = ""
    remedy: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for group in self.groups for check in group.checks)


@dataclass(frozen=True, slots=True)
class ChecksRecord:
    """``checks.json``: every check of a run."""

    groups: tuple[CheckGroup, ...]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that an upgrade would change; secrets are left out."""

    object: str
    """``KIND/NAME``, for example ``Deployment/model-engine``."""
    path: str
    """For example ``spec.template.spec.containers[model-engine].image``; empty for the whole."""
    before: str
    after: str
    allowed: bool
    reason: DifferenceReason
    hook: bool = False
    """Whether the object is a Helm hook."""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """``plan.json``: every difference that an upgrade would make."""

    before: ImageRef
    after: ImageRef
    from_revision: int
    to_revision: int
    differences: tuple[Difference, ...]
    chart: ChartRef | None = None
    """Where the chart is changed on purpose."""
    schema_version: int = SCHEMA_VERSION

    @property
    def refused(self) -> tuple[Difference, ...]:
        return tuple(d for d in self.differences if not d.allowed)

    @property
    def allowed(self) -> tuple[Difference, ...]:
        return tuple(d for d in self.differences if d.allowed)


@dataclass(frozen=True, slots=True)
class Preview:
    """What ``plan`` found out, without changing anything."""

    plan: PlanRecord
    checks: tuple[Check, ...] = ()
    """What else was asked of the target."""
    target: str = ""
    unmet: tuple[Check, ...] = ()
    """Checks that the target requires and that were not made, or will not be: the promotion would
    be refused for them."""


@dataclass(frozen=True, slots=True)
class ProbeBucket:
    """The requests of one bucket of time. A request counts where it was sent."""

    at_seconds: float
    """When the bucket begins, since the run began."""
    sent: int
    answered: int
    failed: int
    slowest_seconds: float
    """Of the answers; 0 where there was none."""


@dataclass(frozen=True, slots=True)
class ProbeSeries:
    """What one prober sent and got, over time and in all."""

    place: ProbePlace
    final: Requests | None
    """``None`` when the prober was lost."""
    buckets: tuple[ProbeBucket, ...]
    """In the order of time; a time without requests has none."""
    bucket_seconds: float = 1.0
    url: str = ""
    """Of a prober outside the cluster, without credentials and query."""


@dataclass(frozen=True, slots=True)
class ProbesRecord:
    """``probes.json``: the requests that were sent while a release was changed."""

    series: tuple[ProbeSeries, ...]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class BackupsRecord:
    """``backups/backups.json``: what the backups are of, and what they return to."""

    target: str
    release: str
    namespace: str
    context: str
    """The kubeconfig context."""
    revision: int
    image: ImageRef
    written: datetime
    files: tuple[str, ...]
    """Names in the same folder."""
    schema_version: int = SCHEMA_VERSION
