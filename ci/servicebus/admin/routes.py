"""What the administration answers: paths to handlers.

====================================================== =========================================
``GET /health``                                        the emulator is up
``GET /metrics``                                       for Prometheus
``GET /$emulator/queues``                              queues and topics with counts and locks, JSON
``GET /$emulator/timeline?after=N&limit=N&queue=Q``    what has happened, JSON lines
``/$emulator/clock``, ``faults``, ``restart``          see :mod:`ci.servicebus.admin.control`
entities, Atom                                         see :mod:`ci.servicebus.admin.entities`
``GET /subscriptions/.../namespaces/N/queues[/NAME]``  queues as Azure Resource Manager, JSON
``... /topics[/NAME[/subscriptions[/NAME]]]``          topics and subscriptions likewise
====================================================== =========================================
"""

from __future__ import annotations

import json
from collections.abc import Callable

from ci.servicebus.admin import arm, atom
from ci.servicebus.admin.control import PATHS, Control
from ci.servicebus.admin.entities import Entities
from ci.servicebus.admin.http import Request, Response, whole
from ci.servicebus.broker.namespace import Namespace
from ci.servicebus.broker.queue import Queue
from ci.servicebus.broker.rules import Rule
from ci.servicebus.broker.topic import Topic
from ci.servicebus.errors import ArgumentError, ServiceBusError, Unauthorized
from ci.servicebus.gateway.tokens import AcceptAll, Policy

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Administration:
    """Answers requests about one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        clock: Callable[[], float],
        policy: Policy | None = None,
        control: Control | None = None,
        metrics: Callable[[], str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.clock = clock
        self.policy = policy or AcceptAll()
        self.control = control
        self.metrics = metrics
        self._entities = Entities(namespace, clock)

    def handle(self, request: Request) -> Response:
        """The response to a request."""
        path = request.path.rstrip("/") or "/"
        if path == "/health":
            return _json({"status": "ok", "queues": len(self.namespace)})
        if path == "/metrics" and self.metrics is not None and request.method == "GET":
            return Response(200, self.metrics().encode(), METRICS_TYPE)
        if path.startswith(PATHS):
            if self.control is None:
                return _json({"error": "not offered: start the emulator with --control"}, 404)
            return self.control.handle(request, path)
        if path.startswith("/$emulator/"):
            return self._emulator(path, request)
        if arm.is_resource(path):
            return arm.answer(self.namespace, request, path)
        try:
            grant = self.policy.check(request.headers.get("authorization", ""), self.clock())
            name = path.strip("/")
            if not grant.allows("Manage", "" if name.startswith("$") else name):
                raise Unauthorized(f"'Manage' claim(s) are required. Resource: '{name}'.")
            return self._entities.handle(path.lstrip("/"), request)
        except ServiceBusError as error:
            detail = f"SubCode={error.status}00. {error}"
            body = atom.write_error(error.status, detail)
            return Response(error.status, body, atom.ERROR_CONTENT_TYPE)

    # --- the emulator's own ----------------------------------------------------------------------

    def _emulator(self, path: str, request: Request) -> Response:
        if request.method != "GET":
            return _json({"error": f"{request.method} is not offered here"}, 405)
        try:
            if path == "/$emulator/queues":
                now = self.clock()
                queues = [_inside(queue, now) for queue in self.namespace]
                topics = [_topic(topic, now) for topic in self.namespace.topics]
                return _json({"now": now, "queues": queues, "topics": topics})
            if path == "/$emulator/timeline":
                events = self.namespace.journal.after(
                    whole(request, "after", 0, 1 << 62),
                    limit=whole(request, "limit", 5_000, 20_000),
                    queue=request.query.get("queue"),
                )
                lines = "".join(json.dumps(event.as_json()) + "\n" for event in events)
                return Response(200, lines.encode(), "application/x-ndjson")
        except ArgumentError as error:
            return _json({"error": str(error)}, 400)
        return _json({"error": f"there is no {path}"}, 404)


def _inside(queue: Queue, now: float) -> dict[str, object]:
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
            {**_inside(inner, now), "rules": [_rule(rule) for rule in inner.rules]}
            for inner in topic.subscriptions
        ],
    }


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "filter": str(rule.filter),
        "action": None if rule.action is None else rule.action.expression,
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode() + b"\n", "application/json; charset=utf-8")
