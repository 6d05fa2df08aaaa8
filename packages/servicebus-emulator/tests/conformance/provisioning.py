"""What Azure's own tests expect to be given, given by the emulator.

The tests come with decorators that make resources in Azure. This module has decorators of the
same names that make them in an emulator of the test process's own: a process on its own loopback
address, so that several workers do not meet. :func:`install` puts everything in place before the
tests are imported: the modules under the names that the tests import, an authority that certifi
and OpenSSL trust, and the environment.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import inspect
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import types
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

SOURCE = Path(__file__).resolve().parents[2] / "src"
POLICY = "RootManageSharedAccessKey"
KEY = "c3RhbmQtaW4gZm9yIGEgc2hhcmVkIGFjY2VzcyBrZXk="


def _end_with_parent() -> None:
    """A worker that is killed takes its emulator with it (Linux; elsewhere atexit has to do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Emulator:
    """A process that serves one worker."""

    def __init__(self, host: str, folder: Path) -> None:
        self.host = host
        self.authority = folder / "ca.pem"
        command = [
            sys.executable,
            "-m",
            "servicebus_emulator",
            *("--host", host, "--amqp-port", "5672", "--amqps-port", "5671"),
            *("--admin-port", "443", "--tls-dir", str(folder), "--tls-name", host),
            *("--auth", "sas", "--key", f"{POLICY}={KEY}", "--log-level", "info"),
        ]
        self._log = (folder / "emulator.log").open("wb")
        self._process = subprocess.Popen(
            command,
            cwd=SOURCE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=_end_with_parent,
        )
        atexit.register(self.stop)
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{host}:443/health", timeout=2).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"the emulator at {host} did not start") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=10)
        self._log.close()

    @property
    def connection_string(self) -> str:
        """For TLS, as Azure hands it out."""
        return f"Endpoint=sb://{self.host}/;SharedAccessKeyName={POLICY};SharedAccessKey={KEY}"

    def create(self, path: str, kind: str, properties: dict[str, str]) -> None:
        """Make a Queue, a Topic or a Subscription over the administration, if it is not there."""
        inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in properties.items())
        connect = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
        body = (
            '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
            f'<{kind}Description xmlns="{connect}">{inner}</{kind}Description></content></entry>'
        )
        self._request("PUT", path, body.encode(), unless=409)

    def delete(self, path: str) -> None:
        """Remove an entity; a test may have done so."""
        self._request("DELETE", path, None, unless=404)

    def _request(self, method: str, path: str, body: bytes | None, *, unless: int) -> None:
        request = urllib.request.Request(
            f"http://{self.host}:443/{path}",
            data=body,
            method=method,
            headers={"Authorization": "Bearer provisioning"},
        )
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code != unless:
                raise


_emulator: Emulator | None = None


def emulator() -> Emulator:
    """This worker's emulator."""
    assert _emulator is not None
    return _emulator


def install(folder: Path | None = None) -> None:
    """Put everything in place; before the tests are imported."""
    global _emulator
    folder = folder or Path(tempfile.mkdtemp(prefix="conformance-"))
    process = os.getpid()
    host = f"127.{64 + (process >> 16) % 64}.{process >> 8 & 255}.{process & 255}"
    _emulator = Emulator(host, folder)
    _trust(_emulator.authority, folder)
    os.environ.update(
        SERVICEBUS_ENDPOINT_SUFFIX="",
        SERVICE_BUS_CONNECTION_STR=_emulator.connection_string,
        AZURE_TEST_RUN_LIVE="true",
    )
    for name, content in _modules().items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__path__ = []
        sys.modules[name] = module


def _trust(authority: Path, folder: Path) -> None:
    import certifi

    bundle = folder / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + authority.read_bytes())
    certifi.where = lambda: str(bundle)
    os.environ.update(SSL_CERT_FILE=str(bundle), REQUESTS_CA_BUNDLE=str(bundle))
    ssl._create_default_https_context = ssl.create_default_context


