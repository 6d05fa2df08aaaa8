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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from ci import redaction
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
    Check,
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
from ci.rehearsal.condition import Mount, Seen, Token
from ci.results import StepId
from ci.run.context import Context
from ci.tools import chart as charts
from ci.tools import diagnostics
from ci.tools.helm import Revision
from ci.tools.kube import Kube
from ci.tools.registry import copy, open_repository

ON_PURPOSE = "made to fail by the rehearsal"
UPGRADE, AGAIN, FAILURE, RETURN = "upgrade", "unchanged upgrade", "failed upgrade", "return"
"""The steps, as they stand before the names of their checks."""
ACCOUNTS = (
    "requests during the change",
    "tasks through the canary queue",
    "the queue is as the new version was asked for",
)
"""Checks of the promotion that say more than that it succeeded."""


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
    use: Callable[[Context, Release, str], object] | None = None
    """Creates, updates, uses and deletes an endpoint, counts executions and reads its queue at
    the broker; raises when anything is wrong. The text is a label for its files. ``None``: the
    service has nothing of the kind."""


@dataclass(frozen=True, slots=True)
class Found:
    """The target's release as it is live."""

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

    ``redirect`` are the values that lead the release to the ``standins``, which its canary and
    ``actors.use`` look at; ``prepare`` puts what the values name into the namespace, for pods of
    an image. The verdict may be a failed one. Raises :class:`RehearsalFailed` when the live
    release does not even come up here, and :class:`PlanRefused` when it is not fit to be changed.
    """
    target = session.target
    step, namespace = session.events.step, f"rehearsal-{target.name}"[:63].rstrip("-")
    with step(StepId.READ_RELEASE, "what is rehearsed is what the target has"):
        found = read(session)
    with step(StepId.ADAPT_RELEASE, "replicas, resources and the cloud; nothing else differs"):
        image = image_here(session, found.image)
        adapted = fitted(session, found, image, redirect)
    there = replace(
        target,
        cluster=cluster,
        namespace=namespace,
        image_repository=image.repository,
        login=None,
        deployments=found.deployments,
        standins=standins,
        servicebus_env="",
        soak_seconds=0,  # what shows only with time is for the target
        probing=replace(target.probing, outside_url=""),  # that way leads to the target
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
            before=found.image,
            state=found.state,
            checks=tuple(stage.checks),
            changes=tuple(str(change) for change in adapted.changes),
            finished=datetime.now(UTC),
        )
        if not finished.passed:
            folder = session.folder.below("evidence", "rehearsal")
            diagnostics.collect(kube, namespace, folder)
            session.events.note(f"evidence kept in {folder.path}")
        _write_tables(session.context, finished, adapted)
        return finished
    finally:
        with suppress(PipelineError):
            remove(here.for_cleanup().kube, namespace)


def refuse_failed(rehearsal: Rehearsal) -> None:
    """Raise :class:`RehearsalFailed` unless it passed."""
    if rehearsal.passed:
        return
    first = rehearsal.failed[0]
    more = len(rehearsal.failed) - 1
    raise RehearsalFailed(
        f"the rehearsal for {rehearsal.target} failed: {first.name}: {first.evidence}"
        + (f" (and {more} more)" if more else "")
    )


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


def read(session: TargetSession) -> Found:
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
    check = rules.chart_is_live(stored.chart, chart, stored.values)
    image, digests = reader.running_image(target, reader.snapshot(kube, target.namespace))
    if len(digests) != 1:
        raise PlanRefused(
            f"the release's pods run {len(digests)} different digests of {image.by_tag}",
            remedy="repair the release first: its one image is what a rehearsal begins with",
        )
    session.events.note(
        f"revision {revision.number}, {revision.chart} ({check.evidence}), {image.by_tag}"
    )
    return Found(
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
    session: TargetSession, found: Found, image: Image, redirect: Mapping[str, Any]
) -> Adapted:
    """The live values as they fit here; each that differs is a note."""
    target = session.target
    described = session.settings.rehearsal
    over = charts.merge(redirect, described.values)
    for dotted in target.repository_values:
        if reader.value_at(found.every, dotted) not in (None, image.repository):
            nested: Any = image.repository
            for part in reversed(dotted.split(".")):
                nested = {part: nested}
            over = charts.merge(over, nested)
    limits = Limits(described.replicas, described.cpu, described.memory)
    adapted = adapt(found.supplied, found.every, over, limits)
    for change in adapted.changes:
        session.events.note(str(change))
    return adapted


def install(session: TargetSession, image: Image, adapted: Adapted) -> None:
    """``helm install``, and the wait for every pod; ended at once by one that is unrecoverable."""
    there = session.target
    remedy = (
        "see the pods' logs in the run's folder; lead what it needs of the cloud to stand-ins with"
        " rehearsal.values in pipeline.toml"
    )
    kube, watch = session.kube, Watch()

    def look(now: Snapshot, _: Judgement) -> None:
        try:
            fail_fast(watch, session.clock.monotonic(), troubles(now.pods))
        except UnrecoverablePod as problem:
            raise RehearsalFailed(f"it does not come up: {problem}", remedy=remedy) from problem

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
            f"the live release cannot be rehearsed: {error_summary(problem)}", remedy=remedy
        ) from problem


def remove(kube: Kube, namespace: str, *, wait: bool = False) -> None:
    kube.run(
        "delete", "namespace", namespace, "--ignore-not-found", f"--wait={str(wait).lower()}",
        timeout=180,
    )  # fmt: skip


# -- the changes -----------------------------------------------------------------------------------


class _Over(Exception):
    """The rest cannot be rehearsed; what was found says why."""


@dataclass(slots=True)
class _Stage:
    """The release on the gate, and what was found so far."""

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
        with step(StepId.REHEARSAL_BASELINE, "what is usual here is no finding later"):
            self.look()
        with suppress(_Over):
            with step(StepId.REHEARSE_UPGRADE, "exactly as the target will be upgraded"):
                self.promote(UPGRADE, proof)
            with step(StepId.REHEARSE_REPEAT, "an upgrade that changes nothing breaks nothing"):
                self.promote(AGAIN, proof)
            with step(StepId.REHEARSE_FAILURE, "rolled back by the same code, to what it was"):
                self.fail(proof)
            with step(StepId.REHEARSE_RETURN, "to the image that is live now"):
                self.go_back()

    def promote(self, name: str, proof: Proof) -> None:
        """A whole promotion. What is found at its end does not roll it back: it shall show."""

        def examine(release: Release) -> tuple[Check, ...]:
            self.examine(name, release)
            return ()

        try:
            promoted = self.actors.promote(
                self.session.within(self.within(name)),
                proof,
                after=examine,
                force=True,  # also where nothing changes: that is what is rehearsed
            )
        except Interrupted:
            raise
        except PipelineError as problem:
            self.found(name, Check("the promotion succeeds", False, error_summary(problem)))
            raise _Over from problem
        accounts = [check for check in promoted.checks if check.name in ACCOUNTS]
        revisions = f"revision {promoted.from_revision} -> {promoted.to_revision}"
        self.found(name, Check("the promotion succeeds", True, revisions), *accounts)

    def fail(self, proof: Proof) -> None:
        """A promotion whose last check fails, and its rollback."""

        def refuse(_: Release) -> tuple[Check, ...]:
            raise PromotionFailed(ON_PURPOSE)

        what = "it is rolled back"
        try:
            self.actors.promote(
                self.session.within(self.within(FAILURE)), proof, after=refuse, force=True
            )
        except Interrupted:
            raise
        except PipelineError as problem:
            said = error_summary(problem)
            right = isinstance(problem, PromotionFailed) and ON_PURPOSE in said
            self.found(FAILURE, Check(what, right, said))
        else:
            self.found(FAILURE, Check(what, False, "a check failed and nothing was rolled back"))
        self.judge(FAILURE)

    def go_back(self) -> None:
        """``rollback`` to the image that was live at the beginning."""
        what = "the old image serves again"
        try:
            number = self.actors.roll_back(self.session.within(self.within(RETURN)), 1).revision
        except Interrupted:
            raise
        except PipelineError as problem:
            self.found(RETURN, Check(what, False, error_summary(problem)))
            raise _Over from problem
        self.found(RETURN, Check(what, True, f"revision {number}, {self.old.by_tag}"))
        there = self.there
        self.examine(
            RETURN, Release(there.cluster, there.namespace, there.release, number, self.old)
        )

    def within(self, name: str) -> Context:
        """The run, with a folder of its own for a change's backups and evidence."""
        folder = self.session.folder.below("rehearsal", name.replace(" ", "-"))
        return replace(self.session.context, run_dir=folder.make())

    # -- what came of them --

    def examine(self, name: str, release: Release) -> None:
        """Use the service, then look at it."""
        if self.actors.use is not None:
            what = "an endpoint is created, updated, used and deleted"
            try:
                self.actors.use(self.within(name), release, name.replace(" ", "-"))
            except Interrupted:
                raise
            except PipelineError as problem:
                self.found(name, Check(what, False, error_summary(problem)))
            else:
                seen = "each task executed as often as it has to be, its queue as asked for"
                self.found(name, Check(what, True, seen))
        self.judge(name)

    def judge(self, name: str) -> None:
        before = self.looks[-1]
        try:
            now = self.look()
        except WaitTimeout as problem:
            self.found(name, Check("its pods settle", False, error_summary(problem)))
            return
        change = None
        if name == AGAIN:
            number = self.latest()
            tag, repository = self.there_image()
            change = diff.Change(tag, tag, repository, repository, number - 1, number)
        self.found(name, *condition.checks(self.looks[0], before, now, change=change))

    def there_image(self) -> tuple[str, str]:
        image, _ = reader.running_image(self.there, self.looks[-1].now)
        return image.tag, image.repository

    def latest(self) -> int:
        return self.session.helm.history(self.there.release, self.there.namespace)[-1].number

    def look(self) -> Seen:
        self.looks.append(look(self.session))
        return self.looks[-1]

    def found(self, name: str, *checks: Check) -> None:
        for check in checks:
            self.checks.append(replace(check, name=f"{name}: {check.name}"))
            if not check.ok:
                self.session.events.note(f"FAILED: {check.name}: {check.evidence}")


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
        logs = {name: pool.submit(_log, kube, there.namespace, name) for name in made}
        accounts = kube.objects("serviceaccounts", there.namespace)
        return Seen(
            now,
            there.deployments,
            {item["metadata"]["name"]: item for item in accounts},
            tuple(token.result() for token in tokens),
            tuple(d for name, log in logs.items() for d in condition.denials(name, log.result())),
            condition.comparable(objects.result()),
        )


