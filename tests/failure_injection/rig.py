"""What the cases stand on: the cluster, the images, and a place of its own for each case."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ci import standins as manifests
from ci.cli.selftest import FAILURE_INJECTION
from ci.errors import CommandFailed, PipelineError, RehearsalFailed
from ci.model import (
    Case,
    ChangeRecord,
    Cluster,
    Image,
    PlanRecord,
    Promotion,
    Proof,
    Registry,
    Rehearsal,
    Rollback,
    RollbackOutcome,
    RunRecord,
    Target,
    Tools,
)
from ci.promotion.probes import in_cluster
from ci.promotion.probes.prober import Account
from ci.promotion.release import lease
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade.post_upgrade_test import After
from ci.report import files, verdict
from ci.results import (
    REQUIRED_BY_DEFAULT,
    CauseId,
    ChangeState,
    Check,
    CheckId,
    Outcome,
    StepId,
    VerdictId,
)
from ci.run import changes
from ci.run import state as homes
from ci.run.context import Context
from ci.run.events import CHANGE, Event, Events
from ci.settings import Probing, Settings
from ci.stages.promote import promote, rollback
from ci.stages.rehearse import Actors, refuse_failed, rehearse
from ci.tools.command import Programs
from ci.tools.helm import Helm, Revision
from ci.tools.kube import Kube
from ci.tools.wait import Cancellable, SystemClock, wait_until
from tests.failure_injection import images

ROOT = Path(__file__).parents[2]
CHART = Path(__file__).parent / "chart"
CERTS = "certs.d"
"""Where the node looks how to reach a registry, below the rig's folder."""
RELEASE = "engine-release"
PASSWORD = "swordfish-of-the-matrix"
REQUIRE = (
    *REQUIRED_BY_DEFAULT,
    "!queue.*",  # the small service has no Service Bus
    "!migration.*",  # its chart has a hook that migrates, and is allowed to
    "!health.proven",  # its proof has no such case
    "!health.under-load",
)
"""What the cases' targets require, unless a case says otherwise."""
WITHOUT_API = (*REQUIRE, "!api.*")
"""Of cases whose images, or whose proofs, describe no API."""
WITHOUT_PULL = (*REQUIRE, "!image.pullable")
"""Of cases that turn it off."""
WITNESS = "witness"
WITNESS_RATE = 10.0
WITNESS_SECONDS = 3600
"""No cluster of these tests lasts longer."""


@dataclass(frozen=True, slots=True)
class Rig:
    """Made once, used by every worker."""

    tools: Tools
    cluster: Cluster
    images: Mapping[str, Image]
    folder: Path
    """Where the table and each case's run folder go."""


@dataclass(slots=True)
class Row:
    """One line of the table: what a case promised, and how it ended, by ids alone."""

    case: str
    promised: tuple[VerdictId, ...] = ()
    """How every change of the case has to end, in order; empty where the case itself says it."""
    either: bool = False
    """Whether the case's only change may end in any of ``promised``."""
    note: str = ""
    """For whoever reads the table."""
    ended: list[VerdictId] = field(default_factory=list)
    """How every promotion, rollback and rehearsal of the case ended, in order."""
    exit_codes: list[int] = field(default_factory=list)
    """Of the same."""
    cause: CauseId | None = None
    """Why the last change that failed did."""
    message: str = ""
    """Its error and remedy, for people."""
    serves: str = ""
    """The version that answers at the end; as the rest below."""
    revision: int = 0
    status: str = ""
    holder: str = ""
    sent: int | None = None
    """Requests, as a witness in the cluster that the promotion knows nothing of saw them."""
    failed: int = 0
    seconds: float = 0.0
    passed: bool = False

    @property
    def kept(self) -> bool:
        """Whether every change ended as promised."""
        if self.either:
            return len(self.ended) == 1 and self.ended[0] in self.promised
        return not self.promised or tuple(self.ended) == self.promised


