"""A server that is killed under load, again and again, and what its clients were told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import servicebus_emulator
from servicebus_emulator.amqp import performatives as p
from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.types import Described, ULong
from servicebus_emulator.broker.namespace import Namespace
from tests.unit.peer import frame, frames, hello, receiver, sender

SOURCE = Path(servicebus_emulator.__file__).parents[1]
"""Where ``python -m servicebus_emulator`` finds what these tests import, installed or not."""

CONFIG = """
[[queue]]
name = "tasks"
lock_duration = 300
max_delivery_count = 2000
[[topic]]
name = "events"
[[topic.subscription]]
name = "worked"
lock_duration = 300
max_delivery_count = 2000
[[topic.subscription]]
name = "untouched"
"""
IN_FLIGHT = 50


@dataclass(frozen=True)
class Route:
    """Where messages are sent, and where they are received."""

    target: str
    source: str
    untouched: str | None = None
    """A subscription from which nothing is received."""


QUEUE = Route("tasks", "tasks")
TOPIC = Route("events", "events/Subscriptions/worked", "events/Subscriptions/untouched")


@dataclass
class Told:
    """Message ids, by what the clients know of them."""

    sent: set[str] = field(default_factory=set)
    completing: set[str] = field(default_factory=set)
    completed: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)


@dataclass
class Program:
    """The emulator as a process."""

    process: asyncio.subprocess.Process
    port: int

    @classmethod
    async def start(cls, folder: Path) -> Program:
        config = folder / "queues.toml"
        config.write_text(CONFIG)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "servicebus_emulator", "--host", "127.0.0.1"),
            *("--amqp-port", "0", "--admin-port", "0", "--tls-dir", str(folder / "tls")),
            *("--config", str(config), "--state", str(folder / "state.db")),
            cwd=SOURCE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = b""
        while b"ready:" not in line:
            line = await process.stdout.readline()
            assert line, "the emulator ended before it was ready"
        port = int(line.partition(b"127.0.0.1:")[2].partition(b",")[0])
        return cls(process, port)

    async def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self.process.kill()
        await self.process.communicate()


def message(name: str) -> bytes:
    """A message of 1 KB under an id."""
    properties = encoded(Described(ULong(0x73), [name]))
    return properties + encoded(Described(ULong(0x75), b"x" * 1_000))


async def read_frames(
    reader: asyncio.StreamReader, on: Callable[[object, bytes], bool | None]
) -> None:
    """Every frame to ``on``, until it says True or the server is gone."""
    buffer = b""
    while True:
        try:
            data = await reader.read(65_536)
        except ConnectionError:
            return
        if not data:
            return
        buffer += data
        whole = 0
        while len(buffer) - whole >= 8:
            size = 8
            if buffer[whole : whole + 4] != b"AMQP":
                size = int.from_bytes(buffer[whole : whole + 4], "big")
            if len(buffer) - whole < size:
                break
            whole += size
        items, buffer = frames(buffer[:whole]), buffer[whole:]
        for item, payload in items:
            if on(item, payload):
                return


async def send(port: int, target: str, names: str, told: Told) -> None:
    """Send until the server is gone."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hello() + frame(sender("s", target)))
    number = 0

    def more() -> None:
        nonlocal number
        name = f"{names}-{number}"
        told.sent.add(name)
        writer.write(frame(p.Transfer(0, number, b"t", 0, False), message(name)))
        number += 1

    def on(item: object, _payload: bytes) -> None:
        if isinstance(item, p.Flow) and number == 0:
            for _ in range(IN_FLIGHT):
                more()
        elif isinstance(item, p.Disposition):
            assert isinstance(item.state, p.Accepted)
            for index in range(item.first, (item.last or item.first) + 1):
                told.accepted.add(f"{names}-{index}")
                more()

    await read_frames(reader, on)
    writer.close()


async def receive(port: int, source: str, told: Told, enough: int) -> None:
    """Receive and complete until ``enough`` completions were confirmed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    flow = p.Flow(0, 1 << 30, 0, 1_000, 1, 0, 1 << 30)
    writer.write(hello() + frame(receiver("r", source)) + frame(flow))
    held: dict[int, str] = {}
    confirmed = 0

    def on(item: object, payload: bytes) -> bool:
        nonlocal confirmed
        if isinstance(item, p.Transfer):
            name = name_of(payload)
            assert name not in told.completed, f"{name} is back"
            assert item.delivery_id is not None
            held[item.delivery_id] = name
            if item.delivery_id % 3:  # every third stays locked
                told.completing.add(name)
                done = p.Disposition(p.RECEIVER, item.delivery_id, None, False, p.Accepted())
                writer.write(frame(done))
        elif isinstance(item, p.Disposition):
            assert isinstance(item.state, p.Accepted), item.state
            told.completed.add(held[item.first])
            confirmed += 1
        return confirmed >= enough

    await read_frames(reader, on)
    assert confirmed >= enough, "the server ended by itself"
    writer.close()


def name_of(payload: bytes) -> str:
    """The message id."""
    from servicebus_emulator.gateway.message import read_message

    return str(read_message(payload).message_id)


async def kill_under_load(folder: Path, route: Route, *, rounds: int, enough: int) -> Told:
    """Each round: start, load, SIGKILL in the middle of it."""
    told = Told()
    for number in range(rounds):
        program = await Program.start(folder)
        try:
            sending = asyncio.create_task(send(program.port, route.target, f"{number}", told))
            await asyncio.wait_for(receive(program.port, route.source, told, enough), 60)
        finally:
            await program.kill()
        await sending
    return told


def left_in(namespace: Namespace, path: str) -> set[str | None]:
    """The ids of the messages in a queue or a subscription."""
    return {message.message_id for message in namespace.resolve(path).peek(0, 1 << 30, 0.0)}
