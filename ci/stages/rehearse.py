"""A target's live release -> Rehearsal: the change is done on the gate cluster before it is done
on the target, by the very code that will do it there.

The release is installed as it is live (chart, image, values; :mod:`ci.rehearsal.adapt` says what
has to differ), promoted to the proven image, promoted again with nothing changed, made to fail
and rolled back, and returned to its old image. What has to hold after each of these stands in
:mod:`ci.rehearsal.condition`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from ci import redaction, texts
from ci import standins as manifests
from ci.errors import (
    Interrupted,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    RehearsalFailed,
    WaitTimeout,
    error_summary,
)
from ci.model import (
    Cluster,
    Image,
    Promotion,
    Proof,
    Rehearsal,
    Release,
    ReleaseState,
    Rollback,
    StandIns,
    Target,
)
from ci.promotion.plan import diff
from ci.promotion.preflight import rules
from ci.promotion.release import history as history_
from ci.promotion.release import reader
from ci.promotion.release.rollout import (
    SETTLE_SECONDS,
    Expected,
    Judgement,
    Snapshot,
    UnrecoverablePod,
    Watch,
    fail_fast,
    troubles,
)
from ci.promotion.release.session import TargetSession
from ci.promotion.upgrade.post_upgrade_test import After
from ci.rehearsal import condition
from ci.rehearsal.adapt import Adapted, Limits, adapt
from ci.rehearsal.condition import Mount, Seen, Token, UnreadLog
from ci.results import (
    REQUIRED_IN_REHEARSAL,
    Because,
    Check,
    CheckGroup,
    CheckId,
    Count,
    ImageRef,
    Outcome,
    Phase,
    Problem,
    RehearsedStep,
    RevisionRef,
    StepId,
    Unit,
    failed,
    passed,
    unknown,
)
from ci.run.context import Context
from ci.tools import api, diagnostics
from ci.tools import chart as charts
from ci.tools.command import Output
from ci.tools.helm import Revision
from ci.tools.kube import Kube
from ci.tools.registry import copy, open_repository

ON_PURPOSE = "made to fail by the rehearsal"
OUTCOMES: Mapping[RehearsedStep, CheckId] = {
    RehearsedStep.UPGRADE: CheckId.REHEARSAL_PROMOTED,
    RehearsedStep.REPEAT: CheckId.REHEARSAL_PROMOTED,
    RehearsedStep.FAILURE: CheckId.REHEARSAL_ROLLED_BACK,
    RehearsedStep.RETURN: CheckId.REHEARSAL_RETURNED,
}
"""How each step has to end, in their order."""
ACCOUNTS = (
    CheckId.REQUESTS_ANSWERED,
    CheckId.TASKS_EXECUTED_ONCE,
    CheckId.QUEUE_LOCK_DURATION,
)
"""Checks of the promotion that say more than that it succeeded."""
NOT_REHEARSED = ("!soak.*",)
"""What a rehearsal leaves to the target: what shows only with time."""


class Promote(Protocol):
    """The promotion itself."""

    def __call__(
        self,
        session: TargetSession,
        proof: Proof,
        *,
        after: After | None = None,
        force: bool = False,
    ) -> Promotion: ...


@dataclass(frozen=True, slots=True)
class Actors:
    """What other stages do in a rehearsal; the flow hands it in."""

    promote: Promote
    roll_back: Callable[[TargetSession, int], Rollback]
    """To a revision."""
    use: Callable[[Context, Release, str], Proof] | None = None
    """Creates, updates, uses and deletes an endpoint, counts executions and reads its queue at
    the broker; raises when anything is wrong. The text is a label for its files. ``None``: the
    service has nothing of the kind."""


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """The target's release as it is."""

    revision: Revision
    state: ReleaseState
    image: Image
    supplied: dict[str, Any]
    """Values that the release was given."""
    every: dict[str, Any]
    """These over the chart's defaults."""
    deployments: tuple[str, ...]


