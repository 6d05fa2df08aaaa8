"""``pipeline.py test``: every check as a program, and the counts added up."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ci.cli.session import Session
from ci.errors import CommandFailed
from ci.model import Case, SelfTest
from ci.report import junit
from ci.results import Outcome, StepId

LINTED = ("pipeline.py", "ci", "packages", "tests", "examples", "benchmarks")
EMULATOR = Path("packages/servicebus-emulator")
"""Its checks run in its own folder, where nothing of ``ci`` can be imported."""
ACCEPTANCE_SECONDS = 3600
UNIT_SECONDS = 600
FAILURE_INJECTION = "failure-injection"
"""The check, and its table among the reports: with ``.md`` for the terminal, with ``.json`` for the
run's report."""
FAILURE_INJECTION_SECONDS = 3600
FAILURE_INJECTION_WORKERS = "2"
"""Three kept two cores at a load of 25, and requests were lost to that alone."""


@dataclass(frozen=True, slots=True)
class Check:
    """A program whose status is the verdict; with ``counted`` its JUnit cases are the counts."""

    name: str
    reason: str
    argv: tuple[str, ...]
    timeout: int = 300
    counted: bool = False
    folder: Path = Path()
    """Where it runs, below the checkout."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables of its own."""


def checks(
    python: str, reports: Path, *, quick: bool, failure_injection: bool | None = None
) -> tuple[Check, ...]:
    """THE list, cheapest first; each test has the name of its kind, see ``tests/README.md``.

    ``failure_injection``: it alone (True), all but it (False), everything (None)."""

    def tests(name: str, *words: str) -> tuple[str, ...]:
        report = f"--junitxml={reports / f'{name}.xml'}"
        return (python, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", report, *words)

    failures = Check(
        FAILURE_INJECTION,
        "promotions that are made to fail on a cluster of their own",
        tests(FAILURE_INJECTION, "-v", "-n", FAILURE_INJECTION_WORKERS, "tests/failure_injection"),
        FAILURE_INJECTION_SECONDS,
        counted=True,
    )
    if failure_injection:
        return (failures,)
    lint_imports = str(Path(python).with_name("lint-imports"))
    quickly = (
        Check("ruff", "mistakes and style", (python, "-m", "ruff", "check", *LINTED)),
        Check("format", "one layout", (python, "-m", "ruff", "format", "--check", *LINTED)),
        Check(
            "imports",
            "the layers hold",
            (lint_imports, "--no-cache"),
            env={"PYTHONPATH": str(EMULATOR / "src")},
        ),
        Check("mypy", "strict types: a wrong order is a type error", (python, "-m", "mypy")),
        Check(
            "unit",
            "the rules, without Docker or network",
            tests("unit", "-q", "-n", "2", "tests/unit"),
            UNIT_SECONDS,
            counted=True,
        ),
        Check(
            "emulator-mypy",
            "strict types: the emulator's package by itself",
            (python, "-m", "mypy"),
            folder=EMULATOR,
        ),
        Check(
            "emulator",
            "the emulator's rules, without the pipeline",
            tests("emulator", "-q", "-n", "2", "tests/unit"),
            UNIT_SECONDS,
            counted=True,
            folder=EMULATOR,
        ),
    )
    if quick:
        return quickly
    return (
        *quickly,
        Check(
            "conformance",
            "Azure's own tests of its SDK, the part that is quick, against the emulator",
            (
                *(python, "tests/conformance/run.py", "--part", "ci", "--workers", "4"),
                f"--junitxml={reports / 'conformance.xml'}",
            ),
            UNIT_SECONDS,
            counted=True,
            folder=EMULATOR,
        ),
        Check(
            "compatibility",
            "Azure's clients in four languages, kombu and Celery, against the emulator",
            tests("compatibility", "-v", "tests/compatibility"),
            UNIT_SECONDS,
            counted=True,
            folder=EMULATOR,
        ),
        Check(
            "acceptance",
            "the whole run as its user starts it, and the runs that must be refused",
            tests("acceptance", "-v", "tests/acceptance"),
            ACCEPTANCE_SECONDS,
            counted=True,
        ),
        Check(
            "integration",
            "single real parts, each started alone",
            tests("integration", "-v", "tests/integration"),
            UNIT_SECONDS,
            counted=True,
        ),
        *((failures,) if failure_injection is None else ()),
    )


def run(
    session: Session, origin: str, *, quick: bool, failure_injection: bool | None = None
) -> SelfTest:
    """Run them all; a failed one does not hide the next."""
    reports = session.folder.below("reports").make()
    cases: list[Case] = []
    outputs: list[tuple[str, str]] = []
    for check in checks(sys.executable, reports, quick=quick, failure_injection=failure_injection):
        more, output = _run(session, check, reports, origin)
        cases += more
        if output is not None:
            outputs.append((check.name, output))
    for case in cases:
        if case.outcome is Outcome.FAILED:
            message = " ".join(case.message.split())[:300]
            session.events.emit("run.failed", f"{case.name}: {message}")
    table = reports / f"{FAILURE_INJECTION}.md"
    text = table.read_text(encoding="utf-8") if table.is_file() else ""
    return SelfTest(tuple(cases), tuple(outputs), text)


def _run(
    session: Session, check: Check, reports: Path, origin: str
) -> tuple[list[Case], str | None]:
    """Its cases; and what its program printed last, when it failed."""
    output = None
    report = reports / f"{check.name}.xml"
    try:
        with session.events.step(StepId.SELF_TEST, check.reason, subject=check.name):
            said = session.programs.run(
                check.argv,
                log=check.name,
                cwd=session.root / check.folder,
                # Where the acceptance tests put the JUnit of their own run and failure injection
                # its table, and where tools come from.
                env={
                    **check.env,
                    "ACCEPTANCE_REPORTS": str(reports),
                    "SELFTEST_TOOLCHAIN": origin,
                    "FAILURE_INJECTION_REPORTS": str(reports),
                },
                timeout=check.timeout,
                check=False,
                on_line=session.events.note if check.counted else None,
            )
            if said.status != 0:
                lines = [line for line in said.stdout.splitlines() if line.strip()]
                output = "\n".join(lines[-30:] or said.stderr.splitlines()[-30:])
                raise CommandFailed(f"{check.name} ended with {said.status}", status=said.status)
    except CommandFailed as problem:
        cases = _counted(report, check)
        if any(case.outcome is Outcome.FAILED for case in cases):
            return cases, output
        return [*cases, Case(check.name, Outcome.FAILED, 0.0, str(problem))], output
    return _counted(report, check) or [Case(check.name, Outcome.PASSED, 0.0)], None


def _counted(report: Path, check: Check) -> list[Case]:
    """The cases of a check's JUnit files, those of the acceptance tests' own run included."""
    found: list[Case] = []
    if check.counted:
        for file in sorted(report.parent.glob(f"{report.stem}*.xml")):
            try:
                found += junit.read(file)
            except junit.Unreadable as problem:
                found.append(Case(file.name, Outcome.FAILED, 0.0, str(problem)))
    return found
