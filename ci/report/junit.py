"""JUnit XML, as pytest writes it, into cases. What a passed case measured, if that is worth
telling, is its property ``evidence``."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from ci.model import Case, Outcome


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
            outcome = Outcome.FAILED
            message = (child.get("message") or child.text or "").strip()
            break
        if child.tag == "skipped":
            outcome = Outcome.SKIPPED
            message = child.get("message") or ""
    if outcome is Outcome.PASSED:
        said = (p.get("value", "") for p in element.iter("property") if p.get("name") == "evidence")
        message = next(said, "")
    folder = element.get("classname", "")
    name = element.get("name", "?")
    try:
        seconds = float(element.get("time") or 0)
    except ValueError:
        seconds = 0.0
    return Case(f"{folder}::{name}" if folder else name, outcome, seconds, message)
