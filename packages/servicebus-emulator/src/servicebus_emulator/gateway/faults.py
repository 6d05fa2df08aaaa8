"""Faults on demand: what a client has to survive, made to happen at a chosen moment.

A fault waits for an operation (``on``) and strikes so many ``times``:

========= ============================== ==========================================================
on        strikes when                   and can
========= ============================== ==========================================================
send      a message or a batch comes in  reject, delay, drop, detach
settle    a receiver settles a message   reject, delay, drop, detach
attach    a link is asked for            reject, delay, drop
request   ``$management`` is asked       reject, delay, drop, detach
token     a token is put to ``$cbs``     reject, delay, drop
========= ============================== ==========================================================

reject answers with an error (``com.microsoft:server-busy`` where none is named; a token is refused
as unauthorized); delay keeps the whole connection silent for ``seconds``; drop cuts it; detach
ends the link with the error. With ``late``, drop and detach let the operation take effect first:
the client does not learn that it did.
"""

from __future__ import annotations

from dataclasses import dataclass

from servicebus_emulator.errors import ArgumentError, ServiceBusError

BUSY = "com.microsoft:server-busy"
UNAUTHORIZED = "amqp:unauthorized-access"

_ALLOWED = {
    "send": {"reject", "delay", "drop", "detach"},
    "settle": {"reject", "delay", "drop", "detach"},
    "attach": {"reject", "delay", "drop"},
    "request": {"reject", "delay", "drop", "detach"},
    "token": {"reject", "delay", "drop"},
}
_STATUS = {BUSY: 503, UNAUTHORIZED: 401, "amqp:not-found": 404, "com.microsoft:timeout": 408}


class Injected(ServiceBusError):
    """An injected error, with no other cause."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition
        self.status = _STATUS.get(condition, 410 if condition.endswith("-lost") else 500)


@dataclass(slots=True)
class Fault:
    """See the table at the top. ``queue`` and ``operation`` narrow it down; "" is any."""

    on: str
    do: str
    queue: str = ""
    operation: str = ""
    times: int = 1
    seconds: float = 0.0
    condition: str = ""
    description: str = "A fault that was asked for."
    late: bool = False
    number: int = 0

    def check(self) -> None:
        """Raise where it makes no sense."""
        if self.do not in _ALLOWED.get(self.on, set()):
            raise ArgumentError(f"on '{self.on}' a fault cannot '{self.do}'")
        if self.times < 1:
            raise ArgumentError("'times' must be at least 1")
        if (self.do == "delay") != (self.seconds > 0):
            raise ArgumentError("'seconds' belongs to 'delay'")
        if self.late and self.do not in ("drop", "detach"):
            raise ArgumentError("'late' belongs to 'drop' and 'detach'")

    def error(self) -> Injected:
        """What the client is told."""
        usual = UNAUTHORIZED if self.on == "token" else BUSY
        return Injected(self.condition or usual, self.description)


class Faults:
    """Those that wait, oldest first."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self._numbers = 0

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def add(self, fault: Fault) -> Fault:
        """Let it wait."""
        fault.check()
        self._numbers += 1
        fault.number = self._numbers
        self.waiting.append(fault)
        return fault

    def remove(self, number: int) -> bool:
        """Let it not happen; False where there is none of that number."""
        before = len(self.waiting)
        self.waiting = [fault for fault in self.waiting if fault.number != number]
        return len(self.waiting) < before

    def strike(self, on: str, queue: str, operation: str = "") -> Fault | None:
        """The fault that happens now, counted."""
        for fault in self.waiting:
            if (
                fault.on == on
                and fault.queue.lower() in ("", queue.lower())
                and fault.operation in ("", operation)
            ):
                fault.times -= 1
                if not fault.times:
                    self.waiting.remove(fault)
                return fault
        return None
