"""Azure's SDKs for other languages: each a small program that says what it finds.

``peers/LANGUAGE`` holds the program and what pins its dependencies: ``package-lock.json``
(npm checks its hashes), ``go.sum`` (so does Go), and for Maven, which pins none, ``jars.sha256``,
which is checked here. A program runs all of its scenarios at once, prints a JSON object a line,
and knows of the emulator nothing but a connection string and an authority to trust.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.compatibility.programs import Programs

PEERS = Path(__file__).parent / "peers"
BUILD_SECONDS = 300.0
RUN_SECONDS = 120.0
PASSWORD = "changeit"  # Java wants one, and has this one for its own


@dataclass(frozen=True)
class Built:
    """A program's command line, and what its environment needs to trust an authority."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Language:
    """``needs`` are the programs of this machine without which there is nothing to run."""

    needs: tuple[str, ...]
    build: Callable[[Programs, Path, Path], Built]

    def missing(self) -> list[str]:
        """Which of them are not here."""
        return [name for name in self.needs if shutil.which(name) is None]


def _javascript(programs: Programs, folder: Path, authority: Path) -> Built:
    programs.run(["npm", "ci", "--ignore-scripts"], cwd=folder, timeout=BUILD_SECONDS)
    return Built(("node", str(folder / "peer.js")), {"NODE_EXTRA_CA_CERTS": str(authority)})


def _go(programs: Programs, folder: Path, authority: Path) -> Built:
    argv = ["go", "build", "-mod=readonly", "-o", "peer", "."]
    programs.run(argv, cwd=folder, timeout=BUILD_SECONDS)
    return Built((str(folder / "peer"),), {"SSL_CERT_FILE": str(authority)})


def _java(programs: Programs, folder: Path, authority: Path) -> Built:
    listed = folder / "jars"
    argv = ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "dependency:build-classpath"]
    programs.run([*argv, f"-Dmdep.outputFile={listed}"], cwd=folder, timeout=BUILD_SECONDS)
    jars = [Path(name) for name in listed.read_text().split(os.pathsep)]
    found = sorted(f"{sha256(jar.read_bytes()).hexdigest()}  {jar.name}" for jar in jars)
    pinned = (folder / "jars.sha256").read_text().splitlines()
    assert found == sorted(pinned), "what Maven obtained is not what peers/java/jars.sha256 pins"
    classes = os.pathsep.join([str(folder), *map(str, jars)])
    javac = ["javac", "--release", "17", "-cp", classes, "-d", str(folder)]
    programs.run([*javac, str(folder / "Peer.java")], timeout=BUILD_SECONDS)
    trust = folder / "trust.p12"
    programs.run(
        [
            *("keytool", "-importcert", "-noprompt", "-alias", "emulator"),
            *("-file", str(authority), "-keystore", str(trust), "-storepass", PASSWORD),
        ],
        timeout=BUILD_SECONDS,
    )
    trusting = (
        f"-Djavax.net.ssl.trustStore={trust}",
        f"-Djavax.net.ssl.trustStorePassword={PASSWORD}",
    )
    return Built(("java", *trusting, "-cp", classes, "Peer"), {})


LANGUAGES = {
    "javascript": Language(("node", "npm"), _javascript),
    "go": Language(("go",), _go),
    "java": Language(("java", "javac", "mvn", "keytool"), _java),
}


def obtain(language: str, programs: Programs, folder: Path, authority: Path) -> Built:
    """Build a language's program in a copy of its folder; downloads are its own tools' caches'."""
    shutil.copytree(PEERS / language, folder, ignore=shutil.ignore_patterns("node_modules"))
    return LANGUAGES[language].build(programs, folder, authority)


def read(said: str) -> dict[str, dict[str, Any]]:
    """What a program said of each scenario: its ``result``, or an ``error``."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {line.pop("scenario"): line for line in lines}
