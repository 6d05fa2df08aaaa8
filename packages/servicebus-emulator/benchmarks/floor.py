"""Where the emulator's time per message goes: what it would cost if the emulator did nothing, and
what its own code costs, by how much of the processor's caches others have used in between.

Run as a program it is the emulator that does nothing: it answers whatever it reads with as many
bytes as a disposition has, from the same event loop.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median
from typing import cast

from benchmarks.broker import ROOT, WINDOW, Client, Emulator, credit, message, transfer
from servicebus_emulator.amqp.performatives import (
    RECEIVER,
    Accepted,
    Disposition,
    write_disposition,
)
from servicebus_emulator.broker.model import QueueSettings
from servicebus_emulator.broker.namespace import Namespace
from servicebus_emulator.gateway.hub import Hub
from servicebus_emulator.server import new_loop
from tests.unit.peer import frame, hello, receiver, sender

ANSWER = b"\x00\x00\x00\x20\x02\x00\x00\x00" + write_disposition(RECEIVER, 1, 1, Accepted())


def idle(messages: int, pace: float) -> float:
    """Seconds of CPU per message of a loop that only answers, at one message in ``pace`` seconds.

    In between this process keeps the processor busy, as a client would.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.floor"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        server = Emulator(process.pid, int(process.stdout.readline()), 0.0)
        client = Client(server, [])
        asked = transfer(0, 1, message(), settled=False)
        used = server.cpu()
        for _ in range(messages):
            then = time.monotonic() + pace
            client.send(asked)
            client.read(b"")
            while time.monotonic() < then:
                pass
        return (server.cpu() - used) / messages
    finally:
        process.kill()
        process.wait()


def own_code(messages: int, touched: int) -> tuple[float, float]:
    """Seconds per message in the emulator's own code: no sockets, no loop, no kernel.

    Sent; and received and completed. Before each input so many bytes of other memory are read, as
    whatever else runs on the processor does: they are not in the time, what they evict from its
    caches is.
    """
    other = bytes(touched)
    namespace = Namespace()
    namespace.create("q", QueueSettings(), 0.0)
    hub = Hub(namespace)
    peer = hub.connect()

    def handle(data: bytes) -> float:
        other.count(1)
        began = time.perf_counter()
        peer.receive(data, 1.0)
        for dirty in hub.take_dirty():
            dirty.connection.take_output()
        hub.due_not_before()
        return time.perf_counter() - began

    handle(hello(window=WINDOW) + frame(sender("s", "q", 0)) + frame(receiver("r", "q", 1)))
    sent = [handle(transfer(0, n, message(), settled=False)) for n in range(messages)]
    began = time.process_time()
    handle(credit(1, messages))
    while namespace.get("q").has_ready():  # as much at a time as may wait to be written
        peer.resume(1.0)
        handle(b"")
    received = time.process_time() - began
    done = Disposition(RECEIVER, 0, None, False, Accepted())
    completed = [handle(frame(replace(done, first=n))) for n in range(messages)]
    assert namespace.get("q").counts().total == 0
    return median(sent), received / messages + median(completed)


class _Answering(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve())
