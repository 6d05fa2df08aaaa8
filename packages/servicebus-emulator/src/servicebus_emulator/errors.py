"""What can go wrong, each with the codes under which Azure's clients know it.

``condition`` is the AMQP error (a detach, a rejected transfer, a management response), ``status``
the HTTP status (the administration, and ``statusCode`` of a management response). A client picks
its exception by these two alone, so they are part of the rules and belong to the class.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceBusError(Exception):
    """A request that cannot be fulfilled; the connection it came over stays usable."""

    condition: str = "amqp:internal-error"
    status: int = 500


class EntityNotFound(ServiceBusError):
    """No queue of that name, or it has been deleted."""

    condition = "amqp:not-found"
    status = 404


class EntityExists(ServiceBusError):
    """A queue of that name is there already."""

    condition = "com.microsoft:entity-already-exists"
    status = 409


class EntityDisabled(ServiceBusError):
    """The queue's status forbids what was asked: sending, receiving, or both."""

    condition = "com.microsoft:entity-disabled"
    status = 403


class ArgumentError(ServiceBusError):
    """A value that Azure refuses."""

    condition = "com.microsoft:argument-error"
    status = 400


class NotAllowed(ServiceBusError):
    """The entity does not offer this, for example a plain receiver on a queue with sessions."""

    condition = "amqp:not-allowed"
    status = 400


class NotImplementedByEmulator(ServiceBusError):
    """Azure can do this and the emulator cannot (yet)."""

    condition = "amqp:not-implemented"
    status = 501


class Unauthorized(ServiceBusError):
    """The token is missing, expired, of another key or of another entity."""

    condition = "amqp:unauthorized-access"
    status = 401


class MessageLockLost(ServiceBusError):
    """The lock token is unknown: its lock expired, or the message has been settled."""

    condition = "com.microsoft:message-lock-lost"
    status = 410


class SessionLockLost(ServiceBusError):
    """The session's lock expired, or another receiver holds it now."""

    condition = "com.microsoft:session-lock-lost"
    status = 410


class SessionCannotBeLocked(ServiceBusError):
    """Another receiver holds the session."""

    condition = "com.microsoft:session-cannot-be-locked"
    status = 410


class MessageNotFound(ServiceBusError):
    """No message with that sequence number in the state that was asked for."""

    condition = "com.microsoft:message-not-found"
    status = 404


class MessageTooLarge(ServiceBusError):
    """The message exceeds what the namespace's tier or the queue allows."""

    condition = "amqp:link:message-size-exceeded"
    status = 403


class QuotaExceeded(ServiceBusError):
    """The queue is full."""

    condition = "amqp:resource-limit-exceeded"
    status = 403


class OperationTimeout(ServiceBusError):
    """Nothing came up in the time the client was willing to wait, such as a free session."""

    condition = "com.microsoft:timeout"
    status = 408


class StartupError(Exception):
    """The emulator cannot start: one line, what to do about it, exit code 2."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
