"""What the administration answers: paths to handlers.

====================================================== =========================================
``GET /health``                                        the emulator is up
``GET /metrics``                                       for Prometheus
``GET /$emulator/queues``                              queues with counts and current locks, JSON
``GET /$emulator/timeline?after=N&limit=N&queue=Q``    what has happened, JSON lines
``/$emulator/clock``, ``faults``, ``restart``          see :mod:`ci.servicebus.admin.control`
``GET /$Resources/queues?$skip=N&$top=N``              queues, Atom
``GET /$namespaceinfo``                                the namespace, Atom
``GET PUT DELETE /NAME``                               one queue, Atom
``GET /subscriptions/.../namespaces/N/queues[/NAME]``  queues as Azure Resource Manager, JSON
====================================================== =========================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

from ci.servicebus.admin import arm, atom
from ci.servicebus.admin.control import PATHS, Control
from ci.servicebus.admin.http import Request, Response
from ci.servicebus.broker.namespace import Namespace, check_name
from ci.servicebus.broker.queue import Queue
from ci.servicebus.errors import (
    ArgumentError,
    EntityExists,
    EntityNotFound,
    NotImplementedByEmulator,
    ServiceBusError,
    Unauthorized,
)
from ci.servicebus.gateway.tokens import AcceptAll, Policy

PAGE = 100
MAX_PAGE = 1000
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ARM = re.compile(
    r"(?P<namespace>/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.ServiceBus"
    r"/namespaces/[^/]+)/queues(?:/(?P<queue>.+))?",
    re.IGNORECASE,
)


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
        self.started_at = clock()
        # Topics can be made, read and deleted, for queues may name one; they carry no messages.
        self._topics: dict[str, tuple[str, Element]] = {}

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
        matched = _ARM.fullmatch(path)
        if matched:
            return self._arm(request, matched["namespace"], matched["queue"])
        try:
            grant = self.policy.check(request.headers.get("authorization", ""), self.clock())
            name = path.strip("/")
            if not grant.allows("Manage", "" if name.startswith("$") else name):
                raise Unauthorized(f"'Manage' claim(s) are required. Resource: '{name}'.")
            return self._atom(path.lstrip("/"), request)
        except ServiceBusError as error:
            detail = f"SubCode={error.status}00. {error}"
            body = atom.write_error(error.status, detail)
            return Response(error.status, body, atom.ERROR_CONTENT_TYPE)

    # --- Atom ------------------------------------------------------------------------------------

    def _atom(self, name: str, request: Request) -> Response:
        base = f"https://{request.headers.get('host', 'localhost')}"
        if name.lower() == "$resources/queues":
            return self._feed(request, base)
        if name.lower() == "$resources/topics" and request.method == "GET":
            topics = [self._topics[key] for key in sorted(self._topics)]
            return Response(200, atom.write_topic_feed(topics, base), atom.FEED_CONTENT_TYPE)
        if name.lower() == "$namespaceinfo":
            host = request.headers.get("host", "localhost").partition(":")[0]
            body = atom.write_namespace_info(
                host.partition(".")[0], self.namespace.tier, self.started_at, base
            )
            return Response(200, body, atom.CONTENT_TYPE)
        if (answer := self._topic(name, request, base)) is not None:
            return answer
        match request.method:
            case "GET" | "HEAD":
                queue = self.namespace.get(name)
                return Response(200, atom.write_entry(queue, base), atom.CONTENT_TYPE)
            case "PUT":
                queue, created = self._put(name, request)
                status = 201 if created else 200
                return Response(status, atom.write_entry(queue, base), atom.CONTENT_TYPE)
            case "DELETE":
                self.namespace.delete(name, self.clock())
                return Response(200)
        raise NotImplementedByEmulator(f"{request.method} is not offered here.")

    def _topic(self, name: str, request: Request, base: str) -> Response | None:
        """The response where this is about a topic."""
        key = name.lower()
        if request.method == "PUT" and key not in self.namespace:
            check_name(name)
            description = atom.read_description(request.body)
            if str(description.tag).endswith("}TopicDescription"):
                is_update = bool(request.headers.get("if-match"))
                if key in self._topics and not is_update:
                    raise EntityExists(f"The messaging entity '{name}' already exists.")
                if key not in self._topics and is_update:
                    raise EntityNotFound(f"The messaging entity '{name}' could not be found.")
                self._topics[key] = (name, description)
                body = atom.write_topic_entry(name, description, base)
                return Response(200 if is_update else 201, body, atom.CONTENT_TYPE)
        if key not in self._topics:
            return None
        if request.method == "PUT":
            raise EntityExists(f"The messaging entity '{name}' already exists.")
        if request.method == "DELETE":
            del self._topics[key]
            return Response(200)
        body = atom.write_topic_entry(*self._topics[key], base)
        return Response(200, body, atom.CONTENT_TYPE)

    def _put(self, name: str, request: Request) -> tuple[Queue, bool]:
        check_name(name)
        description = atom.read_description(request.body)
        if not str(description.tag).endswith("}QueueDescription"):
            raise NotImplementedByEmulator("Only queues and topics can be made.")
        now = self.clock()
        if request.headers.get("if-match"):
            queue = self.namespace.get(name)
            settings = atom.read_settings(description, queue.settings)
            return self.namespace.update(name, settings, now), False
        return self.namespace.create(name, atom.read_settings(description), now), True

    def _feed(self, request: Request, base: str) -> Response:
        skip = _whole(request, "$skip", 0, 1 << 31)
        top = _whole(request, "$top", PAGE, MAX_PAGE)
        queues = list(self.namespace)
        page = queues[skip : skip + top]
        following = None
        if skip + top < len(queues):
            following = f"{base}/$Resources/queues?$skip={skip + top}&$top={top}"
        return Response(200, atom.write_feed(page, base, following), atom.FEED_CONTENT_TYPE)

    # --- Azure Resource Manager ------------------------------------------------------------------

    def _arm(self, request: Request, namespace_id: str, name: str | None) -> Response:
        if request.method != "GET":
            return _json(arm.error("MethodNotAllowed", "Queues can only be read here."), 405)
        if name is None:
            skip = _whole(request, "$skip", 0, 1 << 31)
            top = _whole(request, "$top", MAX_PAGE, MAX_PAGE)
            found = list(self.namespace)[skip : skip + top]
            return _json({"value": [arm.queue_resource(queue, namespace_id) for queue in found]})
        try:
            return _json(arm.queue_resource(self.namespace.get(name), namespace_id))
        except EntityNotFound as error:
            return _json(arm.error("ResourceNotFound", str(error)), 404)

    # --- the emulator's own ----------------------------------------------------------------------

    def _emulator(self, path: str, request: Request) -> Response:
        if request.method != "GET":
            return _json({"error": f"{request.method} is not offered here"}, 405)
        try:
            if path == "/$emulator/queues":
                now = self.clock()
                return _json({"now": now, "queues": [_inside(q, now) for q in self.namespace]})
            if path == "/$emulator/timeline":
                events = self.namespace.journal.after(
                    _whole(request, "after", 0, 1 << 62),
                    limit=_whole(request, "limit", 5_000, 20_000),
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


def _whole(request: Request, key: str, default: int, limit: int) -> int:
    text = request.query.get(key, str(default))
    if not text.isdigit():
        raise ArgumentError(f"'{key}' must be a whole number.")
    return min(int(text), limit)


def _json(value: object, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode() + b"\n", "application/json; charset=utf-8")
