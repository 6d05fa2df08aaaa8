"""The emulator's package, as the pipeline uses it from its checkout."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import servicebus_emulator
from ci import standins
from ci.stages import build

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / build.EMULATOR_SOURCE
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]


def name(requirement: str) -> str:
    """Of a requirement's project, as indexes compare it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def locked(lock: Path) -> set[str]:
    lines = lock.read_text("utf-8").splitlines()
    return {name(line) for line in lines if "==" in line and not line.startswith((" ", "#"))}


def test_what_it_imports_is_locked_for_its_image_and_for_the_pipeline() -> None:
    """The pipeline's environment has nothing but its own lock, and runs the package there."""
    needed = {name(each) for each in PROJECT["dependencies"]}
    for_tests = {name(each) for each in PROJECT["optional-dependencies"]["test"]}
    assert needed <= locked(PACKAGE / "requirements.lock")
    assert needed | for_tests <= locked(ROOT / "requirements.lock")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has the package alone."""
    into = tmp_path / build.EMULATOR_SOURCE
    shutil.copytree(PACKAGE, into, ignore=shutil.ignore_patterns(*build.IGNORED))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("Dockerfile", True),
        ("requirements.lock", True),
        ("src/servicebus_emulator/admin/templates/page.html.j2", True),
        ("src/servicebus_emulator/new.py", True),
        ("src/servicebus_emulator.egg-info/PKG-INFO", False),
        ("tests/unit/peer.py", False),
        ("benchmarks/SERVICEBUS.md", False),
    ],
)
def test_its_images_tag_is_what_goes_into_the_image(
    checkout: Path, file: str, changes: bool
) -> None:
    assert build.emulator_tag(checkout) == build.emulator_tag(ROOT)
    changed = checkout / build.EMULATOR_SOURCE / file
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a", encoding="utf-8") as content:
        content.write("\n")
    assert (build.emulator_tag(checkout) != build.emulator_tag(ROOT)) is changes


def test_its_image_is_made_of_what_its_tag_names() -> None:
    dockerfile = (PACKAGE / "Dockerfile").read_text("utf-8")
    copied = set(re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE))
    assert copied | {"Dockerfile"} == {build.EMULATOR_CODE, *build.EMULATOR_FILES}


def test_it_understands_the_options_it_is_deployed_with() -> None:
    made: list[dict[str, Any]] = standins.workloads("postgres", "redis", "emulator")
    (deployment,) = (
        each
        for each in made
        if each["kind"] == "Deployment" and each["metadata"]["name"] == standins.SERVICEBUS
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    settings = servicebus_emulator.parse(container["args"])
    assert settings.amqp_port == standins.AMQP_PORT
    assert settings.auth == "sas"
    assert settings.identity
