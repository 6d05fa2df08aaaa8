"""Takes only a passing Proof -> Promotion: the upgrade plan, with its hopes measured.

Before the upgrade everything is a question, and a wrong answer leaves the target untouched.
From the moment the upgrade begins every way out but success is the same: evidence first, then
``helm rollback`` to the recorded revision, then proof that the old image serves again.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ci import texts
from ci.digest import Digest
from ci.errors import (
    Interrupted,
    PipelineError,
    RollbackFailed,
    VerifyFailed,
    error_summary,
)
from ci.model import (
    Image,
    PlanRecord,
    Preview,
    Promotion,
    Proof,
    Release,
    Rollback,
    RollbackOutcome,
)
from ci.promotion.plan.render import Made, make_plan, refuse_more_than_the_image, rendering
from ci.promotion.plan.values import sets_of
from ci.promotion.preflight import checklist, required, rules
from ci.promotion.preflight.checklist import image_ref
from ci.promotion.preflight.image_pull import Pull
from ci.promotion.preflight.inspect import (
    inspect,
    note_begin,
    proven_image,
    refuse_changed,
    refuse_unproven,
    served_already,
)
from ci.promotion.preflight.surge_capacity import Surge
from ci.promotion.probes.accounting import counted, probing_inside, probing_outside, steady
from ci.promotion.probes.canary import Canary
from ci.promotion.probes.prober import Counting
from ci.promotion.release import health, lease, reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.history import rollback_command
from ci.promotion.release.pods import remove_left
from ci.promotion.release.rollout import Expected, judge
from ci.promotion.release.session import TargetSession
from ci.promotion.rollback.backups import back_up
from ci.promotion.rollback.recovery import recover, so_far, verify_old
from ci.promotion.rollback.requested import Planned, on_every_pod, planned
from ci.promotion.rollback.standing import Standing
from ci.promotion.upgrade.post_upgrade_test import After, afterwards
from ci.promotion.upgrade.soak import Soak
from ci.promotion.upgrade.upgrade import (
    completed,
    healthy,
    released,
    released_as,
    settled,
    upgrade,
)
from ci.promotion.upgrade.watch import Watching
from ci.results import (
    ChangeState,
    Check,
    CheckGroup,
    CheckId,
    Phase,
    Problem,
    RevisionRef,
    StepId,
    failed,
    judged,
    passed,
)
from ci.tools.helm import Revision


@dataclass(slots=True)
class _Checks:
    """The checks of a promotion as they are made, so that however it ends has them."""

    stands: Standing
    made: dict[Phase, list[Check]] = field(default_factory=dict)

    def add(self, phase: Phase, *checks: Check) -> None:
        self.made.setdefault(phase, []).extend(checks)
        self.stands.checked(phase, checks)

    def __iter__(self) -> Iterator[Check]:
        return (check for group in self.groups for check in group.checks)

    def of(self, phase: Phase) -> tuple[Check, ...]:
        return tuple(self.made.get(phase, ()))

    @property
    def groups(self) -> tuple[CheckGroup, ...]:
        return tuple(CheckGroup(phase, self.of(phase)) for phase in Phase if self.of(phase))

    @contextmanager
    def carried(self) -> Iterator[None]:
        """What ends the block carries the checks that were made until then."""
        try:
            yield
        except PipelineError as problem:
            carried = problem.checks
            more = tuple(c for c in self.of(Phase.BEFORE) if c not in carried)
            if more:
                problem.groups = (CheckGroup(Phase.BEFORE, more), *problem.groups)
            raise


@dataclass(frozen=True, slots=True)
class _Found:
    """The release that is to be changed, and what to."""

    history: list[Revision]
    lock: lease.Lease
    image: Image
    accepted: frozenset[str]
    """Digests that nodes may report of the image."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is under way beside the change."""

    probers: tuple[Counting, ...]
    canary: Canary
    soak: Soak
    watching: Watching


