"""Where an application gets its tokens in Azure, as ``DefaultAzureCredential`` asks for them.

====================================================== =========================================
``GET /msi/token``                                     App Service (``IDENTITY_ENDPOINT``)
``GET /metadata/identity/oauth2/token``                IMDS of a virtual machine
``POST /TENANT/oauth2/v2.0/token``                     workload identity: a token of Kubernetes
                                                       is exchanged (``AZURE_AUTHORITY_HOST``)
``GET /common/discovery/instance``                     that this host is an authority
``GET /TENANT/v2.0/.well-known/openid-configuration``  a tenant's endpoints
``GET /TENANT/discovery/v2.0/keys``                    the key that verifies the tokens
====================================================== =========================================

Who asks is given a token for whatever resource it names: what the token is good for is decided
where it is shown. Of Kubernetes' token audience and time are checked, its signature is not: the
cluster that issued it is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, urlsplit

import jwt

from servicebus_emulator.admin.http import Request, Response, to_json
from servicebus_emulator.identity import (
    EXCHANGE_AUDIENCE,
    SYSTEM_ASSIGNED,
    Identity,
    is_in_time,
    issuer,
)

MANAGED_LIFE = 86_400.0
"""Seconds that a managed identity's token holds, as in Azure."""

EXCHANGED_LIFE = 3_600.0
"""Seconds that an exchanged token holds; in Azure 60 to 90 minutes."""

SKEW = 300.0
"""Seconds by which the clock of who issued an assertion may differ, as in Azure."""

_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_DEFAULT_SCOPE = "/.default"
_OF_USERS = frozenset({"openid", "profile", "email", "offline_access"})
"""Scopes of OpenID Connect: Go's client asks for them, too, and an application has none."""

_OF_TENANT = re.compile(
    r"/(?P<tenant>[^/]+)/(?P<what>oauth2/v2\.0/token|v2\.0/\.well-known/openid-configuration"
    r"|discovery/v2\.0/keys)"
)
_MANAGED = ("/msi/token", "/metadata/identity/oauth2/token")
_INSTANCE = "/common/discovery/instance"


