"""A stand-in for Azure Service Bus: queues and topics that keep time as Azure does.

It is a program, ``python -m servicebus_emulator``. What other projects may import is what this
module names in ``__all__``, and nothing below it: how to read its command line, how to make the
certificates that its clients trust, and the names under which it knows those who log in.

Inside it is layered, from the inside out:

``amqp``      AMQP 1.0 without sockets: bytes in, events out
``broker``    the rules of queues and topics; ``now`` is an argument, there is no wire and no clock
``gateway``   what a link, ``$cbs`` and ``$management`` mean to the broker
``admin``     the administration over HTTP: Atom for the SDK, ARM JSON for ``az``, JSON for people
``server``    the only sockets and the only clock; not imported here, for it takes its time
"""

from servicebus_emulator.certificates import (
    DEFAULT_NAMES,
    KeyPair,
    issue,
    make_authority,
    names_of,
)
from servicebus_emulator.errors import StartupError
from servicebus_emulator.identity import EXCHANGE_AUDIENCE, SYSTEM_ASSIGNED, TENANT
from servicebus_emulator.settings import Settings, parse

__all__ = [
    "DEFAULT_NAMES",
    "EXCHANGE_AUDIENCE",
    "SYSTEM_ASSIGNED",
    "TENANT",
    "KeyPair",
    "Settings",
    "StartupError",
    "issue",
    "make_authority",
    "names_of",
    "parse",
]
