"""A cluster: its API, and kubectl for what only kubectl implements; always with an explicit
kubeconfig and context."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Unpack

from ci.errors import CommandFailed, Interrupted, PipelineError
from ci.model import Cluster
from ci.tools import api
from ci.tools.api import Answer, Object
from ci.tools.command import Output, Programs, RunOptions
from ci.tools.wait import Clock, uncancelled, wait_until

REMOVE_SECONDS = 15
"""How long the API may take to accept the deletion of pods."""


class Kube:
    """One cluster; the ambient kubeconfig is never read."""

    def __init__(
        self,
        kubectl: Path,
        cluster: Cluster,
        programs: Programs,
        clock: Clock,
        *,
        during_cleanup: bool = False,
    ) -> None:
        self.cluster = cluster
        self._kubectl = kubectl
        self._programs = programs
        self._reading = programs.unlogged()
        self._clock = clock
        self._during_cleanup = during_cleanup
        self._resources: dict[str, dict[str, str]] = {}

    def for_cleanup(self) -> Kube:
        """The same cluster, with programs that also run after the run was cancelled."""
        return Kube(
            self._kubectl,
            self.cluster,
            self._programs,
            uncancelled(self._clock),
            during_cleanup=True,
        )

    def _argv(self, *arguments: str) -> list[str]:
        return [
            str(self._kubectl),
            "--kubeconfig",
            str(self.cluster.kubeconfig),
            "--context",
            self.cluster.context,
            *arguments,
        ]

    def run(self, *arguments: str, **options: Unpack[RunOptions]) -> Output:
        """Any kubectl command. It is ended after a minute unless ``timeout`` says otherwise. What
        ``get`` prints is kept in no log: objects hold secrets that no pattern recognises."""
        run_options: RunOptions = {"log": f"kubectl-{self.cluster.name}", "timeout": 60, **options}
        if self._during_cleanup:
            run_options["during_cleanup"] = True
        programs = self._reading if arguments[0] == "get" else self._programs
        return programs.run(self._argv(*arguments), **run_options)

    def get(self, kind: str, *arguments: str, namespace: str | None = None) -> dict[str, Any]:
        """``kubectl get KIND … -o json``; a list when no name is among ``words``."""
        scope = ["--namespace", namespace] if namespace else []
        answer = self.run("get", kind, *arguments, *scope, "-o", "json").stdout
        value: dict[str, Any] = json.loads(answer)
        return value

    # -- the API ----------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: str = api.JSON,
        timeout: float = 60,
    ) -> Answer:
        """One request to the API, as it answers. ``content`` is the body's media type;
        ``timeout`` in seconds."""
        if self._programs.cancel.is_set() and not self._during_cleanup:
            raise Interrupted("interrupted")
        return api.ask(
            self.cluster, method, path, query=query, body=body, content=content, timeout=timeout
        )

    def objects(
        self, resource: str, namespace: str, selector: str = "", *, timeout: float = 60
    ) -> list[Object]:
        """Objects of one kind, by its plural. Raises :class:`CommandFailed`."""
        query = {"labelSelector": selector} if selector else None
        path = api.path_of(resource, namespace)
        return api.items_of(
            self._good(f"GET {path}", self.ask("GET", path, query=query, timeout=timeout))
        )

    def read(self, resource: str, name: str, namespace: str) -> Object | None:
        """One object; ``None`` when there is none. Raises :class:`CommandFailed`."""
        path = api.path_of(resource, namespace, name)
        answer = self.ask("GET", path)
        return None if answer.code == 404 else self._good(f"GET {path}", answer).object()

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Server-side apply, one object after the other; conflicts with other field managers are
        overridden. Raises :class:`CommandFailed`."""
        for item in objects:
            metadata = item["metadata"]
            name, namespace = metadata["name"], metadata.get("namespace", "default")
            path = self._path_of(item["apiVersion"], item["kind"], name, namespace)
            if isinstance(path, str):
                path = self.ask(
                    "PATCH",
                    path,
                    query={
                        # As `kubectl apply --server-side --force-conflicts` does.
                        "fieldManager": "kubectl", "force": "true", "fieldValidation": "Strict",
                    },
                    body=item,
                    content="application/apply-patch+yaml",
                )  # fmt: skip
            self._good(f"apply of {item['kind']} {name}", path)

    def find(self, version: str, kind: str, name: str, namespace: str) -> Answer:
        """Read an object of any kind, in ``namespace`` if the kind is namespaced. Code 404: the
        object does not exist; 0: no response, or the cluster has no such kind."""
        path = self._path_of(version, kind, name, namespace)
        return self.ask("GET", path) if isinstance(path, str) else path

    def _path_of(self, version: str, kind: str, name: str, namespace: str) -> str | Answer:
        """The API path of an object; the API's response where the kind is unknown."""
        group = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if version not in self._resources:
            listed = self.ask("GET", group)
            if not listed.ok:
                return Answer(0, f"{version}: {listed.problem}")
            self._resources[version] = {
                each["kind"]: ("namespaces/{}/" if each["namespaced"] else "") + each["name"]
                for each in listed.object()["resources"]
                if "/" not in each["name"]
            }
        resource = self._resources[version].get(kind)
        if resource is None:
            return Answer(0, f"the cluster has no kind {kind} in {version}")
        return f"{group}/{resource.format(namespace)}/{name}"

    def create(self, resource: str, namespace: str, body: Mapping[str, Any]) -> Object:
        """Raises :class:`CommandFailed`."""
        path = api.path_of(resource, namespace)
        return self._good(f"POST {path}", self.ask("POST", path, body=body)).object()

    def logs(self, pod: str, namespace: str, *, timeout: float = 30, **query: str | int) -> Answer:
        """A container's log; ``query`` has the API's own words (``tailLines``, …)."""
        words = {key: str(value) for key, value in query.items()}
        path = api.path_of("pods", namespace, pod, "log")
        return self.ask("GET", path, query=words, timeout=timeout)

    def pods(self, namespace: str, selector: str = "") -> list[Object]:
        return self.objects("pods", namespace, selector)

    def remove_pods(self, namespace: str, selector: str) -> None:
        """Let pods go, without waiting for it; what cannot be removed is left. Never raises for a
        cluster that does not answer: this is what is done last, and hides nothing."""
        with suppress(PipelineError):
            for pod in self.objects("pods", namespace, selector, timeout=REMOVE_SECONDS):
                path = api.path_of("pods", namespace, pod["metadata"]["name"])
                self.ask("DELETE", path, timeout=REMOVE_SECONDS)

    def redact(self, text: str) -> str:
        """What the cluster answered, without secrets, for whatever is written or shown."""
        return self._programs.redact(text)

    def _good(self, what: str, answer: Answer) -> Answer:
        if not answer.ok:
            problem = self.redact(answer.problem)  # a refusal may repeat what it refuses
            raise CommandFailed(f"{what}: {problem}", output=problem)
        return answer

    # -- ways in ----------------------------------------------------------------------------------

    @contextmanager
    def port_forward(
        self,
        namespace: str,
        resource: str,
        ports: Mapping[int, int | None],
        *,
        on_line: Callable[[str], None] | None = None,
    ) -> Iterator[dict[int, int]]:
        """Forward local ports to ``resource`` (``svc/NAME``, ``pod/NAME``) while in the block.

        ``ports`` maps remote ports to local ones, ``None`` for any free one; yields remote to
        local. kubectl binds to one pod: after a rollout, forward anew.
        """
        output = _Forwarding(tuple(ports))

        def see(line: str) -> None:
            output.see(line)
            if on_line is not None:
                on_line(line)

        pairs = [f"{local or ''}:{remote}" for remote, local in ports.items()]
        argv = self._argv(
            "port-forward", "--namespace", namespace, "--address", "127.0.0.1", resource, *pairs
        )
        with self._programs.background(
            argv, log=f"port-forward-{self.cluster.name}", on_line=see
        ) as process:

            def ready() -> dict[int, int] | None:
                if process.poll() is not None:
                    raise CommandFailed(
                        f"port-forward to {resource} ended: {self.redact(output.last)}",
                        argv=tuple(argv),
                        status=process.returncode,
                    )
                return output.local if output.complete else None

            yield wait_until(
                f"a port-forward to {resource} in {namespace}",
                ready,
                timeout=20,
                clock=self._clock,
                interval=0.05,
                diagnose=lambda: self.redact(output.last) or "no output",
            )

    @contextmanager
    def forward_to_service(self, namespace: str, service: str, port: int) -> Iterator[int]:
        """A local port that leads to a pod of the Service which is ready and stays.

        ``kubectl port-forward svc/NAME`` may choose one that is already ending.
        """
        items = self.objects("services", namespace) + self.objects("endpointslices", namespace)
        resource, remote = lasting_endpoint(items, service, port)
        with self.port_forward(namespace, resource, {remote: None}) as forwarded:
            yield forwarded[remote]


