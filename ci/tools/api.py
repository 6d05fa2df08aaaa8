"""The Kubernetes API by its own client: a question that starts no program.

A ``kubectl`` of its own takes a tenth of a second of a core, and a promotion asks a hundred times,
beside the very rollout that it watches. What kubectl knows and the API does not (apply, rollout,
port-forward) stays with kubectl. The words of a refusal are kubectl's.
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
"""Where a resource is found, by its plural; one that is not named here is in ``api/v1``."""

JSON = "application/json"

CONNECTIONS = 64
"""Kept open at most: a prober's requests are under way side by side."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said."""

    code: int
    """HTTP status; 0 when no answer came, and ``text`` says why."""
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def problem(self) -> str:
        """Why it refused, in kubectl's words; the text itself where it is no Status."""
        try:
            status = json.loads(self.text)
            return f"Error from server ({status['reason']}): {status['message']}"
        except (ValueError, KeyError, TypeError):
            said = " ".join(self.text.split())
            return f"HTTP {self.code}: {said}" if self.code else said

    def object(self) -> Object:
        value: Object = json.loads(self.text)
        return value


def path_of(resource: str, namespace: str, *parts: str) -> str:
    """Of a resource by its plural, and of a part of it: ``path_of("pods", "n", "p", "log")``."""
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

    Raises :class:`CommandFailed` where the kubeconfig leads nowhere.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    client = _client_of(cluster)
    headers = {"Accept": JSON, "Content-Type": content}
    try:
        words = client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = client.call_api(*words, _request_timeout=timeout)
        data: bytes = answer.read() or b""  # type: ignore[no-untyped-call]
        return Answer(int(answer.status), data.decode("utf-8", "replace"))
    except (ApiException, HTTPError, OSError) as problem:
        return Answer(0, f"{cluster.context} does not answer: {problem}")


def _client_of(cluster: Cluster) -> ApiClient:
    try:
        # A cluster that is made anew has a new kubeconfig of the same name.
        found = cluster.kubeconfig.stat()
    except OSError as problem:
        raise CommandFailed(
            f"there is no kubeconfig {cluster.kubeconfig}: {problem.strerror}"
        ) from problem
    return _client(cluster.kubeconfig, cluster.context, (found.st_mtime_ns, found.st_ino))


@lru_cache(maxsize=16)
def _client(kubeconfig: Path, context: str, version: tuple[int, int]) -> ApiClient:
    # A third of a second to load, which no command has to spend that asks no cluster.
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
    # Python 3.13 asks more of a certificate than kubectl does, and than many clusters' have.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    configuration.retries = False  # whoever asks again says so, and where
    configuration.connection_pool_maxsize = CONNECTIONS
    client = ApiClient(configuration)
    # Named files would be loaded again for every connection, into this one context: of threads
    # that connect at the same time one would find half a key in it (X509: UNKNOWN_KEY_TYPE).
    client.rest_client.pool_manager.connection_pool_kw.update(
        ssl_context=trust, ca_certs=None, cert_file=None, key_file=None
    )
    return client
