"""Who may do what: tokens put to ``$cbs`` and sent with administration requests.

A :class:`Policy` is asked once per token. Development accepts everything (:class:`AcceptAll`);
a policy that checks takes its place without anything else changing.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol
from urllib.parse import parse_qs, unquote_plus

from ci.servicebus.errors import Unauthorized

SAS_PREFIX = "SharedAccessSignature "


class Policy(Protocol):
    """Decides on tokens. Where ``demanded``, links wait for a connection's first good one."""

    @property
    def demanded(self) -> bool:
        """Without a token nothing is served."""

    def check(self, token: str, now: float) -> None:
        """Raise :class:`~ci.servicebus.errors.Unauthorized` where a token does not hold."""


class AcceptAll:
    """Any token holds, and so does none."""

    demanded = False

    def check(self, token: str, now: float) -> None:
        """Nothing to object to."""


@dataclass(frozen=True)
class SharedKeys:
    """Shared access signatures must be signed with a known key and not be over.

    Bearer tokens are accepted as they are: their signer is not known here.
    """

    keys: Mapping[str, str]
    demanded = True

    def check(self, token: str, now: float) -> None:
        """See :class:`Policy`."""
        if not token:
            raise Unauthorized("No token was given.")
        if not token.startswith(SAS_PREFIX):
            return
        fields = {k: v[0] for k, v in parse_qs(token[len(SAS_PREFIX) :]).items()}
        name, expiry = fields.get("skn", ""), fields.get("se", "")
        key = self.keys.get(name)
        if key is None:
            raise Unauthorized(f"InvalidSignature: there is no key named '{name}'.")
        if not expiry.isdigit() or int(expiry) <= now:
            raise Unauthorized("ExpiredToken: the token is expired.")
        raw = dict(part.partition("=")[::2] for part in token[len(SAS_PREFIX) :].split("&") if part)
        resource = raw.get("sr", "")
        # Clients differ in how they quote the resource; each form that they sign is tried.
        for signed in {resource, unquote_plus(resource)}:
            digest = hmac.new(key.encode(), f"{signed}\n{expiry}".encode(), sha256).digest()
            if hmac.compare_digest(b64encode(digest).decode(), fields.get("sig", "")):
                return
        raise Unauthorized("InvalidSignature: the token has an invalid signature.")
