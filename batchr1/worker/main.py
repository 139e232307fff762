"""`python -m batchr1.worker.main FD DRIVER`: a worker process, with its end of the line to the driver on FD.

The process is a session of its own, so that Ctrl-C reaches the driver alone, and cannot outlive the
driver.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from batchr1.engine.lifeline import die_with_parent
from batchr1.engine.protocol import Engine
from batchr1.errors import BatchError, EngineError, ModelError
from batchr1.executors.messages import (
    EngineSpec,
    FromWorker,
    ToWorker,
    WorkerFailed,
    WorkerReady,
    WorkerSetup,
)
from batchr1.models.bucket import download_to_cache, is_bucket
from batchr1.models.cached import cached_snapshot
from batchr1.sizing.oom import MemoryProblem, problem_in
from batchr1.storage.uri import StorageOptions

log = logging.getLogger("batchr1.worker")


class PipeChannel:
    """A `Channel` over a connection.

    A thread receives, so that the engine's loop never waits for a large lease.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self.said_ready = False

    def start(self) -> None:
        threading.Thread(target=self._listen, name="channel", daemon=True).start()

    def first(self) -> Any:
        """The setup, before the listening begins."""
        return self._connection.recv()

    def receive(self, timeout_s: float) -> ToWorker | None:
        try:
            return self._inbox.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None

    def send(self, message: FromWorker) -> None:
        with self._sending:
            self._connection.send(message)
            self.said_ready = self.said_ready or isinstance(message, WorkerReady)

    def _listen(self) -> None:
        while True:
            try:
                self._inbox.put(self._connection.recv())
            except (EOFError, OSError):  # the driver is gone
                os.kill(os.getpid(), signal.SIGKILL)


def main(fd: int, driver: int) -> int:
    die_with_parent(driver)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    channel = PipeChannel(Connection(fd))
    setup: WorkerSetup = channel.first()
    share_cores(setup)
    channel.start()
    try:
        _serve(setup, channel)
    except BatchError as exc:
        log.error("%s", exc)
        channel.send(WorkerFailed(type(exc).__name__, str(exc), _memory_problem(exc, channel)))
        return 1
    except Exception as exc:
        log.exception("worker %d failed", setup.worker)
        message = f"worker {setup.worker}: {type(exc).__name__}: {exc}"
        channel.send(WorkerFailed("EngineError", message, _memory_problem(exc, channel)))
        return 1
    return 0


def share_cores(setup: WorkerSetup) -> None:
    """Keep to this replica's cores.

    Call before other threads are started: they inherit it, and OpenMP counts it.
    """
    if setup.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setup.cpus)
    if setup.num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(setup.num_threads)


def _memory_problem(exc: Exception, channel: PipeChannel) -> MemoryProblem | None:
    """What an exception and its causes say about memory: all there is to know where the engine is
    in this process.
    """
    if isinstance(exc, BatchError) and not isinstance(exc, EngineError):
        return None
    return problem_in(traceback.format_exception(exc), running=channel.said_ready)


def _serve(setup: WorkerSetup, channel: PipeChannel) -> None:
    if setup.remote is not None:
        from batchr1.worker.server_worker import serve

        serve(setup, setup.remote, channel)
        return
    time.sleep(setup.pause_s)
    started = time.monotonic()
    setup = replace(setup, engine=from_this_machine(setup.engine, setup.storage.options))
    engine = make_engine(setup.engine)
    from batchr1.worker.collector import Collector
    from batchr1.worker.engine_worker import EngineWorker

    tags, tokenizer = model_tags(setup)
    to_result = result_maker(setup, tags, tokenizer)
    load_s = time.monotonic() - started
    log.info(
        "worker %d: %s ready after %.1f s: %s",
        setup.worker,
        engine.info.engine,
        load_s,
        engine.info,
    )
    collector = Collector(setup, to_result, channel.send)
    gc.collect()
    # a million objects of vLLM's that stay: no collection in the step loop looks at them again
    gc.freeze()
    try:
        EngineWorker(setup, engine, collector, channel, rules=rules_of(setup, tags, tokenizer)).run(
            load_s
        )
    except EngineError:
        collector.finish()  # rows that were finished before the engine died are not generated again
        raise
    finally:
        engine.close()


def from_this_machine(spec: EngineSpec, options: StorageOptions) -> EngineSpec:
    """With a folder of this machine: of a repository that is here whole, so that nobody asks the hub, or from S3.

    Not for an engine that spans nodes, whose folders may lie elsewhere: there each looks up the
    repository itself.
    """
    spans_nodes = spec.args.get("distributed_executor_backend") == "ray"
    if is_bucket(spec.model):
        if spans_nodes:
            raise ModelError(
                f"model.path: {spec.model}: an engine that spans nodes wants its model where all "
                f"of them see it. "
                "Copy it to a folder that they share, or give model.repo."
            )
        folder = download_to_cache(spec.model, options, digest=spec.revision, say=log.info)
        return replace(spec, model=str(folder), revision=None)
    if spec.revision is None or spans_nodes:
        return spec
    snapshot = cached_snapshot(spec.model, spec.revision)
    return spec if snapshot is None else replace(spec, model=str(snapshot), revision=None)


def make_engine(spec: EngineSpec) -> Engine:
    """The engine of a worker, loaded."""
    if spec.kind == "replay":
        from batchr1.dataset.tokenizer import leave_torch_out
        from batchr1.engine.replay.engine import ReplayEngine

        leave_torch_out()
        return ReplayEngine.from_args(spec.args)
    from batchr1.engine.vllm.engine import VllmEngine, prepare_environment

    prepare_environment(spec.device)
    return VllmEngine(
        spec.model,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
        args=spec.args,
        sampling=spec.sampling,
    )


def model_tags(setup: WorkerSetup) -> tuple[Any, Any]:
    """The model's think tags and end tokens, and its tokenizer."""
    from batchr1.dataset.tokenizer import end_ids_of, load_tokenizer
    from batchr1.reasoning import ThinkTags

    spec = setup.engine
    tokenizer = load_tokenizer(
        spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code
    )
    return ThinkTags.of(
        tokenizer, end_ids=end_ids_of(spec.model, revision=spec.revision)
    ), tokenizer


def rules_of(setup: WorkerSetup, tags: Any, tokenizer: Any) -> Any:
    """What the job says of generations under way, in this model's tokens."""
    from batchr1.reasoning.budgets import Budgets, closing_ids
    from batchr1.worker.generation import Rules

    asked = setup.budgets
    if asked is None:
        return Rules(None, setup.stop_loops)
    closing = closing_ids(tokenizer, tags, asked.sentence)
    return Rules(
        Budgets(asked.thinking, asked.answer, asked.max_tokens, closing, tags), setup.stop_loops
    )


def result_maker(setup: WorkerSetup, tags: Any, tokenizer: Any) -> Callable[..., Any]:
    """Completion, time → Result, with the model's own tokenizer."""
    from batchr1.reasoning import text_decoder, to_result

    decode = text_decoder(tokenizer, tags)

    def make(completion: Any, finished_at: Any) -> Any:
        return to_result(
            completion,
            tags=tags,
            decode=decode,
            model=setup.model_label,
            run=setup.run,
            expects_box=setup.expects_box,
            instruction=setup.instruction,
            verify=setup.verify,
            keep_token_ids=setup.keep_token_ids,
            finished_at=finished_at,
        )

    return make


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
