"""Which revision a rollback returns to: by what the revisions serve, not by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.digest import Digest
from ci.errors import PlanRefused
from ci.promotion.release import history
from ci.promotion.release import manifest as manifest_
from ci.promotion.release.history import Content, choose
from ci.promotion.rollback import requested
from ci.tools.helm import Revision

V1, V2, V3 = (Content(f"registry:5000/engine:v{n}", "engine-1.0") for n in (1, 2, 3))
V2_AGAIN = replace(V2)
V2_SCALED = replace(V2, values={"replicas": 3})
V2_CHART = replace(V2, chart="engine-1.1")
V2_TEMPLATES = replace(V2, templates="e" * 64)
V2_SIDECAR = replace(V2, others=frozenset({("Deployment/engine/proxy", "envoy:1.2")}))

Line = tuple[str, Content] | tuple[str, Content, int]
"""Status, what it serves, and which revision it is a rollback to, if any."""


def told(*lines: Line) -> tuple[list[Revision], Any]:
    """A history, and what each of its revisions serves."""
    revisions = [
        Revision(n, line[0], line[1].chart, f"Rollback to {line[2]}" if len(line) > 2 else "")
        for n, line in enumerate(lines, 1)
    ]
    served = {n: line[1] for n, line in enumerate(lines, 1)}
    return revisions, lambda revision: served[revision.number]


OLD, NOW, FAILED, PENDING = "superseded", "deployed", "failed", "pending-upgrade"


@pytest.mark.parametrize(
    ("lines", "goal"),
    [
        pytest.param([(OLD, V1), (NOW, V2)], 1, id="the one before"),
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V2)], 1, id="promoted what already ran"),
        pytest.param([(OLD, V1), (OLD, V2), (OLD, V2), (NOW, V2_AGAIN)], 1, id="three times"),
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V3)], 2, id="the newest of those"),
        pytest.param([(OLD, V2), (NOW, V2_SCALED)], 1, id="only the values differ"),
        pytest.param([(OLD, V2), (NOW, V2_CHART)], 1, id="only the chart differs"),
        pytest.param(
            [(OLD, replace(V2, templates="a" * 64)), (NOW, V2_TEMPLATES)], 1, id="only templates do"
        ),
        pytest.param([(OLD, V2), (NOW, V2_SIDECAR)], 1, id="only another container's image does"),
        pytest.param([(OLD, V1), (FAILED, V3), (NOW, V2)], 1, id="a failed one never served"),
        pytest.param([(OLD, V1), (PENDING, V3), (NOW, V2)], 1, id="nor did a pending one"),
        # What was rolled back is what somebody wanted to get away from.
        pytest.param([(OLD, V1), (OLD, V2), (OLD, V3), (NOW, V2, 2)], 1, id="after a rollback"),
        pytest.param(
            [(OLD, V1), (OLD, V2), (OLD, V3), (OLD, V2, 2), (NOW, V2)], 1, id="and promoted again"
        ),
        pytest.param(
            [(OLD, V1), (OLD, V2), (OLD, V1, 1), (OLD, V2), (NOW, V3)], 4, id="in again, for good"
        ),
        pytest.param(
            [(OLD, V1), (OLD, V2), (OLD, V3), (FAILED, V1, 1), (NOW, V2)], 3,
            id="a rollback that failed left nothing behind",
        ),
        # Not whole: repaired, whatever it serves.
        pytest.param([(NOW, V1), (FAILED, V2)], 1, id="failed"),
        pytest.param([(NOW, V1), (PENDING, V2)], 1, id="pending"),
        pytest.param([(OLD, V1), (NOW, V2), (PENDING, V2)], 2, id="pending, with the same image"),
        pytest.param([(OLD, V1), (OLD, V2), (FAILED, V3)], 2, id="none is deployed"),
        pytest.param(
            [(OLD, V1), (NOW, V2), ("pending-rollback", V1, 1)], 1,
            id="a rollback that was killed goes on, not back",
        ),
        pytest.param(
            [(OLD, V1), (OLD, V2), (FAILED, V1, 1)], 1, id="a rollback that failed is repeated"
        ),
    ],
)  # fmt: skip
def test_where_a_rollback_returns_to(lines: Sequence[Line], goal: int) -> None:
    revisions, content = told(*lines)
    chosen = choose(revisions, content)
    assert chosen.revision.number == goal
    assert not chosen.same


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([(NOW, V1)], id="the first"),
        pytest.param([("pending-install", V1)], id="never deployed"),
        pytest.param([(OLD, V1), (NOW, V1)], id="the same twice"),
        pytest.param([(FAILED, V2), (NOW, V1)], id="only failed ones"),
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V1, 1)], id="only what was rolled back"),
    ],
)
def test_where_there_is_nothing_to_return_to(lines: Sequence[Line]) -> None:
    revisions, content = told(*lines)
    with pytest.raises(PlanRefused, match="there is no revision to return to") as refused:
        choose(revisions, content)
    assert refused.value.exit_code == 31
    assert refused.value.remedy


def test_the_refusal_names_what_serves_and_what_there_is() -> None:
    revisions, content = told((OLD, V1), (OLD, V2), (NOW, V1, 1))
    with pytest.raises(
        PlanRefused, match=r"than revision 3 \(registry:5000/engine:v1\)"
    ) as refused:
        choose(revisions, content)
    assert "--revision; there are: 1, 2, 3" in refused.value.remedy


@pytest.mark.parametrize(
    ("asked", "same"), [(1, False), (2, True), (3, True)], ids=["another", "equal", "itself"]
)
def test_a_revision_that_is_asked_for(asked: int, same: bool) -> None:
    revisions, content = told((OLD, V1), (OLD, V2), (NOW, V2))
    chosen = choose(revisions, content, asked=asked)
    assert (chosen.revision.number, chosen.same) == (asked, same)


def test_no_revision_is_the_same_as_one_that_failed() -> None:
    revisions, content = told((NOW, V2), (FAILED, V2))
    assert not choose(revisions, content, asked=1).same


@pytest.mark.parametrize(
    ("asked", "says"),
    [(2, "no revision 2 to return to: it is failed"), (9, "no revision 9 to return to$")],
)
def test_a_revision_that_never_served_is_refused(asked: int, says: str) -> None:
    revisions, content = told((OLD, V1), (FAILED, V3), (NOW, V2))
    with pytest.raises(PlanRefused, match=says) as refused:
        choose(revisions, content, asked=asked)
    assert "1, 3" in refused.value.remedy


@pytest.mark.parametrize(
    ("lines", "recorded", "goal", "same"),
    [
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V3)], 1, 1, False, id="what it recorded"),
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V3)], 99, 2, False, id="Helm has forgotten it"),
        pytest.param([(OLD, V1), (NOW, V2)], 2, 2, True, id="killed before it changed anything"),
        pytest.param([(OLD, V1), (OLD, V2), (NOW, V1, 1)], 1, 1, True, id="rolled back already"),
    ],
)
def test_an_unfinished_promotion_recorded_where_to_return_to(
    lines: Sequence[Line], recorded: int, goal: int, same: bool
) -> None:
    revisions, content = told(*lines)
    chosen = choose(revisions, content, recorded=recorded)
    assert (chosen.revision.number, chosen.same) == (goal, same)


def test_only_what_decides_is_read() -> None:
    revisions, content = told(*[(OLD, V1)] * 200, (OLD, V2), (NOW, V2))
    read: list[int] = []

    def reading(revision: Revision) -> Content:
        read.append(revision.number)
        served: Content = content(revision)
        return served

    assert choose(revisions, reading).revision.number == 200
    assert set(read) == {202, 201, 200}


# -- what is the same ------------------------------------------------------------------------------


INDEX, AMD64, OTHER = (Digest.from_hex(letter * 64) for letter in "abc")


def known(content: Content, *digests: Digest) -> Content:
    return replace(content, digest=digests[0], equivalents=frozenset(digests))


def test_the_same_digest_under_another_tag_is_the_same_image() -> None:
    one, other = known(V1, INDEX, AMD64), known(V2, AMD64)
    assert one.same_as(other)
    assert not one.same_as(known(V2, OTHER))
    assert not one.same_as(V2), "what nobody knows is compared by tag"


def test_templates_that_cannot_be_read_tell_nothing() -> None:
    assert V2.same_as(V2_TEMPLATES)


def test_templates_are_compared_by_their_bytes() -> None:
    def chart(**files: str) -> dict[str, Any]:
        named = [{"name": f"templates/{name}", "data": data} for name, data in files.items()]
        crds = [
            {"name": "crds/x.yaml", "data": "x"},
            {"name": "README.md", "data": str(len(files))},
        ]
        return {"templates": named, "files": crds}

    one = requested.templates(chart(a="1", b="2"))
    assert one == requested.templates(chart(b="2", a="1"))
    assert one != requested.templates(chart(a="1", b="3"))
    assert one != requested.templates({**chart(a="1", b="2"), "files": []}), "a CRD less"
    assert requested.templates(None) == ""
    assert requested.templates({"templates": None}) == requested.templates({})


def test_images_of_what_lasts_are_compared() -> None:
    manifest = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: engine}
spec: {template: {spec: {
  initContainers: [{name: wait, image: busybox:1}], containers: [{name: engine, image: r/e:1}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: sweep}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: sweep, image: r/s:1}]}}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate-7}
spec: {template: {spec: {containers: [{name: migrate, image: r/m:1}]}}}
"""
    assert history.images_of(manifest_.parse(manifest, "")) == {
        "Deployment/engine/wait": "busybox:1",
        "Deployment/engine/engine": "r/e:1",
        "CronJob/sweep/sweep": "r/s:1",
    }


