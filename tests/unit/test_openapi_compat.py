"""What breaks a client of an API and what does not, by two OpenAPI documents."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ci.openapi_compat import Described, breaking, check, read
from ci.results import Because, CheckId, Count, Names, Outcome, Unit

OLD: dict[str, Any] = {
    "paths": {
        "/tasks": {
            "get": {
                "parameters": [{"in": "query", "name": "view"}],
                "responses": {
                    "200": {
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Task"}}
                        }
                    },
                    "404": {},
                },
            },
            "post": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "lock": {"type": "integer"},
                                },
                            }
                        }
                    }
                },
                "responses": {"201": {}},
            },
        }
    },
    "components": {
        "schemas": {
            "Task": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "runs": {
                        "type": "array",
                        "items": {"properties": {"worker": {"type": "string"}}},
                    },
                    "parent": {"$ref": "#/components/schemas/Task"},
                },
            }
        }
    },
}


def changed(path: str, value: Any = ...) -> dict[str, Any]:
    """A copy with one thing otherwise; without a value it is gone."""
    new = copy.deepcopy(OLD)
    *parts, last = path.split("|")
    here: Any = new
    for part in parts:
        here = here[int(part)] if isinstance(here, list) else here[part]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return new


BODY = "paths|/tasks|post|requestBody|content|application/json|schema"
TASK = "components|schemas|Task|properties"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (changed("paths|/tasks"), "/tasks is gone"),
        (changed("paths|/tasks|post"), "POST /tasks is gone"),
        (changed("paths|/tasks|get|responses|200"), "GET /tasks no longer answers 200"),
        (changed(f"{TASK}|id"), "GET /tasks, 200: the field id is gone"),
        (changed(f"{TASK}|id|type", "integer"), "GET /tasks, 200.id has the type integer"),
        (
            changed(f"{TASK}|runs|items|properties|worker"),
            "GET /tasks, 200.runs[]: the field worker is gone",
        ),
        (
            changed(
                "paths|/tasks|get|parameters", [{"in": "query", "name": "view", "required": True}]
            ),
            "GET /tasks now requires the query parameter view",
        ),
        (changed(f"{BODY}|required", ["name", "lock"]), "POST /tasks now requires the field lock"),
        (changed(f"{BODY}|properties|lock"), "POST /tasks, request: the field lock is gone"),
    ],
)
def test_what_breaks_a_client_is_named(new: dict[str, Any], said: str) -> None:
    assert any(line.startswith(said) for line in breaking(OLD, new)), breaking(OLD, new)


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        changed("paths|/more", {"get": {}}),
        changed("paths|/tasks|get|responses|404"),
        changed("paths|/tasks|get|parameters", []),
        changed(f"{TASK}|more", {"type": "string"}),
        changed(f"{BODY}|required", []),
        changed(f"{BODY}|properties|more", {"type": "string"}),
    ],
)
def test_what_is_added_or_loosened_breaks_nobody(new: dict[str, Any]) -> None:
    assert breaking(OLD, new) == []


def test_documents_that_say_nothing_are_compared() -> None:
    assert breaking({}, {}) == []
    assert breaking({"paths": {"/a": {"get": {}}}}, {"paths": {"/a": {"get": {}}}}) == []


ID = CheckId.API_COMPATIBLE
PATH = "/openapi.json"


def test_a_check_counts_what_was_compared_and_names_what_breaks() -> None:
    same = check(ID, OLD, OLD, path=PATH)
    assert (same.outcome, same.measured) == (Outcome.PASSED, (Count(Unit.API_PATHS, 1),))
    broken = check(ID, OLD, changed("paths|/tasks"), path=PATH)
    assert broken.outcome is Outcome.FAILED
    assert broken.measured == (Names(Unit.API_CHANGES, ("/tasks is gone",), 1),)


@pytest.mark.parametrize(
    ("old", "new", "because"),
    [
        (None, OLD, Because.NOT_DESCRIBED),
        (OLD, None, Because.NOT_DESCRIBED),
        (OLD, Because.NOT_IN_EVIDENCE, Because.NOT_IN_EVIDENCE),
        (Because.FORBIDDEN, OLD, Because.FORBIDDEN),
        ({"paths": {"/a": 3}}, {"paths": {"/a": 3}}, Because.NOT_COMPARABLE),
        (
            {"paths": {"/a": {"get": {"parameters": [{}]}}}},
            {"paths": {"/a": {"get": {"parameters": [{}]}}}},
            Because.NOT_COMPARABLE,
        ),
    ],
)
def test_what_cannot_be_compared_is_unknown(
    old: Described, new: Described, because: Because
) -> None:
    made = check(ID, old, new, path=PATH)
    assert (made.id, made.outcome, made.because) == (ID, Outcome.UNKNOWN, because)


def test_what_is_turned_off_is_skipped_by_its_setting() -> None:
    made = check(ID, OLD, OLD, path="")
    assert (made.outcome, made.setting) == (Outcome.SKIPPED, "service.openapi_path")


@pytest.mark.parametrize("text", ["", "ok", "[]", "3", '{"paths": []}', "{}", "[" * 100_000])
def test_what_describes_no_api(text: str) -> None:
    assert read(text) is None
    assert read('{"paths": {"/a": {}}}') == {"paths": {"/a": {}}}
