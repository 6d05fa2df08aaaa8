"""What an upgrade would change on a target: rendered by its own cluster, judged by
:mod:`ci.promotion.plan.diff`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ci.errors import PlanRefused
from ci.model import Image, PlanRecord
from ci.promotion.plan import diff
from ci.promotion.plan.values import sets_of
from ci.promotion.release import history as history_
from ci.promotion.release import manifest, reader
from ci.promotion.release.baseline import Before
from ci.promotion.release.session import TargetSession
from ci.report import files
from ci.results import ChartRef
from ci.run.context import Context
from ci.tools import chart as charts
from ci.tools.helm import Revision


@dataclass(frozen=True, slots=True)
class Made:
    """A release that an upgrade would make."""

    rendered: manifest.Rendered
    number: int


def render(session: TargetSession, sets: Mapping[str, str]) -> Made:
    """Let the target's server render the upgrade."""
    target = session.target
    made = session.helm.render_upgrade(
        target.release,
        session.path(target.chart),
        target.namespace,
        sets,
        new_defaults=target.chart_change,
        validate=bool(sets),  # what sets nothing is only compared with
    )
    hooks = [hook["manifest"] for hook in made.get("hooks") or []]
    return Made(manifest.parse(made["manifest"], hooks), int(made["version"]))


@contextmanager
def rendering(session: TargetSession, sets: Mapping[str, str]) -> Iterator[Future[Made]]:
    """The same, beside the next steps."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="render") as pool:
        yield pool.submit(render, session, sets)


def make_plan(
    session: TargetSession,
    before: Before,
    image: Image,
    history: list[Revision],
    same: Future[Made],
    made: Future[Made],
) -> PlanRecord:
    """Compare what the upgrade would make with what is live. ``same`` is the one that sets
    nothing, ``made`` the one that is meant."""
    target = session.target
    if reader.value_at(before.values, target.tag_value) is None:
        helm = session.helm
        every = helm.values(target.release, target.namespace, all=True)
        if reader.value_at(every, target.tag_value) is None:
            raise PlanRefused(
                f"the release has no value {target.tag_value!r} to put the tag into",
                remedy="name the chart's value with service.tag_value in pipeline.toml",
            )
    sets = sets_of(target, before.image, image)
    ours = charts.chart_name(charts.metadata(session.path(target.chart)))
    new = made.result()

    def compared(again: Made) -> PlanRecord:
        plans = [
            diff.make(
                diff.Change(
                    old_tag=before.image.tag,
                    new_tag=image.tag,
                    old_repository=before.image.repository,
                    new_repository=image.repository,
                    old_revision=rendered,
                    new_revision=new.number,
                    chart=ChartRef(before.revision.chart, ours) if target.chart_change else None,
                ),
                live=before.rendered,
                same=same.result().rendered,
                new=new.rendered,
                again=again.rendered,
            )
            for rendered in history_.rendered_as(history, before.revision)
        ]
        return min(plans, key=lambda p: len(p.refused))

    planned = compared(again=new)
    # What is random differs between the live release and an upgrade that sets nothing, too: it is
    # refused in any case, and a second rendering only says why. Another chart excuses that.
    if planned.refused or target.chart_change:
        planned = compared(again=render(session, sets))
    return replace(
        planned,
        before=replace(planned.before, digest=before.image.digest),
        after=replace(planned.after, digest=image.digest),
        from_revision=before.revision.number,
    )


def refuse_more_than_the_image(context: Context, planned: PlanRecord) -> None:
    """Write the plan down, and raise :class:`PlanRefused` when it does more than it may."""
    files.write(context.folder, planned)
    path = context.folder.text("plan.txt", diff.text(planned))
    for difference in planned.refused:
        context.events.note(f"refused: {diff.line(difference)}")
    if planned.refused:
        shown = "; ".join(map(diff.line, planned.refused[:3]))
        more = len(planned.refused) - 3
        raise PlanRefused(
            "the upgrade would change more than the image: "
            + shown
            + (f"; and {more} more" if more > 0 else ""),
            remedy=f"see {path}; make that change in a release of its own",
        )
    why = "from the tag or the chart" if planned.chart else "from the tag"
    context.events.note(f"{len(planned.differences)} fields would change, all {why}")
