"""Takes only a passing Proof -> Promotion: the upgrade plan, with its hopes measured.

Before the upgrade everything is a question, and a wrong answer leaves the target untouched.
From the moment the upgrade begins every way out but success is the same: evidence first, then
``helm rollback`` to the recorded revision, then proof that the old image serves again.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import httpx

from ci.context import Context
from ci.errors import (
    CommandFailed,
    Interrupted,
    PipelineError,
    PlanRefused,
    PromotionFailed,
    ProofFailed,
    RollbackFailed,
    WaitTimeout,
)
from ci.model import Check, Image, Promotion, Proof, Release, Target
from ci.promotion import backups, evidence, lease, live, plan, preflight, redaction
from ci.promotion import checks as checks_
from ci.promotion.canary import Canary
from ci.promotion.inside import InsideProber
from ci.promotion.prober import Prober
from ci.promotion.pull import Pull
from ci.promotion.rollout import (
    Expected,
    Snapshot,
    Trouble,
    Watch,
    judge,
    misplaced,
    new_pods,
    troubles,
)
from ci.promotion.soak import Soak
from ci.tools import chart as charts
from ci.tools.helm import Revision
from ci.tools.registry import copy, open_repository
from ci.tools.wait import SystemClock, wait_until

After = Callable[[Release], None]

BASELINE_PROBES = 5
"""Answers the prober must have before the upgrade may begin."""
BEFORE_SECONDS = 30
"""How long pods of an earlier change may take to go before the release is called unfit."""
SETTLE_SECONDS = 120
"""How long old pods may take to drain and go after Helm says that it is done."""
AWAY = re.compile(
    r"connection refused|connection reset|\bEOF\b|i/o timeout|TLS handshake|no route to host"
    r"|unreachable|etcdserver|connection lost|ServiceUnavailable|unable to handle the request",
    re.IGNORECASE,
)
"""What programs say when the cluster's API does not answer."""
ROLLBACK_ATTEMPTS_SECONDS = 60
"""How long the cluster's API may be away before a rollback is given up."""


@dataclass(frozen=True, slots=True)
class Before:
    """The target as it was found: all that the plan, the backups and a rollback need."""

    revision: Revision
    image: Image
    digests: frozenset[str]
    deployments: tuple[str, ...]
    rendered: plan.Rendered
    snapshot: Snapshot
    values: dict[str, Any]
    accounts: dict[str, str]
    """UID of every ServiceAccount, by name."""
    openapi: dict[str, Any] | None
    """How the service describes its API, where it does."""
    checks: tuple[Check, ...]

    @property
    def pods(self) -> list[Mapping[str, Any]]:
        """Of every Deployment of the service."""
        return [pod for name in self.deployments for pod in self.snapshot.pods_of(name)]

    def expected(self, target: Target) -> Expected:
        return Expected(
            self.deployments, target.gateway, self.image.repository, self.image.tag, self.digests
        )