class _Refused(Exception):
    """A request for a token that is not granted, in the words of OAuth 2 (RFC 6749, 5.2)."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.status = status


class IdentityEndpoint:
    """Answers applications that want tokens."""

    def __init__(self, identity: Identity, clock: Callable[[], float]) -> None:
        self._identity = identity
        self._clock = clock

    def offers(self, path: str) -> bool:
        """The path is one of these, not an entity's."""
        return path in (*_MANAGED, _INSTANCE) or _OF_TENANT.fullmatch(path) is not None

    def handle(self, request: Request, path: str) -> Response:
        """The response to a request whose path is offered."""
        try:
            if path in _MANAGED:
                return to_json(self._managed(request, is_app_service=path == _MANAGED[0]))
            if path == _INSTANCE:
                return to_json(_instance(request))
            matched = _OF_TENANT.fullmatch(path)
            assert matched is not None
            tenant, what = matched["tenant"], matched["what"]
            if what == "oauth2/v2.0/token":
                return to_json(self._exchanged(request, tenant))
            if what == "discovery/v2.0/keys":
                return to_json(self._identity.jwks())
            return to_json(self._configuration(request, tenant))
        except _Refused as error:
            told = {"error": error.code, "error_description": str(error)}
            # App Service words its errors otherwise; each client looks for its own keys.
            return to_json(
                {**told, "statusCode": error.status, "message": str(error)}, error.status
            )

    def _managed(self, request: Request, *, is_app_service: bool) -> dict[str, object]:
        """A managed identity's token. The header proves that no one was made to ask for it."""
        header = "x-identity-header" if is_app_service else "metadata"
        value = request.headers.get(header, "")
        if not value or (not is_app_service and value.lower() != "true"):
            raise _Refused("invalid_request", f"Required header '{header}' not specified.")
        query = request.query
        if not query.get("api-version"):
            raise _Refused("invalid_request", "The api-version was not specified.")
        named = ("client_id", "object_id", "principal_id", "mi_res_id", "msi_res_id")
        client = next((query[key] for key in named if query.get(key)), SYSTEM_ASSIGNED)
        resource, now = query.get("resource", ""), self._clock()
        token = self._token(resource, now, MANAGED_LIFE, client)
        return {
            "access_token": token,
            "client_id": client,
            "expires_in": str(int(MANAGED_LIFE)),
            "expires_on": str(int(now + MANAGED_LIFE)),
            "not_before": str(int(now)),
            "resource": resource,
            "token_type": "Bearer",
        }

    def _exchanged(self, request: Request, tenant: str) -> dict[str, object]:
        """A token for an application that shows one of its own cluster."""
        if request.method != "POST":
            raise _Refused("invalid_request", "AADSTS900561: Only POST requests are accepted.")
        form = {key: values[0] for key, values in parse_qs(request.body.decode("latin-1")).items()}
        if form.get("grant_type") != "client_credentials":
            raise _Refused(
                "unsupported_grant_type", "AADSTS70003: Only client_credentials is offered here."
            )
        client = form.get("client_id")
        if not client:
            raise _Refused("invalid_request", "AADSTS900144: 'client_id' is missing.")
        now = self._clock()
        _check_assertion(form, now)
        asked = form.get("scope", "")
        scopes = [scope for scope in asked.split() if scope not in _OF_USERS]
        if len(scopes) != 1 or not scopes[0].endswith(_DEFAULT_SCOPE):
            raise _Refused(
                "invalid_scope", f"AADSTS1002012: The scope '{asked}' should end with /.default."
            )
        resource = scopes[0].removesuffix(_DEFAULT_SCOPE)
        life = int(EXCHANGED_LIFE)
        return {
            "access_token": self._token(resource, now, EXCHANGED_LIFE, client, tenant=tenant),
            "token_type": "Bearer",
            "expires_in": life,
            "ext_expires_in": life,
        }

    def _token(self, resource: str, now: float, life: float, client: str, **tenant: str) -> str:
        parts = urlsplit(resource)
        if not parts.scheme or not parts.netloc:
            raise _Refused(
                "invalid_resource", f"AADSTS500011: The resource '{resource}' was not found."
            )
        return self._identity.issue(resource, now, life, client=client, **tenant)

    def _configuration(self, request: Request, tenant: str) -> dict[str, object]:
        base = f"https://{request.headers.get('host', 'localhost')}/{tenant}"
        return {
            "issuer": issuer(tenant),
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_types_supported": ["token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": [self._identity.algorithm],
        }


def _check_assertion(form: Mapping[str, str], now: float) -> None:
    if form.get("client_assertion_type") != _ASSERTION:
        raise _Refused(
            "invalid_client", "AADSTS7000218: A 'client_assertion' is required here.", 401
        )
    try:
        claims = jwt.decode(form.get("client_assertion", ""), options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise _Refused("invalid_client", f"AADSTS50027: Invalid JWT token: {error}", 401) from None
    audiences = claims.get("aud")
    if EXCHANGE_AUDIENCE not in (audiences if isinstance(audiences, list) else [audiences]):
        raise _Refused(
            "invalid_client",
            f"AADSTS700212: The assertion's audience is '{audiences}', not '{EXCHANGE_AUDIENCE}'.",
            401,
        )
    if not is_in_time(claims, now, leeway=SKEW):
        raise _Refused(
            "invalid_client", "AADSTS700024: The assertion is not within its time range.", 401
        )


def _instance(request: Request) -> dict[str, object]:
    """That the authority which is asked about is known: it is this one, whatever its name."""
    parts = urlsplit(request.query.get("authorization_endpoint", ""))
    tenant = parts.path.strip("/").partition("/")[0]
    if parts.scheme != "https" or not parts.netloc or not tenant:
        raise _Refused("invalid_instance", "AADSTS50049: Unknown or invalid instance.")
    host, own = parts.netloc, request.headers.get("host", "")
    if own.partition(":")[0] == host:
        host = own  # MSAL leaves the port out
    configuration = f"https://{host}/{tenant}/v2.0/.well-known/openid-configuration"
    return {
        "api-version": "1.1",
        "tenant_discovery_endpoint": configuration,
        "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
    }
