"""The command line. Turns a :class:`ci.errors.PipelineError` into one line, its remedy and its
exit code; nothing else in ``ci`` prints an error or ends the process.

A command is a function that takes the common options and its own, and returns an :class:`Answer`:
it prints nothing itself. The answer is printed after the command and its live view have ended, so
that neither overwrites the other.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Generic, TypeVar

import typer

from ci import redaction, texts
from ci.cli import session as sessions
from ci.cli.session import Session
from ci.errors import CommandFailed, Interrupted, PipelineError, PlanRefused, SettingsError
from ci.model import ChecksRecord, Preview, Result, RunRecord
from ci.report import files, junit, terminal
from ci.results import Check, CheckGroup, Outcome, Phase
from ci.run import changes
from ci.run.context import Context
from ci.run.events import CHANGE
from ci.settings import DEMO_TARGET, Options, Settings, check_references, load, members


class OnFirstUse:
    """A module that is imported when one of its attributes is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    from ci.workflow import commands
else:
    # It imports all stages, which --help and a wrong option need not wait for.
    commands = OnFirstUse("ci.workflow.commands")

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]

EPILOG = """
Examples:

  python3 pipeline.py                        build, prove, promote to the demonstration target

  python3 pipeline.py prove --keep-cluster   the inner loop: redeploys and proves in seconds

  python3 pipeline.py run --target prod      the same for [targets.prod] of pipeline.toml

  python3 pipeline.py test                   run every check of the pipeline itself
"""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
    help="Builds an image, proves its queue time-outs on a throwaway cluster, and promotes "
    "exactly what was proven. Without a command it does all of it (`run`).",
)


class Origin(StrEnum):
    AUTO = "auto"
    DOWNLOAD = "download"
    SOURCE = "source"


ToolchainOption = Annotated[
    Origin,
    typer.Option(
        "--toolchain",
        help="Where tools may come from: auto (found on PATH, else downloaded, else built), "
        "download, or source (built from package registries only).",
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", help="Settings file; pipeline.toml.example explains every key.")
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print every note as a line, and the traceback of an error."
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help=f"Name of a [targets.NAME] block of pipeline.toml; `{DEMO_TARGET}` is the "
        "demonstration cluster that the pipeline creates itself.",
    ),
]
ChartChangeOption = Annotated[
    bool,
    typer.Option(
        "--chart-change",
        help="Allow another chart than the live release's: its changes are shown and allowed, and "
        "its new default values are used (helm upgrade --reset-then-reuse-values).",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Upgrade the release even if the target serves this image already; without --force "
        "such a release is only verified.",
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option("--keep-cluster", help="Keep the gate cluster for the next run, and reuse it."),
]

DEFAULT_CONFIG = Path("pipeline.toml")


@dataclass(frozen=True, slots=True)
class Common:
    """The options that every command has; :func:`_command` adds them to each."""

    toolchain: ToolchainOption = Origin.AUTO
    config: ConfigOption = DEFAULT_CONFIG
    verbose: VerboseOption = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command returns: ``shown`` is printed to standard output, then ``problem`` is
    raised, which decides the exit code. Both happen after the live view has been closed."""

    shown: terminal.Shown | None = None
    problem: Exception | None = None
    redact: Callable[[str], str] = redaction.text
    """Removes the run's secrets from what is printed, the message of ``problem`` included."""


def _command(
    name: str | None = None, *, without: tuple[str, ...] = ()
) -> Callable[[Callable[Concatenate[Common, ...], Answer]], Callable[..., None]]:
    """Register a function as the command ``name`` (by default its own name): it gets the common
    options, except those in ``without``, and its answer is printed when it has returned."""

    def register(body: Callable[Concatenate[Common, ...], Answer]) -> Callable[..., None]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        common = [
            option.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for option in inspect.signature(Common, eval_str=True).parameters.values()
            if option.name not in without
        ]

        @functools.wraps(body)
        def command(**own_options: Any) -> None:
            options = Common(**{option.name: own_options.pop(option.name) for option in common})
            with _reporting_errors(options.verbose):
                answer = body(options, **own_options)
                if answer.shown is not None:
                    terminal.show(redaction.copied(answer.shown, answer.redact), sys.stdout)
            if answer.problem is not None:
                with _reporting_errors(options.verbose, answer.redact):
                    raise answer.problem

        # Typer reads the options from these.
        command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in [*own, *common]}
        return app.command(name)(command)

    return register


