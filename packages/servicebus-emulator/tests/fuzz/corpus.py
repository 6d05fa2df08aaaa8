"""The inputs that are kept: one file per target in ``corpus/``, one input per line in base64.

Text, so that a change shows in a diff; sorted, so that a run that finds nothing changes nothing.
:func:`seeds` is what a corpus starts from: what real clients write.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp import types as t
from servicebus_emulator.amqp.codec import encoded
from tests.unit.peer import credit, frame, hello, receiver, sender

FOLDER = Path(__file__).parent / "corpus"


def read(target: str) -> list[bytes]:
    """The inputs kept for a target."""
    file = FOLDER / f"{target}.txt"
    return [b64decode(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(target: str, inputs: Iterable[bytes]) -> None:
    """Keep these inputs for a target, and no others."""
    FOLDER.mkdir(exist_ok=True)
    lines = sorted(
        {b64encode(data).decode() for data in inputs}, key=lambda line: (len(line), line)
    )
    (FOLDER / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))


def seeds(target: str) -> list[bytes]:
    """What a target's corpus starts from."""
    return _SEEDS[target]


_VALUES: tuple[object, ...] = (
    None,
    True,
    t.UByte(1),
    t.UShort(1),
    t.UInt(300),
    t.ULong(300),
    t.Byte(-1),
    t.Short(-1),
    t.Int(-300),
    t.Long(-300),
    t.Float(1.5),
    1.5,
    t.Char(65),
    t.Timestamp(1),
    t.Symbol("amqp:x"),
    "text",
    b"binary",
    [1, [2, "x"]],
    {"key": {"inner": [None]}},
    t.Array([t.Symbol("a")], t.Symbol),
    t.Array([[1], [2]], list),
    t.Described(t.ULong(0x28), ["address"]),
    b"x" * 300,
)

_PERFORMATIVES: tuple[p.Performative, ...] = (
    p.Begin(None, 0, 10, 10),
    sender("s", "q", 0),
    receiver("r", "q", 1),
    receiver("r", "q/$DeadLetterQueue", 10),
    receiver("r", "s", 1, filters={t.Symbol("com.microsoft:session-filter"): "one"}),
    receiver("m", "q/$management", 11),
    sender("away", "nowhere", 12),
    credit(5),
    credit(5, drain=True),
    p.Flow(0, 10, 0, 10, echo=True),
    p.Transfer(0, 0, b"t", 0, more=True),
    p.Transfer(0, aborted=True),
    p.Disposition(p.RECEIVER, 0, 4, True, p.Accepted()),
    p.Disposition(p.RECEIVER, 0, 0, False, p.Released()),
    p.Disposition(p.RECEIVER, 0, 0, False, p.Modified(True, False, {"a": "b"})),
    p.Disposition(p.RECEIVER, 0, 0, False, p.Modified(True, True)),
    p.Disposition(
        p.RECEIVER,
        0,
        0,
        False,
        p.Rejected(p.Error("com.microsoft:dead-letter", "d", {"DeadLetterReason": "r"})),
    ),
    p.Detach(0, True),
    p.Detach(1, True, p.Error("amqp:not-found", "d")),
    p.End(),
    p.Close(),
    p.SaslInit("PLAIN", b"\0user\0word"),
)


def _section(code: int, value: object) -> bytes:
    return encoded(t.Described(t.ULong(code), value))


_MESSAGE = b"".join(
    (
        _section(0x70, [True, t.UByte(4), t.UInt(60_000), None, t.UInt(0)]),
        _section(0x71, {t.Symbol("x"): 1}),
        _section(0x72, {t.Symbol("x-opt-scheduled-enqueue-time"): t.Timestamp(1_700_000_001_000)}),
        _section(0x73, ["id", b"user", "to", "subject", "reply", "c", *[None] * 4, "session"]),
        _section(0x74, {"key": "value", "n": t.Int(5)}),
        _section(0x75, b"body"),
        _section(0x78, {t.Symbol("f"): 1}),
    )
)
_BATCH = _section(0x75, _section(0x75, b"a")) + _section(0x75, _MESSAGE)


def _request(operation: str, body: object) -> bytes:
    return (
        _section(0x73, ["id", None, "q/$management", None, "reply"])
        + _section(0x74, {"operation": operation, "type": "entity-mgmt"})
        + _section(0x77, body)
    )


