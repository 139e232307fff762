#!/usr/bin/env python3
"""Runs a command with a real S3 server (a private Ceph gateway) on this machine.

    tests/helpers/s3_server.py pytest -m s3

Sets BATCHR1_TEST_S3_ENDPOINT, BATCHR1_TEST_S3_FOLDER (where the server keeps everything),
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for the command, and ends with its status. Debian's ceph
packages are installed if they are missing. Without ../shared/tools/rgw, which starts the server, or
without a way to install, it says so in a line that begins with `skipped` and ends with 0.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "radosgw": "radosgw",
}  # name → Debian package


def main(command: list[str]) -> int:
    if not command:
        print(__doc__)
        return 2
    server = next(
        (
            path
            for path in (REPOSITORY.parent / "shared/tools/rgw", REPOSITORY / "shared/tools/rgw")
            if path.is_file()
        ),
        None,
    )
    if server is None:
        print("skipped: no ../shared/tools/rgw to start an S3 server with")
        return 0
    missing = [package for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if missing and not install(missing):
        print(f"skipped: {', '.join(missing)} could not be installed")
        return 0
    with tempfile.TemporaryDirectory(prefix="s3-") as folder:
        try:
            start = [sys.executable, str(server), "start", folder, str(free_port())]
            said = subprocess.run(start, check=True, stdout=subprocess.PIPE, text=True).stdout
            values = dict(line.split("=", 1) for line in said.splitlines())
            environment = {
                **os.environ,
                "BATCHR1_TEST_S3_ENDPOINT": values["endpoint"],
                "BATCHR1_TEST_S3_FOLDER": folder,
                "AWS_ACCESS_KEY_ID": values["access_key"],
                "AWS_SECRET_ACCESS_KEY": values["secret_key"],
            }
            return subprocess.run(command, env=environment, check=False).returncode
        finally:
            subprocess.run([sys.executable, str(server), "stop", folder], check=False)


def install(packages: list[str]) -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    for command in (
        ["update", "-qq"],
        ["install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        if (
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, check=False).returncode
            != 0
        ):
            return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped, too
    sys.exit(main(sys.argv[1:]))
