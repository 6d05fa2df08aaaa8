"""``pipeline.py test``: runs every check as a program and adds up the cases."""

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
"""Its checks run in its own folder, where ``ci`` cannot be imported."""
ACCEPTANCE_SECONDS = 3600
UNIT_SECONDS = 600
FAILURE_INJECTION = "failure-injection"
"""The check, and its table among the reports: with ``.md`` for the terminal, with ``.json`` for the
run's report."""
FAILURE_INJECTION_SECONDS = 3600
FAILURE_INJECTION_WORKERS = "2"
"""With three, two cores reached a load of 25, and requests were lost for that reason alone."""


@dataclass(frozen=True, slots=True)
class Check:
    """A program that fails the check with a non-zero status; with ``counted``, the cases of its
    JUnit report are counted instead of the program."""

    name: str
    reason: str
    argv: tuple[str, ...]
    timeout: int = 300
    counted: bool = False
    folder: Path = Path()
    """Working folder, relative to the checkout."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables."""


def checks(
    python: str, reports: Path, *, quick: bool, failure_injection: bool | None = None
) -> tuple[Check, ...]:
    """THE list, cheapest first; each test has the name of its kind, see ``tests/README.md``.

    ``failure_injection`` true: only this check; false: everything except it; ``None``: all."""

    def tests(name: str, *arguments: str) -> tuple[str, ...]:
        report = f"--junitxml={reports / f'{name}.xml'}"
        return (python, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", report, *arguments)

    failures = Check(
        FAILURE_INJECTION,
        "a failed promotion that is not rolled back would break a target",
        tests(FAILURE_INJECTION, "-v", "-n", FAILURE_INJECTION_WORKERS, "tests/failure_injection"),
        FAILURE_INJECTION_SECONDS,
        counted=True,
    )
    if failure_injection:
        return (failures,)
    lint_imports = str(Path(python).with_name("lint-imports"))
    quick_checks = (
        Check(
            "ruff",
            "an unused name or a wrong import is often a bug",
            (python, "-m", "ruff", "check", *LINTED),
        ),
        Check(
            "format",
            "mixed formatting hides changes in a diff",
            (python, "-m", "ruff", "format", "--check", *LINTED),
        ),
        Check(
            "imports",
            "an import against the layers makes the code inseparable",
            (lint_imports, "--no-cache"),
            env={"PYTHONPATH": str(EMULATOR / "src")},
        ),
        Check("mypy", "a step in the wrong order is a type error", (python, "-m", "mypy")),
        Check(
            "unit",
            "the rules of every module, without Docker or network",
            tests("unit", "-q", "-n", "2", "tests/unit"),
            UNIT_SECONDS,
            counted=True,
        ),
        Check(
            "emulator-mypy",
            "the emulator's package has to be typed without the pipeline",
            (python, "-m", "mypy"),
            folder=EMULATOR,
        ),
        Check(
            "emulator",
            "the emulator has to work without the pipeline",
            tests("emulator", "-q", "-n", "2", "tests/unit"),
            UNIT_SECONDS,
            counted=True,
            folder=EMULATOR,
        ),
    )
    if quick:
        return quick_checks
    return (
        *quick_checks,
        Check(
            "conformance",
            "the emulator has to pass Azure's own SDK tests (the quick part)",
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
            "Azure's SDKs in four languages, kombu and Celery have to work with the emulator",
            tests("compatibility", "-v", "tests/compatibility"),
            UNIT_SECONDS,
            counted=True,
            folder=EMULATOR,
        ),
        Check(
            "acceptance",
            "a whole run has to pass, and what must be refused has to be refused",
            tests("acceptance", "-v", "tests/acceptance"),
            ACCEPTANCE_SECONDS,
            counted=True,
        ),
        Check(
            "integration",
            "each real component has to work on its own",
            tests("integration", "-v", "tests/integration"),
            UNIT_SECONDS,
            counted=True,
        ),
        *((failures,) if failure_injection is None else ()),
    )


def run(
    session: Session, origin: str, *, quick: bool, failure_injection: bool | None = None
) -> SelfTest:
    """Run all checks; a failed one does not stop the others."""
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
    """The check's cases; and the end of its program's output, when it failed."""
    output = None
    report = reports / f"{check.name}.xml"
    try:
        with session.events.step(StepId.SELF_TEST, check.reason, subject=check.name):
            result = session.programs.run(
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
            if result.status != 0:
                lines = [line for line in result.stdout.splitlines() if line.strip()]
                output = "\n".join(lines[-30:] or result.stderr.splitlines()[-30:])
                raise CommandFailed(
                    f"{check.name} failed with status {result.status}", status=result.status
                )
    except CommandFailed as problem:
        cases = _counted(report, check)
        if any(case.outcome is Outcome.FAILED for case in cases):
            return cases, output
        return [*cases, Case(check.name, Outcome.FAILED, 0.0, str(problem))], output
    return _counted(report, check) or [Case(check.name, Outcome.PASSED, 0.0)], None


def _counted(report: Path, check: Check) -> list[Case]:
    """The cases of a check's JUnit files, those of the acceptance tests' own run included."""
    cases: list[Case] = []
    if check.counted:
        for file in sorted(report.parent.glob(f"{report.stem}*.xml")):
            try:
                cases += junit.read(file)
            except junit.Unreadable as problem:
                cases.append(Case(file.name, Outcome.FAILED, 0.0, str(problem)))
    return cases
