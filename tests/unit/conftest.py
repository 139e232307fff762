"""The rule of this tier: its tests start no process and open no connection."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

FORBIDDEN = {"os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
_running: list[str] = []


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if _running and event in FORBIDDEN:
        raise RuntimeError(f"{_running[-1]}: {event} in a unit test. Move it to tests/system.")


sys.addaudithook(_refuse)  # for good: a hook cannot be taken out, so `_running` says when it counts


@pytest.fixture(autouse=True)
def _no_process(request: pytest.FixtureRequest) -> Iterator[None]:
    _running.append(request.node.nodeid)
    yield
    _running.pop()
