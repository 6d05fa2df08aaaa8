"""What a rollback would do: which revision it returns to, and what differs between what serves
now and then. Reads only; :mod:`ci.promotion.release.history` has the rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ci import redaction
from ci.digest import UNKNOWN, Digest
from ci.errors import Interrupted, PipelineError, TargetNotFound, VerifyFailed, error_summary
from ci.model import Changed, Image, Rollback, Served, Target
from ci.promotion.plan import diff
from ci.promotion.preflight.inspect import changed_since
from ci.promotion.release import history as histories
from ci.promotion.release import reader as reader_
from ci.promotion.release.history import Content
from ci.promotion.release.reader import Stored
from ci.promotion.release.rollout import Expected, Snapshot, digests_of, service_containers
from ci.promotion.release.session import TargetSession
from ci.tools.helm import Revision
from ci.tools.registry import open_repository


@dataclass(frozen=True, slots=True)
class Planned:
    """A rollback before it is done."""

    described: Rollback
    goal: Revision
    expected: Expected
    """What every pod has to run in the end."""
    known: frozenset[str]
    """Digests that its image may have on a pod; empty where nobody knows."""
    nothing_to_do: bool
    """Whether the release serves all of it already, exactly as released."""


def planned(
    session: TargetSession,
    history: list[Revision],
    revision: int | None,
    journal: Mapping[str, str],
) -> Planned:
    """Choose the revision to return to and compare it with what serves. ``journal`` is what the
    last promotion wrote down. Raises :class:`ci.errors.PlanRefused` when there is none."""
    target = session.target
    kube = session.kube
    now = reader_.snapshot(kube, target.namespace)
    recorded = journal.get("revision", "")
    unfinished = journal.get("step") == "upgrading" and recorded.isdigit()
    kept = frozenset(filter(None, map(Digest.read, journal.get("digests", "").split(","))))
    reader = _Reader(session, history[-1], now, {int(recorded): kept} if kept else {})
    goal = histories.choose(
        history, reader.content, asked=revision, recorded=int(recorded) if unfinished else None
    )
    latest, there = history[-1], goal.revision
    repository, tag = reader_.released_image(target, reader.stored(there).rendered)
    old, new = reader.content(latest), reader.content(there)
    values = diff.changed(reader.stored(latest).values, reader.stored(there).values)
    containers = dict(old.others), dict(new.others)
    images = tuple(
        Changed(name, containers[0].get(name, "absent"), containers[1].get(name, "absent"))
        for name in sorted(containers[0].keys() | containers[1].keys())
        if containers[0].get(name) != containers[1].get(name)
    )
    deployments = tuple(
        name
        for name in reader_.deployments_of(target, reader.stored(there).rendered.objects)
        if any(k[1] == "Deployment" and k[3] == name for k in reader.stored(there).rendered.objects)
    )
    return Planned(
        Rollback(
            target.name,
            Served(latest.number, _image(old), latest.chart),
            Served(there.number, _image(new), there.chart),
            values,
            images,
        ),
        there,
        Expected(
            deployments,
            target.gateway,
            repository,
            tag,
            kept if recorded == str(there.number) else frozenset(),
        ),
        new.equivalents,
        goal.same and reader.as_released(history, there),
    )


class _Reader:
    """Reads revisions, each once."""

    def __init__(
        self,
        session: TargetSession,
        latest: Revision,
        now: Snapshot,
        digests: Mapping[int, frozenset[Digest]],
    ) -> None:
        """``digests`` are those that pods of a revision were seen to run."""
        self._session, self._target = session, session.target
        self._latest, self._now = latest, now
        self._kube = session.kube
        self._helm = session.helm
        self._seen = digests
        self._stored: dict[int, Stored] = {}
        self._content: dict[int, Content] = {}
        self._asks_registry = True

    def stored(self, revision: Revision) -> Stored:
        if revision.number not in self._stored:
            self._stored[revision.number] = reader_.stored(
                self._kube, self._helm, self._target, revision.number
            )
        return self._stored[revision.number]

    def content(self, revision: Revision) -> Content:
        if revision.number not in self._content:
            self._content[revision.number] = self._read(revision)
        return self._content[revision.number]

    def _read(self, revision: Revision) -> Content:
        stored = self.stored(revision)
        images = histories.images_of(stored.rendered)
        try:
            image = ":".join(reader_.released_image(self._target, stored.rendered))
        except TargetNotFound:
            image = ""
        found = Content(
            image,
            revision.chart,
            histories.without(
                stored.values, (self._target.tag_value, *self._target.repository_values)
            ),
            frozenset((name, other) for name, other in images.items() if other != image),
            templates(stored.chart),
        )
        digests = self._digests(revision, image)
        return replace(
            found, digest=digests[0] if digests else UNKNOWN, equivalents=frozenset(digests)
        )

    def _digests(self, revision: Revision, image: str) -> tuple[Digest, ...]:
        """What the image is, the likeliest first: as the pods run it, else as they were seen to,
        else as its registry has it now."""
        if found := running(self._now, self._target, image):
            return found
        if revision.number in self._seen:
            return tuple(sorted(self._seen[revision.number]))
        if not image or revision is self._latest or not self._asks_registry:
            return ()
        try:
            return resolved(self._session, image)
        except Interrupted:
            raise
        except (PipelineError, ValueError, KeyError) as problem:
            self._asks_registry = False  # a rollback does not wait for it twice
            self._session.events.note(
                f"compared by tag, for the registry does not say what {image} is:"
                f" {redaction.text(error_summary(problem))}"
            )
            return ()

    def as_released(self, history: list[Revision], revision: Revision) -> bool:
        """Whether the live objects are what a rollback to ``revision`` would make of them. One
        that serves the same may still differ in what a chart makes up, or by hand."""
        here, there = self.stored(self._latest).rendered, self.stored(revision).rendered
        if revision is not self._latest:
            old, new = self.content(self._latest), self.content(revision)
            if old.image != new.image:
                return False
            repository, _, tag = old.image.rpartition(":")
            change = diff.Change(
                tag, tag, repository, repository,
                histories.origin(history, self._latest), histories.origin(history, revision),
            )  # fmt: skip
            if diff.make(change, live=here, same=there, new=there, again=there).refused:
                return False
        by_hand, _ = changed_since(here, reader_.present(self._kube, self._target, here))
        return not by_hand


def templates(chart: Mapping[str, Any] | None) -> str:
    """SHA-256 of a stored chart's templates and CRDs; empty where it cannot be read."""
    if chart is None:
        return ""
    crds = (e for e in chart.get("files") or [] if str(e["name"]).startswith("crds/"))
    entries = [*(chart.get("templates") or []), *crds]
    files = sorted((str(entry["name"]), str(entry.get("data"))) for entry in entries)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _image(content: Content) -> Image:
    repository, _, tag = content.image.rpartition(":")
    return Image(repository, tag, content.digest)


