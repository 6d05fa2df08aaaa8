"""Settings: ``pipeline.toml`` over embedded defaults, frozen and checked before anything starts.

Every key has a default that makes the demonstration run; a real target is one
``[targets.NAME]`` block and is used only when it is named on the command line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ci import references
from ci.errors import SettingsError
from ci.references import (
    Command,
    EnvName,
    ExistingFile,
    ExistingFolder,
    Feature,
    Kind,
    Kubeconfig,
    Reference,
)
from ci.results import REQUIRED_BY_DEFAULT, CheckId

DEMO_TARGET = "launch"
"""The default target: a second kind cluster that the pipeline makes itself."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line chose."""

    target: str = DEMO_TARGET
    keep_cluster: bool = False
    approve: str = ""
    """Who approves the promotion, where the target asks for it."""
    chart_change: bool = False
    """Whether the chart may be another than the live one, on purpose."""
    force: bool = False
    """Whether an image that is served already is promoted all the same."""


Seconds = Annotated[int, Field(gt=0, le=7200)]
QUANTITY = r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]


class Block(BaseModel):
    """A block of ``pipeline.toml``: unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class ImageSettings(Block):
    """What is built."""

    context: ExistingFolder = Path("examples/model-engine")
    dockerfile: str = "Dockerfile"
    """Relative to ``context``."""
    name: Name = "model-engine"
    tag_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$")] = (
        "queue-timeout"
    )
    """Tags are ``PREFIX-YYYYMMDD-HHMMSS``."""
    build_args: dict[str, str] = Field(default_factory=dict)
    version_arg: str = "APP_VERSION"
    """Build argument that receives the tag, so that versions can be told apart."""


class ServiceSettings(Block):
    """The shape of the service, as the proof and the promotion see it."""

    gateway: Name = "model-engine"
    """Service and Deployment that answer HTTP."""
    port: int = 80
    health_paths: tuple[str, ...] = ("/health", "/healthz", "/readyz")
    deployments: tuple[Name, ...] = (
        "model-engine",
        "model-engine-endpoint-builder",
        "model-engine-cacher",
    )
    cacher: Name = "model-engine-cacher"
    """Deployment whose view is proven where it has replicas."""
    tag_value: str = "tag"
    """Helm value that holds the image tag."""
    repository_value: str = "image.repository"
    """Helm value that holds the image repository."""
    openapi_path: Annotated[str, Field(pattern=r"^(/[^\s]*)?$")] = "/openapi.json"
    """Where the service describes its API, which must stay compatible; empty: not compared."""

    @field_validator("health_paths")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"{path!r} does not begin with /")
        return paths


LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
CLOUD_NAME = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)+$"
SERVICE_NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?\.[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


class CloudSettings(Block):
    """Azure's own names, redirected to the stand-ins on clusters that the pipeline makes: for an
    image that connects to ``NAMESPACE.servicebus.windows.net`` with its pod's identity."""

    redirect: bool = False
    """Whether they are."""
    pods: Annotated[
        str, Field(pattern=rf"^{LABEL}(=({LABEL})?)?(,{LABEL}(=({LABEL})?)?)*$", max_length=500)
    ] = "azure.workload.identity/use=true"
    """Label selector of the pods that get an identity and trust the stand-ins' CA."""
    names: dict[
        Annotated[str, Field(pattern=CLOUD_NAME)], Annotated[str, Field(pattern=SERVICE_NAME)]
    ] = Field(default_factory=dict)
    """Further names (a star stands for one label), each with the ``SERVICE.NAMESPACE`` that answers
    to it."""


class GateSettings(Block):
    """The throwaway cluster and the release on it."""

    name: Name = "gate"
    chart: ExistingFolder = Path("examples/model-engine/chart")
    namespace: Name = "launch"
    release: Name = "launch-inference"
    values: dict[str, Any] = Field(default_factory=lambda: {"replicaCount": {"cacher": 1}})
    """Over the chart's own values. The cacher, which targets may scale down, is proven too."""
    deploy_timeout_seconds: Seconds = 180
    cloud: CloudSettings = CloudSettings()

    @field_validator("name")
    @classmethod
    def _no_target(cls, name: str) -> str:
        """The gate's cluster is removed and made anew, and what is not proven runs on it."""
        if name == DEMO_TARGET:
            raise ValueError(f"{name!r} is the demonstration target's cluster; choose another")
        return name


class ProveSettings(Block):
    """The end-to-end tests."""

    tests: ExistingFolder = Path("tests/e2e")
    workers: Annotated[int, Field(ge=1, le=32)] = 10
    timeout_seconds: Seconds = 600


