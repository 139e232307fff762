"""Connections between the driver and workers on other nodes.

Each proves that it knows the run's key. One that is silent for long counts as cut.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

SILENT_S = 30  # a machine that answers nothing for so long is gone
PROVE_S = 20.0  # who has not proved by then that it knows the key is cut
MAX_UNPROVED = 64  # of those at a time; the oldest goes for a newer one
BUSY_S = 0.2  # without file descriptors the door waits so long


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing that a relay says."""

    worker: int
    epoch: int


def secured(sock: socket.socket, key: bytes, *, is_driver: bool) -> Connection:
    """Authenticate the other end of `sock`: it must know `key`.

    Raises `OSError`, `EOFError` or `AuthenticationError` when it does not. Messages are pickles, so
    whoever could speak could run code: nothing is read before.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: notice a machine that vanished, busy or idle
        for option, value in (
            (socket.TCP_KEEPIDLE, SILENT_S // 3),
            (socket.TCP_KEEPINTVL, SILENT_S // 6),
            (socket.TCP_KEEPCNT, 4),
            (socket.TCP_USER_TIMEOUT, 1000 * SILENT_S),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = Connection(sock.detach())
    try:
        if is_driver:
            deliver_challenge(line, key)
            answer_challenge(line, key)
        else:
            answer_challenge(line, key)
            deliver_challenge(line, key)
    except BaseException:
        line.close()
        raise
    return line


class RelayListener:
    """Port of this node to which relays connect.

    An event socket wakes those that `wait` on it.
    """

    def __init__(self, host: str, key: bytes) -> None:
        self._socket = socket.create_server((host, 0))
        self._socket.settimeout(1.0)
        self._key = key
        self._closed = threading.Event()
        self._unproved: deque[tuple[float, socket.socket]] = deque()
        self._turn = threading.Lock()
        self._arrived: queue.SimpleQueue[tuple[Hello, Connection]] = queue.SimpleQueue()
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self.wakeup, self._notify = socket.socketpair()
        self.wakeup.setblocking(False)
        threading.Thread(target=self._accept, name="relay listener", daemon=True).start()

    def arrivals(self) -> Iterator[tuple[Hello, Connection]]:
        """Those that came since."""
        with contextlib.suppress(BlockingIOError):
            self.wakeup.recv(4096)
        while True:
            try:
                yield self._arrived.get_nowait()
            except queue.Empty:
                return

    def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.wakeup.close()
        self._notify.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, _ = self._socket.accept()
            except TimeoutError:
                self._cut_old()
                continue
            except OSError:  # closed; or no file descriptor is left, of which the oldest hold some
                self._cut_old(at_least=1)
                self._closed.wait(BUSY_S)
                continue
            with self._turn:
                self._unproved.append((time.monotonic(), sock))
            self._cut_old()
            thread = threading.Thread(
                target=self._handshake, args=(sock,), name="relay handshake", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no thread is left
                self._forget(sock)
                sock.close()

    def _cut_old(self, at_least: int = 0) -> None:
        """Cut those that say nothing for long, or are too many."""
        with self._turn:
            count = max(at_least, len(self._unproved) - MAX_UNPROVED)
            now = time.monotonic()
            while self._unproved and (count > 0 or now - self._unproved[0][0] > PROVE_S):
                _, sock = self._unproved.popleft()
                count -= 1
                with contextlib.suppress(OSError):  # wakes its thread, which closes it
                    sock.shutdown(socket.SHUT_RDWR)

    def _forget(self, sock: socket.socket) -> None:
        with self._turn:
            self._unproved = deque(one for one in self._unproved if one[1] is not sock)

    def _handshake(self, sock: socket.socket) -> None:
        """Accept a peer that knows the key.

        A silent one blocks this thread only, until it is cut.
        """
        with contextlib.suppress(OSError, EOFError, AuthenticationError):
            try:
                line = secured(sock.dup(), self._key, is_driver=True)
            finally:
                self._forget(sock)
                sock.close()
            hello = line.recv()
            self._arrived.put((hello, line))
            self._notify.send(b"!")
