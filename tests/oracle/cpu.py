"""How much CPU the emulator takes per message, with Azure's synchronous SDK as its client.

    python tests/oracle/cpu.py [--messages 3000] [--profile FILE] [--state FILE]

Sends one by one, then receives 100 at a time and completes one by one, over loopback.
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from azure.servicebus import ServiceBusClient, ServiceBusMessage

ROOT = Path(__file__).resolve().parents[2]
CONFIG = '[[queue]]\nname = "q"\nlock_duration = 300\n'


def cpu_of(process: int) -> tuple[float, float]:
    """Seconds that a process and the kernel for it took."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def main() -> int:
    """Start, load, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=3_000)
    parser.add_argument("--profile", type=Path, help="profile the emulator, and print the top")
    parser.add_argument("--state", default="memory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "queues.toml"
        config.write_text(CONFIG)
        profiling = ("-m", "cProfile", "-o", str(given.profile)) if given.profile else ()
        began = time.monotonic()
        server = subprocess.Popen(
            [
                *(sys.executable, *profiling, "-m", "ci.servicebus", "--host", "127.0.0.1"),
                *("--amqp-port", "0", "--admin-port", "0", "--config", str(config)),
                *("--state", given.state),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            ready = next(line for line in server.stdout if "ready:" in line)
            print(f"start-up: {1000 * (time.monotonic() - began):.0f} ms")
            found = re.search(r"127\.0\.0\.1:(\d+)", ready)
            assert found is not None
            load(int(found[1]), server.pid, given.messages)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    if given.profile:
        pstats.Stats(str(given.profile)).sort_stats("tottime").print_stats(32)
    return 0


def load(port: int, process: int, count: int) -> None:
    """Send all, receive all; print what each took."""
    text = (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey=k;"
        "UseDevelopmentEmulator=true"
    )
    body = b"x" * 1_000
    client = ServiceBusClient.from_connection_string(text)
    with client, client.get_queue_sender("q") as sender, client.get_queue_receiver("q") as receiver:
        sender.send_messages(ServiceBusMessage(body))  # connected, and warm
        receiver.complete_message(receiver.receive_messages(1)[0])

        def send() -> None:
            for _ in range(count):
                sender.send_messages(ServiceBusMessage(body))

        def receive() -> None:
            left = count
            while left:
                messages = receiver.receive_messages(min(100, left), max_wait_time=5)
                for message in messages:
                    receiver.complete_message(message)
                left -= len(messages)

        for name, work in (("sent", send), ("received and completed", receive)):
            began, used, own = time.monotonic(), cpu_of(process), time.process_time()
            work()
            took = time.monotonic() - began
            user, kernel = (now - then for now, then in zip(cpu_of(process), used, strict=True))
            own = time.process_time() - own
            print(
                f"{name}: per message {1e6 * user / count:.0f} us in the emulator and "
                f"{1e6 * kernel / count:.0f} us in the kernel for it, {count / took:.0f}/s; "
                f"emulator {100 * (user + kernel) / took:.0f} %, "
                f"client {100 * own / took:.0f} % of a core"
            )


if __name__ == "__main__":
    sys.exit(main())
