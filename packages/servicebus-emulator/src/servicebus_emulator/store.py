"""Where the durable state is kept: one SQLite file with its write-ahead log.

The server writes what changed before it writes what tells anybody about it: nothing that a client
has seen acknowledged can be lost, and nothing that it completed comes back. One transaction, and
one wait for the disk, covers everything that came in meanwhile from all clients.

============ ======================================================================================
table        a row is
============ ======================================================================================
queues       a queue, topic, subscription or sub-queue (``settings`` empty), its times, its latest
             sequence number; a subscription's settings hold its rules
messages     what changes of a message, and its lock
bodies       what does not; written once
sessions     a session's state
seen         a message id that duplicate detection remembers
============ ======================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from pathlib import Path
from typing import Any
from uuid import UUID

from servicebus_emulator.broker.changes import Changes
from servicebus_emulator.broker.model import (
    AuthorizationRule,
    Message,
    MessageState,
    QueueSettings,
    Status,
    SubscriptionSettings,
    Times,
    TopicSettings,
)
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.topic import Subscription, Topic
from servicebus_emulator.errors import StartupError
from servicebus_emulator.gateway.message import (
    pack_content,
    pack_properties,
    unpack_content,
    unpack_properties,
)
from servicebus_emulator.gateway.rules import pack_rule, unpack_rule

VERSION = 1

_TABLES = """
create table queues (
    id integer primary key, name text not null, settings text,
    created real not null, updated real not null, accessed real not null,
    last_number integer not null
);
create table messages (
    queue integer not null, number integer not null, message_id text, session_id text,
    enqueued real not null, expires real, time_to_live real, state integer not null,
    scheduled real, delivery_count integer not null, properties blob,
    enqueued_number integer, source text, token blob, locked_until real,
    primary key (queue, number)
) without rowid;
create table bodies (
    queue integer not null, number integer not null, size integer not null, content blob not null,
    primary key (queue, number)
);
create table sessions (
    queue integer not null, session_id text not null, state blob, updated real not null,
    primary key (queue, session_id)
) without rowid;
create table seen (
    queue integer not null, message_id text not null, until real not null,
    primary key (queue, message_id)
) without rowid;
"""


class StoreFailed(Exception):
    """The state cannot be written: nothing more may be acknowledged."""


class Store:
    """One file; raises :class:`~servicebus_emulator.errors.StartupError` where it is of no use."""

    def __init__(self, path: Path) -> None:
        self._ids: dict[Queue, int] = {}
        self._next_id = 1
        self._failed = False
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            try:
                self._open(path)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise StartupError(
                f"the state in {path} cannot be used: {error}",
                remedy="correct --state: a file in a folder that can be written, "
                "used by no other emulator",
            ) from None

    def _open(self, path: Path) -> None:
        run = self._db.execute
        run("pragma busy_timeout = 0")
        run("pragma locking_mode = exclusive")
        run("pragma journal_mode = wal")
        run("pragma synchronous = full")
        run("begin immediate")  # a second emulator fails here
        version = int(run("pragma user_version").fetchone()[0])
        if version not in (0, VERSION):
            raise StartupError(
                f"the state in {path} is of another version ({version}, not {VERSION})",
                remedy="name another file with --state",
            )
        if version == 0:
            for statement in _TABLES.split(";"):
                run(statement)
            run(f"pragma user_version = {VERSION}")
        run("commit")

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    # --- back ------------------------------------------------------------------------------------

    def load(self, namespace: Namespace, now: float) -> None:
        """Put everything back into an empty namespace."""
        run = self._db.execute
        found: dict[int, Queue] = {}
        rows = run("select * from queues order by id")
        for number, name, settings, created, updated, accessed, last in rows.fetchall():
            if settings is None:
                queue = namespace.resolve(name)
            else:
                queue = _restore(namespace, name, json.loads(settings), now)
            queue.restore_queue(Times(created, updated, accessed), last)
            found[number] = queue
            self._next_id = max(self._next_id, number + 1)
        run("delete from seen where until <= ?", (now,))
        for number, message_id, until in run("select * from seen order by until"):
            found[number].restore_seen(message_id, until)
        for number, session_id, state, updated in run("select * from sessions"):
            found[number].restore_session(session_id, state, updated)
        rows = run(
            "select m.*, b.size, b.content from messages m join bodies b using (queue, number) "
            "order by queue, number"
        )
        for row in rows:
            message = Message(
                sequence_number=row[1],
                content=unpack_content(row[16]),
                size=row[15],
                message_id=row[2],
                session_id=row[3],
                enqueued_at=row[4],
                expires_at=row[5],
                time_to_live=row[6],
                state=MessageState(row[7]),
                scheduled_for=row[8],
                delivery_count=row[9],
                properties=unpack_properties(row[10]),
                enqueued_sequence_number=row[11],
                dead_letter_source=row[12],
            )
            token = None if row[13] is None else UUID(bytes=row[13])
            found[row[0]].restore(message, token, row[14] or 0.0)
        self._ids = {queue: number for number, queue in found.items()}
        if namespace.changes is not None:
            namespace.changes.take()  # that it is back is no change

    # --- there -----------------------------------------------------------------------------------

    def write(self, changes: Changes) -> None:
        """Make changes durable; raises :class:`StoreFailed`."""
        if self._failed:  # what followed cannot stand without what is missing
            raise StoreFailed("the state could not be written")
        if not changes:
            return
        try:
            self._db.execute("begin immediate")
            try:
                self._write(changes.take())
            except BaseException:
                self._failed = True
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
            self._db.execute("commit")
        except sqlite3.Error as error:
            self._failed = True
            raise StoreFailed(f"the state cannot be written: {error}") from error

    def _write(self, changes: Changes) -> None:
        run, many = self._db.execute, self._db.executemany
        for queue in changes.deleted:
            number = self._ids.pop(queue, None)
            if number is not None:
                run("delete from queues where id = ?", (number,))
                for table in ("messages", "bodies", "sessions", "seen"):
                    run(f"delete from {table} where queue = ?", (number,))
        for queue in dict.fromkeys((*changes.queues, *changes.messages)):
            self._write_queue(queue)
        for queue, numbers in changes.messages.items():
            if not queue.deleted:
                self._write_messages(queue, numbers)
        for queue, session_id in changes.sessions:
            session = queue.session(session_id)
            if not queue.deleted and session is not None:
                key = (self._id(queue), session_id)
                run(
                    "replace into sessions values (?, ?, ?, ?)",
                    (*key, session.state, session.updated_at),
                )
        kept, gone = [], []
        for (queue, message_id), until in changes.seen.items():
            if not queue.deleted:
                if until is None:
                    gone.append((self._id(queue), message_id))
                else:
                    kept.append((self._id(queue), message_id, until))
        many("delete from seen where queue = ? and message_id = ?", gone)
        many("replace into seen values (?, ?, ?)", kept)

    def _id(self, queue: Queue) -> int:
        if queue not in self._ids:
            self._write_queue(queue)
        return self._ids[queue]

    def _write_queue(self, queue: Queue) -> None:
        if queue.deleted:
            return
        owner = queue.topic if isinstance(queue, Subscription) else queue.parent
        if owner is not None and owner not in self._ids:
            self._write_queue(owner)  # loading goes by number: the owner comes first
        if queue not in self._ids:
            self._ids[queue] = self._next_id
            self._next_id += 1
        settings = None if queue.parent is not None else _write_settings(queue)
        times = queue.times
        self._db.execute(
            "replace into queues values (?, ?, ?, ?, ?, ?, ?)",
            (
                self._ids[queue],
                queue.name,
                settings,
                times.created_at,
                times.updated_at,
                times.accessed_at,
                queue.last_number,
            ),
        )

    def _write_messages(self, queue: Queue, numbers: dict[int, bool]) -> None:
        key = self._id(queue)
        rows, bodies, gone = [], [], []
        for number, is_new in numbers.items():
            message = queue.message(number)
            if message is None:
                gone.append((key, number))
                continue
            if is_new:
                bodies.append((key, number, message.size, pack_content(message.content)))
            lock = message.lock
            if lock is not None and lock.session is not None:
                lock = None
            rows.append(
                (
                    key,
                    number,
                    message.message_id,
                    message.session_id,
                    message.enqueued_at,
                    message.expires_at,
                    message.time_to_live,
                    int(message.state),
                    message.scheduled_for,
                    message.delivery_count,
                    pack_properties(message.properties),
                    message.enqueued_sequence_number,
                    message.dead_letter_source,
                    None if lock is None else lock.token.bytes,
                    None if lock is None else lock.until,
                )
            )
        many = self._db.executemany
        many("delete from messages where queue = ? and number = ?", gone)
        many("delete from bodies where queue = ? and number = ?", gone)
        many(f"replace into messages values ({', '.join('?' * 15)})", rows)
        many("replace into bodies values (?, ?, ?, ?)", bodies)


def _write_settings(queue: Queue) -> str:
    settings = queue.settings
    kept = {**dataclasses.asdict(settings), "status": settings.status.value}
    if isinstance(queue, Topic):
        kept["kind"] = "topic"
    elif isinstance(queue, Subscription):
        kept["kind"] = "subscription"
        kept["rules"] = [pack_rule(rule).hex() for rule in queue.rules]
    return json.dumps(kept)


def _restore(namespace: Namespace, name: str, kept: dict[str, Any], now: float) -> Queue:
    kind, rules = kept.pop("kind", "queue"), kept.pop("rules", [])
    kept["status"] = Status(kept["status"])
    kept["authorization_rules"] = tuple(
        AuthorizationRule(**{**rule, "rights": tuple(rule["rights"])})
        for rule in kept["authorization_rules"]
    )
    if kind == "topic":
        return namespace.topics.restore(name, TopicSettings(**kept), now)
    if kind == "subscription":
        topic, _, short_name = name.rpartition("/Subscriptions/")
        subscription = namespace.topics.restore_subscription(
            namespace.topics.get(topic), short_name, SubscriptionSettings(**kept), now
        )
        subscription.restore_rules([unpack_rule(bytes.fromhex(rule)) for rule in rules])
        return subscription
    return namespace.restore(name, QueueSettings(**kept), now)