class _Forwarding:
    """What ``kubectl port-forward`` has printed: its lines, and the local ports it names."""

    def __init__(self, remote: Sequence[int]) -> None:
        self._remote = remote
        self._lines: list[str] = []
        self.local: dict[int, int] = {}
        """By remote port, in the order they were asked for."""

    def see(self, line: str) -> None:
        self._lines.append(line)
        # "Forwarding from 127.0.0.1:43211 -> 5000": the right-hand port is the pod's, so the
        # order of the lines, which is the order asked for, tells the Service's port.
        if line.startswith("Forwarding from 127.0.0.1:") and not self.complete:
            remote = self._remote[len(self.local)]
            self.local[remote] = int(line.split()[2].rsplit(":", 1)[1])

    @property
    def complete(self) -> bool:
        return len(self.local) == len(self._remote)

    @property
    def last(self) -> str:
        return " ".join(self._lines[-3:])


def lasting_endpoint(
    items: Sequence[Mapping[str, Any]], service: str, port: int
) -> tuple[str, int]:
    """Resource and port to forward to, of Services and EndpointSlices. Pure.

    The Service itself where no endpoint is ready: kubectl says then what is wrong.
    """
    names = {
        each.get("name", "")
        for item in items
        if item["kind"] == "Service" and item["metadata"]["name"] == service
        for each in item["spec"].get("ports") or []
        if each["port"] == port
    }
    for piece in items:
        labels = piece["metadata"].get("labels") or {}
        if labels.get("kubernetes.io/service-name") != service:
            continue
        ports = [p["port"] for p in piece.get("ports") or [] if (p.get("name") or "") in names]
        for endpoint in piece.get("endpoints") or []:
            conditions, pod = endpoint.get("conditions") or {}, endpoint.get("targetRef") or {}
            if ports and conditions.get("ready") and pod.get("kind") == "Pod":
                return f"pod/{pod['name']}", int(ports[0])
    return f"svc/{service}", port
