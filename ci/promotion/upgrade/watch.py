"""The upgrade plan's four terminals, all at once: roll-out, pods, events and logs, as they change.

What a person would watch beside the change goes line by line into ``runs/<id>/watch`` and to
whoever listens to the run. Nothing is judged here: that is :mod:`ci.promotion.release.rollout`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ci.errors import PipelineError
from ci.promotion.release.rollout import restarts
from ci.promotion.release.session import TargetSession
from ci.tools.wait import uncancelled

KIND = "watch"
"""Of the events; their step is the terminal."""
ROLLOUT, PODS, EVENTS, LOGS = "rollout", "pods", "events", "logs"
INTERVAL_SECONDS = 2.0
"""Between two looks: each costs the machine what it needs for the upgrade."""
RARELY_SECONDS = 10.0
"""The same while it soaks, which may take a day and is to fit on a disk."""
TIMEOUT_SECONDS = 5.0
"""How long one request may take."""
LOG_BYTES = 64 << 10
"""Read of one container's log at once, at most."""
LOG_LINES = 500
"""The same in lines: from a log's end the kubelet finds them without reading the whole file."""
SHOWN_LINES = 3
"""Of one container's new log lines, shown at once; its file gets all that was read."""

Object = Mapping[str, Any]


def rollout(deployment: Object) -> str:
    """As ``kubectl rollout status`` sees a Deployment, in one line."""
    status = deployment.get("status") or {}
    wanted = int(deployment["spec"].get("replicas", 1))
    seen = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"]["generation"])
    counts = ", ".join(
        f"{int(status.get(f'{what}Replicas', 0))} {what}" for what in ("updated", "available")
    )
    return f"{counts} of {wanted}, {int(status.get('replicas', 0))} present" + (
        "" if seen else "; the change is not yet seen"
    )


def pod(found: Object) -> str:
    """As ``kubectl get pods`` has it: what it does, how ready, its restarts, its image's tag."""
    status, spec = found.get("status") or {}, found["spec"]
    containers = status.get("containerStatuses") or []
    shown = str(status.get("phase", "Unknown"))
    for container in containers:
        for state in (container.get("state") or {}).values():
            shown = str(state.get("reason") or shown)
    if found["metadata"].get("deletionTimestamp"):
        shown = "Terminating"
    up = f"{sum(bool(c.get('ready')) for c in containers)}/{len(spec['containers'])}"
    tag = str(spec["containers"][0].get("image", "")).rpartition("/")[2]
    return f"{shown} {up}, {restarts(found)} restarts, {tag}"


def event(found: Object) -> str:
    """As ``kubectl get events`` has it."""
    about = found.get("involvedObject") or {}
    words = " ".join(str(found.get("message") or "").split())
    return (
        f"{found.get('type')} {found.get('reason')}"
        f" {str(about.get('kind', '')).lower()}/{about.get('name')}: {words}"
    )[:300]


def of_release(name: str, deployments: Iterable[str]) -> bool:
    """Whether a name is one of the Deployments' or is derived from it, as ``grep`` would tell."""
    return any(name == each or name.startswith(f"{each}-") for each in deployments)


class Changes:
    """Lines by what they are about, given again only when they change."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def new(self, now: Mapping[str, str], *, gone: str = "") -> list[str]:
        """``gone`` is the line of what is there no more."""
        lines = [f"{key}: {line}" for key, line in now.items() if self._last.get(key) != line]
        if gone:
            lines += [f"{key}: {gone}" for key in self._last if key not in now]
        self._last = dict(now)
        return lines


class Tail:
    """A container's log, on from where it was read last."""

    def __init__(self) -> None:
        self.newest = ""
        """The kubelet's stamp of the last line, RFC 3339 with nanoseconds."""

    def query(self) -> dict[str, str | int]:
        """The API takes whole seconds: :meth:`new` leaves out what was read before."""
        since = {"sinceTime": f"{self.newest[:19]}Z"} if self.newest else {}
        newest = {"tailLines": LOG_LINES, "limitBytes": LOG_BYTES}
        return {**since, **newest, "timestamps": "true"}

    def new(self, text: str) -> list[str]:
        found, newest = [], self.newest
        for line in text.splitlines():
            stamp, _, content = line.partition(" ")
            if stamp > self.newest:
                found.append(content)
                newest = max(newest, stamp)
        self.newest = newest
        return found


