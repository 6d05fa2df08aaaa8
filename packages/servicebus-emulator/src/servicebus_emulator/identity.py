"""Tokens as Microsoft Entra issues them, signed here and verified here.

A token is a JWT for one audience: the resource that its holder wants to use. It is signed with the
server's TLS key, which every start has and which is kept wherever clients are to go on trusting
this server: a token then survives a restart as the certificate does.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from servicebus_emulator.errors import Unauthorized
from servicebus_emulator.gateway.tokens import Grant

TENANT = "11111111-1111-1111-1111-111111111111"
"""Whose a token is where no tenant is asked, as for a managed identity."""

SYSTEM_ASSIGNED = "22222222-2222-2222-2222-222222222222"
"""The client of a token for a managed identity that is not named."""

SERVICE_BUS = ("servicebus.azure.net", ".servicebus.windows.net")
"""The hosts for which a token is good here; a leading dot stands for all below."""

RESOURCE_MANAGER = ("management.azure.com", "management.core.windows.net")
"""The same, for what Azure Resource Manager answers."""

EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"
"""For whom Kubernetes must have issued a token that is exchanged for one of ours."""

_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_BEARER = "Bearer "


@dataclass(frozen=True, slots=True)
class _Signer:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    algorithm: str
    name: str


class Identity:
    """Issues tokens, and is the policy that takes no others."""

    demanded = True

    def __init__(self) -> None:
        self._held: _Signer | None = None

    def use_key(self, pem: bytes) -> None:
        """Sign with this key from now on; raises ``ValueError`` where none can sign a JWT."""
        key = serialization.load_pem_private_key(pem, password=None)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            algorithm = _CURVES[key.curve.name]
        elif isinstance(key, rsa.RSAPrivateKey):
            algorithm = "RS256"
        else:
            raise ValueError("tokens are signed with RSA or a NIST curve, and this key is neither")
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        name = urlsafe_b64encode(sha256(public).digest()[:15]).decode()
        self._held = _Signer(key, algorithm, name)

    @property
    def _signer(self) -> _Signer:
        assert self._held is not None, "use_key() comes first"
        return self._held

    def issue(
        self, audience: str, now: float, life: float, *, client: str, tenant: str = TENANT
    ) -> str:
        """A token for ``audience``; ``life`` in seconds."""
        claims = {
            "aud": audience,
            "iss": issuer(tenant),
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now + life),
            "appid": client,
            "oid": client,
            "sub": client,
            "tid": tenant,
            "uti": uuid4().hex,
            "ver": "1.0",
        }
        signer = self._signer
        return jwt.encode(claims, signer.key, signer.algorithm, headers={"kid": signer.name})

    def check(self, token: str, now: float) -> Grant:
        """See :class:`~servicebus_emulator.gateway.tokens.Policy`: every right, as an owner has."""
        self.verify(token, now, SERVICE_BUS)
        return Grant()

    def verify(self, token: str, now: float, hosts: tuple[str, ...]) -> dict[str, Any]:
        """The claims of a token for one of ``hosts``; raises :class:`Unauthorized`.

        The time is the emulator's own, which tests may move.
        """
        signer = self._signer
        bare = token.removeprefix(_BEARER).strip()
        if not bare:
            raise Unauthorized("No token was given.")
        try:
            claims = jwt.decode(
                bare,
                signer.key.public_key(),
                [signer.algorithm],
                # The time is judged below: it is not the machine's.
                options={
                    "require": ["aud", "exp", "nbf"],
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise Unauthorized(f"InvalidSignature: the token does not hold: {error}.") from None
        if not is_in_time(claims, now):
            raise Unauthorized("ExpiredToken: the token is expired.")
        if not _is_for(claims["aud"], hosts):
            raise Unauthorized(f"InvalidAudience: the token is for '{claims['aud']}'.")
        return claims

    def jwks(self) -> dict[str, object]:
        """The public key, as clients read it who verify tokens themselves."""
        signer = self._signer
        public = signer.key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            key = RSAAlgorithm.to_jwk(public, as_dict=True)
        else:
            key = ECAlgorithm.to_jwk(public, as_dict=True)
        return {"keys": [{**key, "kid": signer.name, "use": "sig", "alg": signer.algorithm}]}

    @property
    def algorithm(self) -> str:
        """The name of the signatures' algorithm."""
        return self._signer.algorithm


def issuer(tenant: str) -> str:
    """Who says so, in a token of that tenant."""
    return f"https://sts.windows.net/{tenant}/"


def is_in_time(claims: dict[str, Any], now: float, *, leeway: float = 0.0) -> bool:
    """The token has begun and is not over; ``leeway`` is in seconds, for another's clock."""
    begin, end = claims.get("nbf", 0), claims.get("exp")
    if not isinstance(begin, int | float) or not isinstance(end, int | float):
        return False
    return begin - leeway <= now < end + leeway


def _is_for(audience: object, hosts: tuple[str, ...]) -> bool:
    if not isinstance(audience, str):
        return False
    host = (urlsplit(audience).hostname or "").lower()
    return any(host.endswith(name) if name.startswith(".") else host == name for name in hosts)
