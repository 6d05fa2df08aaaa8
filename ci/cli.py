"""The command line. Turns a :class:`ci.errors.PipelineError` into one line, its remedy and its
exit code; nothing else in ``ci`` prints an error or ends the process."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ci import home as homes
from ci import session as sessions
from ci.context import Context
from ci.errors import CommandFailed, Interrupted, PipelineError, PlanRefused, SettingsError
from ci.events import Event
from ci.model import Outcome, Result, Rollback, RunRecord, StepRecord
from ci.report import terminal
from ci.session import Session
from ci.settings import DEMO_TARGET, Options, Settings, check_references, load, members

ROOT = Path(__file__).resolve().parent.parent

EPILOG = """
Examples:

  python3 pipeline.py                        build, prove, promote to the demonstration target

  python3 pipeline.py prove --keep-cluster   the inner loop: redeploys and proves in seconds

  python3 pipeline.py run --target prod      the same for [targets.prod] of pipeline.toml

  python3 pipeline.py test                   every check and the whole flow
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


@dataclass(frozen=True, slots=True)
class Common:
    """Options that every command has."""

    toolchain: Origin
    config: Path
    verbose: bool


ToolchainOption = Annotated[
    Origin,
    typer.Option(
        "--toolchain",
        help="Where tools may come from: auto (present, else downloaded, else built), "
        "download, or source (package registries only).",
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", help="Settings; pipeline.toml.example explains every key.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Every note as a line; tracebacks of defects.")
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help=f"A [targets.NAME] block of the settings; `{DEMO_TARGET}` is the demonstration "
        "cluster that the pipeline makes itself.",
    ),
]
ChartChangeOption = Annotated[
    bool,
    typer.Option(
        "--chart-change",
        help="The chart is another than the live one, on purpose: all that it changes is shown "
        "and allowed, and its new defaults are taken (--reset-then-reuse-values).",
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Promote an image that the target serves already all the same; without it that is "
        "verified, and nothing is changed.",
    ),
]
KeepOption = Annotated[
    bool,
    typer.Option("--keep-cluster", help="Keep the gate cluster for the next run, and reuse it."),
]

DEFAULT_CONFIG = Path("pipeline.toml")


