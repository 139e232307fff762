"""Hosts of a test: network namespaces of this machine, each on a cable of its own.

    namespace ──veth──▶ this process's relay ──▶ the S3 server on loopback

A host has its own name, network and process numbers. So another host cannot know whether one of its
processes lives. Its cable is cut both ways, or one way; it sleeps; its clock jumps. Needs root.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from serving import serving

QUICK_LOCK = str(Path(__file__).with_name("quick_lock.py"))
WALL_CLOCK = Path(__file__).with_name("wall_clock.c")
# No packet is as small as its burst: all are dropped. (Many kernels lack netem.)
_NOTHING_PASSES = ["root", "tbf", "rate", "1kbit", "burst", "10b", "latency", "1ms"]


def why_no_hosts() -> str | None:
    """Say why this machine gives no such hosts; None where it does."""
    if shutil.which("cc") is None:
        return "no C compiler for the hosts' wall clocks"
    name = f"probe-{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError) as exc:
        said = getattr(exc, "stderr", b"") or b""
        return f"no network namespaces ({exc}: {said.decode().strip()})"
    return None


class Host:
    """One host. `endpoint` is the S3 server as it is seen there."""

    def __init__(self, number: int, subnet: int, upstream: str, folder: Path) -> None:
        self.name = f"host{number}"
        tag = secrets.token_hex(3)
        self._ns, self._near, self._far = f"b1-{tag}", f"b1n{tag}", f"b1f{tag}"
        self._address = f"10.213.{subnet + number}"
        self._clock = folder / f"{self.name}.clock"
        self._clock.write_text("+0\n")
        self._library = folder / "wall_clock.so"
        self.endpoint = ""
        self._upstream = upstream

    @contextmanager
    def up(self) -> Iterator[Host]:
        """The host with its cable and the relay at its end, until the end of the block."""
        inside = ["ip", "netns", "exec", self._ns]
        try:
            _ip("netns", "add", self._ns)
            _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far)
            _ip("link", "set", self._far, "netns", self._ns)
            _ip("addr", "add", f"{self._address}.1/24", "dev", self._near)
            _ip("link", "set", self._near, "up")
            for words in (
                ["addr", "add", f"{self._address}.2/24", "dev", self._far],
                ["link", "set", self._far, "up"],
                ["link", "set", "lo", "up"],
            ):
                _run([*inside, "ip", *words])
            with serving(_Relay(f"{self._address}.1", self._upstream)) as relay:
                self.endpoint = f"http://{self._address}.1:{relay.server_address[1]}"
                yield self
        finally:
            for pid in self.pids():
                _kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "link", "del", self._near], check=False)
            subprocess.run(["ip", "netns", "del", self._ns], check=False)

    def start(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Start Python with these words on the host."""
        clock = {"LD_PRELOAD": str(self._library), "WALL_CLOCK_OFFSET": str(self._clock)}
        script = 'hostname "$1"; shift; "$@"; code=$?; exit $code'
        with log.open("ab") as out:
            return subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._ns),
                    *("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"),
                    *("sh", "-c", script, "sh", self.name, sys.executable, *words),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | clock,
            )

    def pids(self) -> list[int]:
        found = subprocess.run(
            ["ip", "netns", "pids", self._ns], check=False, capture_output=True, text=True
        )
        return [int(pid) for pid in found.stdout.split()]

    # faults, each for the time of a block

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes in either direction."""
        _ip("link", "set", self._near, "down")
        try:
            yield
        finally:
            _ip("link", "set", self._near, "up")

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """What it asks for arrives and is done; no answer does."""
        _run(["tc", "qdisc", "add", "dev", self._near, *_NOTHING_PASSES])
        try:
            yield
        finally:
            _run(["tc", "qdisc", "del", "dev", self._near, "root"])

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Nothing that it says arrives."""
        tc = ["ip", "netns", "exec", self._ns, "tc", "qdisc"]
        _run([*tc, "add", "dev", self._far, *_NOTHING_PASSES])
        try:
            yield
        finally:
            _run([*tc, "del", "dev", self._far, "root"])

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Every process of it is stopped, as those of a suspended machine are."""
        stopped = self.pids()
        for pid in stopped:
            _kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                _kill(pid, signal.SIGCONT)

    @contextmanager
    def wrong_clock(self, seconds: int) -> Iterator[None]:
        """Its wall clock has jumped."""
        self._clock.write_text(f"{seconds:+d}\n")
        try:
            yield
        finally:
            self._clock.write_text("+0\n")


@contextmanager
def hosts(count: int, upstream: str, folder: Path) -> Iterator[list[Host]]:
    """So many hosts that reach this S3 server."""
    subnet, library = secrets.randbelow(200), str(folder / "wall_clock.so")
    _run(["cc", "-shared", "-fPIC", "-O2", "-o", library, str(WALL_CLOCK)])
    with ExitStack() as stack:
        yield [
            stack.enter_context(Host(number, subnet, upstream, folder).up())
            for number in range(count)
        ]


class Contender(threading.Thread):
    """Runs a job on a host again and again, until it is complete.

    Its command may end with 4 (another run has the output) or 75 (again). Any other exit code is an
    `error`.
    """

    def __init__(self, host: Host, words: list[str], folder: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.host, self.error = host, ""
        self.codes: list[int] = []
        self._words, self._folder, self._rng = words, folder, random.Random(seed)

    def run(self) -> None:
        while not self.codes or self.codes[-1] != 0:
            log = self._folder / f"{self.host.name}-{len(self.codes)}.log"
            process = self.host.start(self._words, log)
            code = process.wait()
            self.codes.append(code)
            if code not in (0, 4, 75):
                self.error = f"{self.host.name}: exit code {code}: {log.read_text()[-2000:]}"
                return
            time.sleep(self._rng.uniform(0.1, 1.0))


class _Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to the server, and its answers back."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: str, upstream: str) -> None:
        super().__init__((address, 0), _Passage)
        parts = urllib.parse.urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was cut is what these tests are about."""


class _Passage(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as upstream:
            back = threading.Thread(target=_pump, args=(upstream, self.request), daemon=True)
            back.start()
            _pump(self.request, upstream)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
