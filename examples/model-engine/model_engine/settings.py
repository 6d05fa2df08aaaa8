"""Settings, all from the environment; the chart sets every one of them."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class SettingsError(Exception):
    """A variable is missing or makes no sense; the message names it and never shows its value."""


@dataclass(frozen=True, slots=True)
class ServiceBus:
    """How to reach Service Bus: a connection string, else a namespace and the pod's identity."""

    connection_string: str = field(default="", repr=False)
    admin_connection_string: str = field(default="", repr=False)
    """Only where administration answers on an address of its own."""
    namespace: str = ""
    ca_file: str = ""
    """CA certificates to verify the broker with; empty means the public ones."""

    @property
    def host(self) -> str:
        """Fully qualified name of a real namespace."""
        return (
            self.namespace if "." in self.namespace else f"{self.namespace}.servicebus.windows.net"
        )


@dataclass(frozen=True, slots=True)
class Settings:
    servicebus: ServiceBus
    database_url: str = field(repr=False)
    redis_url: str = field(default="", repr=False)
    version: str = "unknown"
    """Version of the image."""
    instance: str = "unknown"
    """Name of the pod, recorded with every execution."""
    port: int = 5000
    builder_queue: str = "model-engine-service-builder"
    worker_concurrency: int = 4
    """Tasks of one endpoint that one worker process runs at the same time."""
    drain_seconds: float = 20.0
    """After SIGTERM, how long running tasks may go on before they are abandoned."""
    reconcile_seconds: float = 2.0
    """How often the builder compares the records with what it runs."""
    cache_seconds: float = 3.0
    """How often the cacher writes its view."""
    ready_file: Path = Path("/tmp/readyz")


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from ``environment``. Raises :class:`SettingsError` naming the variable."""

    def number(name: str, default: float, *, low: float, high: float) -> float:
        text = environment.get(name, "")
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{name} is not a number") from None
        if not low <= value <= high:
            raise SettingsError(f"{name} is not between {low:g} and {high:g}")
        return value

    ca_file = environment.get("SERVICEBUS_CA_FILE", "")
    if ca_file and not Path(ca_file).is_file():
        ca_file = ""  # the Secret has no CA: the public ones hold
    servicebus = ServiceBus(
        connection_string=environment.get("SERVICEBUS_CONNECTION_STRING", "").strip(),
        admin_connection_string=environment.get("SERVICEBUS_ADMIN_CONNECTION_STRING", "").strip(),
        namespace=environment.get("SERVICEBUS_NAMESPACE", "").strip(),
        ca_file=ca_file,
    )
    if not servicebus.connection_string and not servicebus.namespace:
        raise SettingsError("set SERVICEBUS_NAMESPACE or SERVICEBUS_CONNECTION_STRING")
    database_url = environment.get("DATABASE_URL", "").strip()
    if not database_url:
        raise SettingsError("set DATABASE_URL")
    return Settings(
        servicebus=servicebus,
        database_url=database_url,
        redis_url=environment.get("REDIS_URL", "").strip(),
        version=environment.get("APP_VERSION", "") or "unknown",
        instance=environment.get("POD_NAME", "") or socket.gethostname(),
        port=int(number("PORT", 5000, low=1, high=65535)),
        worker_concurrency=int(number("WORKER_CONCURRENCY", 4, low=1, high=64)),
        drain_seconds=number("DRAIN_SECONDS", 20.0, low=0, high=3600),
        reconcile_seconds=number("RECONCILE_SECONDS", 2.0, low=0.1, high=60),
        cache_seconds=number("CACHE_SECONDS", 3.0, low=0.1, high=3600),
        ready_file=Path(environment.get("READY_FILE", "") or "/tmp/readyz"),
    )


def start_process(name: str) -> Settings:
    """Begin a process: logs to standard output, settings; a bad setting ends it in one line."""
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {name} %(message)s",
    )
    # The SDKs log request details at INFO; ours are enough, and theirs may hold addresses.
    for noisy in ("azure", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A refused task is an expected event here and is logged by us.
    logging.getLogger("azure.servicebus").setLevel(logging.ERROR)
    try:
        settings = load()
    except SettingsError as problem:
        raise SystemExit(f"model-engine {name}: {problem}") from None
    logging.info("version %s on %s", settings.version, settings.instance)
    return settings
