"""The plan lets through what derives from the tag or the revision, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ci.model import Difference, PlanRecord
from ci.promotion.plan.diff import Change, line, make, text
from ci.promotion.release.manifest import Rendered, parse
from ci.results import ChartRef, DifferenceReason

CHANGE = Change(
    old_tag="0123456789abcdef0123456789abcdef01234567",
    new_tag="queue-timeout-20261123-160000",
    old_repository="registry:5000/mirror/model-engine",
    new_repository="registry:5000/mirror/model-engine",
    old_revision=1,
    new_revision=2,
)

MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata: {{name: config}}
data:
  config.yaml: |
    lock: 60
    job: migration-{revision}
---
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{password: "{secret}"}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: model-engine
  labels: {{app.kubernetes.io/version: "{tag}"}}
spec:
  replicas: {replicas}
  template:
    metadata:
      labels: {{tags.datadoghq.com/version: "{tag}"}}
      annotations: {{checksum/config: "{checksum}"}}
    spec:
      containers:
        - name: model-engine
          image: {repository}:{tag}
          args: ["--name", "{arg}"]
          env:
            - {{name: GIT_TAG, value: "{tag}"}}
            - {{name: DB_PASSWORD, value: "{env_password}"}}
            - {{name: LOCK, value: "{lock}"}}
          resources: {{limits: {{memory: "{memory}"}}}}
"""
HOOK = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: migration-{revision}
  annotations: {{"helm.sh/hook": pre-upgrade}}
  labels: {{app.kubernetes.io/version: "{tag}"}}
spec:
  template:
    spec:
      containers: [{{name: migrate, image: "{repository}:{tag}", command: ["{command}"]}}]
