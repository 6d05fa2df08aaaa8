"""tests/e2e against a Release -> Proof.

The tests are a program of their own that sees what a user sees: addresses and a connection
string in a file. Only here a :class:`ci.model.Proof` is made.
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
"""The upgrade plan's own check, run again after a promotion."""

RELEASE_SECONDS = 600
"""How long the tests, once started, wait for what they shall test."""

Ports = dict[int, int]
"""A port of a Service -> the local one that leads to it."""

NO_TESTS = 5
"""pytest's status when it collected nothing."""

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

    ``released`` returns it, or raises, once it serves: pytest and its workers, which take
    seconds to start, start meanwhile. Raises what :meth:`Tests.prove` raises.
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
    """The end-to-end tests, started and waiting for a release; one that does not come within
    ``patience`` seconds, or before the block ends, is not waited for. ``standins`` are those
    that are there before it: the way to their Service Bus is opened meanwhile, too."""
    report = context.run_dir / ("junit.xml" if select is None else f"junit-{label}.xml")
    report.unlink(missing_ok=True)
    inherited = contextvars.copy_context()  # the step that the progress belongs to
    with ExitStack() as on, ThreadPoolExecutor(max_workers=2, thread_name_prefix="pytest") as pool:
        # What holds a key, and what nobody redacted yet, is never in the run's folder.
        private = Path(on.enter_context(TemporaryDirectory(prefix=f"{label}-")))
        described = private / "target.json"
        said = pool.submit(
            inherited.run, _pytest, context, select, label, private / report.name, described,
            patience,
        )  # fmt: skip
        broker = pool.submit(_to_broker, context, standins, on) if standins else None
        try:
            yield Tests(context, label, select is None, report, described, said, broker)
        finally:
            if not described.exists():
                _private(described, b"")  # nothing to wait for: the tests end at once


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
            # The suite must not be able to sign what it says of itself.
            **dict.fromkeys(_key_env(context), ""),
        },
        timeout=patience + settings.timeout_seconds,
        on_line=_Progress(context).see,
        check=False,
        error=ProofFailed,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tests:
    """The end-to-end tests as a program that runs and waits to be told its target."""

    context: Context
    label: str
    whole: bool
    """Whether it is the whole suite."""
    report: Path
    described: Path
    """Where the program looks for its target."""
    said: Future[Output]
    broker: Future[Ports] | None
    """The way to Service Bus, where it is opened already."""

    def prove(
        self,
        release: Release,
        standins: StandIns | None,
        *,
        servicebus: str = "",
        on_failure: Callable[[Proof], None] | None = None,
    ) -> Proof:
        """Let them test a release.

        ``servicebus`` is a connection string for a release without stand-ins; without either,
        the tests that look at the broker are skipped. Raises :class:`ci.errors.ProofFailed` when
        a case failed, none passed, or pytest itself broke down; the evidence is kept before
        that, and ``on_failure`` is told what failed.
        """
        context, began = self.context, datetime.now(UTC)
        with ExitStack() as on:
            folder = self.described.parent
            target = _described(context, release, standins, folder, servicebus, on, self.broker)
            _private(self.described, json.dumps(target).encode())
            api = _api(context, str(target["gateway_url"])) if self.whole else ""
            said = self.said.result()
        context.folder.junit(self.report.name, self.described.with_name(self.report.name))
        try:
            return replace(judge(release.image, self.report, said, began), api=api)
        except ProofFailed:
            _keep_evidence(context, release, standins, self.label)
            failed = _failed(release.image, self.report, began)
            if on_failure is not None and failed:
                on_failure(failed)
            raise


def judge(image: Image, report: Path, said: Output, started: datetime | None = None) -> Proof:
    """The proof of a finished pytest. Raises :class:`ProofFailed` unless it passed."""
    try:
        cases = junit.read(report)
    except junit.Unreadable as problem:
        tail = " ".join((said.stdout.strip() or said.stderr.strip()).splitlines()[-3:])
        raise ProofFailed(f"the tests did not run ({problem}): {tail}") from problem
    proof = Proof(image, cases, report, datetime.now(UTC), started)
    if proof.failed:
        first = proof.failed[0]
        more = f" (and {len(proof.failed) - 1} more)" if len(proof.failed) > 1 else ""
        raise ProofFailed(
            f"{len(proof.failed)} of {len(cases)} cases failed: {first.name}{more}: "
            f"{_line(first.message)}"
        )
    if said.status == NO_TESTS or not proof.passed:
        raise ProofFailed(f"no case passed ({len(cases)} collected): nothing is proven")
    if said.status != 0:
        raise ProofFailed(f"pytest ended with {said.status} although no case failed")
    return proof