def rehearse(
    session: TargetSession,
    cluster: Cluster,
    proof: Proof,
    actors: Actors,
    *,
    standins: StandIns | None = None,
    redirect: Mapping[str, Any],
    prepare: Callable[[str, Image], None] = lambda namespace, image: None,
) -> Rehearsal:
    """Rehearse the promotion of the proven image to ``target`` on ``cluster``.

    ``redirect`` are the values that redirect the release to the ``standins``, which its canary and
    ``actors.use`` look at; ``prepare`` puts what the values name into the namespace, for pods of
    an image. The verdict may be a failed one. Raises :class:`RehearsalFailed` when the live
    release does not even come up here, and :class:`PlanRefused` when it is not fit to be changed.
    """
    target = session.target
    step, namespace = session.events.step, f"rehearsal-{target.name}"[:63].rstrip("-")
    with step(StepId.READ_RELEASE, "what is rehearsed is what the target has"):
        live = read(session)
    with step(StepId.ADAPT_RELEASE, "replicas, resources and the cloud; nothing else differs"):
        image = image_here(session, live.image)
        adapted = fitted(session, live, image, redirect)
    there = replace(
        target,
        cluster=cluster,
        namespace=namespace,
        image_repository=image.repository,
        login=None,
        deployments=live.deployments,
        standins=standins,
        servicebus_env="",
        soak_seconds=0,
        require=(*target.require, *NOT_REHEARSED),
        # That way leads to the target.
        probing=target.probing.model_copy(update={"outside_url": ""}),
    )
    here = TargetSession.open(session.context, there, reach=manifests.reach)
    kube = here.kube
    try:
        with step(StepId.INSTALL_RELEASE, "the target's release, in a namespace of its own"):
            remove(kube, namespace, wait=True)
            prepare(namespace, image)
            install(here, image, adapted)
        stage = _Stage(here, image, actors)
        stage.perform(proof)
        finished = Rehearsal(
            target=target.name,
            image=proof.image,
            before=live.image,
            state=live.state,
            checks=tuple(stage.checks),
            changes=tuple(str(change) for change in adapted.changes),
            finished=datetime.now(UTC),
            require=required(target),
        )
        if not finished.passed:
            folder = session.folder.below("evidence", "rehearsal")
            diagnostics.collect(kube, namespace, folder)
            session.events.note(f"evidence kept in {folder.path}")
        _write_table(session.context, adapted)
        return finished
    finally:
        with suppress(PipelineError):
            remove(here.for_cleanup().kube, namespace)


def required(target: Target) -> tuple[str, ...]:
    """Globs of what a rehearsal for the target must not leave unchecked."""
    return (*target.require, *REQUIRED_IN_REHEARSAL, *NOT_REHEARSED)


def refuse_failed(rehearsal: Rehearsal) -> None:
    """Raise :class:`RehearsalFailed`, with the checks, unless it passed."""
    if rehearsal.passed:
        return
    refusal = RehearsalFailed(f"the rehearsal for {rehearsal.target} failed: {_why(rehearsal)}")
    refusal.groups = (CheckGroup(Phase.REHEARSAL, rehearsal.checks),)
    raise refusal


def _why(rehearsal: Rehearsal) -> str:
    """Why it did not pass, in one line."""
    if rehearsal.failed:
        first, more = rehearsal.failed[0], len(rehearsal.failed) - 1
        return texts.sentence(first) + (f" (and {more} more)" if more else "")
    return texts.unmet(rehearsal.unmet) if rehearsal.unmet else "nothing was checked"


def state_of(session: TargetSession) -> ReleaseState:
    """What the target's release is now; a rehearsal of another state says nothing of it."""
    target = session.target
    history = reader.find(session)
    now = reader.snapshot(session.kube, target.namespace)
    image, _ = reader.running_image(target, now)
    supplied = session.helm.values(target.release, target.namespace)
    return state(history, image, supplied)


