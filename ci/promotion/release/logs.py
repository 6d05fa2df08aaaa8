"""Error lines in the logs of a release's pods."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ci import redaction
from ci.model import Target
from ci.promotion.release.rollout import (
    service_containers,
)
from ci.tools.kube import Kube

ERROR_LINE = re.compile(
    r"\b(ERROR|CRITICAL|FATAL)\b|^Traceback \(most recent call last\)|^panic:"
    r'|"(level|severity|levelname)":\s*"(error|critical|fatal)"',
)


def error_lines(
    kube: Kube,
    target: Target,
    pods: Sequence[Mapping[str, Any]],
    *,
    tail: int = 2000,
    since: int | None = None,
    repository: str = "",
) -> list[str]:
    """Lines of the service's containers that report an error, with the pod they are from.

    Of the last ``since`` seconds when given; ``repository`` is where old pods' image is from,
    the target's own when left out.
    """
    recent = {} if since is None else {"sinceSeconds": since}
    asked = [
        (str(pod["metadata"]["name"]), container)
        for pod in pods
        for container in service_containers(pod["spec"], repository or target.image_repository)
    ]

    def lines(name: str, container: str) -> list[str]:
        answer = kube.logs(name, target.namespace, container=container, tailLines=tail, **recent)
        return [
            f"{name}: {redaction.text(line.strip())[:200]}"
            for line in (answer.text if answer.ok else "").splitlines()
            if ERROR_LINE.search(line)
        ]

    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="logs") as pool:
        return [line for found in pool.map(lambda each: lines(*each), asked) for line in found]
