"""``python -m ci.report.schemas``: write the JSON Schemas of a run's files to ``docs/schemas``.

They are made of the types in :mod:`ci.model`, so that a file and its description cannot differ. A
reader has to pass over properties that it does not know: new ones may come with a later version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from ci.model import SCHEMA_VERSION
from ci.report import files

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Everything(GenerateJsonSchema):
    """Every property is required: a file is always written with all of them."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return True


def schemas() -> Mapping[str, str]:
    """The text of every schema by its file's name."""
    return {f"{Path(name).stem}.schema.json": _schema(name) for name in files.KINDS}


def _schema(name: str) -> str:
    mode: JsonSchemaMode = "serialization"
    made = files.adapter(files.KINDS[name]).json_schema(mode=mode, schema_generator=_Everything)
    made["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    head = {"$schema": DIALECT, "$id": f"{Path(name).stem}.schema.json", "title": name}
    return json.dumps({**made, **head}, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
