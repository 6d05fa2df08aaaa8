"""Named checks before a change, and the upgrade plan's checklist over them. Pure, but for the
command that is configured."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ci import openapi_compat
from ci.errors import PlanRefused
from ci.model import Check, Image, Outcome, Proof, Target
from ci.openapi_compat import Document
from ci.promotion.release.manifest import Rendered
from ci.promotion.release.session import TargetSession
from ci.run.context import Context

MIGRATION = re.compile(r"migrat|alembic|flyway|liquibase|db[-_]?upgrade|schema", re.IGNORECASE)
"""What a Job that changes a database is called, or runs."""
NO_MIGRATION = "no database migration required"
API = "API is backward compatible"
ROLLBACK = "the rollback is prepared"
READY = "ready within a second under load, on the gate"


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
    """Raises :class:`PlanRefused` when the change seems to need a database migration: a rollback
    of the image would not undo it."""
    target = session.target
    hooks = migrations(rendered)
    if hooks and not target.allow_migrations:
        raise PlanRefused(
            f"the chart migrates a database at an upgrade: {', '.join(hooks)}; no rollback of the"
            " image undoes that",
            remedy="see that the old version works with the new schema, then set"
            " allow_migrations = true for the target",
        )
    said = f"allowed: {', '.join(hooks)}" if hooks else "no such hook in the chart"
    if target.migration_command:
        answer = session.programs.run(
            target.migration_command, log="migration-check", timeout=300, check=False
        )
        if answer.status != 0:
            lines = (answer.stdout.strip() or answer.stderr.strip()).splitlines() or ["no output"]
            raise PlanRefused(
                f"a database migration is required, says {target.migration_command[0]} (status"
                f" {answer.status}): {lines[-1][:200]}",
                remedy="migrate the database in a change of its own, compatible with both versions",
            )
        said += f"; {target.migration_command[0]} agrees"
    return Check(NO_MIGRATION, True, said)


def api_kept(target: Target, proof: Proof, live: Document | None) -> Check:
    """The proven image's API, as it was described on the gate, held against the ``live`` one.
    Raises :class:`PlanRefused` with what would break a client."""
    proven = openapi_compat.read(proof.api)
    if not target.openapi_path:
        missing = "turned off (service.openapi_path)"
    elif live is None:
        missing = f"the version that serves describes none at {target.openapi_path}"
    else:
        missing = "the evidence describes none; it is compared once the new version serves"
    found = openapi_compat.check(API, live, proven, missing=missing)
    if not found.ok:
        raise PlanRefused(
            f"the new version's API would break clients of the one that serves: {found.evidence}",
            remedy="keep the old API beside the new one; where no client uses it, turn the"
            ' comparison off for this change with service.openapi_path = ""',
        )
    return found


def ready_under_load(proof: Proof) -> Check:
    """How quickly the image said on the gate that it is ready, while its API was used: what the
    proof measured (it does not pass above a second)."""
    found = next((c for c in proof.cases if "under_load" in c.name and c.message), None)
    if found is None or found.outcome is not Outcome.PASSED:
        return Check(READY, True, "not measured: no such case among the proof's")
    return Check(READY, True, found.message)


def told(name: str, ask: Callable[[], Check]) -> Check:
    """A check that is only shown: what would be refused for it."""
    try:
        return ask()
    except PlanRefused as problem:
        return Check(name, False, str(problem))


def checklist(
    proof: Proof,
    checks: Sequence[Check],
    *,
    files: Sequence[str],
    pushed: str,
    told: int,
) -> tuple[Check, ...]:
    """The plan's pre-upgrade checklist, each item ticked by its evidence or with the reason why
    not. ``files`` are the backups, ``pushed`` where the digest was found, ``told`` how many
    addresses are told of a start."""
    by_name = {check.name: check for check in checks}
    health = [c for c in proof.cases if "health" in c.name or "complete" in c.name]
    healthy = [c for c in health if c.outcome is Outcome.PASSED]
    pull = by_name.get("image can be pulled on the target's nodes")
    none = by_name.get(NO_MIGRATION)
    api = by_name[API]
    return (
        Check("All backups created", bool(files), ", ".join(files)),
        Check(
            "Rollback script tested",
            "quick-rollback.sh" in files,
            by_name[ROLLBACK].evidence,
        ),
        Check("Docker image built successfully", True, proof.image.by_digest),
        Check("Image pushed to ECR", bool(pushed), pushed),
        Check(
            "Image can be pulled from ECR",
            pull is not None and not pull.evidence.startswith("not tried"),
            pull.evidence if pull else "not tried",
        ),
        Check(
            "Code changes are backward compatible",
            not api.evidence.startswith(openapi_compat.NOT_COMPARED),
            api.evidence,
        ),
        Check(
            "Health check endpoint works in your code",
            bool(healthy),
            ", ".join(case.name.rpartition("::")[2] for case in healthy)
            + f"; {by_name[READY].evidence}"
            if healthy
            else "no health case among the proof's",
        ),
        Check("No database migrations required", none is not None, none.evidence if none else ""),
        Check(
            "Team notified about upgrade",
            told > 0,
            f"{told} addresses are told" if told else "nobody is configured ([[notify]])",
        ),
    )


def tick(
    context: Context, proof: Proof, image: Image, folder: Path, asked: tuple[Check, ...]
) -> tuple[Check, ...]:
    """The plan's checklist, for the terminal and, as a table, for the report."""
    ticked = checklist(
        proof,
        asked,
        files=sorted(path.name for path in folder.iterdir()),
        pushed=f"{image.by_tag} is {image.digest}",
        told=sum("start" in whom.on for whom in context.settings.notify),
    )
    for item in ticked:
        context.events.note(f"[{'x' if item.ok else ' '}] {item.name}: {item.evidence}")
    described = {
        "title": "Pre-upgrade checklist",
        "note": "The upgrade plan's own; an item without a tick says why.",
        "columns": ("item", "evidence", "ok"),
        "rows": [[item.name, item.evidence, item.ok] for item in ticked],
    }
    context.folder.json("tables/checklist.json", described)
    return ticked
