"""Who may do what: tokens put to ``$cbs`` and sent with administration requests.

A :class:`Policy` is asked once per token. Development accepts everything (:class:`AcceptAll`);
a policy that checks takes its place without anything else changing.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol
from urllib.parse import parse_qs, unquote_plus

from servicebus_emulator.broker.model import AuthorizationRule
from servicebus_emulator.broker.namespace import url_path
from servicebus_emulator.errors import Unauthorized

_SECONDS = re.compile(r"[0-9]{1,18}")
BASIC_PREFIX = "Basic "
SAS_PREFIX = "SharedAccessSignature "
RIGHTS = frozenset({"Send", "Listen", "Manage"})


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows: ``rights`` to an entity and all below it ("" is the namespace)."""

    resource: str = ""
    rights: frozenset[str] = RIGHTS

    def allows(self, right: str, entity: str) -> bool:
        """That right to that entity."""
        path = entity.lower()
        covered = not self.resource or path == self.resource or path.startswith(f"{self.resource}/")
        return covered and (right in self.rights or "Manage" in self.rights)


@dataclass(frozen=True, slots=True)
class Key:
    """A shared access key to the namespace and what it allows."""

    name: str
    key: str
    rights: frozenset[str] = RIGHTS


class Policy(Protocol):
    """Decides on tokens. Where ``demanded``, links wait for a token that allows them."""

    @property
    def demanded(self) -> bool:
        """Without a token nothing is served."""

    def check(self, token: str, now: float) -> Grant:
        """Raise :class:`~servicebus_emulator.errors.Unauthorized` where a token does not hold."""


class AcceptAll:
    """Any token holds, and so does none."""

    demanded = False

    def check(self, token: str, now: float) -> Grant:
        """Nothing to object to."""
        return Grant()


def no_rules(path: str) -> Iterable[AuthorizationRule]:
    """Queues without keys of their own."""
    return ()


@dataclass(frozen=True)
class SharedKeys:
    """Shared access signatures must be signed with a known key and not be over.

    A key is the namespace's, or stands in a rule of the queue that the token names. What is no
    signature is a bearer's token, and ``bearer`` decides on it: where nobody knows its signer, it
    is accepted as it is.
    """

    keys: Collection[Key]
    rules: Callable[[str], Iterable[AuthorizationRule]] = no_rules
    bearer: Policy = field(default_factory=AcceptAll)
    demanded = True

    def check(self, token: str, now: float) -> Grant:
        """See :class:`Policy`."""
        if not token:
            raise Unauthorized("No token was given.")
        if token.startswith(BASIC_PREFIX):
            return self._check_key(token)
        if not token.startswith(SAS_PREFIX):
            return self.bearer.check(token, now)
        fields = {k: v[0] for k, v in parse_qs(token[len(SAS_PREFIX) :]).items()}
        name, expiry = fields.get("skn", ""), fields.get("se", "")
        resource = resource_path(fields.get("sr", ""))
        known = [*self._known(name, resource)]
        if not known:
            raise Unauthorized(f"InvalidSignature: there is no key named '{name}'.")
        if not _SECONDS.fullmatch(expiry) or int(expiry) <= now:
            raise Unauthorized("ExpiredToken: the token is expired.")
        raw = dict(part.partition("=")[::2] for part in token[len(SAS_PREFIX) :].split("&") if part)
        signed = raw.get("sr", "")
        for key in known:
            # Clients differ in how they quote the resource; each form that they sign is tried.
            for text in {signed, unquote_plus(signed)}:
                digest = hmac.new(key.key.encode(), f"{text}\n{expiry}".encode(), sha256).digest()
                if hmac.compare_digest(b64encode(digest), fields.get("sig", "").encode()):
                    return Grant(resource, key.rights)
        raise Unauthorized("InvalidSignature: the token has an invalid signature.")

    def _check_key(self, token: str) -> Grant:
        """A key's name and the key itself, as a browser sends them."""
        try:
            given = b64decode(token[len(BASIC_PREFIX) :], validate=True).decode()
        except ValueError:
            raise Unauthorized("The name and the key cannot be read.") from None
        name, _, secret = given.partition(":")
        for key in self.keys:
            if key.name == name and hmac.compare_digest(key.key.encode(), secret.encode()):
                return Grant("", key.rights)
        raise Unauthorized(f"InvalidSignature: there is no key named '{name}', or it is another.")

    def _known(self, name: str, resource: str) -> Iterator[Key]:
        for key in self.keys:
            if key.name == name:
                yield key
        for rule in self.rules(resource):
            if rule.key_name == name:
                for secret in (rule.primary_key, rule.secondary_key):
                    if secret:
                        yield Key(name, secret, frozenset(rule.rights))


def resource_path(resource: str) -> str:
    """The entity that a token names, in lower case; its ``$management`` goes with it."""
    path = url_path(unquote_plus(resource)).strip("/").lower()
    return path.removesuffix("/$management").removesuffix("$management")
