"""Proof -> signed evidence, attached to the image in its registry; and back, from any machine.

What ``promote`` takes is never remembered here: it is read from the registry by digest, and
judged by :mod:`ci.evidence.rules`, also when this very run proved it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ci import texts
from ci.digest import Digest
from ci.errors import EvidenceRefused
from ci.evidence import dsse, keys, packing, rules, statement
from ci.evidence.rules import Accepted, Policy, Wanted
from ci.evidence.statement import Approval, Rehearsed, Subject, TestResult
from ci.model import Image, Proof, Rehearsal, ReleaseState
from ci.results import Tally
from ci.run.context import Context
from ci.settings import Login
from ci.tools import chart as charts
from ci.tools.registry import Repository, copy_attached, open_repository

FILE = "evidence.dsse.json"
"""The signed evidence of a run, in its folder, whatever its result."""
APPROVAL_FILE = "approval.dsse.json"
REHEARSAL_FILE = "rehearsal.dsse.json"
CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image and its evidence are looked for."""

    repository: str
    digest: Digest
    login: Login | None = None

    @property
    def by_digest(self) -> str:
        return f"{self.repository}@{self.digest}"


def write(context: Context, proof: Proof) -> Path:
    """Sign what the suite found, passed or not, and keep it in the run's folder."""
    key = signing_key(context)
    envelope = dsse.sign(stated(context, proof).to_json(), statement.PAYLOAD_TYPE, key)
    file = context.folder.verbatim(FILE, envelope.to_json())
    passed = "passing" if proof.passed else "failing"
    context.events.note(f"{passed} evidence signed by key {key.public.id[:16]}", key=key.public.id)
    return file


def attach(context: Context, image: Image, file: Path) -> None:
    """Attach signed evidence to the image. Only passing evidence is: what failed stays in its
    run's folder, for nothing may rest on it."""
    source = Source(image.repository, image.digest)
    _attach(context, source, file.read_bytes(), statement.TEST_RESULT)
    context.events.note(f"evidence attached to {image.by_digest}")


def verified(context: Context, source: Source, chart: Path) -> Proof:
    """The proof of an image, rebuilt from evidence that may be relied on.

    ``chart`` is the one the target will be promoted with. Raises
    :class:`ci.errors.EvidenceRefused` with the reason, :class:`RegistryRefused` when the
    registry cannot be asked.
    """
    wanted = Wanted(source.by_digest, source.digest, chart_subject(chart))
    found = _attached(context, source)
    accepted = rules.decide(found, wanted, policy(context), now=datetime.now(UTC))
    context.events.note(
        f"evidence of run {accepted.result.run} verified, signed by key {accepted.key.id[:16]}",
        key=accepted.key.id,
        digest=source.digest,
    )
    return _proof(context, source, accepted)


def approve(context: Context, source: Source, target: str, by: str) -> None:
    """Attach a person's consent to promote the image to ``target``. Raises
    :class:`ci.errors.EvidenceRefused` when the key here approves nothing."""
    key = signing_key(context)
    if key.public.id not in {approver.id for approver in policy(context).approvers}:
        raise EvidenceRefused(
            f"the key here ({key.public.id[:16]}) is not among those whose approvals count",
            remedy="sign with an approver's key (evidence.key_file or key_env), or add its public"
            " half to evidence.approver_keys",
        )
    subject = Subject(source.repository, source.digest.hex)
    given = Approval((subject,), by=by, target=target, at=datetime.now(UTC))
    content = dsse.sign(given.to_json(), statement.PAYLOAD_TYPE, key).to_json()
    context.folder.verbatim(APPROVAL_FILE, content)
    _attach(context, source, content, statement.APPROVAL)
    context.events.note(
        f"{by} approved {source.by_digest} for {target}, signed by key {key.public.id[:16]}",
        key=key.public.id,
    )


def approved(context: Context, source: Source, target: str) -> Approval:
    """The approval of an image for a target. Raises :class:`ci.errors.EvidenceRefused`."""
    wanted = Wanted(source.by_digest, source.digest, Subject("", ""))
    found = _attached(context, source)
    given = rules.approved(found, wanted, policy(context), target, now=datetime.now(UTC))
    context.events.note(f"approved for {target} by {given.by}")
    return given


def attach_rehearsal(context: Context, source: Source, chart: Path, rehearsal: Rehearsal) -> None:
    """Sign the verdict of a rehearsal, keep it in the run's folder and attach it to the image. One
    that failed is attached, too: the newest decides."""
    key = signing_key(context)
    image = Subject(source.repository, source.digest.hex)
    verdict = Rehearsed(
        (image, chart_subject(chart)),
        target=rehearsal.target,
        state=rehearsal.state,
        result=statement.PASSED if rehearsal.passed else statement.FAILED,
        checks=context.programs.redactor.data(rehearsal.checks),
        require=rehearsal.require,
        changes=context.programs.redactor.data(rehearsal.changes),
        run=context.run_dir.name,
        at=rehearsal.finished,
    )
    content = dsse.sign(verdict.to_json(), statement.PAYLOAD_TYPE, key).to_json()
    context.folder.verbatim(REHEARSAL_FILE, content)
    _attach(context, source, content, statement.REHEARSAL)
    passed = "passing" if rehearsal.passed else "failing"
    context.events.note(f"{passed} rehearsal signed by key {key.public.id[:16]}", key=key.public.id)