def _log(kube: Kube, namespace: str, pod: str) -> str:
    return kube.run(
        "logs", pod, "--all-containers", "--namespace", namespace, check=False, timeout=30
    ).stdout


def _token(kube: Kube, namespace: str, mount: Mount, made: str) -> Token:
    """Whose token a container has. Where it has no ``cat``, only the pod's age can tell."""
    answer = kube.run(
        "exec", mount.pod, "--container", mount.container, "--namespace", namespace,
        "--", "cat", mount.path, check=False, timeout=20,
    )  # fmt: skip
    uid = condition.account_uid(answer.stdout) if answer.status == 0 else ""
    return Token(mount, uid, made)


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


def _write_tables(context: Context, rehearsal: Rehearsal, adapted: Adapted) -> None:
    """Both tables of the run's report: what was found, and what was otherwise than live."""
    found = {
        "title": f"Rehearsal for {rehearsal.target}",
        "note": f"Its release at revision {rehearsal.state.revision}, from"
        f" {rehearsal.before.by_tag} to {rehearsal.image.by_tag}, on the gate cluster.",
        "columns": ["change", "what has to hold", "evidence", "ok"],
        "rows": [
            [*check.name.split(": ", 1), check.evidence, check.ok] for check in rehearsal.checks
        ],
    }
    differs = {
        "title": "What the rehearsal had otherwise than the target",
        "note": "Values of the release; all others are the live ones. Secrets are left out.",
        "columns": ["value", "live", "here", "why"],
        "rows": [[c.path, c.live, c.here, c.why] for c in adapted.changes],
    }
    for name, table in (("rehearsal", found), ("rehearsal-values", differs)):
        context.folder.json(f"tables/{name}.json", table)