def state(history: Sequence[Revision], image: Image, supplied: Mapping[str, Any]) -> ReleaseState:
    """The state of a release that runs ``image`` with the values that it was ``supplied`` with.
    Pure. A rollback re-uses an older revision, so that one counts."""
    text = json.dumps(redaction.tree(supplied), sort_keys=True, default=str)
    values = hashlib.sha256(text.encode()).hexdigest()
    return ReleaseState(history_.origin(history, history[-1]), image.digest, values)


# -- what is live -> what is installed here --------------------------------------------------------


def read(session: TargetSession) -> LiveRelease:
    """The live release. Raises :class:`PlanRefused` when it is not fit to be changed."""
    target = session.target
    history = reader.find(session)
    revision = history_.deployed_revision(
        history, rollback=f"python3 pipeline.py rollback --target {target.name}"
    )
    chart = session.path(target.chart)
    rules.same_chart(revision.chart, charts.metadata(chart))
    kube, helm = session.kube, session.helm
    stored = reader.stored(kube, helm, target, revision.number)
    check = rules.chart_is_live(stored.chart, chart, stored.values, chart=revision.chart)
    image, digests = reader.running_image(target, reader.snapshot(kube, target.namespace))
    if len(digests) != 1:
        raise PlanRefused(
            f"the release's pods run {len(digests)} different digests of {image.by_tag}",
            remedy="repair the release first: its one image is what a rehearsal begins with",
        )
    session.events.note(f"revision {revision.number}, {texts.sentence(check)}, {image.by_tag}")
    return LiveRelease(
        revision,
        state(history, image, stored.values),
        image,
        stored.values,
        helm.values(target.release, target.namespace, all=True),
        reader.deployments_of(target, stored.rendered.objects),
    )


def image_here(session: TargetSession, image: Image) -> Image:
    """The live image where the gate's nodes can pull it: copied by digest from the target's
    registry, unless it is in the local one already."""
    target = session.target
    local = session.tools.registry
    if image.repository.startswith(f"{local.name}/"):
        return image
    here = replace(image, repository=f"{local.name}/rehearsal/{target.name}")
    with (
        open_repository(
            image.repository, local=local, login=target.login, programs=session.programs
        ) as source,
        open_repository(here.repository, local=local, programs=session.programs) as into,
    ):
        if into.digest(here.tag) != here.digest:
            session.events.note(f"copying {image.digest.short} to {here.repository}")
            copy(source, into, here)
    return here


def fitted(
    session: TargetSession, live: LiveRelease, image: Image, redirect: Mapping[str, Any]
) -> Adapted:
    """The live values as they fit here; each that differs is a note."""
    target = session.target
    described = session.settings.rehearsal
    over = charts.merge(redirect, described.values)
    for dotted in target.repository_values:
        if reader.value_at(live.every, dotted) not in (None, image.repository):
            nested: Any = image.repository
            for part in reversed(dotted.split(".")):
                nested = {part: nested}
            over = charts.merge(over, nested)
    limits = Limits(described.replicas, described.cpu, described.memory)
    adapted = adapt(live.supplied, live.every, over, limits)
    for change in adapted.changes:
        session.events.note(str(change))
    return adapted


def install(session: TargetSession, image: Image, adapted: Adapted) -> None:
    """``helm install``, and the wait for every pod; ended at once by one that is unrecoverable."""
    there = session.target
    remedy = (
        "see the pods' logs in the run's folder; redirect what it needs of the cloud to the"
        " stand-ins with rehearsal.values in pipeline.toml"
    )
    kube, watch = session.kube, Watch()

    def look(now: Snapshot, _: Judgement) -> None:
        try:
            fail_fast(watch, session.clock.monotonic(), troubles(now.pods))
        except UnrecoverablePod as problem:
            raise RehearsalFailed(
                f"the live release does not start on the gate cluster: {problem}", remedy=remedy
            ) from problem

    expected = Expected(
        there.deployments, there.gateway, image.repository, image.tag, frozenset({image.digest})
    )
    try:
        session.helm.install(
            there.release,
            session.path(there.chart),
            there.namespace,
            adapted.values,
            timeout=there.timeout_seconds,
            wait=False,
        )
        reader.wait_complete(
            kube,
            there,
            expected,
            timeout=there.timeout_seconds,
            clock=session.clock,
            look=look,
        )
    except Interrupted:
        raise
    except PipelineError as problem:
        folder = session.folder.below("evidence", "rehearsal")
        diagnostics.collect(kube, there.namespace, folder)
        raise RehearsalFailed(
            f"the live release does not start on the gate cluster: {error_summary(problem)}",
            remedy=remedy,
        ) from problem