def rehearsed(
    context: Context,
    source: Source,
    chart: Path,
    target: str,
    state: ReleaseState,
    *,
    require: Sequence[str],
) -> Rehearsed:
    """The passed rehearsal of an image on a target's release in ``state``, with every check that
    ``require`` names. Raises :class:`ci.errors.EvidenceRefused`."""
    wanted = Wanted(source.by_digest, source.digest, chart_subject(chart))
    found = rules.rehearsed(
        _attached(context, source),
        wanted,
        policy(context),
        target,
        state,
        require=require,
        now=datetime.now(UTC),
    )
    counts = texts.tally(Tally.of(check.outcome for check in found.checks))
    context.events.note(f"rehearsed for {target} in run {found.run}: {counts}")
    return found


def follow(context: Context, image: Image, into: Image, login: Login | None) -> None:
    """Attach an image's evidence to its copy in another registry."""
    local, programs = context.tools.registry, context.programs
    with (
        open_repository(image.repository, local=local, programs=programs) as here,
        open_repository(into.repository, local=local, login=login, programs=programs) as there,
    ):
        copy_attached(here, there, image.digest, artifact_type=statement.PAYLOAD_TYPE)


def stated(context: Context, proof: Proof) -> TestResult:
    """What is stated about a proof. Secrets of the settings are left out."""
    settings, redactor = context.settings, context.programs.redactor
    described = settings.model_dump(
        mode="json", include={"image", "service", "gate", "prove", "evidence"}
    )
    cases = tuple(replace(case, message=redactor.text(case.message)[:300]) for case in proof.cases)
    image = Subject(proof.image.repository, proof.image.digest.hex, proof.image.tag)
    return TestResult(
        subjects=(image, chart_subject(context.path(settings.gate.chart))),
        result=statement.PASSED if proof.passed else statement.FAILED,
        cases=cases,
        started=proof.started or proof.finished,
        finished=proof.finished,
        run=context.run_dir.name,
        tools=context.tools.versions,
        settings=json.dumps(redactor.tree(described), sort_keys=True),
        suite=packing.digest(context.path(settings.prove.tests), without=packing.MADE_BY_TOOLS),
        # Its names are an API's, not secrets: it has to stay comparable.
        api=redactor.shape(proof.api),
    )


def chart_subject(chart: Path) -> Subject:
    described = charts.metadata(chart)
    name = f"{described['name']}-{described['version']}"
    return Subject(name, packing.digest(chart))


# -- keys -----------------------------------------------------------------------------------------


def check_keys(context: Context) -> None:
    """Raises :class:`ci.errors.SettingsError` for keys that cannot sign or check: better before
    the work than after it."""
    signing_key(context)
    policy(context)


def signing_key(context: Context) -> keys.PrivateKey:
    """The key that is configured; else this machine's own, made on first use."""
    settings = context.settings.evidence
    if settings.key_env:
        pem = context.programs.env.get(settings.key_env, "")
        for line in pem.splitlines():
            if not line.startswith("-----"):
                context.programs.hide(line)
        return keys.private(pem.encode(), origin=f"the environment variable {settings.key_env}")
    if settings.key_file is not None:
        return keys.read_private(context.path(settings.key_file.expanduser()))
    return keys.ensure(context.home.state / "keys")


def policy(context: Context) -> Policy:
    """What the settings ask of evidence. Without ``public_keys`` only our own is trusted."""
    settings = context.settings.evidence
    trusted = keys.read_public(context.path(p.expanduser()) for p in settings.public_keys)
    if not trusted:
        trusted = (signing_key(context).public,)
    approvers = keys.read_public(
        (context.path(p.expanduser()) for p in settings.approver_keys), setting="approver_keys"
    )
    return Policy(
        trusted=trusted,
        max_age=timedelta(hours=settings.max_age_hours),
        require=settings.require,
        approvers=approvers or trusted,
    )


# -- the registry ---------------------------------------------------------------------------------


def _attach(context: Context, source: Source, content: bytes, kind: str) -> None:
    with _opened(context, source) as repository:
        repository.attach(
            source.digest,
            content,
            artifact_type=statement.PAYLOAD_TYPE,
            media_type=dsse.MEDIA_TYPE,
            annotations={
                CREATED: datetime.now(UTC).isoformat(timespec="seconds"),
                "in-toto.io/predicate-type": kind,
            },
        )


def _attached(context: Context, source: Source) -> list[bytes]:
    with _opened(context, source) as repository:
        if repository.digest(source.digest) is None:
            raise EvidenceRefused(
                f"there is no image {source.by_digest} in its registry",
                remedy="name the image as it was proven: REPOSITORY@sha256:…",
            )
        return repository.attached(
            source.digest, artifact_type=statement.PAYLOAD_TYPE, media_type=dsse.MEDIA_TYPE
        )


def _opened(context: Context, source: Source) -> AbstractContextManager[Repository]:
    return open_repository(
        source.repository,
        local=context.tools.registry,
        login=source.login,
        programs=context.programs,
    )


def _proof(context: Context, source: Source, accepted: Accepted) -> Proof:
    """Only from accepted evidence; the digest is the one asked for, the tag the signed one."""
    image = Image(source.repository, accepted.tag, source.digest)
    result = accepted.result
    return Proof(
        image,
        result.cases,
        context.run_dir / FILE,
        result.finished,
        started=result.started,
        api=result.api,
    )
