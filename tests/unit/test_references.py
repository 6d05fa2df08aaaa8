"""Variables, programs and files that settings name: looked for before anything is done, and what
may be a secret is never shown."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from pydantic import BaseModel

from ci.cli import app, session
from ci.errors import PipelineError, SettingsError, TargetNotFound
from ci.model import Target
from ci.promotion.release.session import TargetSession
from ci.references import Kind, reference_of
from ci.run.context import Context
from ci.settings import USES, Block, Settings, check_references, parse
from ci.workflow import handoffs
from tests.unit.evidence.fakes import machine

CONNECTION = (
    "Endpoint=sb://prod.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=c2VjcmV0"
)
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFNlY3JldA==\n-----END PRIVATE KEY-----"


@dataclass(frozen=True)
class Setting:
    """A setting that refers to something, at the least that makes it count."""

    key: str
    make: Callable[[Any], dict[str, Any]]
    """The settings with that value."""
    kind: Kind
    command: str = "run"
    """A command that needs it."""
    spared: tuple[str, ...] = ()
    """Commands on the same target that do not."""
    error: type[PipelineError] = SettingsError
    many: bool = False
    """Whether it holds several."""

    def settings(self, value: str) -> Settings:
        wrapped = (value,) if self.many or self.kind is Kind.COMMAND else value
        return parse(self.make(wrapped), origin="pipeline.toml")


def target(**block: Any) -> dict[str, Any]:
    described = {
        "kubeconfig": "there",
        "context": "c",
        "chart": "folder",
        "image_repository": "r/x",
    }
    return {"targets": {"prod": described | block}}


LOOK = ("status", "verify", "rollback")
SETTINGS = (
    Setting("image.context", lambda v: {"image": {"context": v}}, Kind.FOLDER, "build", LOOK),
    Setting("gate.chart", lambda v: {"gate": {"chart": v}}, Kind.FOLDER, "prove", LOOK),
    Setting("prove.tests", lambda v: {"prove": {"tests": v}}, Kind.FOLDER, "prove", LOOK),
    Setting("evidence.key_file", lambda v: {"evidence": {"key_file": v}}, Kind.FILE, "prove", LOOK),
    Setting(
        "evidence.key_env", lambda v: {"evidence": {"key_env": v}}, Kind.VARIABLE, "prove", LOOK
    ),
    Setting(
        "evidence.public_keys", lambda v: {"evidence": {"public_keys": v}},
        Kind.FILE, "promote", LOOK, many=True,
    ),
    Setting(
        "evidence.approver_keys", lambda v: {"evidence": {"approver_keys": v}},
        Kind.FILE, "approve", LOOK, many=True,
    ),
    Setting("notify.0.url_env", lambda v: {"notify": ({"url_env": v},)}, Kind.VARIABLE,
            "promote", ("plan", "prove", *LOOK)),
    Setting("notify.0.url_command", lambda v: {"notify": ({"url_command": v},)}, Kind.COMMAND,
            "promote", ("plan", "prove", *LOOK)),
    Setting("targets.prod.kubeconfig", lambda v: target(kubeconfig=v), Kind.FILE, "status",
            ("build", "prove"), TargetNotFound),
    Setting("targets.prod.chart", lambda v: target(chart=v), Kind.FOLDER, "plan", LOOK),
    Setting("targets.prod.migration_command", lambda v: target(migration_command=v), Kind.COMMAND,
            "plan", LOOK),
    Setting("targets.prod.servicebus_connection_string_env",
            lambda v: target(servicebus_connection_string_env=v), Kind.VARIABLE,
            "promote", ("plan", "approve", "rehearse", *LOOK)),
    Setting("targets.prod.gates.prometheus_token_env",
            lambda v: target(gates={"prometheus_token_env": v}), Kind.VARIABLE,
            "promote", ("plan", *LOOK)),
    Setting("targets.prod.registry_login.password_env",
            lambda v: target(registry_login={"password_env": v}), Kind.VARIABLE,
            "approve", LOOK),
    Setting("targets.prod.registry_login.password_command",
            lambda v: target(registry_login={"password_command": v}), Kind.COMMAND,
            "rehearse", LOOK),
)  # fmt: skip
EACH = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there").write_text("x")
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    for default in ("examples/model-engine/chart", "tests/e2e"):
        (tmp_path / default).mkdir(parents=True)
    return tmp_path


def check(settings: Settings, command: str, root: Path, **env: str) -> None:
    env = {"PATH": str(root), **env}
    check_references(settings, command, ["prod"], env=env, root=root)


GOOD = {Kind.VARIABLE: "NAME", Kind.COMMAND: "tool", Kind.FILE: "there", Kind.FOLDER: "folder"}
BAD = {
    Kind.VARIABLE: ("MISSPELLED",),
    Kind.COMMAND: ("no-such-tool", "./no-such-tool", "folder"),
    Kind.FILE: ("nowhere", "folder"),
    Kind.FOLDER: ("nowhere", "there"),
}


@EACH
def test_what_is_there_passes(setting: Setting, root: Path) -> None:
    check(setting.settings(GOOD[setting.kind]), setting.command, root, NAME="value")


@EACH
def test_what_is_not_there_is_refused_by_name(setting: Setting, root: Path) -> None:
    for value in BAD[setting.kind]:
        with pytest.raises(setting.error) as refused:
            check(setting.settings(value), setting.command, root, NAME="value")
        assert setting.key in str(refused.value)
        assert value in str(refused.value)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == (30 if setting.error is TargetNotFound else 3)
        assert setting.key.rpartition(".")[2] in refused.value.remedy


@EACH
def test_who_does_not_need_it_goes_on(setting: Setting, root: Path) -> None:
    """A rollback at night needs no token of the canary's, and a machine that promotes no key."""
    broken = setting.settings(BAD[setting.kind][0])
    assert setting.spared
    for command in setting.spared:
        check(broken, command, root)