class EvidenceSettings(Block):
    """Who signs what was proven, and what a promotion asks of it."""

    key_file: Annotated[
        ExistingFile | None, Reference(Kind.FILE, Feature.SIGN, instead="key_env")
    ] = None
    """Private key (PEM, Ed25519 or ECDSA P-256). Without it and ``key_env`` a key pair is made
    on first use under ``$PIPELINE_HOME/state/keys``."""
    key_env: Annotated[EnvName, Reference(Kind.VARIABLE, Feature.SIGN)] = ""
    """Environment variable that holds the private key's PEM; it goes before ``key_file``."""
    public_keys: tuple[ExistingFile, ...] = ()
    """Keys whose evidence is relied on; the signing key's own when empty. A machine that only
    promotes needs these and no private key."""
    approver_keys: tuple[ExistingFile, ...] = ()
    """Keys whose approvals count; ``public_keys`` when empty."""
    max_age_hours: Annotated[float, Field(gt=0, le=8760, strict=False)] = 24
    """Evidence older than this is refused: what surrounds an image changes, too."""
    require: tuple[str, ...] = ("*",)
    """Globs of cases that must have passed; a skipped one refuses, except after ``!``. The
    cacher has no replicas on the gate, as in the upgrade plan, so its case is excused."""


class BackupSettings(Block):
    """What is kept of a target before it is changed, beside the plan's backups without secrets."""

    recipients: tuple[Annotated[str, Field(pattern=r"^age1[0-9a-z]{58}$")], ...] = ()
    """Public keys of age whose holders may read the backups with their secrets
    (``backups.tar.age``); without any, secrets are left out everywhere."""

    @field_validator("recipients")
    @classmethod
    def _whole(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """A key that was typed wrong is to be known now, not when a promotion needs it."""
        if names:
            import pyrage  # is of no use to most runs

            for name in names:
                try:
                    pyrage.x25519.Recipient.from_str(name)
                except pyrage.RecipientError as problem:
                    raise ValueError(f"{name[:20]}… is no public key of age: {problem}") from None
        return names


class RehearsalSettings(Block):
    """A target's release, installed and changed on the gate cluster before the target is."""

    required: bool = False
    """Of every target that does not say otherwise; ``run`` then rehearses, too."""
    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """At most, of one component."""
    cpu: Annotated[str, Field(pattern=QUANTITY)] = "50m"
    """Requested by one container at most, as ``memory``."""
    memory: Annotated[str, Field(pattern=QUANTITY)] = "128Mi"
    values: dict[str, Any] = Field(default_factory=dict)
    """Over the live values: what leads to a cloud that the stand-ins replace, for example."""


class Login(Block):
    """How to log in to a target's registry: a program whose output is the password (ECR's is
    ``aws ecr get-login-password``), or an environment variable that holds it."""

    username: str = "AWS"
    password_command: Annotated[Command, Reference(Kind.COMMAND, instead="password_env")] = ()
    password_env: EnvName = ""


class Probing(Block):
    """Requests to a target's Service while its release is rolled out, and what is forgiven."""

    path: Annotated[str, Field(pattern=r"^/[^\s]*$")] = "/readyz"
    per_second: Annotated[float, Field(ge=0, le=500, strict=False)] = 20
    """0 turns the prober off."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60, strict=False)] = 5
    """Of one request; a later answer is a lost request."""
    inside: bool = True
    """From a pod of the image that serves, in the target's namespace; else, and where no such
    pod may be made, through the API server."""
    allowed_failures: Annotated[int, Field(ge=0)] = 0
    """Lost requests that do not fail the promotion, for a chart that does not drain."""
    outside_url: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$")] = ""
    """What is asked from this machine at the same time, for a service that has clients outside its
    cluster."""


class Query(Block):
    """A Prometheus query, and what its largest sample must not exceed."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    query: Annotated[str, Field(min_length=1)]
    limit: Annotated[float, Field(strict=False)]


class Gates(Block):
    """How much worse than the old version the new one may be in a soak; a breach rolls back."""

    error_percent: Annotated[float, Field(ge=0, le=100, strict=False)] = 1
    latency_factor: Annotated[float, Field(ge=1, strict=False)] = 3
    latency_slack_seconds: Annotated[float, Field(ge=0, strict=False)] = 0.25
    restarts: Annotated[int, Field(ge=0)] = 0
    prometheus_url: Annotated[str, Field(pattern=r"^(https?://[^\s@]+)?$")] = ""
    """Without credentials, which would end in logs: a token goes into an environment variable."""
    prometheus_token_env: Annotated[EnvName, Reference(Kind.VARIABLE, Feature.CHANGE)] = ""
    queries: tuple[Query, ...] = ()

    @model_validator(mode="after")
    def _asked_somewhere(self) -> Self:
        if self.queries and not self.prometheus_url:
            raise ValueError("queries need a prometheus_url")
        return self


class TargetSettings(Block):
    """A release to promote to. It is never used unless it is named."""

    kubeconfig: Kubeconfig
    context: str
    namespace: Name = "launch"
    release: Name = "launch-inference"
    chart: ExistingFolder = Path("examples/model-engine/chart")
    image_repository: str
    registry_login: Login | None = None
    timeout_seconds: Seconds = 600
    """Of ``helm upgrade --wait``; the upgrade plan's is ten minutes."""
    probing: Probing = Probing()
    soak_seconds: Annotated[int, Field(ge=0, le=86400)] = 0
    """How long the new version is watched before it is called promoted."""
    gates: Gates = Gates()
    pull_on_nodes: bool = True
    """Whether the target's nodes pull the image before the change."""
    try_surge: bool = True
    """Whether its scheduler has to find room for the pods that a rollout adds, before it."""
    allow_migrations: bool = False
    """Whether the chart may have hooks that migrate a database."""
    migration_command: Command = ()
    """Program that ends with another status than 0 when the image needs a database migration."""
    repository_values: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Helm values that hold the image repository, where a chart has several;
    ``service.repository_value`` when empty."""
    rehearsal: bool | None = None
    """Whether an image needs a passed rehearsal; ``rehearsal.required`` when left out."""
    approval: bool = False
    """Whether a person has to approve each image before it is promoted there."""
    servicebus_connection_string_env: Annotated[
        EnvName, Reference(Kind.VARIABLE, Feature.CHANGE)
    ] = ""
    """Environment variable with a connection string, for the canary queue and the end-to-end
    tests on this target."""
    canary_per_second: Annotated[float, Field(ge=0, le=50, strict=False)] = 2
    """Tasks through a canary queue during the change; 0 sends none."""
    require: tuple[str, ...] = REQUIRED_BY_DEFAULT
    """Globs over check ids; ``!`` takes out, the last that matches decides. A required check that
    is skipped or has no answer refuses the change, or rolls it back."""

    @field_validator("require")
    @classmethod
    def _of_checks(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        """One that names no check would require nothing, and nobody would see it."""
        known = [id.value for id in CheckId]
        for glob in globs:
            name = glob.removeprefix("!")
            if not any(fnmatchcase(id, name) for id in known):
                families = dict.fromkeys(f"{id.partition('.')[0]}.*" for id in known)
                near = get_close_matches(name, [*known, *families], n=3, cutoff=0.0)
                raise ValueError(f"{glob!r} matches no check; the nearest are {', '.join(near)}")
        return globs


Occasion = Literal["start", "success", "failure", "rollback"]


class Notify(Block):
    """Somebody who is notified of promotions, by an apprise URL. URLs hold tokens, so that none
    stands in a file: an environment variable holds it, or a program prints it."""

    url_env: EnvName = ""
    url_command: Command = ()
    on: tuple[Occasion, ...] = ("start", "success", "failure", "rollback")

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if bool(self.url_env) == bool(self.url_command):
            raise ValueError("give url_env or url_command")
        return self


class Wave(Block):
    """Targets that are promoted together: each inner list is a wave, and the next wave begins
    when the one before is promoted whole."""

    order: Annotated[
        tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...], Field(min_length=1)
    ]
    at_once: Annotated[int, Field(ge=1, le=16)] = 1
    """Targets of one wave that are promoted at the same time."""


class Settings(Block):
    """All of ``pipeline.toml``."""

    image: ImageSettings = ImageSettings()
    service: ServiceSettings = ServiceSettings()
    gate: GateSettings = GateSettings()
    prove: ProveSettings = ProveSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    backups: BackupSettings = BackupSettings()
    rehearsal: RehearsalSettings = RehearsalSettings()
    notify: tuple[Notify, ...] = ()
    targets: dict[str, TargetSettings] = Field(default_factory=dict)
    waves: dict[str, Wave] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _waves_of_targets(self) -> Self:
        for name, wave in self.waves.items():
            if name in (DEMO_TARGET, *self.targets):
                raise ValueError(f"waves.{name} has the name of a target")
            for target in (target for each in wave.order for target in each):
                if target not in (DEMO_TARGET, *self.targets):
                    raise ValueError(f"waves.{name} names {target!r}, which is no target")
        return self

    @field_validator("targets")
    @classmethod
    def _names(cls, targets: dict[str, TargetSettings]) -> dict[str, TargetSettings]:
        for name in targets:
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
                raise ValueError(f"{name!r} is not a target name (lower case, digits, dashes)")
            if name == DEMO_TARGET:
                raise ValueError(f"{name!r} is the built-in demonstration target; choose another")
        return targets


RENAMED: Mapping[tuple[str, ...], str] = {("gate", "cloud", "lead"): "redirect"}
"""Keys that have another name since the version before; they go with the next one."""


def load(path: Path, *, renamed: Callable[[str, str], None] = lambda old, new: None) -> Settings:
    """Settings from ``path``; the embedded defaults when there is no such file. ``renamed`` is
    called for each key that is written with its old name, with both names.

    Raises :class:`ci.errors.SettingsError` naming the file, the key and what is wrong with it.
    """
    if not path.exists():
        return Settings()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{path.name} is not TOML: {problem}") from problem
    return parse(_tuples(raw), origin=path.name, renamed=renamed)


def parse(
    raw: dict[str, Any],
    *,
    origin: str,
    renamed: Callable[[str, str], None] = lambda old, new: None,
) -> Settings:
    """Settings from a mapping; ``origin`` names it in errors. ``renamed`` as for :func:`load`."""
    for old, name in RENAMED.items():
        raw = _with_new_name(raw, old, name, origin, renamed)
    try:
        return Settings.model_validate(raw)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        reason = {
            "extra_forbidden": "is not a key here",
            "missing": "is missing",
        }.get(first["type"], first["msg"])
        more = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
        remedy = references.REMEDY_SECRET if first["type"] == references.SECRET else None
        raise SettingsError(f"{origin}: {key}: {reason}{more}", remedy=remedy) from problem


@dataclass(frozen=True, slots=True)
class Uses:
    """What a command uses of the settings: the blocks (``*`` stands for each of its targets), and
    what it does with them."""

    blocks: tuple[str, ...]
    features: frozenset[Feature] = frozenset()


PROVING = ("image", "gate", "prove", "evidence")
LOOKING = Uses(("targets.*.kubeconfig",))
"""No more: whoever has to return a target to its old image at night needs no token for that."""
USES: Mapping[str, Uses] = {
    "run": Uses((*PROVING, "notify", "targets.*"), frozenset(Feature)),
    "build": Uses(("image",)),
    "prove": Uses(PROVING, frozenset({Feature.SIGN})),
    "promote": Uses(("evidence", "notify", "targets.*"), frozenset({Feature.CHANGE})),
    "rehearse": Uses(("gate", "prove", "evidence", "targets.*"), frozenset({Feature.SIGN})),
    "plan": Uses(("evidence", "targets.*")),
    "approve": Uses(("evidence", "targets.*"), frozenset({Feature.SIGN})),
    "verify": LOOKING,
    "status": LOOKING,
    "rollback": LOOKING,
}
"""By command."""


def check_references(
    settings: Settings,
    command: str,
    targets: Sequence[str],
    *,
    signs: bool = False,
    env: Mapping[str, str],
    root: Path,
) -> None:
    """Whether every variable, program and file is there that ``command`` on ``targets`` (names of
    targets or waves) will ask for; ``signs``: it signs though the command as such does not.

    Raises :class:`ci.errors.SettingsError` and, for a kubeconfig,
    :class:`ci.errors.TargetNotFound`. A target that no block describes is not looked at.
    """
    uses = USES[command]
    named = [each for name in targets for each in members(settings, name)]
    used = {block for block in uses.blocks if "*" not in block}
    for block in (block for block in uses.blocks if "*" in block):
        used |= {block.replace("*", name) for name in named}
        if block == "targets.*" and DEMO_TARGET in named:
            used.add("gate.chart")
    features = uses.features
    if signs or not settings.evidence.public_keys:
        features |= {Feature.SIGN}  # without them, the signing key's own evidence is relied on
    references.check(settings, used, features, env=env, root=root)


def members(settings: Settings, name: str) -> tuple[str, ...]:
    """The targets of a wave by its name; of a target, itself."""
    wave = settings.waves.get(name)
    return tuple(target for each in wave.order for target in each) if wave else (name,)


def _with_new_name(
    raw: dict[str, Any],
    old: tuple[str, ...],
    name: str,
    origin: str,
    renamed: Callable[[str, str], None],
) -> dict[str, Any]:
    """A copy with ``old`` under its new ``name``; ``raw`` itself where it does not say ``old``."""
    first, *rest = old
    if first not in raw:
        return raw
    if rest:
        inner = raw[first]
        if not isinstance(inner, dict):
            return raw

        def outer(old: str, new: str) -> None:
            renamed(f"{first}.{old}", f"{first}.{new}")

        return {**raw, first: _with_new_name(inner, tuple(rest), name, origin, outer)}
    if name in raw:
        raise SettingsError(
            f"{origin}: {first} is the old name of {name}, and both are given",
            remedy=f"remove {first}",
        )
    renamed(first, name)
    return {**{key: value for key, value in raw.items() if key != first}, name: raw[first]}


def _tuples(value: Any) -> Any:
    """TOML arrays as tuples, which strict validation wants for frozen sequences."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
