"""The release gate. It runs from its checkout, and is one of the users of the emulator's package.

Whoever imports ``ci``, by ``pipeline.py``, ``python -m ci.…`` or a test, can import
``servicebus_emulator`` then: the environment holds exactly what ``requirements.lock`` names, hashes
checked, and is shared by all checkouts, so the package cannot be installed into it.
"""

import sys
from pathlib import Path

_EMULATOR = str(Path(__file__).resolve().parents[1] / "packages" / "servicebus-emulator" / "src")
if _EMULATOR not in sys.path:
    sys.path.insert(0, _EMULATOR)