def promote(
    context: Context, target: Target, proof: Proof, *, after: After | None = None
) -> Promotion:
    """Promote the proven image to ``target``.

    ``after`` is called with the new release once it is up, and raises when it finds it wanting
    (the flow passes the end-to-end queue-timeout test). Raises :class:`ProofFailed`,
    :class:`TargetNotFound`, :class:`PlanRefused`, :class:`RegistryRefused` or :class:`Locked`
    with the target untouched; :class:`PromotionFailed` when it was rolled back;
    :class:`RollbackFailed` when that failed and a person has to act.
    """
    step, folder = context.events.step, context.run_dir / "backups"
    with ExitStack() as held:
        with step("check the proof", "only what passed may be promoted"):
            refuse_unproven(proof)
        with step("find the target", "a wrong name ends here, before anything is touched"):
            history = live.find(context, target)
        with step("take the lock", "one promotion at a time per release"):
            lock = held.enter_context(
                lease.Lease(
                    live.private_kube(context, target),
                    release=target.release,
                    namespace=target.namespace,
                )
            )
            preflight.unfinished(lock.found, history[-1], rollback=rollback_command(target))
        with step("find the image", "the tag must be the proven digest where the target pulls"):
            image, accepted = proven_image(context, target, proof)
        with step("check the release", "the latest revision serves, whole, and as released"):
            before = inspect(context, target, history)
        with step("start the prober", "every request during the change is accounted for"):
            inside = held.enter_context(probing_inside(context, target, before))
            canary = held.enter_context(Canary(context, target))
            gateway = before.snapshot.deployments[target.gateway]
            pull = held.enter_context(Pull(context, target, image, gateway, before.pods))
        with step("back up", "what a rollback needs, readable without this project"):
            back_up(context, target, before, folder)
        with step("plan", "nothing may change but what derives from the image's tag"):
            planned = make_plan(context, target, before, image, history)
            refuse_more_than_the_image(context, planned)
        with step("tick the checklist", "the plan's own, each item with its evidence"):
            asked = (checks_.no_migration(context, target, before.rendered), pull.check())
            ticked = tick(context, proof, image, folder, asked)
        with step("ask the service", "it answers steadily before the change"):
            prober = steady(context, target, inside, held)
            canary.steady()
            soak = Soak(context, target, prober, before.image, before.pods)
        with step("check again", "nobody changed the release while we looked"):
            refuse_changed(context, target, before.revision)
            note_begin(lock, before, image)
        checks: tuple[Check, ...] = ()
        try:
            with step("upgrade", "helm upgrade --reuse-values, with only the tag"):
                upgrade(context, target, before, image)
            with step("judge the pods", "the proven digest on every pod, old pods gone"):
                release, settled_checks = settled(context, target, before, image, accepted)
                checks += settled_checks
            with step("ask for health", "as a client sees it"):
                checks += healthy(context, target, before.openapi)
            if after is not None:
                with step("prove on the target", "queue time-outs work where it counts"):
                    after(release)
            if target.soak_seconds:
                with step("soak", "what shows only with time shows before it is called done"):
                    checks += soak.watch(image)
            with step("count the probes", "no request may be lost in a change"):
                checks += count_probes(target, prober) + canary.account()
        except BaseException as problem:
            found = before.checks + asked + checks + so_far(prober, problem)
            recover(context, target, before, folder, lock, problem, found)
        with suppress(PipelineError):
            lock.note(step="done")
    return Promotion(
        target=target.name,
        before=before.image,
        after=image,
        from_revision=before.revision.number,
        to_revision=release.revision,
        backups=folder,
        checks=before.checks + asked + checks,
        checklist=ticked,
    )


def preview(context: Context, target: Target, image: Image) -> plan.Plan:
    """What promoting ``image`` would change, allowed or not. Changes nothing, refuses nothing
    but a target that is not fit to be changed."""
    history = live.find(context, target)
    return make_plan(context, target, inspect(context, target, history), image, history)


# -- before the change: questions only ------------------------------------------------------------


def refuse_unproven(proof: Proof) -> None:
    """Raise :class:`ProofFailed` unless the proof passed."""
    if proof.passed:
        return
    if proof.failed:
        names = ", ".join(case.name for case in proof.failed[:3])
        more = f" and {len(proof.failed) - 3} more" if len(proof.failed) > 3 else ""
        raise ProofFailed(f"the proof of {proof.image.by_tag} failed: {names}{more}")
    raise ProofFailed(f"nothing was proven about {proof.image.by_tag}: no test case passed")


def proven_image(context: Context, target: Target, proof: Proof) -> tuple[Image, frozenset[str]]:
    """The proven image as the target pulls it, and the digests its nodes may report.

    An image that the target's registry does not have yet is copied there by digest, bit for
    bit. A tag that resolves to anything else is refused.
    """
    proven = proof.image
    image = Image(target.image_repository, proven.tag, proven.digest)
    local = context.tools.registry
    with open_repository(
        image.repository, local=local, login=target.login, programs=context.programs
    ) as there:
        found = there.digest(image.tag)
        if found is None and image.repository != proven.repository:
            context.events.note(f"copying {proven.digest[:19]} to {image.repository}")
            with open_repository(proven.repository, local=local, programs=context.programs) as here:
                copy(here, there, image)
            found = there.digest(image.tag)
        if found != image.digest:
            raise PlanRefused(
                f"{image.by_tag} is {found or 'not in the registry'}, proven was {image.digest}",
                remedy="tags must not move: build and prove again, under a new tag",
            )
        return image, there.equivalents(image.digest)