@EACH
@pytest.mark.parametrize(
    "secret", [CONNECTION, PEM, "https://user:hunter2@example.com/hook"], ids=["sb", "pem", "url"]
)
def test_a_secret_in_its_place_is_refused_and_never_shown(setting: Setting, secret: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(setting.key)) as refused:
        setting.settings(secret)
    shown = f"{refused.value} {refused.value.remedy} {refused.value.__cause__}"
    for part in (secret, "c2VjcmV0", "MC4CAQ", "hunter2"):
        assert part not in shown
    assert "is not shown" in shown


@pytest.mark.parametrize(
    "token", ["hunter2", "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "AKIAIOSFODNN7EXAMPLE"]
)
def test_a_token_that_could_be_a_name_is_not_shown(token: str, root: Path) -> None:
    for setting in SETTINGS:
        if setting.kind is Kind.VARIABLE:
            with pytest.raises(SettingsError) as refused:
                check(setting.settings(token), setting.command, root)
            assert token not in f"{refused.value} {refused.value.remedy}"
            assert setting.key in str(refused.value)


def test_a_token_in_place_of_a_program_or_a_file_is_not_shown(root: Path) -> None:
    token = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
    for setting in SETTINGS:
        if setting.kind is not Kind.VARIABLE:
            with pytest.raises(setting.error) as refused:
                check(setting.settings(token), setting.command, root)
            assert token not in f"{refused.value} {refused.value.remedy}"


@pytest.mark.parametrize("value", ["", "  "])
def test_set_but_empty_counts_as_not_set(value: str, root: Path) -> None:
    settings = parse(target(servicebus_connection_string_env="BUS"), origin="x")
    with pytest.raises(SettingsError, match="the environment variable BUS is empty"):
        check(settings, "promote", root, BUS=value)


def test_every_one_is_named_at_once(root: Path) -> None:
    settings = parse(
        target(servicebus_connection_string_env="BUS", migration_command=("gone",)), origin="x"
    )
    with pytest.raises(SettingsError) as refused:
        check(settings, "run", root)
    assert "servicebus_connection_string_env: the environment variable BUS is not set" in str(
        refused.value
    )
    assert "migration_command: the program gone is not on PATH" in str(refused.value)


def test_targets_that_are_not_named_are_not_looked_at(root: Path) -> None:
    broken = parse(target(servicebus_connection_string_env="BUS"), origin="x")
    check_references(broken, "run", ["launch"], env={"PATH": ""}, root=root)


def test_the_targets_of_a_wave_are_all_looked_at(root: Path) -> None:
    settings = parse(
        target(servicebus_connection_string_env="BUS")
        | {"waves": {"all": {"order": (("prod",),)}}},
        origin="x",
    )
    with pytest.raises(SettingsError, match="BUS"):
        check_references(settings, "promote", ["all"], env={"PATH": ""}, root=root)


def test_what_another_setting_replaces_is_not_looked_at(root: Path) -> None:
    evidence = {"key_env": "KEY", "key_file": "nowhere"}
    check(parse({"evidence": evidence}, origin="x"), "prove", root, KEY="pem")
    login = {"password_env": "PW", "password_command": ("gone",)}
    check(parse(target(registry_login=login), origin="x"), "promote", root, PW="pw")


def test_a_machine_that_only_promotes_needs_no_private_key(root: Path) -> None:
    evidence = {"evidence": {"key_env": "KEY", "public_keys": ("there",)}}
    settings = parse(target() | evidence, origin="x")
    check(settings, "promote", root)
    with pytest.raises(SettingsError, match="KEY"):
        check_references(settings, "promote", ["prod"], signs=True, env={"PATH": ""}, root=root)
    trusts_itself = parse(target() | {"evidence": {"key_env": "KEY"}}, origin="x")
    with pytest.raises(SettingsError, match="KEY"):
        check(trusts_itself, "promote", root)


# -- every setting ---------------------------------------------------------------------------------


def blocks(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key, name, type) of every setting; numbers stand for the items of arrays."""
    hints = typing.get_type_hints(model, include_extras=True)
    for name in model.model_fields:
        yield f"{path}{name}", name, hints[name]
        for inner, key in inner_models(hints[name], f"{path}{name}."):
            yield from blocks(inner, key)


def inner_models(annotation: Any, path: str) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, path
        return
    origin = typing.get_origin(annotation)
    step = "0." if origin is tuple else "prod." if origin is dict else ""
    for each in typing.get_args(annotation):
        yield from inner_models(each, path + step)


def has_path(annotation: Any) -> bool:
    return annotation is Path or any(map(has_path, typing.get_args(annotation)))


REFERS = re.compile(r"_(env|command|file|files|keys|folder|path|kubeconfig)$")
NO_REFERENCE = {"service.openapi_path"}
"""A path of a URL."""


def test_every_setting_that_refers_to_something_is_declared_so() -> None:
    """A new field is checked as soon as it is declared; here it fails unless it is."""
    unmarked = [
        key
        for key, name, annotation in blocks(Settings)
        if (REFERS.search(name) or has_path(annotation))
        and reference_of(annotation) is None
        and key not in NO_REFERENCE
    ]
    assert unmarked == []


def test_the_walk_sees_a_field_that_is_not_declared_so() -> None:
    class Careless(Block):
        token_env: str = ""
        inner: dict[str, tuple[Path, ...]]

    found = {
        key
        for key, name, annotation in blocks(Careless)
        if (REFERS.search(name) or has_path(annotation)) and reference_of(annotation) is None
    }
    assert found == {"token_env", "inner"}


def test_the_table_above_has_every_reference() -> None:
    marked = {key for key, _, annotation in blocks(Settings) if reference_of(annotation)}
    assert marked == {setting.key for setting in SETTINGS}


def test_every_command_that_obtains_tools_says_what_it_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: set[str] = set()

    def asked(command: str, *_: object, **__: object) -> Any:
        called.add(command)
        raise typer.Exit(0)

    monkeypatch.setattr(app, "_with_tools", asked)
    for words in (["run"], ["build"], ["prove"], ["promote", "--image", "x"], ["rehearse"],
                  ["plan", "--image", "x"], ["approve", "--image", "x", "--by", "y"],
                  ["verify"], ["rollback"], ["status"]):  # fmt: skip
        assert app.main(words) == 0
    assert called == set(USES)


# -- where it is asked -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "promote"])
def test_the_command_line_refuses_before_it_does_anything(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("")
    (tmp_path / "pipeline.toml").write_text(
        f'[targets.prod]\nkubeconfig = "{kubeconfig}"\ncontext = "c"\nimage_repository = "r/x"\n'
        'servicebus_connection_string_env = "PROD_SERVICEBUS"\n'
    )
    monkeypatch.delenv("PROD_SERVICEBUS", raising=False)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(session, "opened", opened)
    words = [command, "--target", "prod", "--config", str(tmp_path / "pipeline.toml")]
    words += ["--image", "last"] if command == "promote" else []
    assert app.main(words) == 3
    error, remedy = capsys.readouterr().err.splitlines()
    assert error == (
        "error: targets.prod.servicebus_connection_string_env: the environment variable"
        " PROD_SERVICEBUS is not set"
    )
    assert remedy.startswith("remedy: export PROD_SERVICEBUS")


def test_the_test_on_a_target_is_not_left_out_in_silence() -> None:
    """The check that the pipeline is for: without its variable it is refused, never skipped."""

    @contextmanager
    def asked(env: dict[str, str]) -> Iterator[None]:
        programs = SimpleNamespace(env=env)
        context = cast(Context, SimpleNamespace(programs=programs))
        described = cast(Target, SimpleNamespace(name="prod", standins=None, servicebus_env="BUS"))
        session = cast(TargetSession, SimpleNamespace(context=context, target=described, env=env))
        with handoffs.tests_of(session):
            yield

    with pytest.raises(SettingsError, match="BUS is not set"), asked({}):
        pass


def test_the_home_folder_may_be_written_as_in_a_shell(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is looked for and where it is used are the same place."""
    monkeypatch.setenv("HOME", str(root))
    settings = parse(target(chart="~/folder", kubeconfig="~/there"), origin="x")
    check(settings, "promote", root / "no-checkout")
    context = machine(root / "machine")
    assert context.path(Path("~/folder")) == root / "folder"
    assert context.path(Path("folder")) == context.root / "folder"
