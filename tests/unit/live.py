"""A cluster in memory with one release on it: its API, and helm and kubectl as far as they are
asked. What serves follows the tag that the release has, as on a cluster that rolls out at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from ci.model import Cluster
from ci.tools import api
from ci.tools.api import Answer
from ci.tools.command import Output
from tests.unit.machine import Machine, failed, said
from tests.unit.serving import serving

REPOSITORY = "registry.example:5000/model-engine"
OLD = f"sha256:{'a' * 64}"
NAMESPACE, RELEASE, GATEWAY = "launch", "launch-inference", "model-engine"
KINDS = {
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "pods": "Pod",
    "endpointslices": "EndpointSlice",
    "services": "Service",
    "leases": "Lease",
    "secrets": "Secret",
    "configmaps": "ConfigMap",
    "events": "Event",
    "serviceaccounts": "ServiceAccount",
    "horizontalpodautoscalers": "HorizontalPodAutoscaler",
}
Object = dict[str, Any]


def revision(number: int, status: str = "deployed") -> dict[str, Any]:
    return {
        "revision": number,
        "status": status,
        "chart": "model-engine-0.1.13",
        "description": "",
    }


def manifest(tag: str) -> str:
    """What the chart renders: one Deployment."""
    return (
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {GATEWAY}}}\nspec:\n"
        f"  replicas: 1\n  template: {{spec: {{containers: [{{name: {GATEWAY},"
        f" image: '{REPOSITORY}:{tag}'}}]}}}}\n"
    )


@dataclass
class Live:
    """The cluster. A test changes its fields to what shall be wrong."""

    digests: dict[str, str] = field(default_factory=lambda: {"old": OLD})
    """Of each tag."""
    tag: str = "old"
    history: list[dict[str, Any]] = field(default_factory=lambda: [revision(1)])
    objects: dict[str, list[Object]] = field(default_factory=dict)
    """By plural. Those of the release are made anew by :meth:`roll`."""
    answers: dict[str, int] = field(default_factory=dict)
    """HTTP status of a path of the service; 200 where it is not named."""
    log: str = "serving\n"
    namespaces: set[str] = field(default_factory=lambda: {NAMESPACE})
    upgrade_error: str = ""
    rollback_error: str = ""
    broken: Callable[[str, str], Answer | None] = lambda method, path: None
    """What the API answers instead."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request to the API."""
    paths: list[str] = field(default_factory=list)
    """What the service itself was asked for, by a port-forward."""
    port: int = 1
    helm_verbs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roll()

    @property
    def pod(self) -> Object:
        return self.objects["pods"][0]

    @property
    def deployment(self) -> Object:
        return self.objects["deployments"][0]

    def roll(self) -> None:
        """Every pod is of the release's tag."""
        container = {"name": GATEWAY, "image": f"{REPOSITORY}:{self.tag}"}
        counts = {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}
        self.objects["deployments"] = [
            {
                "apiVersion": "apps/v1",
                "metadata": {"name": GATEWAY, "generation": 1},
                "spec": {"replicas": 1, "template": {"spec": {"containers": [container]}}},
                "status": {"observedGeneration": 1, **counts},
            }
        ]
        self.objects["replicasets"] = [{"metadata": owned("rs", GATEWAY)}]
        self.objects["pods"] = [
            {
                "metadata": owned(f"{GATEWAY}-{self.tag}", "rs"),
                "spec": {"containers": [container]},
                "status": {
                    "phase": "Running",
                    "startTime": "2026-11-23T10:00:00+00:00",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {"name": GATEWAY, "imageID": f"{REPOSITORY}@{self.digests[self.tag]}"}
                    ],
                },
            }
        ]
        self.objects["services"] = [
            {"metadata": {"name": GATEWAY}, "spec": {"ports": [{"name": "http", "port": 80}]}}
        ]
        endpoint = {
            "targetRef": {"kind": "Pod", "name": f"{GATEWAY}-{self.tag}"},
            "conditions": {"ready": True, "serving": True},
        }
        self.objects["endpointslices"] = [
            {
                "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": GATEWAY}},
                "ports": [{"name": "http", "port": 5000}],
                "endpoints": [endpoint],
            }
        ]

    # The API -------------------------------------------------------------------------------

    def ask(
        self,
        _: Cluster,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = "",
        timeout: float = 0,
    ) -> Answer:
        self.asked.append((method, path))
        if (instead := self.broken(method, path)) is not None:
            return instead
        if found := re.search(r"/services/http:[^/]+/proxy(/[^?]*)", path):
            return Answer(self.answers.get(found[1], 200), "ok")
        if path.endswith("/log"):
            return Answer(200, self.log)
        if found := re.fullmatch(r"/api/v1/namespaces/([^/]+)", path):
            known = found[1] in self.namespaces or method == "PATCH"
            return reply({"kind": "Namespace"}) if known else missing(path)
        if re.fullmatch(r"/api/v1|/apis/[^/]+/[^/]+", path):
            resources = [
                {"kind": kind, "name": plural, "namespaced": True} for plural, kind in KINDS.items()
            ]
            resources.append({"kind": "Namespace", "name": "namespaces", "namespaced": False})
            return reply({"resources": resources})
        plural, *name = path.partition("/namespaces/")[2].split("/")[1:]
        there = self.objects.setdefault(plural, [])
        if method == "POST" and body is not None:
            name = [body["metadata"]["name"]]
        at = next((n for n, each in enumerate(there) if [each["metadata"]["name"]] == name), None)
        match method:
            case "GET" if not name:
                items = [] if query and "labelSelector" in query else there
                return reply({"kind": f"{KINDS.get(plural, 'Thing')}List", "items": items})
            case "GET":
                return missing(path) if at is None else reply(there[at])
            case "DELETE":
                return missing(path) if at is None else reply(there.pop(at))
        assert body is not None
        if method == "PATCH":  # what is applied is of no interest here
            return reply(body)
        if (at is not None) != (method == "PUT"):
            return Answer(409, "conflict")
        made = json.loads(json.dumps(body))
        if at is not None:
            was = there.pop(at)["metadata"].get("resourceVersion", "0")
            made["metadata"]["resourceVersion"] = str(int(was) + 1)
        else:
            made["metadata"]["resourceVersion"] = "1"
        there.append(made)
        return reply(made)

    # The programs --------------------------------------------------------------------------

    def program(self, words: list[str]) -> Output | None:
        """As :attr:`Machine.answer`."""
        match words:
            case ["helm", "template", *_]:
                return said(manifest("tag"))
            case ["helm", *rest]:
                self.helm_verbs.append(" ".join(rest[6:8]))
                return self.helm(rest[6:])
        return None

    def helm(self, words: list[str]) -> Output | None:
        match words:
            case ["history", *_]:
                if not self.history:
                    return failed("Error: release: not found")
                return said(json.dumps(self.history))
            case ["get", "values", *_]:
                return said(json.dumps({"tag": self.tag, "image": {"repository": REPOSITORY}}))
            case ["get", "manifest", *_]:
                return said(manifest(self.tag))
            case ["upgrade", *rest] if "--dry-run=server" in rest:
                text = manifest(tag_of(rest) or self.tag)
                number = len(self.history) + 1
                return said(json.dumps({"manifest": text, "hooks": [], "version": number}))
            case ["rollback", *_]:
                if self.rollback_error:
                    return failed(self.rollback_error)
                self.released("old", "deployed")
        return None

    def serve(self, words: list[str]) -> tuple[list[str], int | None]:
        """As :attr:`Machine.serve`."""
        if "port-forward" in words:
            ports = [word for word in words if re.fullmatch(r":\d+", word)]
            return [f"Forwarding from 127.0.0.1:{self.port} -> {port[1:]}" for port in ports], None
        assert "upgrade" in words, words
        self.released(tag_of(words), "failed" if self.upgrade_error else "deployed")
        return ([self.upgrade_error], 1) if self.upgrade_error else ([], 0)

    def released(self, tag: str, status: str) -> None:
        self.tag = tag
        self.history[-1]["status"] = "superseded"
        self.history.append(revision(len(self.history) + 1, status))
        self.roll()


