"""Source -> Image: built with Dagger, pushed once, and from then on referred to by digest."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from ci.digest import Digest
from ci.errors import BuildFailed, CommandFailed, SettingsError
from ci.model import Image
from ci.run.context import Context
from ci.tools.dagger import Recipe, build_and_publish
from ci.tools.registry import open_repository

IGNORED = ("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")
"""Not part of the source: created by tools, and different on every machine."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
"""Docker's predefined build arguments: every build step sees them, the image does not keep them."""

EMULATOR_NAME = "servicebus-emulator"
EMULATOR_SOURCE = Path("packages/servicebus-emulator")
EMULATOR_CODE = "src/servicebus_emulator"
EMULATOR_FILES = ("Dockerfile", "requirements.lock")
"""The files of the emulator's image, besides its code; tests and benchmarks are not in it."""


def tag_of(prefix: str, now: datetime) -> str:
    """A tag in the upgrade plan's form: ``queue-timeout-YYYYMMDD-HHMMSS``, in UTC."""
    return f"{prefix}-{now:%Y%m%d-%H%M%S}"


def new_tag(context: Context) -> str:
    return tag_of(context.settings.image.tag_prefix, datetime.now(UTC))


def build(context: Context, tag: str, *, record: bool = True) -> Image:
    """Build and push the service's image as ``tag``; with ``record``, as the source's latest build.

    Raises :class:`ci.errors.BuildFailed` with the failing step's last lines.
    """
    settings = context.settings.image
    source = context.path(settings.context)
    _check_source(source, source / settings.dockerfile)
    arguments = {**settings.build_args, settings.version_arg: tag}
    context.events.note(f"building {settings.name}:{tag}")
    image = _publish(context, source, settings.dockerfile, settings.name, tag, arguments)
    if record:
        context.home.put_image(
            source_hash(context),
            {"repository": image.repository, "tag": image.tag, "digest": image.digest},
        )
    context.events.note(f"published {image.by_digest}", image=asdict(image))
    return image


def latest(context: Context) -> Image | None:
    """The image last built from the current source, if the registry still has it."""
    record = context.home.image(source_hash(context))
    if record is None:
        return None
    registry = context.tools.registry
    image = Image(record["repository"], record["tag"], Digest.read(record["digest"]))
    if not image.digest or image.repository != f"{registry.name}/{context.settings.image.name}":
        return None
    return image if _published(context, context.settings.image.name, image.digest) else None


def find(context: Context, name: str, tag: str) -> Image | None:
    """The image with this name and tag in the local registry; ``None`` if there is none."""
    digest = _published(context, name, tag)
    return Image(f"{context.tools.registry.name}/{name}", tag, digest) if digest else None


def find_emulator(context: Context) -> Image | None:
    return find(context, EMULATOR_NAME, emulator_tag(context.root))


def build_emulator(context: Context) -> Image:
    """The Service Bus emulator's image, built if the registry lacks it; its tag is a hash of its
    source. Its layers are gzip, so that every Docker version can run it."""
    existing = find_emulator(context)
    if existing is not None:
        context.events.note("the emulator's image is already in the registry")
        return existing
    source = context.root / EMULATOR_SOURCE
    _check_source(source, source / "Dockerfile")
    return _publish(
        context,
        source,
        "Dockerfile",
        EMULATOR_NAME,
        emulator_tag(context.root),
        {},
        include=(*EMULATOR_FILES, f"{EMULATOR_CODE}/**"),
        for_docker=True,
    )


def source_hash(context: Context) -> str:
    """Hash of everything that determines the image, except its tag."""
    settings = context.settings.image
    arguments = [f"{k}={v}" for k, v in sorted(settings.build_args.items())]
    inputs = [settings.name, settings.dockerfile, context.tools.registry.name, *arguments]
    return tree_hash(context.path(settings.context), inputs)


def tree_hash(folder: Path, words: Iterable[str] = ()) -> str:
    """Hash of the names, modes and contents of all files under ``folder``, in a fixed order, and of
    ``words``."""
    digest = hashlib.sha256()
    for word in words:
        digest.update(word.encode() + b"\0")
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in IGNORED)
        for name in sorted(files):
            file = Path(parent, name)
            mode = "x" if os.access(file, os.X_OK) else "-"
            digest.update(f"{file.relative_to(folder)}\0{mode}\0".encode())
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                content = str(file.readlink()).encode()  # a dangling link
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:24]


def handed_on(
    env: Mapping[str, str], pip: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """(build arguments, secrets) with which a build reaches the package registries as this host
    does.

    Only what is configured on this host, and nothing that ends up in the image: proxies are
    Docker's predefined arguments, pip's settings a secret that a step mounts with
    ``--mount=type=secret,id=pip.conf,target=/etc/pip.conf``. The engine itself puts the host's CA
    certificates into the containers it runs. ``pip`` is ``pip config list``.
    """
    arguments = {
        name: env[name]
        for name in PROXIES
        if env.get(name) and urlsplit(env[name]).hostname not in ("127.0.0.1", "localhost", "::1")
    }
    options = ("index-url", "extra-index-url", "trusted-host")
    values = {}
    for name in options:
        for section in (":env:", "install", "global", "site", "user"):
            if value := pip.get(f"{section}.{name}"):
                values[name] = value
                break
    if not values:
        return arguments, {}
    lines = [f"{name} = {' '.join(value.split())}" for name, value in values.items()]
    return arguments, {"pip.conf": "[global]\n" + "\n".join(lines) + "\n"}


def _publish(
    context: Context,
    source: Path,
    dockerfile: str,
    name: str,
    tag: str,
    arguments: Mapping[str, str],
    include: tuple[str, ...] = (),
    for_docker: bool = False,
) -> Image:
    repository = f"{context.tools.registry.name}/{name}"
    host_arguments, secrets = handed_on(context.programs.env, _pip_config(context))
    digest = build_and_publish(
        Recipe(
            source=source,
            reference=f"{repository}:{tag}",
            dockerfile=dockerfile,
            include=include,
            exclude=tuple(f"**/{name}" for name in IGNORED),
            build_args={**host_arguments, **arguments},
            secrets=secrets,
            for_docker=for_docker,
        ),
        context.programs.cancel,
    )
    return Image(repository, tag, digest)


def _pip_config(context: Context) -> dict[str, str]:
    """``pip config list`` of the machine, as (section.name, value)."""
    try:
        listing = context.programs.run(
            [sys.executable, "-m", "pip", "config", "list"],
            log="pip-config",
            timeout=20,
            check=False,
        )
    except CommandFailed:
        return {}
    pairs = (line.partition("=") for line in listing.stdout.splitlines())
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}


def _published(context: Context, name: str, reference: str) -> Digest | None:
    registry = context.tools.registry
    with open_repository(
        f"{registry.name}/{name}", local=registry, programs=context.programs
    ) as repository:
        return repository.digest(reference)


def emulator_tag(root: Path) -> str:
    """Hash of what determines the emulator's image, its compression included; ``root`` is the
    checkout."""
    source = root / EMULATOR_SOURCE
    files = [source / name for name in EMULATOR_FILES]
    contents = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()]
    return tree_hash(source / EMULATOR_CODE, ["gzip", *contents])


def _check_source(folder: Path, dockerfile: Path) -> None:
    if not folder.is_dir():
        raise SettingsError(f"image.context in pipeline.toml: folder {folder} does not exist")
    if not dockerfile.is_file():
        raise BuildFailed(
            f"image.dockerfile in pipeline.toml: {dockerfile} does not exist",
            remedy="correct image.dockerfile, or add the file",
        )