@app.command()
def run(
    target: TargetOption = DEMO_TARGET,
    keep_cluster: KeepOption = False,
    force: ForceOption = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Build, prove on a throwaway cluster, promote what was proven, verify. The default."""
    common = Common(toolchain, config, verbose)
    _work(
        "run",
        common,
        lambda c: _flow().run(c, Options(target, keep_cluster, force=force)),
        targets=(target,),
    )


@app.command()
def build(
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Build the service's image with Dagger and publish it, nothing else."""
    _work("build", Common(toolchain, config, verbose), lambda c: _flow().build_only(c, Options()))


@app.command()
def prove(
    keep_cluster: KeepOption = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Prove the source as it is with the end-to-end tests. Promotes nothing.

    An unchanged source is not built again, and a cluster kept by --keep-cluster is used again.
    """
    _work(
        "prove",
        Common(toolchain, config, verbose),
        lambda c: _flow().prove_only(c, Options(keep_cluster=keep_cluster)),
        needs_dagger=lambda c: not _flow().builds_nothing(c),
    )


@app.command()
def promote(
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="REPOSITORY@sha256:… that was proven, or `last`: what this checkout proved last.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="As for the other commands; given again, further targets, one after the other. "
            "A [waves.NAME] block: its targets, wave by wave.",
        ),
    ] = None,
    approve: Annotated[
        str,
        typer.Option(
            "--approve",
            metavar="NAME",
            help="Approve it in your name, for a target with `approval = true`; signed and kept.",
        ),
    ] = "",
    chart_change: ChartChangeOption = False,
    force: ForceOption = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Promote an image whose signed evidence is attached to it in its registry.

    It may have been proven on any machine. Evidence that is missing, edited, too old, signed by
    a key that is not trusted, of another image or chart, or without a required case is refused.
    An image that the target serves already is verified, and nothing is changed, unless --force is
    given. Of several targets, the first that fails stops those that have not begun.
    """
    words = ["--toolchain", toolchain.value, "--config", str(config)]
    words += ["--approve", approve] if approve else []
    words += ["--chart-change"] if chart_change else []
    words += ["--force"] if force else []
    options = Options(approve=approve, chart_change=chart_change, force=force)
    _work(
        "promote",
        Common(toolchain, config, verbose),
        lambda c: _flow().promote_to(c, target or [DEMO_TARGET], options, image, words),
        targets=target or [DEMO_TARGET],
        signs=bool(approve),
        needs_dagger=None,
    )


@app.command()
def rehearse(
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="REPOSITORY@sha256:… that was proven, or `last`: what this checkout proved last.",
        ),
    ] = "last",
    target: TargetOption = DEMO_TARGET,
    keep_cluster: KeepOption = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Rehearse a promotion on the gate cluster with the target's live release. Changes no target.

    The release is upgraded, upgraded again unchanged, made to fail, and rolled back; the signed
    verdict is attached to the image. Status 22 when the change broke it.
    """
    _work(
        "rehearse",
        Common(toolchain, config, verbose),
        lambda c: _flow().rehearse_only(c, Options(target, keep_cluster), image),
        targets=(target,),
        needs_dagger=lambda c: not _flow().emulator_built(c),
    )


@app.command()
def plan(
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="REPOSITORY@sha256:… that was proven, or `last`: what this checkout proved last.",
        ),
    ],
    target: TargetOption = DEMO_TARGET,
    chart_change: ChartChangeOption = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Show what promoting a proven image would change on a target. Changes nothing.

    Rendered by the target's server with the release's live values, hooks included, secrets
    hidden. Status 0 when only the image would change, 31 when the promotion would be refused.
    """

    def body(context: Context) -> Result:
        found = _flow().plan(context, Options(target, chart_change=chart_change), image)
        terminal.plan(found)
        if found.refused:
            raise PlanRefused(
                f"the upgrade would change more than the image: {len(found.refused)} of"
                f" {len(found.differences)} differences do not derive from its tag",
                remedy="make these changes in a release of their own, then promote the image",
            )
        wrong = [check for check in found.checks if not check.ok]
        if wrong:
            raise PlanRefused(
                f"the promotion would be refused: {wrong[0].name}: {wrong[0].evidence}",
                remedy="see what was asked, above",
            )
        return Result()

    _work(
        "plan",
        Common(toolchain, config, verbose),
        body,
        targets=(target,),
        needs_dagger=None,
        record=False,
    )


@app.command()
def approve(
    image: Annotated[
        str,
        typer.Option(
            "--image",
            help="REPOSITORY@sha256:… that was proven, or `last`: what this checkout proved last.",
        ),
    ],
    by: Annotated[str, typer.Option("--by", help="Who approves; it stands in the statement.")],
    target: TargetOption = DEMO_TARGET,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Approve a proven image for a target, for a later promotion. Changes no cluster.

    The approval is a second signed statement beside the evidence, in the image's registry.
    """
    _work(
        "approve",
        Common(toolchain, config, verbose),
        lambda c: _flow().approve_only(c, Options(target, approve=by), image),
        targets=(target,),
        needs_dagger=None,
    )


@app.command()
def verify(
    target: TargetOption = DEMO_TARGET,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Check the success criteria on a target's live state. Changes nothing."""
    _work(
        "verify",
        Common(toolchain, config, verbose),
        lambda c: _flow().verify_only(c, Options(target)),
        targets=(target,),
        needs_dagger=None,
    )


@app.command()
def rollback(
    target: TargetOption = DEMO_TARGET,
    revision: Annotated[
        int | None,
        typer.Option(
            "--revision",
            min=1,
            help="Helm revision; when left out, the last that was deployed and serves something "
            "else than now.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show from what to what, and change nothing.")
    ] = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Return a target's release to what it served before, and verify it.

    Revisions are compared by what they serve (images, values, chart), not by their number. What
    differs is shown before anything is done. Status 0 also where the release serves what --revision
    names already; 31 where there is nothing to return to.
    """
    planned: list[Rollback] = []

    def body(context: Context) -> Result:
        result: Result = _flow().roll_back(context, Options(target), revision, dry_run=dry_run)
        if dry_run and result.rollback is not None:
            planned.append(result.rollback)
        return result

    common = Common(toolchain, config, verbose)
    _work("rollback", common, body, targets=(target,), needs_dagger=None, record=not dry_run)
    for found in planned:
        terminal.rollback(found)


@app.command()
def status(
    target: TargetOption = DEMO_TARGET,
    as_json: Annotated[bool, typer.Option("--json", help="As data, for other programs.")] = False,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Show what a target runs: revisions, Deployments, pods, digests."""

    def body(context: Context) -> Result:
        found = _flow().status(context, Options(target))
        if as_json:
            print(json.dumps(asdict(found), indent=1, default=str))
        else:
            terminal.status(found)
        return Result()

    _work(
        "status",
        Common(toolchain, config, verbose),
        body,
        targets=(target,),
        needs_dagger=None,
        record=False,
    )


@app.command()
def doctor(
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Show every tool: pinned and found version, origin, state, remedy. Changes nothing."""
    common = Common(toolchain, config, verbose)

    def body(session: Session) -> None:
        from ci.toolchain import inspect

        states = inspect(
            session.home.folder,
            session.programs,
            session.clock,
            session.events,
            session.env,
            toolchain.value,
        )
        terminal.doctor(states)

    _quick(common, body, brief=True)


@app.command("test")
def check(
    quick: Annotated[
        bool, typer.Option("--quick", help="Lint, types and unit tests only: no cluster.")
    ] = False,
    matrix: Annotated[
        bool | None,
        typer.Option(
            "--matrix/--no-matrix",
            help="Only the failure matrix (promotions made to fail on a cluster of their own, with "
            "a table of how each ended; some 20 minutes), or all but that.",
        ),
    ] = None,
    toolchain: ToolchainOption = Origin.AUTO,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """Run every check: lint, types, unit tests, the whole flow, and the flow that must fail."""
    common = Common(toolchain, config, verbose)

    def body(session: Session) -> None:
        from ci import selftest

        if not selftest.run(session, toolchain.value, quick=quick, matrix=matrix):
            raise typer.Exit(1)

    _quick(common, body, record="test")


@app.command()
def clean(
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also the tools, images and environments: the next run starts from nothing. "
            "Never the keys.",
        ),
    ] = False,
    demo_target: Annotated[
        bool,
        typer.Option(
            "--demo-target",
            help=f"Also the demonstration target `{DEMO_TARGET}`; on a terminal it is asked for.",
        ),
    ] = False,
    keys: Annotated[
        bool,
        typer.Option(
            "--keys", help="Also the signing key that was made here; nothing else removes it."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer what would be asked.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: VerboseOption = False,
) -> None:
    """List, then remove the clusters and containers that the pipeline made.

    Says what is left behind and how that is removed by hand; docs/uninstall.md has all of it.
    """
    from ci import cleaning

    def session() -> AbstractContextManager[Session]:
        return sessions.opened(ROOT, os.environ, settings, record=False)

    with _told(verbose):
        settings = _settings(config)
        with session() as looking:
            there = cleaning.survey(looking)
        chosen = cleaning.Choice(everything, keys, demo_target or yes)
        plan = cleaning.plan(there, chosen)
        _print(cleaning.listing(plan, dry_run=dry_run))
        # No session is open meanwhile: Ctrl-C ends the question.
        if plan.asks and not dry_run and _on_terminal() and _agreed():
            plan = cleaning.plan(there, replace(chosen, demo_target=True))
            _print(cleaning.listing(plan))
        if dry_run:
            _print(cleaning.leaving(plan))
            return
        with session() as removing:
            failures = cleaning.carry_out(removing, plan, lambda line: _print([line]))
        _print(cleaning.leaving(plan))
        if failures:
            first = failures[0]
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise CommandFailed(
                f"{first.item.kind} {first.item.name} was not removed: {first.why}{more}",
                remedy="see why, and run it again",
            )


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _agreed() -> bool:
    """Raises :class:`ci.errors.Interrupted` for Ctrl-C."""
    try:
        return typer.confirm(f"Remove the demonstration target {DEMO_TARGET}, too?")
    except typer.Abort:
        raise Interrupted("interrupted", remedy="nothing was removed") from None


def main(argv: list[str] | None = None) -> int:
    """The process's exit status. ``pipeline.py`` alone, or with options only, is ``run``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    try:
        app(words, prog_name="pipeline.py")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _flow() -> Any:
    from ci import flow

    return flow


def _work(
    command: str,
    common: Common,
    body: Callable[[Context], Result],
    *,
    targets: Sequence[str] = (),
    signs: bool = False,
    needs_dagger: Callable[[Context], bool] | None = lambda _: True,
    record: bool = True,
) -> None:
    """A command that uses the tools: look for what the settings name, obtain the tools, continue
    under ``dagger run`` where it builds, do ``body``, and close with a summary.

    ``targets`` are the targets or waves that it is about; ``signs``: it signs something although
    the command as such does not."""
    with _told(common.verbose):
        settings = _settings(common.config)
        check_references(settings, command, targets, signs=signs, env=os.environ, root=ROOT)
    view = terminal.view(sys.stderr, verbose=common.verbose, brief=not record)
    session: Session | None = None
    result, problem, supervised = Result(), None, None
    versions: tuple[tuple[str, str], ...] = ()
    try:
        with (
            sessions.opened(
                ROOT,
                os.environ,
                settings,
                listeners=[lambda _: _shown(view)],
                record=record,
                command=command,
                targets=[name for each in targets for name in members(settings, each)],
            ) as session,
        ):
            with view:
                tools = session.tools(common.toolchain.value)
                versions = tools.versions
                context = session.context(tools)
                again = (
                    needs_dagger is not None
                    and not session.under_dagger()
                    and needs_dagger(context)
                )
            if again:
                supervised = session.continue_under_dagger(tools, sys.argv[1:])
            else:
                with view:
                    result = body(context)
    except Exception as error:
        problem = error
    if supervised is not None:
        raise typer.Exit(supervised)  # everything was told by the process under dagger run
    if session is None:
        with _told(common.verbose):
            raise problem or AssertionError("a session is opened or refused")
    if problem is not None and session.programs.cancel.is_set() and _is_interrupt(session):
        problem = _interrupted(problem)
    if record:
        finished = _record(command, session, result, problem, versions)
        _leave(session, finished)
        terminal.summary(finished)
    with _told(common.verbose):
        if problem is not None:
            raise problem


def _quick(
    common: Common,
    body: Callable[[Session], None],
    *,
    record: str = "",
    brief: bool = False,
) -> None:
    """A command that looks after itself and needs no tools. With ``record``, its name, it leaves
    a run folder."""
    with _told(common.verbose):
        settings = _settings(common.config)
        view = terminal.view(sys.stderr, verbose=common.verbose, brief=brief)
        with (
            sessions.opened(
                ROOT,
                os.environ,
                settings,
                listeners=[lambda _: _shown(view)],
                record=bool(record),
                command=record,
            ) as session,
            view,
        ):
            problem: Exception | None = None
            try:
                body(session)
            except Exception as error:
                problem = error
                raise
            finally:
                if record:
                    _leave(session, _record(record, session, Result(), problem, ()))


def _leave(session: Session, finished: RunRecord) -> None:
    """Write what a run leaves behind: its summary, and the report. One that cannot be rendered
    is noted, and changes nothing of how the run ended."""
    homes.write(session.run_dir / "summary.json", asdict(finished))
    try:
        from ci.report import html

        html.write(session.run_dir, datetime.now(UTC))
    except Exception as problem:
        session.events.note(f"no report was written: {type(problem).__name__}: {problem}")


def _settings(config: Path) -> Settings:
    path = config if config.is_absolute() else Path.cwd() / config
    if config == DEFAULT_CONFIG and not path.exists():
        path = ROOT / config
    elif not path.exists():
        raise SettingsError(f"there is no settings file {config}")
    return load(path)


def _shown(view: Any) -> Callable[[Event], None]:
    return lambda event: view(event)


class _told:
    """Turns an error into its two lines and its exit code."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose

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
            what = f"{type(problem).__name__}: {problem}"
            foreseen = PipelineError(f"a defect of the pipeline: {what}")
        assert isinstance(foreseen, PipelineError)
        if self._verbose:
            traceback.print_exception(problem, file=sys.stderr)
        print(sessions.explain(foreseen), file=sys.stderr, flush=True)
        raise SystemExit(foreseen.exit_code) from None


def _is_interrupt(session: Session) -> bool:
    return any(event.kind == "run.cancelled" for event in session.events.all)


def _interrupted(problem: Exception) -> Exception:
    """Ctrl-C is what the person is told, unless the cleanup itself went wrong."""
    from ci.errors import PromotionFailed, RollbackFailed

    if isinstance(problem, RollbackFailed | Interrupted):
        return problem
    if isinstance(problem, PromotionFailed):
        told = Interrupted(f"interrupted; {problem}", remedy=problem.remedy)
        told.found = problem.found
        return told
    return Interrupted("interrupted")


def _said(problem: Exception | None) -> str:
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
    steps = []
    parents: dict[str, str] = {}
    for event in session.events.all:
        if event.kind == "step.started":
            parents[event.step] = str(event.data.get("parent", ""))
        elif event.kind in ("step.finished", "step.failed"):
            ended = Outcome.PASSED if event.kind == "step.finished" else Outcome.FAILED
            seconds = float(event.data["seconds"])
            steps.append(StepRecord(event.step, seconds, ended, parents.get(event.step, "")))
    earlier = session.handed.steps if session.handed else ()
    before = [StepRecord(name, s, Outcome.PASSED, parent) for name, s, parent in earlier]
    code = 0
    if problem is not None:
        code = problem.exit_code if isinstance(problem, PipelineError) else 1
    return RunRecord(
        id=session.run_dir.name,
        command=command,
        outcome=Outcome.PASSED if problem is None else Outcome.FAILED,
        exit_code=code,
        seconds=round(session.elapsed(), 3),
        steps=tuple(before + steps),
        folder=session.run_dir,
        image=result.image,
        cases=result.proof.cases if result.proof else (),
        promotion=result.promotion,
        checks=result.checks,
        attempted=problem.found if isinstance(problem, PipelineError) else (),
        rollback=result.rollback,
        versions=versions,
        error=_said(problem),
        remedy=problem.remedy if isinstance(problem, PipelineError) else "",
    )
