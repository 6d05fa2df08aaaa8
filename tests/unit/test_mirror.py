"""``tests/unit`` mirrors ``ci``: who changes a module knows where its tests are.

The tests of ``ci/promotion/upgrade/soak.py`` are in ``tests/unit/promotion/upgrade/test_soak.py``
(or ``test_upgrade_soak.py``: two test modules may not have one name). Where they are elsewhere, or
there are none, a table below says so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "ci"
UNIT = ROOT / "tests" / "unit"
SERVICE = {"model_engine": ROOT / "examples" / "model-engine" / "model_engine"}
"""Folders that mirror no package of ``ci``."""

TOGETHER = {
}
"""Modules that are tested by what is made of them: test module -> modules."""

UNTESTED = {
}
"""Modules without a unit test -> why."""


def modules() -> set[str]:
    """Every module of ``ci`` that has code, as a path below it."""
    found = set()
    for path in CI.rglob("*.py"):
        if any(not is_docstring(node) for node in ast.parse(path.read_text("utf-8")).body):
            found.add(path.relative_to(CI).as_posix())
    return found


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def mirrors(module: str) -> tuple[Path, Path]:
    """Where the tests of a module are: of a package's own code, ``test_<package>.py`` in it."""
    path = Path(module)
    folder = path.parent
    if path.name == "__init__.py":
        return (UNIT / folder / f"test_{folder.name}.py",) * 2
    package = folder.name or "ci"
    return UNIT / folder / f"test_{path.name}", UNIT / folder / f"test_{package}_{path.name}"


def has_its_own(module: str) -> bool:
    return any(mirror.is_file() for mirror in mirrors(module))


def imported(test: Path) -> Iterator[str]:
    """The modules of ``ci`` that a test imports, as paths below it."""
    for node in ast.walk(ast.parse(test.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "ci" and rest:
                yield f"{'/'.join(rest)}.py"
                yield f"{'/'.join(rest)}/__init__.py"


@pytest.mark.parametrize(
    "folder",
    sorted({test.parent.relative_to(UNIT) for test in UNIT.rglob("test_*.py")}),
    ids=str,
)
def test_a_folder_of_tests_is_that_of_a_package(folder: Path) -> None:
    package = SERVICE.get(folder.as_posix(), CI / folder)
    assert (package / "__init__.py").is_file(), f"tests/unit/{folder} mirrors no package"


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_has_its_tests_or_a_table_says_why_not(module: str) -> None:
    listed = [*UNTESTED, *(each for several in TOGETHER.values() for each in several)]
    assert has_its_own(module) + listed.count(module) == 1, (
        f"ci/{module}: neither {mirrors(module)[0].relative_to(ROOT)} nor a line in a table"
        if module not in listed
        else f"ci/{module} has tests of its own, or is listed twice: take it out of the tables"
    )


@pytest.mark.parametrize("test", sorted(TOGETHER))
def test_the_tables_are_true(test: str) -> None:
    assert set(TOGETHER[test]) <= modules(), "a module that is not there"
    reached = set(imported(UNIT / test))
    assert set(TOGETHER[test]) <= reached, f"tests/unit/{test} does not import it"


def test_what_is_untested_is_there_and_has_a_reason() -> None:
    assert set(UNTESTED) <= modules()
    assert all(UNTESTED.values())