@_command()
def run(
    common: Common,
    target: TargetOption = DEMO_TARGET,
    keep_cluster: KeepOption = False,
    force: ForceOption = False,
) -> Answer:
    """Build, prove on a throwaway cluster, promote what was proven, verify. The default."""
    return _work(
        "run",
        common,
        lambda c: commands.run(c, Options(target, keep_cluster, force=force)),
        targets=(target,),
    )


@_command()
def build(common: Common) -> Answer:
    """Build the service's image with Dagger and publish it, nothing else."""
    return _work("build", common, lambda c: commands.build_only(c, Options()))


@_command()
def prove(
    common: Common,
    keep_cluster: KeepOption = False,
) -> Answer:
    """Run the end-to-end tests on the current source. Promotes nothing.

    Unchanged source is not built again, and a cluster kept by --keep-cluster is reused.
    """
    return _work(
        "prove",
        common,
        lambda c: commands.prove_only(c, Options(keep_cluster=keep_cluster)),
        needs_dagger=lambda c: not commands.builds_nothing(c),
    )


@_command()
def promote(
    common: Common,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Image as REPOSITORY@sha256:…, or `last`: the one this checkout proved last.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="Target, as for the other commands. Repeat it to promote to several targets, one "
            "after the other; or name a [waves.NAME] block, whose targets are promoted in waves.",
        ),
    ] = None,
    approve: Annotated[
        str,
        typer.Option(
            "--approve",
            metavar="NAME",
            help="Sign an approval in this name, for a target with `approval = true`.",
        ),
    ] = "",
    chart_change: ChartChangeOption = False,
    force: ForceOption = False,
) -> Answer:
    """Promote an image whose signed evidence is attached to it in its registry.

    It may have been proven on any machine. Evidence that is missing, edited, too old, signed by
    an untrusted key, of another image or chart, or without a required case is refused. If the
    target serves the image already, it is only verified, unless --force is given. With several
    targets, no further promotion starts after the first that fails.
    """
    arguments = ["--toolchain", common.toolchain.value, "--config", str(common.config)]
    arguments += ["--approve", approve] if approve else []
    arguments += ["--chart-change"] if chart_change else []
    arguments += ["--force"] if force else []
    options = Options(approve=approve, chart_change=chart_change, force=force)
    return _work(
        "promote",
        common,
        lambda c: commands.promote_to(c, target or [DEMO_TARGET], options, image, arguments),
        targets=target or [DEMO_TARGET],
        signs=bool(approve),
        needs_dagger=None,
    )


@_command()
def rehearse(
    common: Common,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Image as REPOSITORY@sha256:…, or `last`: the one this checkout proved last.",
        ),
    ] = "last",
    target: TargetOption = DEMO_TARGET,
    keep_cluster: KeepOption = False,
) -> Answer:
    """Rehearse a promotion on the gate cluster with the target's live release. Changes no target.

    The release is upgraded, upgraded again without changes, made to fail, and rolled back; the
    signed result is attached to the image. Exit code 22 if the release breaks.
    """
    return _work(
        "rehearse",
        common,
        lambda c: commands.rehearse_only(c, Options(target, keep_cluster), image),
        targets=(target,),
        needs_dagger=lambda c: not commands.emulator_built(c),
    )


@_command()
def plan(
    common: Common,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Image as REPOSITORY@sha256:…, or `last`: the one this checkout proved last.",
        ),
    ],
    target: TargetOption = DEMO_TARGET,
    chart_change: ChartChangeOption = False,
) -> Answer:
    """Show what promoting a proven image would change on a target. Changes nothing.

    Rendered by the target's API server with the release's live values, hooks included, secrets
    hidden. Exit code 0 if only the image would change, 31 if the promotion would be refused.
    """

    def body(context: Context) -> Preview:
        return commands.plan(context, Options(target, chart_change=chart_change), image)

    preview = _ask("plan", common, body, targets=(target,))
    return Answer(terminal.Planned(preview), _refusal(preview))


