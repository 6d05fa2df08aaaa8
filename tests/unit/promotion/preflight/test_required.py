"""Which checks a setting turns off, so that nobody waits for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.model import Cluster, Target
from ci.promotion.preflight.required import foreseen
from ci.results import REQUIRED_BY_DEFAULT, CheckId, unmet
from ci.settings import Gates, Probing, Query
from tests.unit.promotion.preflight.test_checklist import TARGET

QUEUES = {CheckId.QUEUE_TIMEOUTS, CheckId.QUEUE_LOCK_DURATION, CheckId.TASKS_EXECUTED_ONCE}
SOAK = {CheckId.SOAK_GATES, CheckId.SOAK_LATENCY, CheckId.SOAK_QUERY}


def off(servicebus: bool = True, **changed: Any) -> dict[CheckId, str]:
    found = foreseen(replace(TARGET, **changed), servicebus=servicebus)
    return {check.id: check.setting for check in found}


def test_what_is_on_is_not_foreseen() -> None:
    gates = Gates(
        prometheus_url="http://prometheus", queries=(Query(name="q", query="x", limit=1.0),)
    )
    assert off(soak_seconds=60, gates=gates) == {}
    assert off() == dict.fromkeys(SOAK, "soak_seconds")


@pytest.mark.parametrize(
    ("changed", "ids", "setting"),
    [
        ({"pull_on_nodes": False}, {CheckId.IMAGE_PULLABLE}, "pull_on_nodes"),
        ({"try_surge": False}, {CheckId.CAPACITY_SURGE}, "try_surge"),
        (
            {"openapi_path": ""},
            {CheckId.API_COMPATIBLE, CheckId.API_STILL_COMPATIBLE},
            "service.openapi_path",
        ),
        ({"health_paths": ()}, {CheckId.HEALTH_PATH}, "service.health_paths"),
        ({"probing": Probing(per_second=0)}, {CheckId.REQUESTS_ANSWERED}, "probing.per_second"),
        (
            {"canary_per_second": 0.0},
            {CheckId.QUEUE_LOCK_DURATION, CheckId.TASKS_EXECUTED_ONCE},
            "canary_per_second",
        ),
        ({"servicebus": False}, QUEUES, "servicebus_connection_string_env"),
        ({"soak_seconds": 60}, {CheckId.SOAK_QUERY}, "gates.queries"),
    ],
)
def test_each_setting_is_named_for_what_it_turns_off(
    changed: dict[str, Any], ids: set[CheckId], setting: str
) -> None:
    found = off(**changed)
    assert {id for id, name in found.items() if name == setting} == ids


def test_the_demonstration_target_lacks_nothing_that_is_required_by_default() -> None:
    """It has stand-ins, and every setting at its default."""
    cluster = Cluster("launch", Path("k"), "kind-launch", disposable=True)
    launch = Target("launch", cluster, "launch", "rel", Path("x"), "r/engine")
    assert launch.require == REQUIRED_BY_DEFAULT
    assert unmet(foreseen(launch, servicebus=True), launch.require) == ()
    assert {c.id for c in unmet(foreseen(launch, servicebus=False), launch.require)} == {
        CheckId.QUEUE_TIMEOUTS, CheckId.QUEUE_LOCK_DURATION,
    }  # fmt: skip
