"""The pages say what the code does: their links, exit codes, commands, settings and checks."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from ci.cli import app, selftest
from ci.errors import PipelineError
from ci.settings import Login, Notify, Query, Settings, TargetSettings, Wave

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".git", "runs", "node_modules", ".venv", ".mypy_cache", ".hypothesis", ".pytest_cache"}
PATH = re.compile(r"(?<![\w./-])(?:ci|packages|benchmarks|tests|examples|\.ci)/[\w./-]*[\w/-]")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHER_WAYS = {"url_command", "password_env"}
HISTORY = Path("CHANGELOG.md")
"""It may name what is gone."""
PLACEHOLDERS = {"ci/stages/VERB.py", "ci/tools/TOOL.py", "ci/toolchain/sources/MODULE/go.mod"}
OTHER_CODES = {0, 2}
"""Done, and wrong use of the command line: no error of ours ends with them."""


def pages() -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for path in ROOT.rglob("*.md")
        if not SKIPPED & set(path.relative_to(ROOT).parts)
    )


def prose(text: str) -> str:
    """A page without code, which may hold brackets that are no links."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2[ ]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\[`([^`]*)`\]", r"[\1]", text)
    return re.sub(r"`[^`\n]*`", "", text)


def links(text: str) -> Iterator[str]:
    """The targets of every link and picture that lead to no other host."""
    for found in re.finditer(r"\[[^\]]*\]\(\s*<?([^)\s>]+)[^)]*\)", prose(text)):
        if not re.match(r"[a-z][a-z0-9+.-]*:", found[1]):
            yield found[1]