def remove(kube: Kube, namespace: str, *, wait: bool = False) -> None:
    kube.run(
        "delete", "namespace", namespace, "--ignore-not-found", f"--wait={str(wait).lower()}",
        timeout=180,
    )  # fmt: skip


# -- the changes -----------------------------------------------------------------------------------


class _Over(Exception):
    """The rest cannot be rehearsed; the checks so far say why."""


@dataclass(slots=True)
class _Stage:
    """The release on the gate, and the checks so far."""

    session: TargetSession
    """Of the release on the gate cluster."""
    old: Image
    actors: Actors
    checks: list[Check] = field(default_factory=list)
    looks: list[Seen] = field(default_factory=list)

    @property
    def there(self) -> Target:
        return self.session.target

    def perform(self, proof: Proof) -> None:
        step = self.session.events.step
        with step(StepId.REHEARSAL_BASELINE, "what is usual here is no failure later"):
            self.look()
        with suppress(_Over):
            with step(StepId.REHEARSE_UPGRADE, "exactly as the target will be upgraded"):
                self.promote(RehearsedStep.UPGRADE, proof)
            with step(StepId.REHEARSE_REPEAT, "an upgrade that changes nothing breaks nothing"):
                self.promote(RehearsedStep.REPEAT, proof)
            with step(StepId.REHEARSE_FAILURE, "rolled back by the same code, to what it was"):
                self.fail(proof)
            with step(StepId.REHEARSE_RETURN, "to the image that is live now"):
                self.go_back()
        ended = {(check.id, check.subject) for check in self.checks}
        for rehearsed, id in OUTCOMES.items():
            if (id, rehearsed.value) not in ended:
                self.record(rehearsed, unknown(id, Because.NOT_REACHED))

    def promote(self, rehearsed: RehearsedStep, proof: Proof) -> None:
        """A whole promotion. What fails at its end does not roll it back: it shall show."""

        def examine(release: Release) -> tuple[Check, ...]:
            self.examine(rehearsed, release)
            return ()

        try:
            promoted = self.actors.promote(
                self.session.within(self.within(rehearsed)),
                proof,
                after=examine,
                force=True,  # also where nothing changes: that is what is rehearsed
            )
        except Interrupted:
            raise
        except PipelineError as problem:
            self.record(rehearsed, _failed(CheckId.REHEARSAL_PROMOTED, problem))
            raise _Over from problem
        accounts = [check for check in promoted.checks if check.id in ACCOUNTS]
        revision = RevisionRef(promoted.to_revision)
        self.record(rehearsed, passed(CheckId.REHEARSAL_PROMOTED, revision), *accounts)

    def fail(self, proof: Proof) -> None:
        """A promotion whose last check fails, and its rollback."""
        purpose = PromotionFailed(ON_PURPOSE)

        def refuse(_: Release) -> tuple[Check, ...]:
            raise purpose

        rehearsed, id = RehearsedStep.FAILURE, CheckId.REHEARSAL_ROLLED_BACK
        try:
            promoted = self.actors.promote(
                self.session.within(self.within(rehearsed)), proof, after=refuse, force=True
            )
        except Interrupted:
            raise
        except PipelineError as problem:
            rolled_back = isinstance(problem, PromotionFailed) and purpose in _causes(problem)
            self.record(rehearsed, passed(id) if rolled_back else _failed(id, problem))
        else:  # a check failed, and nothing was rolled back
            self.record(rehearsed, failed(id, RevisionRef(promoted.to_revision)))
        self.examine_state(rehearsed)

    def go_back(self) -> None:
        """``rollback`` to the image that was live at the beginning."""
        rehearsed, id = RehearsedStep.RETURN, CheckId.REHEARSAL_RETURNED
        try:
            done = self.actors.roll_back(self.session.within(self.within(rehearsed)), 1)
        except Interrupted:
            raise
        except PipelineError as problem:
            self.record(rehearsed, _failed(id, problem))
            raise _Over from problem
        old, there = self.old, self.there
        image = ImageRef(old.repository, old.tag, old.digest)
        self.record(rehearsed, passed(id, RevisionRef(done.revision), image))
        release = Release(there.cluster, there.namespace, there.release, done.revision, old)
        self.examine(rehearsed, release)

    def within(self, rehearsed: RehearsedStep) -> Context:
        """The run, with a folder of its own for a change's backups and evidence."""
        folder = self.session.folder.below("rehearsal", rehearsed.value)
        return replace(self.session.context, run_dir=folder.make())

    # -- what came of them --

    def examine(self, rehearsed: RehearsedStep, release: Release) -> None:
        """Use the service, then look at it."""
        id = CheckId.ENDPOINT_USABLE
        if self.actors.use is None:
            self.record(rehearsed, unknown(id, Because.NOT_OFFERED))
        else:
            try:
                proof = self.actors.use(self.within(rehearsed), release, rehearsed.value)
            except Interrupted:
                raise
            except PipelineError as problem:
                self.record(rehearsed, _failed(id, problem))
            else:
                cases = sum(case.outcome is Outcome.PASSED for case in proof.cases)
                self.record(rehearsed, passed(id, Count(Unit.CASES, cases)))
        self.examine_state(rehearsed)

    def examine_state(self, rehearsed: RehearsedStep) -> None:
        """Everything that has to hold of the release as it is now."""
        before, repeated = self.looks[-1], rehearsed is RehearsedStep.REPEAT
        try:
            now = self.look()
        except WaitTimeout as problem:
            self.record(rehearsed, _failed(CheckId.PODS_KEEP_RUNNING, problem))
            ids = [CheckId.ACCOUNTS_KEPT, CheckId.TOKENS_ACCEPTED, CheckId.LOGS_NOT_DENIED]
            ids += [CheckId.UPGRADE_REPEATABLE] if repeated else []
            self.record(rehearsed, *(unknown(id, Because.NOT_REACHED) for id in ids))
            return
        change = None
        if repeated:
            number = self.latest()
            tag, repository = self.there_image()
            change = diff.Change(tag, tag, repository, repository, number - 1, number)
        self.record(rehearsed, *condition.checks(self.looks[0], before, now, change=change))

    def there_image(self) -> tuple[str, str]:
        image, _ = reader.running_image(self.there, self.looks[-1].now)
        return image.tag, image.repository

    def latest(self) -> int:
        return self.session.helm.history(self.there.release, self.there.namespace)[-1].number

    def look(self) -> Seen:
        self.looks.append(look(self.session))
        return self.looks[-1]

    def record(self, rehearsed: RehearsedStep, *checks: Check) -> None:
        """Keep checks as ones of this step."""
        own = tuple(replace(check, subject=rehearsed.value) for check in checks)
        self.checks += own
        self.session.events.checked(Phase.REHEARSAL, own)


