"""The tester's hand on the emulator, over the administration port: time, faults, restarts.

===================================== ============================================================
``GET /$emulator/clock``              what time it is here, and how far ahead
``POST /$emulator/clock``             ``{"advance": 30}``: the seconds pass at once
``GET /$emulator/faults``             the faults that wait
``POST /$emulator/faults``            a fault, see :mod:`servicebus_emulator.gateway.faults`
``DELETE /$emulator/faults[/N]``      all of them, or one, do not happen
``POST /$emulator/restart``           ``{"state": "keep"}``: every connection is cut; with ``lose``
                                      all queues are as at the start, and empty
===================================== ============================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Protocol

from servicebus_emulator.admin.http import Request, Response, to_json
from servicebus_emulator.errors import ArgumentError
from servicebus_emulator.gateway.faults import Fault, Faults

LONGEST = 10 * 365 * 86_400.0
"""Seconds that time can be advanced by at once."""

PATHS = ("/$emulator/clock", "/$emulator/faults", "/$emulator/restart")


class Controlled(Protocol):
    """What can be controlled: the server."""

    def now(self) -> float:
        """The time here."""

    def ahead(self) -> float:
        """By how much it was advanced."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def restart(self, *, keep: bool) -> None:
        """Cut every connection; unless ``keep``, begin anew."""


class Control:
    """Answers the tester."""

    def __init__(self, controlled: Controlled, faults: Faults) -> None:
        self._controlled = controlled
        self._faults = faults

    def handle(self, request: Request, path: str) -> Response:
        """The response to a request whose path begins with one of :data:`PATHS`."""
        try:
            match request.method, path.removeprefix("/$emulator/").split("/"):
                case "GET", ["clock"]:
                    return self._clock()
                case "POST", ["clock"]:
                    seconds = _given(request, {"advance": float})["advance"]
                    if not 0 < seconds <= LONGEST:
                        raise ArgumentError("'advance' must be more than 0 seconds")
                    self._controlled.advance(seconds)
                    return self._clock()
                case "GET", ["faults"]:
                    return to_json([dataclasses.asdict(fault) for fault in self._faults.waiting])
                case "POST", ["faults"]:
                    given = _given(request, _FAULT, need=("on", "do"))
                    return to_json(dataclasses.asdict(self._faults.add(Fault(**given))), 201)
                case "DELETE", ["faults"]:
                    self._faults.waiting.clear()
                    return to_json({})
                case "DELETE", ["faults", number] if number.isdecimal():
                    gone = self._faults.remove(int(number))
                    return to_json({} if gone else {"error": "no such fault"}, 200 if gone else 404)
                case "POST", ["restart"]:
                    state = _given(request, {"state": str})["state"]
                    if state not in ("keep", "lose"):
                        raise ArgumentError("'state' must be keep or lose")
                    self._controlled.restart(keep=state == "keep")
                    return to_json({})
        except ArgumentError as error:
            return to_json({"error": str(error)}, 400)
        return to_json({"error": f"{request.method} {path} is not offered"}, 405)

    def _clock(self) -> Response:
        return to_json({"now": self._controlled.now(), "ahead": self._controlled.ahead()})


_FAULT: dict[str, type] = {
    "on": str,
    "do": str,
    "queue": str,
    "operation": str,
    "times": int,
    "seconds": float,
    "condition": str,
    "description": str,
    "late": bool,
}


def _given(
    request: Request, kinds: dict[str, type], *, need: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The request's JSON object with values of these kinds; without ``need`` all are needed."""
    try:
        given = json.loads(request.body)
    except ValueError:
        raise ArgumentError("the body is no JSON") from None
    if not isinstance(given, dict):
        raise ArgumentError("the body should be a JSON object")
    for key, value in given.items():
        kind = kinds.get(key)
        if kind is None:
            raise ArgumentError(f"'{key}' is not known; there is {', '.join(kinds)}")
        if kind is float and type(value) is int:
            given[key] = value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise ArgumentError(f"'{key}' should be {_NAMES[kind]}")
    for key in need or kinds:
        if key not in given:
            raise ArgumentError(f"'{key}' is missing")
    return given


_NAMES: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
