"""CoreDNS's Corefile -> the same with names of a cloud led to Services, and back. Pure.

A name is exact (``login.microsoftonline.com``) or has a star for its first label
(``*.servicebus.windows.net``). Each becomes one ``rewrite`` rule at the top of the block that
serves the root zone. Its expression is anchored at both ends: a pod's search domains are tried
first, and ``NAME.servicebus.windows.net.launch.svc.cluster.local`` has to stay unknown.
``answer auto`` gives the answer the name that was asked for. :func:`without` takes away what
:func:`redirect` put in, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

BEGIN = "    # begin: the stand-in cloud's names"
END = "    # end: the stand-in cloud's names"

_OURS = re.compile(rf"\n{re.escape(BEGIN)}\n.*?\n{re.escape(END)}", re.DOTALL)
_TOKEN = re.compile(r'#[^\n]*|"(?:\\.|[^"\\])*"|\S+')
_ROOT = re.compile(r"(dns://)?\.(:\d+)?,?")


class Unreadable(ValueError):
    """The text is no Corefile that this can edit; says why in a few words."""


def redirect(corefile: str, routes: Mapping[str, str]) -> str:
    """``routes`` are names, each with the host that answers instead. What an earlier call put in
    is replaced. Raises :class:`Unreadable`."""
    text = without(corefile)
    if not routes:
        return text
    lines = [rule(name, host) for name, host in routes.items()]
    block = "\n".join(("", BEGIN, *lines, END))
    found = list(_root_blocks(text))
    if not found:
        raise Unreadable("no block serves the root zone (.)")
    for position in reversed(found):
        text = text[:position] + block + text[position:]
    return text


def without(corefile: str) -> str:
    """The Corefile as it was before :func:`redirect`. Raises :class:`Unreadable` when only a part
    of what was put in is left."""
    text = _OURS.sub("", corefile)
    if BEGIN.strip() in text or END.strip() in text:
        raise Unreadable("the stand-in cloud's names were edited by somebody else")
    return text


def rule(name: str, host: str) -> str:
    """The line that leads one name to ``host``."""
    first, _, rest = name.partition(".")
    labels = "[^.]+" if first == "*" else re.escape(first)
    expression = rf"^{labels}\.{rest.replace('.', chr(92) + '.')}\.$"
    return f"    rewrite stop name regex {expression} {host}. answer auto"


def _root_blocks(text: str) -> Iterator[int]:
    """The ends of the lines that open a block for the root zone."""
    depth = 0
    line: list[str] = []
    at = 0
    for token, position in _tokens(text):
        if "\n" in text[at:position]:
            line = []
        at = position
        if token == "{":
            if depth == 0 and any(_ROOT.fullmatch(word) for word in line):
                yield _end_of_line(text, position + 1)
            depth += 1
        elif token == "}":
            depth -= 1
        line.append(token)
        if depth < 0:
            break
    if depth != 0:
        raise Unreadable("its braces do not match")


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    for found in _TOKEN.finditer(text):
        if not found[0].startswith("#"):
            yield found[0], found.start()


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    rest = text[position:end] if end >= 0 else ""
    if end < 0 or (rest.strip() and not rest.strip().startswith("#")):
        raise Unreadable("something follows the brace that opens the root zone's block")
    return end