@_command()
def approve(
    common: Common,
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="Image as REPOSITORY@sha256:…, or `last`: the one this checkout proved last.",
        ),
    ],
    by: Annotated[
        str, typer.Option("--by", help="Name of the approver, recorded in the signed approval.")
    ],
    target: TargetOption = DEMO_TARGET,
) -> Answer:
    """Approve a proven image for a target, for a later promotion. Changes no cluster.

    The approval is a signed statement, attached to the image in its registry like the evidence.
    """
    return _work(
        "approve",
        common,
        lambda c: commands.approve_only(c, Options(target, approve=by), image),
        targets=(target,),
        needs_dagger=None,
    )


@_command()
def verify(common: Common, target: TargetOption = DEMO_TARGET) -> Answer:
    """Check the success criteria on a target's live state. Changes nothing."""
    return _work(
        "verify",
        common,
        lambda c: commands.verify_only(c, Options(target)),
        targets=(target,),
        needs_dagger=None,
    )


@_command()
def rollback(
    common: Common,
    target: TargetOption = DEMO_TARGET,
    revision: Annotated[
        int | None,
        typer.Option(
            "--revision",
            min=1,
            help="Helm revision to return to; by default the last deployed revision that serves "
            "something else than the current one.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what the rollback would change, and change nothing."),
    ] = False,
) -> Answer:
    """Return a target's release to what it served before, and verify it.

    Revisions are compared by what they serve (images, values, chart), not by their number, and
    the difference is shown first. Exit code 0 also if the release already serves what --revision
    names; 31 if there is no revision to return to.
    """

    def body(context: Context) -> Result:
        return commands.roll_back(context, Options(target), revision, dry_run=dry_run)

    if not dry_run:
        return _work("rollback", common, body, targets=(target,), needs_dagger=None)
    result = _ask("rollback", common, body, targets=(target,)).rollback
    assert result is not None
    return Answer(terminal.Returning(result))


@_command()
def status(
    common: Common,
    target: TargetOption = DEMO_TARGET,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> Answer:
    """Show what a target runs: revisions, Deployments, pods, digests."""

    result = _ask(
        "status", common, lambda c: commands.status(c, Options(target)), targets=(target,)
    )
    return Answer(terminal.Served(result, as_json))


@_command()
def doctor(common: Common) -> Answer:
    """Show every tool: pinned and installed version, origin, state, remedy. Changes nothing."""

    def body(session: Session) -> Answer:
        from ci.toolchain import inspect as inspected

        states = inspected(
            session.home.folder,
            session.programs,
            session.clock,
            session.events,
            session.env,
            common.toolchain.value,
        )
        return Answer(terminal.Inspected(tuple(states)))

    return _quick(common, body, brief=True)


@_command("test")
def check(
    common: Common,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Run only lint, type checks and unit tests; needs no cluster."
        ),
    ] = False,
    failure_injection: Annotated[
        bool | None,
        typer.Option(
            "--failure-injection/--no-failure-injection",
            help="Run only the failure-injection tests (promotions that are made to fail on a "
            "cluster of their own; about 20 minutes), or everything except them.",
        ),
    ] = None,
    matrix: Annotated[bool | None, typer.Option("--matrix/--no-matrix", hidden=True)] = None,
) -> Answer:
    """Run every check: lint, types and every kind of test (tests/README.md)."""
    if matrix is not None:
        no = "" if matrix else "no-"
        _deprecated(f"--{no}matrix", f"--{no}failure-injection")
        failure_injection = matrix if failure_injection is None else failure_injection

    def body(session: Session) -> Answer:
        from ci.cli import selftest

        result = selftest.run(
            session, common.toolchain.value, quick=quick, failure_injection=failure_injection
        )
        return Answer(result, None if result.passed else typer.Exit(1))

    return _quick(common, body, record="test")