def promote(
    session: TargetSession,
    proof: Proof,
    *,
    after: After | None = None,
    force: bool = False,
    refusal: PipelineError | None = None,
    recorded: bool = True,
) -> Promotion:
    """Promote the proven image to ``target``. An image that it serves already is verified, and
    nothing is changed, unless ``force`` wants the upgrade all the same.

    ``after`` is called with the new release once it is up, and returns its checks, or raises (the
    workflow passes the end-to-end queue-timeout test). ``refusal`` is why nothing may be changed
    (no rehearsal allows it): it is raised unless there is nothing to change. ``recorded`` is false
    for a rehearsal, which changes no target. Raises
    :class:`ProofFailed`, :class:`TargetNotFound`, :class:`PlanRefused`,
    :class:`RegistryRefused` or :class:`Locked` with the target untouched, and
    :class:`VerifyFailed` when an image that is served already does not serve as it should;
    :class:`PromotionFailed` when it was rolled back; :class:`RollbackFailed` when that failed and
    a person has to act.
    """
    stands = Standing(session, recorded)
    checks = _Checks(stands)
    step, folder = session.events.step, session.run_dir / "backups"
    with ExitStack() as held, checks.carried():
        found = _find(session, proof, held, stands)
        with step(StepId.INSPECT_RELEASE, "the latest revision serves, whole, and as released"):
            same = held.enter_context(rendering(session, {}))
            before = _inspect(session, found, checks)
            served = not force and served_already(session, before, found.image, found.accepted)
            if not served:
                if refusal is not None:
                    raise refusal
                sets = sets_of(session.target, before.image, found.image)
                new = held.enter_context(rendering(session, sets))
        if served:
            return _already_served(session, before, found, checks)
        with step(StepId.START_PROBERS, "every request during the change is accounted for"):
            inside = held.enter_context(probing_inside(session, before))
            outside = held.enter_context(probing_outside(session))
            canary = held.enter_context(Canary(session))
            gateway = before.snapshot.deployments[session.target.gateway]
            pull = held.enter_context(Pull(session, found.image, gateway, before.pods))
            surge = held.enter_context(Surge(session, before.deployments, before.snapshot))
        with step(StepId.BACK_UP, "what a rollback needs, readable without this project"):
            checks.add(Phase.BEFORE, *back_up(session, before, folder))
        with step(StepId.PLAN, "nothing may change but what derives from the image's tag"):
            plan = make_plan(session, before, found.image, found.history, same, new)
            refuse_more_than_the_image(session.context, plan)
        with step(StepId.PREFLIGHT, "the plan's own, each item with its evidence"):
            checks.add(Phase.BEFORE, *checklist.image_checks(proof, found.image))
            checks.add(Phase.BEFORE, *_questions(session, proof, before))
            checks.add(Phase.BEFORE, checklist.team_notified(session.settings))
            checks.add(Phase.BEFORE, pull.check(), surge.check())
            checklist.refuse_failed(checks)
            required.refuse_unmet(session, checks)
        with step(StepId.BASELINE_PROBE, "it answers steadily before the change"):
            probers = steady(session, inside, outside, held)
            required.refuse_unmet(session, checks, canary.steady())
            soak = Soak(session, probers, before.image, before.pods)
        with step(StepId.RECHECK_RELEASE, "nobody changed the release while we looked"):
            refuse_changed(session, before.revision)
            watching = held.enter_context(Watching(session, before.deployments))
            note_begin(found.lock, before, found.image)
        asked = _Asked(probers, canary, soak, watching)
        stands(ChangeState.UNDER_WAY, to_revision=plan.to_revision)
        try:
            release = _change(session, found, before, plan, asked, checks, after)
        except BaseException as problem:
            checks.add(Phase.DURING, *so_far(probers, problem))
            recover(session, before, folder, found.lock, problem, checks.groups, stands)
        with suppress(PipelineError):
            found.lock.note(step="done")
        stands(ChangeState.PROMOTED, revision=release.revision, to_revision=release.revision)
        return _promoted(session, before, found.image, release.revision, folder, checks)