def tag_of(words: list[str]) -> str:
    """What an upgrade sets the tag to."""
    return next((word.partition("=")[2] for word in words if word.startswith("tag=")), "")


def owned(name: str, owner: str) -> dict[str, Any]:
    return {"name": name, "uid": name, "ownerReferences": [{"controller": True, "name": owner}]}


def reply(body: Mapping[str, Any]) -> Answer:
    return Answer(200, json.dumps(body))


def missing(path: str) -> Answer:
    said = {"kind": "Status", "reason": "NotFound", "message": f"{path} not found"}
    return Answer(404, json.dumps(said))


@contextmanager
def serving_here(
    live: Live,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    registry: Callable[[httpx.Request], httpx.Response] = lambda _: httpx.Response(404),
) -> Iterator[int]:
    """The cluster behind helm, kubectl and the API's client, and its service and a ``registry``
    behind a port of this host, which is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("content-length", 0))
            content = self.rfile.read(size)
            if self.path.startswith("/v2/"):
                url = f"http://registry{self.path}"
                given = httpx.Request(
                    self.command, url, headers=dict(self.headers), content=content
                )
                answer = registry(given)
            else:
                live.paths.append(self.path)
                answer = httpx.Response(live.answers.get(self.path, 200), text="ok")
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    machine.answer, machine.serve = live.program, live.serve
    monkeypatch.setattr(api, "ask", live.ask)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        live.port = port
        yield port
