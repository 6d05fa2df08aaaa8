"""``$management``: requests about one entity, answered one by one.

A request is a message whose application properties name an ``operation`` and whose body is a map.
:data:`_OPERATIONS` lists what there is. An error's own codes make the response; nothing that a
client asks here ends its link.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from servicebus_emulator.amqp.codec import DecodeError
from servicebus_emulator.amqp.types import Array, Int, Long, Symbol, Timestamp
from servicebus_emulator.broker.model import Delivery, Draft, Message
from servicebus_emulator.broker.queue import Queue, check_peek
from servicebus_emulator.errors import ArgumentError, NotImplementedByEmulator, ServiceBusError
from servicebus_emulator.gateway.message import Request, read_message, write_message, write_response
from servicebus_emulator.gateway.rules import add_rule, enumerate_rules, remove_rule

NEVER_UPDATED = 253_402_300_800_000 - 1
"""``last-updated-time`` beyond the year 9999 asks for sessions with messages."""

SENDING = frozenset({"schedule-message", "cancel-scheduled-message"})
"""The operations that take the right to send; the others take the right to listen."""

Body = dict[object, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an operation found: 200 with a body, or 204 with nothing."""

    body: Body
    status: int = 200


Operation = Callable[[Queue, Body, float], Reply]


def answer(queue: Queue, request: Request, now: float) -> bytes:
    """The response to a request, as a message."""
    try:
        operation = request.operation
        handler = _OPERATIONS.get(operation)
        if handler is None:
            raise NotImplementedByEmulator(f"The operation '{operation}' is not known.")
        if request.body is not None and not isinstance(request.body, dict):
            raise ArgumentError("The body of a request must be a map.")
        reply = handler(queue, request.body or {}, now)
        return write_response(
            {
                "statusCode": Int(reply.status),
                "statusDescription": "OK" if reply.status == 200 else "No content.",
            },
            reply.body,
            request.message_id,
            request.reply_to,
        )
    except ServiceBusError as error:
        return refuse(request, error)


def refuse(request: Request, error: ServiceBusError) -> bytes:
    """The response that says no."""
    return write_response(
        {
            "statusCode": Int(error.status),
            "statusDescription": str(error),
            "errorCondition": Symbol(error.condition),
        },
        {},
        request.message_id,
        request.reply_to,
    )


# --- arguments -----------------------------------------------------------------------------------


def _whole(body: Body, key: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"'{key}' must be a number.")
    return int(value)