def test_values_are_compared_without_the_images_own() -> None:
    values = {"tag": "new", "image": {"repository": "r/e"}, "more": {"image": {"x": 1}}, "no": {}}
    left = history.without(values, ("tag", "image.repository", "more.none", "gone.too"))
    assert left == {"more": {"image": {"x": 1}}, "no": {}}
    assert values["image"] == {"repository": "r/e"}, "the given ones stay as they are"


# -- for every history -----------------------------------------------------------------------------

CONTENTS = (V1, V2, V2_SCALED, V3)


@st.composite
def histories(draw: st.DrawFn) -> list[Line]:
    """Histories whose latest revision is deployed; rollbacks serve what their goal served."""
    lines: list[Line] = []
    length = draw(st.integers(1, 12))
    for number in range(1, length + 1):
        status = NOW if number == length else draw(st.sampled_from([OLD, OLD, FAILED, PENDING]))
        goal = draw(st.integers(0, number - 1))
        if goal and draw(st.booleans()):
            lines.append((status, lines[goal - 1][1], goal))
        else:
            lines.append((status, draw(st.sampled_from(CONTENTS))))
    return lines


@given(histories())
def test_the_newest_that_was_deployed_and_serves_something_else(lines: list[Line]) -> None:
    revisions, content = told(*lines)
    now, undone = content(revisions[-1]), history.rolled_back(revisions)
    others = [
        r.number
        for r in revisions[:-1]
        if r.status == OLD and r.number not in undone and content(r) != now
    ]
    try:
        chosen = choose(revisions, content)
    except PlanRefused:
        assert others == []
    else:
        assert content(chosen.revision) != now
        assert chosen.revision.status == OLD
        assert chosen.revision.number == max(others)


@given(histories(), st.integers(1, 12))
def test_what_is_asked_for_is_returned_to_or_refused(lines: list[Line], asked: int) -> None:
    revisions, content = told(*lines)
    once = {r.number for r in revisions if r.status in (OLD, NOW)}
    try:
        chosen = choose(revisions, content, asked=asked)
    except PlanRefused:
        assert asked not in once
    else:
        assert chosen.revision.number == asked
        assert asked in once
        assert chosen.same == (content(chosen.revision) == content(revisions[-1]))