def _find(session: TargetSession, proof: Proof, held: ExitStack, stands: Standing) -> _Found:
    """The release, locked for as long as ``held``, and the image where the target pulls it."""
    step, target = session.events.step, session.target
    with step(StepId.CHECK_PROOF, "only what passed may be promoted"):
        refuse_unproven(proof)
    with step(StepId.FIND_RELEASE, "a wrong name ends here, before anything is touched"):
        history = reader.find(session)
        stands(ChangeState.UNTOUCHED, revision=history[-1].number, from_revision=history[-1].number)
    with step(StepId.ACQUIRE_LEASE, "one promotion at a time per release"):
        lock = held.enter_context(
            lease.Lease(session.kube, release=target.release, namespace=target.namespace)
        )
        remove_left(session.kube, target)
        rules.unfinished(lock.found, history[-1], rollback=rollback_command(target))
    with step(StepId.RESOLVE_DIGEST, "the tag must be the proven digest where the target pulls"):
        image, accepted = proven_image(session, proof)
    return _Found(history, lock, image, accepted)


def _inspect(session: TargetSession, found: _Found, checks: _Checks) -> Before:
    before = inspect(session, found.history)
    checks.add(Phase.BEFORE, *before.checks)
    checks.stands(
        ChangeState.UNTOUCHED, before=image_ref(before.image), after=image_ref(found.image)
    )
    return before


def _questions(session: TargetSession, proof: Proof, before: Before) -> tuple[Check, ...]:
    """What can be asked of the target and the proof without a trace."""
    return (
        checklist.api_compatible(session.target, proof, before.openapi),
        checklist.health_proven(proof),
        checklist.ready_under_load(proof),
        checklist.no_migration(session, before.rendered),
        *required.logs_readable(session, before),
    )


def _change(
    session: TargetSession,
    found: _Found,
    before: Before,
    plan: PlanRecord,
    asked: _Asked,
    checks: _Checks,
    after: After | None,
) -> Release:
    """The upgrade, and everything that has to be true of it. Whatever is raised here is rolled
    back."""
    target, image, accepted = session.target, found.image, found.accepted
    step = session.events.step
    with afterwards(session.events, after) as tested:
        with step(StepId.UPGRADE, "helm upgrade --reuse-values, with only the tag"):
            wanted = released_as(target, plan.to_revision, image)
            upgrade(session, before, wanted, accepted, up=tested.begin)
        with step(StepId.VERIFY_DIGESTS, "the proven digest on every pod, old pods gone"):
            release = released(session, image)
            checks.add(Phase.DURING, *settled(session, release, before, accepted, up=tested.begin))
        with step(StepId.CHECK_HEALTH, "as a client sees it"):
            checks.add(Phase.DURING, *healthy(session, before.openapi))
        checks.add(Phase.DURING, *tested.end())
    if target.soak_seconds:
        reason = "what shows only with time shows before it is called done"
        with step(StepId.SOAK, reason), asked.watching.rarely():
            checks.add(Phase.DURING, *asked.soak.watch(image))
    with step(StepId.ACCOUNT_REQUESTS, "no request may be lost in a change"):
        checks.add(Phase.DURING, *counted(target, asked.probers, asked.canary))
        required.roll_back_unmet(target, checks.of(Phase.DURING))
    checks.add(Phase.DURING, completed(release))
    return release


def _promoted(
    session: TargetSession,
    before: Before,
    image: Image,
    revision: int,
    folder: Path | None,
    checks: _Checks,
    state: ChangeState = ChangeState.PROMOTED,
) -> Promotion:
    return Promotion(
        target=session.target.name,
        before=before.image,
        after=image,
        from_revision=before.revision.number,
        to_revision=revision,
        backups=folder,
        groups=checks.groups,
        state=state,
    )