def _failed(id: CheckId, problem: PipelineError) -> Check:
    return failed(id, Problem(error_summary(problem)))


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """What an error was raised from, the nearest first."""
    cause = problem.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


# -- looking ---------------------------------------------------------------------------------------


def look(session: TargetSession) -> Seen:
    """The release as the last change left it: pods, tokens, logs, objects. Waits until that
    change has settled: whoever uses the service may do so while old pods drain, but two looks
    compare only when neither sees them. Raises :class:`WaitTimeout`."""
    there = session.target
    kube = session.kube
    now = reader.wait_settled(
        kube, there, there.deployments, timeout=SETTLE_SECONDS, clock=session.clock
    )
    pods = [pod for name in there.deployments for pod in now.live_pods_of(name)]
    made = {pod["metadata"]["name"]: pod["metadata"]["creationTimestamp"] for pod in pods}
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="look") as pool:
        objects = pool.submit(_objects, session)
        tokens = [
            pool.submit(_token, kube, there.namespace, mount, made[mount.pod])
            for mount in condition.mounts(pods)
        ]
        logs = [pool.submit(_log, kube, there.namespace, pod) for pod in pods]
        accounts = _accounts(kube, there.namespace)
        lines = [log.result() for log in logs]
        return Seen(
            now,
            there.deployments,
            accounts,
            tuple(token.result() for token in tokens),
            tuple(line for denials, _ in lines for line in denials),
            condition.comparable(objects.result()),
            tuple(unread for _, unread in lines if unread is not None),
        )


