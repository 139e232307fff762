"""`batchr1 export`: which rows, in which form, what others make of it, and what it never
overwrites.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from huggingface_hub import DatasetCard
from made_output import KEPT, good_row, table_of, write_output
from s3_fakes import S3

from batchr1.cli.main import main
from batchr1.export.card import licence_of, model_of, size_category
from batchr1.export.rows import json_line
from batchr1.models.catalogue import VARIANTS
from batchr1.output.run_record import CountsRecord


def export(*args: str | Path) -> Result:
    return CliRunner().invoke(
        main, ["export", *map(str, args)], prog_name="batchr1", catch_exceptions=False
    )


def exported(*args: str | Path) -> dict[str, Any]:
    """What --json says of an export that went well."""
    done = export(*args, "--json")
    assert done.exit_code == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def plain(name: str) -> str:
    """Leave the digest of an export out of a file's name."""
    return re.sub(r"-[0-9a-f]{12}-", "-", name)


def rows_in(dest: Path, split: str = "train") -> pl.DataFrame:
    return pl.concat(
        [pl.read_parquet(p) for p in sorted((dest / "data").glob(f"{split}-*.parquet"))]
    )


def keys(rows: pl.DataFrame) -> list[tuple[str, int]]:
    return sorted(rows.select("id", "sample").iter_rows())


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two parts: ten prompts of three samples, and rows with something wrong with them."""
    rows = [good_row(i, sample=s, completion_tokens=20 + s) for i in range(10) for s in range(3)]
    rows[0] |= {
        "truncated": True,
        "truncated_in": "answer",
        "truncated_by": "max_tokens",
        "finish_reason": "length",
    }
    rows[1] |= {"reasoning_status": "unclosed", "answer": None, "correct": False}
    rows[2] |= {"reasoning_status": "missing", "reasoning": None, "flags": ["no_think"]}
    rows[3] |= {"reasoning_status": "empty", "reasoning": None}
    rows[4] |= {"answer": " \n", "correct": False}
    rows[5] |= {"correct": False}
    rows[6] |= {"correct": None}
    rows[7] |= {"flags": ["looping", "refusal"]}
    rows[8] |= {"flags": ["refusal"]}
    rows[10] |= {"reasoning": rows[9]["reasoning"]}  # with the same answer: row/3 twice the same
    write_output(tmp_path / "out", [table_of(rows[:13]), table_of(rows[13:])])
    return tmp_path / "out"


def test_sft_keeps_what_can_be_trained_on_and_counts_what_it_left_out(
    mixed: Path, tmp_path: Path
) -> None:
    said = exported(mixed, tmp_path / "sft", "--to", "sft")
    assert [(step["name"], step["rows"]) for step in said["steps"]] == [
        ("complete", 25),
        ("--dedupe exact", 24),
    ]
    rows = rows_in(tmp_path / "sft")
    assert (said["rows_in"], said["rows"], rows.height) == (30, 24, 24)
    assert not {("row/0", 0), ("row/0", 1), ("row/0", 2), ("row/1", 0), ("row/1", 1)} & set(
        keys(rows)
    )
    assert ("row/3", 0) in keys(rows)
    assert ("row/3", 1) not in keys(rows), "of two that are the same the first sample is kept"
    assert said["completion_tokens"] == rows["completion_tokens"].sum()


FILTERS: dict[str, tuple[list[str], int]] = {
    "--where": (["--where", "level = 1 AND completion_tokens < 22"], 2 * 2 - 2),
    "--correct-only": (["--correct-only"], 25 - 2),
    "--drop-flag": (["--drop-flag", "refusal"], 25 - 2),
    "--drop-flag twice": (["--drop-flag", "refusal", "--drop-flag", "looping"], 25 - 2),
    "--max-tokens": (["--max-tokens", "20"], 8),
    "--per-prompt": (["--per-prompt", "1"], 9),
}


@pytest.mark.parametrize("name", list(FILTERS))
def test_each_filter_keeps_what_it_says(mixed: Path, tmp_path: Path, name: str) -> None:
    args, count = FILTERS[name]
    exported(mixed, tmp_path / "sft", "--to", "sft", "--dedupe", "none", *args)
    rows = rows_in(tmp_path / "sft")
    assert rows.height == count
    match name:
        case "--where":
            assert set(rows["level"]) == {1}
        case "--correct-only":
            assert rows["correct"].all()
        case "--max-tokens":
            assert rows["completion_tokens"].max() == 20
        case "--per-prompt":
            assert rows["id"].n_unique() == rows.height
            assert rows.filter(pl.col("id") != "row/1")["sample"].max() == 0, (
                "the first samples that pass"
            )
        case _:
            assert "refusal" not in rows["flags"].explode().to_list()


def test_a_prompt_is_its_text_whatever_ids_it_has(tmp_path: Path) -> None:
    rows = [
        good_row(i, prompt=f" What is {i % 3}?\n" if i % 2 else f"What is {i % 3}?")
        for i in range(12)
    ]
    write_output(tmp_path / "out", [table_of(rows)])
    said = exported(tmp_path / "out", tmp_path / "one", "--to", "raw", "--per-prompt", "1")
    assert (said["rows"], said["prompts"]) == (3, 3)


def test_raw_keeps_every_row_and_column_as_they_are(mixed: Path, tmp_path: Path) -> None:
    exported(mixed, tmp_path / "raw", "--to", "raw")
    whole = pl.concat([pl.read_parquet(part) for part in sorted((mixed / "data").glob("*"))])
    assert rows_in(tmp_path / "raw").equals(whole, null_equal=True)


def test_messages_hold_the_reasoning_apart_or_inline(mixed: Path, tmp_path: Path) -> None:
    exported(mixed, tmp_path / "apart", "--to", "sft")
    exported(mixed, tmp_path / "inline", "--to", "sft", "--reasoning", "inline")
    quarantined, inline = (
        rows_in(tmp_path / n).filter(pl.col("id") == "row/4").sort("sample")
        for n in ("apart", "inline")
    )
    thought = "Twice 4 is 8. (sample 0)"
    assert quarantined["messages"].to_list()[0] == [
        {"role": "user", "content": "What is 4 + 4?", "reasoning_content": None},
        {"role": "assistant", "content": "\\boxed{8}", "reasoning_content": thought},
    ]
    assert inline["messages"].to_list()[0] == [
        {"role": "user", "content": "What is 4 + 4?"},
        {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n\\boxed{{8}}"},
    ]
    assert quarantined.drop("messages").equals(inline.drop("messages"))
    assert quarantined.columns == [
        "messages",
        "id",
        "sample",
        "subject",
        "level",
        "gold",
        "final_answer",
        "correct",
        "reasoning_tokens",
        "answer_tokens",
        "completion_tokens",
        "flags",
        "model",
    ]


def test_a_dialogue_is_exported_turn_by_turn(tmp_path: Path) -> None:
    asked = [
        {"role": "user", "content": "Look up 3."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "three: user: or not"},
        {"role": "user", "content": "So?"},
    ]
    rows = [good_row(0), good_row(1, prompt_messages=json.dumps(asked))]
    write_output(tmp_path / "out", [table_of(rows)])
    exported(tmp_path / "out", tmp_path / "sft", "--to", "sft")
    one, several = rows_in(tmp_path / "sft")["messages"].to_list()
    assert [turn["role"] for turn in one] == ["user", "assistant"]
    assert [(turn["role"], turn["content"]) for turn in several] == [
        ("user", "Look up 3."),
        ("assistant", '{"name": "find", "arguments": "{}"}'),
        ("tool", "three: user: or not"),
        ("user", "So?"),
        ("assistant", "\\boxed{2}"),
    ]
    assert several[-1]["reasoning_content"] == rows[1]["reasoning"]
    assert {turn["reasoning_content"] for turn in several[:-1]} == {None}


def test_kept_columns_that_a_trainer_would_take_for_its_own_get_another_name(
    tmp_path: Path,
) -> None:
    kept = pa.schema(
        [(name, pa.string()) for name in ("text", "kept_text", "subject")]
        + [("labels", pa.int64())]
    )
    write_output(
        tmp_path / "out",
        [table_of([good_row(i, text="t", kept_text="u", labels=i) for i in range(3)], kept)],
    )
    exported(tmp_path / "out", tmp_path / "sft", "--to", "sft")
    assert {"kept_text", "kept_labels", "subject"} <= set(rows_in(tmp_path / "sft").columns)
    assert set(rows_in(tmp_path / "sft")["kept_text"]) == {"u"}
    assert set(rows_in(tmp_path / "sft")["kept_kept_text"]) == {"t"}
    assert not {"text", "labels", "prompt", "completion"} & set(rows_in(tmp_path / "sft").columns)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Two hundred prompts of two samples, in two parts that share prompts."""
    write_output(
        tmp_path / "many",
        [table_of([good_row(i, sample=sample) for i in range(200)]) for sample in range(2)],
    )
    return tmp_path / "many"


