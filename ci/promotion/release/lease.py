"""One promotion at a time per release: a Lease in the cluster, which is also the journal.

While it runs, a promotion holds ``promotion-RELEASE`` in the target's namespace and renews it.
It is taken over only when its holder is provably gone: it was not renewed for its duration and
an allowance for clocks that differ, or the holder was a process of this machine that exists no
more. The annotations say which revision to return to, so that a run killed in the middle can
be repaired by any machine.
"""

from __future__ import annotations

import platform
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from ci.errors import Locked, PipelineError, PlanRefused
from ci.tools.api import path_of
from ci.tools.kube import Kube
from ci.tools.process_identity import Process

DURATION_SECONDS = 30
RENEW_SECONDS = 8.0
CLOCK_ALLOWANCE_SECONDS = 30
ANNOTATION = "queue-timeout-gate/"


@dataclass(frozen=True, slots=True)
class Holder:
    """A run of the pipeline: the process, on which machine, and which of its promotions."""

    host: str
    process: Process
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __str__(self) -> str:
        here = self.process
        return "/".join((self.host, here.boot or "?", str(here.pid), here.started, self.run))

    @classmethod
    def parse(cls, text: str) -> Holder | None:
        parts = text.split("/")
        if len(parts) != 5 or not parts[2].isdigit():
            return None
        host, boot, pid, started, run = parts
        return cls(host, Process(int(pid), started, "" if boot == "?" else boot), run)

    @classmethod
    def me(cls) -> Holder:
        return cls(platform.node() or "?", Process.this())


def held_by(lease: Mapping[str, Any], now: datetime) -> str:
    """Who holds the lease at ``now``; empty when nobody does any more."""
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    if not holder or not spec.get("renewTime"):
        return ""
    renewed = datetime.fromisoformat(str(spec["renewTime"]))
    length = int(spec.get("leaseDurationSeconds", DURATION_SECONDS)) + CLOCK_ALLOWANCE_SECONDS
    return holder if now < renewed + timedelta(seconds=length) else ""


def name(release: str) -> str:
    return f"promotion-{release}"


def journal(lease: Mapping[str, Any]) -> dict[str, str]:
    """What the last promotion wrote down: ``step``, ``revision``, ``image``."""
    annotations = (lease.get("metadata") or {}).get("annotations") or {}
    return {
        key.removeprefix(ANNOTATION): str(value)
        for key, value in annotations.items()
        if key.startswith(ANNOTATION)
    }


def read(kube: Kube, release: str, namespace: str) -> dict[str, Any]:
    """The lease, empty when there is none."""
    return kube.read("leases", name(release), namespace) or {}


class Lease:
    """Holds the lease while in the ``with`` block. Raises :class:`Locked` when another does."""

    def __init__(self, kube: Kube, *, release: str, namespace: str) -> None:
        # Cleanup mode: a rollback after Ctrl-C is still covered.
        self._kube = kube.for_cleanup()
        self._release = release
        self._namespace = namespace
        self._holder = Holder.me()
        self._notes: dict[str, str] = {}
        self._version = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.lost = ""
        """Why the lease is not ours any more; empty while it is."""

    def __enter__(self) -> Lease:
        lease = read(self._kube, self._release, self._namespace)
        if lease:
            self._refuse_held(lease)
            self._notes = journal(lease)
            self._version = lease["metadata"]["resourceVersion"]
        problem = self._write()
        if problem:
            # Somebody was faster between the look and the writing: say who.
            self._refuse_held(read(self._kube, self._release, self._namespace))
            raise PlanRefused(
                f"cannot take the promotion lock of {self._release}: {problem}",
                remedy="allow create, get and update of leases.coordination.k8s.io in"
                f" namespace {self._namespace}",
            )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(RENEW_SECONDS)
        if not self.lost:
            self._write(release=True)

    def _refuse_held(self, lease: Mapping[str, Any]) -> None:
        owner = held_by(lease, datetime.now(UTC))
        holder = Holder.parse(owner)
        if not owner or (holder is not None and holder.process.ended()):
            return
        who = f"process {holder.process.pid} on {holder.host}" if holder else owner
        raise Locked(
            f"another promotion of {self._release} in {self._namespace} is under way ({who})",
            remedy="wait for it to end; a holder that died is replaced after"
            f" {DURATION_SECONDS + CLOCK_ALLOWANCE_SECONDS} s",
        )

    def keep(self) -> str:
        """Renew it now; the reason when the API did not take it. Raises :class:`Locked` when it
        is not ours any more: it went without renewal for so long that another took it over."""
        problem = "" if self.lost else self._write()
        if self.lost or _conflict(problem):
            raise Locked(
                f"another took over the lock of {self._release} in {self._namespace} meanwhile",
                remedy="look what it does before anything else is done to the release",
            )
        return problem

    def note(self, **notes: str) -> None:
        """Write into the journal, before the step it is about. Raises when it cannot."""
        with self._lock:
            self._notes.update(notes)
        problem = self._write()
        if problem:
            raise PlanRefused(f"cannot write the promotion's journal: {problem}")

    @property
    def found(self) -> dict[str, str]:
        """The journal."""
        return dict(self._notes)

    def _write(self, *, release: bool = False) -> str:
        """Create or replace; the reason when the API refused."""
        with self._lock:
            try:
                problem = self._put(release=release)
                if _conflict(problem) and self._still_ours():
                    # It was written before, and the answer never came.
                    problem = self._put(release=release)
            except PipelineError as away:
                return str(away)
            return problem

    def _still_ours(self) -> bool:
        lease = read(self._kube, self._release, self._namespace)
        if (lease.get("spec") or {}).get("holderIdentity") != str(self._holder):
            return False
        self._version = lease["metadata"]["resourceVersion"]
        return True

    def _put(self, *, release: bool) -> str:
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {
            "name": name(self._release),
            "namespace": self._namespace,
            # Whoever may look at the namespace reads this.
            "annotations": {
                f"{ANNOTATION}{key}": self._kube.redact(value) for key, value in self._notes.items()
            },
        }
        if self._version:
            metadata["resourceVersion"] = self._version
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": "" if release else str(self._holder),
                "leaseDurationSeconds": DURATION_SECONDS,
                "renewTime": moment,
            },
        }
        parts = (name(self._release),) if self._version else ()
        answer = self._kube.ask(
            "PUT" if self._version else "POST",
            path_of("leases", self._namespace, *parts),
            body=lease,
            timeout=15,
        )
        if not answer.ok:
            return answer.problem
        self._version = answer.object()["metadata"]["resourceVersion"]
        return ""

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            problem = self._write()
            if _conflict(problem):
                self.lost = problem
                return


def _conflict(problem: str) -> bool:
    """Whether the API refused because the lease is another than we know."""
    return any(words in problem for words in ("modified", "already exists", "not found"))
