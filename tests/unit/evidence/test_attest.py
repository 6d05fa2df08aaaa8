"""From a proof on one machine to a promotion on another: only the registry is between them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from ci.digest import Digest
from ci.errors import EvidenceRefused, SettingsError
from ci.evidence import dsse, keys, statement
from ci.model import Image
from ci.results import Outcome
from ci.run.context import Context
from ci.stages import attest
from ci.stages.attest import Source
from tests.unit.evidence.fakes import API, REPOSITORY, FakeRegistry, machine, proof


def prove(context: Context, registry: FakeRegistry, **options: Any) -> Source:
    """What ``prove`` does once the suite has passed."""
    digest = registry.image("queue-timeout-20261123-100000")
    made = proof(digest, **options)
    attest.attach(context, made.image, attest.write(context, made))
    return Source(REPOSITORY, Digest(digest))


def chart(context: Context) -> Path:
    return context.path(context.settings.gate.chart)


def trusting(folder: Path, other: Context, **settings: Any) -> Context:
    """Another checkout, another runs folder, another home, with the public key alone."""
    folder.mkdir()
    (folder / "team.pub").write_text(attest.signing_key(other).public.pem)
    evidence = {"public_keys": (str(folder / "team.pub"),), **settings}
    return machine(folder / "machine", {"evidence": evidence}, local="another-registry:5000")


def test_evidence_is_found_and_verified_from_another_machine(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    here = machine(tmp_path / "here")
    source = prove(here, registry)
    there = trusting(tmp_path / "there", here)
    found = attest.verified(there, source, chart(there))
    assert found.passed
    assert found.image == Image(REPOSITORY, "queue-timeout-20261123-100000", source.digest)
    assert [case.name for case in found.cases] == [f"test_it::test_{n}" for n in range(3)]
    assert found.api == API
    assert not (there.home.state / "keys").exists(), "who only promotes needs no private key"
    assert not (there.home.state / "proofs").exists()


def test_a_machine_trusts_its_own_key_by_default(registry: FakeRegistry, tmp_path: Path) -> None:
    here, there = machine(tmp_path / "here"), machine(tmp_path / "there")
    source = prove(here, registry)
    assert attest.verified(here, source, chart(here)).passed
    with pytest.raises(EvidenceRefused, match="not trusted here"):
        attest.verified(there, source, chart(there))


def test_the_run_keeps_what_it_signed(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here", {"gate": {"chart": "chart", "values": {"password": "pw1"}}})
    prove(here, registry)
    kept = (here.run_dir / attest.FILE).read_bytes()
    assert registry.envelopes() == [kept]
    stated = statement.read_result(dsse.parse(kept).payload)
    assert stated.run == here.run_dir.name
    assert stated.tools == (("helm", "3.19.0"),)
    assert stated.subjects[1].name == "model-engine-0.1.13"
    assert json.loads(stated.settings)["prove"]["workers"] == 10
    assert b"pw1" not in kept
    assert "pw1" not in stated.settings


def test_failing_evidence_is_signed_and_kept(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    digest = registry.image("new")
    attest.write(here, proof(digest, Outcome.PASSED, Outcome.FAILED))
    stated = statement.read_result(dsse.parse((here.run_dir / attest.FILE).read_bytes()).payload)
    assert stated.result == "FAILED"
    assert registry.attached() == []
    with pytest.raises(EvidenceRefused, match="no evidence is attached"):
        attest.verified(here, Source(REPOSITORY, Digest(digest)), chart(here))


def test_another_chart_on_the_promoting_machine(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    source = prove(here, registry)
    there = trusting(tmp_path / "there", here)
    (chart(there) / "templates/gateway.yaml").write_text("kind: Deployment\n# and more\n")
    with pytest.raises(EvidenceRefused, match="proven with another chart"):
        attest.verified(there, source, chart(there))


def test_the_settings_of_the_promoting_machine_decide(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    here = machine(tmp_path / "here")
    source = prove(here, registry, finished=datetime.now(UTC) - timedelta(hours=3))
    strict = trusting(tmp_path / "strict", here, max_age_hours=2)
    with pytest.raises(EvidenceRefused, match=r"is 3\.0 h old, at most 2\.0 h"):
        attest.verified(strict, source, chart(strict))
    demanding = trusting(tmp_path / "demanding", here, require=("test_locks::*",))
    with pytest.raises(EvidenceRefused, match=r"were not run .*: test_locks"):
        attest.verified(demanding, source, chart(demanding))


def test_edited_in_the_registry(registry: FakeRegistry, tmp_path: Path) -> None:
    """Whoever may push can replace what is attached, digests and all, but not sign it."""
    here = machine(tmp_path / "here")
    digest = registry.image("new")
    made = proof(digest, Outcome.PASSED, Outcome.FAILED)
    envelope = dsse.parse(attest.write(here, made).read_bytes())
    raw = json.loads(envelope.payload)
    raw["predicate"]["result"] = "PASSED"
    raw["predicate"]["failedTests"] = []
    raw["predicate"][statement.TEST_RUN]["cases"].pop()
    forged = dsse.Envelope(
        envelope.payload_type, json.dumps(raw).encode(), envelope.signatures
    ).to_json()
    (tmp_path / "forged").write_bytes(forged)
    attest.attach(here, made.image, tmp_path / "forged")
    with pytest.raises(EvidenceRefused, match="was changed after it was signed"):
        attest.verified(here, Source(REPOSITORY, Digest(digest)), chart(here))


def test_evidence_moved_to_another_image(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    prove(here, registry)
    unproven = registry.image("unproven")
    attest.attach(here, Image(REPOSITORY, "unproven", Digest(unproven)), here.run_dir / attest.FILE)
    with pytest.raises(EvidenceRefused, match="is of another image"):
        attest.verified(here, Source(REPOSITORY, Digest(unproven)), chart(here))


def test_an_image_that_is_not_there(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    with pytest.raises(EvidenceRefused, match="there is no image") as caught:
        attest.verified(here, Source(REPOSITORY, Digest.from_hex("0" * 64)), chart(here))
    assert "REPOSITORY@sha256" in caught.value.remedy


@pytest.mark.parametrize("through", ["key_env", "key_file"])
def test_a_key_of_the_team(registry: FakeRegistry, tmp_path: Path, through: str) -> None:
    pair = ed25519.Ed25519PrivateKey.generate()
    pem = pair.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "team.pem").write_bytes(pem)
    given = (
        {"key_env": "TEAM_KEY"} if through == "key_env" else {"key_file": f"{tmp_path}/team.pem"}
    )
    here = machine(tmp_path / "here", {"evidence": given}, {"TEAM_KEY": pem.decode()})
    source = prove(here, registry)
    assert attest.verified(here, source, chart(here)).passed
    signed = dsse.parse(registry.envelopes()[0])
    assert signed.signatures[0][0] == keys.PrivateKey(pair).public.id
    assert not (here.home.state / "keys").exists()
    if through == "key_env":
        assert here.programs.redact(pem.decode().splitlines()[1]) == "***"


def test_a_key_variable_that_is_empty(tmp_path: Path) -> None:
    here = machine(tmp_path / "here", {"evidence": {"key_env": "TEAM_KEY"}})
    with pytest.raises(SettingsError, match="variable TEAM_KEY holds no private key"):
        attest.signing_key(here)


def test_an_approval_is_a_second_statement(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    source = prove(here, registry)
    with pytest.raises(EvidenceRefused, match="production needs an approval"):
        attest.approved(here, source, "production")
    attest.approve(here, source, "production", "Ada")
    assert attest.approved(here, source, "production").by == "Ada"
    assert attest.verified(here, source, chart(here)).passed
    with pytest.raises(EvidenceRefused, match="is for production"):
        attest.approved(here, source, "staging")


def test_an_approval_of_its_own_key(registry: FakeRegistry, tmp_path: Path) -> None:
    here, ada = machine(tmp_path / "here"), machine(tmp_path / "ada")
    source = prove(here, registry)
    (tmp_path / "ada.pub").write_text(attest.signing_key(ada).public.pem)
    there = trusting(tmp_path / "there", here, approver_keys=(str(tmp_path / "ada.pub"),))
    with pytest.raises(EvidenceRefused, match="not among those whose approvals count"):
        attest.approve(there, source, "production", "the promoting machine itself")
    attest.approve(here, source, "production", "the proving machine itself")
    with pytest.raises(EvidenceRefused, match="not trusted here"):
        attest.approved(there, source, "production")
    attest.approve(ada, source, "production", "Ada")
    assert attest.approved(there, source, "production").by == "Ada"


def test_evidence_follows_the_image(registry: FakeRegistry, tmp_path: Path) -> None:
    here = machine(tmp_path / "here")
    source = prove(here, registry)
    image = Image(source.repository, "new", source.digest)
    attest.follow(here, image, image, None)
    assert len(registry.attached()) == 1, "where it is already, nothing is attached again"
