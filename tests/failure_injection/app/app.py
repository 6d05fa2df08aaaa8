"""The smallest service that can be promoted, and made to fail in one way: ``MODE`` says which."""

import http.server
import itertools
import os
import pathlib
import signal
import sys
import threading
import time

VERSION, MODE = os.environ["APP_VERSION"], os.environ["MODE"]
API = pathlib.Path("/api.json").read_bytes()
asked = itertools.count(1)
begun = time.monotonic()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        status = 200
        if MODE == "unready" and self.path == "/readyz":
            status = 503
        if MODE == "unhealthy" and self.path == "/health":
            status = 500
        if self.path == "/slow":
            time.sleep(1)
        if MODE == "slow-ready" and self.path == "/readyz":
            time.sleep(1.5)
        if MODE == "late-leak" and self.path == "/work" and time.monotonic() - begun > 25:
            status = 500 if next(asked) % 10 == 0 else 200
        if MODE == "leak" and self.path == "/work" and next(asked) % 20 == 0:
            status = 500
        body = API if self.path == "/openapi.json" else VERSION.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if MODE == "crash":
    print("KeyError: 'LOCK_DURATION' is not set", flush=True)
    sys.exit(3)
if MODE == "logs":

    def complain() -> None:
        while True:
            print("ERROR the lock of a message was lost", flush=True)
            time.sleep(2)

    threading.Thread(target=complain, daemon=True).start()
server = http.server.ThreadingHTTPServer(("", 5000), Handler)
server.daemon_threads = True
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving", VERSION, flush=True)
server.serve_forever()
