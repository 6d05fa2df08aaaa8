"""Images assembled from Debian packages and locally built binaries, where no registry is reachable.

A recipe names a base, packages, and a script; it runs in a container that is committed under a
tag that holds the recipe's hash. The base keeps the host's own Debian mirrors as its sources;
proxies reach apt through a mounted file and the container's environment, and stay out.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ci.errors import ToolchainError
from ci.run.events import Events
from ci.toolchain.daemon import install_packages
from ci.toolchain.host import Host
from ci.toolchain.pins import Pins
from ci.toolchain.store import Store, content_key
from ci.tools.command import Programs
from ci.tools.docker import Docker

PREFIX = "queue-timeout-gate"
LABEL = "queue-timeout-gate.toolchain"
BUILD_SECONDS = 900.0

SLIM = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
"""Left out of every image, as Debian's own slim images do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is assembled.

    ``mounts`` are (host folder, container path) pairs, read-only while the ``script`` (bash, as
    root) runs. ``changes`` are Dockerfile instructions for the committed image. ``inputs`` are
    further things its content depends on.
    """

    name: str
    base: str
    packages: tuple[str, ...] = ()
    script: str = ""
    mounts: tuple[tuple[Path, str], ...] = ()
    changes: tuple[str, ...] = ()
    inputs: tuple[str | bytes | Path, ...] = ()
    seccomp: bool = True
    stop_signal: str = ""
    """Given to the container, whose configuration a commit keeps: no Dockerfile instruction of
    ``docker commit`` sets it."""

    @property
    def tag(self) -> str:
        key = content_key(
            [self.base, *self.packages, self.script, *self.changes, self.stop_signal, *self.inputs]
        )
        return f"{PREFIX}/{self.name}:{key}"


@dataclass(slots=True)
class Assembler:
    """Assembles images in the local Docker daemon."""

    docker: Docker
    host: Host
    pins: Pins
    store: Store
    programs: Programs
    events: Events
    home: Path
    _lists: Path = field(init=False)
    _known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lists = self.home / "apt"
        self._known = self.docker.image_tags()

    def has(self, tag: str) -> bool:
        """Whether the daemon has ``tag``; asked once for all of them, then only for new ones."""
        return tag in self._known or self.docker.image_exists(tag)

    @property
    def suite(self) -> str:
        return self.pins.versions["debian"]

    def base_tag(self) -> str:
        return f"{PREFIX}/debian:{content_key([self.suite, apt_mirrors(self.suite), *SLIM])}"

    def base(self) -> str:
        """A minimal Debian, by mmdebstrap from the host's own mirrors, which the image keeps: what
        is built on it here reaches them, too."""
        tag = self.base_tag()
        if self.has(tag):
            return tag
        with self.store.lock("image-debian"):
            if self.docker.image_exists(tag):
                return tag
            self._need_debian()
            if shutil.which("mmdebstrap") is None:
                install_packages(
                    ("mmdebstrap",), self.programs, home=self.home, error=ToolchainError
                )
            self.events.note(f"assembling a minimal Debian {self.suite}")
            folder = self.home / "store" / ".partial"
            folder.mkdir(parents=True, exist_ok=True)
            archive = folder / "debian.tar"
            mirrors = apt_mirrors(self.suite)
            try:
                self.programs.run(
                    [
                        "mmdebstrap",
                        "--variant=minbase",
                        "--include=ca-certificates",
                        *(f"--dpkgopt=path-exclude={path}" for path in SLIM),
                        self.suite,
                        archive,
                        # Without sources of the host's for this suite, mmdebstrap's own default.
                        *(["-"] if mirrors else []),
                    ],
                    log="mmdebstrap",
                    input=mirrors,
                    timeout=BUILD_SECONDS,
                    error=ToolchainError,
                )
                self.docker.run(
                    "import",
                    "--change",
                    'CMD ["bash"]',
                    "--change",
                    f"LABEL {LABEL}=debian",
                    str(archive),
                    tag,
                    timeout=BUILD_SECONDS,
                    error=ToolchainError,
                )
            finally:
                archive.unlink(missing_ok=True)
        return tag

    def make(self, recipe: Recipe) -> str:
        """The recipe's image; assembled when the daemon does not have it."""
        if self.has(recipe.tag):
            return recipe.tag
        with self.store.lock(f"image-{recipe.name}"):
            if self.docker.image_exists(recipe.tag):
                return recipe.tag
            self.events.note(f"assembling the image {recipe.name}")
            container = f"{PREFIX}-assemble-{recipe.name}"
            self.docker.remove(container)
            try:
                self._run(recipe, container)
                changes = [f"LABEL {LABEL}={recipe.name}", *recipe.changes]
                self.docker.run(
                    "commit",
                    *(word for change in changes for word in ("--change", change)),
                    container,
                    recipe.tag,
                    timeout=BUILD_SECONDS,
                    error=ToolchainError,
                )
            finally:
                self.docker.remove(container)
        return recipe.tag

    def _run(self, recipe: Recipe, container: str) -> None:
        self._lists.mkdir(parents=True, exist_ok=True)
        settings = self._lists / "apt.conf"
        settings.write_text(self._apt_settings(), encoding="utf-8")
        mounts = [
            *((str(path), inside) for path, inside in recipe.mounts),
            (str(settings), "/etc/apt/apt.conf.d/99-host"),
        ]
        slim = "".join(f"path-exclude={path}\\n" for path in SLIM)
        install = (
            f"""
printf '{slim}' > /etc/dpkg/dpkg.cfg.d/slim
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends {" ".join(recipe.packages)}
apt-get clean
rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /var/log/*.log /var/log/apt
"""
            if recipe.packages
            else ""
        )
        options: list[str] = []
        for path, inside in mounts:
            options += ["--volume", f"{path}:{inside}:ro"]
        for name, value in self.host.proxies:
            options += ["--env", f"{name}={value}"]
        if recipe.stop_signal:
            options += ["--stop-signal", recipe.stop_signal]
        if not recipe.seccomp:
            options += ["--security-opt", "seccomp=unconfined"]
        self.docker.run(
            "run",
            "--name",
            container,
            "--label",
            f"{LABEL}.assembling={recipe.name}",
            *options,
            "--entrypoint",
            "bash",
            recipe.base,
            "-euo",
            "pipefail",
            "-c",
            f"{install}\n{recipe.script}\n",
            timeout=BUILD_SECONDS,
            error=ToolchainError,
        )

    def _need_debian(self) -> None:
        if not (self.host.is_debian and self.host.is_root):
            raise ToolchainError(
                "images have to be assembled on this machine, which needs root on Debian",
                remedy="run as root on Debian, or on a network that reaches the registries "
                "named in ci/toolchain/pins.toml",
            )

    def _apt_settings(self) -> str:
        """The host's apt proxies, as ``apt-config`` prints them."""
        dump = self.programs.run(["apt-config", "dump"], log="apt", check=False, timeout=30).stdout
        kept = [
            line
            for line in dump.splitlines()
            if line.lower().startswith(("acquire::http", "acquire::https"))
        ]
        return "\n".join(kept) + "\n"


