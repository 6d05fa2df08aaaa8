"""Every way the pipeline can fail: one class per failure, each with its exit code and a remedy.

Nothing else in ``ci`` prints an error or calls :func:`sys.exit`; the command line
(:mod:`ci.cli.app`) turns a :class:`PipelineError` into one line, its remedy and its exit code.
"""

from __future__ import annotations

from typing import ClassVar, Self

from ci.results import CauseId, Check, CheckGroup, Phase


class PipelineError(Exception):
    """A failure that the pipeline expects. ``str(error)`` is one line; ``remedy`` says what to do.

    ``exit_code`` belongs to the class, so that scripts can tell failures apart; docs/commands.md
    lists every code (a unit test compares the two).
    """

    exit_code: ClassVar[int] = 1
    default_remedy: ClassVar[str] = "run again with --verbose and report this as a defect"

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.groups: tuple[CheckGroup, ...] = ()
        """The checks made before the failure, the failed ones included."""
        self.cause: CauseId | None = None
        """Why a change failed, if the code that raised the error knows more than its checks."""
        self.remedy = remedy if remedy is not None else self.default_remedy

    def carrying(self, phase: Phase, *checks: Check, cause: CauseId | None = None) -> Self:
        """This error with the checks made so far; for ``raise``."""
        return self.carrying_all((CheckGroup(phase, checks),) if checks else (), cause)

    def carrying_all(self, groups: tuple[CheckGroup, ...], cause: CauseId | None = None) -> Self:
        self.groups += groups
        self.cause = cause or self.cause
        return self

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for group in self.groups for check in group.checks)


class SettingsError(PipelineError):
    """``pipeline.toml``, an option or an environment variable has an unknown key or a bad value."""

    exit_code = 3
    default_remedy = "correct pipeline.toml; pipeline.toml.example explains every key"


class ToolchainError(PipelineError):
    """A tool could not be obtained from any of its origins."""

    exit_code = 4
    default_remedy = "run `python3 pipeline.py doctor` to see which tool is missing"


class DockerUnavailable(PipelineError):
    """No Docker daemon answers and none can be installed."""

    exit_code = 5
    default_remedy = "start Docker, or run as root on Debian to have it installed"


class DiskFull(PipelineError):
    """The disk has not enough free space for the next step."""

    exit_code = 6
    default_remedy = "free disk space, for example with `python3 pipeline.py clean`"


class Locked(PipelineError):
    """Another run holds a lock that this one needs."""

    exit_code = 7
    default_remedy = "wait for the other run to end, then run again"


class BuildFailed(PipelineError):
    """The service image does not build."""

    exit_code = 10
    default_remedy = "correct the Dockerfile or the source; the build log is in the run's folder"


class RegistryRefused(PipelineError):
    """The image registry refused a login, a push or a pull."""

    exit_code = 11
    default_remedy = "check image_repository and registry_login of the target in pipeline.toml"


class ClusterFailed(PipelineError):
    """The gate cluster could not be created."""

    exit_code = 12
    default_remedy = "see logs/kind-*.log in the run's folder"


class ChartInvalid(PipelineError):
    """The chart does not render."""

    exit_code = 13
    default_remedy = "render it alone with `helm template`, and correct the template or the values"


class DeployFailed(PipelineError):
    """The release did not become ready on the gate cluster."""

    exit_code = 14
    default_remedy = "see the pods' logs under evidence/ in the run's folder"


class ForeignCluster(DeployFailed):
    """Stand-ins were requested on a cluster that the pipeline did not create; nothing changed."""

    exit_code = 15
    default_remedy = "configure the target's own services in its release: stand-ins are for tests"


class ProofFailed(PipelineError):
    """The end-to-end tests failed or did not run, so nothing may be promoted."""

    exit_code = 20
    default_remedy = "see the failed cases in the run's report; the target was not touched"


class RehearsalFailed(PipelineError):
    """The change broke the target's release on the gate cluster, so it may not be promoted."""

    exit_code = 22
    default_remedy = "correct the chart or the image; the target was not touched"


class EvidenceRefused(PipelineError):
    """No evidence allows the promotion: it is missing, unsigned, of another image or chart, too old
    or failed, or it lacks a required case or approval."""

    exit_code = 21
    default_remedy = "prove the image: `python3 pipeline.py prove`"


class TargetNotFound(PipelineError):
    """The target's kubeconfig, context, namespace or release does not exist."""

    exit_code = 30
    default_remedy = "correct the target's block in pipeline.toml"


class PlanRefused(PipelineError):
    """The upgrade would change more than the image, or the release cannot be upgraded now."""

    exit_code = 31
    default_remedy = "see the refused differences above; the target was not touched"


class PromotionFailed(PipelineError):
    """The promotion failed and the target was rolled back to the recorded revision."""

    exit_code = 32
    default_remedy = "the target serves its previous image; see the cause in the run's report"


class RollbackFailed(PipelineError):
    """The rollback itself failed: someone has to act now."""

    exit_code = 33
    default_remedy = "run backups/quick-rollback.sh of this run by hand"


class VerifyFailed(PipelineError):
    """The live release does not meet the success criteria."""

    exit_code = 34
    default_remedy = "see the failed criteria above"


class WaitTimeout(PipelineError):
    """A wait reached its deadline; the message says what it waited for and the last state."""

    exit_code = 40
    default_remedy = "see the last state above, and the logs in the run's folder"


class CommandFailed(PipelineError):
    """A program ended with a non-zero status; the message has its command line, quoted for a
    shell."""

    exit_code = 41
    default_remedy = "see the program's output above"

    def __init__(
        self,
        message: str,
        *,
        argv: tuple[str, ...] = (),
        status: int = 1,
        output: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.argv = argv
        self.status = status
        self.output = output


class Interrupted(PipelineError):
    """Ctrl-C or SIGTERM; what the run started has been cleaned up or rolled back."""

    exit_code = 130
    default_remedy = "everything was cleaned up; run again when ready"


def of_exit_code(code: int) -> type[PipelineError]:
    """The class with an exit code; :class:`PipelineError` for a code that no class has."""
    kinds: list[type[PipelineError]] = [PipelineError]
    while kinds:
        kind = kinds.pop()
        if kind.exit_code == code and kind is not PipelineError:
            return kind
        kinds += kind.__subclasses__()
    return PipelineError


def error_summary(problem: BaseException) -> str:
    """A failure in one line; of a program that failed, the last line it printed."""
    if isinstance(problem, CommandFailed) and problem.output:
        return " ".join(problem.output.splitlines()[-1].split())
    first = (str(problem) or type(problem).__name__).splitlines()[0]
    return " ".join(first.split())