def _text(body: Body, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise ArgumentError(f"'{key}' must be a string.")
    return value


def _optional_text(body: Body, key: str) -> str | None:
    value = body.get(key)
    return value if isinstance(value, str) else None


def _wholes(body: Body, key: str) -> list[int]:
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise ArgumentError(f"'{key}' must be an array of numbers.")
    return [int(item) for item in value]


def _tokens(body: Body) -> list[UUID]:
    value = body.get("lock-tokens")
    if not isinstance(value, list):
        raise ArgumentError("'lock-tokens' must be an array of UUIDs.")
    try:
        return [item if isinstance(item, UUID) else UUID(str(item)) for item in value]
    except ValueError:
        raise ArgumentError("'lock-tokens' must be an array of UUIDs.") from None


def _milliseconds(seconds: float) -> Timestamp:
    return Timestamp(int(seconds * 1000))


# --- operations ----------------------------------------------------------------------------------


def _renew_lock(queue: Queue, body: Body, now: float) -> Reply:
    until = [_milliseconds(queue.renew(token, now)) for token in _tokens(body)]
    return Reply({"expirations": Array(until, Timestamp)})


def _renew_session_lock(queue: Queue, body: Body, now: float) -> Reply:
    lock = queue.session_lock(_text(body, "session-id"), now)
    return Reply({"expiration": _milliseconds(queue.renew_session(lock, now))})


def _peek(queue: Queue, body: Body, now: float) -> Reply:
    count = _whole(body, "message-count")
    check_peek(count)
    found = queue.peek(
        _whole(body, "from-sequence-number"),
        count,
        now,
        session_id=_optional_text(body, "session-id"),
    )
    if not found:
        return Reply({}, 204)
    return Reply({"messages": [_peeked(message) for message in found]})


def _peeked(message: Message) -> Body:
    until = message.lock.until if message.lock else None
    return {"message": write_message(message, None, until)}


def _receive_by_number(queue: Queue, body: Body, now: float) -> Reply:
    session_id = _optional_text(body, "session-id")
    deliveries = queue.receive_deferred(
        _wholes(body, "sequence-numbers"),
        now,
        lock=_whole(body, "receiver-settle-mode") == 1,
        session=queue.session_lock(session_id, now) if session_id is not None else None,
    )
    return Reply({"messages": [_received(delivery) for delivery in deliveries]})


def _received(delivery: Delivery) -> Body:
    lock = delivery.lock
    if lock is None:
        return {"message": write_message(delivery.message, None, None)}
    return {
        "lock-token": lock.token,
        "message": write_message(delivery.message, lock.token, lock.until),
    }


def _schedule(queue: Queue, body: Body, now: float) -> Reply:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise ArgumentError("'messages' must be a list of messages.")
    drafts: list[Draft] = []
    for item in given:
        raw = item.get("message") if isinstance(item, dict) else None
        if not isinstance(raw, bytes):
            raise ArgumentError("'message' must be binary.")
        try:
            drafts.append(read_message(raw))
        except DecodeError as error:
            raise ArgumentError(f"'message' is no message: {error}.") from None
    numbers = queue.send_all(drafts, now)
    return Reply({"sequence-numbers": Array([Long(n) for n in numbers], Long)})


def _cancel_scheduled(queue: Queue, body: Body, now: float) -> Reply:
    queue.cancel_scheduled(_wholes(body, "sequence-numbers"), now)
    return Reply({})


def _update_disposition(queue: Queue, body: Body, now: float) -> Reply:
    status = _text(body, "disposition-status")
    changed = body.get("properties-to-modify")
    properties = (
        {str(key): value for key, value in changed.items()} if isinstance(changed, dict) else None
    )
    for token in _tokens(body):
        match status:
            case "completed":
                queue.complete(token, now)
            case "abandoned":
                queue.abandon(token, now, properties)
            case "defered":
                queue.defer(token, now, properties)
            case "suspended":
                queue.dead_letter(
                    token,
                    now,
                    reason=_optional_text(body, "deadletter-reason"),
                    description=_optional_text(body, "deadletter-description"),
                    properties=properties,
                )
            case _:
                raise ArgumentError(f"The disposition '{status}' is not known.")
    return Reply({})


def _get_session_state(queue: Queue, body: Body, now: float) -> Reply:
    return Reply({"session-state": queue.session_state(_text(body, "session-id"))})


def _set_session_state(queue: Queue, body: Body, now: float) -> Reply:
    session_id, state = _text(body, "session-id"), body.get("session-state")
    if state is not None and not isinstance(state, bytes):
        raise ArgumentError("'session-state' must be binary.")
    queue.session_lock(session_id, now)
    queue.set_session_state(session_id, state, now)
    return Reply({})


def _sessions(queue: Queue, body: Body, now: float) -> Reply:
    since, skip, top = (_whole(body, key) for key in ("last-updated-time", "skip", "top"))
    if skip < 0 or top < 0:
        raise ArgumentError("'skip' and 'top' must not be negative.")
    found = queue.session_ids(None if since >= NEVER_UPDATED else since / 1000)
    page = found[skip : skip + top]
    if not page:
        return Reply({}, 204)
    return Reply({"skip": Int(skip + len(page)), "sessions-ids": Array(page, str)})


def _rules(operation: Callable[[Queue, Body, float], Body | None]) -> Operation:
    def handle(queue: Queue, body: Body, now: float) -> Reply:
        found = operation(queue, body, now)
        return Reply({}, 204) if found is None else Reply(found)

    return handle


_OPERATIONS: dict[str, Operation] = {
    "renew-lock": _renew_lock,
    "renew-session-lock": _renew_session_lock,
    "peek-message": _peek,
    "receive-by-sequence-number": _receive_by_number,
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel_scheduled,
    "update-disposition": _update_disposition,
    "get-session-state": _get_session_state,
    "set-session-state": _set_session_state,
    "get-message-sessions": _sessions,
    "add-rule": _rules(add_rule),
    "remove-rule": _rules(remove_rule),
    "enumerate-rules": _rules(enumerate_rules),
}
