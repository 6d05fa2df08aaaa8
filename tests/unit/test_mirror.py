"""``tests/unit`` mirrors ``ci``: who changes a module knows where its tests are.

The tests of ``ci/promotion/upgrade/soak.py`` are in ``tests/unit/promotion/upgrade/test_soak.py``
(or ``test_upgrade_soak.py``: two test modules may not have one name). Where they are elsewhere, or
there are none, a table below says so.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "ci"
UNIT = ROOT / "tests" / "unit"
SERVICE = {"model_engine": ROOT / "examples" / "model-engine" / "model_engine"}
"""Folders that mirror no package of ``ci``."""

TOGETHER: Mapping[str, tuple[str, ...]] = {
    "cli/test_app.py": ("errors.py", "model.py"),
    "cli/test_exit_codes.py": ("cli/session.py", "workflow/commands.py", "workflow/handoffs.py"),
    "evidence/test_attest.py": ("stages/attest.py",),
    "evidence/test_failing.py": ("stages/prove.py",),
    "promotion/plan/test_render.py": ("promotion/plan/values.py",),
    "promotion/preflight/test_checklist.py": ("promotion/preflight/image_pull.py",),
    "promotion/preflight/test_rules.py": ("promotion/release/drift.py", "tools/kubeconfig.py"),
    "promotion/preflight/test_surge_capacity.py": ("promotion/release/pods.py",),
    "promotion/probes/test_prober.py": ("promotion/probes/series.py",),
    "promotion/probes/test_accounting.py": (
        "promotion/probes/api_proxy.py",
        "promotion/probes/external.py",
    ),
    "promotion/probes/test_canary.py": (
        "promotion/probes/servicebus_admin.py",
        "promotion/probes/queues.py",
    ),
    "promotion/release/test_history.py": (
        "promotion/release/manifest.py",
        "promotion/rollback/requested.py",
        "tools/helm.py",
    ),
    "promotion/release/test_two_looks.py": ("promotion/release/reader.py",),
    "promotion/rollback/test_leaks.py": ("tools/diagnostics.py",),
    "promotion/test_promote_flow.py": (
        "promotion/release/baseline.py",
        "promotion/rollback/recovery.py",
        "promotion/rollback/standing.py",
        "promotion/upgrade/upgrade.py",
        "stages/promote.py",
    ),
    "promotion/upgrade/test_soak.py": ("promotion/release/logs.py", "promotion/release/session.py"),
    "rehearsal/test_rehearse.py": ("stages/rehearse.py",),
    "report/test_files.py": ("report/schemas.py",),
    "report/test_html.py": ("report/__main__.py", "report/views.py"),
    "run/test_scheduler.py": ("run/events.py",),
    "stages/test_stages.py": (
        "stages/build.py",
        "stages/deploy.py",
        "tools/chart.py",
        "tools/kind.py",
    ),
    "stages/test_verify_waits.py": ("promotion/release/health.py",),
    "standins/test_cloud.py": ("standins/__init__.py",),
    "test_references.py": ("run/context.py",),
    "test_renaming.py": ("report/verdict.py", "report/wording.py", "texts.py"),
    "toolchain/test_host.py": ("toolchain/oci_runtime.py",),
    "workflow/test_notifications.py": ("tools/notify.py",),
}
"""Modules that are tested by what is made of them, or beside others: test module -> modules. A line
goes when they get tests of their own."""

UNTESTED: Mapping[str, str] = {
    "__init__.py": "sets the path of imports: without it no test begins",
    "promotion/probes/probe_pod.py": "a script for a pod; failure injection reads its accounts",
}
"""Modules without a unit test -> why."""


@cache
def modules() -> frozenset[str]:
    """Every module of ``ci`` that has code, as a path below it."""
    found = set()
    for path in CI.rglob("*.py"):
        if any(not is_docstring(node) for node in ast.parse(path.read_text("utf-8")).body):
            found.add(path.relative_to(CI).as_posix())
    return frozenset(found)


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


@cache
def imported(file: Path) -> frozenset[str]:
    """The modules of ``ci`` that a file imports, as paths below it, and names that are none."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names += [each.name for each in node.names]
    paths = [name.removeprefix("ci.").replace(".", "/") for name in names if name[:3] == "ci."]
    return frozenset(f"{path}{end}" for path in paths for end in (".py", "/__init__.py"))


@pytest.mark.parametrize(
    "folder",
    sorted({test.parent.relative_to(UNIT) for test in UNIT.rglob("test_*.py")}),
    ids=str,
)
def test_a_folder_of_tests_is_that_of_a_package(folder: Path) -> None:
    package = SERVICE.get(folder.as_posix(), CI / folder)
    assert (package / "__init__.py").is_file(), f"tests/unit/{folder} mirrors no package"


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_has_its_tests_or_a_table_says_where_or_why_not(module: str) -> None:
    elsewhere = [test for test, several in TOGETHER.items() if module in several]
    own = f"tests/unit/{mirrors(module)[0].relative_to(UNIT)}"
    assert has_its_own(module) or elsewhere or module in UNTESTED, (
        f"ci/{module} has no unit test: write {own}, or add it to a table above"
    )
    assert not (has_its_own(module) and module in UNTESTED), f"ci/{module} has {own}"


@pytest.mark.parametrize("test", sorted(TOGETHER))
def test_what_is_tested_elsewhere_is_reached_from_there(test: str) -> None:
    """By the test, or by a module that it imports."""
    named = set(TOGETHER[test])
    assert named <= modules(), "a module that is not there"
    direct = imported(UNIT / test) & modules()
    reached = direct | {further for module in direct for further in imported(CI / module)}
    assert named - reached == set()


def test_what_is_untested_is_there() -> None:
    assert set(UNTESTED) <= modules()


def test_a_module_without_a_test_is_seen() -> None:
    assert not has_its_own("tools/no_such_tool.py")
    with pytest.raises(AssertionError, match=r"write tests/unit/tools/test_no_such_tool\.py"):
        test_a_module_has_its_tests_or_a_table_says_where_or_why_not("tools/no_such_tool.py")
