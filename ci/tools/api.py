"""The Kubernetes API through its own client: requests that start no program.

A ``kubectl`` process costs a tenth of a second of CPU time, and a promotion makes a hundred
requests during the rollout that it watches. What only kubectl implements (port-forward, describe)
stays with kubectl. Errors are worded as kubectl words them.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ci.errors import CommandFailed
from ci.model import Cluster

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Object = dict[str, Any]

GROUPS = {
    "endpointslices": "apis/discovery.k8s.io/v1",
    "horizontalpodautoscalers": "apis/autoscaling/v2",
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1",
}
"""API group of a resource, by its plural; resources that are not listed are in ``api/v1``."""

JSON = "application/json"

CONNECTIONS = 64
"""Connections kept open at most: a prober sends requests in parallel."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the API."""

    code: int
    """HTTP status; 0 when there was no response, and ``text`` says why."""
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def problem(self) -> str:
        """The reason of an error, worded as by kubectl; the text itself where it is no Status."""
        try:
            status = json.loads(self.text)
            return f"Error from server ({status['reason']}): {status['message']}"
        except (ValueError, KeyError, TypeError):
            text = " ".join(self.text.split())
            return f"HTTP {self.code}: {text}" if self.code else text

    def object(self) -> Object:
        value: Object = json.loads(self.text)
        return value


def path_of(resource: str, namespace: str, *parts: str) -> str:
    """The API path of a resource by its plural, an object or its subresource:
    ``path_of("pods", "n", "p", "log")``."""
    group = GROUPS.get(resource, "api/v1")
    return "/".join((f"/{group}/namespaces/{namespace}/{resource}", *parts))


def items_of(answer: Answer) -> list[Object]:
    """The items of a list, each with its kind and version, which the API leaves out."""
    listed = answer.object()
    common = {
        "apiVersion": listed.get("apiVersion", ""),
        "kind": str(listed.get("kind", "")).removesuffix("List"),
    }
    return [{**common, **item} for item in listed.get("items") or []]


def ask(
    cluster: Cluster,
    method: str,
    path: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    content: str = JSON,
    timeout: float = 60,
) -> Answer:
    """One request, sent once. ``path`` is below the server's address, ``content`` the media type
    of ``body``; ``timeout`` in seconds.

    Raises :class:`CommandFailed` where the kubeconfig is missing or invalid.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    client = _client_of(cluster)
    headers = {"Accept": JSON, "Content-Type": content}
    try:
        request = client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = client.call_api(*request, _request_timeout=timeout)
        data: bytes = answer.read() or b""  # type: ignore[no-untyped-call]
        return Answer(int(answer.status), data.decode("utf-8", "replace"))
    except (ApiException, HTTPError, OSError) as problem:
        return Answer(0, f"{cluster.context} does not answer: {problem}")


def _client_of(cluster: Cluster) -> ApiClient:
    try:
        # A recreated cluster has a new kubeconfig of the same name.
        file = cluster.kubeconfig.stat()
    except OSError as problem:
        raise CommandFailed(
            f"cannot read kubeconfig {cluster.kubeconfig}: {problem.strerror}"
        ) from problem
    return _client(cluster.kubeconfig, cluster.context, (file.st_mtime_ns, file.st_ino))


@lru_cache(maxsize=16)
def _client(kubeconfig: Path, context: str, version: tuple[int, int]) -> ApiClient:
    # Importing it takes a third of a second, which commands without a cluster need not spend.
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration
    from urllib3.util.ssl_ import create_urllib3_context

    configuration = Configuration()
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig),
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
        trust = create_urllib3_context()
        if configuration.ssl_ca_cert:
            trust.load_verify_locations(configuration.ssl_ca_cert)
        else:
            trust.load_default_certs()
        if configuration.cert_file:
            trust.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (config.ConfigException, OSError, ValueError) as problem:
        raise CommandFailed(f"{kubeconfig}, context {context}: {problem}") from problem
    # Python 3.13 is stricter about certificates than kubectl, and than many clusters allow.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    configuration.retries = False  # callers that retry do so explicitly
    configuration.connection_pool_maxsize = CONNECTIONS
    client = ApiClient(configuration)
    # Files given by name would be loaded into this one context for every connection: with several
    # threads, one can find a half-loaded key in it (X509: UNKNOWN_KEY_TYPE).
    client.rest_client.pool_manager.connection_pool_kw.update(
        ssl_context=trust, ca_certs=None, cert_file=None, key_file=None
    )
    return client
