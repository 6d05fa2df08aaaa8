"""The backups of the upgrade plan, as texts. Pure: what is recorded is passed in.

Secret values are left out of every file: a rollback needs none of them, because Helm and the
cluster keep their own, and the files may end as build artefacts. Where people are named who may
read them, all of it is kept once more, encrypted for these (https://age-encryption.org/v1).
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import yaml

from ci import redaction
from ci.model import BackupsRecord
from ci.promotion.release.baseline import Before
from ci.promotion.release.session import TargetSession
from ci.report import files
from ci.results import Check, CheckId, ImageRef, Names, RevisionRef, Unit, passed
from ci.run_folder import RunFolder

SCRIPT = "quick-rollback.sh"
_SCRIPT = Path(__file__).parent / SCRIPT

_LIVE_ONLY = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
)


Clean = Callable[..., Any]
"""Takes a decoded tree (and the name of what it is the value of), as :func:`redaction.tree`."""


@dataclass(frozen=True, slots=True)
class File:
    name: str
    text: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The target as it was before the change."""

    kubeconfig: str
    context: str
    namespace: str
    release: str
    revision: int
    timeout_seconds: int
    date: str
    """ISO 8601, UTC."""
    values: Mapping[str, Any]
    """User-supplied values of the release."""
    deployments: Mapping[str, Mapping[str, Any]]
    """The release's Deployments, live, by name."""
    gateway: str
    image: str
    """Of the gateway, by tag."""
    digest: str


def make(recorded: Recorded, *, clean: Clean = redaction.tree) -> tuple[File, ...]:
    """Every backup, named exactly as in the upgrade plan, without what ``clean`` leaves out."""
    made = [File("helm-values-backup.yaml", _values(recorded, clean))]
    for name, deployment in recorded.deployments.items():
        short = _short(recorded.gateway, name)
        made.append(File(f"{short}-deployment-backup.yaml", _manifest(deployment, clean)))
    made += [
        File("current-image.txt", _images_text(recorded)),
        File("health-checks.txt", _health_checks(recorded, clean)),
        File("current-env-vars.txt", _env_vars(recorded, clean)),
        File(SCRIPT, quick_rollback(recorded), executable=True),
    ]
    return tuple(made)


def sealed(recorded: Recorded, recipients: Sequence[str]) -> bytes:
    """Every backup with its secrets, as a tar archive that only ``recipients`` (``age1…``) can
    read: ``age --decrypt --identity KEY backups.tar.age | tar --extract``."""
    keys = [pyrage.x25519.Recipient.from_str(name) for name in recipients]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for file in make(recorded, clean=as_it_is):
            content = file.text.encode()
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = len(content), 0o700 if file.executable else 0o600
            archive.addfile(entry, io.BytesIO(content))
    return pyrage.encrypt(packed.getvalue(), keys)


def as_it_is(value: Any, *, name: str = "") -> Any:
    """Leaves nothing out."""
    return value


def _short(gateway: str, name: str) -> str:
    """``model-engine`` stays; ``model-engine-endpoint-builder`` is ``endpoint-builder``."""
    return name.removeprefix(f"{gateway}-") if name != gateway else name


def _values(recorded: Recorded, clean: Clean) -> str:
    values = dict(recorded.values)
    shown = clean(values)
    left_out = " Secret values are left out." if shown != values else ""
    head = (
        f"# User-supplied values of {recorded.release}, revision {recorded.revision},"
        f" {recorded.date}.{left_out}\n"
    )
    return head + _yaml(shown)


def _manifest(deployment: Mapping[str, Any], clean: Clean) -> str:
    kept = {key: value for key, value in deployment.items() if key != "status"}
    kept["metadata"] = {k: v for k, v in kept["metadata"].items() if k not in _LIVE_ONLY}
    shown = clean(kept)
    note = "" if shown == kept else "# Secret values are left out: fill them in before applying.\n"
    return note + _yaml(shown)


def images(recorded: Recorded) -> dict[str, dict[str, str]]:
    """Image of every container of every Deployment, init containers included."""
    return {
        name: {
            c["name"]: c["image"]
            for group in ("initContainers", "containers")
            for c in deployment["spec"]["template"]["spec"].get(group) or []
        }
        for name, deployment in recorded.deployments.items()
    }


def _images_text(recorded: Recorded) -> str:
    lines = [recorded.image, f"digest {recorded.digest or 'unknown: no pod was running'}"]
    lines += [
        f"{name}/{container} {image}"
        for name, containers in images(recorded).items()
        for container, image in containers.items()
    ]
    return "\n".join(lines) + "\n"


def _health_checks(recorded: Recorded, clean: Clean) -> str:
    probes: dict[str, Any] = {}
    for name, deployment in recorded.deployments.items():
        for container in deployment["spec"]["template"]["spec"].get("containers") or []:
            found = {
                key: container[key]
                for key in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
                if key in container
            }
            probes[f"{name}/{container['name']}"] = found
    return _yaml(clean(probes))


