"""Jobs that the replay engine runs; everything but the engine is real.

Also a program: `python tests/helpers/replay_job.py SCRIPT.json run JOB …` is `batchr1 run JOB …`
with that engine, for tests that need a process of its own to signal or to kill.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml

from batchr1.driver.context import RunOptions
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.run_job import run_job
from batchr1.engine.protocol import Sampling
from batchr1.executors.messages import EngineSpec
from batchr1.job import load_job
from batchr1.models.catalogue import variant

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer
    from batchr1.driver.feed.feeder import Feeder
    from batchr1.output.checkpoints import GenerationCheckpoint
    from batchr1.records import SampleKey

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


def replay(**script: Any) -> EngineSpec:
    """The replay engine with r1-tiny's vocabulary; `script` is more of `engine.replay.Script`."""
    args = {**token_ids(), "tokens_per_step": 8, **script}
    return EngineSpec("replay", "cpu", MODEL, None, False, args, Sampling(0.6, 0.95))


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
    from batchr1.storage.base import expand_inputs

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


def run_replay(job: Path, engine: EngineSpec | None = None, **options: Any) -> Summary:
    """Run a job file in this process."""
    return run_job(
        load_job(job), RunOptions(engine=engine or replay(), show_progress=False, **options)
    )


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
    from batchr1.dataset.tokenizer import leave_torch_out

    leave_torch_out()  # as `program` does, but `replay` asks for the tokenizer before it
    script = json.loads(Path(sys.argv.pop(1)).read_text(encoding="utf-8"))
    batchr1.driver.monitor.recorder.RECORD_EVERY_S = script.pop(
        "record_every_s", batchr1.driver.monitor.recorder.RECORD_EVERY_S
    )
    batchr1.driver.driver.GRACE_S = script.pop("grace_s", batchr1.driver.driver.GRACE_S)
    program(obj=replay(**script))


if __name__ == "__main__":
    main()
