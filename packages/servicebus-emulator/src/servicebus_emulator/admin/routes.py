"""What the administration answers: paths to handlers.

====================================================== =========================================
``GET /health``                                        the emulator is up
``GET /metrics``                                       for Prometheus
``GET /$emulator``, ``/$emulator/...``                 see :mod:`servicebus_emulator.admin.page`
``/$emulator/clock``, ``faults``, ``restart``          see :mod:`servicebus_emulator.admin.control`
entities, Atom                                         see :mod:`servicebus_emulator.admin.entities`
tokens                                                 see :mod:`servicebus_emulator.admin.identity`
``GET /subscriptions/.../namespaces/N/queues[/NAME]``  queues as Azure Resource Manager, JSON
``... /topics[/NAME[/subscriptions[/NAME ...]]]``      topics, subscriptions and rules likewise
====================================================== =========================================
"""

from __future__ import annotations

from collections.abc import Callable

from servicebus_emulator.admin import arm, atom
from servicebus_emulator.admin.control import PATHS, Control
from servicebus_emulator.admin.entities import Entities
from servicebus_emulator.admin.http import Request, Response, to_json
from servicebus_emulator.admin.identity import IdentityEndpoint
from servicebus_emulator.admin.page import Page
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.errors import ArgumentError, ServiceBusError, Unauthorized
from servicebus_emulator.gateway.tokens import AcceptAll, Policy
from servicebus_emulator.identity import RESOURCE_MANAGER, Identity

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
        identity: Identity | None = None,
    ) -> None:
        self.namespace = namespace
        self.clock = clock
        self.policy = policy or AcceptAll()
        self.control = control
        self.metrics = metrics
        self.identity = identity
        self._tokens = None if identity is None else IdentityEndpoint(identity, clock)
        self._entities = Entities(namespace, clock)
        self._page = Page(namespace, clock)

    def handle(self, request: Request) -> Response:
        """The response to a request."""
        path = request.path.rstrip("/") or "/"
        if path == "/health":
            return to_json({"status": "ok", "queues": len(self.namespace)})
        if path == "/metrics" and self.metrics is not None and request.method == "GET":
            return Response(200, self.metrics().encode(), METRICS_TYPE)
        if path.startswith(PATHS):
            if self.control is None:
                return to_json({"error": "not offered: start the emulator with --control"}, 404)
            return self.control.handle(request, path)
        if path == "/" and "text/html" in request.headers.get("accept", ""):
            return Response(302, headers=(("location", "/$emulator"),))
        if path == "/$emulator" or path.startswith("/$emulator/"):
            return self._inside(path, request)
        if self._tokens is not None and self._tokens.offers(path):
            return self._tokens.handle(request, path)
        if arm.is_resource(path):
            return self._arm(request, path)
        try:
            self._demand_manage(request, path.strip("/"))  # some sign all of it, `$Resources` too
            return self._entities.handle(path.lstrip("/"), request)
        except ServiceBusError as error:
            detail = f"SubCode={error.status}00. {error}"
            body = atom.write_error(error.status, detail)
            return Response(error.status, body, atom.ERROR_CONTENT_TYPE)

    def _arm(self, request: Request, path: str) -> Response:
        if self.identity is not None and self.policy.demanded:
            token = request.headers.get("authorization", "")
            try:
                self.identity.verify(token, self.clock(), RESOURCE_MANAGER)
            except Unauthorized as error:
                return arm.error(401, "InvalidAuthenticationToken", str(error))
        return arm.answer(self.namespace, request, path)

    def _inside(self, path: str, request: Request) -> Response:
        try:
            self._demand_manage(request, "")
            return self._page.handle(request, path)
        except Unauthorized as error:  # a browser asks its user for a key's name and the key
            challenge = ("www-authenticate", 'Basic realm="name and key with the right Manage"')
            return Response(401, f"{error}\n".encode(), headers=(challenge,))
        except ArgumentError as error:
            return to_json({"error": str(error)}, 400)

    def _demand_manage(self, request: Request, name: str) -> None:
        grant = self.policy.check(request.headers.get("authorization", ""), self.clock())
        if not grant.allows("Manage", name):
            raise Unauthorized(f"'Manage' claim(s) are required. Resource: '{name}'.")
