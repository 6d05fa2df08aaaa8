"""All connections of one namespace: what their links ask for, and who is served next.

A :class:`Peer` is one connection; its links are served by what stands in ``link.context``:

=============== ======================================= =======================================
context         the peer's link                         what it does
=============== ======================================= =======================================
Producer        sends to an entity                      its messages go into the queue
Consumer        receives from an entity                 gets messages while it has credit
Acceptor        receives, for the next free session     waits; becomes a Consumer or is refused
Requests        sends to ``$cbs`` or ``$management``    each message is answered
Replies         receives from one of these              carries the answers
=============== ======================================= =======================================

Consumers of one queue take turns, message by message. After every input, :meth:`Hub.settle_up`
hands out what has become receivable, and :meth:`Hub.take_dirty` names the peers that have bytes
to be written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from servicebus_emulator.amqp.codec import DecodeError
from servicebus_emulator.amqp.connection import (
    Closed,
    Connection,
    CreditChanged,
    Event,
    Limits,
    Link,
    LinkClosed,
    LinkRequested,
    LinkState,
    MessageReceived,
    Opened,
    Settlement,
    WindowOpened,
)
from servicebus_emulator.amqp.performatives import (
    Accepted,
    Coordinator,
    Error,
    Modified,
    Rejected,
    Released,
    Source,
    Target,
)
from servicebus_emulator.amqp.types import Described, Int, Long, Symbol
from servicebus_emulator.broker.model import SessionLock
from servicebus_emulator.broker.namespace import Namespace, url_path
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.errors import (
    ArgumentError,
    EntityNotFound,
    NotAllowed,
    NotImplementedByEmulator,
    OperationTimeout,
    ServiceBusError,
    SessionLockLost,
    Unauthorized,
)
from servicebus_emulator.gateway.faults import Faults
from servicebus_emulator.gateway.management import SENDING, answer, refuse
from servicebus_emulator.gateway.message import (
    BATCH_FORMAT,
    Request,
    read_batch,
    read_message,
    read_request,
    write_message,
    write_response,
)
from servicebus_emulator.gateway.tokens import AcceptAll, Grant, Policy

SESSION_FILTER = "com.microsoft:session-filter"
LOCKED_UNTIL = "com.microsoft:locked-until-utc"
TIMEOUT = "com.microsoft:timeout"
TICKS_AT_1970 = 621_355_968_000_000_000
"""Since the year 1, in steps of 100 ns: how .NET counts."""

SESSION_WAIT = 60.0
"""How long a receiver waits for the next free session where it does not say so itself."""


LOST_NOTICE = 1.0
"""Seconds after its session was lost that an idle receiver's link is detached.

The session is free at once, and settling fails at once. The notice is late as Azure's is: Azure's
own tests idle exactly as long as the lock lasts, and close without an error then.
"""

OUTPUT_AT_ONCE = 1 << 20
"""Bytes of messages that one connection may have waiting before they are written."""

REPLIES_WAITING = 4 << 20
"""Bytes of answers that wait for a client that asks and does not take them; one always may."""

MAX_CONNECTIONS = 5_000
"""Azure's quota of a namespace."""


@dataclass(slots=True, eq=False)
class Producer:
    """A link over which an entity is sent messages."""

    queue: Queue


@dataclass(slots=True, eq=False)
class Consumer:
    """A link over which an entity's messages are received."""

    peer: Peer
    link: Link
    queue: Queue
    session: SessionLock | None = None

    def may_send(self) -> bool:
        """A message may be sent now: the link has credit and the peer keeps up."""
        return self.link.ready and self.peer.keeps_up()


@dataclass(slots=True, eq=False)
class Acceptor:
    """A link that waits for a free session."""

    peer: Peer
    link: Link
    queue: Queue
    deadline: float


@dataclass(slots=True, eq=False)
class Requests:
    """A link over which requests come in; ``queue`` is None for ``$cbs``."""

    node: str
    queue: Queue | None


@dataclass(slots=True, eq=False)
class Replies:
    """A link over which answers go out; those that wait for credit are kept."""

    node: str
    waiting: deque[bytes] = field(default_factory=deque)


