"""The emulator's package, built as whoever installs it builds it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from zipfile import ZipFile

from ci.stages import build
from ci.tools.command import Programs
from tests.integration.conftest import ROOT

MADE = shutil.ignore_patterns(*build.IGNORED, "build", "*.egg-info")


def test_its_wheel_has_every_file_of_its_source_and_its_program(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves files beside what it builds
    shutil.copytree(ROOT / build.EMULATOR_SOURCE, source, ignore=MADE)
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    Programs(env=os.environ, logs=tmp_path).run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", wheels, source], timeout=120
    )
    (wheel,) = wheels.iterdir()
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        programs = archive.read(entry_points).decode()
    code = source / "src"
    files = {str(file.relative_to(code)) for file in code.rglob("*") if file.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {
        file for file in files if file.startswith("servicebus_emulator/")
    }
    assert "servicebus-emulator = servicebus_emulator.__main__:main" in programs
