"""What must not be shown or stored: removed by value, by name and by shape. The ground floor.

Everything that a run writes or prints passes through a :class:`Redactor`. It removes

* values that are known to be secret (:meth:`Redactor.add`), also encoded;
* what a secret looks like: passwords in addresses, keys in connection strings, bearer and basic
  tokens, JWTs, private keys, whatever the line breaks;
* what is called a secret (``DB_PASSWORD=…``, ``"token": "…"``), and what Kubernetes calls one:
  the data of a Secret, ``env`` entries, ``last-applied-configuration``, stored Helm releases.

Names alone are not enough (``database_url`` holds a password) and shapes alone are not either
(a password has none). A bare value in a sentence that is neither known, nor named, nor shaped
cannot be recognised; so :meth:`Redactor.tree` remembers what it hides, and hides it everywhere.
A name that ends in ``name`` or ``ref`` says where a secret is, not what it is, and stays; so do
digests, image references and resource names.

Text is taken line by line in bounded time per character, because logs are written while a
program runs; a manifest (JSON or YAML) within it is held back until it is whole.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import html
import json
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import yaml

from ci import digest

HIDDEN = "(left out)"
"""Stands for a whole value of a decoded tree."""
MARK = "***"
"""Stands for a part of a text."""

SHORTEST = 6
"""Characters; a shorter known value would hide too much else."""
LONGEST_DOCUMENT = 16 << 20
"""Characters of a manifest that is held back; a longer one is taken line by line."""
LONGEST_KEY = 200
"""Lines of a private key, at most."""

T = TypeVar("T")

# -- names -----------------------------------------------------------------------------------------

_SECRET_NAME = re.compile(
    r"""(^|[_.-])pass$ | (?-i:[a-z]Pass)$ | passw | passphrase | (^|[_.-])pwd$ | secret | token
        | credential | authorization | cookie
        | (api|access|account|private|shared|signing|encryption|master|license)[_.-]?key
        | (^|[_.-])tls[_.-]key$ | key[_-]?data$ | dockerconfigjson | dockercfg
        | conn(ection)?[_-]?str(ing)? | ^(sas|dsn)$ | _(sas|dsn)$ | last-applied-configuration$""",
    re.IGNORECASE | re.VERBOSE,
)
_NOT_SECRET_NAME = re.compile(
    r"""(name|names|ref|refs|namespace|path|file|mount|enabled|ttl|seconds|audience|issuer
         |[_-]env|_command|stdin|url|uri|endpoint|pullsecrets?|type|version)$
        | ^(existing|checksum[/._-]) | ^(old)?pwd$(?-i:(?<=PWD))
        | (^|[_-])(max|min|num|total|count|prompt|completion|input|output|used)
          [_-]?(new[_-]?)?tokens?$
        | tokens?[_-]?(count|limit)$ | ^automount""",
    re.IGNORECASE | re.VERBOSE,
)
_CLEARLY_SECRET = re.compile(r"pass|pwd|key|conn|authorization|cookie", re.IGNORECASE)
"""Names that stand before nothing but a value; ``secret:`` and ``token:`` also end a clause."""

_ORDINARY = re.compile(
    r"(user(name)?|login|host(name)?|port|data(base)?|db|name(space)?|server|region|\.crt|\.cer"
    r"|ca|release|issuer|vhost|schema|mode|level|type|version)$",
    re.IGNORECASE,
)
"""Keys of a Secret whose values occur elsewhere, too, and harm nobody."""


def secret_name(name: str) -> bool:
    """Whether a value of this name is secret, for example ``DB_PASSWORD``."""
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET_NAME.search(name)


# -- shapes ----------------------------------------------------------------------------------------
# Every repetition is bounded or possessive, or begins where no other match of it can begin: the
# time is proportional to the length of what is read.

_NO_VALUE = frozenset(
    {MARK, "|", ">", "{}", "[]", "null", "nil", "true", "false", "none", "~", "-", "''", '""'}
)
_NO_VALUE_BEGIN = ("(left out", "<none>", "<unset>", "<nil>", "<set to the key", "{{", "$(", "`")
_VARIABLE = re.compile(r"\$\{?\w+\}?|\$\(\w+\)|%\(\w+\)s|\{\w+\}")

_WORD = re.compile(r"[^\s'\"<>]+")
_PORT = re.compile(r"\d{1,5}(?:[/?#,]|$)")
_TOKEN_AS_USER = re.compile(r"[A-Za-z0-9_.~%+-]{20,1024}")
_KEYED = re.compile(
    r"(?P<keep>\b(?:SharedAccessKey|AccountKey|SharedAccessSignature|SharedSecretValue|sig"
    r"|X-Amz-Signature)(?:\s{0,4}=\s{0,4}|%3D))[^;&\s'\"\\]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s{1,8})(?P<value>[A-Za-z0-9._~+/=-]{8,})", re.I)
_AFTER_BEARER = frozenset({"authentication", "authorization", "credentials", "challenge"})
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]*+)?")
_ISSUED = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|glpat-[\w-]{20,64}"
    r"|xox[abeoprs]-[\w-]{10,255}|AGE-SECRET-KEY-1[0-9A-Z]{50,70}|hvs\.[\w-]{20,200}"
    r"|npm_[A-Za-z0-9]{36}|dckr_pat_[\w-]{20,64}|sk-(?:proj-)?[A-Za-z0-9]{32,200})"
)
_HOOK = re.compile(r"(?P<keep>hooks\.slack\.com/services/)[^\s'\"<>*][^\s'\"<>]*", re.I)
_BLOB = re.compile(r"(?<![A-Za-z0-9+/])(?:H4sI|SDRzSU)[A-Za-z0-9+/]{40,}+={0,2}")
_ENCODED_PEM = re.compile(r"(?<![A-Za-z0-9+/])LS0tLS1CRUdJTi[A-Za-z0-9+/]{20,}+={0,2}")

_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINE = re.compile(r"(?:^|\s)[A-Za-z0-9+/]{64}\s*$")
_KEY_END = re.compile(r"(?:^|\s)\\?[A-Za-z0-9+/]{1,80}={0,2}(?:\\n)?\\?[\"']?\s*$")
_KEY_FOLLOWS = re.compile(r"(?:\\n)?\s*$|[^\\]*$|.*\\\s*$")
_KEY_HEADER = re.compile(r"\b(?:Proc-Type|DEK-Info): ")

_HEAD = re.compile(
    r"(?<![\w.-])-{0,2}(?P<key>[A-Za-z_.][\w.-]{0,127}+)(?P<sep>(?:\\{0,8}[\"'])?+\s{0,16}+"
    r"(?::=|=>|%3D|[=:])\s{0,16})(?P<quote>\\{0,8}[\"']|)",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?:[^\s\"'&;\\]|\\(?![nrt\"'])|[&;](?![\w.%+ -]{1,64}=|\s|$))+")
_QUOTED = {'"': re.compile(r'(?:[^"\\]|\\.)*+'), "'": re.compile(r"[^']*+")}
_TWO_WORDS = re.compile(r"[^\s\"',;]+(?:\s{1,4}[^\s\"',;]+)?")
_FLAG = re.compile(
    r"(?P<keep>(?<!\S)--?(?P<key>[A-Za-z][\w-]{0,63}+)\s{1,4})"
    r"(?P<value>'[^']*'|\"[^\"]*\"|[^\s'\"-]\S*)"
)
_PAIR = re.compile(
    r"\b(?:name|key)\\{0,8}[\"']?\s{0,4}[:=]\s{0,4}\\{0,8}[\"']?(?P<key>[\w.-]{1,128}+)"
    r"\\{0,8}[\"']?[,;\s]{1,4}\\{0,8}[\"']?value\\{0,8}[\"']?\s{0,4}[:=]\s{0,4}"
    r"(?P<quote>\\{0,8}[\"']|)",
    re.IGNORECASE,
)
_NAME_LINE = re.compile(
    r"\s*(?:-\s+)?[\"']?(?:name|key)[\"']?\s{0,4}:\s{0,4}[\"']?(?P<key>[\w.-]{1,128})[\"']?\s*,?\s*$",
    re.IGNORECASE,
)
_VALUE_LINE = re.compile(
    r"(?P<keep>\s*(?:-\s+)?[\"']?value[\"']?\s{0,4}:\s{0,4})(?P<value>\S.*?)(?P<comma>,?\s*)$", re.I
)
_SECRET_KIND = re.compile(r"\bkind\\{0,8}[\"']?\s{0,4}[:=]\s{0,4}\\{0,8}[\"']?Secret(?:List)?\b")
_SECRET_DATA = re.compile(
    r"(?P<keep>\b(?:data|stringData)\\{0,8}[\"']?\s{0,4}:\s{0,4}(?:map\[|\{))[^{}\[\]]*+"
)
_LAST_APPLIED = re.compile(
    r"(?P<keep>last-applied-configuration\\{0,8}[\"']?\s{0,4}[=:]\s{0,4})(?P<value>\{.*)$"
)

_HARMLESS = re.compile(rf"[A-Za-z0-9_/ ]{{0,14}}|{digest.PATTERN}")

_JSON_OPENS = ("{", "[", "[{")
_YAML_OPENS = re.compile(
    r"(?:---|items:|(?:USER-SUPPLIED|COMPUTED) VALUES:)\s*$|(?:- )?(?:apiVersion|kind):\s"
)
_YAML_GOES_ON = re.compile(
    r"\s|$|#|---|\.\.\.|- |-$|\}|\]|[\"']?[\w./-]{1,200}[\"']?\s{0,4}:(?:\s|$)"
)
_ALIAS = re.compile(r"(?m)(?:^|[\s\[,:-])[*&][A-Za-z0-9_]")


def _userinfo(line: str) -> str:
    """``user:password@`` in addresses: the user and the host stay."""
    if "://" not in line or "@" not in line:
        return line
    return _WORD.sub(lambda word: _addresses(word[0]), line)


def _addresses(word: str) -> str:
    if "://" not in word or "@" not in word:
        return word
    return "://".join(
        _authority(part) if number else part for number, part in enumerate(word.split("://"))
    )


def _authority(part: str) -> str:
    authority = re.split(r"[/?#]", part, maxsplit=1)[0]
    user, colon, rest = part.partition(":")
    if "@" in authority:
        end = authority.rindex("@")
        if colon and len(user) < end:
            return f"{user}:{MARK}{part[end:]}"
        return MARK + part[end:] if _TOKEN_AS_USER.fullmatch(part, 0, end) else part
    # A password that was not encoded; but no port, as of a registry before a digest.
    if colon and user and "@" in rest and "/" not in user and not _PORT.match(rest):
        return f"{user}:{MARK}{rest[rest.index('@') :]}"
    return part


def _scheme(found: re.Match[str]) -> str:
    value = found["value"]
    if found["keep"][:2] in ("Be", "be", "BE"):
        looks = value.lower().rstrip(".") not in _AFTER_BEARER
    else:  # "basic configuration" is no pair of user and password
        looks = re.search(r"[0-9~+/=]|[a-z][A-Z]", value) is not None
    return f"{found['keep']}{MARK}" if looks else found[0]


def _encoded_pem(found: re.Match[str]) -> str:
    try:
        begins = base64.b64decode(found[0][:80])
    except (binascii.Error, ValueError):
        return found[0]
    return MARK if b"PRIVATE KEY" in begins or b"OPENSSH" in begins else found[0]


def shape(value: str) -> str:
    """One text without the secret parts that their shape gives away, whatever they are called.
    Line by line: a private key over several lines is :func:`text`'s."""
    if _BEGIN.search(value) is not None:
        value = re.sub(
            rf"{_BEGIN.pattern}(?:(?!-----).|\n)*+(?:{_END.pattern}|-----[^\n]*|\Z)", MARK, value
        )
    value = _userinfo(value)
    value = _KEYED.sub(rf"\g<keep>{MARK}", value)
    value = _SCHEME.sub(_scheme, value)
    value = _JWT.sub(MARK, value)
    value = _ISSUED.sub(MARK, value)
    value = _HOOK.sub(rf"\g<keep>{MARK}", value)
    value = _BLOB.sub(MARK, value)
    return _ENCODED_PEM.sub(_encoded_pem, value)