@dataclass(frozen=True, slots=True)
class End:
    """The state on the cluster."""

    version: str
    """What the Service answers, of every ready pod."""
    digests: frozenset[str]
    revision: int
    status: str
    holder: str
    """Who holds the promotion's lock."""

    def __str__(self) -> str:
        held = f", lock held by {self.holder}" if self.holder else ""
        return f"{self.version} serves, revision {self.revision} {self.status}{held}"


def proof(image: Image) -> Proof:
    """What a passing proof of the image would be: how it comes about is tested elsewhere."""
    case = Case("test_of_the_matrix", Outcome.PASSED, 1.0)
    api = images.api(image.tag)
    return Proof(image, (case,), Path("junit.xml"), datetime.now(UTC), api=api)


def failed(checks: Iterable[Check]) -> list[CheckId]:
    return [check.id for check in checks if check.failed]


def ended(
    command: str,
    context: Context,
    problem: PipelineError | None,
    state: ChangeState | None = None,
) -> VerdictId:
    """How a command ended, by the same rules as a run's report. ``state`` is what its result says
    of the target; without one the context's events do."""
    change = changes.latest(event.data for event in context.events.all if event.kind == CHANGE)
    if state is not None:
        change = ChangeRecord("matrix", state)
    record = RunRecord(
        context.run_dir.name,
        command,
        Outcome.PASSED if problem is None else Outcome.FAILED,
        0 if problem is None else problem.exit_code,
        datetime.now(UTC),
        0.0,
        (),
        context.run_dir,
        change=change,
    )
    return verdict.identify(record, finished=True)


STATES: Mapping[RollbackOutcome, ChangeState] = {
    RollbackOutcome.ROLLED_BACK: ChangeState.ROLLED_BACK,
    RollbackOutcome.ALREADY_THERE: ChangeState.ALREADY_SERVED,
}


@dataclass(slots=True)
class Standing:
    """A release that the cases of one process use after one another; empty while there is none."""

    namespace: str = ""


