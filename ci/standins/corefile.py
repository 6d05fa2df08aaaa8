"""CoreDNS's Corefile -> the same with names of a cloud redirected to Services, and back. Pure.

A name is exact (``login.microsoftonline.com``) or has a star for its first label
(``*.servicebus.windows.net``). Each becomes one ``rewrite`` rule at the top of the block that
serves the root zone. Its expression is anchored at both ends: a pod's search domains are tried
first, and ``NAME.servicebus.windows.net.launch.svc.cluster.local`` has to stay unknown.
``answer auto`` puts the queried name into the answer. :func:`without` removes exactly what
:func:`redirect` added.
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
    """The text is not a Corefile that can be edited; the message says why."""


def redirect(corefile: str, routes: Mapping[str, str]) -> str:
    """Redirect names: ``routes`` maps each to the host that answers instead. Rules of an earlier
    call are replaced. Raises :class:`Unreadable`."""
    text = without(corefile)
    if not routes:
        return text
    lines = [rule(name, host) for name, host in routes.items()]
    block = "\n".join(("", BEGIN, *lines, END))
    root_blocks = list(_root_blocks(text))
    if not root_blocks:
        raise Unreadable("no block serves the root zone (.)")
    for position in reversed(root_blocks):
        text = text[:position] + block + text[position:]
    return text


def without(corefile: str) -> str:
    """The Corefile as it was before :func:`redirect`. Raises :class:`Unreadable` when only a part
    of the added block is left."""
    text = _OURS.sub("", corefile)
    if BEGIN.strip() in text or END.strip() in text:
        raise Unreadable("the block of redirected names was edited by something else")
    return text


def rule(name: str, host: str) -> str:
    """The line that redirects one name to ``host``."""
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
    for match in _TOKEN.finditer(text):
        if not match[0].startswith("#"):
            yield match[0], match.start()


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    rest = text[position:end] if end >= 0 else ""
    if end < 0 or (rest.strip() and not rest.strip().startswith("#")):
        raise Unreadable("there is text after the brace that opens the root zone's block")
    return end
