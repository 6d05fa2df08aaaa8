"""Runs in a pod of the target's own image: requests at a steady rate, four lines a second.

Standard library only, Python 3.8 or newer, sent as ``python -c``. Arguments: host, port, path,
requests per second, time-out in seconds. Each line is the JSON account of everything so far.
"""

import json
import math
import socket
import sys
import threading
import time

host, port, path, rate, timeout = (*sys.argv[1:4], float(sys.argv[4]), float(sys.argv[5]))
# Once: whether the Service answers is asked here, not whether DNS does.
address = str(socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4][0])
request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
lock = threading.Lock()
counts = [0] * 64
problems: "dict[str, int]" = {}
begun = last = time.monotonic()
sent = answered = failed = 0
gap = slowest = 0.0


def one() -> None:
    global answered, failed, last, gap, slowest
    at, problem = time.monotonic(), ""
    try:
        with socket.create_connection((address, int(port)), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(request)
            head = connection.recv(4096).split(b"\r\n", 1)[0].decode("latin-1")
            status = head.split(" ")[1] if head.startswith("HTTP/1.") else ""
            if not status:
                problem = "the connection was closed without an answer"
            elif not "200" <= status < "400":
                problem = "HTTP " + status
            else:
                while connection.recv(65536):
                    pass
    except (OSError, IndexError) as raised:
        problem = f"{type(raised).__name__}: {raised}"
    now = time.monotonic()
    with lock:
        if problem:
            failed += 1
            if problem not in problems and len(problems) >= 50:
                problem = "other reasons"
            problems[problem] = problems.get(problem, 0) + 1
        else:
            answered += 1
            slowest = max(slowest, now - at)
            # As bucket() of prober.py, which cannot be imported here; a test compares them.
            counts[max(0, min(63, math.ceil(4 * math.log2((now - at) / 0.001))))] += 1
            gap, last = max(gap, now - last), now


def report() -> None:
    with lock:
        line = {
            "at": round(time.monotonic() - begun, 3),  # seconds since the prober began
            "sent": sent,
            "answered": answered,
            "failed": failed,
            "longest_gap": max(gap, time.monotonic() - last),
            "slowest": slowest,
            "took": counts,
            "problems": sorted(problems.items(), key=lambda item: -item[1])[:5],
        }
    print(json.dumps(line), flush=True)


due = reported = time.monotonic()
while True:
    now = time.monotonic()
    if now - reported >= 0.25:  # before the next is sent, so that the last one is answered
        reported = now
        report()
    sent += 1
    threading.Thread(target=one, daemon=True).start()
    due = max(due + 1 / rate, now - 1)
    time.sleep(max(0.0, due - now))
