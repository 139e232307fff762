"""The gateway that tests/helpers/s3_server.py started: to kill, to start again over the same
objects, to ask of its admin.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from process_tree import until

from batchr1.engine.lifeline import start_time

_started: list[subprocess.Popen[bytes]] = []  # they outlive the tests, until the server is stopped


class Gateway:
    """radosgw in the server's folder, BATCHR1_TEST_S3_FOLDER."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self._folder, self._endpoint = folder, endpoint
        self._state = folder / "state.json"

    def kill(self) -> None:
        pid = self._pid()
        self._command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        os.kill(pid, signal.SIGKILL)
        until(lambda: start_time(pid) is None, 10, "the gateway's end")

    def start(self) -> None:
        """Start it as it was started; the server's own list of processes learns the new one, so
        that it is stopped.
        """
        with (self._folder / "radosgw.out").open("ab") as out:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._folder,
                start_new_session=True,
            )
        _started.append(process)
        until(self.answers, 60, "the gateway's answer")
        state = json.loads(self._state.read_text())
        state["pids"].append([process.pid, int(start_time(process.pid) or 0), "radosgw"])
        self._state.write_text(json.dumps(state))

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(self._endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def admin(self, *words: str) -> None:
        """`radosgw-admin` on this server."""
        command = ["radosgw-admin", "-c", str(self._folder / "ceph.conf"), *words]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, timeout=60)

    def _pid(self) -> int:
        pids: list[int] = [
            pid
            for pid, born, name in json.loads(self._state.read_text())["pids"]
            if name == "radosgw" and start_time(pid) == str(born)
        ]
        return pids[-1]


def the_gateway() -> Gateway:
    folder, endpoint = (
        os.environ.get("BATCHR1_TEST_S3_FOLDER"),
        os.environ.get("BATCHR1_TEST_S3_ENDPOINT"),
    )
    if not folder or not endpoint:
        pytest.skip(
            "BATCHR1_TEST_S3_FOLDER is not set: run tests/helpers/s3_server.py pytest -m s3"
        )
    return Gateway(Path(folder), endpoint)
