"""Settings come from the environment and never show a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_engine.settings import SettingsError, load

SECRET = "hunter2"
BASE = {
    "DATABASE_URL": f"postgresql://engine:{SECRET}@db/engine",
    "SERVICEBUS_CONNECTION_STRING": f"Endpoint=sb://bus;SharedAccessKey={SECRET}",
    "REDIS_URL": f"redis://:{SECRET}@redis/0",
}


def test_defaults() -> None:
    settings = load(BASE)
    assert settings.port == 5000
    assert settings.worker_concurrency == 4
    assert settings.version == "unknown"
    assert settings.servicebus.connection_string == BASE["SERVICEBUS_CONNECTION_STRING"]


def test_a_namespace_alone_means_the_identity_of_the_pod() -> None:
    settings = load({"DATABASE_URL": "postgresql://db", "SERVICEBUS_NAMESPACE": "contoso"})
    assert settings.servicebus.host == "contoso.servicebus.windows.net"
    assert settings.servicebus.connection_string == ""


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(load(BASE))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"SERVICEBUS_CONNECTION_STRING": " "}, "SERVICEBUS_NAMESPACE"),
        ({"PORT": "x"}, "PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"DRAIN_SECONDS": "-1"}, "DRAIN_SECONDS"),
        ({"WORKER_CONCURRENCY": "0"}, "WORKER_CONCURRENCY"),
    ],
)
def test_a_bad_variable_is_named(change: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        load({**BASE, **change})
    assert SECRET not in str(caught.value)


def test_a_ca_that_the_secret_does_not_hold_is_no_ca(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    assert load({**BASE, "SERVICEBUS_CA_FILE": str(ca)}).servicebus.ca_file == ""
    ca.write_text("")
    assert load({**BASE, "SERVICEBUS_CA_FILE": str(ca)}).servicebus.ca_file == str(ca)