def apt_mirrors(suite: str, folder: Path = Path("/etc/apt")) -> str:
    """One-line sources of ``suite`` and its updates from the host's configuration.

    Understands one-line lists and deb822 files; other suites and projects are left out. Empty
    when the host is of another suite.
    """
    suites = {suite, f"{suite}-updates", f"{suite}-security"}
    mirrors: list[str] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".sources":
            mirrors += _deb822(text, suites)
            continue
        for line in text.splitlines():
            words = line.split("#")[0].split()
            if words[:1] != ["deb"]:
                continue
            if words[1:2] and words[1].startswith("["):
                while words[1:] and not words[1].endswith("]"):
                    del words[1]
                del words[1:2]
            if len(words) > 3 and words[2] in suites and "main" in words[3:]:
                mirrors.append(f"deb {words[1]} {words[2]} main")
    has_suite = any(line.split()[2] == suite for line in mirrors)
    return "".join(f"{line}\n" for line in dict.fromkeys(mirrors)) if has_suite else ""


def _deb822(text: str, suites: set[str]) -> Sequence[str]:
    lines = []
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            if line.startswith("#") or ":" not in line:
                continue
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled") == "no":
            continue
        if "main" not in fields.get("components", "").split():
            continue
        lines += [
            f"deb {uri} {one} main"
            for uri in fields.get("uris", "").split()
            for one in fields.get("suites", "").split()
            if one in suites
        ]
    return lines
