"""Secrets are recognised by value, by name and by shape, in one piece or in many; what only points
to one stays."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ci.redaction import HIDDEN, MARK, Redactor, secret_name, text, tree


@pytest.mark.parametrize(
    "name",
    ["password", "DB_PASSWORD", "client_secret", "api_key", "accountKey", "SAS_TOKEN",
     "connection_string", "connectionString", "AZURE_CLIENT_SECRET", "credentials"],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    assert secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["keyvault_name", "databaseSecretName", "secretRef", "LOCK", "keys_per_page", "tag",
     "token_file", "serviceAccountTokenPath", "monkey", "imagePullSecrets", "existingSecret",
     "checksum/secret", "max_tokens", "token_count", "servicebus_connection_string_env", "bypass",
     "automountServiceAccountToken", "PWD", "password_command", "passwordStdin"],
)  # fmt: skip
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not secret_name(name)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("postgresql://user:pass@host/db", "postgresql://user:***@host/db"),
        ("Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey=abc+/=;Entity=q",
         "Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey=***;Entity=q"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer ***"),
        ("password: hunter2", "password: ***"),
        ("DB_PASSWORD='hunter2' next", "DB_PASSWORD='***' next"),
        ("nothing here: 60", "nothing here: 60"),
        ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\nend", "***\nend"),
    ],
)  # fmt: skip
def test_text(before: str, after: str) -> None:
    assert text(before) == after


def test_trees() -> None:
    assert tree(
        {
            "kind": "Secret",
            "metadata": {"name": "s"},
            "data": {"a": "YQ=="},
        }
    ) == {"kind": "Secret", "metadata": {"name": "s"}, "data": {"a": HIDDEN}}
    assert tree([{"name": "DB_PASSWORD", "value": "x"}, {"name": "LOCK", "value": "60"}]) == [
        {"name": "DB_PASSWORD", "value": HIDDEN},
        {"name": "LOCK", "value": "60"},
    ]
    assert tree({"password": 12345678, "enabled": True, "tokens": ["a", "b"]}) == {
        "password": HIDDEN,
        "enabled": True,
        "tokens": [HIDDEN, HIDDEN],
    }


@given(st.text())
def test_text_takes_anything_and_settles(value: str) -> None:
    once = text(value)
    assert text(once) == once


@given(st.text(alphabet="abcdefghijklmnop0123456789", min_size=8, max_size=40))
def test_a_password_never_survives_in_an_address(secret: str) -> None:
    assert f":{secret}@" not in text(f"amqp://user:{secret}@host")


SECRET = "S3cretOfThisTest"
DIGEST = "sha256:" + "0123456789abcdef" * 4
LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj", "Short+Last/Line="]
PEM = "\n".join(("-----BEGIN EC PRIVATE KEY-----", *LINES, "-----END EC PRIVATE KEY-----"))
GZIPPED = base64.b64encode(b"H4sIAAAA" + b"x" * 90).decode()


@pytest.mark.parametrize(
    "found",
    [
        f"password={SECRET}",
        f"PASSWORD: {SECRET}",
        f'{{"password":"{SECRET}"}}',
        f'{{"a": {{"clientSecret": "{SECRET}"}}}}',
        f'level=error msg="login failed" db.password="{SECRET}" try=2',
        f'"{{\\"token\\":\\"{SECRET}\\"}}"',
        f"DB_PASSWORD:  {SECRET} with words",
        f"wrong password: {SECRET} for bob",
        f"password := {SECRET}",
        f"https://bob:{SECRET}@host/path",
        f"https://bob:{SECRET}/with@slash@host/path",
        f"amqps://:{SECRET}@host",
        f"https://{SECRET}{SECRET}@host/path",
        f"http://host/?a=1&token={SECRET}&b=2",
        f"Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey={SECRET}=",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}==",
        f"Server=db;User Id=sa;Password={SECRET};Encrypt=true",
        f"SharedAccessSignature sr=sb%3a%2f%2fx&sig={SECRET}&se=1&skn=Root",
        f"https://x.blob/y?sv=1&sig={SECRET}%3D",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Negotiate {SECRET}",
        f"-H 'Authorization: Basic {SECRET}=='",
        f"x-api-key: {SECRET}",
        f"Set-Cookie: session={SECRET}; Path=/",
        f"helm upgrade --set auth.password={SECRET},tag=v2",
        f"tool --client-secret {SECRET} --verbose",
        f"tool --token '{SECRET} and more'",
        f"eyJhbGciOi{SECRET}.eyJzdWIi.{SECRET}",
        f"github: ghp_{SECRET}{SECRET}",
        f'{{"name":"DB_PASSWORD","value":"{SECRET}"}}',
        f"map[name:DB_PASSWORD value:{SECRET}]",
        f'{{"apiVersion":"v1","data":{{"a":"{SECRET}"}},"kind":"Secret"}}',
        f'found {{"kind":"Secret","data":{{"a":"{SECRET}"}}}} there',
        f'found {{"data":{{"a":"{SECRET}"}},"kind":"Secret"',
        f'x/last-applied-configuration={{"stringData":{{"a":"{SECRET}"}}}}',
        f"hooks.slack.com/services/T0/B0/{SECRET}",
        f"- name: DB_PASSWORD\n  value: {SECRET}",
        f'"name": "DB_PASSWORD",\n"value": "{SECRET}"',
        f"password: |\n  first\n  {SECRET}\nnext: 1",
        f"tokens:\n- {SECRET}\n- b",
        f"password:\n  {SECRET}",
        f"    Args:\n      --api-key\n      {SECRET}\n",
        f"apiVersion: v1\ndata:\n  plain: {SECRET}\nkind: Secret\n",
        f"kind: Secret\nstringData: {{plain: {SECRET}",
        f'{{\n "data": {{\n  "plain": "{SECRET}"\n }},\n "kind": "Secret"\n}}',
        f"USER-SUPPLIED VALUES:\ncredentials:\n  user: {SECRET}\n",
    ],
)
def test_none_of_it_is_left(found: str) -> None:
    less = text(found)
    assert SECRET not in less
    assert text(less) == less
    stamped = "".join(f"2026-11-23T10:00:00Z {line}\n" for line in found.splitlines())
    if "\n" not in found:
        assert SECRET not in text(stamped)


@pytest.mark.parametrize(
    "kept",
    [
        f"registry:5000/team/model-engine@{DIGEST}",
        f"http://registry:5000/v2/model-engine/manifests@{DIGEST}",
        f'Container image "registry:5000/model-engine:v1.2.3@{DIGEST}" already present on machine',
        f"Image ID:      docker-pullable://registry.example/engine@{DIGEST}",
        "pod/model-engine-6c9b8d7f5-x2x7q condition met",
        "uid: 0b6f7f2e-3d1c-4f5e-9a8b-7c6d5e4f3a2b",
        "2026-11-23T10:00:00Z INFO request GET /readyz 200 in 3 ms from 10.0.0.7:41234",
        'secrets "database" not found',
        'Error: secret "database" is forbidden: User "x" cannot get resource "secrets"',
        "failed to read secret: secrets is forbidden",
        "invalid token: unexpected end of input",
        "kubernetes.io/service-account-token",
        "imagePullSecrets:\n- name: regcred",
        "basic configuration of the engine",
        "Bearer authentication is required",
        "OTHER:   <set to the key 'password' in secret 'database'>  Optional: false",
        "password: ${DB_PASSWORD}",
        "token: null",
        "automountServiceAccountToken: false",
        "max_tokens: 4096",
        "secretKeyRef: {name: database, key: password}",
        "-----BEGIN CERTIFICATE-----\n" + "A" * 64 + "\n-----END CERTIFICATE-----",
        "0123456789abcdef" * 4,
        "git@github.com:team/engine.git ssh://git@github.com/team/engine",
        "Endpoint=sb://x.servicebus.windows.net/;SharedAccessKeyName=Root",
        "helm rollback engine 3 --wait --timeout 600s --namespace launch",
        "[31mFAILED[0m test_lock.py::test_token[60-30]",
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x # why\n",
    ],
)
def test_what_is_no_secret_stays_to_the_letter(kept: str) -> None:
    assert text(kept) == kept


@pytest.mark.parametrize("prefix", ["", "    ", "2026-11-23T10:00:00Z ", "pod-1: 2026-11-23 "])
@pytest.mark.parametrize("begins", [True, False], ids=["whole", "from its middle"])
def test_a_private_key_over_many_lines(prefix: str, begins: bool) -> None:
    lines = PEM.splitlines()[0 if begins else 1 :]
    found = "".join(f"{prefix}{line}\n" for line in ["before", *lines, "after 1 2 3 4"])
    less = text(found)
    assert not any(line in less for line in LINES)
    assert "before" in less
    assert "after 1 2 3 4" in less


@pytest.mark.parametrize(
    "found",
    [
        json.dumps({"tls.crt": "x", "file": PEM}),
        json.dumps(json.dumps({"file": PEM})),
        f"key is {PEM!r} it is",
        yaml.safe_dump({"file": PEM}),
        yaml.safe_dump({"file": PEM}, default_style='"'),
        f"cut off -----BEGIN PRIVATE KEY-----\\n{LINES[0]}",
        "file: " + base64.b64encode(PEM.encode()).decode(),
    ],
)
def test_a_private_key_within_one_line(found: str) -> None:
    less = text(found)
    assert not any(line in less for line in LINES)
    assert base64.b64encode(PEM.encode()).decode() not in less


def test_what_follows_a_key_that_was_cut_off_is_shown() -> None:
    found = f"-----BEGIN PRIVATE KEY-----\n{LINES[0]}\nERROR the engine cannot start now\nmore\n"
    assert text(found) == f"{MARK}\nERROR the engine cannot start now\nmore\n"


def test_objects_of_kubernetes() -> None:
    applied = "kubectl.kubernetes.io/last-applied-configuration"
    pod = {
        "kind": "Pod",
        "metadata": {
            "annotations": {
                applied: json.dumps({"kind": "Secret", "data": {"a": SECRET}}),
                "vendor/config": json.dumps({"password": SECRET, "size": 3}),
                "checksum/secret": DIGEST,
            },
            "labels": {"app": "engine"},
            "uid": "0b6f7f2e-3d1c-4f5e-9a8b-7c6d5e4f3a2b",
        },
        "spec": {
            "containers": [
                {
                    "args": ["--token", SECRET, "--port", "80", f"--password={SECRET}"],
                    "env": [
                        {"name": "API_KEY", "value": SECRET},
                        {"name": "URL", "value": f"amqp://u:{SECRET}@h/"},
                        {
                            "name": "REF",
                            "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}},
                        },
                    ],
                    "image": f"registry:5000/engine@{DIGEST}",
                }
            ],
            "volumes": [
                {"name": "v", "secret": {"secretName": "tls", "items": [{"key": "a", "path": "b"}]}}
            ],
            "serviceAccountName": "engine",
        },
    }
    less = tree(pod)
    assert SECRET not in json.dumps(less)
    assert less["metadata"]["annotations"][applied] == HIDDEN
    assert json.loads(less["metadata"]["annotations"]["vendor/config"])["size"] == 3
    assert less["metadata"]["annotations"]["checksum/secret"] == DIGEST
    container = less["spec"]["containers"][0]
    assert container["args"] == ["--token", HIDDEN, "--port", "80", f"--password={MARK}"]
    assert container["env"][1]["value"] == "amqp://u:***@h/"
    assert container["env"][2] == pod["spec"]["containers"][0]["env"][2]  # type: ignore[index]
    assert container["image"] == f"registry:5000/engine@{DIGEST}"
    assert less["spec"]["volumes"] == pod["spec"]["volumes"]  # type: ignore[index]
    assert tree(less) == less


def test_lists_of_secrets_and_stored_releases() -> None:
    items = [{"metadata": {"name": "a"}, "data": {"release": GZIPPED, "x": "YQ=="}}]
    for kind in ("SecretList", "List"):
        several = [{"kind": "Secret", **each} for each in items] if kind == "List" else items
        less = tree({"kind": kind, "items": several})
        assert less["items"][0]["data"] == {"release": HIDDEN, "x": HIDDEN}
        assert less["items"][0]["metadata"] == {"name": "a"}


def test_values_of_a_chart() -> None:
    values = {
        "image": {"tag": "v1", "pullSecrets": ["regcred"]},
        "auth": {"existingSecret": "database", "password": SECRET, "username": "engine"},
        "secrets": {"FIRST": SECRET, "secondName": "x", "enabled": True},
        "extra": f"log=1\ndb.password={SECRET}\nport=5",
    }
    less = tree(values)
    assert less["image"] == values["image"]
    assert less["auth"] == {**values["auth"], "password": HIDDEN}  # type: ignore[dict-item]
    assert less["secrets"] == {"FIRST": HIDDEN, "secondName": "x", "enabled": True}
    assert less["extra"] == f"log=1\ndb.password={MARK}\nport=5"


# -- what is known ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret", [SECRET, 'quo"ted & <odd> \\ pass', "ünïcode-pass%word", "a+b/c=d e"]
)
def test_a_known_value_in_any_encoding(secret: str) -> None:
    from html import escape
    from urllib.parse import quote, quote_plus

    redactor = Redactor()
    redactor.add(secret)
    raw = secret.encode()
    written = [
        secret, f"x{secret}y", json.dumps({"a": secret}), json.dumps(json.dumps(secret)),
        escape(secret), quote(secret, safe=""), quote_plus(secret),
        base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(),
        *(base64.b64encode(b"x" * n + raw + b"tail").decode() for n in range(4)),
    ]  # fmt: skip
    for form in written:
        less = redactor.known(form)
        assert MARK in less, form
        assert secret not in less


def test_a_short_value_is_not_hidden_everywhere() -> None:
    redactor = Redactor()
    redactor.add("v1")
    assert redactor.text("image v1") == "image v1"


def test_what_a_tree_hides_is_hidden_in_every_text_from_then_on() -> None:
    redactor = Redactor()
    said = f"the database refused {SECRET} of postgres"
    assert redactor.text(said) == said, "a bare word is nothing to be recognised"
    held = {"password": SECRET, "username": "postgres", "host": "engine-db.launch.svc"}
    data = {name: base64.b64encode(value.encode()).decode() for name, value in held.items()}
    redactor.tree({"kind": "Secret", "data": data})
    assert redactor.text(said) == f"the database refused {MARK} of postgres"
    assert redactor.text("engine-db.launch.svc") == "engine-db.launch.svc"
    assert text(said) == said, "no other run knows it"


def test_command_lines() -> None:
    redactor = Redactor()
    words = ("helm", "--set", f"db.password={SECRET} and more", "--token", SECRET, "--wait", "x=1")
    assert redactor.words(words) == (
        "helm", "--set", f"db.password={MARK}", "--token", HIDDEN, "--wait", "x=1"
    )  # fmt: skip


def test_values_made_of_dataclasses() -> None:
    @dataclass(frozen=True)
    class Inner:
        said: str
        count: int

    @dataclass(frozen=True)
    class Outer:
        inner: tuple[Inner, ...]
        more: dict[str, Any]

    made = Outer((Inner(f"password={SECRET}", 2),), {"a": [f"token={SECRET}"]})
    less = Redactor().data(made)
    assert less == Outer((Inner(f"password={MARK}", 2),), {"a": [f"token={MARK}"]})


# -- in pieces, in time ----------------------------------------------------------------------------

WHOLE = "\n".join(
    (
        "2026-11-23T10:00:00Z INFO starting",
        f"password={SECRET}",
        PEM,
        f"amqp://u:{SECRET}@host known-to-the-run",
        "- name: API_TOKEN",
        f"  value: {SECRET}",
        f'{{"kind": "Secret", "data": {{"a": "{SECRET}"}}}}',
        "{",
        f'  "token": "{SECRET}"',
        "}",
        "apiVersion: v1",
        "data:",
        f"  plain: {SECRET}",
        "kind: Secret",
        "2026 done",
    )
)


@given(st.lists(st.integers(1, 80), min_size=1, max_size=60), st.booleans())
def test_pieces_leave_no_more_than_the_whole(sizes: list[int], ends: bool) -> None:
    redactor = Redactor()
    redactor.add("known-to-the-run")
    whole = WHOLE + "\n" * ends
    stream, out, at, turn = redactor.stream(), "", 0, 0
    while at < len(whole):
        size = sizes[turn % len(sizes)]
        out += stream.feed(whole[at : at + size])
        at, turn = at + size, turn + 1
    out += stream.end()
    assert out == redactor.text(whole)
    assert not any(each in out for each in (SECRET, *LINES, "known-to-the-run"))
    assert "2026-11-23T10:00:00Z INFO starting" in out
    assert "2026 done" in out


@given(st.text(), st.text(alphabet="ABCxyz0189", min_size=12, max_size=30), st.text())
def test_a_known_value_never_survives(before: str, secret: str, after: str) -> None:
    redactor = Redactor()
    redactor.add(secret)
    assert secret not in redactor.text(f"{before}{secret}{after}")


names = st.sampled_from(["password", "DB_TOKEN", "client_secret", "apiKey", "plain", "port"])
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.just(SECRET))
trees = st.recursive(
    leaves, lambda t: st.one_of(st.lists(t, max_size=3), st.dictionaries(names, t, max_size=4))
)


@given(trees)
def test_trees_settle_and_texts_of_them_hide_as_much(value: Any) -> None:
    once = tree(value)
    assert tree(once) == once
    hidden = json.dumps(once).count(SECRET)
    for written in (json.dumps(value), json.dumps(value, indent=2)):
        less = text(written)
        assert less.count(SECRET) <= hidden
        assert text(less) == less


SECONDS = 30.0
"""It takes less than 1, and 5 for what is longest; what is quadratic takes hours."""


@pytest.mark.parametrize(
    "unit",
    ["a", "a-", " ", "://", "://a:", "://u:p@", "@a", "eyJ", "eyJaaaaaaaa-", '"', "\\", "=",
     "password=", "password: x ", "password=&a;", 'password:"', "name=a value",
     "-----BEGIN PRIVATE KEY-----", "kind: Secret data:{", "--a ",
     "H4sI", "A" * 64 + " ", "{", "[", "%3D", "Bearer "],
)  # fmt: skip
def test_one_long_line_takes_time_in_proportion(unit: str) -> None:
    begun = time.monotonic()
    text((unit * (1_000_000 // len(unit) + 1))[:1_000_000])
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize("end", ["\n", " "], ids=["lines", "one line"])
def test_a_log_of_5_mb(end: str) -> None:
    said = '2026-11-23T10:00:00Z INFO id=abc status=200 url=http://x:80/y took=3ms user="bob"'
    log = f"{said} password={SECRET}{end}" * (5_000_000 // 100)
    begun = time.monotonic()
    less = text(log)
    assert time.monotonic() - begun < SECONDS
    assert less == f"{said} password={MARK}{end}" * (5_000_000 // 100)
