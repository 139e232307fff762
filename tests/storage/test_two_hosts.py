"""Two hosts contend for one output on S3, through partitions, sleeps and jumps of their clocks.

Hosts are network namespaces (`hosts`), the server is the real one. A watcher lists the output all
the while. Rows are compared with those of the oracle. All choices are those of the seed that
BATCHR1_HOSTS_SEED names.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hosts import QUICK_LOCK, Contender, Host, hosts, why_no_hosts
from oracle import (
    Rules,
    Script,
    check_rows,
    check_success,
    check_swept,
    expected_rows,
    read_rows,
)
from replay_job import questions, replay, run_replay, set_engine, write_job
from s3_fakes import S3

SEED = int(os.environ.get("BATCHR1_HOSTS_SEED", "1"))
FAULTS = int(os.environ.get("BATCHR1_HOSTS_FAULTS", "20"))
PER_ROUND = 5  # faults: plain jobs and --continue-truncated take turns
BEAT_S, STALE_S = 1.0, 6.0
ROWS, SMALL, LARGE = 40, 30, 90
END_S = 300.0
RUN_CHARS = 24  # of a run's name, which names of parts begin with
Fault = tuple[str, Callable[[Host], AbstractContextManager[None]]]


class Watcher(threading.Thread):
    """Reads the lock and lists the parts, again and again; notes the order in which parts came."""

    def __init__(self, s3: S3, prefix: str) -> None:
        super().__init__(daemon=True)
        self._client, self._bucket, self._prefix = s3.client(), s3.bucket, prefix
        self.epochs: dict[str, int] = {}  # of runs
        self.holder = ""  # name of the host that has the lock
        self.listings: list[set[str]] = []  # names that were new in each
        self.over = threading.Event()

    def run(self) -> None:
        known: set[str] = set()
        while not self.over.is_set():
            self._look_at_lock()
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}/data/"
            )
            names = {e["Key"].rpartition("/")[2] for p in pages for e in p.get("Contents", [])}
            if names - known:
                self.listings.append(names - known)
            known |= names
            self.over.wait(0.05)

    def _look_at_lock(self) -> None:
        try:
            key = f"{self._prefix}/.batchr1/lock"
            found = self._client.get_object(Bucket=self._bucket, Key=key)
        except self._client.exceptions.NoSuchKey:
            return
        lock = json.loads(found["Body"].read())
        self.epochs[lock["run"]] = lock["epoch"]
        self.holder = "" if lock["released"] else lock["host"]

    def check(self) -> None:
        """No part of an earlier owner comes after one of a later owner."""
        latest = 0
        for names in self.listings:
            epochs = [self.epochs[name[len("part-") :][:RUN_CHARS]] for name in names]
            assert min(epochs) >= latest, (names, self.epochs)
            latest = max(epochs)


class Round:
    """One output that both hosts want."""

    def __init__(self, s3: S3, folder: Path, number: int, rng: random.Random) -> None:
        self.s3, self.folder, self.prefix, self.rng = s3, folder, f"out{number}", rng
        self.continues = number % 2 == 1
        self.script = Script(mean_len=60.0)
        folder.mkdir()
        self.inputs = questions(ROWS, start=1000 * number)
        self.inputs.write_parquet(folder / "in.parquet")
        if self.continues:
            job = self._job(folder, s3.endpoint, SMALL)
            assert run_replay(job, self._engine(step_s=0.0)).exit_code == 0

    def _job(self, folder: Path, endpoint: str, max_tokens: int = LARGE) -> Path:
        folder.mkdir(exist_ok=True)
        return write_job(
            folder,
            input={"path": str(self.folder / "in.parquet")},
            output={
                "path": f"s3://{self.s3.bucket}/{self.prefix}",
                "rows_per_part": 3,
                "token_ids": "always",
            },
            sampling={"max_tokens": max_tokens},
            prompting={"instruction": "none"},
            checkpoint={"every_s": 0.5},
            storage={"endpoint": endpoint},
        )

    def _engine(self, **changes: Any) -> dict[str, Any]:
        return replay(**({"tokens_per_step": 1, "step_s": 0.05, "max_num_seqs": 4} | changes))

    def contenders(self, all_hosts: list[Host]) -> list[Contender]:
        found = []
        for host in all_hosts:
            job = self._job(self.folder / host.name, host.endpoint)
            set_engine(job, self._engine())
            words = [QUICK_LOCK, str(BEAT_S), str(STALE_S), "run", str(job), "--replicas", "1"]
            words += ["--continue-truncated"] * self.continues
            found.append(Contender(host, words, self.folder, self.rng.randint(0, 10**6)))
        return found

    def check(self) -> bool:
        """Every row once and right; whether `_SUCCESS` had to be put back."""
        client, local = self.s3.client(), self.folder / "copy"
        keys = [
            entry["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(
                Bucket=self.s3.bucket, Prefix=f"{self.prefix}/"
            )
            for entry in page.get("Contents", [])
        ]
        was_gone = f"{self.prefix}/_SUCCESS" not in keys
        if was_gone:  # a store that ignores conditions on deletions: docs/durability.md
            job = self._job(self.folder, self.s3.endpoint)
            assert run_replay(job, self._engine()).tally.done == 0
            keys.append(f"{self.prefix}/_SUCCESS")
        for key in keys:
            target = local / key.partition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(self.s3.bucket, key, str(target))
        rows, problems = read_rows(local), dict(self.inputs.iter_rows())
        check_rows(rows, expected_rows(problems, self.script, Rules(LARGE)))
        check_success(local, rows, ROWS)
        check_swept(local)
        return was_gone


def contend(s3: S3, folder: Path, faults: list[Fault], count: int) -> None:
    """Rounds of both hosts, until so many faults struck a round that was under way."""
    rng, struck, number = random.Random(SEED), Counter[str](), 0
    codes, restored = Counter[int](), 0
    with hosts(2, s3.endpoint, folder) as both:
        while struck.total() < count:
            one = Round(s3, folder / f"round{number}", number, rng)
            watcher = Watcher(s3, one.prefix)
            watcher.start()
            contenders = one.contenders(both)
            for contender in contenders:
                contender.start()
            most = min(PER_ROUND, count - struck.total())
            _strike(rng, watcher, contenders, faults, struck, most)
            for contender in contenders:
                contender.join(END_S)
                assert not contender.is_alive(), f"{contender.host.name}: {contender.codes}"
                assert not contender.error, contender.error
                codes.update(contender.codes)
            watcher.over.set()
            watcher.join()
            watcher.check()
            restored += one.check()
            owners = len(watcher.epochs)
            print(f"ROUND {number}, seed {SEED}: {owners} owners, {dict(struck)}", flush=True)
            number += 1
    print(f"HOSTS {dict(struck)} in {number} rounds; exit codes {dict(codes)}; {restored} restored")


def _strike(
    rng: random.Random,
    watcher: Watcher,
    contenders: list[Contender],
    faults: list[Fault],
    struck: Counter[str],
    most: int,
) -> None:
    """Faults at random moments, mostly of the host that has the lock, while the round is on."""
    by_name = {contender.host.name: contender.host for contender in contenders}
    while most and all(contender.is_alive() for contender in contenders):
        time.sleep(rng.uniform(0.0, 2.0))
        holder = by_name.get(watcher.holder)
        if holder is None:
            continue
        others = [host for host in by_name.values() if host is not holder]
        host = holder if rng.random() < 0.8 else rng.choice(others)
        name, fault = rng.choice(faults)
        with fault(host):
            # Long enough that the other one takes over, or for a moment only.
            time.sleep(rng.choice([rng.uniform(0.2, 3.0), STALE_S + rng.uniform(1.0, 5.0)]))
        struck[name] += 1
        most -= 1


CASES: dict[str, tuple[list[Fault], int]] = {
    "partitions": ([("cut", Host.cut), ("deaf", Host.deaf), ("mute", Host.mute)], FAULTS),
    "sleeps": ([("asleep", Host.asleep)], FAULTS // 3),
    "clocks": (
        [
            ("10 minutes ahead", lambda host: host.wrong_clock(600)),
            ("10 minutes behind", lambda host: host.wrong_clock(-600)),
            ("an hour behind", lambda host: host.wrong_clock(-3600)),
        ],
        FAULTS // 3,
    ),
}


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", CASES)
def test_of_two_hosts_one_at_a_time_has_effect(s3_real: S3, tmp_path: Path, case: str) -> None:
    reason = why_no_hosts()
    if reason is not None:
        pytest.skip(reason)
    faults, count = CASES[case]
    contend(s3_real, tmp_path, faults, count)
