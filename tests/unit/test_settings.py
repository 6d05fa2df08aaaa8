"""A target's block of the settings, as the promotion gets it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci.errors import SettingsError
from ci.model import Target
from ci.results import REQUIRED_BY_DEFAULT, CheckId, required
from ci.run.context import Context
from ci.settings import Gates, Probing, Query, Settings, load
from ci.standins.admission import SELECTOR
from ci.workflow import environments

BLOCK = """
[targets.prod]
kubeconfig = "/kubeconfig"
context = "prod"
image_repository = "registry.example.com/mirror/model-engine"
"""


def loaded(tmp_path: Path, more: str = "") -> Settings:
    file = tmp_path / "pipeline.toml"
    file.write_text(BLOCK + more, encoding="utf-8")
    return load(file)


def target(tmp_path: Path, more: str = "") -> Target:
    settings = loaded(tmp_path, more)
    context = cast(Context, SimpleNamespace(settings=settings, path=lambda path: path))
    return environments.real_target(context, "prod", settings.targets["prod"])


def test_the_defaults_are_the_models(tmp_path: Path) -> None:
    found = target(tmp_path)
    assert found.probing == Probing()
    assert found.repository_values == ("image.repository",)


def test_the_probing_block_reaches_the_target(tmp_path: Path) -> None:
    block = (
        '[targets.prod.probing]\npath = "/v1/models?limit=1"\nper_second = 0.5\n'
        "timeout_seconds = 2\ninside = false\nallowed_failures = 3\n"
        'outside_url = "https://engine.example.com/readyz"\n'
    )
    assert target(tmp_path, block).probing == Probing(
        path="/v1/models?limit=1",
        per_second=0.5,
        timeout_seconds=2,
        inside=False,
        allowed_failures=3,
        outside_url="https://engine.example.com/readyz",
    )


@pytest.mark.parametrize("url", ["engine.example.com", "https://user:word@engine.example.com"])
def test_a_way_in_is_an_address_without_a_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"targets\.prod\.probing\.outside_url") as refused:
        loaded(tmp_path, f'[targets.prod.probing]\noutside_url = "{url}"\n')
    assert "word" not in str(refused.value)


@pytest.mark.parametrize("key", ["age1" + "a" * 58, "age1short"])
def test_a_recipient_that_is_none_is_refused_at_once(tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match=r"backups\.recipients"):
        loaded(tmp_path, f'[backups]\nrecipients = ["{key}"]\n')


def test_several_repository_values_reach_the_target(tmp_path: Path) -> None:
    found = target(tmp_path, 'repository_values = ["image.gateway", "image.builder"]\n')
    assert found.repository_values == ("image.gateway", "image.builder")


def test_the_services_own_repository_value_is_the_default(tmp_path: Path) -> None:
    found = target(tmp_path, '[service]\nrepository_value = "image.name"\n')
    assert found.repository_values == ("image.name",)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('path = "readyz"', "path"),
        ('path = "/a b"', "path"),
        ("per_second = -1", "per_second"),
        ("per_second = 10000", "per_second"),
        ("timeout_seconds = 0", "timeout_seconds"),
        ("allowed_failures = -1", "allowed_failures"),
        ("allowed_failures = 0.5", "allowed_failures"),
        ('inside = "yes"', "inside"),
        ("rate = 5", "rate"),
    ],
)
def test_probing_that_makes_no_sense_is_named(tmp_path: Path, line: str, key: str) -> None:
    with pytest.raises(SettingsError, match=rf"targets\.prod\.probing\.{key}"):
        loaded(tmp_path, f"[targets.prod.probing]\n{line}\n")


def test_the_gates_reach_the_target(tmp_path: Path) -> None:
    block = (
        "soak_seconds = 300\n[targets.prod.gates]\nerror_percent = 0.5\nrestarts = 1\n"
        'prometheus_url = "https://prometheus.example.com/prod"\n'
        '[[targets.prod.gates.queries]]\nname = "lag"\nquery = "max(lag)"\nlimit = 10\n'
    )
    found = target(tmp_path, block)
    assert found.soak_seconds == 300
    assert found.gates == Gates(
        error_percent=0.5,
        restarts=1,
        prometheus_url="https://prometheus.example.com/prod",
        queries=(Query(name="lag", query="max(lag)", limit=10),),
    )
    assert target(tmp_path).soak_seconds == 0
    assert target(tmp_path).gates == Gates()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("latency_factor = 0.5", r"gates\.latency_factor"),
        ('prometheus_url = "https://user:pw@host"', r"gates\.prometheus_url"),
        ('prometheus_url = "host"', r"gates\.prometheus_url"),
        ('[[targets.prod.gates.queries]]\nname = "a"\nquery = "b"\nlimit = 1', "prometheus_url"),
        ('[[targets.prod.gates.queries]]\nname = "a"\nquery = "b"', "limit: is missing"),
    ],
)
def test_gates_that_make_no_sense_are_named(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        loaded(tmp_path, f"[targets.prod.gates]\n{lines}\n")


def test_a_repository_value_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="repository_values"):
        loaded(tmp_path, 'repository_values = [""]\n')


def test_the_example_shows_each_key_at_its_default() -> None:
    example = (Path(__file__).parents[2] / "pipeline.toml.example").read_text(encoding="utf-8")
    block = example.split("[targets.prod.probing]")[1]
    shown: dict[str, Any] = Probing().model_dump()
    for key, value in shown.items():
        written = f'"{value}"' if isinstance(value, str) else str(value).lower()
        assert f"# {key} = {written.removesuffix('.0')}\n" in block


def test_azures_names_are_redirected_where_the_gate_says_so(tmp_path: Path) -> None:
    assert not loaded(tmp_path).gate.cloud.redirect
    block = """
