"""What requests may say, and what they mean."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_engine.api import (
    LONGEST_LOCK,
    SHORTEST_LOCK,
    CreateEndpoint,
    TaskSpec,
    UpdateEndpoint,
    cache_key,
    queue_name,
)
from pydantic import ValidationError

SPELLINGS = ["queue_message_timeout_duration", "queue_message_timeout_seconds"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(seconds=st.integers())
def test_whole_seconds_within_the_limits_are_accepted_and_no_others(
    spelling: str, seconds: int
) -> None:
    body = {"name": "a", spelling: seconds}
    if SHORTEST_LOCK <= seconds <= LONGEST_LOCK:
        assert CreateEndpoint.model_validate(body).lock_seconds == seconds
    else:
        with pytest.raises(ValidationError):
            CreateEndpoint.model_validate(body)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("value", [True, False, "60", "x", "", 60.0, 60.5, [], {}, [60]])
def test_what_is_not_whole_seconds_is_refused(spelling: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        CreateEndpoint.model_validate({"name": "a", spelling: value})


@pytest.mark.parametrize("body", [{}, dict.fromkeys(SPELLINGS)])
def test_null_is_the_same_as_not_given(body: dict[str, None]) -> None:
    assert CreateEndpoint.model_validate({"name": "a", **body}).lock_seconds is None


def test_both_spellings_must_agree() -> None:
    agreeing = {"name": "a", **dict.fromkeys(SPELLINGS, 30)}
    assert CreateEndpoint.model_validate(agreeing).lock_seconds == 30
    with pytest.raises(ValidationError, match="given as 30 and 40"):
        CreateEndpoint.model_validate({**agreeing, SPELLINGS[1]: 40})


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63])
def test_names_fit_a_queue_name(name: str) -> None:
    assert CreateEndpoint(name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "a" * 64, "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CreateEndpoint(name=name)


def test_a_mistyped_field_is_refused_and_does_not_become_a_default() -> None:
    with pytest.raises(ValidationError):
        CreateEndpoint.model_validate({"name": "a", "queue_message_timeout": 30})


def test_an_update_has_to_change_something() -> None:
    with pytest.raises(ValidationError):
        UpdateEndpoint.model_validate({"name": "a"})
    assert UpdateEndpoint.model_validate({SPELLINGS[1]: 9}).lock_seconds == 9


@pytest.mark.parametrize("body", [{"seconds": -1}, {"seconds": 901}, {"renew": 1}, {"x": 1}])
def test_bad_tasks_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(body)


def test_a_payload_has_a_limit() -> None:
    with pytest.raises(ValidationError):
        TaskSpec(payload="x" * 70_000)


def test_later_deliveries_may_take_another_time() -> None:
    spec = TaskSpec(seconds=6, then_seconds=0)
    assert [spec.seconds_of(delivery) for delivery in (1, 2, 3)] == [6, 0, 0]
    assert TaskSpec(seconds=6).seconds_of(2) == 6


def test_names_of_queues_and_keys() -> None:
    assert queue_name("a") == "launch-endpoint-a"
    assert cache_key("a") == "model-engine:endpoints:a"