def inspect(context: Context, target: Target, history: list[Revision]) -> Before:
    """Read the release, and refuse one that is not fit to be changed."""
    revision = preflight.deployed_revision(history, rollback=rollback_command(target))
    chart = context.path(target.chart)
    preflight.same_chart(revision.chart, charts.metadata(chart))
    kube, helm = live.private_kube(context, target), live.private_helm(context, target)
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="inspect") as pool:
        values_ = pool.submit(helm.values, target.release, target.namespace)
        manifest_ = pool.submit(helm.manifest, target.release, target.namespace)
        hooks_ = pool.submit(helm.hooks, target.release, target.namespace)
        stored_ = pool.submit(live.stored_chart, kube, target, revision.number)
        hpas_ = pool.submit(kube.get, "hpa", namespace=target.namespace)
        accounts_ = pool.submit(live.accounts, kube, target)
        openapi_ = pool.submit(live.openapi, kube, target)
        now = live.snapshot(kube, target.namespace)
        values, stored = values_.result(), stored_.result()
        rendered = plan.parse(manifest_.result(), hooks_.result())
        hpas, accounts = hpas_.result()["items"], accounts_.result()
        api = openapi_.result()
    checks = [
        Check("latest revision is the deployed one", True, f"revision {revision.number}"),
        Check("chart is the live one", True, revision.chart),
    ]
    checks.append(preflight.chart_is_live(stored, chart, values))
    scaled = preflight.autoscaled(hpas, list(rendered.objects.values()))
    if scaled:
        raise PlanRefused(
            f"the chart sets the replicas of {', '.join(scaled)}, an autoscaler does, too:"
            " the upgrade would reset them",
            remedy="leave replicas out of the chart where an HPA is, or remove the HPA",
        )
    checks.append(Check("no autoscaler is overruled", True, f"{len(hpas)} HPAs in the namespace"))
    as_released(target, revision, rendered, now)
    deployments = live.deployments_of(target, rendered.objects)
    checks.append(Check("live objects are as released", True, f"{len(deployments)} Deployments"))
    asked, _ = live.running_image(target, now)
    expected = Expected(deployments, target.gateway, asked.repository, asked.tag, frozenset())
    try:
        # Pods of a change just before this one may still be ending.
        judged, now = live.wait_complete(
            kube, target, expected, timeout=BEFORE_SECONDS, clock=context.clock
        )
    except WaitTimeout as problem:
        raise PlanRefused(
            f"the release does not serve as it should: {live.failed_to_text(problem)}",
            remedy="repair it first: from a broken release there is nothing to roll back to",
        ) from problem
    image, digests = live.running_image(target, now)
    if len(digests) > 1:
        raise PlanRefused(
            f"the release's pods run {len(digests)} different digests of {image.by_tag}",
            remedy="its tag was moved: restart the Deployments, so that all run the same",
        )
    checks.append(Check("every pod serves before the change", True, "; ".join(judged.evidence)))
    return Before(
        revision, image, digests, deployments, rendered, now, values, accounts, api, tuple(checks)
    )


def as_released(target: Target, revision: Revision, rendered: plan.Rendered, now: Snapshot) -> None:
    """Raise :class:`PlanRefused` when somebody changed a live Deployment by hand."""
    drifted: list[str] = []
    for key, released in rendered.objects.items():
        if key[1] != "Deployment":
            continue
        present = now.deployments.get(key[3])
        if present is None:
            drifted.append(f"Deployment/{key[3]} is gone")
        else:
            drifted += [
                f"Deployment/{key[3]} {path}" for path in preflight.drift(released, present)
            ]
    if drifted:
        raise PlanRefused(
            f"live objects were changed by hand since the release: {'; '.join(drifted[:4])}",
            remedy="put the change into the release's values, or undo it with"
            f" `{rollback_command(target)} --revision {revision.number}`",
        )


def back_up(context: Context, target: Target, before: Before, folder: Path) -> None:
    """Write the plan's backups, for this user only, and try the rollback script's dry run."""
    recorded = backups.Recorded(
        kubeconfig=str(target.cluster.kubeconfig.resolve()),
        context=target.cluster.context,
        namespace=target.namespace,
        release=target.release,
        revision=before.revision.number,
        timeout_seconds=target.timeout_seconds,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        values=before.values,
        deployments={n: before.snapshot.deployments[n] for n in before.deployments},
        gateway=target.gateway,
        image=before.image.by_tag,
        digest=before.image.digest,
    )
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for file in backups.make(recorded):
        path = folder / file.name
        path.touch(mode=0o600)
        path.write_text(file.text, encoding="utf-8")
        path.chmod(0o700 if file.executable else 0o600)
    script = str(folder / "quick-rollback.sh")
    for words in (["--help"], ["--dry-run", "--with", "helm"], ["--dry-run", "--with", "kubectl"]):
        context.programs.run(["sh", script, *words], log="quick-rollback", timeout=20)
    context.events.note(f"backups in {folder}; quick-rollback.sh tried dry")


