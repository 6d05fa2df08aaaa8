"""What people read of a result. Nothing else depends on these words."""

from __future__ import annotations

import pytest

from ci import texts
from ci.results import (
    Breach,
    BreachId,
    GapId,
    Measured,
    QueueState,
    RolloutGap,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            RolloutGap(GapId.REPLICAS_AVAILABLE, "engine", count=1, desired=2),
            "engine: 1 of 2 replicas available",
        ),
        (
            RolloutGap(GapId.PODS_OLD, "engine", ("a", "b")),
            "engine: old pods not gone: a, b",
        ),
        (
            RolloutGap(GapId.OTHER_DIGEST, "engine", ("a",)),
            "engine: pod a runs no image yet",
        ),
        (
            RolloutGap(GapId.ROUTES_TO_OLD, "engine", ("a",)),
            "Service engine still routes to a",
        ),
        (RolloutGap(GapId.NO_DEPLOYMENT, ""), "the release: no such Deployment"),
        (
            Breach(BreachId.ERROR_PERCENT, 5.0, 1.0, 0.0, "HTTP 500"),
            "5.0 % of the requests failed during the soak, 0.0 % before the change, limit 1.0 %"
            " (HTTP 500)",
        ),
        (
            Breach(BreachId.LATENCY_P95, 2.0, 0.255, 0.005),
            "95 % of the answers within 2 s during the soak, within 5 ms before the change,"
            " limit 255 ms",
        ),
        (
            Breach(BreachId.RESTARTS, 2, 0, example="a/engine: exit code 137, OOMKilled"),
            "2 container restarts of the new pods during the soak, limit 0"
            " (a/engine: exit code 137, OOMKilled)",
        ),
        (
            Breach(BreachId.ERROR_LINES, 14, 13, 6.0, "a: ERROR x"),
            "14 error lines in the new pods' logs; at the previous version's rate (6.0 a minute and"
            " pod) the limit is 13 (a: ERROR x)",
        ),
        (QueueState("q", None, 45.0, exists=False), "q: there is no such queue"),
    ],
)
def test_a_measured_value_in_words(value: Measured, text: str) -> None:
    assert texts.measured(value) == text


def test_every_gap_and_breach_has_its_words() -> None:
    for gap in GapId:
        assert texts.measured(RolloutGap(gap, "engine", ("a",), 1, 2, "x"))
    for breach in BreachId:
        assert texts.measured(Breach(breach, 2, 1))
