"""Run tests/e2e against a Release -> Proof.

The tests are a separate program that sees what a user sees: addresses and a connection string,
read from a file. A :class:`ci.model.Proof` is created nowhere else.
"""

from __future__ import annotations

import contextvars
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ci import openapi_compat
from ci import standins as manifests
from ci.errors import EvidenceRefused, ProofFailed
from ci.model import Image, Proof, Release, StandIns
from ci.report import junit
from ci.run.context import Context
from ci.run.state import Proven
from ci.tools import diagnostics, http
from ci.tools.command import Output
from ci.tools.kube import Kube

QUICK = "test_complete_queue_timeout_flow.py"
"""The upgrade plan's queue time-out check, run again after a promotion."""

RELEASE_SECONDS = 600
"""How long the tests, once started, wait for the release under test."""

Ports = dict[int, int]
"""A port of a Service -> the local port that is forwarded to it."""

NO_TESTS = 5
"""pytest's exit status when it collected no tests."""

PROGRESS = re.compile(
    r"(?:\[gw\d+\]\s+\[\s*\d+%\]\s+)?(PASSED|FAILED|ERROR|SKIPPED)\s+(\S+)|"
    r"^(\S+::\S+)\s+(PASSED|FAILED|ERROR|SKIPPED)"
)


def prove(
    context: Context,
    released: Callable[[], Release],
    standins: StandIns | None,
    *,
    select: str | None = None,
    label: str = "prove",
    on_failure: Callable[[Proof], None] | None = None,
) -> Proof:
    """Run the end-to-end tests (or the one file ``select``) against a release.

    ``released`` blocks until the release serves, and returns it or raises; pytest and its workers,
    which take seconds to start, start meanwhile. Raises what :meth:`Tests.prove` raises.
    """
    with started(context, select=select, label=label) as tests:
        return tests.prove(released(), standins, on_failure=on_failure)


@contextmanager
def started(
    context: Context,
    *,
    select: str | None = None,
    label: str = "prove",
    patience: int = RELEASE_SECONDS,
    standins: StandIns | None = None,
) -> Iterator[Tests]:
    """Start the end-to-end tests, which then wait for a release, for at most ``patience`` seconds
    and no longer than the block lasts. With ``standins`` that run already, the port-forward to
    their Service Bus is opened meanwhile, too."""
    report = context.run_dir / ("junit.xml" if select is None else f"junit-{label}.xml")
    report.unlink(missing_ok=True)
    inherited = contextvars.copy_context()  # so that progress notes belong to the current step
    with (
        ExitStack() as stack,
        ThreadPoolExecutor(max_workers=2, thread_name_prefix="pytest") as pool,
    ):
        # Files with a key, or not yet redacted, are kept outside the run's folder.
        private = Path(stack.enter_context(TemporaryDirectory(prefix=f"{label}-")))
        described = private / "target.json"
        output = pool.submit(
            inherited.run, _pytest, context, select, label, private / report.name, described,
            patience,
        )  # fmt: skip
        broker = pool.submit(_to_broker, context, standins, stack) if standins else None
        try:
            yield Tests(context, label, select is None, report, described, output, broker)
        finally:
            if not described.exists():
                _private(described, b"")  # no release will come: the tests end at once