def tick(
    context: Context, proof: Proof, image: Image, folder: Path, asked: tuple[Check, ...]
) -> tuple[Check, ...]:
    """The plan's checklist, for the terminal and, as a table, for the report."""
    ticked = checks_.checklist(
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
    path = context.run_dir / "tables" / "checklist.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, indent=1), encoding="utf-8")
    return ticked


def sets_of(target: Target, before: Image, after: Image) -> dict[str, str]:
    """What the upgrade sets: the tag; the repository only where it differs on purpose."""
    sets = {target.tag_value: after.tag}
    if after.repository != before.repository:
        sets.update(dict.fromkeys(target.repository_values, after.repository))
    return sets


def make_plan(
    context: Context, target: Target, before: Before, image: Image, history: list[Revision]
) -> plan.Plan:
    """Render what the upgrade would make, and compare it with what is live."""
    if live.value_at(before.values, target.tag_value) is None:
        helm = live.private_helm(context, target)
        every = helm.values(target.release, target.namespace, all=True)
        if live.value_at(every, target.tag_value) is None:
            raise PlanRefused(
                f"the release has no value {target.tag_value!r} to put the tag into",
                remedy="name the chart's value with service.tag_value in pipeline.toml",
            )
    helm = live.private_helm(context, target)
    chart, sets = context.path(target.chart), sets_of(target, before.image, image)

    def render(values: dict[str, str]) -> tuple[plan.Rendered, int]:
        made = helm.render_upgrade(target.release, chart, target.namespace, values)
        hooks = [hook["manifest"] for hook in made.get("hooks") or []]
        return plan.parse(made["manifest"], hooks), int(made["version"])

    with ThreadPoolExecutor(max_workers=3, thread_name_prefix="render") as pool:
        (same, _), (new, number), (again, _) = pool.map(render, ({}, sets, sets))
    plans = [
        plan.make(
            plan.Change(
                old_tag=before.image.tag,
                new_tag=image.tag,
                old_repository=before.image.repository,
                new_repository=image.repository,
                old_revision=rendered,
                new_revision=number,
            ),
            live=before.rendered,
            same=same,
            new=new,
            again=again,
        )
        for rendered in preflight.rendered_as(history, before.revision)
    ]
    return min(plans, key=lambda p: len(p.refused))


def refuse_more_than_the_image(context: Context, planned: plan.Plan) -> None:
    """Write the plan down, and raise :class:`PlanRefused` when it does more than it may."""
    path = context.run_dir / "plan.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(planned.text, encoding="utf-8")
    for difference in planned.refused:
        context.events.note(f"refused: {difference}")
    if planned.refused:
        shown = "; ".join(str(d) for d in planned.refused[:3])
        more = len(planned.refused) - 3
        raise PlanRefused(
            "the upgrade would change more than the image: "
            + shown
            + (f"; and {more} more" if more > 0 else ""),
            remedy=f"see {path}; make that change in a release of its own",
        )
    context.events.note(f"{len(planned.differences)} fields would change, all from the tag")


@contextmanager
def probing_inside(
    context: Context, target: Target, before: Before
) -> Iterator[InsideProber | None]:
    """A prober in the target's namespace, removed at the end; none where it is turned off or not
    allowed. It starts beside the next steps."""
    if target.probing.per_second <= 0 or not target.probing.inside:
        yield None
        return
    try:
        inside = InsideProber(
            context.kube(target.cluster),
            target,
            before.snapshot.deployments[target.gateway],
            before.image.by_tag,
        )
    except CommandFailed as problem:
        context.events.note(f"no prober inside the cluster: {live.failed_to_text(problem)}")
        yield None
        return
    try:
        yield inside
    finally:
        inside.remove()


def steady(
    context: Context, target: Target, inside: InsideProber | None, held: ExitStack
) -> Prober | InsideProber | None:
    """The prober that will count, once it has its first answers: the one inside, else one
    through the API server, which lives in ``held``.

    Raises :class:`PlanRefused` when the service does not answer steadily before the change.
    """
    if target.probing.per_second <= 0:
        return None
    if inside is not None:
        try:
            wait_for_answers(context, target, inside, CommandFailed)
            return inside
        except (CommandFailed, WaitTimeout) as problem:
            context.events.note(
                f"no answers to the prober inside the cluster ({live.failed_to_text(problem)}):"
                " probing through the API server"
            )
    socket = held.enter_context(context.kube(target.cluster).api())
    client = held.enter_context(
        httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://localhost",
            timeout=target.probing.timeout_seconds,
        )
    )
    prober = held.enter_context(
        Prober(
            live.sender(client, target),
            per_second=target.probing.per_second,
            timeout=target.probing.timeout_seconds,
            clock=SystemClock(),
        )
    )
    wait_for_answers(context, target, prober, PlanRefused)
    return prober


