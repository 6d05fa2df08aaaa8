"""The files of a run are as their published schemas say, and are read as they were written."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from ci.model import ChecksRecord
from ci.report import files, schemas
from ci.results import (
    ChangeState,
    ChartRef,
    Check,
    CheckGroup,
    CheckId,
    Cure,
    CureId,
    Duration,
    ExitStatus,
    Latency,
    Measured,
    Phase,
    Problem,
    QueueState,
    RunRef,
    Sample,
    Span,
    Tasks,
    passed,
)
from ci.run_folder import RunFolder
from tests.unit.report.folders import (
    BACKUPS,
    CHANGE,
    CHECKS_FAILED,
    GROUPS,
    PROBES,
    PROMOTION,
    REFUSED,
    run,
)

OTHERS: tuple[Measured, ...] = (
    Duration(Span.READY, 1.5, 10.0),
    ChartRef("engine-1", "engine-2"),
    Tasks(10, 1, 0, example="task 4"),
    QueueState("canary", 45.0, 45.0, 0, 0),
    Latency("soak", 0.01, 0.2, 100, 1),
    Sample(0.5, 1.0),
    ExitStatus("check-migrations", 1, "one is needed"),
    Problem("refused"),
    Cure(CureId.HOOK_ANNOTATION),
    RunRef("20261123-163045-ab12", 32, 60.0, ChangeState.ROLLED_BACK),
)
EVERYTHING: tuple[Check, ...] = (
    *CHECKS_FAILED,
    passed(CheckId.SOAK_GATES, *OTHERS),
)
RECORDS = {
    "summary": run(
        Path("/runs/1"), promotion=PROMOTION, change=CHANGE, groups=GROUPS, error="x", remedy="y"
    ),
    "plan": REFUSED,
    "checks": ChecksRecord((*GROUPS, CheckGroup(Phase.REHEARSAL, EVERYTHING))),
    "probes": PROBES,
    "backups": BACKUPS,
}


def test_the_published_schemas_are_those_of_the_types() -> None:
    published = {path.name: path.read_text("utf-8") for path in schemas.FOLDER.iterdir()}
    assert published == dict(schemas.schemas()), "run python -m ci.report.schemas"


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_written_is_as_its_schema_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    path = files.write(RunFolder(tmp_path), RECORDS[name])
    schema = json.loads((schemas.FOLDER / f"{name}.schema.json").read_text("utf-8"))
    problems = list(against(schema, schema, json.loads(path.read_text("utf-8")), name))
    assert problems == []


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]
    path = files.write(RunFolder(tmp_path), record)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    unreadable: list[str] = []
    assert files.read(tmp_path, type(record), unreadable) == record
    assert unreadable == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"place": "from the moon"}, "one of"),
        ({"buckets": 5}, "array"),
        ({"final": {"kind": "requests"}}, "any of"),
        ({"bucket_seconds": "1"}, "number"),
    ],
)
def test_the_schemas_refuse_what_is_otherwise(change: dict[str, object], problem: str) -> None:
    value = files.plain(PROBES)
    value["series"][0] |= change
    schema = json.loads((schemas.FOLDER / "probes.schema.json").read_text("utf-8"))
    assert any(problem in found for found in against(schema, schema, value, "probes"))


def test_a_property_that_is_missing_is_refused() -> None:
    value = files.plain(PROBES)
    del value["schema_version"]
    schema = json.loads((schemas.FOLDER / "probes.schema.json").read_text("utf-8"))
    assert list(against(schema, schema, value, "probes")) == ["probes has no schema_version"]


KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    *("type", "properties", "required", "items", "prefixItems", "minItems", "maxItems", "enum"),
    *("const", "anyOf", "oneOf", "discriminator", "$ref", "$defs", "$schema", "$id"),
    *("title", "description", "default", "format"),
}


def against(root: Any, schema: Any, value: Any, where: str) -> list[str]:
    """Where ``value`` is not as ``schema`` says. It knows what our schemas
    use, and refuses more."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        named = schema["$ref"].removeprefix("#/$defs/")
        return against(root, root["$defs"][named], value, where)
    problems: list[str] = []
    if "type" in schema:
        kinds = KINDS[schema["type"]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return [f"{where} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{where} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        problems.append(f"{where} is not {schema['const']}")
    for choice in ("anyOf", "oneOf"):
        fitting = [s for s in schema.get(choice, ()) if not against(root, s, value, where)]
        if choice in schema and not fitting:
            problems.append(f"{where} is not any of {choice}")
        if choice == "oneOf" and len(fitting) > 1:
            problems.append(f"{where} is several of {choice}")
    if isinstance(value, dict):
        problems += [f"{where} has no {n}" for n in schema.get("required", ()) if n not in value]
        for name, of in schema.get("properties", {}).items():
            if name in value:
                problems += against(root, of, value[name], f"{where}.{name}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            problems.append(f"{where} has {len(value)} items")
        for number, item in enumerate(value):
            one = schema["prefixItems"][number] if "prefixItems" in schema else schema["items"]
            problems += against(root, one, item, f"{where}[{number}]")
    return problems
