"""Reading a kubeconfig file, without a client."""

from __future__ import annotations

from pathlib import Path

import yaml

from ci.errors import TargetNotFound


def contexts(kubeconfig: Path) -> tuple[str, ...]:
    """Names of the contexts. Raises :class:`TargetNotFound` for a file that is no kubeconfig."""
    try:
        loaded = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    except OSError as problem:
        raise TargetNotFound(
            f"cannot read kubeconfig {kubeconfig}: {problem.strerror}",
            remedy="correct kubeconfig in the target's block of pipeline.toml",
        ) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise TargetNotFound(f"{kubeconfig} is not a kubeconfig file") from problem
    if not isinstance(loaded, dict):
        raise TargetNotFound(f"{kubeconfig} is not a kubeconfig file")
    return tuple(str(c.get("name")) for c in loaded.get("contexts") or [])
