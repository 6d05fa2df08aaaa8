"""What the emulator is told to do: options of its command line, and a file of queues.

The file is TOML, or the JSON that Microsoft's emulator reads (``UserConfig.Namespaces[].Queues[]``
with ISO 8601 durations). In TOML::

    [[queue]]
    name = "tasks"
    lock_duration = 30           # seconds
    max_delivery_count = 5
    requires_session = false
    # and the other settings of a queue; durations in seconds
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ci.servicebus.admin.durations import read_duration
from ci.servicebus.broker.checks import check_name, check_settings
from ci.servicebus.broker.model import QueueSettings, Status
from ci.servicebus.broker.namespace import TIERS
from ci.servicebus.errors import ArgumentError, StartupError
from ci.servicebus.gateway.tokens import RIGHTS, Key

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be chosen. Port 0 is any free port; None is: do not listen."""

    host: str = "0.0.0.0"
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
    control: bool = False
    log_level: str = "info"


_DEFAULTS = Settings()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartupError(message, remedy=f"see `{self.prog} --help`")


def parse(argv: Sequence[str]) -> Settings:
    """The settings of a command line."""
    parser = _Parser(
        prog="python -m ci.servicebus",
        description="Azure Service Bus queues on this machine, for tests.",
    )
    add = parser.add_argument
    add("--host", default=_DEFAULTS.host, help="the address to listen on (%(default)s)")
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
    add("--config", type=Path, metavar="FILE", help="queues to make at the start, TOML or JSON")
    add(
        "--state",
        default="memory",
        metavar="memory|FILE",
        help="where queues and messages are kept; a file survives a crash",
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
    if given.auth == "sas" and not keys:
        raise StartupError("--auth sas knows no key", remedy="give one with --key NAME=KEY")
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


# --- the file of queues --------------------------------------------------------------------------

_JSON_NAMES = {
    "DeadLetteringOnMessageExpiration": "dead_lettering_on_message_expiration",
    "DefaultMessageTimeToLive": "default_time_to_live",
    "DuplicateDetectionHistoryTimeWindow": "duplicate_detection_window",
    "ForwardDeadLetteredMessagesTo": "forward_dead_lettered_messages_to",
    "ForwardTo": "forward_to",
    "LockDuration": "lock_duration",
    "MaxDeliveryCount": "max_delivery_count",
    "RequiresDuplicateDetection": "requires_duplicate_detection",
    "RequiresSession": "requires_session",
    "Status": "status",
    "UserMetadata": "user_metadata",
}

_KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "bool": (bool,),
    "int | None": (int,),
    "str | None": (str,),
    "Status": (Status,),
}


def read_queues(path: Path, tier: str = "standard") -> dict[str, QueueSettings]:
    """The queues that a file describes."""
    try:
        raw = path.read_bytes()
        if path.suffix.lower() == ".json":
            entries = list(_from_json(json.loads(raw)))
        else:
            document = tomllib.loads(raw.decode())
            unknown = sorted(set(document) - {"queue"})
            if unknown:
                raise ArgumentError(f"the key '{unknown[0]}' is not known; queues are [[queue]]")
            entries = [dict(entry) for entry in document.get("queue", [])]
    except OSError as error:
        raise StartupError(
            f"cannot read {path}: {error.strerror}", remedy="correct --config"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError, ArgumentError) as error:
        raise StartupError(f"{path}: {error}", remedy="correct the file") from None
    queues: dict[str, QueueSettings] = {}
    for number, entry in enumerate(entries, start=1):
        name = entry.pop("name", None)
        try:
            if not isinstance(name, str):
                raise ArgumentError("a queue needs a name")
            check_name(name)
            settings = _queue(entry)
            check_settings(settings, tier)
            if name.lower() in map(str.lower, queues):
                raise ArgumentError("the name is there twice")
        except ArgumentError as error:
            raise StartupError(
                f"{path}: queue {name or number}: {error}", remedy="correct the file"
            ) from None
        queues[name] = settings
    return queues


def _from_json(document: Any) -> list[dict[str, Any]]:
    entries = []
    for namespace in document["UserConfig"]["Namespaces"]:
        for queue in namespace.get("Queues", []):
            entry: dict[str, Any] = {"name": queue["Name"]}
            for key, value in (queue.get("Properties") or {}).items():
                setting = _JSON_NAMES.get(key)
                if setting is None:
                    raise ArgumentError(f"queue {queue['Name']}: the key '{key}' is not known")
                if value == "" or value is None:
                    continue
                is_duration = setting in ("lock_duration", "default_time_to_live") or (
                    setting == "duplicate_detection_window"
                )
                entry[setting] = read_duration(value) if is_duration else value
            entries.append(entry)
    return entries


def _queue(entry: Mapping[str, Any]) -> QueueSettings:
    fields = {f.name: str(f.type) for f in dataclasses.fields(QueueSettings)}
    given: dict[str, Any] = {}
    for key, value in entry.items():
        kinds = _KINDS.get(fields.get(key, ""))
        if kinds is None:
            raise ArgumentError(f"the key '{key}' is not known")
        if kinds == (Status,):
            try:
                value = Status(value)
            except ValueError:
                raise ArgumentError(f"'{value}' is no status") from None
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (bool,)):
            raise ArgumentError(f"'{key}' should be {fields[key]}, not {value!r}")
        given[key] = float(str(value)) if fields[key] == "float" else value
    return QueueSettings(**given)