def _pytest(
    context: Context, select: str | None, label: str, report: Path, described: Path, patience: int
) -> Output:
    settings = context.settings.prove
    tests = context.path(settings.tests)
    return context.programs.run(
        [
            sys.executable, "-m", "pytest", tests / select if select else tests,
            "-v", "-n", str(settings.workers if select is None else 0),
            "-p", "no:cacheprovider", f"--junitxml={report}", "--color=no",
        ],
        log=f"pytest-{label}",
        cwd=context.root,
        env={
            "E2E_TARGET": str(described),
            "E2E_TARGET_WAIT": str(patience),
            # The tests must not be able to sign their own results.
            **dict.fromkeys(_key_env(context), ""),
        },
        timeout=patience + settings.timeout_seconds,
        on_line=_Progress(context).see,
        check=False,
        error=ProofFailed,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tests:
    """The running end-to-end tests, which wait for the description of the release to test."""

    context: Context
    label: str
    whole: bool
    """Whether all tests run, not one file."""
    report: Path
    described: Path
    """The file from which the tests read the release to test."""
    output: Future[Output]
    broker: Future[Ports] | None
    """The port-forward to Service Bus, where it was opened in advance."""

    def prove(
        self,
        release: Release,
        standins: StandIns | None,
        *,
        servicebus: str = "",
        on_failure: Callable[[Proof], None] | None = None,
    ) -> Proof:
        """Test a release.

        ``servicebus`` is a connection string for a release without stand-ins; without either,
        the tests that look at the broker are skipped. Raises :class:`ci.errors.ProofFailed` when
        a case failed, none passed, or pytest itself failed; diagnostics are collected before that,
        and ``on_failure`` is called with the failed proof.
        """
        context, began = self.context, datetime.now(UTC)
        with ExitStack() as stack:
            folder = self.described.parent
            target = _described(context, release, standins, folder, servicebus, stack, self.broker)
            _private(self.described, json.dumps(target).encode())
            api = _api(context, str(target["gateway_url"])) if self.whole else ""
            output = self.output.result()
        context.folder.junit(self.report.name, self.described.with_name(self.report.name))
        try:
            return replace(judge(release.image, self.report, output, began), api=api)
        except ProofFailed:
            _keep_evidence(context, release, standins, self.label)
            failed = _failed(release.image, self.report, began)
            if on_failure is not None and failed:
                on_failure(failed)
            raise


def judge(image: Image, report: Path, output: Output, started: datetime | None = None) -> Proof:
    """The proof of a finished pytest. Raises :class:`ProofFailed` unless it passed."""
    try:
        cases = junit.read(report)
    except junit.Unreadable as problem:
        tail = " ".join((output.stdout.strip() or output.stderr.strip()).splitlines()[-3:])
        raise ProofFailed(f"the end-to-end tests did not run ({problem}): {tail}") from problem
    proof = Proof(image, cases, report, datetime.now(UTC), started)
    if proof.failed:
        first = proof.failed[0]
        more = f" (and {len(proof.failed) - 1} more)" if len(proof.failed) > 1 else ""
        raise ProofFailed(
            f"{len(proof.failed)} of {len(cases)} cases failed: {first.name}{more}: "
            f"{_line(first.message)}"
        )
    if output.status == NO_TESTS or not proof.passed:
        raise ProofFailed(f"no test case passed ({len(cases)} collected), so nothing is proven")
    if output.status != 0:
        raise ProofFailed(f"pytest ended with {output.status} although no test case failed")
    return proof


def record(context: Context, proof: Proof) -> None:
    """Record which image was proven last in this checkout, for ``promote --image last``. This is
    only a name; the proof is the evidence in the registry."""
    name, checkout = _scope_of_last(context)
    context.home.put_proven(
        Proven(name, checkout, proof.image, proof.finished, context.run_dir.name)
    )


def last(context: Context) -> Image:
    """The image that was proven last in this checkout, with the settings' ``image.name``; notes its
    digest, when and where it was proven.

    Raises :class:`ci.errors.EvidenceRefused` where there is none; the remedy then names an image
    that another checkout proved, which is never used without being named.
    """
    name, checkout = _scope_of_last(context)
    all_proven = context.home.proven()
    from_this_checkout = [
        proven for proven in all_proven if (proven.name, proven.checkout) == (name, checkout)
    ]
    if from_this_checkout:
        proven = from_this_checkout[0]
        context.events.emit(
            "run.note",
            f"`last` is {proven.image.by_digest} ({proven.image.tag}), proven {_when(proven)} in"
            f" {proven.checkout}, run {proven.run}",
            digest=proven.image.digest,
        )
        return proven.image
    text = f"no image {name} was proven in this checkout ({checkout}) yet"
    remedy = "prove the image: `python3 pipeline.py prove`, or name an image by digest"
    if others := [proven for proven in all_proven if proven.name == name]:
        other = others[0]
        text += f"; {other.checkout} proved one {_when(other)}"
        remedy = (
            "prove the image: `python3 pipeline.py prove`, or name the other one:"
            f" --image {other.image.by_digest}"
        )
    raise EvidenceRefused(text, remedy=remedy)


def _scope_of_last(context: Context) -> tuple[str, str]:
    """The image name and checkout that ``last`` refers to."""
    return context.settings.image.name, str(context.root.resolve())


def _when(proven: Proven) -> str:
    return f"{proven.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _failed(image: Image, report: Path, started: datetime) -> Proof | None:
    try:
        proof = Proof(image, junit.read(report), report, datetime.now(UTC), started)
    except junit.Unreadable:
        return None
    return proof if proof.failed else None


def _key_env(context: Context) -> tuple[str, ...]:
    name = context.settings.evidence.key_env
    return (name,) if name else ()


class _Progress:
    """Turns pytest's output into notes: each case's outcome, and how many have ended."""

    def __init__(self, context: Context) -> None:
        self._events = context.events
        self.ended = 0
        self.total = 0

    def see(self, line: str) -> None:
        if match := re.search(r"(\d+) (?:workers \[(\d+) items\])", line):
            self.total = int(match[2])
        elif match := re.match(r"collected (\d+) items?", line):
            self.total = int(match[1])
        elif match := PROGRESS.search(line):
            self.ended += 1
            outcome, name = (match[1], match[2]) if match[1] else (match[4], match[3])
            of = f"/{self.total}" if self.total else ""
            self._events.note(
                f"{self.ended}{of} {outcome.lower()} {name.rpartition('::')[2]}",
                case=name,
                outcome=outcome.lower(),
            )


def _to_broker(context: Context, standins: StandIns, stack: ExitStack) -> Ports:
    kube = context.kube(standins.cluster)
    return stack.enter_context(manifests.forwarded(kube, standins.namespace))


def _described(
    context: Context,
    release: Release,
    standins: StandIns | None,
    folder: Path,
    servicebus: str,
    stack: ExitStack,
    broker: Future[Ports] | None,
) -> dict[str, object]:
    """The description of a release that the tests read; its ports are forwarded until ``stack`` is
    closed. It contains a key, so ``folder`` must be private."""
    service = context.settings.service
    kube = context.kube(release.cluster)
    gateway = kube.forward_to_service(release.namespace, service.gateway, service.port)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward") as pool:
        if standins is not None and broker is None:
            broker = pool.submit(_to_broker, context, standins, stack)
        port = stack.enter_context(gateway)
        ports = broker.result() if broker else {}
    described: dict[str, object] = {
        "name": release.cluster.name,
        "gateway_url": f"http://127.0.0.1:{port}",
        "image_version": release.image.tag,
        "health_paths": list(service.health_paths),
        "cacher": _runs(kube, release.namespace, service.cacher),
    }
    if standins is not None:
        key = standins.servicebus.key
        context.programs.hide(key)
        ca = folder / "ca.pem"
        _private(ca, standins.servicebus.ca_pem)
        described["servicebus"] = {
            "connection_string": manifests.connection_string(
                f"localhost:{ports[manifests.AMQP_PORT]}", key
            ),
            "admin_connection_string": manifests.connection_string(f"localhost:{ports[443]}", key),
            "ca_file": str(ca),
        }
    elif servicebus:
        context.programs.hide(servicebus)
        described["servicebus"] = {
            "connection_string": servicebus,
            "admin_connection_string": servicebus,
            "ca_file": "",
        }
    return described


def _api(context: Context, gateway_url: str) -> str:
    """The gateway's OpenAPI description, for comparison with the one of a target's release; empty
    where there is none, or where it is too long."""
    path = context.settings.service.openapi_path
    if not path:
        return ""
    answer = http.get(f"{gateway_url}{path}", timeout=10)
    text = answer.text if answer.code == 200 else ""
    if openapi_compat.read(text) is None:
        reason = f"HTTP {answer.code}" if answer.code else answer.text
        note = f"no OpenAPI description at {path} ({reason}): the API will not be compared"
    elif len(text.encode()) > openapi_compat.LIMIT:
        note = f"the OpenAPI description is longer than {openapi_compat.LIMIT >> 20} MiB: left out"
    else:
        return text
    context.events.note(note)
    return ""


def _runs(kube: Kube, namespace: str, deployment: str) -> bool:
    """Whether the Deployment exists and is not scaled to zero."""
    object = kube.read("deployments", deployment, namespace)
    return object is not None and int(object["spec"].get("replicas", 1)) > 0


def _private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, atomically."""
    partial = path.with_name(f".{path.name}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def _keep_evidence(
    context: Context, release: Release, standins: StandIns | None, label: str
) -> None:
    namespaces = [release.namespace] + ([standins.namespace] if standins else [])
    folder = context.folder.below("evidence", f"{label}-{release.cluster.name}")
    for namespace in namespaces:
        diagnostics.collect(context.kube(release.cluster), namespace, folder.below(namespace))
    context.events.note(f"diagnostics are in {folder.path}")


def _line(text: str) -> str:
    return " ".join(text.split())[:300] or "no message"