class Hub:
    """The connections of one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        *,
        policy: Policy | None = None,
        limits: Limits | None = None,
        container_id: str = "servicebus-emulator",
    ) -> None:
        self.namespace = namespace
        self.policy = policy or AcceptAll()
        self.limits = limits or Limits(max_message_size=namespace.max_message_size)
        self.faults = Faults()
        self.peers: dict[Peer, None] = {}
        self._silent: dict[Peer, float] = {}
        self._container_id = container_id
        self._consumers: dict[Queue, deque[Consumer]] = {}
        self._acceptors: list[Acceptor] = []
        self._notices: deque[tuple[float, Queue, SessionLock]] = deque()
        self._dirty: dict[Peer, None] = {}

    def connect(self) -> Peer:
        """A new connection."""
        peer = Peer(self, Connection(self._container_id, self.limits))
        self.peers[peer] = None
        return peer

    def next_due(self) -> float | None:
        """When :meth:`advance` has something to do next."""
        due = self.namespace.next_due()
        for acceptor in self._acceptors:
            if due is None or acceptor.deadline < due:
                due = acceptor.deadline
        if self._notices and (due is None or self._notices[0][0] < due):
            due = self._notices[0][0]
        for until in self._silent.values():
            if due is None or until < due:
                due = until
        return due

    def due_not_before(self) -> float:
        """What :meth:`next_due` returns at the earliest: known at once, and seldom too early."""
        due = self.namespace.due_not_before()
        if self._acceptors or self._notices or self._silent:
            due = min(
                due,
                *(acceptor.deadline for acceptor in self._acceptors),
                *(at for at, _, _ in self._notices),
                *self._silent.values(),
            )
        return due

    def advance(self, now: float, most: int | None = None) -> None:
        """Do what is due: all of it, or so many of the queues' things."""
        self.namespace.advance(now, most)
        for acceptor in [a for a in self._acceptors if a.deadline <= now]:
            self._acceptors.remove(acceptor)
            error = OperationTimeout("No session became available in time.")
            acceptor.peer.connection.refuse(acceptor.link, _error(error))
            self._dirty[acceptor.peer] = None
        while self._notices and self._notices[0][0] <= now:
            _, queue, lock = self._notices.popleft()
            self._tell_lost(queue, lock)
        for peer in [peer for peer, until in self._silent.items() if until <= now]:
            del self._silent[peer]
            peer.is_silent = False
            self._dirty[peer] = None
        self.settle_up(now)

    def settle_up(self, now: float) -> None:
        """Hand out what has become receivable, and tell receivers what they have lost."""
        namespace = self.namespace
        while True:
            if namespace.lost_sessions or namespace.deleted_queues:
                self._tell_ended(now)
            if not namespace.touched_queues:
                return
            for queue in namespace.take_touched():
                self.pump(queue, now)

    def _tell_ended(self, now: float) -> None:
        for queue, lock in self.namespace.take_lost_sessions():
            self._notices.append((now + LOST_NOTICE, queue, lock))
        for queue in self.namespace.take_deleted():
            gone = EntityNotFound(f"The messaging entity '{queue.name}' has been deleted.")
            self._detach(queue, gone, lambda c: True)
            self._consumers.pop(queue, None)
            for acceptor in [a for a in self._acceptors if a.queue is queue]:
                self._acceptors.remove(acceptor)
                acceptor.peer.connection.refuse(acceptor.link, _error(gone))
                self._dirty[acceptor.peer] = None

    def pump(self, queue: Queue, now: float) -> None:
        """Serve the consumers of a queue in turn."""
        consumers = self._consumers.get(queue)
        if consumers is None and not self._acceptors:
            return
        if not (queue.parent or queue).settings.status.receives:
            return
        if queue.settings.requires_session:
            for consumer in list(consumers or ()):
                while consumer.may_send() and self._deliver(consumer, now):
                    pass
            self._serve_acceptors(queue, now)
            return
        if not consumers or not queue.has_ready():
            return
        idle = 0
        while idle < len(consumers):
            consumer = consumers[0]
            if not consumer.may_send():
                idle += 1
            elif self._deliver(consumer, now):
                idle = 0
            else:
                return
            consumers.rotate(-1)

    def _deliver(self, consumer: Consumer, now: float) -> bool:
        queue, link = consumer.queue, consumer.link
        if consumer.session is not None and consumer.session.lost:
            return False
        if link.sends_settled:
            delivery = queue.receive_and_delete(now, consumer.session)
        else:
            delivery = queue.receive(now, consumer.session)
        if delivery is None:
            return False
        lock = delivery.lock
        if lock is None:
            token = self.namespace.new_token()
            payload = write_message(delivery.message, None, None)
        else:
            token = lock.token
            payload = write_message(delivery.message, token, lock.until)
        consumer.peer.connection.send(link, token.bytes_le, payload, token)
        self._dirty[consumer.peer] = None
        return True

    def take_dirty(self) -> list[Peer]:
        """The peers with bytes to be written, once."""
        if not self._dirty:
            return []
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty

    def mark(self, peer: Peer) -> None:
        """The peer may have bytes to be written."""
        self._dirty[peer] = None

    # --- faults ----------------------------------------------------------------------------------

    def silence(self, peer: Peer, until: float) -> None:
        """Nothing is written to a peer for a while."""
        peer.is_silent = True
        self._silent[peer] = max(until, self._silent.get(peer, until))

    def drop(self, peer: Peer) -> None:
        """Cut a peer's connection; what was to be written is not."""
        peer.is_dropped = True
        self._dirty[peer] = None

    def forget(self, peer: Peer) -> None:
        """A peer is gone."""
        self.peers.pop(peer, None)
        self._silent.pop(peer, None)

    # --- consumers -------------------------------------------------------------------------------

    def join(self, consumer: Consumer) -> None:
        """A consumer wants messages."""
        self._consumers.setdefault(consumer.queue, deque()).append(consumer)

    def leave(self, consumer: Consumer, now: float) -> None:
        """A consumer is gone. Its messages stay locked; its session is free again."""
        consumers = self._consumers.get(consumer.queue)
        if consumers is not None and consumer in consumers:
            consumers.remove(consumer)
            if not consumers:
                del self._consumers[consumer.queue]
        if consumer.session is not None:
            consumer.queue.release_session(consumer.session, now)

    def await_session(self, acceptor: Acceptor, now: float) -> None:
        """A receiver wants the next free session."""
        self._acceptors.append(acceptor)
        self._serve_acceptors(acceptor.queue, now)

    def give_up(self, acceptor: Acceptor) -> None:
        """A receiver does not wait any longer."""
        if acceptor in self._acceptors:
            self._acceptors.remove(acceptor)

    def _serve_acceptors(self, queue: Queue, now: float) -> None:
        for acceptor in [a for a in self._acceptors if a.queue is queue]:
            lock = queue.accept_session(None, now)
            if lock is None:
                return
            self._acceptors.remove(acceptor)
            acceptor.peer.open_session(acceptor.link, queue, lock, now)
            self._dirty[acceptor.peer] = None

    def _tell_lost(self, queue: Queue, lock: SessionLock) -> None:
        lost = SessionLockLost("The session lock has expired on the MessageSession.")
        self._detach(queue, lost, lambda consumer: consumer.session is lock)

    def _detach(
        self, queue: Queue, error: ServiceBusError, which: Callable[[Consumer], bool]
    ) -> None:
        for consumer in list(self._consumers.get(queue, ())):
            if which(consumer):
                self._consumers[queue].remove(consumer)
                consumer.peer.connection.detach(consumer.link, _error(error))
                self._dirty[consumer.peer] = None