def _has_no_value(value: str) -> bool:
    bare = value.strip().rstrip(",")
    return (
        bare.lower() in _NO_VALUE
        or not bare
        or bare.startswith(_NO_VALUE_BEGIN)
        or _VARIABLE.fullmatch(bare) is not None
    )


def _value_like(value: str) -> bool:
    """Whether what follows ``token:`` within a sentence is a value and no word."""
    word = value.rstrip(".:,")
    return (
        any(char.isdigit() for char in word)
        or len(word) >= 20
        or re.search(r"[a-z][A-Z]", word) is not None
    )


def _span(line: str, at: int, quoted: str) -> int:
    """Where a quoted value that begins at ``at`` ends."""
    if quoted in _QUOTED:
        found = _QUOTED[quoted].match(line, at)
        assert found is not None
        return found.end()
    end = line.find(quoted, at)
    return len(line) if end < 0 else end


def _named(line: str) -> str:
    """Values whose names are secret, in ``name=value``, ``name: value`` and JSON."""
    parts: list[str] = []
    done = at = 0
    begin = len(line) - len(line.lstrip(" \t-?{\"'\\"))
    while (found := _HEAD.search(line, at)) is not None:
        at = found.end()
        key, sep, quoted = found["key"], found["sep"], found["quote"]
        if not secret_name(key):
            # Its value may hold names of its own, right behind the separator.
            at = found.end("sep") if not quoted else at
            continue
        first = found.start("key") <= begin
        if quoted:
            end = _span(line, at, quoted)
        elif key.lower() == "authorization":
            words = _TWO_WORDS.match(line, at)
            end = words.end() if words else at
        elif first and ":" in sep:
            end = len(line.rstrip())
        elif line[at : at + 1] == "[":
            end = line.find("]", at) + 1 or len(line)
        else:
            bare = _BARE.match(line, at)
            end = bare.end() if bare else at
            while end > at and line[end - 1] in ",)}]":
                end -= 1
            sentence = sep.startswith(":") and sep != ":" and not first
            if sentence and not _CLEARLY_SECRET.search(key) and not _value_like(line[at:end]):
                continue
        value = line[at:end]
        if _has_no_value(value) or value.endswith(f" {MARK}") or value.startswith("{"):
            continue
        parts += (line[done:at], MARK)
        done = at = end
    parts.append(line[done:])
    return "".join(parts)