@_command(without=("toolchain",))
def clean(
    common: Common,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also remove tools, images and Python environments; the next run obtains them "
            "again. Signing keys stay.",
        ),
    ] = False,
    demo_target: Annotated[
        bool,
        typer.Option(
            "--demo-target",
            help=f"Also delete the demonstration target `{DEMO_TARGET}` (asked on a terminal).",
        ),
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys",
            help="Also delete the signing key that was generated on this machine. No other option "
            "does.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Answer every question with yes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")
    ] = False,
) -> Answer:
    """List, then remove the clusters and containers that the pipeline created.

    Prints what is left behind and how to remove it by hand; see docs/uninstall.md.
    """
    from ci.cli import clean as clean_

    def session() -> AbstractContextManager[Session]:
        return sessions.opened(ROOT, os.environ, settings, record=False)

    settings = _settings(common.config)
    with session() as looking:
        survey = clean_.survey(looking)
    chosen = clean_.Choice(everything, keys, demo_target or yes)
    plan = clean_.plan(survey, chosen)
    _print(clean_.listing(plan, dry_run=dry_run))
    # No session is open while asking, so that Ctrl-C ends the question.
    if plan.asks and not dry_run and _on_terminal() and _agreed():
        plan = clean_.plan(survey, replace(chosen, demo_target=True))
        _print(clean_.listing(plan))
    if dry_run:
        _print(clean_.leaving(plan))
        return Answer()
    with session() as removing:
        failures = clean_.carry_out(removing, plan, lambda line: _print([line]))
    _print(clean_.leaving(plan))
    if not failures:
        return Answer()
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return Answer(
        problem=CommandFailed(
            f"{first.item.kind} {first.item.name} was not removed: {first.reason}{more}",
            remedy="correct the cause named above, then run `python3 pipeline.py clean` again",
        )
    )


def _deprecated(old: str, new: str) -> None:
    """One line on stderr. An old name works for one version."""
    print(
        f"warning: {old} is deprecated and goes with the next version: use {new}", file=sys.stderr
    )


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _agreed() -> bool:
    """Raises :class:`ci.errors.Interrupted` for Ctrl-C."""
    try:
        return typer.confirm(f"Delete the demonstration target {DEMO_TARGET} as well?")
    except typer.Abort:
        raise Interrupted("interrupted", remedy="nothing was removed") from None


def main(argv: list[str] | None = None) -> int:
    """The process's exit status. ``pipeline.py`` alone, or with options only, is ``run``."""
    for stream in (sys.stdout, sys.stderr):
        terminal.never_fails(stream)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "run")
    try:
        app(arguments, prog_name="pipeline.py")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _refusal(preview: Preview) -> PlanRefused | None:
    """The error of a promotion that the plan or a failed check would refuse; else ``None``."""
    plan = preview.plan
    if plan.refused:
        return PlanRefused(
            f"the upgrade would change more than the image: {len(plan.refused)} of"
            f" {len(plan.differences)} differences do not derive from its tag",
            remedy="deploy the other changes in a release of their own, then promote the image; to"
            " upgrade the chart on purpose, add --chart-change",
        )
    wrong = [check for check in preview.checks if check.failed]
    if wrong:
        return PlanRefused(
            f"the promotion would be refused: {texts.sentence(wrong[0])}",
            remedy="see the checks above",
        )
    if preview.unmet:
        return PlanRefused(
            f"the promotion would be refused: {texts.unmet(preview.unmet)}",
            remedy=texts.REMEDY_UNMET.format(target=preview.target),
        )
    return None


@dataclass(slots=True)
class _Ended(Generic[T]):
    """How a command that uses the tools ended."""

    session: Session
    value: T | None = None
    problem: Exception | None = None
    supervised: int | None = None
    """The exit status of the process under ``dagger run``, where one did all of it."""
    versions: tuple[tuple[str, str], ...] = ()


