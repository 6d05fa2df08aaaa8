"""Dagger: builds a Dockerfile and publishes it once. Needs the session that ``dagger run`` gives.

The client is asynchronous; nothing above this module knows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ci.digest import Digest
from ci.errors import BuildFailed, DiskFull, Interrupted, PipelineError, RegistryRefused

TAIL_LINES = 15
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is built, and under which name it is published."""

    source: Path
    reference: str
    """``registry/name:tag``."""
    dockerfile: str = "Dockerfile"
    """Relative to ``source``."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Mounted at ``/run/secrets/NAME`` by steps that ask for them; never in a layer."""
    for_docker: bool = False
    """Docker Engine before 23 reads no zstd, which containerd has read since 1.5."""


def build_and_publish(recipe: Recipe, cancel: threading.Event) -> Digest:
    """The digest of the published image, as the registry has it.

    Raises :class:`BuildFailed` with the failing step's last lines, :class:`RegistryRefused`
    when the image was built but not taken.
    """
    import anyio  # here, because it and dagger take a second that other steps can use
    import dagger

    try:
        published = anyio.run(_unless_cancelled, partial(_published, recipe), cancel)
    except BaseExceptionGroup as group:
        problem = _first(group)
        if isinstance(problem, dagger.ClientError):
            raise BuildFailed(
                f"the Dagger session was lost: {problem}",
                remedy="run again; `python3 pipeline.py doctor` shows whether the engine answers",
            ) from problem
        raise problem from None
    digest = Digest.found_in(published.rpartition("@")[2])
    if digest is None:
        raise RegistryRefused(
            f"publishing {recipe.reference} returned {published!r} instead of a digest"
        )
    return digest


async def _published(recipe: Recipe) -> str:
    """The reference, with its digest, under which the image was built and published."""
    import dagger

    async with dagger.Connection(dagger.Config(timeout=dagger.Timeout.default())) as client:
        source = client.host().directory(
            str(recipe.source), include=list(recipe.include), exclude=list(recipe.exclude)
        )
        container = source.docker_build(
            dockerfile=recipe.dockerfile,
            build_args=[dagger.BuildArg(k, v) for k, v in recipe.build_args.items()],
            secrets=[client.set_secret(name, text) for name, text in recipe.secrets.items()],
        )
        try:
            await container.sync()
        except dagger.QueryError as problem:
            raise _build_failure(problem) from problem
        # Every node unpacks the layers, and zstd takes a third of gzip's time.
        layers = dagger.ImageLayerCompression
        packed = layers.Gzip if recipe.for_docker else layers.Zstd
        try:
            return await container.publish(recipe.reference, forced_compression=packed)
        except dagger.QueryError as problem:
            raise _publish_failure(recipe.reference, str(problem)) from problem


async def _unless_cancelled(work: Callable[[], Awaitable[str]], cancel: threading.Event) -> str:
    """What ``work`` returns. Ends it and raises :class:`Interrupted` once ``cancel`` is set."""
    import anyio

    results: list[str] = []

    async with anyio.create_task_group() as group:

        async def run() -> None:
            results.append(await work())
            group.cancel_scope.cancel()  # ends the polling below

        group.start_soon(run)
        while not cancel.is_set():
            await anyio.sleep(POLL_SECONDS)
        group.cancel_scope.cancel()
    if not results:
        raise Interrupted("interrupted while building")
    return results[0]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    problem: BaseException = group
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


def _build_failure(problem: Exception) -> PipelineError:
    message = str(problem)
    output = "\n".join(
        text for text in (getattr(problem, "stdout", ""), getattr(problem, "stderr", "")) if text
    )
    return build_failure(message, output, tuple(getattr(problem, "command", ())))


def build_failure(message: str, output: str, command: Sequence[str]) -> PipelineError:
    """The error for a build that Dagger refused: the step, its status and its last lines."""
    everything = f"{message}\n{output}"
    if re.search(r"no space left on device", everything, re.IGNORECASE):
        return DiskFull("no space left on device while building the image")
    tail = "\n".join(output.strip().splitlines()[-TAIL_LINES:])
    step = " ".join(command[2:] if command[:2] == ("/bin/sh", "-c") else command)
    where = f"in step `{step}`: " if step else ""
    return BuildFailed(f"the image does not build: {where}{tail or message.strip()}")


def _publish_failure(reference: str, message: str) -> PipelineError:
    registry = reference.partition("/")[0]
    return RegistryRefused(
        f"{registry} refused the push of {reference}: {message.strip().splitlines()[-1]}",
        remedy=f"check that {registry} answers and that the login has the right to push",
    )
