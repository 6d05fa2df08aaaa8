"""Every module and every third party has its place in the import contracts of ``pyproject.toml``.

``lint-imports`` holds the contracts; that nothing is left out of them is held here.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERYWHERE = {"pydantic", "pydantic_core", "yaml"}
"""Third parties that are the form of our data, not a tool behind a wrapper."""
LINTED = {"ci", "servicebus_emulator"}


def contracts(kind: str) -> list[dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == kind]


def modules(package: Path) -> set[str]:
    """The names of a package's own modules and packages."""
    return {
        path.stem
        for path in package.iterdir()
        if (path.suffix == ".py" and path.stem not in ("__init__", "__main__"))
        or (path / "__init__.py").is_file()
    }


def in_layers(layers: Sequence[str]) -> list[str]:
    """The modules of a layers contract: independent siblings stand in one layer."""
    return [word for layer in layers for word in layer.split() if word not in ("|", ":")]


def imported(file: Path) -> Iterator[str]:
    """What a file imports from elsewhere, by the first part of its name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def unplaced(package: Path, layers: Sequence[str]) -> set[str]:
    """Modules that no layer names, and layers that name no module."""
    return modules(package) ^ set(in_layers(layers))


@pytest.mark.parametrize("container", ["ci", "ci.promotion"])
def test_every_module_has_a_layer(container: str) -> None:
    (contract,) = (c for c in contracts("layers") if c["containers"] == [container])
    assert contract["exhaustive"] is True, "lint-imports itself refuses a module without a layer"
    assert "exhaustive_ignores" not in contract
    assert "ignore_imports" not in contract
    assert unplaced(ROOT / container.replace(".", "/"), contract["layers"]) == set()
    placed = in_layers(contract["layers"])
    assert len(placed) == len(set(placed))


def test_a_module_without_a_layer_is_seen(tmp_path: Path) -> None:
    (tmp_path / "placed").mkdir()
    (tmp_path / "placed" / "__init__.py").touch()
    (tmp_path / "data").mkdir()
    for name in ("__init__.py", "also.py", "forgotten.py"):
        (tmp_path / name).touch()
    assert unplaced(tmp_path, ["placed : also | gone"]) == {"forgotten", "gone"}


def test_every_stage_is_independent_of_the_others() -> None:
    (contract,) = contracts("independence")
    assert {f"ci.stages.{name}" for name in modules(ROOT / "ci" / "stages")} == set(
        contract["modules"]
    )
    assert "ignore_imports" not in contract


def test_every_third_party_has_a_place() -> None:
    """One that is imported for the first time is wrapped, and its wrapper named in a contract."""
    files = [*ROOT.glob("ci/**/*.py"), *ROOT.glob("packages/*/src/**/*.py")]
    used = {name for file in files for name in imported(file)}
    foreign = used - LINTED - set(sys.stdlib_module_names)
    wrapped = {name for c in contracts("protected") for name in c["protected_modules"]}
    assert foreign - wrapped == EVERYWHERE
    assert wrapped - foreign == {"subprocess"}


def test_no_ban_of_a_third_party_has_an_exception() -> None:
    for contract in contracts("protected"):
        assert set(contract) == {"name", "type", "protected_modules", "allowed_importers"}