def anchors(text: str) -> set[str]:
    """What a link may name in a page: its headings, written as Git's hosts write them."""
    found: set[str] = set()
    text = re.sub(r"^( *)(```|~~~).*?^\1\2[ ]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere."""
    text = (root / page).read_text(encoding="utf-8")
    wrong = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        above = root if path.startswith("/") else root / page.parent
        target = (above / path.lstrip("/") if path else root / page).resolve()
        there = target.exists() and target.is_relative_to(root.resolve())
        if there and anchor and target.suffix == ".md":
            there = anchor in anchors(target.read_text(encoding="utf-8"))
        if not there:
            wrong.append(link)
    return wrong


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = (ROOT / page).read_text(encoding="utf-8")
    below = f"\n{text}".split(f"\n{heading}", 1)[1]
    table = re.search(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", below, flags=re.MULTILINE)
    assert table, f"{page} has no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


# -- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_relative_link_resolves(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading, `code` & more\n\n## Twice\n\n## Twice\n")
    (tmp_path / "page.md").write_text(
        "[a](there.md) [b](gone.md) [c](there.md#a-heading-code--more) [d](there.md#none)\n"
        "[e](#here) [`f`](also-gone.md) ![g](no.svg) [h](https://example.com/x)\n"
        "[i](there.md#twice-1) [j](../outside.md) `[k](code.md)`\n\n"
        "```\n[l](fenced.md)\n# here\n```\n"
    )
    assert broken(Path("page.md"), tmp_path) == [
        "gone.md",
        "there.md#none",
        "#here",
        "also-gone.md",
        "no.svg",
        "../outside.md",
    ]


def missing(page: Path, root: Path = ROOT) -> list[str]:
    """The paths of the checkout that a page names, and that are not there. A path starts at the
    checkout, at the page's folder, at the package that the page is in, or where its line goes with
    ``env -C``."""
    starts = [root, root / page.parent]
    if page.parts[0] == "packages":
        starts.append(root.joinpath(*page.parts[:2]))
    gone = []
    for line in (root / page).read_text(encoding="utf-8").splitlines():
        there = [*starts, *(root / folder for folder in re.findall(r"env -C (\S+)", line))]
        for path in re.findall(PATH, line):
            if path not in PLACEHOLDERS and not any((start / path).exists() for start in there):
                gone.append(path)
    return gone


@pytest.mark.parametrize("page", [page for page in pages() if page != HISTORY], ids=str)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert missing(page) == []


def test_a_path_that_is_gone_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "packages" / "one"
    (package / "tests").mkdir(parents=True)
    (tmp_path / "ci" / "tests" / "there").mkdir(parents=True)
    (package / "README.md").write_text(
        "`ci`, `ci/`, `tests/`, `ci/gone.py`, `tests/gone.py::test_x`, `pytest tests/too -q`,\n"
        "`x.ci/no` and `ci/stages/VERB.py`\n\n```sh\npytest tests/fenced/x.py\n```\n"
        "env -C ci pytest tests/there\n"
    )
    assert missing(Path("packages/one/README.md"), tmp_path) == [
        "ci/gone.py",
        "tests/gone.py",
        "tests/too",
        "tests/fenced/x.py",
    ]


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, left = set[Path](), [Path("README.md")]
    while left:
        page = left.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in links((ROOT / page).read_text(encoding="utf-8")):
            path = link.partition("#")[0]
            if path:
                target = (ROOT / page.parent / path).resolve()
                if target.is_file() and target.is_relative_to(ROOT):
                    left.append(target.relative_to(ROOT))
    wanted = {page for page in pages() if page.parts[0] == "docs" or len(page.parts) == 1}
    assert wanted - reached == set()


# -- commands -------------------------------------------------------------------------------------


def errors() -> Iterator[type[PipelineError]]:
    left: list[type[PipelineError]] = [PipelineError]
    while left:
        kind = left.pop()
        yield kind
        left += kind.__subclasses__()


def test_every_exit_code_is_explained_and_none_is_made_up() -> None:
    explained = [int(code) for code, *_ in rows("docs/commands.md", "## Exit codes")]
    assert explained == sorted(explained)
    ours = {kind.exit_code for kind in errors() if kind.__module__ == "ci.errors"}
    assert set(explained) == ours | OTHER_CODES
    assert len(explained) == len(set(explained))


def test_every_command_is_in_the_table_and_no_other() -> None:
    listed = [
        word
        for first, *_ in rows("docs/commands.md", "# Commands")
        for word in re.findall(r"`([a-z]+)", first)
    ]
    known = [c.name or getattr(c.callback, "__name__", "") for c in app.app.registered_commands]
    assert sorted(listed) == sorted(known)


def test_every_option_is_explained_where_its_command_is() -> None:
    """In the command's row, or below the table where several commands have it; and no other is."""
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    below = page.split("\nEvery command has ", 1)[1].split("\n## ", 1)[0]
    common = set(re.findall(OPTION, below))
    group: Any = typer.main.get_command(app.app)
    explained, known = {}, {}
    for row in rows("docs/commands.md", "# Commands"):
        (name,) = re.findall(r"^`([a-z]+)", row[0])
        explained[name] = set(re.findall(OPTION, " ".join(row))) | common
    for name, command in group.commands.items():
        options = [each for each in command.params if not each.hidden and each.name != "help"]
        names = {word for each in options for word in (*each.opts, *each.secondary_opts)}
        known[name] = {word for word in names if word.startswith("--")}
    assert known.keys() == explained.keys()
    for name, words in known.items():
        assert words - explained[name] == set(), f"options of {name} that its row lacks"
        assert explained[name] - common - words == set(), f"{name} has no such option"


def test_the_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^python3 pipeline\.py +#", text, flags=re.MULTILINE)
    assert re.search(r"^python3 pipeline\.py test +#", text, flags=re.MULTILINE)


def test_every_kind_of_test_is_in_its_table_and_runs_under_its_name() -> None:
    emulator = selftest.EMULATOR / "tests"
    listed = {
        (Path(os.path.normpath(Path("tests") / path)), kind.replace("_", "-"))
        for heading in ("# Tests", "The emulator's package has its own, in")
        for first, *_ in rows("tests/README.md", heading)
        for kind, path in re.findall(r"\[`(\w+)`\]\((\S+)\)", first)
    }
    there = {
        kind.relative_to(ROOT)
        for above in (ROOT / "tests", ROOT / emulator)
        for kind in above.iterdir()
        if any(kind.glob("**/*.py"))
    }
    assert {folder for folder, _ in listed} == there
    names = {
        check.folder / word.removesuffix("/run.py"): check.name
        for check in selftest.checks("python", Path("/r"), quick=False)
        for word in check.argv
        if word.startswith("tests/")
    }
    # prove runs the end-to-end tests, and both unit checks cannot have one name.
    del names[emulator / "unit"]
    assert names == {
        folder: kind
        for folder, kind in listed
        if folder not in (Path("tests/e2e"), emulator / "unit", emulator / "fuzz")
    }


# -- settings -------------------------------------------------------------------------------------


def keys(block: type[BaseModel], below: str = "") -> Iterator[str]:
    """Every key of a block, by its path."""
    for name, field in block.model_fields.items():
        path = f"{below}{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{path}.")
        else:
            yield path


def example() -> dict[str, Any]:
    """The example with what is commented out, as settings."""
    lines = []
    for line in (ROOT / "pipeline.toml.example").read_text(encoding="utf-8").splitlines():
        bare = line.lstrip("# ")
        try:
            tomllib.loads(bare)
        except tomllib.TOMLDecodeError:
            continue  # an explanation
        lines.append(bare)
    return tomllib.loads("\n".join(lines))


def has(value: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def test_the_example_explains_every_key() -> None:
    shown = example()
    target = shown["targets"]["prod"]
    blocks: list[tuple[type[BaseModel], Any]] = [
        (Settings, shown),
        (TargetSettings, target),
        (Login, target["registry_login"]),
        (Query, target["gates"]["queries"][0]),
        (Notify, shown["notify"][0]),
        (Wave, shown["waves"]["all"]),
    ]
    missing = {path for block, value in blocks for path in keys(block) if not has(value, path)}
    # The other way to give a secret stands in the explanation: only one of two may be set.
    text = (ROOT / "pipeline.toml.example").read_text(encoding="utf-8")
    assert all(f"{key} = " in text for key in OTHER_WAYS)
    assert missing == OTHER_WAYS


# -- what the pages say of the code ---------------------------------------------------------------


def test_every_contract_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = {first.strip("`") for first, *_ in rows("docs/architecture.md", "## Layering rules")}
    assert named == {c["name"] for c in project["tool"]["importlinter"]["contracts"]}


def test_the_licence_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    name = project["project"]["license"]
    assert f"SPDX-License-Identifier: {name}" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_changelog_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = re.escape(project["project"]["version"])
    assert re.search(rf"^## {version} - \d{{4}}-\d\d-\d\d$", text, flags=re.MULTILINE)
    assert re.search(r"^## Unreleased$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("record", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=str)
def test_a_decision_has_its_three_parts_and_is_listed(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
    ]
    assert f"]({record.name})" in record.with_name("README.md").read_text(encoding="utf-8")


def test_the_hooks_run_what_test_quick_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    checks = {c.name: c for c in selftest.checks("/venv/bin/python", Path("/r"), quick=True)}
    assert list(hooks) == list(checks)
    for name, hook in hooks.items():
        first, *words = shlex.split(hook["entry"])
        assert (ROOT / first).stat().st_mode & 0o100, first
        check = checks[name]
        place = ["-C", str(check.folder)] if check.folder != Path() else []
        place += [f"{key}={value}" for key, value in check.env.items()]
        wanted = ["env", *place] if place else []
        wanted += [
            word.removeprefix("/venv/bin/")
            for word in check.argv
            if not word.startswith("--junitxml=")
        ]
        assert words == wanted
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False