def _already_served(
    session: TargetSession, before: Before, found: _Found, checks: _Checks
) -> Promotion:
    """The release serves the image: it is verified and left as it is. Raises
    :class:`VerifyFailed`, and :class:`PlanRefused` where a required check cannot be made."""
    number = before.revision.number
    with session.events.step(StepId.VERIFY_SERVED, "it is the proven image already: no upgrade"):
        checks.add(Phase.BEFORE, *required.logs_readable(session, before))
        checks.add(Phase.AFTER, *still_serves(session, before, found.image, found.accepted))
        required.refuse_unmet(session, checks)
    with suppress(PipelineError):
        found.lock.note(step="done")
    state = ChangeState.ALREADY_SERVED
    checks.stands(state, revision=number, to_revision=number)
    session.events.note(f"already served, verified, nothing to do: revision {number}")
    return _promoted(session, before, found.image, number, None, checks, state)


def still_serves(
    session: TargetSession, before: Before, image: Image, accepted: frozenset[str]
) -> tuple[Check, ...]:
    """The checks of a release that is left as it is. Raises :class:`VerifyFailed`."""
    target = session.target
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)
    rollout = judge(before.snapshot, expected)
    number = before.revision.number
    try:
        answers = health.health(session)
    except Interrupted:
        raise
    except PipelineError as problem:
        answers = (failed(CheckId.API_ANSWERS, Problem(error_summary(problem))),)
    checks = (
        judged(CheckId.PODS_RUN_DIGEST, rollout.complete, *rollout.measured),
        passed(CheckId.RELEASE_DEPLOYED, RevisionRef(number, "deployed", before.revision.chart)),
        *answers,
    )
    if wrong := [texts.sentence(check) for check in checks if check.failed]:
        raise VerifyFailed(
            f"revision {number} serves {image.tag} already, and not as it should:"
            f" {'; '.join(wrong)}",
            remedy=f"nothing was changed: see `python3 pipeline.py status --target {target.name}`;"
            f" --force promotes it all the same, `{rollback_command(target)}` returns to the image"
            " before",
        ).carrying(Phase.AFTER, *checks)
    return checks


def preview(session: TargetSession, proof: Proof) -> Preview:
    """What promoting the proven image would change, allowed or not, and what can be asked of the
    target without a trace. Changes nothing, refuses nothing but a target that is not fit to be
    changed."""
    target = session.target
    history = reader.find(session)
    image = Image(target.image_repository, proof.image.tag, proof.image.digest)
    with ExitStack() as held:
        same: Future[Made] = held.enter_context(rendering(session, {}))
        before = inspect(session, history)
        sets = sets_of(target, before.image, image)
        new = held.enter_context(rendering(session, sets))
        plan = make_plan(session, before, image, history, same, new)
    built = passed(CheckId.IMAGE_BUILT, image_ref(proof.image))
    checks = (*before.checks, built, *_questions(session, proof, before))
    unmet = required.open_questions(session, checks)
    return Preview(
        plan, (*checks, *(check for check in unmet if check not in checks)), target.name, unmet
    )


