"""Checkpoints of generations that are not committed yet.

    .batchr1/inflight/snap-<run>-<worker>-<epoch>-<number>.bin   a worker's, replaced as it saves
    .batchr1/inflight/snap-<run>-carried.bin                     taken over from earlier runs
    .batchr1/inflight/snap-<run>-aside.bin                       of samples that the run leaves out

Generations are under way, or finished and waiting for their part. Checkpoints are advisory:
committed parts always win. A file that cannot be read costs tokens. Of two states of a sample the
further one counts. A file is a magic line, BLAKE2b-128 of the rest, and an Arrow IPC stream (zstd)
with one row a generation.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import get_args

import pyarrow as pa

from batchr1.errors import StorageError
from batchr1.faults import fault_point
from batchr1.records import FinishReason, Reply, ResumePoint, SampleKey
from batchr1.storage.base import CONTROL_DIR, Storage

log = logging.getLogger("batchr1.journal")

INFLIGHT_DIR = f"{CONTROL_DIR}/inflight"
_ASIDE = "-aside.bin"
_MAGIC = b"batchr1 snapshot 1\n"
_DIGEST_BYTES = 16
MOST = 2**31
"""Bound of all counts."""
_NAME = re.compile(
    r"/snap-(?P<run>.+?)-(?:carried|aside|cut-\d{5,}|(?P<worker>\d{3,}-\d{3,}-\d{7,}))\.bin$"
)
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("attempt", pa.int32()),
        pa.field("prompt_hash", pa.binary()),
        pa.field("tokens", pa.large_list(pa.int32())),
        pa.field("resumed_at", pa.list_(pa.int32())),
        pa.field("finish_reason", pa.string()),
        pa.field("finished_at", pa.timestamp("us", tz="UTC")),
        pa.field("injected", pa.int32()),  # absent where an earlier version wrote it, and so is
        pa.field("reply", pa.large_string()),  # what a server answered, as JSON
    ]
)
_ALWAYS = [name for name in _SCHEMA.names if name not in ("injected", "reply")]


class CheckpointError(Exception):
    """Torn or foreign checkpoint: its tokens are lost, its rows run again."""


@dataclass(frozen=True, slots=True)
class GenerationCheckpoint:
    """Saved generation of one sample.

    `tokens` are all of its token ids so far; batchr1 put `injected` of them in. `prompt_hash` is
    the prompt's digest. `reply` is a server's answer, which has no tokens.
    """

    id: str
    sample: int
    attempt: int
    prompt_hash: bytes
    tokens: array[int]
    resumed_at: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    finished_at: dt.datetime | None = None
    injected: int = 0
    reply: Reply | None = None

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.id, self.sample)

    @property
    def num_tokens(self) -> int:
        """Generated so far, as far as that is known."""
        return len(self.tokens) if self.reply is None else self.reply.completion_tokens or 0

    def partial(self) -> ResumePoint:
        """Convert to the resume point that a work item carries."""
        return ResumePoint(
            tuple(self.tokens),
            self.resumed_at,
            self.finish_reason,
            self.finished_at,
            self.injected,
            self.reply,
        )


@dataclass(slots=True)
class FoundCheckpoints:
    """Furthest state of each sample over all checkpoints of an output.

    `aside`: those of `saved` that the last run leaves out.
    """

    saved: dict[SampleKey, GenerationCheckpoint] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)  # file: why
    aside: set[SampleKey] = field(default_factory=set)

    @property
    def tokens(self) -> int:
        return sum(s.num_tokens for s in self.saved.values())

    @property
    def finished(self) -> int:
        return sum(s.finish_reason is not None for s in self.saved.values())


def checkpoint_name(run: str, worker: int, epoch: int, number: int) -> str:
    """Sorts by run, worker, epoch, number."""
    return f"{INFLIGHT_DIR}/{_stem(run, worker, epoch)}{number:07d}.bin"


def carried_name(run: str) -> str:
    return f"{INFLIGHT_DIR}/snap-{run}-carried.bin"


def aside_name(run: str) -> str:
    return f"{INFLIGHT_DIR}/snap-{run}{_ASIDE}"


def reopened_name(run: str, number: int) -> str:
    """Name the checkpoint of rows that `--continue-truncated` takes out of a part."""
    return f"{INFLIGHT_DIR}/snap-{run}-cut-{number:05d}.bin"


def encode(saved: Sequence[GenerationCheckpoint], *, job: str) -> bytes:
    """Encode generations as a checkpoint's bytes.

    `job` names the job whose answers they are: another job's are never taken over.
    """
    offsets, values = [0], array("i")
    for one in saved:
        values.extend(one.tokens)
        offsets.append(len(values))
    tokens = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()),
        pa.Array.from_buffers(pa.int32(), len(values), [None, pa.py_buffer(values)]),
    )
    columns = {
        "id": [s.id for s in saved],
        "sample": [s.sample for s in saved],
        "attempt": [s.attempt for s in saved],
        "prompt_hash": [s.prompt_hash for s in saved],
        "tokens": tokens,
        "resumed_at": [s.resumed_at for s in saved],
        "finish_reason": [s.finish_reason for s in saved],
        "finished_at": [s.finished_at for s in saved],
        "injected": [s.injected for s in saved],
        "reply": [None if s.reply is None else json.dumps(asdict(s.reply)) for s in saved],
    }
    arrays = [
        v if isinstance(v, pa.Array) else pa.array(v, _SCHEMA.field(n).type)
        for n, v in columns.items()
    ]
    schema = _SCHEMA.with_metadata({"job": job})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    body: bytes = sink.getvalue().to_pybytes()
    return _MAGIC + _digest(body) + body


def decode(data: bytes, *, job: str | None = None) -> list[GenerationCheckpoint]:
    """Decode the generations of a checkpoint.

    Raises `CheckpointError` when it is torn, or (with `job`) of another job.
    """
    start = len(_MAGIC) + _DIGEST_BYTES
    if not data.startswith(_MAGIC) or _digest(data[start:]) != data[len(_MAGIC) : start]:
        raise CheckpointError("torn, or not a snapshot")
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)[start:]) as reader:
            table = reader.read_all()
        table.validate(full=True)
        of = (table.schema.metadata or {}).get(b"job", b"").decode()
    except Exception as exc:  # whatever is in it, it costs tokens and never a run
        raise CheckpointError("torn, or not a snapshot") from exc
    if job is not None and of != job:
        raise CheckpointError("of a job that gives other answers")
    try:
        table.select(_ALWAYS)
        return [one for batch in table.to_batches() for one in _generations(batch)]
    except Exception as exc:
        raise CheckpointError("not written by batchr1, though whole") from exc


def _generations(batch: pa.RecordBatch) -> Iterator[GenerationCheckpoint]:
    """Read the rows of a checkpoint.

    Raises whatever their content leads to.
    """
    tokens = batch.column("tokens")
    rows = batch.drop_columns(["tokens"]).to_pylist()
    for i, row in enumerate(rows):
        if tokens[i].values.null_count:
            raise ValueError("tokens: a null")
        ids = array("i")
        ids.frombytes(tokens[i].values.cast(pa.int32()).to_numpy().tobytes())
        reply = None if row.get("reply") is None else Reply(**json.loads(row["reply"]))
        values = {**row, "tokens": ids, "resumed_at": tuple(row["resumed_at"]), "reply": reply}
        if values.get("injected") is None:  # of an earlier version
            values["injected"] = 0
        saved = GenerationCheckpoint(**values)
        _check_values(saved)
        yield saved


def _check_values(saved: GenerationCheckpoint) -> None:
    """Raise `ValueError` for what no run writes."""
    count = len(saved.tokens)
    finished = saved.finished_at
    good = {
        "id": isinstance(saved.id, str),
        "sample": _is_count(saved.sample),
        "attempt": _is_count(saved.attempt) and saved.attempt > 0,
        "prompt_hash": isinstance(saved.prompt_hash, bytes),
        "tokens": min(saved.tokens, default=0) >= 0,
        "resumed_at": all(_is_count(at) for at in saved.resumed_at),
        "finish_reason": saved.finish_reason in (None, *get_args(FinishReason)),
        "finished_at": finished is None or isinstance(finished, dt.datetime),
        "injected": _is_count(saved.injected) and saved.injected <= count,
        "reply": saved.reply is None or _is_reply(saved.reply),
    }
    bad = [name for name, is_good in good.items() if not is_good]
    if bad:
        raise ValueError(f"not a value of a checkpoint: {', '.join(bad)}")


def _is_reply(reply: Reply) -> bool:
    texts = (reply.content, reply.reasoning)
    counts = (reply.prompt_tokens, reply.completion_tokens, reply.reasoning_tokens)
    return (
        all(text is None or isinstance(text, str) for text in texts)
        and all(count is None or _is_count(count) for count in counts)
        and reply.finish_reason in get_args(FinishReason)
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST


def write_checkpoint(
    storage: Storage, rel: str, saved: Sequence[GenerationCheckpoint], *, job: str
) -> int:
    """Write a checkpoint, durable on return; returns its size in bytes."""
    data = encode(saved, job=job)
    storage.write_bytes(rel, data)
    return len(data)


def read_checkpoints(storage: Storage, *, job: str | None = None) -> FoundCheckpoints:
    """Read every checkpoint of an output; unreadable ones are named."""
    found, asked = FoundCheckpoints(), set[SampleKey]()
    files = [file.rel for file in storage.list_files(INFLIGHT_DIR, ".bin")]
    for rel in sorted(files, key=_age):
        found.files.append(rel)
        try:
            data = storage.find_bytes(rel)
            more = [] if data is None else decode(data, job=job)
        except CheckpointError as exc:
            found.unreadable[rel] = str(exc)
            continue
        add(found.saved, more)
        (found.aside if rel.endswith(_ASIDE) else asked).update(one.key for one in more)
    found.aside -= asked
    return found


def _age(rel: str) -> tuple[str, bool, str]:
    """Order checkpoints, oldest first.

    A run begins with those that it took over; its workers save later.
    """
    match = _NAME.search(rel)
    return (match["run"], match["worker"] is not None, rel) if match else ("", False, rel)


def read_worker(
    storage: Storage, run: str, worker: int, epoch: int, *, job: str
) -> dict[SampleKey, GenerationCheckpoint]:
    """Read the last checkpoint of a worker.

    Whatever is wrong with it costs tokens only, so it is reported and not raised.
    """
    saved: dict[SampleKey, GenerationCheckpoint] = {}
    try:
        for file in storage.list_files(INFLIGHT_DIR, ".bin"):
            if file.rel.startswith(f"{INFLIGHT_DIR}/{_stem(run, worker, epoch)}"):
                add(saved, decode(storage.read_bytes(file.rel), job=job))
    except (CheckpointError, StorageError) as exc:
        log.warning("worker %d: its snapshot is not used (%s)", worker, exc)
    return saved


def consolidate(
    storage: Storage,
    run: str,
    found: FoundCheckpoints,
    *,
    job: str,
    aside: Collection[SampleKey] = frozenset(),
) -> None:
    """Move what earlier runs left into files of this run.

    Theirs are removed then. Call with the lock held. `aside`: samples that this run is not asked
    for. A file of their own lets them outlive it.
    """
    if found.files:
        for name, is_aside in ((carried_name(run), False), (aside_name(run), True)):
            saved = [one for key, one in found.saved.items() if (key in aside) is is_aside]
            if saved:
                write_checkpoint(storage, name, saved, job=job)
        fault_point("carry.written")
        for rel in found.files:
            storage.delete(rel)
            fault_point("carry.removing")


def add(known: dict[SampleKey, GenerationCheckpoint], more: Iterable[GenerationCheckpoint]) -> None:
    """Add newer generations to `known`.

    Of one sample the further one stays; another prompt or attempt replaces it.
    """
    for new in more:
        old = known.get(new.key)
        same = old is not None and (old.prompt_hash, old.attempt) == (new.prompt_hash, new.attempt)
        if old is None or not same or _reach(new) >= _reach(old):
            known[new.key] = new


def _reach(saved: GenerationCheckpoint) -> tuple[bool, int]:
    return saved.finish_reason is not None, len(saved.tokens)


def _stem(run: str, worker: int, epoch: int) -> str:
    return f"snap-{run}-{worker:03d}-{epoch:03d}-"


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