class Peer:
    """One connection. ``held_back`` is set where messages wait for bytes to be written first.

    ``is_silent`` and ``is_dropped`` are faults: nothing may be written, or ever again.
    """

    def __init__(self, hub: Hub, connection: Connection) -> None:
        self.hub = hub
        self.connection = connection
        self.paused = False
        self.held_back = False
        self.closed = False
        self.is_silent = False
        self.is_dropped = False
        self._is_open = not hub.policy.demanded
        self._grants: dict[str, Grant] = {}
        self._unanswered: dict[Link, Replies] = {}

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the peer."""
        for event in self.connection.receive(data):
            if self.is_dropped:
                break
            self._handle(event, now)
        self.hub.settle_up(now)
        self.hub.mark(self)

    def fail(self, error: Error, now: float) -> None:
        """End the connection, saying why."""
        for event in self.connection.fail(error):
            self._handle(event, now)
        self.hub.settle_up(now)
        self.hub.mark(self)

    def lost(self, now: float) -> None:
        """The transport is gone."""
        for event in self.connection.lost():
            self._handle(event, now)
        self.hub.settle_up(now)

    def keeps_up(self) -> bool:
        """Messages may be handed to the connection."""
        if self.connection.pending >= OUTPUT_AT_ONCE:
            self.held_back = True
            return False
        return not self.paused

    def pause(self) -> None:
        """The transport's buffer is full: no messages for a while."""
        self.paused = True

    def resume(self, now: float) -> None:
        """The transport takes bytes again."""
        self.paused = self.held_back = False
        for queue, consumers in list(self.hub._consumers.items()):
            if any(consumer.peer is self for consumer in consumers):
                self.hub.pump(queue, now)
        for link, context in list(self._unanswered.items()):
            self._reply(link, context)
        self.hub.mark(self)

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case MessageReceived():
                self._on_message(event, now)
            case Settlement():
                self._on_settlement(event, now)
            case CreditChanged():
                self._on_credit(event.link, now)
            case LinkRequested():
                self._on_link(event.link, now)
            case LinkClosed():
                self._on_link_closed(event.link, now)
            case WindowOpened():
                for link in list(event.session.links.values()):
                    self._on_credit(link, now)
            case Closed():
                self.closed = True
                self.hub.forget(self)
            case Opened():
                if len(self.hub.peers) > MAX_CONNECTIONS:
                    self.fail(
                        Error(
                            "amqp:resource-limit-exceeded",
                            f"The namespace has {MAX_CONNECTIONS} connections, its limit.",
                        ),
                        now,
                    )

    # --- links -----------------------------------------------------------------------------------

    def _on_link(self, link: Link, now: float) -> None:
        try:
            if self._may("attach", _entity(link), link, now):
                self._open(link, now)
        except ServiceBusError as error:
            self.connection.refuse(link, _error(error))

    def _may(self, on: str, queue: str, link: Link, now: float, operation: str = "") -> bool:
        """Let a fault happen where one waits for this; False where the operation must not."""
        fault = self.hub.faults.strike(on, queue, operation) if self.hub.faults else None
        if fault is None:
            return True
        self.hub.namespace.record(now, "fault", queue, detail=f"{fault.on}: {fault.do}")
        match fault.do:
            case "delay":
                self.hub.silence(self, now + fault.seconds)
                return True
            case "drop":
                self.hub.drop(self)
                return fault.late
            case "detach":
                self.connection.detach(link, _error(fault.error()))
                return fault.late
        raise fault.error()

    def _open(self, link: Link, now: float) -> None:
        terminus = link.attach.source if link.peer_receives else link.attach.target
        if isinstance(terminus, Coordinator):
            raise NotImplementedByEmulator("The emulator has no transactions.")
        if terminus is None or not isinstance(terminus.address, str):
            raise NotImplementedByEmulator("A link needs the address of an entity.")
        path = entity_path(terminus.address)
        if path.lower() == "$cbs":
            self._open_node(link, "$cbs", None)
            return
        if not self._is_open and not self._grants:
            raise Unauthorized("Unauthorized access: no valid token was put to $cbs.")
        name, is_management = _split_management(path)
        queue = self.hub.namespace.resolve(name)
        if is_management:
            self._open_node(link, path.lower(), queue)
        elif link.peer_receives:
            self._demand("Listen", queue)
            self._open_receiver(link, queue, now)
        else:
            self._demand("Send", queue)
            self._open_sender(link, queue)

    def _open_node(self, link: Link, node: str, queue: Queue | None) -> None:
        link.context = Replies(node) if link.peer_receives else Requests(node, queue)
        self._accept(link, None)

    def _open_sender(self, link: Link, queue: Queue) -> None:
        queue.check_send()
        link.context = Producer(queue)
        self._accept(link, None, max_message_size=queue.max_message_size)

    def _open_receiver(self, link: Link, queue: Queue, now: float) -> None:
        queue.check_receive()
        wants_session, session_id = _session_filter(link.attach.source)
        if not wants_session:
            if queue.settings.requires_session:
                raise NotAllowed(
                    "It is not possible for an entity that requires sessions to create a "
                    "non-sessionful message receiver."
                )
            consumer = Consumer(self, link, queue)
            link.context = consumer
            self.hub.join(consumer)
            self._accept(link, None, now=now)
        elif session_id is not None:
            lock = queue.accept_session(session_id, now)
            assert lock is not None
            self.open_session(link, queue, lock, now)
        else:
            if not queue.settings.requires_session:
                raise NotAllowed(
                    "A sessionful message receiver cannot be created on an entity that does not "
                    "require sessions."
                )
            wait = (link.attach.properties or {}).get(TIMEOUT)
            patience = wait / 1000 if isinstance(wait, int) else SESSION_WAIT
            acceptor = Acceptor(self, link, queue, now + patience)
            link.context = acceptor
            self.hub.await_session(acceptor, now)

    def open_session(self, link: Link, queue: Queue, lock: SessionLock, now: float) -> None:
        """Answer a receiver with the session that it got."""
        consumer = Consumer(self, link, queue, lock)
        link.context = consumer
        self.hub.join(consumer)
        source = link.attach.source or Source()
        source.filter = {Symbol(SESSION_FILTER): _granted(source, lock.session_id)}
        self._accept(link, source, locked_until=lock.until, now=now)

    def _accept(
        self,
        link: Link,
        source: Source | None,
        *,
        locked_until: float | None = None,
        max_message_size: int | None = None,
        now: float = 0.0,
    ) -> None:
        properties: dict[object, object] = {}
        if locked_until is not None:
            properties[Symbol(LOCKED_UNTIL)] = Long(TICKS_AT_1970 + int(locked_until * 10_000_000))
        for event in self.connection.accept(
            link, source=source, properties=properties, max_message_size=max_message_size
        ):
            self._handle(event, now)

    def _on_credit(self, link: Link, now: float) -> None:
        context = link.context
        if isinstance(context, Consumer):
            self.hub.pump(context.queue, now)
        elif isinstance(context, Replies):
            self._reply(link, context)
        if link.drain:
            self.connection.drained(link)

    def _on_link_closed(self, link: Link, now: float) -> None:
        context = link.context
        if isinstance(context, Consumer):
            self.hub.leave(context, now)
        elif isinstance(context, Acceptor):
            self.hub.give_up(context)
        self._unanswered.pop(link, None)

    # --- messages --------------------------------------------------------------------------------

    def _on_message(self, event: MessageReceived, now: float) -> None:
        link, context = event.link, event.link.context
        outcome: object = _ACCEPTED
        try:
            if isinstance(context, Producer):
                if context.queue.deleted:
                    raise EntityNotFound(f"'{context.queue.name}' has been deleted.")
                if self.hub.faults.waiting and not self._may("send", context.queue.name, link, now):
                    return
                if event.message_format == BATCH_FORMAT:
                    context.queue.send_all(read_batch(event.payload), now)
                else:
                    context.queue.send(read_message(event.payload), now)
        except ServiceBusError as error:
            outcome = Rejected(_error(error))
        except DecodeError as error:
            outcome = Rejected(Error("amqp:decode-error", str(error)))
        if not event.settled:
            self.connection.settle_incoming(link, event.delivery_id, outcome)
        if isinstance(context, Requests):
            self._on_request(link, context, event.payload, now)

    def _on_settlement(self, event: Settlement, now: float) -> None:
        context = event.link.context
        outcome: object = event.state
        if isinstance(context, Consumer):
            try:
                if self.hub.faults.waiting and not self._may(
                    "settle", context.queue.name, event.link, now
                ):
                    return
                outcome = _settle(context.queue, event, now)
            except ServiceBusError as error:
                outcome = Rejected(_error(error))
        if not event.settled:
            self.connection.settle_outgoing(event.link, event.delivery_id, outcome)

    # --- requests --------------------------------------------------------------------------------

    def _on_request(self, link: Link, context: Requests, payload: bytes, now: float) -> None:
        try:
            request = read_request(payload)
        except DecodeError:
            return
        if context.queue is None:
            response = self._put_token(link, request, now)
        elif context.queue.deleted:
            return
        else:
            response = self._manage(link, context.queue, request, now)
        if response is None or self.is_dropped:
            return
        replies = self._replies(link, context.node, request.reply_to)
        if replies is not None:
            assert isinstance(replies.context, Replies)
            waiting = replies.context.waiting
            waiting.append(response)
            self._reply(replies, replies.context)
            if len(waiting) > 1 and sum(map(len, waiting)) > REPLIES_WAITING:
                self.connection.detach(
                    link,
                    Error(
                        "amqp:resource-limit-exceeded",
                        f"{len(waiting)} answers wait for credit on the link of the replies.",
                    ),
                )

    def _replies(self, link: Link, node: str, reply_to: str | None) -> Link | None:
        """The link for the answer: the one that ``reply_to`` names, else the session's own."""
        fitting = None
        for other in link.session.links.values():
            if isinstance(other.context, Replies) and other.context.node == node:
                target = other.attach.target
                if isinstance(target, Target) and target.address == reply_to:
                    return other
                fitting = other
        return fitting

    def _reply(self, link: Link, context: Replies) -> None:
        while context.waiting and link.ready and self.keeps_up():
            tag = link.delivery_count.to_bytes(4, "big")
            self.connection.send(link, tag, context.waiting[0])
            context.waiting.popleft()
        if context.waiting:
            self._unanswered[link] = context
        else:
            self._unanswered.pop(link, None)
        self.hub.mark(self)

    def _manage(self, link: Link, queue: Queue, request: Request, now: float) -> bytes | None:
        operation = request.operation
        try:
            self._demand("Send" if operation in SENDING else "Listen", queue)
            if not self._may("request", queue.name, link, now, operation):
                return None
        except ServiceBusError as error:
            return refuse(request, error)
        response = answer(queue, request, now)
        return response if link.state is LinkState.ATTACHED else None

    def _put_token(self, link: Link, request: Request, now: float) -> bytes | None:
        status, description = 202, "Accepted"
        if request.operation not in ("put-token", "delete-token"):
            status, description = 400, "The operation is not known."
        elif request.operation == "put-token":
            token = request.body
            try:
                if not self._may("token", "", link, now):
                    return None
                grant = self.hub.policy.check(token if isinstance(token, str) else "", now)
                self._grants[grant.resource] = grant
            except ServiceBusError as error:
                status, description = error.status, str(error)
        return write_response(
            {"status-code": Int(status), "status-description": description},
            None,
            request.message_id,
        )

    def _demand(self, right: str, queue: Queue) -> None:
        """Raise where no token that was put gives that right to an entity."""
        if not self._is_open and not any(
            grant.allows(right, queue.name) for grant in self._grants.values()
        ):
            raise Unauthorized(
                f"Unauthorized access. '{right}' claim(s) are required to perform this "
                f"operation. Resource: '{queue.name}'."
            )


