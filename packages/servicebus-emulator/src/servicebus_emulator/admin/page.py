"""What is inside the emulator, for whoever looks: a page, its data as JSON, and the timeline.

====================================================== =========================================
``GET /$emulator``                                     the page; ``/`` leads browsers there
``GET /$emulator/overview``                            the part of the page that is drawn anew
``GET /$emulator/queues``                              queues and topics with counts and locks, JSON
``GET /$emulator/timeline?after=N&limit=N&queue=Q``    what has happened, JSON lines
``... &follow=SECONDS``                                and goes on as it happens, for so long
====================================================== =========================================

Nothing is kept for the page: the timeline is the journal, which forgets the oldest, and a reader
that is too slow for it finds numbers missing. Without a viewer, nothing is computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from servicebus_emulator.admin.http import Request, Response, to_json, whole
from servicebus_emulator.broker.model import Lock, Message
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.broker.queue import Queue
from servicebus_emulator.broker.rules import Rule
from servicebus_emulator.broker.topic import Topic
from servicebus_emulator.errors import ServiceBusError

if TYPE_CHECKING:
    from jinja2 import Template

SHOWN = 100
"""Locks, and dead letters, that the page shows; counts tell of the others."""

AT_ONCE = 2_000
"""Events that a follower is sent in one piece."""

LONGEST = 3_600
"""Seconds that a request may follow the timeline."""

Clock = Callable[[], float]


class Page:
    """Answers about one namespace. ``clock`` is the namespace's."""

    def __init__(self, namespace: Namespace, clock: Clock) -> None:
        self._namespace = namespace
        self._clock = clock

    def handle(self, request: Request, path: str) -> Response:
        """The response; raises what a rule says no with."""
        if request.method not in ("GET", "HEAD"):
            return to_json({"error": f"{request.method} is not offered here"}, 405)
        match path.removeprefix("/$emulator"):
            case "":
                return self._html("page.html.j2")
            case "/overview":
                return self._html("overview.html.j2")
            case "/queues":
                now = self._clock()
                queues = [as_json(queue, now) for queue in self._namespace]
                topics = [_topic(topic, now) for topic in self._namespace.topics]
                return to_json({"now": now, "queues": queues, "topics": topics})
            case "/timeline":
                return self._timeline(request)
        return to_json({"error": f"there is no {path}"}, 404)

    # --- the timeline ----------------------------------------------------------------------------

    def _timeline(self, request: Request) -> Response:
        after = whole(request, "after", 0, 1 << 62)
        limit = whole(request, "limit", 5_000, 20_000)
        follow = whole(request, "follow", 0, LONGEST)
        queue = request.query.get("queue")
        lines, after = self._lines(after, limit, queue)
        more = self._follow(after, queue, self._clock() + follow) if follow else None
        return Response(200, lines, "application/x-ndjson", more=more)

    def _follow(self, after: int, queue: str | None, until: float) -> Iterator[bytes]:
        while self._clock() < until:
            lines, after = self._lines(after, AT_ONCE, queue)
            yield lines

    def _lines(self, after: int, limit: int, queue: str | None) -> tuple[bytes, int]:
        """Events, and the number after which to go on."""
        journal = self._namespace.journal
        events = journal.after(after, limit=limit, queue=queue)
        text = "".join(json.dumps(event.as_json()) + "\n" for event in events)
        return text.encode(), events[-1].number if len(events) == limit > 0 else journal.last

    # --- the page --------------------------------------------------------------------------------

    def _html(self, template: str) -> Response:
        now = self._clock()
        body = _template(template).render(self._seen(now)).encode()
        return Response(200, body, "text/html; charset=utf-8", (("x-now", f"{now:.3f}"),))

    def _seen(self, now: float) -> dict[str, object]:
        """What the templates draw."""
        namespace = self._namespace
        subscriptions = [found for topic in namespace.topics for found in topic.subscriptions]
        entities = [*namespace, *subscriptions]
        locks = sorted((lock for q in entities for lock in _locks(q)), key=lambda one: one[1].until)
        dead = [letter for queue in entities for letter in _dead_letters(queue, now)]
        dead.sort(key=lambda one: one[1].enqueued_at, reverse=True)
        events = namespace.journal.after(max(0, namespace.journal.last - SHOWN))
        return {
            "now": now,
            "tier": namespace.tier,
            "rows": [(queue, queue.counts()) for queue in entities],
            "topics": [(topic, len(topic.subscriptions)) for topic in namespace.topics],
            "locks": locks[:SHOWN],
            "locks_left_out": max(0, len(locks) - SHOWN),
            "dead": dead[:SHOWN],
            "dead_left_out": sum(queue.counts().dead_letter for queue in entities)
            - len(dead[:SHOWN]),
            "events": [event.as_json() for event in events],
            "last": namespace.journal.last,
        }


def as_json(queue: Queue, now: float) -> dict[str, object]:
    """A queue with its counts and locks. Times are seconds since 1970, ``remaining`` seconds."""
    counts, settings = queue.counts(), queue.settings
    return {
        "name": queue.name,
        "status": settings.status.value,
        "lock_duration": settings.lock_duration,
        "max_delivery_count": settings.max_delivery_count,
        "requires_session": settings.requires_session,
        "active": counts.active,
        "locked": counts.locked,
        "scheduled": counts.scheduled,
        "deferred": counts.deferred,
        "dead_letter": counts.dead_letter,
        "size_in_bytes": counts.size_in_bytes,
        "locks": [
            {
                "sequence_number": lock.message.sequence_number,
                "message_id": lock.message.message_id,
                "delivery_count": lock.message.delivery_count,
                "lock_token": str(lock.token),
                "locked_until": lock.until,
                "remaining": round(lock.until - now, 3),
            }
            for lock in queue.locks()
        ],
    }


def _topic(topic: Topic, now: float) -> dict[str, object]:
    counts = topic.counts()
    return {
        "name": topic.name,
        "status": topic.settings.status.value,
        "scheduled": counts.scheduled,
        "size_in_bytes": counts.size_in_bytes,
        "subscriptions": [
            {**as_json(inner, now), "rules": [_rule(rule) for rule in inner.rules]}
            for inner in topic.subscriptions
        ],
    }


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "filter": str(rule.filter),
        "action": None if rule.action is None else rule.action.expression,
    }


def _locks(queue: Queue) -> list[tuple[Queue, Lock]]:
    return [(queue, lock) for lock in queue.locks()]


def _dead_letters(queue: Queue, now: float) -> list[tuple[Queue, Message]]:
    try:
        letters = queue.dead_letters.peek(0, SHOWN, now) if queue.dead_letters else []
    except ServiceBusError:  # receiving is disabled, and looking with it
        return []
    return [(queue, message) for message in letters]


@cache
def _template(name: str) -> Template:
    # Imported by the first who looks: starting the emulator does not wait for it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("servicebus_emulator.admin", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters["clock"] = _time_of_day
    return environment.get_template(name)


def _time_of_day(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S.%f")[:-3]