def wait_for_answers(
    context: Context,
    target: Target,
    prober: Prober | InsideProber,
    error: type[PipelineError],
) -> None:
    """Wait for the first answers; raise ``error`` at the first request that fails."""

    def answered() -> bool:
        now = prober.account()
        if now is not None and now.failed:
            raise error(
                f"{target.probing.path} does not answer steadily before the change:"
                f" {now.problems[0][0]}",
                remedy="repair the service, or allow get of services/proxy; the prober's path"
                " and rate are settings",
            )
        return now is not None and now.answered >= BASELINE_PROBES

    wait_until(
        f"{BASELINE_PROBES} answers of {target.probing.path}",
        answered,
        timeout=target.probing.timeout_seconds + 15,
        clock=context.clock,
        interval=0.1,
    )


def refuse_changed(context: Context, target: Target, recorded: Revision) -> None:
    latest = context.helm(target.cluster).history(target.release, target.namespace)[-1]
    if (latest.number, latest.status) != (recorded.number, recorded.status):
        raise PlanRefused(
            f"the release is now at revision {latest.number} ({latest.status}), it was at"
            f" {recorded.number}: somebody else changes it",
            remedy="find out who, then promote again",
        )


def note_begin(lock: lease.Lease, before: Before, image: Image) -> None:
    """Into the cluster's journal: what to return to, should this run be killed."""
    lock.note(
        step="upgrading",
        revision=str(before.revision.number),
        digests=",".join(sorted(before.digests)),
        image=image.by_digest,
    )


# -- the change -----------------------------------------------------------------------------------


class Hopeless(Exception):
    """A new pod is in a state that waiting does not heal. Never leaves :func:`promote`."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a pod may be in a state before the upgrade is given up."""

    broken: Watch = field(default_factory=Watch)
    misplaced: Watch = field(default_factory=lambda: Watch(patience=30))


def upgrade(context: Context, target: Target, before: Before, image: Image) -> None:
    """``helm upgrade --reuse-values --wait``; ended at once when a new pod is hopeless."""
    helm = context.helm(target.cluster)
    words = helm.upgrade_words(
        target.release,
        context.path(target.chart),
        sets_of(target, before.image, image),
        description=f"promoted {image.digest}",
    )
    argv = helm.argv(
        *words, "--wait", "--timeout", f"{target.timeout_seconds}s", namespace=target.namespace
    )
    kube, watch = live.private_kube(context, target), Patience()
    said: list[str] = []
    expected = Expected(
        before.deployments, target.gateway, image.repository, image.tag, frozenset()
    )
    progress = [""]

    with context.programs.background(
        argv, log=f"helm-upgrade-{target.cluster.name}", on_line=said.append
    ) as process:

        def finished() -> bool:
            if process.poll() is not None:
                return True
            now = _look(kube, target)
            if now is not None:
                give_up_on_hopeless(now, expected, watch, context)
                seen = str(judge(now, expected)).split("; ")[0]
                if seen != progress[0]:
                    progress[0] = seen
                    context.events.note(seen)
            return False

        wait_until(
            "helm upgrade to end",
            finished,
            timeout=target.timeout_seconds + 60,
            clock=context.clock,
            interval=0.5,
            diagnose=lambda: progress[0] or "nothing",
        )
    if process.returncode != 0:
        if context.programs.cancel.is_set():
            raise Interrupted("interrupted during helm upgrade")
        begin = next((n for n, line in enumerate(said) if line.startswith("Error:")), -1)
        text = " ".join(" ".join(said[begin:]).split()).removeprefix("Error: ") or "no output"
        seen = f"; last seen: {progress[0]}" if progress[0] else ""
        status = process.returncode
        ended = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
        raise PromotionFailed(f"helm upgrade {ended}: {text}{seen}")


def _look(kube: Any, target: Target) -> Snapshot | None:
    """The live objects; ``None`` when the API did not answer this time (Helm waits on)."""
    try:
        return live.snapshot(kube, target.namespace)
    except CommandFailed:
        return None


def give_up_on_hopeless(
    now: Snapshot, expected: Expected, patience: Patience, context: Context
) -> None:
    """Raise :class:`Hopeless` when a new pod has been hopeless for several seconds."""
    new = new_pods(now, expected)
    moment = context.clock.monotonic()
    trouble = patience.broken.see(moment, troubles(new))
    trouble = trouble or patience.misplaced.see(moment, misplaced(now, expected.deployments))
    if trouble is not None:
        raise Hopeless(trouble)