"""
DEFAULTS = {
    "tag": CHANGE.old_tag,
    "repository": CHANGE.old_repository,
    "revision": "1",
    "replicas": "2",
    "secret": "hunter2hunter2",
    "checksum": "a" * 64,
    "arg": "engine",
    "env_password": "swordfish",
    "lock": "60",
    "memory": "1Gi",
    "command": "migrate",
}


def rendered(**values: str) -> Rendered:
    every = {**DEFAULTS, **values}
    return parse(MANIFEST.format(**every), HOOK.format(**every))


def planned(
    *,
    live: Rendered | None = None,
    same: Rendered | None = None,
    new: Rendered | None = None,
    again: Rendered | None = None,
    change: Change = CHANGE,
) -> PlanRecord:
    new = new or rendered(revision="2", tag=change.new_tag, repository=change.new_repository)
    return make(
        change,
        live=live or rendered(),
        same=same or rendered(revision="2"),
        new=new,
        again=again or new,
    )


def refused(plan: PlanRecord) -> list[tuple[str, str]]:
    return [(shown(d), d.path) for d in plan.refused]


def shown(difference: Difference) -> str:
    return f"{difference.object} (hook)" if difference.hook else difference.object


def test_only_the_tag_and_the_revision_change() -> None:
    plan = planned()
    assert refused(plan) == []
    assert {(shown(d), d.path) for d in plan.differences} == {
        ("ConfigMap/config", "data.config.yaml"),
        ("Deployment/model-engine", "metadata.labels.app.kubernetes.io/version"),
        ("Deployment/model-engine", "spec.template.metadata.labels.tags.datadoghq.com/version"),
        ("Deployment/model-engine", "spec.template.spec.containers[model-engine].image"),
        (
            "Deployment/model-engine",
            "spec.template.spec.containers[model-engine].env[GIT_TAG].value",
        ),
        ("Job/migration-1 (hook)", "metadata.name"),
        ("Job/migration-2 (hook)", "metadata.labels.app.kubernetes.io/version"),
        ("Job/migration-2 (hook)", "spec.template.spec.containers[migrate].image"),
    }


def test_each_difference_has_the_reason_it_is_allowed_or_refused_for() -> None:
    by_path = {d.path.rpartition(".")[2]: d.reason for d in planned().differences}
    assert by_path["image"] is DifferenceReason.IMAGE
    assert by_path["value"] is DifferenceReason.TAG
    assert by_path["yaml"] is DifferenceReason.REVISION
    summed = planned(new=rendered(revision="2", tag=CHANGE.new_tag, checksum="b" * 64))
    assert DifferenceReason.TAG_CHECKSUM in {d.reason for d in summed.differences}
    other = planned(new=rendered(revision="2", tag=CHANGE.new_tag, repository="registry:5000/x"))
    assert {d.reason for d in other.refused} == {DifferenceReason.NOT_PROVEN_IMAGE}
    scaled = planned(same=rendered(revision="2", replicas="3"))
    assert DifferenceReason.CHART_OR_VALUES in {d.reason for d in scaled.refused}


def test_nothing_differs_when_the_same_image_is_promoted_again() -> None:
    change = Change("v1", "v1", "r/x", "r/x", 1, 2)
    same = rendered(tag="v1", repository="r/x")
    assert make(change, live=same, same=same, new=same, again=same).differences == ()


BOTH = pytest.mark.parametrize("stage", ["chart", "tag"])


@BOTH
@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("replicas", "3", ("Deployment/model-engine", "spec.replicas")),
        (
            "memory",
            "2Gi",
            (
                "Deployment/model-engine",
                "spec.template.spec.containers[model-engine].resources.limits.memory",
            ),
        ),
        (
            "lock",
            "61",
            (
                "Deployment/model-engine",
                "spec.template.spec.containers[model-engine].env[LOCK].value",
            ),
        ),
        ("secret", "other-secret", ("Secret/login", "stringData.password")),
        (
            "arg",
            CHANGE.new_tag,
            ("Deployment/model-engine", "spec.template.spec.containers[model-engine].args.1"),
        ),
        (
            "command",
            "drop-all",
            ("Job/migration-2 (hook)", "spec.template.spec.containers[migrate].command.0"),
        ),
    ],
)
def test_anything_else_is_refused_wherever_it_comes_from(
    stage: str, field: str, value: str, where: tuple[str, str]
) -> None:
    """``chart``: it differs from what is live. ``tag``: it depends on the tag."""
    new = rendered(revision="2", tag=CHANGE.new_tag, **{field: value})
    same = rendered(revision="2", **({field: value} if stage == "chart" else {}))
    found = [
        (o.replace("migration-1", "migration-2"), p.replace("[", ".").replace("]", ""))
        for o, p in refused(planned(same=same, new=new))
    ]
    assert found == [(where[0], where[1].replace("[", ".").replace("]", ""))]


def test_a_tag_inside_a_selector_is_refused() -> None:
    template = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\n"
        "spec: {{selector: {{matchLabels: {{v: {}}}}}}}\n"
    )
    old, new = (parse(template.format(tag), "") for tag in (CHANGE.old_tag, CHANGE.new_tag))
    plan = make(CHANGE, live=old, same=old, new=new, again=new)
    assert refused(plan) == [("Deployment/d", "spec.selector.matchLabels.v")]


def test_an_object_that_comes_or_goes_is_refused() -> None:
    extra = parse(
        MANIFEST.format(**{**DEFAULTS, "revision": "2"})
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: back-door}\n",
        HOOK.format(**{**DEFAULTS, "revision": "2"}),
    )
    assert refused(planned(same=extra)) == [
        ("Service/back-door", ""),  # the chart differs from the live one …
        ("Service/back-door", ""),  # … and here the new tag takes it away again
    ]


def test_a_random_value_is_called_random() -> None:
    new = rendered(revision="2", tag=CHANGE.new_tag, secret="random-one")
    again = rendered(revision="2", tag=CHANGE.new_tag, secret="random-two")
    plan = planned(same=rendered(revision="2", secret="random-three"), new=new, again=again)
    (only,) = plan.refused
    assert (only.object, only.path) == ("Secret/login", "stringData.password")
    assert only.reason is DifferenceReason.NOT_DETERMINISTIC


def test_no_secret_is_ever_shown() -> None:
    new = rendered(
        revision="2", tag=CHANGE.new_tag, secret="other-secret", env_password="new-password"
    )
    plan = planned(new=new)
    assert "Secret/login stringData.password" in text(plan)
    for secret in ("hunter2hunter2", "other-secret", "swordfish", "new-password"):
        assert secret not in text(plan)
        assert secret not in repr(plan)


def test_an_image_of_another_repository_is_refused() -> None:
    new = rendered(revision="2", tag=CHANGE.new_tag, repository="registry:5000/mirror/other")
    assert [p for _, p in refused(planned(new=new))] == [
        "spec.template.spec.containers[model-engine].image",
        "spec.template.spec.containers[migrate].image",
    ]


def test_a_repository_may_change_on_purpose() -> None:
    change = Change(
        CHANGE.old_tag, CHANGE.new_tag, CHANGE.old_repository, "registry:5000/other", 1, 2
    )
    assert refused(planned(change=change)) == []


def test_a_side_car_with_the_same_tag_is_not_ours() -> None:
    template = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\n"
        "spec: {{template: {{spec: {{containers: [{{name: proxy,"
        " image: 'registry:5000/proxy:{}'}}]}}}}}}\n"
    )
    old, new = (parse(template.format(tag), "") for tag in (CHANGE.old_tag, CHANGE.new_tag))
    (only,) = make(CHANGE, live=old, same=old, new=new, again=new).refused
    assert only.path == "spec.template.spec.containers[proxy].image"


def test_a_checksum_may_follow_from_the_tag_but_not_from_the_chart() -> None:
    new = rendered(revision="2", tag=CHANGE.new_tag, checksum="b" * 64)
    assert refused(planned(new=new)) == []
    same = rendered(revision="2", checksum="b" * 64)
    assert refused(planned(same=same, new=new)) == [
        ("Deployment/model-engine", "spec.template.metadata.annotations.checksum/config")
    ]


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ("job-1", "job-2", True),
        ("v1.1 of job-1", "v1.1 of job-2", True),
        ("replicas: 1", "replicas: 2", False),
        ("job-11", "job-21", False),
        ("job-1", "job-3", False),
        ("1", "2", False),
    ],
)
def test_a_revision_is_recognised_by_its_separator(before: str, after: str, allowed: bool) -> None:
    def config(text: str) -> Rendered:
        return parse(
            f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{text: '{text}'}}\n",
            "",
        )

    plan = make(
        CHANGE, live=config(before), same=config(after), new=config(after), again=config(after)
    )
    assert [d.allowed for d in plan.differences] == [allowed]


def test_a_number_never_passes_for_a_revision() -> None:
    assert refused(planned(live=rendered(replicas="1"), same=rendered(revision="2"))) == [
        ("Deployment/model-engine", "spec.replicas")
    ]


def test_environment_entries_are_matched_by_name_and_their_order_counts() -> None:
    def env(*names: str) -> Rendered:
        entries = ", ".join(f"{{name: {n}, value: x}}" for n in names)
        return parse(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec:"
            f" {{containers: [{{name: c, env: [{entries}]}}]}}}}}}\n",
            "",
        )

    plan = make(
        CHANGE,
        live=env("A", "B"),
        same=env("B", "A", "C"),
        new=env("B", "A", "C"),
        again=env("B", "A", "C"),
    )
    assert refused(plan) == [
        ("Deployment/d", "spec.template.spec.containers[c].env[(order)]"),
        ("Deployment/d", "spec.template.spec.containers[c].env[C]"),
    ]


@pytest.mark.parametrize("text", ["", "---\n---\n", "# only a comment\n"])
def test_empty_manifests_have_no_objects(text: str) -> None:
    assert parse(text, text) == Rendered({}, {})


def test_yaml_is_read_as_kubernetes_reads_it() -> None:
    text = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
        "data: {a: yes, b: 2026-11-23, c: =}\n"
    )
    (item,) = parse(text, "").objects.values()
    assert item["data"] == {"a": "yes", "b": "2026-11-23", "c": "="}


def test_a_difference_reads_like_a_line() -> None:
    reason = DifferenceReason.NOT_FROM_IMAGE
    found = Difference("Deployment/d", "spec.replicas", "2", "3", False, reason)
    assert line(found).startswith("Deployment/d spec.replicas: 2 -> 3 (")
    hook = replace(found, object="Job/j", hook=True)
    assert line(hook).startswith("Job/j (hook) spec.replicas: 2 -> 3 (")


@pytest.mark.parametrize("make_text", [lambda tag: tag, lambda tag: f"release {tag}, again {tag}"])
def test_every_occurrence_may_follow_the_tag(make_text: Callable[[str], str]) -> None:
    def labelled(tag: str) -> Rendered:
        return parse(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  annotations:"
            f" {{note: '{make_text(tag)}'}}\n",
            "",
        )

    old, new = labelled(CHANGE.old_tag), labelled(CHANGE.new_tag)
    plan = make(CHANGE, live=old, same=old, new=new, again=new)
    assert [d.allowed for d in plan.differences] == [True]


ON_PURPOSE = replace(CHANGE, chart=ChartRef("engine-0.1.13", "engine-0.1.14"))


def of_another_chart(tag: str) -> Rendered:
    """It scales up and brings a ConfigMap and a Secret."""
    made = rendered(revision="2", replicas="3", tag=tag)
    brought = parse(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\ndata: {lock: 30s}\n---\n"
        "apiVersion: v1\nkind: Secret\nmetadata: {name: more}\nstringData: {key: swordfish}\n",
        "",
    )
    return Rendered({**made.objects, **brought.objects}, made.hooks)


def test_a_chart_changed_on_purpose_is_allowed_and_shown_in_full() -> None:
    same, new = of_another_chart(CHANGE.old_tag), of_another_chart(CHANGE.new_tag)
    plan = planned(same=same, new=new, change=ON_PURPOSE)
    assert plan.refused == ()
    by_chart = {
        (d.object, d.path): d.after for d in plan.differences if d.reason is DifferenceReason.CHART
    }
    assert by_chart["Deployment/model-engine", "spec.replicas"] == "3"
    assert by_chart["ConfigMap/new", "data.lock"] == "30s"
    assert "swordfish" not in text(plan)
    assert plan.chart == ON_PURPOSE.chart
    assert "chart engine-0.1.13 -> engine-0.1.14" in text(plan)
    assert len(refused(planned(same=same, new=new))) == 3, "and not by chance"


def test_another_chart_excuses_neither_the_tag_nor_chance() -> None:
    same, new = of_another_chart(CHANGE.old_tag), of_another_chart(CHANGE.new_tag)
    other = rendered(revision="2", replicas="4", tag=CHANGE.new_tag)
    by_tag = planned(same=same, new=Rendered({**new.objects, **other.objects}, other.hooks),
                     change=ON_PURPOSE)  # fmt: skip
    assert refused(by_tag) == [("Deployment/model-engine", "spec.replicas")]
    by_chance = planned(same=same, new=new, again=other, change=ON_PURPOSE)
    assert ("Deployment/model-engine", "spec.replicas") in refused(by_chance)
