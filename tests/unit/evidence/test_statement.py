"""Statements: what others read in them, and what is not taken for one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.evidence import statement
from ci.evidence.statement import Approval, NotUnderstood, Subject, TestResult
from ci.model import Case
from ci.results import Outcome

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
IMAGE = Subject("registry:5000/model-engine", "a" * 64, "queue-timeout-1")
CHART = Subject("model-engine-0.1.13", "b" * 64)
CASES = (
    Case("test_a::test_1", Outcome.PASSED, 1.5, shows=("health.proven", "of.another-version")),
    Case("test_a::test_2", Outcome.FAILED, 0.25, "no"),
    Case("test_b::test_3", Outcome.SKIPPED, 0.0, "no cacher"),
)
RESULT = TestResult(
    subjects=(IMAGE, CHART),
    result=statement.FAILED,
    cases=CASES,
    started=NOW - timedelta(seconds=30),
    finished=NOW,
    run="20261123-100000-aaaa",
    tools=(("helm", "3.19.0"), ("kind", "0.30.0")),
    settings='{"gate": {"name": "gate"}}',
    suite="c" * 64,
    api='{"paths": {}}',
)


def test_a_result_round_trips() -> None:
    assert statement.read_result(RESULT.to_json()) == RESULT
    assert statement.kind(RESULT.to_json()) == statement.TEST_RESULT
    undescribed = replace(RESULT, api="")
    assert statement.read_result(undescribed.to_json()) == undescribed


def test_it_says_to_others_what_the_specifications_ask_for() -> None:
    raw = json.loads(RESULT.to_json())
    assert raw["_type"] == "https://in-toto.io/Statement/v1"
    assert raw["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert [s["digest"] for s in raw["subject"]] == [{"sha256": "a" * 64}, {"sha256": "b" * 64}]
    predicate = raw["predicate"]
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == ["test_a::test_1"]
    assert predicate["failedTests"] == ["test_a::test_2"]
    assert predicate["warnedTests"] == [], "a skipped case did not pass with a warning"
    assert all(len(c["digest"]["sha256"]) == 64 for c in predicate["configuration"])
    extension = predicate[statement.TEST_RUN]
    assert extension["cases"][2]["outcome"] == "skipped"
    assert extension["tools"] == {"helm": "3.19.0", "kind": "0.30.0"}


def test_an_approval_round_trips() -> None:
    given_ = Approval((IMAGE,), by="Ada <ada@example.com>", target="production", at=NOW)
    read = statement.read_approval(given_.to_json())
    assert read == given_
    with pytest.raises(NotUnderstood, match="with the predicate"):
        statement.read_result(given_.to_json())


def test_fields_that_are_unknown_are_ignored() -> None:
    raw = json.loads(RESULT.to_json())
    raw["https://example.com/more"] = raw["predicate"]["more"] = raw["subject"][0]["uri"] = "x"
    assert statement.read_result(json.dumps(raw).encode()) == RESULT


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = (
        list(value.items()) if isinstance(value, dict)
        else list(enumerate(value)) if isinstance(value, list) else []
    )  # fmt: skip
    return [path, *(p for key, inner in below for p in paths(inner, (*path, key)))]


RAW = json.loads(RESULT.to_json())
JSON: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]) | st.just({})
)


@given(st.sampled_from(paths(RAW)), JSON)
def test_any_part_of_another_type_is_understood_or_named(path: tuple[Any, ...], other: Any) -> None:
    raw: Any = json.loads(json.dumps(RAW))
    if not path:
        raw = other
    else:
        holder = raw
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = other
    with suppress(NotUnderstood):  # and nothing else
        statement.read_result(json.dumps(raw).encode())


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"predicateType": 3}']
)
def test_garbage_is_not_understood(payload: bytes) -> None:
    with pytest.raises(NotUnderstood):
        statement.read_result(payload)
    assert statement.kind(payload) in ("", "3")


def test_a_result_at_odds_with_its_cases_is_not_understood() -> None:
    raw = json.loads(RESULT.to_json())
    raw["predicate"]["failedTests"] = []
    with pytest.raises(NotUnderstood, match="not the failed ones"):
        statement.read_result(json.dumps(raw).encode())


@pytest.mark.parametrize("content", [3, "no base64!", "/w=="])
def test_an_api_that_is_damaged_is_not_understood(content: object) -> None:
    raw = json.loads(RESULT.to_json())
    raw["predicate"][statement.TEST_RUN]["api"]["content"] = content
    with pytest.raises(NotUnderstood, match="API"):
        statement.read_result(json.dumps(raw).encode())


def test_a_time_without_a_zone_is_not_understood() -> None:
    raw = json.loads(RESULT.to_json())
    raw["predicate"][statement.TEST_RUN]["finishedOn"] = "2026-11-23T10:00:00"
    with pytest.raises(NotUnderstood, match="no time zone"):
        statement.read_result(json.dumps(raw).encode())