def _paired(line: str) -> str:
    """``{"name": "DB_PASSWORD", "value": "…"}`` within one line."""
    parts: list[str] = []
    done = at = 0
    while (found := _PAIR.search(line, at)) is not None:
        at = found.end()
        if not secret_name(found["key"]):
            at = found.end("key")
            continue
        if found["quote"]:
            end = _span(line, at, found["quote"])
        else:
            bare = re.compile(r"[^\s\"',;}\]]+").match(line, at)
            end = bare.end() if bare else at
        if _has_no_value(line[at:end]):
            continue
        parts += (line[done:at], MARK)
        done = at = end
    parts.append(line[done:])
    return "".join(parts)


def _flags(line: str) -> str:
    def hide(found: re.Match[str]) -> str:
        value = found["value"]
        if not secret_name(found["key"]) or _has_no_value(value) or value.startswith("id="):
            return found[0]
        return f"{found['keep']}{MARK}"

    return _FLAG.sub(hide, line) if "-" in line else line


def _once(line: str) -> str:
    line = shape(line)
    if "last-applied" in line:
        line = _LAST_APPLIED.sub(rf"\g<keep>{MARK}", line)
    if "kind" in line and "ata" in line and _SECRET_KIND.search(line):
        line = _SECRET_DATA.sub(rf"\g<keep>{MARK}", line)
    if "alue" in line or "ALUE" in line:
        line = _paired(line)
    if "=" in line or ":" in line or "%3" in line:
        line = _named(line)
    return _flags(line)


