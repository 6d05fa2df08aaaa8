"""What the emulator's benchmark works with: an emulator of its own, and clients without an SDK."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from servicebus_emulator.amqp.codec import encoded
from servicebus_emulator.amqp.performatives import Attach, Flow, write_transfer
from servicebus_emulator.amqp.types import Described, ULong
from tests.unit.peer import frame, hello

ROOT = Path(__file__).resolve().parent.parent
BODY = b"x" * 1_000
ATTACH, TRANSFER, DISPOSITION = (bytes((0x00, 0x53, code)) for code in (0x12, 0x14, 0x15))
"""How a frame's body begins."""
WINDOW = 1 << 30
"""Frames that a client takes: more than ever come."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """A process of its own. ``started`` is how many seconds it took until it was ready."""

    process: int
    port: int
    started: float

    @property
    def connection_string(self) -> str:
        """For Azure's SDK."""
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=n;SharedAccessKey=k;"
            "UseDevelopmentEmulator=true"
        )

    def cpu(self) -> float:
        """Seconds of a core that it has used by now, the kernel's for it included."""
        return time.clock_gettime(~self.process << 3 | 2)  # as clock_getcpuclockid(3) numbers it

    def ticks(self) -> tuple[int, int]:
        """How often the kernel's clock found it in its own code, and in the kernel, by now."""
        status = Path(f"/proc/{self.process}/stat").read_text(encoding="ascii")
        fields = status.rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    def peak_memory(self) -> int:
        """The most bytes of physical memory that it has held."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="ascii")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


@contextmanager
def emulator(
    folder: Path,
    queues: int,
    *,
    lock_duration: float = 300,
    profile: Path | None = None,
    keep_compiled: bool = False,
) -> Iterator[Emulator]:
    """An emulator with the queues ``q0``, ``q1`` …, until the block ends.

    With ``keep_compiled`` its byte code is kept in ``folder`` for the next one, as in its image;
    else as the environment has it, which may be that it is compiled at each start.
    """
    config = folder / "queues.toml"
    queue = '[[queue]]\nname = "q{}"\nlock_duration = {}\n'
    config.write_text("".join(queue.format(n, lock_duration) for n in range(queues)))
    profiling = ("-m", "cProfile", "-o", str(profile)) if profile else ()
    environment = dict(os.environ)
    if keep_compiled:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(folder)
    begun = time.monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, *profiling, "-m", "servicebus_emulator", "--host", "127.0.0.1"),
            *("--amqp-port", "0", "--admin-port", "0", "--config", str(config)),
        ],
        cwd=ROOT / "src",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = next((line for line in process.stdout if "ready:" in line), "")
        started = time.monotonic() - begun
        found = re.search(r"127\.0\.0\.1:(\d+)", ready)
        if found is None:
            sys.exit("error: the emulator did not start\nremedy: see what it said above")
        threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()  # its log
        yield Emulator(process.pid, int(found[1]), started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


class Client:
    """A connection that notes when each frame arrived, and leaves reading it for later."""

    def __init__(self, emulator: Emulator, links: Iterable[Attach]) -> None:
        self.received: list[tuple[float, bytes]] = []
        self._rest = b""
        self._socket = socket.create_connection(("127.0.0.1", emulator.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        attaches = [frame(link) for link in links]
        self.send(hello(window=WINDOW) + b"".join(attaches))
        self.read_until(ATTACH, len(attaches))

    def send(self, data: bytes) -> None:
        """Write all of it."""
        self._socket.sendall(data)

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def read(self, start: bytes) -> int:
        """Wait for bytes; how many frames came with them whose body begins with ``start``."""
        data = self._socket.recv(1 << 18)
        if not data:
            sys.exit("error: the emulator closed a connection\nremedy: see what it said above")
        now = time.time()
        buffer, at, found = self._rest + data, 0, 0
        while len(buffer) - at >= 8:
            size = 8 if buffer.startswith(b"AMQP", at) else int.from_bytes(buffer[at : at + 4])
            if len(buffer) - at < size:
                break
            self.received.append((now, buffer[at : at + size]))
            found += buffer.startswith(start, at + 8)
            at += size
        self._rest = buffer[at:]
        return found

    def read_until(self, start: bytes, count: int) -> None:
        """Wait for so many frames whose body begins with ``start``."""
        while count > 0:
            count -= self.read(start)


def message() -> bytes:
    """What the SDK sends for a body of 1 KB: a message id, and data."""
    properties = encoded(Described(ULong(0x73), [str(uuid4()), *[None] * 12]))
    return properties + encoded(Described(ULong(0x75), BODY))


def credit(handle: int, count: int) -> bytes:
    """A frame that lets an entity send so many messages."""
    return frame(Flow(0, WINDOW, 0, WINDOW, handle, 0, count))


def transfer(handle: int, number: int, payload: bytes, *, settled: bool) -> bytes:
    """A frame with a message; where it is settled nothing answers it."""
    tag = struct.pack(">I", number)
    body = write_transfer(handle, number, tag, settled, more=False) + payload
    return struct.pack(">IBBH", 8 + len(body), 2, 0, 0) + body