def test_no_prompt_is_in_both_splits_and_the_split_is_the_same_each_time(
    many: Path, tmp_path: Path
) -> None:
    said = exported(many, tmp_path / "one", "--to", "sft", "--test-share", "0.2")
    train, test = rows_in(tmp_path / "one"), rows_in(tmp_path / "one", "test")
    assert not set(train["id"]) & set(test["id"])
    assert (train.height, test.height) == (
        said["splits"]["train"]["rows"],
        said["splits"]["test"]["rows"],
    )
    assert train.height + test.height == 400
    assert 20 <= said["splits"]["test"]["prompts"] <= 60, "about a fifth of 200"
    exported(
        many,
        tmp_path / "two",
        "--to",
        "raw",
        "--test-share",
        "0.2",
        "--format",
        "jsonl",
        "--per-prompt",
        "1",
    )
    lines = [
        json.loads(line)
        for path in (tmp_path / "two/data").glob("test-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {row["id"] for row in lines} == set(test["id"]), "in any form"
    exported(many, tmp_path / "three", "--to", "sft", "--test-share", "0.4")
    assert set(test["id"]) < set(rows_in(tmp_path / "three", "test")["id"]), (
        "a larger share adds to it"
    )


def test_a_large_export_is_cut_into_files(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchr1.export.export.MAX_FILE_BYTES", 1)
    exported(many, tmp_path / "sft", "--to", "sft", "--test-share", "0.2")
    names = sorted(plain(path.name) for path in (tmp_path / "sft/data").iterdir())
    assert names == [f"{split}-0000{i}.parquet" for split in ("test", "train") for i in range(2)]
    assert rows_in(tmp_path / "sft").height + rows_in(tmp_path / "sft", "test").height == 400
    assert_valid_card(tmp_path / "sft")


def test_a_share_too_small_for_any_prompt_makes_no_test_split_and_says_so(
    many: Path, tmp_path: Path
) -> None:
    done = export(many, tmp_path / "sft", "--to", "sft", "--test-share", "0.00001")
    assert "note   no prompt falls into a test split of 1e-05\n" in done.output
    assert [plain(p.name) for p in (tmp_path / "sft/data").iterdir()] == ["train-00000.parquet"]


def test_the_same_rows_give_the_same_files(many: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        exported(many, tmp_path / name, "--to", "sft", "--test-share", "0.1", "--per-prompt", "1")
    for path in (tmp_path / "one/data").iterdir():
        assert path.read_bytes() == (tmp_path / "two/data" / path.name).read_bytes()


@pytest.mark.parametrize("reasoning", ["apart", "inline"])
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_datasets_loads_it_unchanged(
    many: Path, tmp_path: Path, file_format: str, reasoning: str
) -> None:
    args = ["--to", "sft", "--format", file_format, "--reasoning", reasoning, "--test-share", "0.2"]
    said = exported(many, tmp_path / "sft", *args)
    loaded = datasets.load_dataset(str(tmp_path / "sft"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {
        name: split["rows"] for name, split in said["splits"].items()
    }
    turn = loaded["train"][0]["messages"][1]
    assert turn["role"] == "assistant"
    assert "Twice" in turn["reasoning_content" if reasoning == "apart" else "content"]
    assert loaded["train"].features["correct"].dtype == "bool"


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_datasets_loads_a_raw_export_unchanged(
    mixed: Path, tmp_path: Path, file_format: str
) -> None:
    exported(mixed, tmp_path / "raw", "--to", "raw", "--format", file_format)
    loaded = datasets.load_dataset(str(tmp_path / "raw"), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    assert loaded.num_rows == 30
    assert sum("refusal" in flags for flags in loaded["flags"]) == 2
    assert str(loaded[0]["finished_at"]).startswith("2026-11-20")
    assert loaded[0]["gold"] == "0"


@pytest.mark.parametrize("told", ["train", "test"])
def test_lines_of_json_have_one_type_in_both_splits(many: Path, tmp_path: Path, told: str) -> None:
    """What one split holds and the other does not: values beside nothing but nulls, flags beside
    empty lists.
    """
    exported(many, tmp_path / "first", "--to", "raw", "--test-share", "0.2")
    ids = set(rows_in(tmp_path / "first", told)["id"])
    kept = pa.schema(
        [
            ("subject", pa.string()),
            ("score", pa.float64()),
            ("day", pa.date32()),
            ("more", pa.struct([("deep", pa.list_(pa.list_(pa.int32())))])),
        ]
    )
    values = {
        "subject": "x",
        "flags": ["looping"],
        "score": 0.5,
        "day": dt.date(2026, 1, 2),
        "more": {"deep": [[1]]},
    }
    nothing = dict.fromkeys(values) | {"flags": []}
    rows = [good_row(i, **(values if f"row/{i}" in ids else nothing)) for i in range(200)]
    write_output(tmp_path / "out", [table_of(rows, kept)])
    for form in ("sft", "raw"):
        exported(
            tmp_path / "out",
            tmp_path / form,
            "--to",
            form,
            "--test-share",
            "0.2",
            "--format",
            "jsonl",
        )
        assert_valid_card(tmp_path / form)
        loaded = datasets.load_dataset(str(tmp_path / form), cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].features == loaded["test"].features
        row, other = loaded[told][0], loaded["test" if told == "train" else "train"][0]
        assert {name: row[name] for name in values} == values
        assert (other["subject"], other["score"], other["day"], other["flags"]) == (
            None,
            None,
            None,
            [],
        )


def test_chat_templates_take_the_messages_as_they_are(many: Path, tmp_path: Path) -> None:
    """As TRL renders them. benchmarks/trl_sft.py trains."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    exported(many, tmp_path / "sft", "--to", "sft")
    row = datasets.load_dataset(str(tmp_path / "sft"), cache_dir=str(tmp_path / "cache"))["train"][
        0
    ]
    template = ImmutableSandboxedEnvironment().from_string(
        "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content is string %}<think>{{ "
        "m.reasoning_content }}</think>{% endif %}{{ m.content }}{% endfor %}"
    )
    number = row["id"].removeprefix("row/")
    assert re.fullmatch(
        (
            rf"\[user\]What is {number} \+ {number}\?\[assistant\]<think>Twice "
            rf".*</think>\\boxed{{\d+}}"
        ),
        template.render(messages=row["messages"]),
    )


def test_lines_of_json_hold_what_json_has_no_type_for() -> None:
    row = {
        "when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "day": dt.date(2026, 1, 2),
        "bytes": b"\xff",
        "none": None,
        "nan": float("nan"),
        "deep": [{"inf": float("inf"), "fine": 1.5}],
        "text": "½\u2028\n\x00東",
    }
    line = json_line(row)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "when": "2026-01-02T00:00:00+00:00",
        "day": "2026-01-02",
        "bytes": "/w==",
        "none": None,
        "nan": None,
        "deep": [{"inf": None, "fine": 1.5}],
        "text": "½\u2028\n\x00東",
    }


# Of the hub's specification (datasetcard.md in huggingface/hub-docs) and its table of licences,
# what a card here uses.
LICENCES = {"apache-2.0", "mit", "llama3.1", "llama3.3", "unknown"}
KEYS = {
    "language",
    "license",
    "license_name",
    "license_link",
    "license_details",
    "tags",
    "annotations_creators",
    "language_creators",
    "language_details",
    "pretty_name",
    "size_categories",
    "source_datasets",
    "task_categories",
    "task_ids",
    "paperswithcode_id",
    "configs",
    "dataset_info",
    "extra_gated_fields",
    "extra_gated_prompt",
    "train-eval-index",
}


def assert_valid_card(dest: Path) -> dict[str, Any]:
    """The card's metadata, by the hub's rules."""
    loaded = DatasetCard.load(dest / "README.md")
    metadata: dict[str, Any] = loaded.data.to_dict()
    assert set(metadata) <= KEYS
    assert metadata["license"] in LICENCES
    sizes = json.loads(
        Path(datasets.__file__)
        .with_name("utils")
        .joinpath("resources/size_categories.json")
        .read_text()
    )
    assert set(metadata["size_categories"]) <= set(sizes)
    assert metadata["task_categories"] == ["text-generation"]
    assert all(isinstance(tag, str) for tag in metadata["tags"])
    assert isinstance(metadata["pretty_name"], str)
    for config in metadata["configs"]:
        for files in config["data_files"]:
            assert set(files) == {"split", "path"}
            assert list(dest.glob(files["path"])), "each pattern finds its files"
    assert yaml.safe_load(loaded.data.to_yaml()) == metadata
    return metadata


def test_the_card_holds_valid_metadata_counts_settings_licence_and_provenance(
    mixed: Path, tmp_path: Path
) -> None:
    exported(mixed, tmp_path / "sft", "--to", "sft", "--correct-only", "--test-share", "0.3")
    metadata = assert_valid_card(tmp_path / "sft")
    assert (metadata["license"], metadata["size_categories"]) == ("mit", ["n<1K"])
    card = (tmp_path / "sft/README.md").read_text()
    for line in (
        "| in the output | | 30 |",
        "| complete | a closed think block and an answer, nothing cut | 25 |",
        "| --correct-only | the final answer is right | 23 |",
        "| model | `deepseek-ai/DeepSeek-R1-Distill-Qwen-7B` |",
        "| revision | `916b56a44061fd5cd7d6a8fb632557ed4f724f60` |",
        "| temperature | `0.6` |",
        "| prompts | `data/math.parquet` |",
        "| job digest | `00112233445566778899aabbccddeeff` |",
        "MIT (DeepSeek); derived from Qwen2.5-Math-7B: Apache-2.0.",
    ):
        assert line in card


def test_the_card_names_the_model_that_ships_with_batchr1_not_its_folder() -> None:
    job = {
        "model": {"name": "r1-tiny", "location": "/site/batchr1/models/r1_tiny"},
        "spec": {"model": {"variant": "r1-tiny"}},
    }
    assert model_of(job) == "r1-tiny, which ships with batchr1"
    own = {"model": {"location": "/home/me/models/mine"}, "spec": {"model": {"path": "mine"}}}
    assert model_of(own) == "models/mine"


def test_every_variant_has_a_licence_that_the_hub_knows() -> None:
    found = {name: licence_of(name)[0] for name in VARIANTS}
    assert set(found.values()) <= LICENCES
    assert found["r1-tiny"] == "apache-2.0"
    assert found["r1-distill-llama-8b"] == "llama3.1"
    assert found["r1-distill-llama-70b"] == "llama3.3"
    assert found["r1-671b"] == "mit"
    assert licence_of(None)[0] == licence_of("somebody's")[0] == "unknown"


def test_sizes_have_the_hubs_names() -> None:
    assert [size_category(n) for n in (1, 999, 1000, 99_999, 2_000_000, 5 * 10**9)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "10K<n<100K",
        "1M<n<10M",
        "1B<n<10B",
    ]


def test_a_card_is_text_whatever_the_job_holds(tmp_path: Path) -> None:
    evil = "a|b`c\n---\nlicense: cc0-1.0\n<script>alert(1)</script> | x |"
    kept = {
        "name": evil,
        "prompting": {"instruction": evil},
        "input": {"path": ["/home/me/secret/a|b.parquet", evil]},
    }
    write_output(tmp_path / "out", [table_of([good_row(0)])], **kept)
    exported(tmp_path / "out", tmp_path / "sft", "--to", "sft", "--where", "prompt <> '|\n| <b>'")
    assert assert_valid_card(tmp_path / "sft")["license"] == "mit"
    card = (tmp_path / "sft/README.md").read_text()
    assert "/home/me" not in card
    body = card.split("---\n", 2)[2]
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {3, 4, 5}
    assert "\nlicense: cc0" not in body
    assert not [line for line in body.splitlines() if line.startswith("<script>")]


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (1, "the output is complete but for 2 failed samples"),
        (3, "the output is not complete"),  # a part was deleted since
    ],
)
def test_failed_rows_are_told_apart_from_rows_that_are_still_to_do(
    tmp_path: Path, done: int, said: str
) -> None:
    output = write_output(tmp_path / "out", [table_of([good_row(0)])], pending=5)
    [record] = output.runs()
    counts = CountsRecord(rows=done + 2, samples=done + 2, done=done, failed=2)
    output.write_run(record.model_copy(update={"counts": counts, "exit_code": 3}))

    result = export(tmp_path / "out", tmp_path / "sft", "--to", "sft")
    assert result.output.endswith(f"note   {said}: what is done was exported\n")
    card = (tmp_path / "sft/README.md").read_text(encoding="utf-8")
    assert f"The{said[3:].replace(' is ', ' was ')} when this was written." in card


def test_the_card_says_that_the_output_was_not_complete(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(0)])], pending=5)
    done = export(tmp_path / "out", tmp_path / "sft", "--to", "sft")
    assert done.output.endswith("note   the output is not complete: what is done was exported\n")
    assert (
        "The output was not complete when this was written."
        in (tmp_path / "sft/README.md").read_text()
    )


def test_what_export_prints(mixed: Path, tmp_path: Path) -> None:
    done = export(mixed, tmp_path / "sft", "--to", "sft", "--correct-only", "--per-prompt", "2")
    assert done.output.replace(str(tmp_path), "TMP") == (
        "TMP/sft: 16 rows, parquet, 0.0 MB\n"
        "         30 rows in the output\n"
        "         25 complete: a closed think block and an answer, nothing cut\n"
        "         23 --correct-only: the final answer is right\n"
        "         22 --dedupe exact: one of rows with the same prompt, reasoning and answer\n"
        "         16 --per-prompt: at most 2 of a prompt, the first samples\n"
        "train  16 rows, 8 prompts, 331 tokens\n"
    )


def test_an_export_of_a_real_run(tmp_path: Path, real_output: Path) -> None:
    said = exported(real_output, tmp_path / "sft", "--to", "sft", "--dedupe", "none")
    done = pl.read_parquet(real_output / "data/*.parquet").filter(
        reasoning_status="closed", truncated=False
    )
    assert said["rows"] == done.height > 0
    assert assert_valid_card(tmp_path / "sft")["license"] == "apache-2.0"


def test_datasets_never_takes_one_export_for_another(mixed: Path, tmp_path: Path) -> None:
    """`datasets` keeps what it read by the names of files, which a later export must not share."""
    cache, dest = str(tmp_path / "cache"), tmp_path / "sft"
    exported(mixed, dest, "--to", "sft", "--correct-only")
    first = datasets.load_dataset(str(dest), cache_dir=cache)["train"]
    exported(mixed, dest, "--to", "sft", "--overwrite")
    second = datasets.load_dataset(str(dest), cache_dir=cache)["train"]

    assert len(first) < len(second) == rows_in(dest).height


def test_overwrite_replaces_an_earlier_export_whole(mixed: Path, tmp_path: Path) -> None:
    exported(mixed, tmp_path / "sft", "--to", "sft", "--test-share", "0.3")
    exported(mixed, tmp_path / "sft", "--to", "raw", "--format", "jsonl", "--overwrite")
    files = sorted(
        plain(str(p.relative_to(tmp_path / "sft")))
        for p in (tmp_path / "sft").rglob("*")
        if p.is_file()
    )
    assert files == [".batchr1/export.json", "README.md", "data/train-00000.jsonl"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_an_empty_folder_is_taken(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    exported(mixed, tmp_path / "sft", "--to", "sft")
    assert (tmp_path / "sft/README.md").exists()


@pytest.mark.parametrize("point", ["export.staged", "export.moved"])
def test_an_export_that_is_killed_leaves_no_half_of_one(
    mixed: Path, tmp_path: Path, point: str
) -> None:
    dest = tmp_path / "sft"
    if point == "export.moved":
        exported(mixed, dest, "--to", "sft")
    command = [
        sys.executable,
        "-m",
        "batchr1",
        "export",
        str(mixed),
        str(dest),
        "--to",
        "raw",
        "--overwrite",
    ]
    killed = subprocess.run(command, env=os.environ | {"BATCHR1_FAULT": point}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not dest.exists()
    if point == "export.moved":
        [old] = tmp_path.glob(".sft.*.old")
        assert rows_in(old).height == 24, "what was there is whole beside it"
    exported(mixed, dest, "--to", "raw")
    assert rows_in(dest).height == 30


def test_export_from_s3_to_s3(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    write_output(s3.storage("out"), [table_of([good_row(i) for i in range(40)])])
    dest = f"s3://{s3.bucket}/sets/math"
    exported(f"s3://{s3.bucket}/out", dest, "--to", "sft", "--test-share", "0.3")

    def names() -> list[str]:
        listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="sets/")["Contents"]
        return [plain(entry["Key"].removeprefix("sets/math/")) for entry in listed]

    assert names() == [
        ".batchr1/export.json",
        "README.md",
        "data/test-00000.parquet",
        "data/train-00000.parquet",
    ]
    refused = export(f"s3://{s3.bucket}/out", dest, "--to", "raw")
    message = "an earlier export is there. Give another folder, or add --overwrite."
    assert refused.stderr == f"batchr1: {dest}: {message}\n"
    exported(f"s3://{s3.bucket}/out", dest, "--to", "raw", "--overwrite")
    assert names() == [".batchr1/export.json", "README.md", "data/train-00000.parquet"]
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix="sets/math/data/")["Contents"]
    s3.client().download_file(s3.bucket, listed[0]["Key"], str(tmp_path / "got.parquet"))
    assert pl.read_parquet(tmp_path / "got.parquet").height == 40


def test_an_export_to_s3_that_was_cut_off_is_known_as_such(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    write_output(s3.storage("out"), [table_of([good_row(i) for i in range(4)])])
    dest = f"s3://{s3.bucket}/set"
    exported(f"s3://{s3.bucket}/out", dest, "--to", "sft")
    storage = s3.storage("set")
    record = json.loads(storage.read_bytes(".batchr1/export.json"))
    storage.delete("README.md")
    storage.write_bytes(".batchr1/export.json", json.dumps({**record, "unfinished": True}).encode())
    refused = export(f"s3://{s3.bucket}/out", dest, "--to", "sft")
    assert (
        "an export that was not finished is there. Give another folder, or add --overwrite."
        in refused.stderr
    )
    exported(f"s3://{s3.bucket}/out", dest, "--to", "sft", "--overwrite")
    assert "unfinished" not in json.loads(storage.read_bytes(".batchr1/export.json"))


SFT = ["--to", "sft"]
COLUMNS = (
    "id, sample, subject, level, prompt, prompt_messages, gold, reasoning, answer, final_answer, "
    "correct, verdict_by, reasoning_status, truncated, truncated_in, truncated_by, finish_reason"
)
BAD: dict[str, tuple[list[str], str]] = {
    "nothing there": (
        ["none", "sft", *SFT],
        "TMP/none: not an output of batchr1. Give the folder that a job wrote.",
    ),
    "no row yet": (
        ["empty", "sft", *SFT],
        "TMP/empty: no row is done yet (got no part). Export it when there are some.",
    ),
    "a foreign folder": (
        ["out", "foreign", *SFT],
        "TMP/foreign: the folder is not empty and not an export of batchr1 (it holds mine.txt). "
        "Give a new or empty folder.",
    ),
    "a foreign folder, overwritten": (
        ["out", "foreign", *SFT, "--overwrite"],
        "TMP/foreign: the folder is not empty and not an export of batchr1 (it holds mine.txt). "
        "Give a new or empty folder.",
    ),
    "an earlier export": (
        ["out", "earlier", *SFT],
        "TMP/earlier: an earlier export is there. Give another folder, or add --overwrite.",
    ),
    "an earlier export with something else in it": (
        ["out", "added", *SFT, "--overwrite"],
        (
            "TMP/added: --overwrite would delete notes.txt, which is not of the export. Move it "
            "away first."
        ),
    ),
    "an earlier export whose card was edited": (
        ["out", "edited", *SFT, "--overwrite"],
        (
            "TMP/edited: --overwrite would delete README.md, which was edited since the export. "
            "Move it away first."
        ),
    ),
    "the output itself": (
        ["out", "out", *SFT],
        (
            "TMP/out: DEST and the output TMP/out lie within each other. Give the export a folder "
            "of its own."
        ),
    ),
    "within the output": (
        ["out", "out/data/sft", *SFT],
        (
            "TMP/out/data/sft: DEST and the output TMP/out lie within each other. Give the export "
            "a folder of its own."
        ),
    ),
    "around the output": (
        ["out", ".", *SFT],
        (
            "TMP: DEST and the output TMP/out lie within each other. Give the export a folder of "
            "its own."
        ),
    ),
    "a file's name": (
        ["out", "sft.jsonl", *SFT],
        "TMP/sft.jsonl: DEST is a folder, of files, a card and splits (got the name of a file). "
        "Write TMP/sft, and --format parquet or jsonl.",
    ),
    "a file in its place": (
        ["out", "file", *SFT],
        "TMP/file: cannot be a folder (got a file at TMP/file). Give another path.",
    ),
    "below a file": (
        ["out", "file/sft", *SFT],
        "TMP/file/sft: cannot be a folder (got a file at TMP/file). Give another path.",
    ),
    "no such flag": (
        ["out", "sft", *SFT, "--drop-flag", "lopping"],
        "--drop-flag: there is no flag 'lopping' (known: KNOWN). Did you mean looping?",
    ),
    "no such column": (
        ["out", "sft", *SFT, "--where", "difficulty > 3"],
        "--where: there is no column 'difficulty' (the output has: COLUMNS). Name one of these.",
    ),
    "not SQL": (
        ["out", "sft", *SFT, "--where", "level >"],
        "--where: not a SQL predicate (got 'level >': REASON). Write one such as level >= 4.",
    ),
    "not a condition": (
        ["out", "sft", *SFT, "--where", "level + 1"],
        (
            "--where: not a condition on a row (got Int64, need true or false for each). Write one "
            "such as level >= 4."
        ),
    ),
    "nothing is judged": (
        ["unjudged", "sft", *SFT, "--correct-only"],
        "--correct-only: nothing is known to be right in TMP/unjudged (got no value in the column "
        "correct). Set input.gold in the job, or leave --correct-only out.",
    ),
    "nothing is left": (
        ["out", "sft", *SFT, "--where", "level > 1", "--max-tokens", "5"],
        "TMP/out: no row is left to export (got 6 rows; left after each filter: complete 6, "
        "--where 4, --max-tokens 0). Loosen --max-tokens.",
    ),
    "too few of a prompt": (
        ["out", "sft", *SFT, "--per-prompt", "0"],
        "--per-prompt: too small (got 0, need at least 1). Give more, or leave it out.",
    ),
    "too few tokens": (
        ["out", "sft", *SFT, "--max-tokens", "-3"],
        "--max-tokens: too small (got -3, need at least 1). Give more, or leave it out.",
    ),
    "a share of more than all": (
        ["out", "sft", *SFT, "--test-share", "2"],
        (
            "--test-share: not a share of the prompts (got 2, need at least 0 and less than 1). "
            "Write 0.02 for 2 %."
        ),
    ),
    "nothing to train on": (
        ["out", "sft", *SFT, "--test-share", "0.99999"],
        (
            "--test-share: every prompt falls into the test split (got 0.99999 of 6 prompts). Give "
            "a smaller share."
        ),
    ),
    "reasoning of a raw export": (
        ["out", "sft", "--to", "raw", "--reasoning", "inline"],
        (
            "--reasoning: belongs to --to sft (got --to raw, which keeps the output's own "
            "columns). Leave it out."
        ),
    ),
    "an unknown store": (
        ["out", "hf://datasets/me/mine", *SFT],
        "hf://…: storage of this kind is not supported (got 'hf', need a path, file:// or s3://). "
        "Copy the data, or use the store's S3 interface with storage.endpoint.",
    ),
    "a part that is damaged": (
        ["torn", "sft", *SFT],
        "TMP/torn/data/part-20261120T101500000Z-abcd-0-0-00000.parquet: not a readable part "
        "(REASON). batchr1 publishes whole files only, so something else changed it: delete it, "
        "and its rows run again.",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_inputs_are_refused_with_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = [good_row(i, flags=["looping"] if i == 2 else []) for i in range(6)]
    write_output(tmp_path / "out", [table_of(good)])
    args, message = BAD[name]
    if args[0] == "empty":
        write_output(tmp_path / "empty", [])
    if args[0] == "unjudged":
        write_output(tmp_path / "unjudged", [table_of([good_row(0, correct=None)], KEPT)])
    if args[0] == "torn":
        [part] = write_output(tmp_path / "torn", [table_of([good_row(0)])]).parts()
        (tmp_path / "torn" / part).write_bytes(b"PAR1 what a pity")
    if args[1] in ("earlier", "added", "edited"):
        exported("out", args[1], *SFT)
    (tmp_path / "foreign").mkdir()
    for path, text in {"foreign/mine.txt": "", "file": ""}.items():
        (tmp_path / path).write_text(text)
    if args[1] == "added":
        (tmp_path / "added/notes.txt").write_text("")
    if args[1] == "edited":
        (tmp_path / "edited/README.md").write_text("mine")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    done = export(*args)
    said = done.stderr.replace(str(tmp_path), "TMP")
    said = re.sub(r"\(known: .*?\)", "(known: KNOWN)", said)
    said = re.sub(rf"\(the output has: {COLUMNS}.*?\)", "(the output has: COLUMNS)", said)
    said = re.sub(r"'level >': .*?\)\. Write", "'level >': REASON). Write", said)
    said = re.sub(r"\(Could not open.*?\)\. batchr1", "(REASON). batchr1", said)
    assert said == f"batchr1: {message}\n"
    assert (done.exit_code, done.stdout) == (2, "")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before, "nothing was written"


def test_the_output_is_only_read(mixed: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in mixed.rglob("*")}
    exported(mixed, tmp_path / "sft", "--to", "sft")
    assert {p: p.stat().st_mtime_ns for p in mixed.rglob("*")} == before