def record(context: Context, proof: Proof) -> None:
    """Remember which image was proven last in this checkout, for ``promote --image last``. It is
    a name and no proof: that is in the registry."""
    name, checkout = _here(context)
    context.home.put_proven(
        Proven(name, checkout, proof.image, proof.finished, context.run_dir.name)
    )


def last(context: Context) -> Image:
    """The image that was proven last in this checkout, of those that have the settings'
    ``image.name``; says which, when and where.

    Raises :class:`ci.errors.EvidenceRefused` where there is none, and then names what was proven
    in another checkout: it may be meant, but is never taken by itself.
    """
    name, checkout = _here(context)
    known = context.home.proven()
    here = [proven for proven in known if (proven.name, proven.checkout) == (name, checkout)]
    if here:
        proven = here[0]
        context.events.emit(
            "run.note",
            f"last is {proven.image.by_digest} ({proven.image.tag}), proven {_when(proven)} in"
            f" {proven.checkout}, run {proven.run}",
            digest=proven.image.digest,
        )
        return proven.image
    text = f"no image {name} was proven in this checkout ({checkout}) yet"
    remedy = "prove the image: `python3 pipeline.py prove`, or name an image by digest"
    if others := [proven for proven in known if proven.name == name]:
        other = others[0]
        text += f"; {other.checkout} proved one {_when(other)}"
        remedy = (
            "prove the image: `python3 pipeline.py prove`, or name the other one:"
            f" --image {other.image.by_digest}"
        )
    raise EvidenceRefused(text, remedy=remedy)


def _here(context: Context) -> tuple[str, str]:
    """What ``last`` belongs to: the image's name and the checkout."""
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
    """Turns pytest's lines into notes: which case ended how, how many so far."""

    def __init__(self, context: Context) -> None:
        self._events = context.events
        self.ended = 0
        self.total = 0

    def see(self, line: str) -> None:
        if found := re.search(r"(\d+) (?:workers \[(\d+) items\])", line):
            self.total = int(found[2])
        elif found := re.match(r"collected (\d+) items?", line):
            self.total = int(found[1])
        elif found := PROGRESS.search(line):
            self.ended += 1
            outcome, name = (found[1], found[2]) if found[1] else (found[4], found[3])
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
    """What tells the tests where everything is, as long as ``stack`` lasts; it holds a key.
    ``folder`` is private."""
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
    """How the gateway describes its API, for comparison with what serves on a target; empty where
    it does not, or at too great length."""
    path = context.settings.service.openapi_path
    if not path:
        return ""
    answer = http.get(f"{gateway_url}{path}", timeout=10)
    text = answer.text if answer.code == 200 else ""
    if openapi_compat.read(text) is None:
        reason = f"HTTP {answer.code}" if answer.code else answer.text
        said = f"no API is described at {path} ({reason}): it is not compared before the change"
    elif len(text.encode()) > openapi_compat.LIMIT:
        said = (
            f"the description of the API is longer than {openapi_compat.LIMIT >> 20} MiB: left out"
        )
    else:
        return text
    context.events.note(said)
    return ""


def _runs(kube: Kube, namespace: str, deployment: str) -> bool:
    """Whether the Deployment is there and not scaled down to nothing."""
    found = kube.read("deployments", deployment, namespace)
    return found is not None and int(found["spec"].get("replicas", 1)) > 0


def _private(path: Path, content: bytes) -> None:
    """Write a file for this user alone, there whole or not at all."""
    made = path.with_name(f".{path.name}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    made.replace(path)


def _keep_evidence(
    context: Context, release: Release, standins: StandIns | None, label: str
) -> None:
    namespaces = [release.namespace] + ([standins.namespace] if standins else [])
    folder = context.folder.below("evidence", f"{label}-{release.cluster.name}")
    for namespace in namespaces:
        diagnostics.collect(context.kube(release.cluster), namespace, folder.below(namespace))
    context.events.note(f"evidence kept in {folder.path}")


def _line(text: str) -> str:
    return " ".join(text.split())[:300] or "no message"
