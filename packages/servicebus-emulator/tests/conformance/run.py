"""Run Azure's own tests of its Python SDK against the emulator.

    python tests/conformance/run.py [--workers N] [--only EXPRESSION] [--sdist FILE] [--table FILE]
    python tests/conformance/run.py --part ci --junitxml FILE

The tests are in the source distribution of azure-servicebus, which is obtained as a package; they
run as they are, only what provisions them is replaced (:mod:`provisioning`). Ports 443, 5671 and
5672 of one loopback address per worker have to be free, which usually takes root.

A part is a list of tests, ``ci.txt`` for what runs with the project's checks. The results of a part
have to be those in ``results.tsv``: the report says "failure" of any that is not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from xml.etree.ElementTree import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.conformance import part

VERSION = "7.15.0"
HERE = Path(__file__).resolve().parent
KINDS = ("queues", "topics", "subscriptions", "rules", "namespaces")
FILES = (
    "tests/test_queues.py",
    "tests/async_tests/test_queues_async.py",
    "tests/test_sessions.py",
    "tests/async_tests/test_sessions_async.py",
    "tests/test_list_sessions.py",
    "tests/async_tests/test_list_sessions_async.py",
    "tests/test_topic.py",
    "tests/async_tests/test_topic_async.py",
    "tests/test_subscriptions.py",
    "tests/async_tests/test_subscriptions_async.py",
    *(f"tests/mgmt_tests/test_mgmt_{kind}.py" for kind in KINDS),
    *(f"tests/mgmt_tests/async/test_mgmt_{kind}_async.py" for kind in KINDS),
    "tests/mgmt_tests/test_topic_filter_counts_live.py",
)

CONFTEST = f"""\
import os
import sys
sys.path.insert(0, {str(HERE)!r})
if "PYTEST_XDIST_WORKER" in os.environ or "-n" not in sys.argv:
    import provisioning
    provisioning.install()

def pytest_configure(config):
    for marker in ("liveTest", "live_test_only", "playback_test_only"):
        config.addinivalue_line("markers", marker)
"""


def obtain(folder: Path, sdist: Path | None) -> Path:
    """The unpacked source distribution."""
    if sdist is None:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", ":all:", "--dest", str(folder)),
                f"azure-servicebus=={VERSION}",
            ],
            check=True,
        )
        sdist = next(folder.glob("azure_servicebus-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.glob("azure_servicebus-*") if path.is_dir())


def main() -> int:
    """Obtain, replace the provisioning, run; pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--only", default=None, metavar="EXPRESSION", help="pytest's -k")
    parser.add_argument("--sdist", type=Path, default=None)
    parser.add_argument("--table", type=Path, default=None, help="write every test's result here")
    parser.add_argument("--part", choices=("ci",), default=None, help="a list of tests")
    parser.add_argument("--junitxml", type=Path, default=None, help="keep pytest's report here")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one test")
    parser.add_argument("files", nargs="*", default=list(FILES))
    given = parser.parse_args()
    expected = part.expected(HERE, given.part) if given.part else {}
    if expected and given.junitxml is not None and not part.may_listen():
        return part.skip_all(given.junitxml)
    folder = Path(tempfile.mkdtemp(prefix="conformance-tests-"))
    try:
        source = obtain(folder, given.sdist)
        tests = source / "tests"
        (tests / "conftest.py").write_text(CONFTEST)
        (tests / "servicebus_preparer.py").unlink()
        report = folder / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-x" if given.workers == 0 else "-q"),
            *("-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--rootdir", str(source)),
            *(
                "-c",
                str(folder / "pytest.ini"),
                f"--junitxml={report}",
                "--tb=short",
                "--show-capture=no",
            ),
            f"--timeout={given.timeout}",
            *(("-n", str(given.workers), "--dist=load") if given.workers else ()),
            *(("-k", given.only) if given.only else ()),
            *(str(source / name) for name in [*map(part.node, expected)] or given.files),
        ]
        (folder / "pytest.ini").write_text(
            "[pytest]\n"
            "asyncio_default_fixture_loop_scope = function\n"
            f"pythonpath = {tests} {tests}/mgmt_tests {tests}/mgmt_tests/async "
            f"{tests}/async_tests\n"
        )
        code = subprocess.run(command, check=False).returncode
        if expected:
            code = part.judge(report, expected)
        if given.junitxml is not None and report.exists():
            shutil.copyfile(report, given.junitxml)
        if given.table is not None and report.exists():
            given.table.write_text(table(report))
        return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(report: Path) -> str:
    """Every test with its result."""
    lines = []
    for case in parse(report).iter("testcase"):
        result = "passed"
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                detail = (child.get("message") or "").splitlines() or [""]
                result = f"{child.tag}: {detail[0][:160]}"
        lines.append(f"{case.get('classname')}.{case.get('name')}\t{result}")
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