def settled(
    context: Context, target: Target, before: Before, image: Image, accepted: frozenset[str]
) -> tuple[Release, tuple[Check, ...]]:
    """Our own check after Helm's: complete by digest, and recorded as deployed."""
    kube, watch = live.private_kube(context, target), Patience()
    expected = Expected(before.deployments, target.gateway, image.repository, image.tag, accepted)
    judged, now = live.wait_complete(
        kube,
        target,
        expected,
        timeout=SETTLE_SECONDS,
        clock=context.clock,
        look=lambda seen: give_up_on_hopeless(seen, expected, watch, context),
    )
    latest = context.helm(target.cluster).history(target.release, target.namespace)[-1]
    if latest.status != "deployed":
        raise PromotionFailed(f"revision {latest.number} is {latest.status}, not deployed")
    release = Release(target.cluster, target.namespace, target.release, latest.number, image)
    pods = sum(len(now.pods_of(name)) for name in before.deployments)
    recreated = preflight.recreated(before.accounts, live.accounts(kube, target))
    if recreated:
        context.events.note(
            f"ServiceAccount {', '.join(recreated)} was re-created by the upgrade: pods of others"
            " that use it lose access; the cure is the annotation helm.sh/hook: pre-install"
        )
    return release, (
        Check("the proven digest runs on every pod", True, "; ".join(judged.evidence)),
        Check("old pods are gone", True, f"{pods} pods, all new; EndpointSlices name only these"),
        Check("the release is deployed", True, f"revision {latest.number}"),
    )


def healthy(context: Context, target: Target, api: dict[str, Any] | None) -> tuple[Check, ...]:
    checks = live.health(context, target)
    checks += (live.compatible(live.private_kube(context, target), target, api),)
    failed = [f"{check.name}: {check.evidence}" for check in checks if not check.ok]
    if failed:
        raise PromotionFailed(f"the new release is not healthy: {'; '.join(failed)}")
    return checks


def count_probes(target: Target, prober: Prober | InsideProber | None) -> tuple[Check, ...]:
    """The account of every request. Raises :class:`PromotionFailed` when too many failed, or
    when the prober was lost, so that nobody knows."""
    if prober is None:
        return (Check("requests during the change", True, "not probed: turned off"),)
    final = prober.stop()
    if final is None:
        raise PromotionFailed("the prober was lost: nobody knows whether requests were")
    if final.failed > target.probing.allowed_failures:
        raise PromotionFailed(f"requests were lost during the change: {final}")
    return (Check("requests during the change", True, f"{final}, {prober.where}"),)


# -- when it fails --------------------------------------------------------------------------------


def recover(
    context: Context,
    target: Target,
    before: Before,
    folder: Path,
    lock: lease.Lease,
    problem: BaseException,
    found: tuple[Check, ...],
) -> NoReturn:
    """Evidence, rollback, verification; then raise what is to be told, with what was ``found``
    out until then."""
    step, where = context.events.step, context.run_dir / "evidence"
    because = redaction.text(cause(problem))
    context.events.note(f"the promotion failed: {because}")
    with suppress(PipelineError, OSError), step("keep the evidence", "before it is rolled back"):
        private_helm = live.private_helm(context, target).for_cleanup()
        private_kube = live.private_kube(context, target, during_cleanup=True)
        now = _look(private_kube, target)
        evidence.collect(private_kube, private_helm, target, now, where)
        because = redaction.text(with_last_words(because, problem, where))
        (where / "cause.txt").write_text(because + "\n", encoding="utf-8")
    try:
        with step("roll back", f"to the recorded revision {before.revision.number}"):
            changed = roll_back(context, target, before.revision)
            restart_refused(context, target, before)
        with step("verify the rollback", "the old digest on every pod, and it answers"):
            verified = verify_old(context, target, before.expected(target))
            verify_restored(context, target, before)
    except BaseException as second:
        worst = RollbackFailed(
            f"the promotion failed ({because}) and the rollback failed, too:"
            f" {live.failed_to_text(second)}",
            remedy="act now: " + commands_for_a_human(context, target, before, folder),
        )
        worst.found = found
        raise worst from second
    with suppress(PipelineError):
        lock.note(step="rolled back")
    did = f"rolled back to revision {before.revision.number}" if changed else "nothing was changed"
    context.events.note(verified)
    failure = PromotionFailed(
        f"{because}; {did}: {before.image.tag} ({short(before.image.digest)}) serves again",
        remedy=f"the evidence is in {where}",
    )
    failure.found = found
    raise failure from problem


def so_far(prober: Prober | InsideProber | None, problem: BaseException) -> tuple[Check, ...]:
    """What ended the promotion, and the account of the requests until then."""
    failed = Check("the change came to its end", False, redaction.text(cause(problem)))
    with suppress(PipelineError):
        now = prober.account() if prober is not None else None
        if prober is not None and now is not None:
            account = f"{now}, {prober.where}"
            return (failed, Check("requests until it failed", now.failed == 0, account))
    return (failed,)


def short(digest: str) -> str:
    return digest[:19] or "digest unknown"


