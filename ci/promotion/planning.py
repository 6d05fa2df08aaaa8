"""What an upgrade would change on a target: rendered by its own cluster, judged by
:mod:`ci.promotion.plan`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from ci.context import Context
from ci.errors import PlanRefused
from ci.model import Image, Target
from ci.promotion import live, plan, preflight
from ci.promotion.before import Before
from ci.tools import chart as charts
from ci.tools.helm import Revision


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
    ours = preflight.chart_name(charts.metadata(chart))

    def render(values: dict[str, str]) -> tuple[plan.Rendered, int]:
        made = helm.render_upgrade(
            target.release, chart, target.namespace, values, new_defaults=target.chart_change
        )
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
                chart=f"{before.revision.chart} -> {ours}" if target.chart_change else "",
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
    why = "from the tag or the chart" if planned.change.chart else "from the tag"
    context.events.note(f"{len(planned.differences)} fields would change, all {why}")
