"""Secrets are told by their names and by their shapes; what only points to one stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.redaction import HIDDEN, secret_name, text, tree


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
     "token_file", "serviceAccountTokenPath", "monkey"],
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