def cause(problem: BaseException) -> str:
    """Why a promotion failed, in plain words."""
    match problem:
        case Hopeless(trouble=trouble):
            return f"the new version cannot start: {trouble}"
        case Interrupted() | KeyboardInterrupt():
            return "interrupted during the upgrade"
        case WaitTimeout():
            return f"the new version did not come up: {live.failed_to_text(problem)}"
        case _:
            return live.failed_to_text(problem)


def with_last_words(because: str, problem: BaseException, where: Path) -> str:
    """What the evidence adds to a cause: a crashed container's last line; of a wait that ended in
    vain, what forbade a pod (a quota, a policy), or why the probes of a pod failed."""
    if isinstance(problem, Hopeless):
        if problem.trouble.reason != "CrashLoopBackOff":
            return because
        base = where / "logs" / f"{problem.trouble.pod}.{problem.trouble.container}"
        for suffix in (".previous.log", ".log"):
            lines = _lines(base.with_name(base.name + suffix))
            if lines:
                return f"{because}, its last words: {lines[-1][:200]}"
        return because
    waited = any(
        words in because for words in ("not ready", "deadline exceeded", "timed out waiting")
    )
    if not waited or not isinstance(problem, (PromotionFailed, WaitTimeout)):
        return because
    forbidden = [
        found[1]
        for line in _lines(where / "events.txt")
        if (found := re.match(r"\S*[ms]\s.*\sFailedCreate\s.*?Error creating: (.*)", line))
    ]
    if forbidden:
        return f"{because} ({forbidden[-1][:200]})"
    unready = unready_pods(_lines(where / "pods.txt"))
    probes = [
        line
        for line in _lines(where / "events.txt")
        if "probe failed" in line
        and (not unready or any(f"pod/{name} " in line for name in unready))
    ]
    if probes:
        words = probes[-1].partition("probe failed")
        return f"{because} ({words[0].split()[-1].lower()} probe failed{words[2][:160]})"
    return because


def unready_pods(listed: Iterable[str]) -> list[str]:
    """Names of pods that ``kubectl get pods`` showed with fewer containers ready than it has."""
    counted = (re.match(r"(\S+)\s+(\d+)/(\d+)\s", line) for line in listed)
    return [found[1] for found in counted if found and int(found[2]) < int(found[3])]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def roll_back(context: Context, target: Target, recorded: Revision) -> bool:
    """``helm rollback`` to the recorded revision; ``False`` when nothing had been changed.

    The API may be away for a moment (that may be why we are here), so the history is asked for
    until it comes.
    """
    helm = context.helm(target.cluster).for_cleanup()

    def history() -> list[Revision] | None:
        try:
            return helm.history(target.release, target.namespace)
        except CommandFailed:
            return None

    found = wait_until(
        "the release's history",
        history,
        timeout=ROLLBACK_ATTEMPTS_SECONDS,
        clock=SystemClock(),
        interval=2,
        diagnose=lambda: "no answer from the cluster",
    )
    latest = found[-1]
    if latest.number == recorded.number and latest.status == "deployed":
        return False
    helm.rollback(target.release, recorded.number, target.namespace, timeout=target.timeout_seconds)
    return True


def restart_refused(context: Context, target: Target, before: Before) -> None:
    """Restart the service when the upgrade re-created a ServiceAccount (some charts make it in
    a hook): the old pods' tokens are refused from then on, and no rollback repairs that."""
    kube = live.private_kube(context, target, during_cleanup=True)
    names = preflight.recreated(before.accounts, live.accounts(kube, target))
    if not names:
        return
    context.events.note(
        f"ServiceAccount {', '.join(names)} was re-created by the upgrade: restarting the pods,"
        " whose tokens are refused; the cure is the annotation helm.sh/hook: pre-install"
    )
    for name in before.deployments:
        kube.run("rollout", "restart", f"deployment/{name}", "--namespace", target.namespace)
        kube.run(
            "rollout", "status", f"deployment/{name}", "--namespace", target.namespace,
            f"--timeout={target.timeout_seconds}s", timeout=target.timeout_seconds + 30,
        )  # fmt: skip


def verify_old(context: Context, target: Target, expected: Expected) -> str:
    """Wait until the old digest serves from every pod; the evidence in short."""
    kube = live.private_kube(context, target, during_cleanup=True)
    judged, _ = live.wait_complete(
        kube, target, expected, timeout=SETTLE_SECONDS, clock=SystemClock()
    )

    def answers() -> bool | None:
        return all(c.ok for c in live.health_without_forward(kube, target)) or None

    wait_until(
        f"{', '.join(target.health_paths)} of the old version",
        answers,
        timeout=30,
        clock=SystemClock(),
        diagnose=lambda: "; ".join(
            f"{c.name}: {c.evidence}" for c in live.health_without_forward(kube, target) if not c.ok
        ),
    )
    return "; ".join(judged.evidence)