def running(now: Snapshot, target: Target, image: str) -> tuple[Digest, ...]:
    """The one digest of ``image`` (by tag) on the gateway's pods; nothing where they run none or
    several."""
    repository = image.rpartition(":")[0]
    found = {
        digest
        for pod in now.live_pods_of(target.gateway)
        if image in service_containers(pod["spec"], repository).values()
        for digest in digests_of(pod, repository).values()
    }
    return tuple(found) if len(found) == 1 else ()


def resolved(session: TargetSession, image: str) -> tuple[Digest, ...]:
    """The digest that an image's tag has in its registry now and, of an index, those of its
    platforms; nothing where there is no such tag."""
    target = session.target
    repository, _, tag = image.rpartition(":")
    same_host = repository.partition("/")[0] == target.image_repository.partition("/")[0]
    with open_repository(
        repository,
        local=session.tools.registry,
        login=target.login if same_host else None,
        programs=session.programs,
    ) as there:
        found = there.digest(tag)
        return (found, *sorted(there.equivalents(found) - {found})) if found else ()


def on_every_pod(expected: Expected, now: Snapshot, known: frozenset[str]) -> Digest:
    """The digest that every pod of the service runs; empty where there is no pod. Raises
    :class:`ci.errors.VerifyFailed` where they run several that are not ``known`` to be one."""
    found = {
        digest
        for name in expected.deployments
        for pod in now.live_pods_of(name)
        for digest in digests_of(pod, expected.repository).values()
    }
    if len(found) > 1 and not found <= known:
        raise VerifyFailed(
            f"the pods run {len(found)} different digests of"
            f" {expected.repository}:{expected.tag}: its tag was moved",
            remedy="promote an image that was proven, under a tag of its own",
        )
    return min(found, default=UNKNOWN)
