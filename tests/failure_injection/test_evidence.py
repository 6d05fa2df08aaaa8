"""Evidence that does not hold: the promotion that rests on it never touches the target."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from ci.errors import EvidenceRefused
from ci.evidence import dsse, keys
from ci.model import Case, Image, Promotion, Proof
from ci.results import Outcome, VerdictId
from ci.run.context import Context
from ci.settings import Settings
from ci.stages import attest
from ci.stages.promote import promote
from ci.tools.registry import open_repository
from tests.failure_injection.rig import Place, proof


@dataclass(frozen=True, slots=True)
class Release:
    """A place's promotion as a release job runs it, from what the registry has for a digest."""

    place: Place
    context: Context
    image: Image

    @classmethod
    def at(cls, place: Place) -> Release:
        """Of an image that nothing is attached to yet, signed for by a key of the case's own."""
        plain = place.context()
        plain.run_dir.mkdir(parents=True, exist_ok=True)
        key = place.folder / "key"
        keys.ensure(key)
        described = {
            "gate": {"chart": str(place.chart)},
            "evidence": {"key_file": str(key / keys.PRIVATE)},
        }
        context = replace(plain, settings=Settings.model_validate(described))
        like = place.rig.images["v2"]
        registry, programs = context.tools.registry, context.programs
        with open_repository(like.repository, local=registry, programs=programs) as repository:
            content, media_type = repository.manifest(like.digest)
            tag = place.folder.name
            manifest = {**json.loads(content), "annotations": {"case": tag}}
            repository.write_manifest(tag, json.dumps(manifest).encode(), media_type)
            digest = repository.digest(tag)
        assert digest is not None
        return cls(place, context, Image(like.repository, tag, digest))

    def attach(self, found: Proof, spoilt: Callable[[bytes], bytes] = bytes) -> None:
        file = attest.write(self.context, found)
        file.write_bytes(spoilt(file.read_bytes()))
        attest.attach(self.context, self.image, file)

    def proven(self) -> Proof:
        source = attest.Source(self.image.repository, self.image.digest)
        return attest.verified(self.context, source, self.place.chart)

    def promote(self) -> Promotion:
        with self.place.recorded("promote", self.context) as stands:
            promoted = promote(self.place.session(self.context), self.proven())
            stands.append(promoted.state)
        return promoted


def ended(release: Release, outcome: Outcome) -> Proof:
    good = proof(release.image)
    return replace(good, cases=(*good.cases, Case("test_of_a_lock", outcome, 1.0, "why")))


def of_another_image(release: Release) -> None:
    release.attach(proof(release.place.rig.images["v1"]))


def edited(release: Release) -> None:
    def spoilt(content: bytes) -> bytes:
        envelope = dsse.parse(content)
        return replace(
            envelope, payload=envelope.payload.replace(b'"FAILED"', b'"PASSED"')
        ).to_json()

    release.attach(ended(release, Outcome.FAILED), spoilt)


def expired(release: Release) -> None:
    good = proof(release.image)
    release.attach(replace(good, finished=good.finished - timedelta(hours=30)))


def unsigned(release: Release) -> None:
    release.attach(
        proof(release.image), lambda read: replace(dsse.parse(read), signatures=()).to_json()
    )


def of_a_stranger(release: Release) -> None:
    stranger: Path = release.place.folder / "stranger"
    keys.ensure(stranger)
    evidence = {"key_file": str(stranger / keys.PRIVATE)}
    settings = release.context.settings
    changed = settings.model_copy(
        update={"evidence": type(settings.evidence).model_validate(evidence)}
    )
    elsewhere = replace(release, context=replace(release.context, settings=changed))
    elsewhere.attach(proof(release.image))


def with_a_failed_case(release: Release) -> None:
    release.attach(ended(release, Outcome.FAILED))


def with_a_skipped_case(release: Release) -> None:
    release.attach(ended(release, Outcome.SKIPPED))


def none_at_all(_: Release) -> None:
    """Nothing is attached."""


FLAWS: tuple[tuple[Callable[[Release], None], str], ...] = (
    (none_at_all, "no evidence is attached"),
    (of_another_image, "is of another image"),
    (edited, "was changed after it was signed"),
    (expired, "is 30.0 h old"),
    (unsigned, "is not signed"),
    (of_a_stranger, "signed by a key that is not trusted here"),
    (with_a_failed_case, "failed: test_of_a_lock"),
    (with_a_skipped_case, "did not pass in the proof"),
)


@pytest.mark.end(VerdictId.NOT_PROMOTED, note="good evidence is then taken")
@pytest.mark.parametrize(
    ("flaw", "says"), FLAWS, ids=[flaw.__name__.replace("_", " ") for flaw, _ in FLAWS]
)
def test_evidence(place: Place, flaw: Callable[[Release], None], says: str) -> None:
    place.stand()
    release = Release.at(place)
    flaw(release)
    place.refused(EvidenceRefused, says)(release.promote)
    place.ends("v1", 1)
    place.nothing_lost()
    release.attach(proof(release.image))
    assert release.proven().image.digest == release.image.digest
