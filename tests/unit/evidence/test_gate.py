"""What ``promote`` asks before it begins, as the flow asks it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import EvidenceRefused, SettingsError
from ci.run.context import Context
from ci.settings import Options
from ci.stages import attest
from ci.workflow import commands, environments, fleet, handoffs
from tests.unit.evidence.fakes import REPOSITORY, FakeRegistry, machine, proof

PRODUCTION = {
    "kubeconfig": "kubeconfig",
    "context": "contoso",
    "chart": "chart",
    "image_repository": REPOSITORY,
    "registry_login": {"username": "AWS", "password_env": "PW"},
}


def here(folder: Path, **target: Any) -> Context:
    return machine(
        folder / "here", {"targets": {"production": PRODUCTION | target}}, {"PW": "hunter2"}
    )


def proven(context: Context, registry: FakeRegistry) -> str:
    made = proof(registry.image("new"))
    handoffs.attested(context, made)
    return made.image.by_digest


def ask(context: Context, image: str, **options: Any) -> Any:
    target = environments.resolve(context, "production")
    chosen = Options("production", **options)
    return handoffs.evidence(context, handoffs.source(context, image, target), target, chosen)


def source(context: Context, image: str, target: str) -> attest.Source:
    return handoffs.source(context, image, environments.resolve(context, target))


def test_last_is_a_name_and_no_proof(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path)
    with pytest.raises(EvidenceRefused, match="no image model-engine was proven in this checkout"):
        source(context, "last", "launch")
    image = proven(context, registry)
    assert ask(context, "last").image.by_digest == image
    registry.tags.clear()
    registry.manifests = {
        digest: kept for digest, kept in registry.manifests.items() if b"subject" not in kept[0]
    }
    with pytest.raises(EvidenceRefused, match="no evidence is attached"):
        ask(context, "last")


def test_last_belongs_to_the_checkout(registry: FakeRegistry, tmp_path: Path) -> None:
    """Another checkout's proof on the same machine is named, and never taken by itself."""
    mine = here(tmp_path)
    other = replace(
        machine(tmp_path / "other", {"targets": {"production": PRODUCTION}}), home=mine.home
    )
    image = proven(other, registry)
    with pytest.raises(EvidenceRefused) as refused:
        source(mine, "last", "production")
    assert str(other.root.resolve()) in str(refused.value)
    assert str(mine.root.resolve()) in str(refused.value)
    assert f"--image {image}" in refused.value.remedy
    own = proof(registry.image("own"))
    handoffs.attested(mine, own)
    assert source(mine, "last", "production").by_digest == own.image.by_digest
    assert source(other, "last", "production").by_digest == image


def test_last_belongs_to_the_image_of_the_settings(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path)
    proven(context, registry)
    renamed = context.settings.model_copy(
        update={"image": context.settings.image.model_copy(update={"name": "other"})}
    )
    with pytest.raises(EvidenceRefused, match="no image other was proven in this checkout") as no:
        source(replace(context, settings=renamed), "last", "production")
    assert "--image" not in no.value.remedy, "an image of another name is not offered"


def test_a_link_to_the_checkout_is_the_checkout(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path)
    image = proven(context, registry)
    (tmp_path / "link").symlink_to(context.root)
    through = replace(context, root=tmp_path / "link")
    assert source(through, "last", "production").by_digest == image


def test_what_last_resolves_to_is_shown(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path)
    image = proven(context, registry)
    source(context, "last", "production")
    [shown] = [event.text for event in context.events.all if event.kind == "run.note"]
    for part in (image, str(context.root.resolve()), context.run_dir.name, "UTC"):
        assert part in shown


def test_several_targets_get_one_image(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``last`` is resolved once: a proof that ends meanwhile changes nothing of a promotion."""
    context = here(tmp_path)
    image = proven(context, registry)
    given: list[str] = []

    def waved(_context: object, _order: object, image: str, _words: object) -> tuple[()]:
        given.append(image)
        return ()

    monkeypatch.setattr(fleet, "promote", waved)
    commands.promote_to(context, ["production", "launch"], Options(), "last", [])
    assert given == [image]


@pytest.mark.parametrize(
    "image", ["model-engine:latest", "@sha256:" + "a" * 64, "x@sha256:short", "x", ""]
)
def test_an_image_is_named_by_digest(tmp_path: Path, image: str) -> None:
    with pytest.raises(SettingsError, match="not an image by digest"):
        source(here(tmp_path), image, "production")


def test_a_tag_beside_the_digest_is_left_out(tmp_path: Path) -> None:
    digest = f"sha256:{'a' * 64}"
    found = source(here(tmp_path), f"host:5000/a/b:tag@{digest}", "production")
    assert (found.repository, found.digest) == ("host:5000/a/b", digest)


def test_the_login_of_a_target_goes_to_its_registry_only(tmp_path: Path) -> None:
    context, digest = here(tmp_path), f"sha256:{'a' * 64}"
    assert source(context, f"{REPOSITORY}@{digest}", "production").login is not None
    assert source(context, f"elsewhere:5000/x@{digest}", "production").login is None
    assert source(context, f"{REPOSITORY}@{digest}", "launch").login is None


def test_a_target_that_needs_approval(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path, approval=True)
    image = proven(context, registry)
    with pytest.raises(EvidenceRefused, match="production needs an approval"):
        ask(context, image)
    assert ask(context, image, approve="Ada").passed
    assert ask(context, image).passed, "it is kept beside the evidence"


def test_no_approval_replaces_a_proof(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path, approval=True)
    image = f"{REPOSITORY}@{registry.image('unproven')}"
    with pytest.raises(EvidenceRefused, match="no evidence is attached"):
        ask(context, image, approve="Ada")
    assert registry.attached() == [], "what was not proven is not approved, either"


def test_approval_by_command(registry: FakeRegistry, tmp_path: Path) -> None:
    context = here(tmp_path, approval=True)
    image = proven(context, registry)
    result = commands.approve_only(context, Options("production", approve="Ada"), image)
    assert result.proof is not None
    assert ask(context, image).image.by_digest == image
    with pytest.raises(SettingsError, match="unknown target 'staging'"):
        commands.approve_only(context, Options("staging", approve="Ada"), image)


def test_keys_are_looked_at_before_the_work(tmp_path: Path) -> None:
    context = here(tmp_path)
    broken = context.settings.model_copy(
        update={"evidence": context.settings.evidence.model_copy(update={"key_env": "NONE"})}
    )
    with pytest.raises(SettingsError, match="variable NONE"):
        commands.run(replace(context, settings=broken), Options("production"))
    attest.check_keys(context)