def _work(
    command: str,
    common: Common,
    body: Callable[[Context], Result],
    *,
    targets: Sequence[str] = (),
    signs: bool = False,
    needs_dagger: Callable[[Context], bool] | None = lambda _: True,
) -> Answer:
    """A command that uses the tools and leaves a run folder: check what the settings refer to,
    obtain the tools, continue under ``dagger run`` where it builds, call ``body``, and write the
    summary.

    ``targets`` are the targets or waves of the command; ``signs``: with these options it signs
    something, although the command usually does not."""
    ended = _with_tools(
        command, common, body, targets=targets, signs=signs, needs_dagger=needs_dagger, record=True
    )
    if ended.supervised is not None:
        return Answer(problem=typer.Exit(ended.supervised))  # that process has printed everything
    result = ended.value if ended.value is not None else Result()
    programs = ended.session.programs
    finished = programs.redactor.data(
        _record(command, ended.session, result, ended.problem, ended.versions)
    )
    _leave(ended.session, finished)
    return Answer(finished, ended.problem, programs.redact)


def _ask(
    command: str, common: Common, body: Callable[[Context], T], *, targets: Sequence[str]
) -> T:
    """Call ``body`` for a command that uses the tools, changes nothing and leaves no run folder;
    returns its value, redacted. Errors are printed, and end the process."""
    ended = _with_tools(
        command, common, body, targets=targets, signs=False, needs_dagger=None, record=False
    )
    if ended.problem is not None:
        with _reporting_errors(common.verbose, ended.session.programs.redact):
            raise ended.problem
    assert ended.value is not None
    return ended.session.programs.redactor.data(ended.value)


def _with_tools(
    command: str,
    common: Common,
    body: Callable[[Context], T],
    *,
    targets: Sequence[str],
    signs: bool,
    needs_dagger: Callable[[Context], bool] | None,
    record: bool,
) -> _Ended[T]:
    """Call ``body`` with the tools, or repeat the whole command under ``dagger run``. Raises only
    errors that occur before there is a session; later ones are in the result."""
    settings = _settings(common.config)
    check_references(settings, command, targets, signs=signs, env=os.environ, root=ROOT)
    view = terminal.view(sys.stderr, verbose=common.verbose, brief=not record)
    ended: _Ended[T] | None = None
    try:
        with sessions.opened(
            ROOT,
            os.environ,
            settings,
            listeners=[lambda _: view],
            record=record,
            command=command,
            targets=[name for each in targets for name in members(settings, each)],
        ) as session:
            ended = _Ended(session)
            with view:
                tools = session.tools(common.toolchain.value)
                ended.versions = tools.versions
                context = session.context(tools)
                again = (
                    needs_dagger is not None
                    and not session.under_dagger()
                    and needs_dagger(context)
                )
            if again:
                ended.supervised = session.continue_under_dagger(tools, sys.argv[1:])
            else:
                with view:
                    ended.value = body(context)
    except Exception as error:
        if ended is None:
            raise
        ended.problem = error
        if ended.session.programs.cancel.is_set() and _is_interrupt(ended.session):
            ended.problem = _interrupted(error)
    return ended


def _quick(
    common: Common,
    body: Callable[[Session], Answer],
    *,
    record: str = "",
    brief: bool = False,
) -> Answer:
    """A command that needs no tools obtained in advance. With ``record``, the command's name, it
    leaves a run folder."""
    settings = _settings(common.config)
    view = terminal.view(sys.stderr, verbose=common.verbose, brief=brief)
    with (
        sessions.opened(
            ROOT,
            os.environ,
            settings,
            listeners=[lambda _: view],
            record=bool(record),
            command=record,
        ) as session,
        view,
    ):
        try:
            answer = body(session)
        except Exception as error:
            answer = Answer(problem=error, redact=session.programs.redact)
        if record:
            finished = _record(record, session, Result(), answer.problem, ())
            _leave(session, session.programs.redactor.data(finished))
    return answer


def _leave(session: Session, finished: RunRecord) -> None:
    """Write the run's summary, its checks and its report. A report that cannot be rendered is
    noted, and does not change how the run ended."""
    files.write(session.folder, finished)
    if finished.groups:
        files.write(session.folder, ChecksRecord(finished.groups))
    try:
        from ci.report import html

        if finished.groups:
            session.folder.rendered("checks.xml", junit.render(finished.groups))
        html.write(session.folder, datetime.now(UTC))
    except Exception as problem:
        session.events.note(f"no report was written: {type(problem).__name__}: {problem}")
    session.folder.seal()