_ACCEPTED = Accepted()


def _entity(link: Link) -> str:
    """The entity whose link this is, as far as it is named."""
    terminus = link.attach.source if link.peer_receives else link.attach.target
    address = terminus.address if isinstance(terminus, Source | Target) else None
    return _split_management(entity_path(address))[0] if isinstance(address, str) else ""


def entity_path(address: str) -> str:
    """The entity of an address, which may be a URL or a bare path."""
    return url_path(address).strip("/")


def _split_management(path: str) -> tuple[str, bool]:
    name, _, rest = path.rpartition("/")
    return (name, True) if rest.lower() == "$management" else (path, False)


def _session_filter(source: Source | None) -> tuple[bool, str | None]:
    """Whether a receiver wants a session, and which (None: the next free one)."""
    filters = source.filter if source is not None else None
    if not filters or SESSION_FILTER not in filters:
        return False, None
    wanted = filters[SESSION_FILTER]
    if isinstance(wanted, Described):
        wanted = wanted.value
    if wanted is not None and not isinstance(wanted, str):
        raise ArgumentError("The session id of the filter must be a string, or null.")
    return True, wanted


def _granted(source: Source, session_id: str) -> object:
    """The session of the answer, in the form of the question: clients read no other. The
    specification wants a described value; .NET's, Python's and JavaScript's ask by a bare one."""
    asked = (source.filter or {}).get(SESSION_FILTER)
    return Described(asked.descriptor, session_id) if isinstance(asked, Described) else session_id


def _settle(queue: Queue, event: Settlement, now: float) -> object:
    """Do what a receiver's outcome asks for; the outcome to be echoed."""
    token = event.key
    assert isinstance(token, UUID)
    if type(event.state) is Accepted:
        queue.complete(token, now)
        return event.state
    match event.state:
        case Released():
            queue.release(token, now)
        case Modified(undeliverable_here=True, message_annotations=changed):
            queue.defer(token, now, _properties(changed))
        case Modified(message_annotations=changed):
            queue.abandon(token, now, _properties(changed))
        case Rejected(error=error):
            info = _properties(error.info) if error is not None else None
            reason = (info or {}).pop("DeadLetterReason", None)
            description = (info or {}).pop("DeadLetterErrorDescription", None)
            queue.dead_letter(
                token,
                now,
                reason=reason if isinstance(reason, str) else None,
                description=description if isinstance(description, str) else None,
                properties=info,
            )
            return Rejected()
    return event.state


def _properties(changed: dict[object, object] | None) -> dict[str, object] | None:
    return {str(key): value for key, value in changed.items()} if changed else None


def _error(error: ServiceBusError) -> Error:
    return Error(error.condition, str(error))