_TOKENS = t.Array([UUID(int=1)], UUID)
_NUMBERS = t.Array([t.Long(1)], t.Long)
_REQUESTS = tuple(
    _request(f"com.microsoft:{operation}", body)
    for operation, body in (
        ("renew-lock", {"lock-tokens": _TOKENS}),
        ("renew-session-lock", {"session-id": "session"}),
        ("peek-message", {"from-sequence-number": t.Long(0), "message-count": t.Int(5)}),
        (
            "receive-by-sequence-number",
            {"sequence-numbers": _NUMBERS, "receiver-settle-mode": t.UInt(1)},
        ),
        ("schedule-message", {"messages": [{"message-id": "m", "message": _MESSAGE}]}),
        ("cancel-scheduled-message", {"sequence-numbers": _NUMBERS}),
        (
            "update-disposition",
            {"disposition-status": "abandoned", "lock-tokens": _TOKENS, "properties-to-modify": {}},
        ),
        ("get-session-state", {"session-id": "session"}),
        ("set-session-state", {"session-id": "session", "session-state": b"state"}),
        (
            "get-message-sessions",
            {"last-updated-time": t.Timestamp(0), "skip": t.Int(0), "top": t.Int(5)},
        ),
    )
)
_RULES = tuple(
    _request(f"com.microsoft:{operation}", body)
    for operation, body in (
        (
            "add-rule",
            {
                "rule-name": "r",
                "rule-description": {
                    "sql-filter": {"expression": "key = 'value'"},
                    "sql-rule-action": {"expression": "SET sys.Label = 'x'; REMOVE key"},
                },
            },
        ),
        (
            "add-rule",
            {
                "rule-name": "c",
                "rule-description": {
                    "correlation-filter": {"label": "subject", "properties": {"n": t.Int(5)}}
                },
            },
        ),
        ("remove-rule", {"rule-name": "$Default"}),
        ("enumerate-rules", {"top": t.Int(5), "skip": t.Int(0)}),
    )
)
_TOKEN = (
    _section(0x73, [t.ULong(1), None, "$cbs"])
    + _section(0x74, {"operation": "put-token", "type": "servicebus.windows.net:sastoken"})
    + _section(0x77, "SharedAccessSignature sr=sb%3a%2f%2fh%2fq&sig=x&se=9999999999&skn=k")
)


def _step(kind: int, data: bytes) -> bytes:
    return bytes((kind,)) + struct.pack(">H", len(data)) + data


_CONVERSATION = (
    hello(idle=60_000)
    + frame(sender("s", "q"))
    + frame(receiver("r", "q"))
    + frame(credit(5))
    + frame(p.Detach(1, True))
    + b"\x00\x00\x00\x08\x02\x00\x00\x00"
    + frame(p.End())
    + frame(p.Close())
)

_DESCRIPTION = (
    b"<LockDuration>PT30S</LockDuration><MaxDeliveryCount>5</MaxDeliveryCount>"
    b"<RequiresSession>true</RequiresSession><Status>Active</Status><ForwardTo>q</ForwardTo>"
    b"<UserMetadata>x</UserMetadata><AutoDeleteOnIdle>P1DT2H</AutoDeleteOnIdle>"
    b"<AuthorizationRules><AuthorizationRule><ClaimType>c</ClaimType><Rights><AccessRights>Send"
    b"</AccessRights></Rights><KeyName>k</KeyName></AuthorizationRule></AuthorizationRules>"
)

_SEEDS: dict[str, list[bytes]] = {
    "codec": [
        *(encoded(value) for value in _VALUES),
        *(p.write_performative(performative) for performative in _PERFORMATIVES),
    ],
    "connection": [
        _CONVERSATION,
        hello(),
        *(hello() + frame(performative) for performative in _PERFORMATIVES),
    ],
    "gateway": [
        *(_step(0, p.write_performative(performative)) for performative in _PERFORMATIVES),
        _step(1, _MESSAGE) + _step(6, b"x" * 700) + _step(6, b"x" * 700),
        _step(2, _BATCH),
        _step(4, _TOKEN),
        *(_step(1, _section(0x75, b"b")) + _step(3, request) for request in _REQUESTS),
        *(_step(5, request) for request in _REQUESTS),
        b"".join(_step(8, request) for request in _RULES) + _step(9, _MESSAGE),
        *(_step(8, request) + _step(9, _MESSAGE) for request in _RULES),
        _step(7, frame(p.Transfer(8, 0, b"t", 0))),
    ],
    "message": [_MESSAGE, _BATCH, *_REQUESTS, _TOKEN],
    "rules": [
        b"ccolor = 'blue' AND (n > @p OR sys.Label LIKE 'la%' ESCAPE '!')",
        b"cNOT x IN (1, 2.5, 'three') AND yes IS NOT NULL AND EXISTS(user.n)",
        b"c-n + 2 * 3 / (4 % 3) <> +1e5 OR property('color') = newid()",
        b'aSET sys.Label = \'x\'; SET n = n + 1; REMOVE [color]; SET "a""b" = @p',
    ],
    "websocket": [
        b"\x82\x85\x01\x02\x03\x04\x40\x43\x53\x53\x01",
        b"\x89\x81\x01\x02\x03\x04\x40",
        b"\x88\x82\x01\x02\x03\x04\x02\xea",
        b"\x02\x81\x00\x00\x00\x00x\x80\x81\x00\x00\x00\x00y",
        b"GET /$servicebus/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n",
    ],
    "administration": [
        b"d" + _DESCRIPTION,
        b'b<entry xmlns="http://www.w3.org/2005/Atom"><content><x/></content></entry>',
        b"t/q",
        b"t/$Resources/queues?$skip=1&$top=2",
        b"t/$emulator/timeline?after=1&limit=5&queue=q",
        b"t/subscriptions/a/resourceGroups/b/providers/Microsoft.ServiceBus/namespaces/n/queues/q",
        b"t/$namespaceinfo",
        b'f{"on": "send", "do": "delay", "seconds": 2.5, "times": 1, "queue": "q"}',
        b"asr=sb%3a%2f%2fh%2fq&sig=x&se=9999999999&skn=k",
        b"cGET /health HTTP/1.1\r\nhost: h\r\n\r\nDELETE /q HTTP/1.1\r\nhost: h\r\n\r\n",
        b"cPUT /n HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n0\r\n\r\n",
    ],
}