def _accounts(kube: Kube, namespace: str) -> Mapping[str, Any] | Because:
    """ServiceAccounts by name, or why they cannot be read."""
    answer = kube.ask("GET", api.path_of("serviceaccounts", namespace))
    if not answer.ok:
        return _refusal(answer.code)
    return {item["metadata"]["name"]: item for item in api.items_of(answer)}


def _log(kube: Kube, namespace: str, pod: Mapping[str, Any]) -> tuple[list[str], UnreadLog | None]:
    """Denials in the logs of a pod's containers; and, where one could not be read, why."""
    name, spec = pod["metadata"]["name"], pod["spec"]
    denials: list[str] = []
    unread = None
    for container in (*(spec.get("initContainers") or []), *spec["containers"]):
        answer = kube.logs(name, namespace, container=container["name"])
        if answer.ok:
            denials += condition.denials(name, answer.text)
        else:
            unread = UnreadLog(name, _refusal(answer.code))
    return denials, unread


def _token(kube: Kube, namespace: str, mount: Mount, made: str) -> Token:
    """Whose token a container has. Where it has no ``cat``, only the pod's age can tell."""
    answer = kube.run(
        "exec", mount.pod, "--container", mount.container, "--namespace", namespace,
        "--", "cat", mount.path, check=False, timeout=20,
    )  # fmt: skip
    if answer.status != 0:
        return Token(mount, "", made, _refusal_of_exec(answer))
    return Token(mount, condition.account_uid(answer.stdout), made)


def _refusal(code: int) -> Because:
    """Why the API gave no answer, by its HTTP status."""
    return Because.FORBIDDEN if code in (401, 403) else Because.NO_ANSWER


def _refusal_of_exec(answer: Output) -> Because:
    """The same of ``kubectl exec``, which passes on the API server's words alone."""
    return Because.FORBIDDEN if "(Forbidden)" in answer.stderr else Because.NO_ANSWER


def _objects(session: TargetSession) -> list[dict[str, Any]]:
    """The release's objects and hooks, live."""
    there = session.target
    helm, kube = session.helm, session.kube
    texts = (
        helm.manifest(there.release, there.namespace),
        helm.hooks(there.release, there.namespace),
    )
    answer = kube.run(
        "get", "-f", "-", "--ignore-not-found", "-o", "json", "--namespace", there.namespace,
        input="\n---\n".join(texts),
    ).stdout  # fmt: skip
    if not answer.strip():
        return []
    found: dict[str, Any] = json.loads(answer)
    items: list[dict[str, Any]] = found["items"] if found.get("kind") == "List" else [found]
    return items


# -- the report ------------------------------------------------------------------------------------


def _write_table(context: Context, adapted: Adapted) -> None:
    """What differs from the target, for the run's report. The checks are in it already."""
    table = {
        "title": "How the rehearsed release differs from the target's",
        "note": "Values of the release; all others are the live ones. Secrets are left out.",
        "columns": ["value", "live", "rehearsed", "why"],
        "rows": [[c.path, c.live, c.here, c.why] for c in adapted.changes],
    }
    context.folder.json("tables/rehearsal-values.json", table)