class Resource:
    """Something with a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.id = name


class Credential:
    """Tokens that no one signed."""

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """A token for an hour."""
        from azure.core.credentials import AccessToken

        return AccessToken("not.signed.token", int(time.time()) + 3600)

    def __enter__(self) -> Credential:
        return self

    def __exit__(self, *details: object) -> None:
        return None

    def close(self) -> None:
        """Nothing is held."""


class AsyncCredential:
    """The same, awaited."""

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        """A token for an hour."""
        return Credential().get_token()

    async def __aenter__(self) -> AsyncCredential:
        return self

    async def __aexit__(self, *details: object) -> None:
        return None

    async def close(self) -> None:
        """Nothing is held."""


def _credential(**options: Any) -> Credential | AsyncCredential:
    return AsyncCredential() if options.get("is_async") else Credential()


Made = tuple[dict[str, object], Callable[[], None]]
Provide = Callable[[dict[str, Any]], Made]
"""From what the decorators outside have made: what this one adds, and how it is removed."""


def _nothing() -> None:
    return None


def provider(provide: Provide) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that adds what ``provide`` makes to a test's arguments, and cleans up after."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        offered = set(_OFFERED)

        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def wrapper(self: object, **given: Any) -> None:
                made, clean_up = provide(given)
                try:
                    await test(self, **_fitting(test, {**made, **given}))
                finally:
                    clean_up()

        else:

            @functools.wraps(test)
            def wrapper(self: object, **given: Any) -> None:
                made, clean_up = provide(given)
                try:
                    test(self, **_fitting(test, {**made, **given}))
                finally:
                    clean_up()

        signature = inspect.signature(test)
        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                parameter
                for name, parameter in signature.parameters.items()
                if name not in offered and parameter.kind is not parameter.VAR_KEYWORD
            ]
        )
        wrapper.provided = True  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _accepted(test: Callable[..., Any]) -> set[str] | None:
    """The keywords that a test takes; None for any."""
    if getattr(test, "provided", False):
        return None
    parameters = inspect.signature(test, follow_wrapped=False).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _fitting(test: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    accepted = _accepted(test)
    return given if accepted is None else {k: v for k, v in given.items() if k in accepted}


_OFFERED: dict[str, Callable[[], str]] = {
    "servicebus_connection_str": lambda: emulator().connection_string,
    "servicebus_fully_qualified_namespace": lambda: emulator().host,
    "servicebus_sas_policy": lambda: POLICY,
    "servicebus_sas_key": lambda: KEY,
    "servicebus_topic_name": lambda: "topic",
    "servicebus_subscription_name": lambda: "subscription",
    "servicebus_queue_name": lambda: "queue",
    "servicebus_session_queue_name": lambda: "sessionqueue",
    "servicebus_session_id": lambda: "session",
    "servicebus_session_queue_sas_policy": lambda: POLICY,
    "servicebus_session_queue_sas_key": lambda: KEY,
}


def _environment(*prefix: str, **fakes: str) -> Callable[..., Any]:
    return provider(lambda given: ({name: _OFFERED[name]() for name in fakes}, _nothing))


def _group(**options: Any) -> Callable[..., Any]:
    return provider(
        lambda given: ({"resource_group": Resource("group"), "location": "here"}, _nothing)
    )


def _namespace(**options: Any) -> Callable[..., Any]:
    def provide(given: dict[str, Any]) -> Made:
        return {
            "servicebus_namespace": Resource(emulator().host),
            "servicebus_namespace_connection_string": emulator().connection_string,
            "servicebus_namespace_key_name": POLICY,
            "servicebus_namespace_primary_key": KEY,
        }, _nothing

    return provider(provide)


_ELEMENTS = {
    "lock_duration": "LockDuration",
    "requires_duplicate_detection": "RequiresDuplicateDetection",
    "requires_session": "RequiresSession",
    "dead_lettering_on_message_expiration": "DeadLetteringOnMessageExpiration",
    "max_delivery_count": "MaxDeliveryCount",
}

_cached: dict[str, str] = {}


def _entity(
    kind: str, options: dict[str, Any], inside: Callable[[dict[str, Any]], str] = lambda given: ""
) -> Callable[..., Any]:
    """A preparer of a Queue, a Topic or a Subscription; ``inside`` is the path that it is under."""
    properties = {
        element: str(options[key]).lower() if isinstance(options[key], bool) else str(options[key])
        for key, element in _ELEMENTS.items()
        if options.get(key) is not None
    }
    parameter = options.get("parameter_name", f"servicebus_{kind.lower()}")

    def provide(given: dict[str, Any]) -> Made:
        name = f"{kind[0].lower()}{uuid.uuid4().hex[:16]}"
        if options.get("use_cache"):
            name = _cached.setdefault(f"{kind} {json.dumps(properties, sort_keys=True)}", name)
        path = f"{inside(given)}{name}"
        emulator().create(path, kind, properties)
        clean_up = _nothing if options.get("use_cache") else lambda: emulator().delete(path)
        return {parameter: Resource(name)}, clean_up

    return provider(provide)


def _queue(**options: Any) -> Callable[..., Any]:
    return _entity("Queue", {"lock_duration": "PT30S", **options})  # the preparer's own default


def _topic(**options: Any) -> Callable[..., Any]:
    return _entity("Topic", options)


def _subscription(**options: Any) -> Callable[..., Any]:
    topic = options.get("servicebus_topic_parameter_name", "servicebus_topic")
    return _entity(
        "Subscription",
        {"lock_duration": "PT60S", **options},
        lambda given: f"{given[topic].name}/subscriptions/",
    )


def _rule(**options: Any) -> Callable[..., Any]:
    parameter = options.get("parameter_name", "servicebus_authorization_rule")
    return provider(
        lambda given: (
            {
                parameter: Resource("rule"),
                f"{parameter}_connection_string": emulator().connection_string,
            },
            _nothing,
        )
    )


def _same(test: Callable[..., Any]) -> Callable[..., Any]:
    return test


class RecordedTestCase:
    """The base of the test classes."""

    is_live = True
    await_prepared_test = staticmethod(_same)


def _modules() -> dict[str, dict[str, Any]]:
    cached = functools.partial
    return {
        "devtools_testutils": {
            "AzureMgmtRecordedTestCase": RecordedTestCase,
            "AzureRecordedTestCase": RecordedTestCase,
            "CachedResourceGroupPreparer": _group,
            "RandomNameResourceGroupPreparer": _group,
            "PowerShellPreparer": _environment,
            "get_credential": _credential,
            "recorded_by_proxy": _same,
            "set_custom_default_matcher": lambda **options: None,
        },
        "devtools_testutils.aio": {"recorded_by_proxy_async": _same},
        "servicebus_preparer": {
            "SERVICEBUS_ENDPOINT_SUFFIX": "",
            "ServiceBusResourceGroupPreparer": _group,
            "CachedServiceBusResourceGroupPreparer": _group,
            "ServiceBusNamespacePreparer": _namespace,
            "CachedServiceBusNamespacePreparer": _namespace,
            "ServiceBusQueuePreparer": _queue,
            "CachedServiceBusQueuePreparer": cached(_queue, use_cache=True),
            "ServiceBusTopicPreparer": _topic,
            "CachedServiceBusTopicPreparer": cached(_topic, use_cache=True),
            "ServiceBusSubscriptionPreparer": _subscription,
            "CachedServiceBusSubscriptionPreparer": cached(_subscription, use_cache=True),
            "ServiceBusNamespaceAuthorizationRulePreparer": _rule,
            "ServiceBusQueueAuthorizationRulePreparer": _rule,
        },
    }