def _settings(config: Path) -> Settings:
    path = config if config.is_absolute() else Path.cwd() / config
    if config == DEFAULT_CONFIG and not path.exists():
        path = ROOT / config
    elif not path.exists():
        raise SettingsError(
            f"settings file {config} does not exist",
            remedy="copy pipeline.toml.example, or correct --config",
        )
    return load(path, renamed=_deprecated)


class _reporting_errors:
    """Prints an error as two lines, redacted by ``redact``, and exits with its exit code."""

    def __init__(self, verbose: bool, redact: Callable[[str], str] = redaction.text) -> None:
        self._verbose = verbose
        self._redact = redact

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if problem is None or not isinstance(problem, Exception | KeyboardInterrupt):
            return
        if isinstance(problem, typer.Exit):
            return
        foreseen = problem
        if isinstance(problem, OSError) and problem.errno in (28, 122):
            from ci.errors import DiskFull

            foreseen = DiskFull(f"no disk space left: {problem}")
        elif not isinstance(problem, PipelineError):
            defect = f"{type(problem).__name__}: {problem}"
            foreseen = PipelineError(f"unexpected error, a defect of the pipeline: {defect}")
        assert isinstance(foreseen, PipelineError)
        if self._verbose:
            shown = self._redact("".join(traceback.format_exception(problem)))
            print(shown, end="", file=sys.stderr)
        print(sessions.explain(foreseen, self._redact), file=sys.stderr, flush=True)
        raise SystemExit(foreseen.exit_code) from None


def _is_interrupt(session: Session) -> bool:
    return any(event.kind == "run.cancelled" for event in session.events.all)


def _interrupted(problem: Exception) -> Exception:
    """The error to report after Ctrl-C: the interruption, unless the cleanup itself failed."""
    from ci.errors import PromotionFailed, RollbackFailed

    if isinstance(problem, RollbackFailed | Interrupted):
        return problem
    if isinstance(problem, PromotionFailed):
        interrupted = Interrupted(f"interrupted; {problem}", remedy=problem.remedy)
        interrupted.groups = problem.groups
        return interrupted
    return Interrupted("interrupted")


def _error_line(problem: Exception | None) -> str:
    if isinstance(problem, typer.Exit):
        return "a check failed"
    return " ".join(str(problem).split()) if problem else ""


def _record(
    command: str,
    session: Session,
    result: Result,
    problem: Exception | None,
    versions: tuple[tuple[str, str], ...],
) -> RunRecord:
    code = 0
    if problem is not None:
        code = problem.exit_code if isinstance(problem, PipelineError) else 1
    return RunRecord(
        id=session.run_dir.name,
        command=command,
        outcome=Outcome.PASSED if problem is None else Outcome.FAILED,
        exit_code=code,
        started=datetime.fromtimestamp(session.begun, UTC),
        seconds=round(session.elapsed(), 3),
        steps=(*(session.handed.steps if session.handed else ()), *sessions.ended(session.events)),
        folder=session.run_dir,
        image=result.image,
        cases=result.proof.cases if result.proof else (),
        promotion=result.promotion,
        groups=_groups(result, problem),
        change=changes.latest(e.data for e in session.events.all if e.kind == CHANGE),
        rollback=result.rollback,
        versions=versions,
        error=_error_line(problem),
        remedy=problem.remedy if isinstance(problem, PipelineError) else "",
    )


def _groups(result: Result, problem: Exception | None) -> tuple[CheckGroup, ...]:
    """The checks of the result and of the error, one group per phase."""
    promoted = result.promotion.groups if result.promotion else ()
    failed = problem.groups if isinstance(problem, PipelineError) else ()
    by_phase: dict[Phase, list[Check]] = {}
    for group in (*promoted, *result.groups, *failed):
        by_phase.setdefault(group.phase, []).extend(group.checks)
    return tuple(
        CheckGroup(phase, tuple(by_phase[phase])) for phase in Phase if by_phase.get(phase)
    )
