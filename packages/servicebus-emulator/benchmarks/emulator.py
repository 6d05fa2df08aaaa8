"""Measures the Service Bus emulator: CPU, memory, lateness, start-up, fairness.

The emulator runs as a process of its own; Azure's synchronous SDK, or a client that does next to
nothing, loads it over loopback from this one. The table goes to ``benchmarks/SERVICEBUS.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import pstats
import selectors
import statistics
import struct
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiver,
    ServiceBusSender,
)

from benchmarks.broker import (
    BODY,
    DISPOSITION,
    ROOT,
    TRANSFER,
    Client,
    Emulator,
    credit,
    emulator,
    message,
    transfer,
)
from benchmarks.floor import idle, own_code
from servicebus_emulator.server import new_loop
from tests.unit.peer import receiver, sender

RESULTS = ROOT / "benchmarks" / "SERVICEBUS.md"
QUEUES, EACH, LOCKED_QUEUES = 1_000, 100, 100
"""100,000 messages, of which those of 100 queues are locked."""
CONNECTIONS = 200
THREADS = 8
MIB = 2**20

Own = dict[int, tuple[float, float]]
"""Seconds per message, sent, and received and completed, by bytes read in between."""


@dataclass(frozen=True, slots=True)
class Load:
    """What handling ``messages`` took, in seconds; of a core for ``emulator`` and ``sdk``.

    ``kernel`` is the part of ``emulator`` that is spent outside of its own code.
    """

    messages: int
    elapsed: float
    emulator: float
    kernel: float
    sdk: float

    @property
    def each(self) -> float:
        """Microseconds of CPU in the emulator and the kernel for it, per message."""
        return 1e6 * self.emulator / self.messages

    @property
    def shares(self) -> str:
        """Of a core."""
        return (
            f"SDK {self.sdk / self.elapsed:.0%}, emulator {self.emulator / self.elapsed:.0%} "
            f"of a core ({self.messages / self.elapsed:,.0f}/s)"
        )

    @property
    def ratio(self) -> float:
        """The emulator's CPU to the SDK's."""
        return self.emulator / self.sdk


def timed(server: Emulator, messages: int, work: Callable[[], object]) -> Load:
    """Do ``work``, which handles so many messages."""
    began, used, own = time.monotonic(), server.cpu(), time.process_time()
    user, system = server.ticks()
    work()
    elapsed, spent = time.monotonic() - began, server.cpu() - used
    own = time.process_time() - own
    user, system = server.ticks()[0] - user, server.ticks()[1] - system
    return Load(messages, elapsed, spent, spent * system / max(1, user + system), own)


def sdk(server: Emulator, threads: int, count: int) -> tuple[Load, Load]:
    """Every thread sends ``count`` messages one by one; then each receives and completes them."""

    def send(at: int) -> None:
        for _ in range(count):
            senders[at].send_messages(ServiceBusMessage(BODY))

    def receive(at: int) -> None:
        left = count
        while left:
            found = receivers[at].receive_messages(min(100, left), max_wait_time=5)
            for one in found:
                receivers[at].complete_message(one)
            left -= len(found)

    with ExitStack() as stack:
        enter = stack.enter_context
        senders: list[ServiceBusSender] = []
        receivers: list[ServiceBusReceiver] = []
        for number in range(threads):
            client = enter(ServiceBusClient.from_connection_string(server.connection_string))
            senders.append(enter(client.get_queue_sender(f"q{number}")))
            receivers.append(enter(client.get_queue_receiver(f"q{number}")))
            senders[-1].send_messages(ServiceBusMessage(BODY))  # connected, and warm
            receivers[-1].complete_message(receivers[-1].receive_messages(1)[0])
        pool = enter(ThreadPoolExecutor(threads))
        total = threads * count
        sent = timed(server, total, lambda: [*pool.map(send, range(threads))])
        received = timed(server, total, lambda: [*pool.map(receive, range(threads))])
    return sent, received


def start_up(folder: Path, queues: int, runs: int, *, keep_compiled: bool = False) -> float:
    """Seconds until it is ready: the median."""
    found = []
    for _ in range(runs):
        with emulator(folder, queues, keep_compiled=keep_compiled) as server:
            found.append(server.started)
    return statistics.median(found)


def full(folder: Path) -> tuple[int, list[float]]:
    """Fill the queues, lock a part, wait for the locks' end.

    Peak memory in bytes; and for every locked message how long after its lock's end, as it had
    been told, it was there again, in seconds.
    """
    with emulator(folder, QUEUES, lock_duration=10) as server:
        filler = Client(server, [sender(f"s{n}", f"q{n}", n) for n in range(QUEUES)])
        for each in range(EACH):
            filler.send(
                b"".join(
                    transfer(n, QUEUES * each + n, message(), settled=n < QUEUES - 1)
                    for n in range(QUEUES)
                )
            )
        filler.read_until(DISPOSITION, EACH)
        receivers = [
            Client(server, [receiver(f"r{n}", f"q{n}", n) for n in range(first, first + 10)])
            for first in range(0, LOCKED_QUEUES, 10)
        ]
        for at, client in enumerate(receivers):
            handles = range(10 * at, 10 * at + 10)
            client.send(b"".join(credit(handle, 2 * EACH) for handle in handles))
        wanted = dict.fromkeys(receivers, 2 * 10 * EACH)
        with selectors.DefaultSelector() as selector:
            for client in receivers:
                selector.register(client, selectors.EVENT_READ)
            while any(left > 0 for left in wanted.values()):
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, Client)
                    wanted[key.fileobj] -= key.fileobj.read(TRANSFER)
        return server.peak_memory(), [late for client in receivers for late in lateness(client)]


def lateness(client: Client) -> list[float]:
    """Of every message that came twice: how long after the end of its first lock, in seconds."""
    until: dict[tuple[bytes, bytes], float] = {}
    found = []
    for arrived, data in client.received:
        if not data.startswith(TRANSFER, 8):
            continue
        handle, number = data[14:19], _annotation(data, b"x-opt-sequence-number\x81")
        held = until.get((handle, number))
        if held is None:
            locked = _annotation(data, b"x-opt-locked-until\x83")
            until[handle, number] = struct.unpack(">q", locked)[0] / 1000
        else:
            found.append(arrived - held)
    return found


def _annotation(data: bytes, name: bytes) -> bytes:
    at = data.index(name) + len(name)
    return data[at : at + 8]


def fairness(folder: Path, seconds: float) -> tuple[float, float]:
    """Most to least served of 200 connections: all send to one queue, all receive from one."""
    outstanding = 10
    with emulator(folder, 2) as server:
        payload = message()
        clients = [Client(server, [sender("s", "q0")]) for _ in range(CONNECTIONS)]
        sent = dict.fromkeys(clients, 0)
        ends = time.monotonic() + seconds

        def more(client: Client, count: int) -> None:
            if time.monotonic() < ends:
                numbers = range(sent[client], sent[client] + count)
                client.send(b"".join(transfer(0, n, payload, settled=False) for n in numbers))
                sent[client] += count

        for client in clients:
            more(client, outstanding)
        accepted = served(clients, DISPOSITION, lambda counts: time.monotonic() > ends, more)
        for client in clients:
            client.close()

        total = 100 * CONNECTIONS
        clients = [Client(server, [receiver("r", "q1", settled=True)]) for _ in range(CONNECTIONS)]
        for client in clients:
            client.send(credit(1, total))
        filler = Client(server, [sender("s", "q1")])
        filler.send(b"".join(transfer(0, n, payload, settled=True) for n in range(total)))
        taken = served(clients, TRANSFER, lambda counts: sum(counts.values()) >= total)
        for client in (*clients, filler):
            client.close()
    return spread(accepted), spread(taken)


def served(
    clients: list[Client],
    start: bytes,
    over: Callable[[dict[Client, int]], bool],
    then: Callable[[Client, int], None] = lambda client, count: None,
) -> dict[Client, int]:
    """How many frames that begin with ``start`` each client got until it was ``over``."""
    counts = dict.fromkeys(clients, 0)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while not over(counts):
            for key, _ in selector.select(timeout=1):
                assert isinstance(key.fileobj, Client)
                found = key.fileobj.read(start)
                counts[key.fileobj] += found
                then(key.fileobj, found)
    return counts


def spread(counts: dict[Client, int]) -> float:
    """Most to least."""
    return max(counts.values()) / max(1, min(counts.values()))


def table(
    alone: tuple[Load, Load],
    busy: tuple[Load, Load],
    starts: tuple[float, float, float],
    memory: int,
    late: list[float],
    fair: tuple[float, float],
    floor: float,
    own: Own,
    busyness: float,
) -> str:
    """The results as Markdown."""
    late = sorted(late)
    with closing(new_loop()) as loop:
        loop_name = type(loop).__module__.partition(".")[0]
    rows = [
        ("emulator, per message sent, one by one", f"{alone[0].each:.0f} µs", "<= 40 µs"),
        ("… received and completed, one by one", f"{alone[1].each:.0f} µs", "<= 40 µs"),
        (f"emulator, per message sent, {THREADS} at a time", f"{busy[0].each:.0f} µs", "<= 40 µs"),
        (f"… received and completed, {THREADS} at a time", f"{busy[1].each:.0f} µs", "<= 40 µs"),
        ("emulator / SDK, CPU per message sent", f"{busy[0].ratio:.2f}", "<= 0.67"),
        ("… received and completed", f"{busy[1].ratio:.2f}", "<= 0.67"),
        ("sending, one by one", alone[0].shares, ""),
        ("receiving and completing, one by one", alone[1].shares, ""),
        (f"sending, {THREADS} threads", busy[0].shares, "SDK >= 90%, emulator < 60%"),
        (f"… receiving and completing, {THREADS} threads", busy[1].shares, "the same"),
        ("start-up", f"{1000 * starts[0]:.0f} ms", "<= 300 ms"),
        (f"start-up with {QUEUES:,} queues", f"{1000 * starts[1]:.0f} ms", "<= 300 ms"),
        ("… its byte code kept, as in its image", f"{1000 * starts[2]:.0f} ms", "<= 300 ms"),
        (
            f"peak memory: {QUEUES:,} queues, {QUEUES * EACH:,} messages of 1 KB, "
            f"{LOCKED_QUEUES * EACH:,} of them locked",
            f"{memory / MIB:.0f} MiB",
            "<= 300 MB",
        ),
        (
            f"a message is back after its lock's end ({len(late):,} locks that end together)",
            f"median {1000 * late[len(late) // 2]:.0f} ms, "
            f"99% {1000 * late[len(late) * 99 // 100]:.0f} ms, last {1000 * late[-1]:.0f} ms",
            "<= 100 ms",
        ),
        (f"{CONNECTIONS} connections send: most / least served", f"{fair[0]:.2f}", "<= 2"),
        (f"{CONNECTIONS} connections receive: most / least served", f"{fair[1]:.2f}", "<= 2"),
    ]
    lines = [
        "# The Service Bus emulator",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d} by `benchmarks/servicebus` on "
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()} "
        f"({build()}) and {loop_name}'s loop, "
        "with Azure's synchronous SDK and with plain clients over loopback. CPU is the process's "
        "and the kernel's for it: wake-ups, sockets. The machine's load average was "
        f"{busyness:.1f} when it began: above 1, times and shares of a core are too bad.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {goal} |" for what, measured, goal in rows),
    ]
    return "\n".join((*lines, "", *where_it_goes(alone, floor, own))) + "\n"


def build() -> str:
    """How this Python was compiled, which is some 10% of its speed."""
    is_optimized = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return f"built {'with' if is_optimized else 'without'} profile-guided optimization"


def where_it_goes(loads: tuple[Load, Load], floor: float, own: Own) -> Iterator[str]:
    """What the emulator's time per message consists of, in Markdown.

    ``floor`` is what a process takes that only answers, in seconds; ``own`` what the emulator's
    own code takes, by how many bytes of other memory were read in between.
    """

    def row(what: str, *seconds: float) -> str:
        return f"| {what} | {' | '.join(f'{1e6 * each:.0f} µs' for each in seconds)} |"

    yield "Where that goes, one by one:"
    yield ""
    yield "| CPU per message | sent | received and completed |"
    yield "|---|---|---|"
    yield row("the emulator's process", *(load.emulator / load.messages for load in loads))
    yield row("… of which in the kernel", *(load.kernel / load.messages for load in loads))
    yield row(
        "a process that only answers, at the same pace, with the same event loop: "
        "wake-ups, sockets, loop",
        *(floor, floor),
    )
    yield row(
        "… which leaves for the emulator",
        *(load.emulator / load.messages - floor for load in loads),
    )
    yield row("its own code alone, one message right after another", *own[0])
    for touched, seconds in own.items():
        if touched:
            yield row(
                f"… where {touched >> 10:,} KiB of other memory were read in between", *seconds
            )
    yield ""
    yield (
        "What only answers is the machine's part, and a large one: on 2026-11-26 it took 11 µs "
        "while others kept both cores busy, and 37 µs while nothing else ran, for then each "
        "message has to wake a virtual core that sleeps. The emulator as a whole took 49 µs then, "
        "and 76. So 40 µs in all is out of reach where the cores idle; what is left to the "
        "emulator is its own code, in caches that the client's have used in between."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/servicebus", description=__doc__)
    parser.add_argument("--messages", type=int, default=8_000, help="per load (default 8000)")
    parser.add_argument("--profile", type=Path, help="only profile one client's load, to a file")
    chosen = parser.parse_args()
    busyness = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.profile is not None:
            with emulator(folder, 1, profile=chosen.profile) as server:
                sdk(server, 1, chosen.messages)
            pstats.Stats(str(chosen.profile)).sort_stats("tottime").print_stats(32)
            return
        starts = (
            start_up(folder, 1, 5),
            start_up(folder, QUEUES, 5),
            start_up(folder, QUEUES, 5, keep_compiled=True),
        )
        with emulator(folder, THREADS) as server:
            alone = sdk(server, 1, chosen.messages)
            busy = sdk(server, THREADS, chosen.messages // THREADS)
        pace = alone[0].elapsed / alone[0].messages
        floor = idle(chosen.messages // 2, pace)
        own = {touched: own_code(1_000, touched) for touched in (0, 512 << 10, 4 << 20)}
        memory, late = full(folder)
        text = table(alone, busy, starts, memory, late, fairness(folder, 3), floor, own, busyness)
    RESULTS.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