def _env_vars(recorded: Recorded, clean: Clean) -> str:
    lines: list[str] = []
    for name, deployment in recorded.deployments.items():
        for container in deployment["spec"]["template"]["spec"].get("containers") or []:
            lines.append(f"# {name}/{container['name']}")
            for entry in container.get("env") or []:
                if "valueFrom" in entry:
                    source = yaml.safe_dump(
                        entry["valueFrom"], default_flow_style=True, width=10_000
                    )
                    lines.append(f"{entry['name']} from {source.strip()}")
                else:
                    value = clean(str(entry.get("value", "")), name=entry["name"])
                    lines.append(f"{entry['name']}={value}")
            for source in container.get("envFrom") or []:
                flow = yaml.safe_dump(source, default_flow_style=True, width=10_000)
                lines.append(f"all of {flow.strip()}")
    return "\n".join(lines) + "\n"


def quick_rollback(recorded: Recorded) -> str:
    """The rollback script: POSIX sh, for a machine that has only helm or kubectl."""
    by_deployment = images(recorded)
    set_images = [
        "        with_kubectl set image "
        + " ".join(
            shlex.quote(word)
            for word in (f"deployment/{name}", *(f"{c}={i}" for c, i in containers.items()))
        )
        for name, containers in by_deployment.items()
    ]
    rollouts = [
        f"        with_kubectl rollout status {shlex.quote(f'deployment/{name}')}"
        ' --timeout "${timeout}s"'
        for name in by_deployment
    ]
    served = "\n".join(
        f"  {name}/{container}  {image}"
        for name, containers in by_deployment.items()
        for container, image in containers.items()
    )
    plain = {
        "DATE": recorded.date,
        "RELEASE": recorded.release,
        "NAMESPACE": recorded.namespace,
        "CONTEXT": recorded.context,
        "KUBECONFIG": recorded.kubeconfig,
        "REVISION": str(recorded.revision),
        "DIGEST": recorded.digest or "unknown",
        "TIMEOUT": str(recorded.timeout_seconds),
        "IMAGES_TEXT": served,
        "GOAL": f"to revision {recorded.revision}, recorded on {recorded.date}, whose gateway runs"
        f" {recorded.digest or 'an unknown digest'}:\n{served}",
        "SET_IMAGES": "\n".join(set_images) or "        :",
        "ROLLOUTS": "\n".join(rollouts) or "        :",
    }
    quoted = {
        f"Q_{key}": shlex.quote(plain[key])
        for key in ("RELEASE", "NAMESPACE", "CONTEXT", "KUBECONFIG", "GOAL")
    }
    script = _SCRIPT.read_text(encoding="utf-8")
    for key, value in {**plain, **quoted}.items():
        script = script.replace(f"@{key}@", value)
    return script


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=10_000)


def back_up(session: TargetSession, before: Before, folder: Path) -> tuple[Check, ...]:
    """Write the plan's backups, for this user only, and try the rollback script's dry run. Raises
    :class:`ci.errors.CommandFailed` when the script does not work."""
    target, now = session.target, datetime.now(UTC)
    recorded = _recorded(session, before, now)
    into = RunFolder(folder, session.programs.redactor)
    if recipients := session.settings.backups.recipients:
        into.verbatim("backups.tar.age", sealed(recorded, recipients))
    # Redacted as trees already: as texts they have to stay what kubectl and helm read.
    for file in make(recorded, clean=session.programs.redactor.tree):
        into.verbatim(file.name, file.text.encode(), executable=file.executable)
    written = tuple(sorted(path.name for path in folder.iterdir()))
    image = ImageRef(before.image.repository, before.image.tag, before.image.digest)
    described = BackupsRecord(
        target=target.name,
        release=target.release,
        namespace=target.namespace,
        context=target.cluster.context,
        revision=before.revision.number,
        image=image,
        written=now,
        files=written,
    )
    files.write(session.folder, described)
    _try_script(session, folder / SCRIPT)
    session.events.note(f"backups in {folder}; {SCRIPT} tried with --dry-run")
    return (
        passed(CheckId.BACKUP_CREATED, Names(Unit.FILES, written, len(written))),
        passed(
            CheckId.ROLLBACK_PREPARED,
            RevisionRef(before.revision.number, "", before.revision.chart),
            image,
        ),
    )


def _recorded(session: TargetSession, before: Before, now: datetime) -> Recorded:
    target = session.target
    return Recorded(
        kubeconfig=str(target.cluster.kubeconfig.resolve()),
        context=target.cluster.context,
        namespace=target.namespace,
        release=target.release,
        revision=before.revision.number,
        timeout_seconds=target.timeout_seconds,
        date=now.isoformat(timespec="seconds"),
        values=before.values,
        deployments={n: before.snapshot.deployments[n] for n in before.deployments},
        gateway=target.gateway,
        image=before.image.by_tag,
        digest=before.image.digest,
    )


def _try_script(session: TargetSession, script: Path) -> None:
    tried = (["--help"], ["--dry-run", "--with", "helm"], ["--dry-run", "--with", "kubectl"])
    with ThreadPoolExecutor(max_workers=len(tried), thread_name_prefix="rollback") as pool:
        for ended in [
            pool.submit(
                session.programs.run, ["sh", str(script), *words], log="quick-rollback", timeout=20
            )
            for words in tried
        ]:
            ended.result()
