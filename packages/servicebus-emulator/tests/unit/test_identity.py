"""Tokens: as azure-identity obtains them and azure-servicebus shows them, both unmodified."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import DefaultAzureCredential
from azure.mgmt.servicebus import ServiceBusManagementClient
from azure.servicebus import ServiceBusClient, ServiceBusMessage, TransportType
from azure.servicebus.exceptions import ServiceBusConnectionError
from azure.servicebus.management import ServiceBusAdministrationClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from msal.authority import Authority  # type: ignore[import-untyped]

from servicebus_emulator.admin.http import Request, Response
from servicebus_emulator.admin.identity import EXCHANGED_LIFE, MANAGED_LIFE, IdentityEndpoint
from servicebus_emulator.errors import StartupError, Unauthorized
from servicebus_emulator.gateway.tokens import Grant, Key
from servicebus_emulator.identity import RESOURCE_MANAGER, SERVICE_BUS, Identity
from servicebus_emulator.settings import parse
from tests.unit.test_sdk import Emulator

BUS = "https://servicebus.azure.net/"
TENANT = "33333333-3333-3333-3333-333333333333"
CLIENT = "44444444-4444-4444-4444-444444444444"
EXCHANGE = "api://AzureADTokenExchange"
NOW = 1_000_000.0


def pem(key: Any) -> bytes:
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made: bytes = key.private_bytes(encoding, kind, serialization.NoEncryption())
    return made


@pytest.fixture(scope="module")
def key() -> bytes:
    return pem(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def identity(key: bytes) -> Identity:
    made = Identity()
    made.use_key(key)
    return made


# --- what a token is good for --------------------------------------------------------------------


@pytest.mark.parametrize(
    "resource", [BUS, BUS.rstrip("/"), "https://contoso.servicebus.windows.net"]
)
def test_a_token_holds_for_its_time(identity: Identity, resource: str) -> None:
    token = identity.issue(resource, NOW, 60, client=CLIENT)
    assert identity.check(token, NOW) == identity.check(f"Bearer {token}", NOW + 59) == Grant()
    for moment in (NOW - 1, NOW + 60):
        with pytest.raises(Unauthorized, match="ExpiredToken"):
            identity.check(token, moment)


@pytest.mark.parametrize(
    "resource",
    ["https://storage.azure.com/", "https://servicebus.azure.net.evil.com", "servicebus.azure.net"],
)
def test_a_token_for_another_resource_does_not(identity: Identity, resource: str) -> None:
    token = identity.issue(resource, NOW, 60, client=CLIENT)
    with pytest.raises(Unauthorized, match="InvalidAudience"):
        identity.check(token, NOW)


def test_nobody_else_s_signature_holds(identity: Identity) -> None:
    good = identity.issue(BUS, NOW, 60, client=CLIENT)
    claims = jwt.decode(good, options={"verify_signature": False})
    stranger = Identity()
    stranger.use_key(pem(ec.generate_private_key(ec.SECP256R1())))
    head, body, signature = good.split(".")
    for bad in (
        stranger.issue(BUS, NOW, 60, client=CLIENT),
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, "a secret that the server does not have", "HS256"),
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{head}.{body}",
        "not.a.token",
        "",
        "Bearer ",
    ):
        with pytest.raises(Unauthorized):
            identity.check(bad, NOW)


@pytest.mark.parametrize("missing", ["aud", "exp", "nbf"])
def test_a_token_without_a_claim_does_not_hold(
    identity: Identity, key: bytes, missing: str
) -> None:
    claims = {"aud": BUS, "exp": NOW + 60, "nbf": NOW}
    del claims[missing]
    with pytest.raises(Unauthorized):
        identity.check(jwt.encode(claims, key, "ES256"), NOW)


@pytest.mark.parametrize(
    "made", [rsa.generate_private_key(65_537, 2_048), ec.generate_private_key(ec.SECP384R1())]
)
def test_a_token_survives_a_restart_and_others_can_verify_it(made: Any) -> None:
    before, after = Identity(), Identity()
    before.use_key(pem(made))
    after.use_key(pem(made))
    token = before.issue(BUS, NOW, 60, client=CLIENT)
    assert after.verify(token, NOW, SERVICE_BUS)["appid"] == CLIENT
    (public,) = jwt.PyJWKSet.from_dict(after.jwks()).keys
    assert public.key_id == jwt.get_unverified_header(token)["kid"]
    options: Any = {"verify_exp": False, "verify_aud": False}
    assert jwt.decode(token, public, [after.algorithm], options=options)["aud"] == BUS


def test_a_key_that_cannot_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="RSA or a NIST curve"):
        Identity().use_key(pem(ed25519.Ed25519PrivateKey.generate()))


def test_it_is_off_unless_asked_for() -> None:
    assert not parse([]).identity
    assert parse(["--identity", "--auth", "sas"]).identity
    with pytest.raises(StartupError):
        parse(["--auth", "sas"])


# --- who is given one ----------------------------------------------------------------------------

MANAGED = {"api-version": "2018-02-01", "resource": BUS}
METADATA = {"metadata": "true"}


def form(**changed: str | None) -> bytes:
    claims = {"aud": [EXCHANGE], "exp": NOW + 60, "sub": "system:serviceaccount:launch:gateway"}
    fields = {
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion(claims),
        "scope": f"{BUS}/.default",
        **changed,
    }
    return urlencode({name: value for name, value in fields.items() if value is not None}).encode()


def assertion(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, "a cluster's key, unknown to the emulator", "HS256")


def ask(identity: Identity, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    endpoint = IdentityEndpoint(identity, lambda: NOW)
    assert endpoint.offers(path)
    options = {"method": "GET", **options}
    response: Response = endpoint.handle(Request(path=path, **options), path)
    return response.status, json.loads(response.body)


@pytest.mark.parametrize(
    ("path", "query", "headers"),
    [
        ("/msi/token", MANAGED, {}),
        ("/msi/token", MANAGED, METADATA),
        ("/metadata/identity/oauth2/token", MANAGED, {}),
        ("/metadata/identity/oauth2/token", MANAGED, {"metadata": "false"}),
        ("/metadata/identity/oauth2/token", {"resource": BUS}, METADATA),
        ("/metadata/identity/oauth2/token", {"api-version": "2018-02-01"}, METADATA),
        ("/metadata/identity/oauth2/token", {**MANAGED, "resource": "bus"}, METADATA),
    ],
)
def test_a_managed_identity_has_to_ask_properly(
    identity: Identity, path: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    status, told = ask(identity, path, query=query, headers=headers)
    assert status == told["statusCode"] == 400
    assert told["message"] == told["error_description"]


def test_a_managed_identity_may_be_named(identity: Identity) -> None:
    path = "/metadata/identity/oauth2/token"
    query = {**MANAGED, "client_id": CLIENT}
    status, told = ask(identity, path, query=query, headers=METADATA)
    assert status == 200
    assert identity.verify(told["access_token"], NOW, SERVICE_BUS)["appid"] == CLIENT
    assert int(told["expires_on"]) == NOW + MANAGED_LIFE


@pytest.mark.parametrize(
    ("changed", "code", "error"),
    [
        ({"grant_type": "password"}, 400, "AADSTS70003"),
        ({"client_id": None}, 400, "AADSTS900144"),
        ({"client_assertion_type": None, "client_secret": "x"}, 401, "AADSTS7000218"),
        ({"client_assertion": None}, 401, "AADSTS50027"),
        ({"client_assertion": "nonsense"}, 401, "AADSTS50027"),
        ({"client_assertion": assertion({"aud": "x", "exp": NOW + 60})}, 401, "AADSTS700212"),
        ({"client_assertion": assertion({"aud": EXCHANGE})}, 401, "AADSTS700024"),
        ({"client_assertion": assertion({"aud": EXCHANGE, "exp": NOW - 301})}, 401, "AADSTS700024"),
        ({"scope": BUS}, 400, "AADSTS1002012"),
        ({"scope": "openid profile"}, 400, "AADSTS1002012"),
        ({"scope": f"{BUS}/.default https://other/.default"}, 400, "AADSTS1002012"),
        ({"scope": "bus/.default"}, 400, "AADSTS500011"),
    ],
)
def test_an_exchange_that_azure_refuses(
    identity: Identity, changed: dict[str, str | None], code: int, error: str
) -> None:
    status, told = ask(
        identity, f"/{TENANT}/oauth2/v2.0/token", method="POST", body=form(**changed)
    )
    assert status == code
    assert told["error_description"].startswith(error)


def test_an_exchanged_token_names_client_and_tenant(identity: Identity) -> None:
    path = f"/{TENANT}/oauth2/v2.0/token"
    status, told = ask(identity, path, method="POST", body=form())
    assert (status, told["expires_in"]) == (200, EXCHANGED_LIFE)
    claims = identity.verify(told["access_token"], NOW, SERVICE_BUS)
    assert (claims["aud"], claims["appid"], claims["tid"]) == (BUS, CLIENT, TENANT)
    assert ask(identity, path)[0] == 400


def test_scopes_of_users_do_not_count(identity: Identity) -> None:
    body = form(scope=f"{BUS}/.default openid offline_access profile")
    status, told = ask(identity, f"/{TENANT}/oauth2/v2.0/token", method="POST", body=body)
    assert status == 200
    assert identity.verify(told["access_token"], NOW, SERVICE_BUS)["aud"] == BUS


def test_an_authority_without_a_tenant_is_none(identity: Identity) -> None:
    for asked in ("", "http://host/tenant/authorize", "https://host/"):
        query = {"authorization_endpoint": asked}
        status, told = ask(identity, "/common/discovery/instance", query=query)
        assert (status, told["error"]) == (400, "invalid_instance")


# --- with Azure's own clients --------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    running = Emulator(
        tmp_path_factory.mktemp("tls"), auth="sas", keys=(Key("name", "key"),), identity=True
    )
    with running.administration() as admin:
        admin.create_queue("q")
    yield running
    running.stop()


@pytest.fixture(params=["App Service", "IMDS", "workload identity"])
def environment(
    request: pytest.FixtureRequest,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    """What an application's pod is given; nothing else tells it where its tokens come from."""
    host = f"localhost:{emulator.server.admin_port}"
    (tmp_path / "token").write_text(assertion({"aud": EXCHANGE, "exp": time.time() + 60}))
    given = {
        "App Service": {"IDENTITY_ENDPOINT": f"http://{host}/msi/token", "IDENTITY_HEADER": "x"},
        "IMDS": {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{host}"},
        "workload identity": {
            "AZURE_AUTHORITY_HOST": f"https://{host}",
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
            "AZURE_TENANT_ID": TENANT,
            "REQUESTS_CA_BUNDLE": str(emulator.authority),
        },
    }
    for name, value in given[request.param].items():
        monkeypatch.setenv(name, value)
    return str(request.param)


class Shown:
    """A credential with a token that a test made."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3_600)


def bus(emulator: Emulator, credential: Any) -> ServiceBusClient:
    return ServiceBusClient(
        "contoso.servicebus.windows.net",
        credential,
        # Only WebSockets let the SDK be told a port: its TLS always goes to 5671.
        transport_type=TransportType.AmqpOverWebsocket,
        custom_endpoint_address=f"sb://localhost:{emulator.server.admin_port}",
        connection_verify=str(emulator.authority),
        retry_total=0,
    )


@pytest.mark.program  # the SDK's user agent takes the processor's name from uname
def test_the_default_credential_sends_receives_and_administers(
    emulator: Emulator, environment: str
) -> None:
    host = f"localhost:{emulator.server.admin_port}"
    with (
        DefaultAzureCredential() as credential,
        bus(emulator, credential) as client,
        client.get_queue_sender("q") as sender,
        client.get_queue_receiver("q", max_wait_time=5) as receiver,
        ServiceBusAdministrationClient(
            host, credential, connection_verify=str(emulator.authority)
        ) as admin,
        ServiceBusManagementClient(
            credential,
            "subscription",
            f"https://{host}",
            connection_verify=str(emulator.authority),
        ) as management,
    ):
        sender.send_messages(ServiceBusMessage(environment))
        (message,) = receiver.receive_messages(1, max_wait_time=5)
        receiver.complete_message(message)
        assert str(message) == environment
        assert admin.get_queue_runtime_properties("q").total_message_count == 0
        listed = management.queues.list_by_namespace("group", "contoso")
        assert [queue.name for queue in listed] == ["q"]


@pytest.mark.program
@pytest.mark.parametrize("flaw", ["InvalidSignature", "InvalidAudience", "ExpiredToken"])
def test_a_token_that_does_not_hold_opens_nothing(
    emulator: Emulator, identity: Identity, flaw: str
) -> None:
    now, own = emulator.server.clock(), emulator.server.identity
    assert own is not None
    signer = identity if flaw == "InvalidSignature" else own
    resource = "https://storage.azure.com/" if flaw == "InvalidAudience" else BUS
    life = -1.0 if flaw == "ExpiredToken" else 60.0
    credential = Shown(signer.issue(resource, now - 60, 60 + life, client=CLIENT))
    host = f"localhost:{emulator.server.admin_port}"
    with (
        bus(emulator, credential) as client,
        # For an endpoint of one's own the SDK does not say ServiceBusAuthenticationError.
        pytest.raises(ServiceBusConnectionError) as refused,
        client.get_queue_sender("q"),
    ):
        pass
    failure: Any = refused.value.inner_exception
    assert failure.status_code == 401
    assert failure.status_description.decode().startswith(flaw)
    with (
        ServiceBusAdministrationClient(
            host, credential, connection_verify=str(emulator.authority)
        ) as admin,
        pytest.raises(ClientAuthenticationError),
    ):
        admin.get_queue("q")


@pytest.mark.program
def test_resource_manager_takes_its_own_tokens_alone(emulator: Emulator) -> None:
    own = emulator.server.identity
    assert own is not None
    token = own.issue(BUS, emulator.server.clock(), 60, client=CLIENT)
    with (
        ServiceBusManagementClient(
            Shown(token),
            "subscription",
            f"https://localhost:{emulator.server.admin_port}",
            connection_verify=str(emulator.authority),
        ) as management,
        pytest.raises(ClientAuthenticationError),
    ):
        management.queues.get("group", "contoso", "q")
    with pytest.raises(Unauthorized):
        own.verify(token, emulator.server.clock(), RESOURCE_MANAGER)


def test_an_authority_is_discovered_as_msal_does(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(emulator.authority))
    host = f"https://localhost:{emulator.server.admin_port}"
    with requests.Session() as session:
        found = Authority(
            f"{host}/{TENANT}", session, instance_discovery=f"{host}/common/discovery/instance"
        )
    assert found.token_endpoint == f"{host}/{TENANT}/oauth2/v2.0/token"
    assert found.tenant == TENANT
