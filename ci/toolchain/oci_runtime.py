"""An OCI runtime in front of runc for hosts that lack CAP_SYS_RESOURCE.

runc applies every capability it is told to and fails when the host withholds one; Docker asks
for all of them under ``--privileged``. This program takes the one capability out of the bundle's
``config.json`` (create, run) and out of the ``--process`` file (exec), then becomes runc. It is
installed as the daemon's default runtime only where the capability is missing, and runs on the
standard library alone, outside the project's environment.
"""

import json
import os
import sys

MISSING = "CAP_SYS_RESOURCE"


def option(args: list[str], *names: str) -> str | None:
    """The value of the first of ``names``, as ``--name value`` or ``--name=value``."""
    for index, word in enumerate(args):
        for name in names:
            if word == name and index + 1 < len(args):
                return args[index + 1]
            if word.startswith(name + "="):
                return word[len(name) + 1 :]
    return None


def without(process: dict[str, object]) -> dict[str, object]:
    """An OCI ``process`` object whose capability sets lack the missing one."""
    capabilities = process.get("capabilities")
    if isinstance(capabilities, dict):
        process["capabilities"] = {
            name: [one for one in held if one != MISSING] if isinstance(held, list) else held
            for name, held in capabilities.items()
        }
    return process


def rewrite(path: str, *, bundle: bool) -> None:
    with open(path, encoding="utf-8") as source:
        document = json.load(source)
    if bundle:
        document["process"] = without(document.get("process") or {})
    else:
        document = without(document)
    with open(path, "w", encoding="utf-8") as sink:
        json.dump(document, sink)


def main(args: list[str], runc: str) -> None:
    if "create" in args or "run" in args:
        rewrite(os.path.join(option(args, "--bundle", "-b") or ".", "config.json"), bundle=True)
    elif "exec" in args:
        process = option(args, "--process", "-p")
        if process is not None:
            rewrite(process, bundle=False)
    os.execv(runc, ["runc", *args])


if __name__ == "__main__":
    main(sys.argv[2:], sys.argv[1])
