"""What the emulator is told to do: the options of its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from servicebus_emulator.broker.checks import TIERS
from servicebus_emulator.errors import StartupError
from servicebus_emulator.gateway.tokens import RIGHTS, Key

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be chosen. Port 0 is any free port; None is: do not listen."""

    host: str = "127.0.0.1"
    """This machine alone: without ``--auth sas`` whoever reaches a port may do everything. The
    container image names ``0.0.0.0`` itself, because its ports are reached through its network."""
    amqp_port: int = 5672
    admin_port: int = 8443
    amqps_port: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_dir: Path | None = None
    tls_names: tuple[str, ...] = ()
    config: Path | None = None
    state: str = "memory"
    tier: str = "standard"
    auth: str = "off"
    keys: tuple[Key, ...] = ()
    identity: bool = False
    control: bool = False
    log_level: str = "info"


_DEFAULTS = Settings()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartupError(message, remedy=f"see `{self.prog} --help`")


def parse(argv: Sequence[str]) -> Settings:
    """The settings of a command line; raises :class:`~servicebus_emulator.errors.StartupError`."""
    parser = _Parser(
        prog="python -m servicebus_emulator",
        description="Azure Service Bus on this machine, for tests.",
    )
    add = parser.add_argument
    add(
        "--host",
        default=_DEFAULTS.host,
        help="the address to listen on (%(default)s; 0.0.0.0 is every interface)",
    )
    add(
        "--amqp-port",
        type=_port,
        default=_DEFAULTS.amqp_port,
        help="AMQP, plain and TLS alike (%(default)s)",
    )
    add("--amqps-port", type=_port, help="a second port for AMQP, such as 5671")
    add(
        "--admin-port",
        type=_port,
        default=_DEFAULTS.admin_port,
        help="administration, http and https alike (%(default)s)",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="the server's certificate chain, PEM")
    add("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    add(
        "--tls-dir",
        type=Path,
        metavar="DIR",
        help="where a certificate authority and a certificate are kept, made on first use "
        "(default: made anew at each start)",
    )
    add(
        "--tls-name",
        action="append",
        default=[],
        metavar="NAME",
        help="one more host name or address for the certificate that is made",
    )
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="queues and topics to make at the start, TOML or JSON",
    )
    add(
        "--state",
        default="memory",
        metavar="memory|FILE",
        help="where entities and messages are kept; a file survives a crash",
    )
    add("--tier", choices=sorted(TIERS), default=_DEFAULTS.tier, help="sets the size limits")
    add(
        "--auth",
        choices=("off", "sas"),
        default=_DEFAULTS.auth,
        help="off: every token holds; sas: shared access signatures are verified",
    )
    add(
        "--key",
        action="append",
        default=[],
        metavar="NAME=KEY[:RIGHTS]",
        help="a shared access key, for --auth sas; rights are Send, Listen, Manage with commas "
        "between (all)",
    )
    add(
        "--identity",
        action="store_true",
        help="give tokens to DefaultAzureCredential on the administration port, and take no "
        "other bearer's tokens where --auth is sas. Clients are told by their environment: "
        "IDENTITY_ENDPOINT=http://HOST:PORT/msi/token and any IDENTITY_HEADER (App Service); "
        "AZURE_POD_IDENTITY_AUTHORITY_HOST=http://HOST:PORT (IMDS); or "
        "AZURE_AUTHORITY_HOST=https://HOST:PORT with AZURE_TENANT_ID, AZURE_CLIENT_ID and "
        "AZURE_FEDERATED_TOKEN_FILE (workload identity)",
    )
    add(
        "--control",
        action="store_true",
        help="let tests move the clock and cause faults over the administration port",
    )
    add("--log-level", choices=LOG_LEVELS, default=_DEFAULTS.log_level)
    given = parser.parse_args(list(argv))
    if not given.state:
        raise StartupError("--state names no file", remedy="name one, or use memory")
    if (given.tls_cert is None) != (given.tls_key is None):
        raise StartupError(
            "--tls-cert and --tls-key belong together", remedy="give both of them, or none"
        )
    keys = []
    for pair in given.key:
        name, separator, key = pair.partition("=")
        if not name or not separator or not key:
            raise StartupError(f"--key {pair!r} is not NAME=KEY", remedy="write it as NAME=KEY")
        keys.append(_key(name, key))
    if given.auth == "sas" and not keys and not given.identity:
        raise StartupError(
            "--auth sas knows no key", remedy="give one with --key NAME=KEY, or give --identity"
        )
    return Settings(
        host=given.host,
        amqp_port=given.amqp_port,
        admin_port=given.admin_port,
        amqps_port=given.amqps_port,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        tls_dir=given.tls_dir,
        tls_names=tuple(given.tls_name),
        config=given.config,
        state=given.state,
        tier=given.tier,
        auth=given.auth,
        keys=tuple(keys),
        identity=given.identity,
        control=given.control,
        log_level=given.log_level,
    )


def _key(name: str, key: str) -> Key:
    """With rights where the end names them; a key may well have a colon of its own."""
    secret, colon, named = key.rpartition(":")
    rights = frozenset(right.strip().capitalize() for right in named.split(","))
    return Key(name, secret, rights) if colon and rights <= RIGHTS else Key(name, key)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)
