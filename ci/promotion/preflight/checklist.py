"""The upgrade plan's pre-upgrade questions, each a check. Pure, but for the command that is
configured. :data:`ci.texts.CHECKLIST` has the plan's words; the report shows it from these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ci import openapi_compat, texts
from ci.errors import PlanRefused
from ci.model import Case, Image, Proof, Target
from ci.openapi_compat import Described
from ci.promotion.release.failure import failure
from ci.promotion.release.manifest import Rendered
from ci.promotion.release.session import TargetSession
from ci.results import (
    Because,
    Check,
    CheckId,
    Count,
    ExitStatus,
    ImageRef,
    Measured,
    Names,
    Outcome,
    Phase,
    Problem,
    Unit,
    failed,
    passed,
    skipped,
    unknown,
)
from ci.settings import Settings

MIGRATION = re.compile(r"migrat|alembic|flyway|liquibase|db[-_]?upgrade|schema", re.IGNORECASE)
"""What a Job that changes a database is called, or runs."""
NAMED = 4
"""So many names of a kind stand in a check."""


def refusal(*checks: Check, remedy: str = "") -> PlanRefused:
    """The error for checks of which some failed before the change. Its remedy is that of the first
    that failed, when none is given."""
    wrong = next(check for check in checks if check.failed)
    known = remedy or texts.REMEDIES.get(wrong.id)
    return failure(PlanRefused, Phase.BEFORE, checks, context=texts.NOT_MET, remedy=known)


def refuse_failed(checks: Iterable[Check]) -> None:
    """Raise :class:`PlanRefused` where some failed; it carries these."""
    if wrong := [check for check in checks if check.failed]:
        raise refusal(*wrong)


def names(of: Unit, found: Iterable[str]) -> Names:
    every = tuple(found)
    return Names(of, every[:NAMED], len(every))


def migrations(rendered: Rendered) -> list[str]:
    """Hooks of an upgrade that look as if they change a database, with what gave them away."""
    found = []
    for key, hook in rendered.hooks.items():
        metadata: Mapping[str, Any] = hook.get("metadata") or {}
        when = str((metadata.get("annotations") or {}).get("helm.sh/hook", ""))
        if key[1] not in ("Job", "Pod") or "upgrade" not in when:
            continue
        spec = hook.get("spec") or {}
        if key[1] == "Job":
            spec = (spec.get("template") or {}).get("spec") or {}
        words = [key[3]]
        for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
            words += [container.get("name", ""), *map(str, container.get("command") or [])]
            words += map(str, container.get("args") or [])
        sign = next((MIGRATION.search(word) for word in words if MIGRATION.search(word)), None)
        if sign is not None:
            found.append(f"{key[1]}/{key[3]} ({when}: “{sign[0]}”)")
    return found


def no_migration(session: TargetSession, rendered: Rendered) -> Check:
    """Whether the change seems to need a database migration: a rollback of the image would not
    undo it. Where the chart's hooks may migrate (``allow_migrations``) that is not checked."""
    target, id = session.target, CheckId.MIGRATION_NOT_NEEDED
    hooks = migrations(rendered)
    measured: list[Measured] = [names(Unit.HOOKS, hooks) if hooks else Count(Unit.HOOKS, 0)]
    if target.migration_command:
        ended = _migration_command(session)
        measured.append(ended)
        if ended.status != 0:
            return failed(id, *measured)
    if hooks and target.allow_migrations:
        return skipped(id, "allow_migrations", *measured)
    return failed(id, *measured) if hooks else passed(id, *measured)


def _migration_command(session: TargetSession) -> ExitStatus:
    command = session.target.migration_command
    answer = session.programs.run(command, log="migration-check", timeout=300, check=False)
    lines = (answer.stdout.strip() or answer.stderr.strip()).splitlines()
    last = session.programs.redact(lines[-1][:200]) if lines and answer.status else ""
    return ExitStatus(command[0], answer.status, last)


def api_compatible(target: Target, proof: Proof, live: Described) -> Check:
    """The proven image's API, as it was described on the gate, held against the ``live`` one."""
    proven = openapi_compat.read(proof.api)
    return openapi_compat.check(
        CheckId.API_COMPATIBLE,
        live,
        Because.NOT_IN_EVIDENCE if proven is None else proven,
        path=target.openapi_path,
    )


def health_proven(proof: Proof) -> Check:
    """The proof's cases that asked the health endpoints."""
    cases = _cases(proof, CheckId.HEALTH_PROVEN)
    if not cases:
        return unknown(CheckId.HEALTH_PROVEN, Because.NOT_IN_EVIDENCE)
    shown = (case.name.rpartition("::")[2] for case in cases)
    return passed(CheckId.HEALTH_PROVEN, names(Unit.CASES, shown))


def ready_under_load(proof: Proof) -> Check:
    """How quickly the image became ready on the gate, while its API was used: what the
    proof measured (it does not pass above a second)."""
    cases = _cases(proof, CheckId.HEALTH_UNDER_LOAD)
    if not cases:
        return unknown(CheckId.HEALTH_UNDER_LOAD, Because.NOT_IN_EVIDENCE)
    return passed(
        CheckId.HEALTH_UNDER_LOAD, *(Problem(case.message) for case in cases if case.message)
    )


def _cases(proof: Proof, shows: CheckId) -> list[Case]:
    """The cases that passed and say themselves that they show it."""
    return [
        case for case in proof.cases if shows.value in case.shows and case.outcome is Outcome.PASSED
    ]


def image_checks(proof: Proof, image: Image) -> tuple[Check, ...]:
    """The proven image, and the same by digest where the target pulls it from."""
    return (
        passed(CheckId.IMAGE_BUILT, image_ref(proof.image)),
        passed(CheckId.IMAGE_PUBLISHED, image_ref(image)),
    )


def image_ref(image: Image) -> ImageRef:
    return ImageRef(image.repository, image.tag, image.digest)


def team_notified(settings: Settings) -> Check:
    """Whether anybody is notified of a promotion's start."""
    count = sum("start" in whom.on for whom in settings.notify)
    if not count:
        return skipped(CheckId.TEAM_NOTIFIED, "notify")
    return passed(CheckId.TEAM_NOTIFIED, Count(Unit.RECIPIENTS, count))