[gate.cloud]
redirect = true
pods = "azure.workload.identity/use=true,app"
names = { "*.blob.core.windows.net" = "azurite.blobs", "vault.azure.net" = "vault.stand-ins" }
"""
    cloud = loaded(tmp_path, block).gate.cloud
    assert cloud.redirect
    assert cloud.pods == "azure.workload.identity/use=true,app"
    assert cloud.names["*.blob.core.windows.net"] == "azurite.blobs"


@pytest.mark.parametrize(
    "line",
    [
        'pods = "a=b,"',
        'pods = "not a label"',
        'pods = ""',
        'names = { "*" = "azurite.blobs" }',
        'names = { "a.*.net" = "azurite.blobs" }',
        'names = { "a.net {" = "azurite.blobs" }',
        'names = { "a.net" = "azurite" }',
        'names = { "a.net" = "azurite.blobs answer auto" }',
        "redirect = 1",
        "lead = 1",
    ],
)
def test_names_and_labels_that_are_none_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=r"gate\.cloud"):
        loaded(tmp_path, f"[gate.cloud]\n{line}\n")


def test_a_key_with_its_old_name_works_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text("[gate.cloud]\nlead = true\n")
    named: list[tuple[str, str]] = []
    found = load(file, renamed=lambda old, new: named.append((old, new)))
    assert found.gate.cloud.redirect
    assert named == [("gate.cloud.lead", "gate.cloud.redirect")]
    file.write_text("[gate.cloud]\nredirect = true\n")
    assert load(file, renamed=lambda old, new: pytest.fail("named")) == found


def test_a_key_with_both_its_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lead is the old name of redirect"):
        loaded(tmp_path, "[gate.cloud]\nlead = true\nredirect = false\n")


def test_the_pods_that_get_an_identity_are_those_of_aks(tmp_path: Path) -> None:
    assert loaded(tmp_path).gate.cloud.pods == SELECTOR


def test_the_gate_is_never_the_demonstration_targets_cluster(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gate\.name: .*demonstration target's cluster"):
        loaded(tmp_path, '[gate]\nname = "launch"\n')


# -- the checks that a target requires -------------------------------------------------------------


def test_what_a_target_requires_reaches_it(tmp_path: Path) -> None:
    assert target(tmp_path).require == REQUIRED_BY_DEFAULT
    found = target(tmp_path, 'require = ["release.*", "queue.*", "!queue.lock-duration"]\n')
    assert required(CheckId.QUEUE_TIMEOUTS, found.require)
    assert not required(CheckId.QUEUE_LOCK_DURATION, found.require)
    assert not required(CheckId.LOGS_NO_ERRORS, found.require)
    assert target(tmp_path, "require = []\n").require == ()


@pytest.mark.parametrize(
    ("glob", "near"),
    [
        ("queue.timeout", "queue.timeouts"),
        ("queues.*", r"queue\.\*"),
        ("!log.*", r"logs\.\*"),
        ("Release.*", r"release\.\*"),
    ],
)
def test_a_glob_that_names_no_check_is_refused_with_the_nearest(
    tmp_path: Path, glob: str, near: str
) -> None:
    with pytest.raises(SettingsError, match=rf"targets\.prod\.require.*matches no check.*{near}"):
        loaded(tmp_path, f'require = ["release.*", "{glob}"]\n')


def test_the_example_shows_what_is_required_by_default() -> None:
    example = (Path(__file__).parents[2] / "pipeline.toml.example").read_text(encoding="utf-8")
    block = example.partition("# require = [")[2].partition("]")[0]
    shown = tuple(part.strip(' #\n"') for part in block.split(","))
    assert shown == REQUIRED_BY_DEFAULT
