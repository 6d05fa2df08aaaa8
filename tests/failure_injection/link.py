"""A way between two programs that a case can cut: a TCP relay of the case's own."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

CHUNK = 1 << 16


class Link:
    """Leads every connection on to ``to`` while in the ``with`` block.

    :meth:`cut` is a pulled cable: nothing gets through, nobody is told, and what was sent arrives
    after :meth:`mend`, as TCP would send it again. :meth:`end` is a server that is gone:
    connections are closed and new ones refused.
    """

    def __init__(self, to: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._to = to
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._whole = threading.Event()
        self._whole.set()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._trap: tuple[int, bool] | None = None
        self.sprung = threading.Event()
        """Set when a trap of :meth:`trap` has sprung."""

    def __enter__(self) -> Link:
        threading.Thread(target=self._accept, name="link", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def end(self) -> None:
        with suppress(OSError):  # wakes the thread that accepts, which closing alone does not
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._whole.set()

    def trap(self, *, after: int, ends: bool) -> None:
        """Let ``after`` more bytes come back through it, then :meth:`end` it or :meth:`cut` it."""
        self._trap = (after, ends)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # ended
            threading.Thread(target=self._lead, args=(near,), daemon=True).start()

    def _lead(self, near: socket.socket) -> None:
        self._whole.wait()
        try:
            far = socket.create_connection(self._to, timeout=10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=self._pump, args=(far, near, True), daemon=True)
        back.start()
        self._pump(near, far, False)
        back.join()
        with self._lock:
            self._open -= {near, far}
        near.close()
        far.close()

    def _pump(self, source: socket.socket, into: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                if back:
                    self._count(len(data))
                self._whole.wait()
                into.sendall(data)
        with suppress(OSError):
            into.shutdown(socket.SHUT_WR)

    def _count(self, size: int) -> None:
        with self._lock:
            if self._trap is None:
                return
            left, ends = self._trap
            self._trap = (left - size, ends) if left > size else None
            if self._trap is not None:
                return
        self.sprung.set()
        if ends:
            self.end()
        else:
            self.cut()
