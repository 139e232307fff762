"""Jobs that the replay engine runs; everything but the engine is real.

Also a program: `python tests/helpers/replay_job.py SCRIPT.json run JOB …` is `batchr1 run JOB …`
with that engine, for tests that need a process of its own to signal or to kill.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import yaml

from batchr1.driver.context import RunOptions
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.run_job import run_job
from batchr1.engine.replay.engine import ReplayEngine
from batchr1.engine.replay.vocabulary import Vocabulary
from batchr1.executors.setup import Assignment, WorkerSetup
from batchr1.job import JobSpec, load_job
from batchr1.job.replay_script import ReplayScript
from batchr1.models.catalogue import variant
from batchr1.models.resolve import ModelSource
from batchr1.sizing.plan import MemoryGib, Plan
from batchr1.sizing.timing.step_time import MIXED_STEP_COST

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.feed.feeder import Feeder
    from batchr1.output.checkpoints import GenerationCheckpoint
    from batchr1.records import SampleKey
    from batchr1.storage.base import Storage

MODEL = str(variant("r1-tiny").path)


@functools.cache
def token_ids() -> dict[str, int]:
    """What the replay engine has to know of r1-tiny's vocabulary."""
    from batchr1.dataset.prompts import PromptRenderer, load_tokenizer

    tokenizer = load_tokenizer(MODEL)
    letters = tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
    assert letters == list(range(letters[0], letters[0] + 26))
    return {
        "open_id": tokenizer.convert_tokens_to_ids("<think>"),
        "close_id": tokenizer.convert_tokens_to_ids("</think>"),
        "end_id": tokenizer.eos_token_id,
        "first_text_id": letters[0],
        "num_text_ids": 26,
        "marker": PromptRenderer(tokenizer).render("0", "1 + 1").token_ids[-1],
    }


def replay(**script: Any) -> dict[str, Any]:
    """A script for the replay engine, as `engine.script` of a job has it.

    What is none of its keys is an engine argument that the plan is overruled with. The vocabulary
    is the engine's to find.
    """
    known, words = ReplayScript.model_fields, Vocabulary.__slots__
    own = {name: value for name, value in script.items() if name in known}
    args = {n: value for n, value in script.items() if n not in known and n not in words}
    return {"tokens_per_step": 8, **own, **({"engine_args": args} if args else {})}


def replay_engine(script: Mapping[str, Any]) -> ReplayEngine:
    """The engine that a worker would make of a script, with r1-tiny's vocabulary."""
    return ReplayEngine.from_args({**token_ids(), **script})


def scripted(words: Sequence[str], script: Mapping[str, Any] | None = None) -> list[str]:
    """The words of a command line, whose job files are given this engine."""
    for word in words:
        if word.endswith(".yaml") and Path(word).is_file():
            set_engine(Path(word), script or replay())
    return list(words)


