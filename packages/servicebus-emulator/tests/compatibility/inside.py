"""A place in which a program meets the emulator under Azure's own names, and nothing else differs.

The clients connect to ``NAMESPACE.servicebus.windows.net`` at ports 443 and 5671, and verify it
with certifi's bundle whatever the environment says. So a program gets a mount namespace of its
own, where ``/etc/hosts`` maps the name to the emulator's loopback address and certifi's bundle
has the emulator's authority in it. Its code, its packages and this machine's files stay as they
are. It takes ``unshare`` and the right to mount: root, or user namespaces.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import certifi

SYSTEM_HOSTS = Path("/etc/hosts")


class Inside:
    """Wraps command lines; the two files that are mounted are made in ``folder``."""

    def __init__(self, folder: Path, address: str, names: Iterable[str], authority: Path) -> None:
        self._mounts = {
            SYSTEM_HOSTS: folder / "hosts",
            Path(certifi.where()): folder / "bundle.pem",
        }
        hosts = f"{SYSTEM_HOSTS.read_text()}\n{address} {' '.join(names)}\n"
        (folder / "hosts").write_text(hosts)
        bundle = Path(certifi.where()).read_bytes() + authority.read_bytes()
        (folder / "bundle.pem").write_bytes(bundle)

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line that runs ``words`` there; signals reach the program itself."""
        mounts = [
            shlex.join(["mount", "--bind", str(ours), str(theirs)])
            for theirs, ours in self._mounts.items()
        ]
        script = " && ".join([*mounts, 'exec "$@"'])
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *as_root, "--mount", "sh", "-c", script, "inside", *words]

    def python(self, module: str, *words: str) -> list[str]:
        """The command line of a module of the tests' own interpreter."""
        return self.argv([sys.executable, "-m", module, *words])