def rollback(
    session: TargetSession,
    revision: int | None = None,
    *,
    dry_run: bool = False,
    recorded: bool = True,
) -> Rollback:
    """Return the release to ``revision``, else to the one an unfinished promotion recorded, else
    to the last one that serves something else than now; verified. Repairs what a killed run left
    pending. With ``dry_run`` it is only looked up; a release that serves what is asked for
    already is verified and left as it is. ``recorded`` is false for a rehearsal, which changes no
    target.

    Raises :class:`PlanRefused` when there is nothing to return to, :class:`RollbackFailed` when
    it did not work, and :class:`VerifyFailed` when what serves already does not serve as it
    should.
    """
    target = session.target
    step = session.events.step
    stands = Standing(session, recorded and not dry_run)
    with step(StepId.FIND_RELEASE, "a wrong name ends here, before anything is touched"):
        history = reader.find(session)
        stands(ChangeState.UNTOUCHED, revision=history[-1].number)
    kube = session.kube
    with ExitStack() as held:
        if dry_run:
            journal = lease.journal(lease.read(kube, target.release, target.namespace))
        else:
            lock = held.enter_context(
                lease.Lease(kube, release=target.release, namespace=target.namespace)
            )
            remove_left(kube, target)
            journal = lock.found
            # Now nobody else of us changes it any more.
            history = session.helm.history(target.release, target.namespace)
        with step(StepId.CHOOSE_REVISION, "the last that was deployed and serves something else"):
            way = planned(session, history, revision, journal)
        if dry_run:
            return way.described
        for line in way.described.lines:
            session.events.emit("run.note", line)
        stands(
            ChangeState.UNTOUCHED,
            before=image_ref(way.described.before.image),
            after=image_ref(way.described.after.image),
            from_revision=way.described.before.revision,
        )
        done = _there(session, way) if way.nothing_to_do else _back(session, way, stands)
        there = done.outcome is RollbackOutcome.ALREADY_THERE
        stands(
            ChangeState.ALREADY_SERVED if there else ChangeState.ROLLED_BACK,
            revision=done.revision,
            to_revision=done.revision,
            after=image_ref(done.after.image),
        )
        if journal.get("step") == "upgrading" or done.outcome is RollbackOutcome.ROLLED_BACK:
            with suppress(PipelineError):
                lock.note(step="rolled back")
        return done


def _back(session: TargetSession, way: Planned, stands: Standing) -> Rollback:
    target = session.target
    step, helm = session.events.step, session.helm
    number = way.goal.number
    stands(ChangeState.UNDER_WAY)
    try:
        with step(StepId.HELM_ROLLBACK, f"to revision {number}, {way.expected.tag}"):
            helm.rollback(target.release, number, target.namespace, timeout=target.timeout_seconds)
        with step(StepId.VERIFY_ROLLBACK, "the image of that revision on every pod, answering"):
            _, now = verify_old(session, way.expected)
            digest = on_every_pod(way.expected, now, way.known)
    except PipelineError as problem:
        stands(ChangeState.ROLLBACK_FAILED, problem=error_summary(problem))
        raise RollbackFailed(
            f"the rollback of {target.release} to revision {number} failed:"
            f" {error_summary(problem)}",
            remedy="look at the pods with"
            f" `python3 pipeline.py status --target {target.name}` and repeat the rollback",
        ) from problem
    latest = helm.history(target.release, target.namespace)[-1].number
    return _ended(way, digest, RollbackOutcome.ROLLED_BACK, latest)


def _there(session: TargetSession, way: Planned) -> Rollback:
    """Nothing would change: what serves is verified and left as it is."""
    target = session.target
    number = way.described.before.revision
    try:
        with session.events.step(StepId.VERIFY_SERVED, "it is what was asked for already"):
            _, now = verify_old(session, way.expected)
            digest = on_every_pod(way.expected, now, way.known)
    except Interrupted:
        raise
    except PipelineError as problem:
        raise VerifyFailed(
            f"revision {number} of {target.release} is what was asked for already, and it does not"
            f" serve as it should: {error_summary(problem)}",
            remedy="look at the pods with"
            f" `python3 pipeline.py status --target {target.name}`, or return to another revision"
            " with --revision",
        ) from problem
    return _ended(way, digest, RollbackOutcome.ALREADY_THERE, number)


def _ended(way: Planned, digest: Digest, outcome: RollbackOutcome, latest: int) -> Rollback:
    after = way.described.after
    seen = replace(after, image=replace(after.image, digest=digest))
    return replace(way.described, after=seen, outcome=outcome, revision=latest)
