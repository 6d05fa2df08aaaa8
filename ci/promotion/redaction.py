"""What must not be shown or stored: values that are secret by their name or by their shape.

Names alone are not enough (``database_url`` holds a password) and shapes alone are not either
(a password has none), so both are looked at. A name that ends in ``name`` or ``ref`` tells
where a secret is, not what it is, and stays.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(left out)"

_SECRET_NAME = re.compile(
    r"""pass(word|wd|phrase)?$ | passw | secret | token | credential
        | (api|access|account|private|shared|signing|encryption|master)[_-]?key
        | conn(ection)?[_-]?str(ing)? | ^(sas|dsn)$ | _sas$""",
    re.IGNORECASE | re.VERBOSE,
)
_NOT_SECRET_NAME = re.compile(
    r"(name|names|ref|refs|namespace|path|file|mount|enabled|ttl|seconds|audience|issuer)$",
    re.IGNORECASE,
)

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ in an address: the user and the host stay
    (
        re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s:/@'\"]*):[^\s/@'\"]+(?=@)", re.I),
        r"\g<keep>:***",
    ),
    # Azure connection strings and signatures
    (
        re.compile(
            r"(?P<keep>\b(?:SharedAccessKey|AccountKey|SharedAccessSignature|sig)=)[^;&\s'\"]+",
            re.I,
        ),
        r"\g<keep>***",
    ),
    (re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\g<keep>***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "***"),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
        ),
        "***",
    ),
)
_ASSIGNED = re.compile(
    r"(?P<key>\b[A-Za-z0-9_.-]+)(?P<sep>\s*[=:]\s*)(?P<quote>[\"']?)(?P<value>[^\s\"',;]+)(?P=quote)"
)


def secret_name(name: str) -> bool:
    """Whether a value of this name is secret, for example ``DB_PASSWORD``."""
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET_NAME.search(name)


def text(value: str) -> str:
    """Free text (logs, descriptions) without secrets that can be told by shape or name."""
    for pattern, instead in _SHAPES:
        value = pattern.sub(instead, value)

    def assigned(match: re.Match[str]) -> str:
        if not secret_name(match["key"]) or match["value"] in ("***", "|", ">", "{}", "null"):
            return match[0]
        return f"{match['key']}{match['sep']}{match['quote']}***{match['quote']}"

    return _ASSIGNED.sub(assigned, value)


def shape(value: str) -> str:
    """One value without the secret parts that its shape gives away."""
    for pattern, instead in _SHAPES:
        value = pattern.sub(instead, value)
    return value


def tree(value: Any, *, name: str = "") -> Any:
    """A copy of a decoded YAML tree with its secret values left out.

    Knows three shapes of Kubernetes: the data of a Secret, environment entries
    (``{name: …, value: …}``) and plain keys.
    """
    if isinstance(value, dict):
        if value.get("kind") == "Secret":
            return {
                key: dict.fromkeys(item, HIDDEN)
                if key in ("data", "stringData") and isinstance(item, dict)
                else tree(item, name=key)
                for key, item in value.items()
            }
        if set(value) == {"name", "value"} and isinstance(value["name"], str):
            return {"name": value["name"], "value": tree(value["value"], name=value["name"])}
        return {key: tree(item, name=str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [tree(item, name=name) for item in value]
    if isinstance(value, str):
        return HIDDEN if value and secret_name(name) else shape(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and secret_name(name):
        return HIDDEN
    return value
