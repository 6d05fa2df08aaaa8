"""One target under atheris, with libFuzzer's options; :mod:`tests.fuzz.run` starts it.

    python -m tests.fuzz.one TARGET [OPTION ...] [FILE | FOLDER ...]

A file is run once: that is how a crash is repeated.
"""

from __future__ import annotations

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["servicebus_emulator"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    target = TARGETS[name]
    # To merge, libFuzzer starts the program anew, in a shell, as its first argument names it.
    sys.argv[0] = shlex.join((sys.executable, "-m", "tests.fuzz.one", name))
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