def set_engine(job: Path, script: Mapping[str, Any]) -> Path:
    """Give a job file this engine, in its last line."""
    lines = job.read_text(encoding="utf-8").rstrip("\n").split("\n")
    if lines[-1].startswith("engine: {kind: replay"):
        del lines[-1]
    text = "\n".join([*lines, f"engine: {{kind: replay, script: {_one_line(script)}}}", ""])
    if text != job.read_text(encoding="utf-8"):
        new = job.with_name(f"{job.name}.{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.replace(job)
    return job


def _one_line(script: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(
        dict(script), default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.strip()


def setup_of(
    storage: Storage,
    *,
    run: str = "run",
    assignment: Assignment | None = None,
    plan: Mapping[str, Any] | None = None,
    mixed_step_cost: float = MIXED_STEP_COST,
    **sections: Any,
) -> WorkerSetup:
    """A worker's setup as a run would make it: of a job with these sections, on a CPU.

    `plan`: fields of it that are other than planned.
    """
    job = {
        "name": "replayed",
        "model": {"variant": "r1-tiny"},
        "engine": {"kind": "replay"},
        "input": {"path": "in.parquet", "prompt": "problem"},
        "output": {"path": "out"},
    }
    for name, keys in sections.items():
        job[name] = {**job.get(name, {}), **keys}
    memory = MemoryGib(0.0, 0.0, 0.0, 0.0, 0.0)
    planned = Plan("cpu", ((),), 1, 1, 4096, 8, 4096, 1_000_000, None, memory, None, {})
    return WorkerSetup(
        assignment=assignment or Assignment(run, 0),
        spec=JobSpec.model_validate(job),
        plan=dataclasses.replace(planned, **(plan or {})),
        model=ModelSource("r1-tiny", MODEL, None, "identity", 4096, {}, MODEL),
        model_label="model",
        storage=storage,
        kept_schema=pa.schema([]).serialize().to_pybytes(),
        job_digest="job",
        mixed_step_cost=mixed_step_cost,
    )


def with_script(setup: WorkerSetup, **script: Any) -> WorkerSetup:
    """The same worker with other keys of its script."""
    engine = setup.spec.engine
    changed = (engine.script or ReplayScript()).model_copy(update=script)
    spec = setup.spec.model_copy(update={"engine": engine.model_copy(update={"script": changed})})
    return dataclasses.replace(setup, spec=spec)


def feeder_of(
    folder: Path,
    inputs: pl.DataFrame,
    renderer: Renderer,
    *,
    n: int = 1,
    ahead: int = 64,
    first: int = 0,
    longest_first: bool = True,
    saved: dict[SampleKey, GenerationCheckpoint] | None = None,
    row_group_size: int = 50,
    look_ahead_rows: int | None = None,
    enough: int | None = None,
) -> Feeder:
    """A started feeder over these rows (id, problem, perhaps hint), as a run has it; reading and
    rendering are real.
    """
    from batchr1.dataset.pending import Pending
    from batchr1.dataset.source import Source
    from batchr1.driver.feed.feeder import LOOK_AHEAD_ROWS, Feeder
    from batchr1.driver.feed.items import ItemMaker, Limits
    from batchr1.job.spec import InputSpec
    from batchr1.storage.inputs import expand_inputs

    path = folder / "in.parquet"
    inputs.write_parquet(path, row_group_size=row_group_size)
    hint = "hint" if "hint" in inputs.columns else None
    source = Source(
        InputSpec(path=str(path), id="id", prompt="problem", expected_tokens=hint),
        [],
        expand_inputs(path),
    )
    pending = Pending(source, n, ids_are_hashes=False)
    feeder = Feeder(
        pending,
        ItemMaker(source, renderer, Limits(1000, 4096), 1, saved or {}),
        ahead=ahead,
        first=first,
        longest_first=longest_first,
        look_ahead_rows=look_ahead_rows or LOOK_AHEAD_ROWS,
        enough=enough,
    )
    feeder.start()
    return feeder


def write_job(folder: Path, **sections: Any) -> Path:
    """A job file in `folder` that reads in.parquet (id, problem) and writes out/; `sections` add
    keys to it.
    """
    job: dict[str, Any] = {
        "name": "replayed",
        "model": {"variant": "r1-tiny"},
        "input": {"path": "in.parquet", "id": "id", "prompt": "problem"},
        "output": {"path": "out", "rows_per_part": 16},
        "sampling": {"max_tokens": 100},
    }
    return write_sections(folder, job, sections)


def write_sections(folder: Path, job: dict[str, Any], sections: Mapping[str, Any]) -> Path:
    """A job file in `folder`: a job to which `sections` add keys, or whose keys they replace."""
    job = dict(job)
    for name, keys in sections.items():
        job[name] = {**job.get(name, {}), **keys} if isinstance(keys, dict) else keys
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def questions(rows: int, *, start: int = 0) -> pl.DataFrame:
    """Input rows that the helpers here use."""
    numbers = range(start, start + rows)
    return pl.DataFrame(
        {
            "id": [f"row/{i}" for i in numbers],
            "problem": [f"What is {i} + {i}? ½ é 東" for i in numbers],
        }
    )


def run_replay(job: Path, engine: Mapping[str, Any] | None = None, **options: Any) -> Summary:
    """Run a job file in this process, with this script for the engine."""
    set_engine(job, engine or replay())
    return run_job(load_job(job), RunOptions(show_progress=False, **options))


def rows_of(output: Path | str) -> pl.DataFrame:
    """All rows of an output, by id and sample."""
    parts = sorted(Path(output, "data").glob("*.parquet"))
    return pl.concat([pl.read_parquet(part) for part in parts]).sort("id", "sample")


def keys_of(rows: pl.DataFrame) -> list[tuple[str, int]]:
    return list(rows.select("id", "sample").sort("id", "sample").iter_rows())


def wanted_keys(inputs: pl.DataFrame, n: int = 1) -> list[tuple[str, int]]:
    """Every (id, sample) that a job over `inputs` has to come to, each once."""
    return sorted((id, sample) for id in inputs["id"] for sample in range(n))


def main() -> None:
    """The command line as it is, but for the engine."""
    import batchr1.driver.driver
    import batchr1.driver.monitor.recorder
    from batchr1.cli.main import program

    script = json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    batchr1.driver.monitor.recorder.RECORD_EVERY_S = script.pop(
        "record_every_s", batchr1.driver.monitor.recorder.RECORD_EVERY_S
    )
    batchr1.driver.driver.GRACE_S = script.pop("grace_s", batchr1.driver.driver.GRACE_S)
    scripted(sys.argv[1:], replay(**script))
    program()


if __name__ == "__main__":
    main()