def _plain(line: str) -> str:
    """One line by itself, until nothing more is found in what is left."""
    for _ in range(4):
        less = _once(line)
        if less == line:
            break
        line = less
    return line


# -- trees -----------------------------------------------------------------------------------------

_SCHEMA_TYPES = frozenset({"string", "object", "integer", "number", "boolean", "array"})


class _Walk:
    """Copies a decoded tree without its secrets. ``clean`` takes a text, ``hidden`` is shown each
    value that its name hides, and that name."""

    def __init__(self, clean: Callable[[str], str], hidden: Callable[[str, str], None]) -> None:
        self._clean = clean
        self._hidden = hidden

    def walk(self, value: Any, name: str = "", *, within: bool = False) -> Any:
        """``within`` a mapping that is called a secret, every text is one."""
        if isinstance(value, Mapping):
            return self._mapping(value, name, within=within)
        if isinstance(value, (list, tuple)):
            return self._list(value, name, within=within)
        named = secret_name(name) or (within and not _NOT_SECRET_NAME.search(name))
        if isinstance(value, str):
            if named and value and not _has_no_value(value):
                self._hidden(name, value)
                return HIDDEN
            return self._clean(value)
        if named and not within and isinstance(value, (int, float)) and not isinstance(value, bool):
            return HIDDEN
        return value

    def _mapping(self, value: Mapping[Any, Any], name: str, *, within: bool) -> dict[Any, Any]:
        kind = value.get("kind")
        if kind == "SecretList" and isinstance(value.get("items"), list):
            items = [{"kind": "Secret", **i} if isinstance(i, dict) else i for i in value["items"]]
            return {k: self.walk(items if k == "items" else v, str(k)) for k, v in value.items()}
        within = (within or secret_name(name)) and not _refers(value)
        entry = value.get("name") if "value" in value else None
        found: dict[Any, Any] = {}
        for key, item in value.items():
            text = str(key)
            if kind == "Secret" and text in ("data", "stringData") and isinstance(item, Mapping):
                found[key] = {k: self._secret_data(str(k), v) for k, v in item.items()}
            elif text == "annotations" and isinstance(item, Mapping):
                found[key] = {k: self._annotation(str(k), v) for k, v in item.items()}
            elif text == "value" and isinstance(entry, str):
                found[key] = self.walk(item, entry, within=within)
            elif text == "name" and "value" in value:
                found[key] = self.walk(item, text)
            else:
                found[key] = self.walk(item, text, within=within)
            if isinstance(key, str) and (less := self._clean(key)) != key:
                found[less] = found.pop(key)
        return found

    def _list(self, value: list[Any] | tuple[Any, ...], name: str, *, within: bool) -> list[Any]:
        found: list[Any] = []
        flag = ""
        for item in value:
            if flag and isinstance(item, str) and not item.startswith("-"):
                self._hidden(flag, item)
                found.append(HIDDEN if item != HIDDEN else item)
            else:
                found.append(self.walk(item, name, within=within))
            flag = ""
            if isinstance(item, str) and re.fullmatch(r"--?[A-Za-z][\w-]{0,63}", item):
                flag = item.lstrip("-") if secret_name(item.lstrip("-")) else ""
        return found

    def _secret_data(self, key: str, value: Any) -> Any:
        if isinstance(value, str) and value and value != HIDDEN:
            self._hidden(key, value)
        return HIDDEN

    def _annotation(self, key: str, value: Any) -> Any:
        if not isinstance(value, str):
            return self.walk(value, key)
        if key.endswith("last-applied-configuration"):
            return HIDDEN
        less = _json_line(value, self.walk)
        return self.walk(value if less is None else less, key)


