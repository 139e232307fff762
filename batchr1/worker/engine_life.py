"""Life of a worker with an engine: load, run, close."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

from batchr1.dataset.prompts import instruction_text
from batchr1.dataset.tokenizer import end_ids_of, load_tokenizer
from batchr1.engine.protocol import Engine, ModelFiles
from batchr1.errors import EngineError, ModelError
from batchr1.executors.setup import WorkerSetup
from batchr1.models.bucket import download_to_cache, is_bucket
from batchr1.models.cached import cached_snapshot
from batchr1.reasoning import ThinkTags, text_decoder, to_result
from batchr1.reasoning.budgets import Budgets, closing_ids
from batchr1.reasoning.formats import R1
from batchr1.reasoning.results import RowRules, form_of
from batchr1.reasoning.stops import StopStrings
from batchr1.reasoning.verify import Verify
from batchr1.worker.collector import Collector
from batchr1.worker.engine_worker import EngineWorker
from batchr1.worker.generation import Rules
from batchr1.worker.loop import Channel

log = logging.getLogger("batchr1.worker")


def serve(
    setup: WorkerSetup,
    channel: Channel,
    make_engine: Callable[[WorkerSetup, ModelFiles], Engine],
) -> None:
    """Run a worker from loading the engine to the last part."""
    time.sleep(setup.assignment.pause_s)
    started = time.monotonic()
    files = files_of(setup)
    engine = make_engine(setup, files)
    tags, tokenizer = model_tags(setup, files)
    to_row = result_maker(setup, tags, tokenizer)
    load_s = time.monotonic() - started
    log.info(
        "worker %d: %s ready after %.1f s: %s",
        setup.worker,
        engine.info.engine,
        load_s,
        engine.info,
    )
    collector = Collector(setup, to_row, channel.send)
    gc.collect()
    # A million objects of vLLM's stay: no collection in the step loop looks at them again.
    gc.freeze()
    rules = rules_of(setup, tags, tokenizer)
    try:
        EngineWorker(setup, engine, collector, channel, rules=rules).run(load_s)
    except EngineError:
        collector.finish()  # rows that were finished before the engine died are not generated again
        raise
    finally:
        engine.close()


def files_of(setup: WorkerSetup) -> ModelFiles:
    """Find a local folder with the model, without asking the hub.

    Not for an engine that spans nodes, whose folders may lie elsewhere: there each looks up the
    repository itself. Raises `ModelError` where such an engine is to load from S3.
    """
    model, args = setup.model, setup.plan.engine_args
    files = ModelFiles(model.location, model.revision)
    spans_nodes = args.get("distributed_executor_backend") == "ray"
    if is_bucket(model.location):
        if spans_nodes:
            raise ModelError(
                f"model.path: {model.location}: an engine that spans nodes wants its model where "
                "all of them see it. Copy it to a folder that they share, or give model.repo."
            )
        options = setup.storage.options
        folder = download_to_cache(model.location, options, digest=model.revision, say=log.info)
        return ModelFiles(str(folder), None)
    if model.revision is None or spans_nodes:
        return files
    snapshot = cached_snapshot(model.location, model.revision)
    if snapshot is None:
        return files
    return ModelFiles(str(snapshot), None)


def model_tags(setup: WorkerSetup, files: ModelFiles) -> tuple[ThinkTags, Any]:
    """Load the model's think tags and end tokens, and its tokenizer."""
    tokenizer = load_tokenizer(
        files.location,
        revision=files.revision,
        trust_remote_code=setup.spec.model.trust_remote_code,
        needs_template=False,
    )
    end_ids = end_ids_of(files.location, revision=files.revision)
    return ThinkTags.of(tokenizer, format=setup.format or R1, end_ids=end_ids), tokenizer


def rules_of(setup: WorkerSetup, tags: ThinkTags, tokenizer: Any) -> Rules:
    """Put the job's rules of generations into this model's tokens."""
    s, budgets, stops = setup.spec.sampling, None, None
    if s.closes_traces:
        closing = closing_ids(tokenizer, tags, s.closing_sentence)
        budgets = Budgets(s.thinking_budget, s.answer_budget, s.max_tokens, closing, tags)
    if s.stop is not None or setup.spec.input.sampling.stop is not None:
        decode = text_decoder(tokenizer, tags)
        stops = StopStrings(tuple(s.stop or ()), tags, decode, anywhere=s.stop_in == "anywhere")
    return Rules(budgets, s.stop_loops, stops, tags if s.binds_answers else None)


def result_maker(setup: WorkerSetup, tags: ThinkTags, tokenizer: Any) -> Callable[..., Any]:
    """Make the function from completion and time to row.

    It uses the model's own tokenizer.
    """
    spec, decode = setup.spec, text_decoder(tokenizer, tags)
    rules = RowRules(
        setup.model_label,
        setup.assignment.run,
        spec.prompting.instruction == "math",
        instruction_text(spec.prompting.instruction),
        Verify(**spec.verify.model_dump()),
        tuple(spec.sampling.stop or ()),
        form_of(spec.sampling),
    )

    def make(completion: Any, finished_at: Any) -> Any:
        return to_result(
            completion,
            tags=tags,
            decode=decode,
            rules=rules,
            keep_token_ids=spec.output.token_ids == "always",
            finished_at=finished_at,
        )

    return make
