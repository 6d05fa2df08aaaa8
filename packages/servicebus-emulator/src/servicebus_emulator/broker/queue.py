"""One queue: what may happen to its messages, and when.

A message's life. "Locked" is a message in state ACTIVE that a receiver holds; a queue with
sessions locks the session, and its messages are held as long as the session is.

================ ============================= ==================================================
a message that   on                            becomes
================ ============================= ==================================================
is sent          send, time has come           active, at the end of the queue
is sent          send for later                scheduled; at its time active with a new number
is active        receive (peek-lock)           locked until now + lock duration
is active        receive (receive-and-delete)  gone
is active        its time to live ends         dead-lettered or gone, as the queue is set
is locked        complete                      gone
is locked        abandon, the lock expires     active at its old place, delivery count + 1; when
                                               that reaches the maximum: dead-lettered
is locked        release                       active at its old place
is locked        defer                         deferred: only its number finds it
is locked        dead-letter                   in the dead-letter queue
is locked        renew                         locked until now + lock duration
is deferred      receive by number             locked; expiry and abandon make it deferred again
================ ============================= ==================================================

The delivery count is the number of deliveries that failed: 0 when a message is first received.
A dead-letter queue is a queue whose messages neither expire nor are dead-lettered again.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Protocol
from uuid import UUID

from servicebus_emulator.broker.changes import Changes
from servicebus_emulator.broker.model import (
    ACTIVE,
    FOREVER,
    Counts,
    Delivery,
    Draft,
    Lock,
    Message,
    MessageState,
    QueueSettings,
    SessionLock,
    SessionRecord,
    Times,
)
from servicebus_emulator.errors import (
    ArgumentError,
    EntityDisabled,
    MessageLockLost,
    MessageNotFound,
    MessageTooLarge,
    NotAllowed,
    QuotaExceeded,
    SessionCannotBeLocked,
    SessionLockLost,
)

MAX_DELIVERY_REASON = "MaxDeliveryCountExceeded"
EXPIRED_REASON = "TTLExpiredException"
EXPIRED_DESCRIPTION = "The message expired and was dead lettered."


class Surroundings(Protocol):
    """What a queue needs of the namespace it is in."""

    max_message_size: int
    changes: Changes | None

    def new_token(self) -> UUID:
        """A lock token that was never used before."""

    def at(self, when: float, queue: Queue, kind: str, key: object) -> None:
        """Call ``queue.due(kind, key, now)`` when ``when`` has come."""

    def touched(self, queue: Queue) -> None:
        """There may be something to receive."""

    def session_lost(self, queue: Queue, lock: SessionLock) -> None:
        """A session lock expired: its receiver has to be told."""

    def record(
        self,
        at: float,
        kind: str,
        queue: str,
        sequence_number: int | None = None,
        message_id: str | None = None,
        delivery_count: int | None = None,
        detail: str | None = None,
    ) -> None:
        """Write into the journal."""

    def forward(self, source: Queue, target: str, message: Message, now: float) -> bool:
        """Move a message to another queue; False where that is impossible."""


class Queue:
    """A queue or a sub-queue. ``parent`` is the queue that a sub-queue belongs to."""

    def __init__(
        self,
        name: str,
        settings: QueueSettings,
        surroundings: Surroundings,
        now: float,
        *,
        parent: Queue | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.parent = parent
        self.times = Times(now, now, now)
        self.deleted = False
        self._around = surroundings
        self._changes = surroundings.changes
        self._record = surroundings.record
        self._messages: dict[int, Message] = {}
        self._last_number = 0
        self._size = 0
        self._locks: dict[UUID, Lock] = {}
        # Numbers of messages that may be received, lowest first, by session (None without).
        # A number stays in its heap when its message goes: it is dropped when it comes up.
        self._ready: dict[str | None, list[int]] = {}
        self._sessions: dict[str, SessionRecord] = {}
        self._seen: OrderedDict[str, float] = OrderedDict()
        self.dead_letters: Queue | None = None
        self.transfer_dead_letters: Queue | None = None

    # --- sending ---------------------------------------------------------------------------------

    def send(self, draft: Draft, now: float) -> int:
        """Take a message in; its sequence number (0 where it was a duplicate)."""
        self._check_send(draft)
        self.times.accessed_at = now
        if self.settings.requires_duplicate_detection and self._is_duplicate(draft, now):
            self._record(now, "duplicate-dropped", self.name, None, draft.message_id)
            return 0
        return self._admit(draft, now)

    def send_all(self, drafts: list[Draft], now: float) -> list[int]:
        """A batch: all of it, or nothing."""
        for draft in drafts:
            self._check_send(draft)
        return [self.send(draft, now) for draft in drafts]

    def check_send(self) -> None:
        """Raise where nothing may be sent here, or not now."""
        if self.parent is not None:
            raise NotAllowed(f"Messages cannot be sent to '{self.name}'.")
        if not self.settings.status.sends:
            raise EntityDisabled(f"Messaging entity '{self.name}' is currently disabled.")

    @property
    def max_message_size(self) -> int:
        """In bytes: the queue's own limit, or the tier's."""
        own = self.settings.max_message_size_in_kilobytes
        return self._around.max_message_size if own is None else own << 10

    def _check_send(self, draft: Draft) -> None:
        self.check_send()
        limit = self.max_message_size
        if draft.size > limit:
            raise MessageTooLarge(
                f"The received message (size {draft.size}) exceeds the limit ({limit}) of the link."
            )
        if self.size + draft.size > self.settings.max_size_in_megabytes << 20:
            raise QuotaExceeded(f"The entity '{self.name}' has reached its maximum size.")
        if self.settings.requires_session and draft.session_id is None:
            raise NotAllowed(
                "The SessionId was not set on a message, and it cannot be sent to the entity. "
                "Entities that have session support enabled can only receive messages that have "
                "the SessionId set to a valid value."
            )

    def _is_duplicate(self, draft: Draft, now: float) -> bool:
        if draft.message_id is None:
            return False
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            if seen[oldest] > now:
                break
            del seen[oldest]
            if self._changes is not None:
                self._changes.seen[self, oldest] = None
        if draft.message_id in seen:
            return True
        seen[draft.message_id] = now + self.settings.duplicate_detection_window
        if self._changes is not None:
            self._changes.seen[self, draft.message_id] = seen[draft.message_id]
        return False

    def _admit(self, draft: Draft, now: float) -> int:
        message = Message(  # by place, for naming them takes as long again
            self._next_number(),
            draft.content,
            draft.size,
            draft.message_id,
            draft.session_id,
            now,
            None,
            draft.time_to_live,
        )
        self._keep(message)
        if draft.scheduled_for is not None and draft.scheduled_for > now:
            message.state = MessageState.SCHEDULED
            message.scheduled_for = draft.scheduled_for
            self._around.at(draft.scheduled_for, self, "scheduled", message.sequence_number)
            self._note(now, "scheduled", message)
        else:
            self._enqueue(message, now)
        return message.sequence_number

    def _keep(self, message: Message) -> None:
        self._messages[message.sequence_number] = message
        self._size += message.size
        if self._changes is not None:
            self._changes.message(self, message.sequence_number, new=True)

    def _enqueue(self, message: Message, now: float) -> None:
        """Let a message in state ACTIVE begin its time in the queue."""
        message.enqueued_at = now
        ttl = self.settings.default_time_to_live
        if message.time_to_live is not None:
            ttl = min(ttl, message.time_to_live)
        if ttl < FOREVER and self.parent is None:
            message.expires_at = now + ttl
            self._around.at(message.expires_at, self, "ttl", message.sequence_number)
        self._note(now, "enqueued", message)
        target = self.settings.forward_to
        if target is not None and self._around.forward(self, target, message, now):
            self._drop(message)
            return
        self._offer(message)

    def take_in(self, message: Message, now: float, *, renumber: bool) -> None:
        """Receive a message that moved here from another queue."""
        if renumber or message.sequence_number in self._messages:
            if message.enqueued_sequence_number is None:  # else that of the first entity stays
                message.enqueued_sequence_number = message.sequence_number
            message.sequence_number = self._next_number()
        message.lock = None
        message.state = ACTIVE
        message.expires_at = None
        self._keep(message)
        if self.parent is None:
            self._enqueue(message, now)
        else:
            self._offer(message)

    def cancel_scheduled(self, numbers: Iterable[int], now: float) -> None:
        """Take back messages whose time has not come."""
        found = []
        for number in numbers:
            message = self._messages.get(number)
            if message is None or message.state is not MessageState.SCHEDULED:
                raise MessageNotFound(f"There is no scheduled message {number} in '{self.name}'.")
            found.append(message)
        for message in found:
            self._drop(message)
            self._note(now, "cancelled", message)

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    # --- receiving -------------------------------------------------------------------------------

    def check_receive(self) -> None:
        """Raise where the status forbids receiving."""
        owner = self.parent or self
        if not owner.settings.status.receives:
            raise EntityDisabled(f"Messaging entity '{self.name}' is currently disabled.")

    def has_ready(self, session_id: str | None = None) -> bool:
        """Something could be received at once."""
        return self._first_ready(session_id) is not None

    def receive(self, now: float, session: SessionLock | None = None) -> Delivery | None:
        """Lock the next message, of ``session`` where the queue has sessions."""
        message = self._take(now, session)
        if message is None:
            return None
        lock = self._lock(message, now, session)
        self._note(now, "redelivered" if message.delivery_count else "delivered", message)
        return Delivery(message, lock)

    def receive_and_delete(self, now: float, session: SessionLock | None = None) -> Delivery | None:
        """Take the next message out of the queue."""
        message = self._take(now, session)
        if message is None:
            return None
        self._drop(message)
        self._note(now, "received-and-deleted", message)
        return Delivery(message, None)

    def receive_deferred(
        self,
        numbers: Iterable[int],
        now: float,
        *,
        lock: bool,
        session: SessionLock | None = None,
    ) -> list[Delivery]:
        """Deferred messages by their numbers: all of them, or none."""
        self.check_receive()
        self.times.accessed_at = now
        found = []
        for number in numbers:
            message = self._messages.get(number)
            if (
                message is None
                or message.state is not MessageState.DEFERRED
                or message.lock is not None
            ):
                raise MessageNotFound(f"The message with sequence number {number} was not found.")
            found.append(message)
        deliveries = []
        for message in found:
            if lock:
                deliveries.append(Delivery(message, self._lock(message, now, session)))
                self._note(now, "delivered", message)
            else:
                self._drop(message)
                self._note(now, "received-and-deleted", message)
                deliveries.append(Delivery(message, None))
        return deliveries

    def peek(
        self, number: int, count: int, now: float, *, session_id: str | None = None
    ) -> list[Message]:
        """Messages from ``number`` on, in order, without touching them."""
        self.check_receive()
        fitting = (
            key
            for key, message in self._messages.items()
            if key >= number
            and (session_id is None or message.session_id == session_id)
            and (message.expires_at is None or message.expires_at > now)
        )
        return [self._messages[key] for key in heapq.nsmallest(count, fitting)]

    def _first_ready(self, session_id: str | None) -> Message | None:
        heap = self._ready.get(session_id)
        while heap:
            message = self._messages.get(heap[0])
            if message is not None and message.lock is None and message.state is ACTIVE:
                return message
            heapq.heappop(heap)
        if heap is not None and session_id is not None:
            del self._ready[session_id]
        return None

    def _take(self, now: float, session: SessionLock | None) -> Message | None:
        if session is not None and session.lost:
            raise SessionLockLost(f"The lock of session '{session.session_id}' is lost.")
        key = session.session_id if session is not None else None
        while True:
            message = self._first_ready(key)
            if message is None:
                return None
            heapq.heappop(self._ready[key])
            if message.expires_at is not None and message.expires_at <= now:
                self._expire(message, now)
                continue
            self.times.accessed_at = now
            return message

    def _lock(self, message: Message, now: float, session: SessionLock | None) -> Lock:
        until = session.until if session is not None else now + self.settings.lock_duration
        lock = Lock(self._around.new_token(), message, until, session)
        message.lock = lock
        self._locks[lock.token] = lock
        if session is None:
            self._around.at(until, self, "lock", lock.token)
        if self._changes is not None:
            self._changes.message(self, message.sequence_number)
        return lock

    def _offer(self, message: Message) -> None:
        """Put an active, unlocked message where a receiver finds it."""
        key = message.session_id if self.settings.requires_session else None
        heap = self._ready.get(key)
        if heap is None:
            heap = self._ready[key] = []
        heapq.heappush(heap, message.sequence_number)
        if key is not None and key not in self._sessions:
            self._sessions[key] = SessionRecord(key)
        self._around.touched(self)

    # --- settling --------------------------------------------------------------------------------

    def _held(self, token: UUID, now: float) -> Lock:
        lock = self._locks.get(token)
        if lock is None:
            raise MessageLockLost(
                "The lock supplied is invalid. Either the lock expired, or the message has "
                "already been removed from the queue."
            )
        if lock.session is not None:
            if lock.session.lost or lock.session.until <= now:
                raise SessionLockLost(f"The lock of session '{lock.session.session_id}' is lost.")
        elif lock.until <= now:
            self._lock_expired(lock, now)
            raise MessageLockLost("The lock supplied is invalid: it has expired.")
        return lock

    def _unlock(self, lock: Lock) -> Message:
        del self._locks[lock.token]
        lock.message.lock = None
        if self._changes is not None:  # and what its holder makes of it
            self._changes.message(self, lock.message.sequence_number)
        return lock.message

    def complete(self, token: UUID, now: float) -> None:
        """The message is done."""
        message = self._unlock(self._held(token, now))
        self._drop(message)
        self._note(now, "completed", message)

    def abandon(self, token: UUID, now: float, properties: dict[str, object] | None = None) -> None:
        """The receiver failed: back to the queue, or to the dead letters when it was too often."""
        message = self._unlock(self._held(token, now))
        self._change(message, properties)
        self._note(now, "abandoned", message)
        self._failed(message, now)

    def release(self, token: UUID, now: float) -> None:
        """The receiver did not look at it: back to the queue as it was."""
        message = self._unlock(self._held(token, now))
        self._note(now, "released", message)
        self._back(message)

    def defer(self, token: UUID, now: float, properties: dict[str, object] | None = None) -> None:
        """Set aside: only its sequence number finds it."""
        message = self._unlock(self._held(token, now))
        self._change(message, properties)
        message.state = MessageState.DEFERRED
        self._note(now, "deferred", message)

    def dead_letter(
        self,
        token: UUID,
        now: float,
        *,
        reason: str | None = None,
        description: str | None = None,
        properties: dict[str, object] | None = None,
    ) -> None:
        """Move to the dead-letter queue."""
        message = self._unlock(self._held(token, now))
        self._change(message, properties)
        self._to_dead_letters(message, now, reason, description)

    def renew(self, token: UUID, now: float) -> float:
        """Hold a message for another lock duration; until when."""
        lock = self._held(token, now)
        if lock.session is not None:
            return lock.session.until
        lock.until = now + self.settings.lock_duration
        if self._changes is not None:
            self._changes.message(self, lock.message.sequence_number)
        self._note(now, "renewed", lock.message)
        return lock.until

    def _change(self, message: Message, properties: dict[str, object] | None) -> None:
        if properties:
            message.properties = {**(message.properties or {}), **properties}

    def _failed(self, message: Message, now: float) -> None:
        message.delivery_count += 1
        if self.parent is None and message.delivery_count >= self.settings.max_delivery_count:
            self._to_dead_letters(
                message,
                now,
                MAX_DELIVERY_REASON,
                f"Message could not be consumed after {self.settings.max_delivery_count} "
                "delivery attempts.",
            )
        else:
            self._back(message)

    def _back(self, message: Message) -> None:
        if message.state is ACTIVE:
            self._offer(message)

    def _to_dead_letters(
        self, message: Message, now: float, reason: str | None, description: str | None
    ) -> None:
        if self.dead_letters is None:  # it is a dead letter already
            self._back(message)
            raise NotAllowed("A message in a dead-letter queue cannot be dead-lettered.")
        given: dict[str, object] = {}
        if reason is not None:
            given["DeadLetterReason"] = reason
        if description is not None:
            given["DeadLetterErrorDescription"] = description
        self._change(message, given)
        self._drop(message)
        self._record(
            now,
            "dead-lettered",
            self.name,
            message.sequence_number,
            message.message_id,
            message.delivery_count,
            reason,
        )
        target = self.settings.forward_dead_lettered_messages_to
        message.dead_letter_source = self.name
        if target is not None and self._around.forward(self, target, message, now):
            return
        message.dead_letter_source = None
        self.dead_letters.take_in(message, now, renumber=False)

    def _drop(self, message: Message) -> None:
        if self._messages.pop(message.sequence_number, None) is not None:
            self._size -= message.size
            if self._changes is not None:
                self._changes.message(self, message.sequence_number)

    # --- sessions --------------------------------------------------------------------------------

    def accept_session(self, session_id: str | None, now: float) -> SessionLock | None:
        """Lock a session: that one, or the next free one that has messages (None: none is)."""
        self.check_receive()
        if not self.settings.requires_session:
            raise NotAllowed(
                f"A session cannot be accepted: the entity '{self.name}' has no sessions."
            )
        if session_id is None:
            for key in list(self._ready):
                if key is not None and self.has_ready(key) and self._free(key, now):
                    session_id = key
                    break
            else:
                return None
        elif not self._free(session_id, now):
            raise SessionCannotBeLocked(
                f"The requested session '{session_id}' cannot be accepted. "
                "It may be locked by another receiver."
            )
        record = self._sessions.setdefault(session_id, SessionRecord(session_id))
        record.lock = SessionLock(session_id, now + self.settings.lock_duration)
        self.times.accessed_at = now
        self._around.at(record.lock.until, self, "session", record.lock)
        self._record(now, "session-accepted", self.name, detail=session_id)
        return record.lock

    def _free(self, session_id: str, now: float) -> bool:
        record = self._sessions.get(session_id)
        if record is None or record.lock is None:
            return True
        if record.lock.until <= now:
            self._session_expired(record.lock, now)
            return True
        return False

    def renew_session(self, lock: SessionLock, now: float) -> float:
        """Hold a session for another lock duration; until when."""
        self._check_session(lock, now)
        lock.until = now + self.settings.lock_duration
        for held in self._locks.values():
            if held.session is lock:
                held.until = lock.until
        self._record(now, "session-renewed", self.name, detail=lock.session_id)
        return lock.until

    def session_lock(self, session_id: str, now: float) -> SessionLock:
        """The lock that is on a session now."""
        record = self._sessions.get(session_id)
        if record is None or record.lock is None or record.lock.until <= now:
            raise SessionLockLost(f"The session '{session_id}' is not locked.")
        return record.lock

    def release_session(self, lock: SessionLock, now: float) -> None:
        """Give a session back; what was received and not settled returns uncounted."""
        if lock.lost:
            return
        self._end_session(lock, now, failed=False)
        self._record(now, "session-released", self.name, detail=lock.session_id)

    def _check_session(self, lock: SessionLock, now: float) -> None:
        if lock.lost or lock.until <= now:
            raise SessionLockLost(f"The lock of session '{lock.session_id}' is lost.")

    def _session_expired(self, lock: SessionLock, now: float) -> None:
        self._record(now, "session-lock-expired", self.name, detail=lock.session_id)
        self._end_session(lock, now, failed=True)
        self._around.session_lost(self, lock)

    def _end_session(self, lock: SessionLock, now: float, *, failed: bool) -> None:
        lock.lost = True
        record = self._sessions[lock.session_id]
        record.lock = None
        for held in [held for held in self._locks.values() if held.session is lock]:
            message = self._unlock(held)
            if failed:
                self._failed(message, now)
            else:
                self._back(message)
        if record.state is None and not any(
            message.session_id == lock.session_id for message in self._messages.values()
        ):
            del self._sessions[lock.session_id]
        self._around.touched(self)

    def session_state(self, session_id: str) -> bytes | None:
        """What was stored with a session."""
        record = self._sessions.get(session_id)
        return record.state if record else None

    def set_session_state(self, session_id: str, state: bytes | None, now: float) -> None:
        """Store something with a session; None clears it."""
        record = self._sessions.setdefault(session_id, SessionRecord(session_id))
        record.state = state
        record.updated_at = now
        if self._changes is not None:
            self._changes.sessions[self, session_id] = None

    def session_ids(self, updated_after: float | None = None) -> list[str]:
        """Sessions with messages; with a time: those whose state was set after it."""
        if updated_after is not None:
            return sorted(
                record.session_id
                for record in self._sessions.values()
                if record.state is not None and record.updated_at > updated_after
            )
        held = {m.session_id for m in self._messages.values() if m.session_id is not None}
        stated = {r.session_id for r in self._sessions.values() if r.state is not None}
        return sorted(held | stated)

    # --- time ------------------------------------------------------------------------------------

    def due(self, kind: str, key: object, now: float) -> float | None:
        """What :meth:`Surroundings.at` asked for; a later time where it has been put off."""
        if kind == "lock":
            assert isinstance(key, UUID)
            lock = self._locks.get(key)
            if lock is None:
                return None
            if lock.until > now:
                return lock.until
            self._lock_expired(lock, now)
        elif kind == "session":
            assert isinstance(key, SessionLock)
            if key.lost:
                return None
            if key.until > now:
                return key.until
            self._session_expired(key, now)
        elif isinstance(key, int):
            message = self._messages.get(key)
            if message is None:
                return None
            if kind == "scheduled" and message.state is MessageState.SCHEDULED:
                self._activate(message, now)
            elif kind == "ttl" and message.lock is None and message.state is ACTIVE:
                self._expire(message, now)
        return None

    def outdated(self, kind: str, key: object) -> bool:
        """What was asked for has become void."""
        if kind == "lock":
            return key not in self._locks
        if isinstance(key, SessionLock):
            return key.lost
        return key not in self._messages

    def _lock_expired(self, lock: Lock, now: float) -> None:
        message = self._unlock(lock)
        self._note(now, "lock-expired", message)
        if message.expires_at is not None and message.expires_at <= now:
            self._expire(message, now)
        else:
            self._failed(message, now)

    def _activate(self, message: Message, now: float) -> None:
        """A scheduled message's time has come: it is appended as if it were sent now."""
        self._drop(message)
        message.state = ACTIVE
        message.sequence_number = self._next_number()
        self._keep(message)
        self._enqueue(message, now)

    def _expire(self, message: Message, now: float) -> None:
        self._note(now, "expired", message)
        if self.settings.dead_lettering_on_message_expiration:
            self._to_dead_letters(message, now, EXPIRED_REASON, EXPIRED_DESCRIPTION)
        else:
            self._drop(message)

    # --- what is kept ----------------------------------------------------------------------------

    @property
    def last_number(self) -> int:
        """The latest sequence number; none is given twice."""
        return self._last_number

    def message(self, number: int) -> Message | None:
        """The message of that number."""
        return self._messages.get(number)

    def session(self, session_id: str) -> SessionRecord | None:
        """What is kept of a session."""
        return self._sessions.get(session_id)

    def restore(self, message: Message, token: UUID | None, until: float) -> None:
        """Put a message back as it was kept, held under ``token`` where there is one."""
        number = message.sequence_number
        self._messages[number] = message
        self._size += message.size
        if message.expires_at is not None:
            self._around.at(message.expires_at, self, "ttl", number)
        if token is not None:
            message.lock = self._locks[token] = Lock(token, message, until)
            self._around.at(until, self, "lock", token)
        elif message.state is ACTIVE:
            self._offer(message)
        elif message.scheduled_for is not None and message.state is MessageState.SCHEDULED:
            self._around.at(message.scheduled_for, self, "scheduled", number)

    def restore_queue(self, times: Times, last_number: int) -> None:
        """Take up the times and the numbering again."""
        self.times = times
        self._last_number = last_number

    def restore_session(self, session_id: str, state: bytes | None, updated_at: float) -> None:
        """Put back what was stored with a session."""
        self._sessions[session_id] = SessionRecord(session_id, state, None, updated_at)

    def restore_seen(self, message_id: str, until: float) -> None:
        """Know a message id again; the oldest first."""
        self._seen[message_id] = until

    # --- looking ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes that count for the quota."""
        return self._size

    @property
    def used_at(self) -> float:
        """When it was used last: from then on it is idle."""
        return self.times.accessed_at

    def counts(self) -> Counts:
        """How many messages of each sort; sub-queues are counted with their queue."""
        counts = Counts(size_in_bytes=self._size, total=len(self._messages))
        for message in self._messages.values():
            if message.state is MessageState.SCHEDULED:
                counts.scheduled += 1
            elif message.state is MessageState.DEFERRED:
                counts.deferred += 1
        counts.active = counts.total - counts.scheduled - counts.deferred
        counts.locked = len(self._locks)
        for sub, name in (
            (self.dead_letters, "dead_letter"),
            (self.transfer_dead_letters, "transfer_dead_letter"),
        ):
            if sub is not None:
                inside = sub.counts()
                setattr(counts, name, inside.total)
                counts.total += inside.total
                counts.size_in_bytes += inside.size_in_bytes
        return counts

    def locks(self) -> Iterator[Lock]:
        """The messages that are held now."""
        return iter(self._locks.values())

    def _note(self, now: float, kind: str, message: Message) -> None:
        number = message.sequence_number
        self._record(now, kind, self.name, number, message.message_id, message.delivery_count)


def check_peek(count: int) -> None:
    """Raise where a peek asks for less than one message."""
    if count < 1:
        raise ArgumentError("message-count must be at least 1.")