def _refers(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping that is called a secret names one (a volume, a key of a Secret), or
    describes one (a schema)."""
    keys = {str(key) for key in value}
    return (
        "secretName" in keys
        or keys <= {"name", "key", "optional", "namespace"}
        or value.get("type") in _SCHEMA_TYPES
    )


def _json_line(text: str, walk: Callable[[Any], Any]) -> str | None:
    """A JSON text without its secrets; ``None`` when it is none."""
    bare = text.strip()
    if bare[:1] not in ("{", "[") or bare[-1:] not in ("}", "]"):
        return None
    try:
        read = json.loads(bare)
        less = walk(read)
        if less == read:
            return text
        shown = json.dumps(
            less,
            indent=2 if "\n" in bare else None,
            separators=None if "\n" in bare or ": " in bare else (",", ":"),
            ensure_ascii=False,
        )
    except (ValueError, RecursionError, TypeError):
        return None
    return text.replace(bare, shown) if text != bare else shown


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Dates stay texts, so that they are written as they were read."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in several if not tag.endswith(":timestamp")]
    for first, several in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml_text(text: str, walk: Callable[[Any], Any]) -> str | None:
    """YAML documents without their secrets; ``None`` when it is none. No anchors: who wants to
    fill the memory uses them, and no Kubernetes tool writes any."""
    if _ALIAS.search(text):
        return None
    try:
        read = list(yaml.load_all(text, _Loader))
        if not any(isinstance(each, (dict, list)) for each in read):
            return None
        less = [walk(each) for each in read]
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, OverflowError):
        return None
    if less == read:
        return text
    shown = [
        yaml.safe_dump(each, sort_keys=False, width=10_000, allow_unicode=True).removesuffix(
            "...\n"
        )
        for each in less
    ]
    return ("---\n" if text.startswith("---") else "") + "---\n".join(shown)


# -- streams ---------------------------------------------------------------------------------------


class Stream:
    """Takes a text in pieces of any size and returns what may be written of it so far.

    Lines are returned whole; a manifest, and what may be the middle of a private key, once it is
    known what it is. :meth:`end` returns what was held back. Not thread-safe: one per source.
    """

    def __init__(self, known: Callable[[str], str], walk: Callable[[Any], Any]) -> None:
        self._known = known
        self._walk = walk
        self._partial: list[str] = []
        self._document: list[str] = []
        self._size = 0
        self._opened = ""
        self._docs = True
        self._key_left = 0
        self._held: list[str] = []
        self._block = -1
        self._listing = -1
        self._pending = False
        self._flagged = False

    def feed(self, piece: str) -> str:
        """The next piece; what may be written now."""
        if "\n" not in piece:
            self._partial.append(piece)
            return ""
        whole, _, rest = ("".join(self._partial) + piece).rpartition("\n")
        self._partial = [rest] if rest else []
        return "".join(self._take(line, "\n") for line in whole.split("\n"))

    def end(self) -> str:
        """What is left. The stream may be used again."""
        last = "".join(self._partial)
        self._partial = []
        out = self._take(last, "") if last else ""
        out += self._close()
        out += self._release(secret=False)
        self._key_left, self._block, self._listing = 0, -1, -1
        self._pending = self._flagged = False
        return out

    # -- manifests --

    def _take(self, line: str, newline: str) -> str:
        line = self._known(line)
        if self._opened == "json":
            self._keep(line, newline)
            if line[:1] in ("}", "]") or self._size > LONGEST_DOCUMENT:
                return self._close()
            return ""
        if self._opened == "yaml":
            if _YAML_GOES_ON.match(line) and self._size <= LONGEST_DOCUMENT:
                self._keep(line, newline)
                return ""
            return self._close() + self._take(line, newline)
        if self._docs and not self._key_left:
            bare = line.strip()
            if bare in _JSON_OPENS:
                self._opened = "json"
            elif _YAML_OPENS.match(line):
                self._opened = "yaml"
            if self._opened:
                self._keep(line, newline)
                return ""
            if bare[:1] in ("{", "["):
                less = _json_line(line, self._walk)
                line = line if less is None else less
        return self._one(line, newline)

    def _keep(self, line: str, newline: str) -> None:
        self._document.append(line + newline)
        self._size += len(line) + 1

    def _close(self) -> str:
        if not self._opened:
            return ""
        text, opened = "".join(self._document), self._opened
        self._document, self._size, self._opened = [], 0, ""
        read = _json_line if opened == "json" else _yaml_text
        less = read(text, self._walk) if len(text) <= LONGEST_DOCUMENT else None
        if less is None and _SECRET_KIND.search(text):
            end = "\n" if text.endswith("\n") else ""
            return f"(left out: a Secret that cannot be read, {len(text)} characters){end}"
        self._docs = False
        try:
            lines = (text if less is None else less).split("\n")
            out = "".join(self._one(line, "\n") for line in lines[:-1])
            return out + (self._one(lines[-1], "") if lines[-1] else "")
        finally:
            self._docs = True

    # -- lines --

    def _one(self, line: str, newline: str) -> str:
        if self._key_left:
            found = _END.search(line)
            if found is not None:
                self._key_left = 0
                rest = line[found.end() :]
                return self._one(rest, newline) if rest.strip() else ""
            words = line.split()
            if not words or _KEY_HEADER.search(line):
                self._key_left -= 1
                return newline
            if len(words) <= 4 and _KEY_END.search(line):
                self._key_left -= 1
                # Stamps and pods' names before it stay; without them nothing is left of it.
                before = line.rpartition(words[-1])[0] if len(words) > 1 else ""
                return f"{_plain(before)}{MARK}{newline}" if before else ""
            self._key_left = 0
        if self._held or _KEY_LINE.search(line):
            if (found := _END.search(line)) is not None:
                return self._release(secret=True) + self._one(MARK + line[found.end() :], newline)
            if _KEY_END.search(line) and len(self._held) < LONGEST_KEY:
                self._held.append(line + newline)
                return ""
            return self._release(secret=False) + self._one(line, newline)
        return self._key_begins(line, newline)

    def _release(self, *, secret: bool) -> str:
        held, self._held = self._held, []
        if secret:  # a log that began in the middle of a private key
            return ""
        return "".join(self._stated(line.rstrip("\n"), "\n" * line.endswith("\n")) for line in held)

    def _key_begins(self, line: str, newline: str) -> str:
        begins = [found.end() for found in _BEGIN.finditer(line)]
        if begins and not _END.search(line, begins[-1]):
            # Where the lines of the key are one line here, there are no more of them.
            follows = _KEY_FOLLOWS.match(line, begins[-1]) is not None
            self._key_left = LONGEST_KEY if follows else 0
        return self._stated(line, newline)

    def _stated(self, line: str, newline: str) -> str:
        """A line and what the ones before it say of it."""
        indent = len(line) - len(line.lstrip(" \t"))
        bare = line.strip()
        if self._block >= 0:
            if not bare or indent > self._block:
                return f"{line[:indent]}{MARK if bare else ''}{newline}"
            self._block = -1
        if self._listing >= 0 and bare:
            item = re.match(r"(\s*(?:-\s+)?)(\S.*)$", line)
            deeper = indent > self._listing or (indent == self._listing and bare[:2] == "- ")
            if item and deeper and not re.match(r"[\"']?[\w./-]+[\"']?\s*[:=]", item[2]):
                return f"{item[1]}{item[2] if _has_no_value(item[2]) else MARK}{newline}"
            if not deeper:
                self._listing = -1
        pending, self._pending = self._pending, False
        if pending and (value := _VALUE_LINE.match(line)) is not None:
            if value["value"][:1] in ("|", ">"):
                self._block = indent
            elif not _has_no_value(value["value"].strip("\"'")):
                return f"{value['keep']}{MARK}{value['comma']}{newline}"
            return _plain(line) + newline
        flagged, self._flagged = self._flagged, False
        if flagged and bare and not bare.startswith("-"):
            return f"{line[:indent]}{bare if _has_no_value(bare) else MARK}{newline}"
        if (flag := re.fullmatch(r"(?:- )?--?([A-Za-z][\w-]{0,63})", bare)) is not None:
            self._flagged = secret_name(flag[1])
        if (name := _NAME_LINE.match(line)) is not None:
            self._pending = secret_name(name["key"])
        opens = re.match(
            r"\s*(?:-\s+)*[\"']?([\w./-]{1,200})[\"']?\s{0,4}:\s*(?:([|>])[-+0-9]{0,3})?\s*$", line
        )
        if opens and secret_name(opens[1]):
            dashed = indent + len(re.match(r"(?:-\s+)*", line.lstrip())[0])  # type: ignore[index]
            if opens[2]:
                self._block = dashed
            else:
                self._listing = dashed
        return _plain(line) + newline


# -- what is used ----------------------------------------------------------------------------------


class Redactor:
    """One run's redaction: what is known to be secret, and everything above. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._forms: tuple[str, ...] = ()
        self._walk = _Walk(self.text, self._learn).walk

    def add(self, secret: str) -> None:
        """Hide this value from now on, also where it is encoded (base64, JSON, URLs, XML), and the
        secret parts of a connection string. One of fewer than 6 characters would hide too
        much else, and is not hidden."""
        several = [secret, secret.strip(), *_parts(secret)]
        if "\n" in secret:
            several += [line.strip() for line in secret.splitlines() if len(line.strip()) >= 16]
        with self._lock:
            new = {each for each in several if len(each) >= SHORTEST} - self._secrets
            if new:
                self._secrets |= new
                forms = {form for each in new for form in _forms(each)} | set(self._forms)
                self._forms = tuple(sorted(forms, key=len, reverse=True))

    def known(self, text: str) -> str:
        """Without the values that were added, and nothing else: for what is rendered of texts
        that were redacted already."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        return text

    def text(self, text: str) -> str:
        """Free text (logs, messages, manifests) without secrets."""
        if _HARMLESS.fullmatch(text):
            return self.known(text)
        stream = self.stream()
        return stream.feed(text) + stream.end()

    def words(self, argv: Sequence[str]) -> tuple[str, ...]:
        """A command line: also ``--token VALUE`` and all of a ``password=a b`` that is one word."""
        return tuple(
            word
            if (found := re.match(r"(-{0,2}[\w.-]{1,128}=)(.+)", word, re.S)) is None
            or not secret_name(found[1][:-1])
            or _has_no_value(found[2])
            else f"{found[1]}{MARK}"
            for word in self.tree(list(argv))
        )

    def shape(self, text: str) -> str:
        """Without known values and what is shaped as a secret, whatever its name."""
        return shape(self.known(text))

    def stream(self) -> Stream:
        """For a text that comes in pieces."""
        return Stream(self.known, self._walk)

    def tree(self, value: Any, *, name: str = "") -> Any:
        """A copy of a decoded YAML or JSON tree with its secrets left out. What is hidden because
        of its name is hidden in every text from then on."""
        return self._walk(value, name)

    def data(self, value: T) -> T:
        """A copy of a value made of dataclasses, tuples, lists, dictionaries and texts, each of
        which is redacted by itself."""
        return copied(value, self.text)

    def _learn(self, name: str, value: str) -> None:
        for key, each in _inside(name, value):
            # Its shape hides what is secret of it, and shows the rest; but a key's lines have none.
            if _BEGIN.search(each) is None and shape(each) != each:
                for part in _parts(each):
                    self.add(part)
            elif _strong(key, each):
                self.add(each)


def copied(value: T, clean: Callable[[str], str]) -> T:
    """A copy of a value made of dataclasses, tuples, lists, dictionaries and texts, each text of
    which ``clean`` has changed; whatever else it is made of stays as it is."""
    made: T = _copied(value, clean)
    return made


def _copied(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return clean(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value,
            **{
                field.name: _copied(getattr(value, field.name), clean)
                for field in dataclasses.fields(value)
                if field.init
            },
        )
    if isinstance(value, Mapping):
        return {_copied(k, clean): _copied(v, clean) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        copied = [_copied(each, clean) for each in value]
        return type(value)(*copied) if hasattr(value, "_fields") else type(value)(copied)
    return value


def _parts(secret: str) -> Iterator[str]:
    """The secret parts of a connection string or an address."""
    for found in re.finditer(
        r"(?:SharedAccessKey|AccountKey|Password|Pwd)\s{0,4}=\s{0,4}([^;\s]+)", secret, re.I
    ):
        yield found[1]
    if (found_ := re.match(r"[a-z][a-z0-9+.-]*://[^/\s:]*:([^\s]+)@", secret, re.I)) is not None:
        yield found_[1]


def _forms(secret: str) -> Iterator[str]:
    """A value as it may stand in a text."""
    raw = secret.encode("utf-8", "surrogatepass")
    written = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        secret.replace("'", "''"),
        shlex.quote(secret).strip("'"),
        quote(raw, safe=""),
        quote(raw, safe="/"),
        quote_plus(raw),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
    # Within a longer text that was encoded as a whole it begins at one of three places.
    for skipped in range(3):
        encoded = base64.b64encode(b"\0" * skipped + raw).decode().rstrip("=")
        core = encoded[(skipped * 8 + 5) // 6 : (skipped + len(raw)) * 8 // 6]
        if len(core) > SHORTEST:
            written.add(core)
            written.add(core.translate(str.maketrans("+/", "-_")))
    return (form for form in written if len(form) >= SHORTEST)


def _inside(name: str, value: str) -> Iterator[tuple[str, str]]:
    """What a hidden value may show of itself elsewhere: itself, and decoded; of JSON, its texts."""
    several = [value]
    with suppress(binascii.Error, ValueError):
        several.append(base64.b64decode(value, validate=True).decode())
    for each in several:
        yield name, each
        if each[:1] == "{":
            try:
                yield from _texts(json.loads(each))
            except (ValueError, RecursionError):
                continue


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, str(key))
    elif isinstance(value, str):
        yield name, value


_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?|[\w.-]+(:\d+)?/[\w./:@-]+")


def _strong(name: str, value: str) -> bool:
    """Whether a value is one that occurs nowhere else by chance: hiding ``postgres`` or the name
    of a release everywhere would hide what happened."""
    if not 8 <= len(value) <= 16_384 or _has_no_value(value):
        return False
    if "-----BEGIN" in value:
        return _BEGIN.search(value) is not None
    if _ORDINARY.search(name) and not secret_name(name):
        return False
    mixed = any(c.isdigit() for c in value) or any(c.isupper() for c in value)
    if secret_name(name):
        return mixed or len(value) >= 12
    if _RESOURCE.fullmatch(value):
        return mixed and len(value) >= 32 and not set(value) & set("./:-")
    return mixed and len(value) >= 12


def text(value: str) -> str:
    """Free text (logs, descriptions) without secrets that their shape or their name tells; a run's
    own :class:`Redactor` also knows values."""
    if _HARMLESS.fullmatch(value):
        return value
    stream = Stream(str, _ALONE_WALK)
    return stream.feed(value) + stream.end()


def tree(value: Any, *, name: str = "") -> Any:
    """A copy of a decoded YAML tree with its secrets left out, as :meth:`Redactor.tree` without
    remembering any."""
    return _ALONE_WALK(value, name)


def _forget(_name: str, _value: str) -> None:
    """A module has no run whose texts it could hide values from."""


_ALONE_WALK = _Walk(text, _forget).walk
