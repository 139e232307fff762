"""Claims about the lock, the same on a disk and on S3, with real processes that are killed and
paused.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pauses import without_beats
from s3_fakes import S3

from batchr1.errors import (
    BatchError,
    FailedError,
    LockHeldError,
    LockLostError,
    OutputError,
    StorageError,
)
from batchr1.storage import lock as lock_module
from batchr1.storage.base import Storage, open_storage
from batchr1.storage.errors import Retry
from batchr1.storage.lock import Lock, LockInfo, read_lock
from batchr1.storage.lock_record import open_record
from batchr1.storage.owner import owned
from batchr1.storage.s3 import S3Storage

HEARTBEAT_S, STALE_AFTER_S = 0.1, 1.0
ELSEWHERE = "another-kernel pid:[1]"
DOUBTED = pytest.mark.parametrize(
    "error", [OutputError("as it stands"), FailedError("as it stands")], ids=repr
)


@pytest.fixture(
    params=[
        "local",
        pytest.param("s3_moto", id="moto"),
        pytest.param("s3_real", id="real", marks=pytest.mark.s3),
    ]
)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "out")
    s3: S3 = request.getfixturevalue(request.param)
    return s3.storage("out")


def acquire(
    storage: Storage,
    run: str = "r",
    on_wait: Callable[[str], None] = print,
    stale_after_s: float = STALE_AFTER_S,
) -> Lock:
    return Lock.acquire(
        storage, run=run, on_wait=on_wait, heartbeat_s=HEARTBEAT_S, stale_after_s=stale_after_s
    )


def plant(storage: Storage, **changes: object) -> LockInfo:
    """Writes the record of an owner that does not exist."""
    values: dict[str, object] = {
        "token": "t",
        "epoch": 4,
        "host": "far",
        "machine": ELSEWHERE,
        "pid": 7,
        "pid_started": 1,
        "run": "old",
        "started": "2025-01-01T00:00:00+00:00",
    }
    info = LockInfo(**{**values, **changes})  # type: ignore[arg-type]
    assert open_record(storage, lock_module.LOCK).replace(info.to_json(), None) is not None
    return info


# ── one owner
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_taken_kept_and_freed(storage: Storage) -> None:
    assert read_lock(storage) is None
    with acquire(storage, "one") as lock:
        lock.check()
        held = read_lock(storage)
        assert held is not None
        assert (held.run, held.epoch, held.pid, held.released) == ("one", 1, os.getpid(), False)
        assert not held.owner_is_dead()
    freed = read_lock(storage)
    assert freed is not None and freed.released
    with acquire(storage, "two") as lock:
        assert lock.info.epoch == 2
        lock.check()


def test_the_lock_is_renewed_by_itself(storage: Storage) -> None:
    # A busy machine may keep a beat for two seconds.
    with acquire(storage, stale_after_s=5) as lock:
        time.sleep(6)  # longer than it takes to become stale
        found = read_lock(storage)
        assert found is not None
        assert (found.token, found.epoch) == (lock.info.token, lock.info.epoch)
        assert found.beat > 2
        assert not lock.lost


def test_a_living_lock_names_its_holder(storage: Storage) -> None:
    said: list[str] = []
    with acquire(storage, "one") as lock:
        started = time.monotonic()
        with pytest.raises(LockHeldError) as caught:
            acquire(storage, "two", said.append)
        assert time.monotonic() - started < STALE_AFTER_S + 1
        lock.check()
        who = f"run one on {os.uname().nodename}, pid {os.getpid()}, since {lock.info.started}"
    assert str(caught.value) == (
        f"{storage.uri}: another run holds the output (got {who}, need it free). Wait for that "
        "run, stop it, or choose another output."
    )
    assert said == [
        f"{storage.uri}: the lock is held by {who}; waiting up to 1 s for a sign of life"
    ]


def test_a_lock_is_released_only_by_its_owner(storage: Storage) -> None:
    lock = acquire(storage, "one")
    take_away(storage)
    with pytest.raises(LockLostError) as caught:
        lock.check()
    assert str(caught.value) == (
        f"{storage.uri}/.batchr1/lock: run one no longer holds the output (got another lock, need "
        "its own, epoch 1). Run the same command again when no other run writes there."
    )
    assert lock.lost
    lock.release()
    left = read_lock(storage)
    assert left is not None and left.run == "thief" and not left.released
    with pytest.raises(LockLostError):
        lock.check()


def take_away(storage: Storage) -> None:
    """What a taker does, without its waiting."""
    record = open_record(storage, lock_module.LOCK)
    thief = LockInfo("t2", 2, "far", ELSEWHERE, 7, 1, "thief", "2025-01-01T00:00:00+00:00")
    while (found := record.read()) is not None and record.replace(
        thief.to_json(), found.version
    ) is None:
        pass  # the heartbeat was faster


def test_a_released_lock_protects_nothing(storage: Storage) -> None:
    lock = acquire(storage)
    lock.release()
    lock.release()
    with pytest.raises(LockLostError):
        lock.check()


# ── taking over
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_at_once(storage: Storage) -> None:
    said: list[str] = []
    with Holder(storage) as child:
        child.process.kill()
        os.waitid(
            os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT
        )  # dead, and still in the process table
        with acquire(storage, "heir", said.append) as lock:
            assert lock.info.epoch == 2
            lock.check()
    assert said == []


def test_a_process_with_a_recycled_pid_is_not_taken_for_the_owner(storage: Storage) -> None:
    with acquire(storage) as lock:
        mine = lock.info
    plant_over(storage, mine, pid_started=mine.pid_started - 1)
    assert acquire_and_release(storage).epoch == 5


def plant_over(storage: Storage, like: LockInfo, **changes: object) -> None:
    record = open_record(storage, lock_module.LOCK)
    found = record.read()
    values = {
        "token": "x",
        "epoch": 4,
        "host": like.host,
        "machine": like.machine,
        "pid": like.pid,
        "pid_started": like.pid_started,
        "run": "old",
        "started": like.started,
    }
    info = LockInfo(**{**values, **changes})  # type: ignore[arg-type]
    assert record.replace(info.to_json(), found.version if found else None) is not None


def acquire_and_release(storage: Storage) -> LockInfo:
    with acquire(storage, "heir") as lock:
        return lock.info


def test_a_lock_of_another_machine_is_taken_when_it_did_not_change(storage: Storage) -> None:
    plant(storage)
    said: list[str] = []
    started = time.monotonic()
    with acquire(storage, "heir", said.append) as lock:
        assert time.monotonic() - started >= STALE_AFTER_S
        assert lock.info.epoch == 5
    assert len(said) == 1


def test_the_waiting_is_measured_on_the_observers_own_clock(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    plant(storage, started="2999-01-01T00:00:00+00:00")  # the other machine's clock is wrong
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    lock = Lock.acquire(
        storage, run="heir", stale_after_s=600, on_wait=print, clock=lambda: now[0], sleep=sleep
    )
    assert now[0] == pytest.approx(600)
    lock.release()


def test_a_torn_record_is_an_unknown_owner(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write_bytes(".batchr1/lock/00000003.json", b'{"token": "ab')
    said: list[str] = []
    with acquire(storage, "heir", said.append) as lock:
        assert lock.info.epoch == 1
    assert said == [
        f"{tmp_path}: the lock is held by an unknown run; waiting up to 1 s for a sign of life"
    ]


def test_a_paused_owner_that_wakes_has_lost(storage: Storage) -> None:
    with Holder(storage) as child:
        os.kill(child.process.pid, signal.SIGSTOP)
        with acquire(storage, "heir") as lock:
            assert lock.info.epoch == 2
            os.kill(child.process.pid, signal.SIGCONT)
            assert child.ask("check") == "LockLostError"
            lock.check()


def test_a_paused_owner_that_nobody_followed_goes_on(storage: Storage) -> None:
    with Holder(storage) as child:
        os.kill(child.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(child.process.pid, signal.SIGCONT)
        assert child.ask("check") == "ours"


@DOUBTED
def test_an_owner_that_lost_its_lock_says_so_whatever_it_read(
    storage: Storage, error: BatchError, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_beats(monkeypatch)
    with pytest.raises(LockLostError) as caught, owned(storage, run="first"):
        with owned(open_storage(storage.uri, getattr(storage, "options", None)), run="second"):
            pass
        raise error  # it saw a part of the second run, say
    assert caught.value.__cause__ is error
    assert caught.value.exit_code == 75


@DOUBTED
def test_an_owner_that_has_its_lock_is_believed(storage: Storage, error: BatchError) -> None:
    with pytest.raises(type(error), match="as it stands"), owned(storage, run="first"):
        raise error


@pytest.mark.parametrize("place", ["folder", pytest.param("s3", marks=pytest.mark.s3)])
def test_of_twenty_processes_one_takes_a_stale_lock(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    on_s3 = place == "s3"
    storage = request.getfixturevalue("s3_real").storage() if on_s3 else open_storage(tmp_path)
    plant(storage)
    racers = [Holder(storage, f"r{i}", wait=True) for i in range(20)]
    try:
        for racer in racers:
            racer.expect("ready")
        for racer in racers:
            racer.tell("go")
        outcomes = [racer.line() for racer in racers]
        held = read_lock(storage)
    finally:
        for racer in racers:
            racer.end()
    assert sorted(set(outcomes)) == ["LockHeldError", "held 5"]
    assert outcomes.count("held 5") == 1
    assert held is not None and held.run == f"r{outcomes.index('held 5')}"


def test_of_many_threads_one_takes_a_free_lock_each_time(
    storage: Storage, request: pytest.FixtureRequest
) -> None:
    if "moto" in request.node.name:
        pytest.skip("moto does not look at conditions and write in one step")
    winners: list[Lock] = []
    losers: list[LockHeldError] = []
    for turn in range(3):
        barrier = threading.Barrier(8)

        def race(own: Storage, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                winners.append(acquire(own))
            except LockHeldError as error:
                losers.append(error)

        threads = [
            threading.Thread(target=race, args=(open_storage(storage.uri, storage.options),))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert winners[0].info.epoch == turn + 1
        winners.pop().release()
    assert len(losers) == 21


# ── faults
# ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_latecomer_that_reuses_a_removed_number_gives_up(tmp_path: Path) -> None:
    record = open_record(open_storage(tmp_path), "lock")
    first = record.replace(b"1", None)
    second = record.replace(b"2", first)
    assert record.replace(b"3", second) == "3"
    assert record.replace(b"late", first) is None  # number 2 is free again, but 3 is there
    found = record.read()
    assert found is not None and found.data == b"3"
    assert [path.name for path in (tmp_path / "lock").iterdir()] == ["00000003.json"]


def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(
    s3_moto: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = s3_moto.storage(retry=Retry(for_s=5, first_wait_s=0.01))
    assert isinstance(storage, S3Storage)
    call, lose = storage._api.call_s3, [False]

    def lossy(method: str, **arguments: object) -> object:
        answer = call(method, **arguments)
        if method == "put_object" and lose[0]:
            lose[0] = False
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(storage._api, "call_s3", lossy)
    lose[0] = True
    with Lock.acquire(storage, run="r", heartbeat_s=60) as lock:
        lose[0] = True
        lock.check()
        lock.check()
        lose[0] = True
        lock.renew()
    freed = read_lock(storage)
    assert freed is not None and freed.released and freed.beat == 3


def test_a_store_that_cannot_be_reached_is_forgiven_until_the_lock_may_be_stale(
    tmp_path: Path,
) -> None:
    storage, now = open_storage(tmp_path), [0.0]
    lock = Lock.acquire(storage, run="r", heartbeat_s=60, stale_after_s=100, clock=lambda: now[0])
    folder = tmp_path / ".batchr1"
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"")  # every write now fails
    with pytest.raises(StorageError) as caught:
        lock.check()
    assert not isinstance(caught.value, LockLostError)
    assert not lock.lost
    now[0] = 101
    assert lock.lost
    with pytest.raises(LockLostError):
        lock.check()
    folder.unlink()
    (tmp_path / "away").rename(folder)
    lock.check()  # nobody took it
    assert not lock.lost
    lock.release()


def test_a_store_that_ignores_conditions_is_refused(
    s3_moto: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = s3_moto.storage()
    assert isinstance(storage, S3Storage)
    call = storage._api.call_s3

    def careless(method: str, **arguments: object) -> object:
        arguments.pop("IfMatch", None)
        arguments.pop("IfNoneMatch", None)
        return call(method, **arguments)

    monkeypatch.setattr(storage._api, "call_s3", careless)
    with pytest.raises(OutputError) as caught:
        acquire(storage)
    assert str(caught.value) == (
        f"{storage.uri}/.batchr1/lock: the object store ignores conditional writes, so that two "
        "runs could write at once (got a success for a wrong If-Match or If-None-Match, need 412). "
        "Write to a disk or another store."
    )


def test_a_file_system_without_links_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = open_storage(tmp_path)
    with acquire(storage) as lock:
        lock.check()
        with pytest.raises(LockHeldError):
            acquire(storage)


# ── processes
# ──────────────────────────────────────────────────────────────────────────────────────────

HOLDER = """
import sys, time
from batchr1.storage.lock import Lock
from batchr1.storage.base import StorageOptions, open_storage
from batchr1.errors import BatchError

uri, endpoint, run, wait = sys.argv[1:]
storage = open_storage(uri, StorageOptions(endpoint=endpoint or None))
if wait:
    storage.exists("x")
    print("ready", flush=True)
    sys.stdin.readline()
try:
    stale_after_s = float(wait or 1)
    lock = Lock.acquire(
        storage, run=run, heartbeat_s=0.1, stale_after_s=stale_after_s, on_wait=lambda line: None
    )
    print("held", lock.info.epoch, flush=True)
    for line in sys.stdin:
        lock.check()
        print("ours", flush=True)
except BatchError as error:
    print(type(error).__name__, flush=True)
"""


class Holder:
    """A process that takes the lock; with `wait`, only when it is told to go."""

    def __init__(self, storage: Storage, run: str = "child", wait: bool = False) -> None:
        # Many processes on few cores: an owner must get its turn well before the others lose
        # patience.
        arguments = [storage.uri, storage.options.endpoint or "", run, "3" if wait else ""]
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if not wait:
            self.expect("held 1")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def expect(self, text: str) -> None:
        assert self.line() == text

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        print(text, file=self.process.stdin, flush=True)

    def ask(self, text: str) -> str:
        self.tell(text)
        return self.line()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "batchr1-lock"]
