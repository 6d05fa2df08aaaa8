"""JUnit XML: read into cases as pytest writes it, and written of a run's checks.

What a passed case measured, if that is worth telling, is its property ``evidence``; the ids of the
checks that it shows are its properties ``shows``. Of the four
outcomes JUnit knows three: *unknown* is an ``error`` of the type ``unknown``, for as ``skipped`` a
build server would show it as fine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, indent, tostring

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from ci import texts
from ci.model import Case
from ci.results import Check, CheckGroup, Outcome, Tally

UNKNOWN = "unknown"
"""Type of an ``error`` that is no failure: nothing answered."""


class Unreadable(Exception):
    """The file is missing, cut off, or not JUnit; the message says which."""


def read(path: Path) -> tuple[Case, ...]:
    """Every case, in the file's order. Raises :class:`Unreadable`."""
    try:
        root = parse(path).getroot()
    except FileNotFoundError:
        raise Unreadable("no JUnit file was written") from None
    except (ParseError, DefusedXmlException, OSError) as problem:
        raise Unreadable(f"{path.name} cannot be read: {problem}") from None
    if root is None or root.tag not in ("testsuites", "testsuite"):
        raise Unreadable(f"{path.name} is not a JUnit file")
    return tuple(_case(element) for element in root.iter("testcase"))


def _case(element: Element) -> Case:
    outcome, message = Outcome.PASSED, ""
    for child in element:
        if child.tag in ("failure", "error"):
            unknown = child.tag == "error" and child.get("type") == UNKNOWN
            outcome = Outcome.UNKNOWN if unknown else Outcome.FAILED
            message = (child.get("message") or child.text or "").strip()
            break
        if child.tag == "skipped":
            outcome = Outcome.SKIPPED
            message = child.get("message") or ""
    if outcome is Outcome.PASSED:
        evidence = (
            p.get("value", "") for p in element.iter("property") if p.get("name") == "evidence"
        )
        message = next(evidence, "")
    folder = element.get("classname", "")
    name = element.get("name", "?")
    try:
        seconds = float(element.get("time") or 0)
    except ValueError:
        seconds = 0.0
    shows = (p.get("value", "") for p in element.iter("property") if p.get("name") == "shows")
    title = f"{folder}::{name}" if folder else name
    return Case(title, outcome, seconds, message, tuple(dict.fromkeys(shows)))


def render(groups: Iterable[CheckGroup]) -> str:
    """A run's checks as JUnit: a suite per phase, a case per check, named by its id. Pure."""
    root = Element("testsuites", name="checks")
    for group in groups:
        tally = Tally.of(check.outcome for check in group.checks)
        suite = SubElement(
            root,
            "testsuite",
            name=group.phase.value,
            tests=str(tally.total),
            failures=str(tally.failed),
            errors=str(tally.unknown),
            skipped=str(tally.skipped),
        )
        for check in group.checks:
            _render(suite, group, check)
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _render(suite: Element, group: CheckGroup, check: Check) -> None:
    name = f"{check.id.value}[{check.subject}]" if check.subject else check.id.value
    case = SubElement(suite, "testcase", classname=group.phase.value, name=_legal(name), time="0")
    evidence = _legal(texts.evidence(check))
    match check.outcome:
        case Outcome.PASSED:
            properties = SubElement(case, "properties")
            SubElement(properties, "property", name="evidence", value=evidence)
        case Outcome.FAILED:
            SubElement(case, "failure", message=evidence or _legal(texts.title(check)))
        case Outcome.SKIPPED:
            SubElement(case, "skipped", message=evidence)
        case Outcome.UNKNOWN:
            SubElement(case, "error", type=UNKNOWN, message=evidence)


def _legal(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(
        c
        for c in text
        if c in "\t\n\r" or 0x20 <= ord(c) < 0xD800 or 0xDFFF < ord(c) < 0xFFFE or ord(c) > 0xFFFF
    )