@dataclass(slots=True)
class Place:
    """A namespace with a release of its own, and everything to look at it from outside."""

    rig: Rig
    namespace: str
    row: Row
    standing: Standing = field(default_factory=Standing)
    chart: Path = CHART
    hooks: list[Callable[[Event], None]] = field(default_factory=list)
    runs: int = 0
    witness: str = ""
    first: int = 1
    """The revision that the case found, or installed."""
    seen_before: tuple[int, int] = (0, 0)
    """Requests sent and failed, by the witness's account, when the case began."""
    returns: bool = False
    """Whether the release may stand for the next case, should this one pass."""
    folder: Path = field(init=False)
    """Where the case leaves what it made."""

    def __post_init__(self) -> None:
        self.folder = self.rig.folder / self.namespace

    # -- tools of the test itself, apart from those under test --------------------------------

    @property
    def programs(self) -> Programs:
        return Programs(env=os.environ, logs=self.folder / "test")

    @property
    def kube(self) -> Kube:
        return Kube(self.rig.tools.kubectl, self.rig.cluster, self.programs, SystemClock())

    @property
    def helm(self) -> Helm:
        return Helm(self.rig.tools.helm, self.rig.cluster, self.programs)

    def kubectl(self, *words: str, input: str | None = None) -> str:
        return self.kube.run(*words, "--namespace", self.namespace, input=input).stdout

    def history(self) -> list[Revision]:
        return self.helm.history(RELEASE, self.namespace)

    # -- the release ----------------------------------------------------------------------------

    def stand(self) -> None:
        """A watched release that serves v1: the one that the case before left so, else a new
        one. For cases that leave it so, too."""
        if self.standing.namespace:
            self.namespace, self.witness = self.standing.namespace, WITNESS
            self.standing.namespace = ""
            self.first = self.history()[-1].number
            account = self._witnessed()
            self.seen_before = (account.sent, account.failed)
        else:
            # One pod each is replaced in half the time, and is harder to replace without a gap.
            self.install(replicas={"gateway": 1, "builder": 1})
            self.watch()
        self.returns = True

    def install(self, tag: str = "v1", *, repository: str = "", **values: Any) -> None:
        repository = repository or self.rig.images[tag].repository
        self.helm.install(
            RELEASE,
            self.chart,
            self.namespace,
            {"tag": tag, "image": {"repository": repository}, "password": PASSWORD, **values},
            timeout=180,
        )

    def upgrade_words(self, tag: str, timeout: str) -> list[str]:
        """A bare upgrade, as somebody without this project does it."""
        words = self.helm.upgrade_words(RELEASE, self.chart, {"tag": tag})
        return self.helm.argv(*words, "--wait", "--timeout", timeout, namespace=self.namespace)

    def target(self, **changed: Any) -> Target:
        described: dict[str, Any] = {
            "name": "matrix",
            "cluster": self.rig.cluster,
            "namespace": self.namespace,
            "release": RELEASE,
            "chart": self.chart,
            "image_repository": self.rig.images["v1"].repository,
            "timeout_seconds": 150,
            "gateway": "engine",
            "health_paths": ("/health", "/readyz"),
            "deployments": ("engine", "engine-builder"),
            "probing": Probing(path="/work"),
            "allow_migrations": True,
            "require": REQUIRE,
        }
        return Target(**{**described, **changed})

    def context(self, registry: Registry | None = None) -> Context:
        """Of one more run; ``registry`` is one that stands for the local one."""
        self.runs += 1
        run_dir = self.folder / f"run-{self.runs}"
        cancel = threading.Event()
        clock = Cancellable(SystemClock(), cancel)
        programs = Programs(env=os.environ, logs=run_dir / "logs", cancel=cancel)
        events = Events(clock, path=run_dir / "events.jsonl", redactor=programs.redactor)
        for hook in self.hooks:
            events.listen(hook)
        home = homes.Home(homes.path(os.environ))
        tools = self.rig.tools
        if registry is not None:
            tools = replace(tools, registry=registry)
        return Context(ROOT, Settings(), tools, programs, clock, events, run_dir, home)

    def session(self, context: Context | None = None, **changed: Any) -> TargetSession:
        """Of the case's target in one more run."""
        target = self.target(**changed)
        return TargetSession.open(context or self.context(), target, reach=manifests.reach)

    def promote(
        self,
        version: str | Image,
        *,
        after: After | None = None,
        context: Context | None = None,
        proven: Callable[[Image], Proof] = proof,
        force: bool = False,
        **changed: Any,
    ) -> Promotion:
        image = self.rig.images[version] if isinstance(version, str) else version
        session = self.session(context, **changed)
        with self.recorded("promote", session.context) as stands:
            promoted = promote(session, proven(image), after=after, force=force)
            stands.append(promoted.state)
        return promoted

    def rehearse(self, version: str) -> Rehearsal:
        """On this very cluster, in a namespace beside the release's own."""
        actors = Actors(partial(promote, recorded=False), partial(rollback, recorded=False))
        session = self.session(name=self.namespace)
        image = self.rig.images[version]
        rehearsal = rehearse(session, self.rig.cluster, proof(image), actors, redirect={})
        with suppress(RehearsalFailed), self.recorded("rehearse", session.context):
            refuse_failed(rehearsal)
        return rehearsal

    def rollback(self, revision: int | None = None, *, dry_run: bool = False) -> Rollback:
        session = self.session()
        if dry_run:
            return rollback(session, revision, dry_run=True)
        with self.recorded("rollback", session.context) as stands:
            done = rollback(session, revision)
            stands.append(STATES[done.outcome])
        return done

    @contextmanager
    def recorded(self, command: str, context: Context) -> Iterator[list[ChangeState]]:
        """Write down how the command in the block ended; it appends where the target stands."""
        stands: list[ChangeState] = []
        try:
            yield stands
        except PipelineError as problem:
            self.row.ended.append(ended(command, context, problem))
            self.row.exit_codes.append(problem.exit_code)
            raise
        state = stands[-1] if stands else None
        self.row.ended.append(ended(command, context, None, state))
        self.row.exit_codes.append(0)

    def refused(
        self,
        error: type[PipelineError],
        *facts: str,
        cause: CauseId | None = None,
        check: CheckId | None = None,
    ) -> Callable[..., PipelineError]:
        """Calls what has to raise exactly ``error``, for this ``cause`` and with this ``check``
        among those that failed, where they are given. ``facts`` are what other programs said, or
        what a person has to type: each has to be in the error or its remedy."""

        def call(fn: Callable[..., object], *a: Any, **k: Any) -> PipelineError:
            try:
                fn(*a, **k)
            except PipelineError as raised:
                problem = raised
            else:
                raise AssertionError(f"{error.__name__} was expected, and nothing was raised")
            text = self.row.message = f"{problem} | {problem.remedy}"
            self.row.cause = problem.cause
            assert type(problem) is error, f"{type(problem).__name__}: {text}"
            assert cause in (None, problem.cause), f"{problem.cause}: {text}"
            assert check is None or check in failed(problem.checks), f"{problem.checks}: {text}"
            for fact in facts:
                assert fact in text, f"{fact!r} is not in: {text}"
            assert PASSWORD not in text, "a secret is in the error"
            return problem

        return call

    def plan(self, run: int = 1) -> PlanRecord:
        """What one of the case's promotions planned."""
        text = (self.folder / f"run-{run}" / files.PLAN).read_bytes()
        return files.adapter(PlanRecord).validate_json(text)

    # -- how it ended ---------------------------------------------------------------------------

    def end(self) -> End:
        pods = self.kube.pods(self.namespace, "app=engine")
        serving = [
            pod
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
            and any(
                c["type"] == "Ready" and c["status"] == "True"
                for c in pod["status"].get("conditions", [])
            )
        ]
        path = f"/api/v1/namespaces/{self.namespace}/services/http:engine:80/proxy/version"
        answers = {self.answer(path) for _ in range(3)}
        held = lease.read(self.kube, RELEASE, self.namespace)
        latest = self.history()[-1]
        return End(
            "+".join(sorted(answers)),
            frozenset(
                status["imageID"].rpartition("@")[2]
                for pod in serving
                for status in pod["status"]["containerStatuses"]
            ),
            latest.number,
            latest.status,
            str((held.get("spec") or {}).get("holderIdentity") or ""),
        )

    def answer(self, path: str) -> str:
        """What the API server, or whom it forwards to, answers."""
        found = self.kube.ask("GET", path)
        if not found.ok:
            raise CommandFailed(f"GET {path}: {found.problem}")
        return found.text

    def ends(self, version: str, revision: int, *, status: str = "deployed") -> None:
        """The release serves ``version`` from every pod, and nobody holds the lock. The case
        found it at ``revision`` 1."""
        last = self.end()
        self.saw(last)
        if self.witness:
            self.witnessed()
        assert last.version == version, last
        assert last.digests == {self.rig.images[version].digest}, last
        assert (last.revision, last.status) == (self.first - 1 + revision, status), last
        assert not last.holder, last

    def saw(self, last: End) -> None:
        """Write down the state on the cluster."""
        row = self.row
        row.serves, row.revision, row.status = last.version, last.revision, last.status
        row.holder = last.holder

    def watch(self) -> None:
        """Start the witness: requests at a steady rate, of which none may be lost."""
        gateway = self.kube.read("deployments", "engine", self.namespace)
        assert gateway is not None
        target = self.target(probing=Probing(path="/version", per_second=WITNESS_RATE))
        pod = in_cluster.manifest(target, gateway, self.rig.images["v1"].by_tag)
        pod["metadata"] = {"name": WITNESS, "labels": {"matrix": WITNESS}}
        pod["spec"]["activeDeadlineSeconds"] = WITNESS_SECONDS
        # Two cases' releases and witnesses, and those that stand for the next, are to fit on it.
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "50m"
        self.kube.create("pods", self.namespace, pod)
        self.witness = WITNESS

        def began() -> bool:
            """kube-proxy may learn of a new Service later than a new pod does, which then asks
            whoever is behind the node. That says nothing about a promotion."""
            now = self._account()
            if now is None or now.answered < 3 or now.answered + now.failed < now.sent:
                return False
            self.seen_before = (now.sent, now.failed)
            return True

        wait_until("the witness's first answers", began, timeout=60, clock=SystemClock())

    def _account(self) -> Account | None:
        log = self.kube.logs(self.witness, self.namespace, tailLines=3)
        return in_cluster.parse(log.text) if log.ok else None

    def _witnessed(self) -> Account:
        found = self._account()
        assert found is not None, "the witness was lost"
        return found

    def witnessed(self) -> tuple[int, int]:
        """Requests sent and failed since the case began."""
        now = self._witnessed()
        sent, failed = now.sent - self.seen_before[0], now.failed - self.seen_before[1]
        self.row.sent, self.row.failed = sent, failed
        return sent, failed

    def nothing_lost(self) -> None:
        _, failed = self.witnessed()
        assert failed == 0, str(self._account())

    def leave(self) -> None:
        """Hand the release on to the next case, or remove it."""
        if self.returns and self.row.passed:
            self.standing.namespace = self.namespace
        else:
            self.remove()

    def remove(self) -> None:
        self.kube.run("delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")