def verify_restored(context: Context, target: Target, before: Before) -> None:
    """Raise unless the live Deployments are what was recorded before the change."""
    kube = live.private_kube(context, target, during_cleanup=True)
    now = live.snapshot(kube, target.namespace)
    left = [
        f"Deployment/{name} {path}"
        for name in before.deployments
        for path in preflight.unrestored(before.snapshot.deployments[name], now.deployments[name])
    ]
    if left:
        raise RollbackFailed(f"the rollback left {'; '.join(left[:4])} otherwise than before")


def commands_for_a_human(context: Context, target: Target, before: Before, folder: Path) -> str:
    """The exact commands that do by hand what failed here."""
    helm = context.helm(target.cluster)
    by_hand = shlex.join(
        helm.argv(
            "rollback",
            target.release,
            str(before.revision.number),
            "--wait",
            "--timeout",
            f"{target.timeout_seconds}s",
            namespace=target.namespace,
        )
    )
    script = shlex.quote(str(folder / "quick-rollback.sh"))
    return f"`{script}`, or `{by_hand}`; without helm: `{script} --with kubectl`"


def rollback_command(target: Target) -> str:
    return f"python3 pipeline.py rollback --target {target.name}"


# -- rollback as a command of its own -------------------------------------------------------------


def rollback(context: Context, target: Target, revision: int | None = None) -> int:
    """Return the release to ``revision``, else to the one an unfinished promotion recorded, else
    to the last good one; verified. Repairs what a killed run left pending.

    Returns the number of the revision that is deployed now. Raises :class:`PlanRefused` when
    there is nothing to return to, :class:`RollbackFailed` when it did not work.
    """
    step = context.events.step
    with step("find the target", "a wrong name ends here, before anything is touched"):
        history = live.find(context, target)
    with lease.Lease(
        live.private_kube(context, target), release=target.release, namespace=target.namespace
    ) as lock:
        journal = lock.found
        unfinished = journal.get("step") == "upgrading"
        goal = choose(history, revision, journal.get("revision", "") if unfinished else "")
        helm = live.private_helm(context, target)
        rendered = plan.parse(
            helm.manifest(target.release, target.namespace, goal.number), hooks=""
        )
        repository, tag = live.released_image(target, rendered)
        digests = journal.get("digests", "") if journal.get("revision") == str(goal.number) else ""
        expected = Expected(
            tuple(
                name
                for name in live.deployments_of(target, rendered.objects)
                if any(key[1] == "Deployment" and key[3] == name for key in rendered.objects)
            ),
            target.gateway,
            repository,
            tag,
            frozenset(filter(None, digests.split(","))),
        )
        try:
            with step("roll back", f"to revision {goal.number}, {tag}"):
                context.helm(target.cluster).rollback(
                    target.release, goal.number, target.namespace, timeout=target.timeout_seconds
                )
            with step("verify the rollback", "every pod runs the old image, and it answers"):
                verify_old(context, target, expected)
        except PipelineError as problem:
            raise RollbackFailed(
                f"the rollback of {target.release} to revision {goal.number} failed:"
                f" {live.failed_to_text(problem)}",
                remedy="look at the pods with"
                f" `python3 pipeline.py status --target {target.name}` and repeat the rollback",
            ) from problem
        with suppress(PipelineError):
            lock.note(step="rolled back")
    return context.helm(target.cluster).history(target.release, target.namespace)[-1].number


def choose(history: list[Revision], asked: int | None, recorded: str) -> Revision:
    """The revision to return to. Pure. Raises :class:`PlanRefused` when there is none."""
    usable = {r.number: r for r in history if r.status in ("deployed", "superseded")}
    known = ", ".join(map(str, usable)) or "none"
    if asked is not None:
        if asked not in usable:
            raise PlanRefused(
                f"there is no revision {asked} to return to", remedy=f"there are: {known}"
            )
        return usable[asked]
    if recorded.isdigit() and int(recorded) in usable:
        return usable[int(recorded)]
    latest = history[-1]
    # What was rolled back already is not where to go: before a rollback is before its goal.
    before = preflight.origin(history, latest)
    deployed = [r for r in usable.values() if r.status == "deployed" and r is not latest]
    older = [r for r in usable.values() if r.number < before]
    if not (deployed or older):
        raise PlanRefused(
            f"there is no revision before {before} to return to",
            remedy=f"name one with --revision; there are: {known}",
        )
    return (deployed or older)[-1]
