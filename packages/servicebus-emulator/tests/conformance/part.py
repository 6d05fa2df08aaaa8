"""A part of Azure's tests: which they are, and whether they end as they are known to."""

from __future__ import annotations

import socket
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, ParseError, SubElement, parse

LOOPBACK = "127.64.0.1"
"""Of those on which the workers' emulators listen."""


def expected(folder: Path, name: str) -> dict[str, str]:
    """The part's tests with their results, by the names that the table of results has for them.

    Raises ValueError where the table does not have one, or has it as failed.
    """
    table = dict(
        line.split("\t")[:2] for line in (folder / "results.tsv").read_text().splitlines()[1:]
    )
    chosen = (folder / f"{name}.txt").read_text().split()
    strange = [test for test in chosen if table.get(test) not in ("passed", "skipped")]
    if strange:
        raise ValueError(f"{name}.txt: {strange[0]} is neither passed nor skipped in results.tsv")
    return {test: table[test] for test in chosen}


def node(test: str) -> str:
    """What pytest calls a test of the table: a path and names."""
    name, bracket, parameters = test.partition("[")
    module, group, function = name.rsplit(".", 2)
    return f"{module.replace('.', '/')}.py::{group}::{function}{bracket}{parameters}"


def judge(report: Path, results: dict[str, str]) -> int:
    """Turn what is not as expected into failures, in the report itself; 1 where there are any."""
    try:
        document = parse(report)
    except (OSError, ParseError):
        document = ElementTree(Element("testsuite"))
    found = {f"{c.get('classname')}.{c.get('name')}": c for c in document.iter("testcase")}
    for test, result in results.items():
        case = found.get(test)
        if case is None:
            group, _, name = test.rpartition(".")
            case = SubElement(document.getroot(), "testcase", classname=group, name=name)
        ended = "did not run" if test not in found else _result(case)
        if ended not in (result, "failed"):
            SubElement(case, "failure", message=f"results.tsv: {result}; now: {ended}")
    document.write(report)
    return int(any(_result(case) == "failed" for case in document.iter("testcase")))


def _result(case: Element) -> str:
    tags = {child.tag for child in case}
    if tags & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in tags else "passed"


def may_listen() -> bool:
    """This user may open the ports that Azure's clients insist on."""
    try:
        socket.create_server((LOOPBACK, 443)).close()
    except PermissionError:
        return False
    except OSError:  # in use: whoever is to listen there tells more
        pass
    return True


def skip_all(report: Path) -> int:
    """Report one test that was skipped, and why."""
    suite = Element("testsuite")
    case = SubElement(suite, "testcase", classname="tests.conformance", name="azure_servicebus")
    SubElement(case, "skipped", message="ports 443, 5671 and 5672 take root on this machine")
    ElementTree(suite).write(report)
    return 0