# -- what a case does to programs ------------------------------------------------------------------


def processes(*words: str) -> list[int]:
    """Processes with all of ``words`` in their command line. The words name what only one case
    uses, so that these are processes of that case."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if all(any(word in part for part in line) for word in words):
                found.append(int(folder.name))
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def at_step(id: StepId, do: Callable[[], object], *, later: float = 0.0) -> Callable[[Event], None]:
    """A listener that calls ``do`` in a thread of its own, ``later`` seconds into a step."""

    def hear(event: Event) -> None:
        if event.kind == "step.started" and event.step == id:
            timer = threading.Timer(later, do)
            timer.daemon = True
            timer.start()

    return hear


def until(what: str, condition: Callable[[], object], timeout: float = 60) -> None:
    def true() -> bool:
        try:
            return bool(condition())
        except PipelineError:
            return False

    wait_until(what, true, timeout=timeout, clock=SystemClock(), interval=0.1)


def write(folder: Path, row: Row) -> None:
    path = folder / "rows"
    path.mkdir(parents=True, exist_ok=True)
    (path / f"{row.case}.json").write_text(json.dumps(asdict(row)), encoding="utf-8")


COLUMNS = (
    "case", "has to end", "ended", "exit codes", "cause", "serves", "failed requests", "seconds",
    "ok",
)  # fmt: skip


def table(folder: Path, into: Path) -> str:
    """The rows that the workers wrote: as JSON, which the run's report takes, and as Markdown.
    Those that failed come first."""
    found = [json.loads(p.read_text("utf-8")) for p in sorted((folder / "rows").glob("*.json"))]
    found.sort(key=lambda row: row["passed"])
    rows = [cells(row) for row in found]
    described = {
        "title": "Promotions that were made to fail",
        "note": "Failed requests are those that a witness in the cluster sent during the case.",
        "columns": COLUMNS,
        "rows": rows,
        "messages": {row["case"]: row["message"] for row in found},
    }
    (into / f"{FAILURE_INJECTION}.json").write_text(
        json.dumps(described, indent=1), encoding="utf-8"
    )
    lines = [COLUMNS, ["---"] * len(COLUMNS)]
    lines += [[*map(str, row), "yes" if passed else "NO"] for *row, passed in rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (into / f"{FAILURE_INJECTION}.md").write_text(text, encoding="utf-8")
    return text


def cells(row: Mapping[str, Any]) -> list[str | bool]:
    """A row of the table, of what :func:`write` wrote."""
    promised = (" or " if row["either"] else ", ").join(row["promised"])
    held = f", lock held by {row['holder']}" if row["holder"] else ""
    at = f" at revision {row['revision']}, {row['status']}" if row["revision"] else ""
    return [
        row["case"],
        "; ".join(filter(None, (promised, row["note"]))) or "see the case",
        ", ".join(row["ended"]) or "-",
        ", ".join(map(str, row["exit_codes"])) or "-",
        row["cause"] or "-",
        f"{row['serves']}{at}{held}" if row["serves"] else "-",
        "-" if row["sent"] is None else f"{row['failed']} of {row['sent']}",
        f"{row['seconds']:.0f}",
        bool(row["passed"]),
    ]


def monotonic() -> float:
    return time.monotonic()
