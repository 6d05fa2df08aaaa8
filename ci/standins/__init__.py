"""Manifests of the stand-ins for cloud services: PostgreSQL, Redis and the Service Bus emulator.

Values in, manifests out; :mod:`ci.stages.deploy` applies them. All data is in memory or on the
node's disk and is deleted with the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ci.model import ServiceBusEndpoints, StandIns

if TYPE_CHECKING:
    from ci.tools.kube import Kube

NAMESPACE = "standins"
SECRET = "standins"
SERVICEBUS = "servicebus"
SERVICEBUS_HOST = f"{SERVICEBUS}.{NAMESPACE}.svc.cluster.local"
KEY_NAME = "RootManageSharedAccessKey"
AMQP_PORT = 5672
AMQPS_PORT = 5671
HTTPS_PORT = 8443
MOUNT = "/etc/standins"


def forwarded(kube: Kube, namespace: str) -> AbstractContextManager[dict[int, int]]:
    """Port-forwards to Service Bus: :data:`AMQP_PORT`, and 443 for its administration API."""
    return kube.port_forward(namespace, f"svc/{SERVICEBUS}", {AMQP_PORT: None, 443: None})


@contextmanager
def reach(kube: Kube, standins: StandIns) -> Iterator[ServiceBusEndpoints]:
    """The stand-ins' Service Bus, through port-forwards that last as long as the block."""
    with forwarded(kube, standins.namespace) as ports:
        amqp, admin = (
            connection_string(f"localhost:{ports[port]}", standins.servicebus.key)
            for port in (AMQP_PORT, 443)
        )
        yield ServiceBusEndpoints(amqp, admin, standins.servicebus.ca_pem)


@dataclass(frozen=True, slots=True)
class Secrets:
    """The stand-ins' credentials: generated once per cluster, kept in a Secret, and reused."""

    postgres_password: str
    redis_password: str
    servicebus_key: str
    ca_pem: str
    certificate_pem: str
    key_pem: str
    namespace: str = NAMESPACE
    """The stand-ins' namespace; a cluster may have several sets of them."""

    def data(self) -> dict[str, str]:
        return {
            "postgres_password": self.postgres_password,
            "redis_password": self.redis_password,
            "servicebus_key": self.servicebus_key,
            "ca.crt": self.ca_pem,
            "tls.crt": self.certificate_pem,
            "tls.key": self.key_pem,
        }

    @classmethod
    def of(cls, data: dict[str, str], namespace: str = NAMESPACE) -> Secrets:
        """From the Secret's decoded data. Raises ``KeyError`` when it is not whole."""
        return cls(
            data["postgres_password"],
            data["redis_password"],
            data["servicebus_key"],
            data["ca.crt"],
            data["tls.crt"],
            data["tls.key"],
            namespace,
        )

    @property
    def database_url(self) -> str:
        host = f"postgres.{self.namespace}.svc.cluster.local"
        return f"postgresql://model_engine:{self.postgres_password}@{host}:5432/model_engine"

    @property
    def redis_url(self) -> str:
        host = f"redis.{self.namespace}.svc.cluster.local"
        return f"redis://:{self.redis_password}@{host}:6379/0"

    def connection_string(self) -> str:
        """``UseDevelopmentEmulator`` makes the SDKs speak plain AMQP; administration is HTTPS
        at the same host whatever it says."""
        return connection_string(servicebus_host(self.namespace), self.servicebus_key)


def connection_string(host: str, key: str) -> str:
    """Of the emulator at ``host``, which may have a port."""
    return (
        f"Endpoint=sb://{host};SharedAccessKeyName={KEY_NAME};"
        f"SharedAccessKey={key};UseDevelopmentEmulator=true"
    )


def servicebus_host(namespace: str) -> str:
    return f"{SERVICEBUS}.{namespace}.svc.cluster.local"


def secret(values: Secrets) -> list[dict[str, Any]]:
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": values.namespace}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": values.namespace},
            "stringData": values.data(),
        },
    ]


def workloads(
    postgres_image: str, redis_image: str, emulator_image: str, namespace: str = NAMESPACE
) -> list[dict[str, Any]]:
    objects = [
        *_workload(
            "postgres",
            postgres_image,
            ports={"postgres": (5432, 5432)},
            env=[
                {"name": "POSTGRES_USER", "value": "model_engine"},
                {"name": "POSTGRES_DB", "value": "model_engine"},
                _from_secret("POSTGRES_PASSWORD", "postgres_password"),
            ],
            # The data is deleted with the cluster, so durability is not needed.
            args=["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"],
            probe={"tcpSocket": {"port": 5432}},
        ),
        *_workload(
            "redis",
            redis_image,
            ports={"redis": (6379, 6379)},
            env=[_from_secret("REDIS_PASSWORD", "redis_password")],
            args=["--requirepass", "$(REDIS_PASSWORD)"],
            probe={"tcpSocket": {"port": 6379}},
        ),
        *_workload(
            SERVICEBUS,
            emulator_image,
            # The same ports as Azure, and a managed identity endpoint for clients without a key.
            ports={
                "amqp": (AMQP_PORT, AMQP_PORT),
                "amqps": (AMQPS_PORT, AMQPS_PORT),
                "https": (443, HTTPS_PORT),
            },
            env=[_from_secret("SERVICEBUS_KEY", "servicebus_key")],
            args=[
                "--amqp-port",
                str(AMQP_PORT),
                "--amqps-port",
                str(AMQPS_PORT),
                "--admin-port",
                str(HTTPS_PORT),
                "--tls-cert",
                f"{MOUNT}/tls.crt",
                "--tls-key",
                f"{MOUNT}/tls.key",
                "--auth",
                "sas",
                "--key",
                f"{KEY_NAME}=$(SERVICEBUS_KEY)",
                "--identity",
            ],
            probe={"tcpSocket": {"port": HTTPS_PORT}},
            mount=MOUNT,
        ),
    ]
    for item in objects:
        item["metadata"]["namespace"] = namespace
    return objects


def _from_secret(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}


def _workload(
    name: str,
    image: str,
    *,
    ports: dict[str, tuple[int, int]],
    env: list[dict[str, Any]],
    args: list[str],
    probe: dict[str, Any],
    mount: str = "",
) -> list[dict[str, Any]]:
    """A Deployment of one pod and its Service. ``ports``: name -> (Service's, pod's)."""
    labels = {"app": name}
    container: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": env,
        "args": args,
        "ports": [{"name": p, "containerPort": pod} for p, (_, pod) in ports.items()],
        "readinessProbe": {
            **probe,
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 60,
        },
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
    }
    pod: dict[str, Any] = {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "containers": [container],
    }
    if mount:
        container["volumeMounts"] = [{"name": "secret", "mountPath": mount, "readOnly": True}]
        pod["volumes"] = [{"name": "secret", "secret": {"secretName": SECRET}}]
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "selector": labels,
                "ports": [
                    {"name": p, "port": service, "targetPort": pod}
                    for p, (service, pod) in ports.items()
                ],
            },
        },
    ]
