#!/usr/bin/env python3
"""`batchr1` with a lock that beats and goes stale sooner: a test has not the minute.

python tests/helpers/quick_lock.py HEARTBEAT_S STALE_AFTER_S run JOB …
"""

from __future__ import annotations

import functools
import sys

from batchr1.cli.main import program
from batchr1.storage.lock import Lock

if __name__ == "__main__":
    heartbeat_s, stale_after_s = float(sys.argv.pop(1)), float(sys.argv.pop(1))
    quick = functools.partial(Lock.acquire, heartbeat_s=heartbeat_s, stale_after_s=stale_after_s)
    Lock.acquire = quick  # type: ignore[method-assign]
    program()