class Watching:
    """Watches while in the block, a rollback included. What cannot be read is left out."""

    def __init__(self, session: TargetSession, deployments: Sequence[str]) -> None:
        # A run that was cancelled is watched to its end.
        target = session.target
        self._kube = session.for_cleanup().kube
        self._events, self._target, self._deployments = session.events, target, tuple(deployments)
        self._folder = session.folder.below("watch")
        self._clock = uncancelled(session.clock)
        self._begun = self._clock.monotonic()
        self._changes = {name: Changes() for name in (ROLLOUT, PODS, EVENTS)}
        self._tails: dict[tuple[str, str], Tail] = {}
        self._first = True
        self._stop, self._woken = threading.Event(), threading.Event()
        self._pause = INTERVAL_SECONDS
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)

    def __enter__(self) -> Watching:
        self._folder.make()
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop.set()
        self._woken.set()
        self._thread.join(2 * TIMEOUT_SECONDS)

    @contextmanager
    def rarely(self) -> Iterator[None]:
        """While in the block, and at once as before when it ends."""
        self._pause = RARELY_SECONDS
        try:
            yield
        finally:
            self._pause = INTERVAL_SECONDS
            self._woken.set()

    def _run(self) -> None:
        while True:
            last = self._stop.is_set()
            for look in (self._look, self._look_at_events):
                try:
                    look()
                except (PipelineError, OSError):
                    continue  # the API is away for a moment, or does not show this to us
            self._first = False
            if last:
                return
            self._woken.wait(self._pause)
            self._woken.clear()

    def _look(self) -> None:
        kube, namespace = self._kube, self._target.namespace
        found = {
            str(each["metadata"]["name"]): each
            for each in kube.objects("deployments", namespace, timeout=TIMEOUT_SECONDS)
        }
        now = {name: rollout(found[name]) for name in self._deployments if name in found}
        self._write(ROLLOUT, self._changes[ROLLOUT].new(now))
        pods = {
            name: each
            for each in kube.objects("pods", namespace, timeout=TIMEOUT_SECONDS)
            if of_release(name := str(each["metadata"]["name"]), self._deployments)
        }
        lines = {name: pod(each) for name, each in pods.items()}
        self._write(PODS, self._changes[PODS].new(lines, gone="gone"))
        for name, each in pods.items():
            if self._stop.is_set():  # nobody waits for a service's own words
                break
            self._read(name, each)

    def _look_at_events(self) -> None:
        found = self._kube.objects("events", self._target.namespace, timeout=TIMEOUT_SECONDS)
        now = {
            f"{each['metadata']['name']} {each.get('count')}": event(each)
            for each in found
            if of_release(
                str((each.get("involvedObject") or {}).get("name", "")), self._deployments
            )
        }
        lines = self._changes[EVENTS].new(now)
        if not self._first:  # what happened before is not of this change
            self._write(EVENTS, [line.partition(": ")[2] for line in lines])

    def _read(self, name: str, found: Object) -> None:
        for container in (found.get("status") or {}).get("containerStatuses") or []:
            state = container.get("state") or {}
            if "running" not in state and "terminated" not in state:
                continue
            key = (name, str(container["name"]))
            known = key in self._tails
            tail = self._tails.setdefault(key, Tail())
            query = tail.query() if known or not self._first else {**tail.query(), "tailLines": 1}
            answer = self._kube.logs(
                name,
                self._target.namespace,
                container=container["name"],
                timeout=TIMEOUT_SECONDS,
                **query,
            )
            lines = tail.new(answer.text) if answer.ok else []
            if known or not self._first:
                self._write(LOGS, [f"{name}: {line}" for line in lines], shown=SHOWN_LINES)

    def _write(self, terminal: str, lines: Sequence[str], shown: int | None = None) -> None:
        if not lines:
            return
        # As one text: a private key has several lines.
        clean = self._folder.redactor.text("\n".join(lines)).splitlines()
        at = self._clock.monotonic() - self._begun
        self._folder.append(f"{terminal}.txt", "".join(f"{at:7.1f} s  {line}\n" for line in clean))
        for line in clean[-shown:] if shown else clean:
            self._events.emit(KIND, line[:300], step=terminal)
