"""`batchr1 init`: a job for somebody's dataset, its columns guessed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from batchr1.cli.main import main
from batchr1.dataset.guess import Guess, guess_columns
from batchr1.job import load_job

ROOT = Path(__file__).parents[2]
CHAT = [[{"role": "user", "content": "Hi"}]] * 4
FOUR = ["a", "b", "c", "d"]

# Columns as public datasets have them, and the guess.
DATASETS: dict[str, tuple[dict[str, Any], Guess]] = {
    "GSM8K": (
        {"question": FOUR, "answer": FOUR},
        Guess(None, "question", None, "answer"),
    ),
    "MATH-500": (
        {
            "problem": FOUR,
            "solution": FOUR,
            "answer": FOUR,
            "subject": ["x", "x", "y", "y"],
            "level": [1, 1, 2, 2],
            "unique_id": FOUR,
        },
        Guess("unique_id", "problem", None, "answer", ["subject", "level"]),
    ),
    "HumanEval": (
        {"task_id": FOUR, "prompt": FOUR, "canonical_solution": FOUR, "entry_point": FOUR},
        Guess("task_id", "prompt", None, None),
    ),
    "Alpaca": (
        {"instruction": FOUR, "input": [""] * 4, "output": [f"{one} b" for one in FOUR]},
        Guess(None, "instruction", None, None, ["input"]),
    ),
    "chat": ({"messages": CHAT, "ID": [1, 2, 3, 4]}, Guess("ID", None, "messages", None)),
    "an id that is not unique": (
        {"id": ["a", "a", "b", "b"], "text": FOUR},
        Guess(None, "text", None, None, unfit_id="id"),
    ),
    "an output of two samples a row": (
        {"id": ["a", "a", "b", "b"], "sample": [0, 1, 0, 1], "prompt": FOUR, "answer": FOUR},
        Guess(["id", "sample"], "prompt", None, "answer"),
    ),
    "a unique column of another name": (
        {"text": FOUR, "page": ["a b", "b", "c", "d"], "level": [1, 1, 2, 2], "url": FOUR},
        Guess(None, "text", None, None, ["level"], unique="url"),
    ),
    "an id with a hole": (
        {"id": ["a", None, "b", "c"], "text": FOUR},
        Guess(None, "text", None, None, unfit_id="id"),
    ),
    "an id that is not unique beside one that is": (
        {"id": ["a", "a", "b", "b"], "rowUuid": FOUR, "text": FOUR},
        Guess("rowUuid", "text", None, None),
    ),
    "a sheet's headings": (
        {
            "row uuid": ["a", "b", "c", "c"],
            "Question text": FOUR,
            "Correct answer": FOUR,
            "Answer type": ["n", "n", "n", "m"],
            "Notes (internal)": ["a b", "b c", "c d", "d e"],
        },
        Guess(
            None,
            "Question text",
            None,
            "Correct answer",
            ["row uuid", "Answer type"],
            unfit_id="row uuid",
        ),
    ),
    "headings in one word": (
        {"PromptText": FOUR, "goldAnswer": FOUR, "taskID": FOUR},
        Guess("taskID", "PromptText", None, "goldAnswer"),
    ),
    "names of nobody": (
        {"short": FOUR, "Frage an dich": ["a long text"] * 4},
        Guess(None, "Frage an dich", None, None, unique="short"),
    ),
    "a prompt that is no text": (
        {"prompt": [1.5, 2.5, 3.5, 4.5], "question": FOUR},
        Guess(None, "question", None, None),
    ),
    "texts as polars writes them": (
        {
            "problem_text": pa.array(FOUR, pa.large_string()),
            "topic": pa.array(["x"] * 4, pa.large_string()),
        },
        Guess(None, "problem_text", None, None, ["topic"]),
    ),
    "names that an output has itself": (
        {"text": FOUR, "run": ["x"] * 4, "Model": ["y"] * 4, "task": ["z"] * 4},
        Guess(None, "text", None, None, ["task"]),
    ),
    "no text at all": ({"a": [1.0, 2.0]}, Guess(None, None, None, None)),
}


@pytest.mark.parametrize("name", DATASETS)
def test_columns_of_public_datasets_are_guessed(name: str) -> None:
    columns, wanted = DATASETS[name]

    assert guess_columns(pa.table(columns)) == wanted


def test_odd_columns_make_no_odd_job(tmp_path: Path) -> None:
    """Names of two lines or that stand twice, and text that is no valid Unicode."""
    csv, lines = tmp_path / "my.csv", tmp_path / "my.jsonl"
    csv.write_text('prompt,"a\nb",k,k\nx y,1,2,3\nz w,2,3,4\n', encoding="utf-8")
    lines.write_text('{"prompt": "\\ud800 b", "k": "\\ud800"}\n{"prompt": "b c", "k": "z"}\n')
    for data in (csv, lines):
        done = init(data, "--to", tmp_path / f"{data.suffix[1:]}.yaml")
        assert done.exit_code == 0, done.output
    assert load_job(tmp_path / "csv.yaml").input.prompt == "prompt"
    assert "Or write" not in init(csv, "--to", tmp_path / "again.yaml").stdout
    assert "prompt   prompt: \\ud800 b\n" in done.stdout


UUIDS = pa.array([bytes([i] * 16) for i in range(4)], pa.binary(16))
CODED = {
    "a dictionary": pa.array(FOUR).dictionary_encode(),
    "a dictionary of large strings": pa.array(FOUR, pa.large_string()).dictionary_encode(),
    "a view": pa.array(FOUR, pa.string_view()),
    "UUIDs": pa.ExtensionArray.from_storage(pa.uuid(), UUIDS),
    "numbers": pa.array([3, 1, 2, 0], pa.uint64()),
}


@pytest.mark.parametrize("kind", CODED)
def test_values_are_counted_however_they_are_encoded(tmp_path: Path, kind: str) -> None:
    """As polars, pandas and databases write categories and ids."""
    twice = pa.chunked_array([CODED[kind][:2], CODED[kind][:2]])
    texts = pa.array([f"{one} b" for one in FOUR]).dictionary_encode()
    pair = {"text": texts, "sample": [0, 0, 1, 1]}
    assert guess_columns(pa.table({"id": CODED[kind], "text": texts})).id == "id"
    assert guess_columns(pa.table({"url": CODED[kind], "text": texts})).unique == "url"
    assert guess_columns(pa.table({"id": twice, "text": texts})).unfit_id == "id"
    assert guess_columns(pa.table({"id": twice, **pair})).id == ["id", "sample"]
    data, job = tmp_path / "my.parquet", tmp_path / "job.yaml"
    pq.write_table(pa.table({"id": CODED[kind], "level": twice, "text": texts}), data)
    assert init(data, "--to", job).exit_code == 0
    assert (load_job(job).input.id, load_job(job).input.prompt) == ("id", "text")


@pytest.mark.parametrize("layout", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_is_text_in_each_layout_of_arrow(layout: pa.DataType) -> None:
    columns = {"Frage": FOUR, "Thema": ["x"] * 4, "id": ["a", "b", "c", "d"]}
    table = pa.table({name: pa.array(values, layout) for name, values in columns.items()})

    assert guess_columns(table) == Guess("id", "Frage", None, None, ["Thema"])


def init(*args: str | Path) -> Result:
    arguments = ["init", *(str(arg) for arg in args)]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_the_job_that_is_written_is_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = init(ROOT / "jobs/data/math.parquet")

    assert result.exit_code == 0
    job = load_job(tmp_path / "math.yaml")
    assert (job.input.id, job.input.prompt, job.input.gold) == ("id", "problem", "answer")
    assert job.output.keep == ["family", "task", "level"]
    assert job.prompting.instruction == "math"
    assert result.stdout.splitlines()[-2:] == [
        "math.yaml: written",
        "next: batchr1 check math.yaml --show-prompt",
    ]


@pytest.mark.parametrize("to", ["mine.yaml", "jobs/mine.yaml", "link/mine.yaml"])
def test_paths_of_the_job_start_at_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    """Also where that folder is a link, whose parent is not the one above it."""
    (tmp_path / "work/data").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/jobs").mkdir(parents=True)
    (tmp_path / "work/link").symlink_to(tmp_path / "elsewhere/deep/jobs")
    pq.write_table(pa.table({"text": FOUR}), tmp_path / "work/data/my.parquet")
    monkeypatch.chdir(tmp_path / "work")
    assert init("data/my.parquet", "--to", to).exit_code == 0

    text = Path(to).read_text(encoding="utf-8")
    assert "# Relative paths start at this file's folder, wherever batchr1 is called.\n" in text
    monkeypatch.chdir(tmp_path)
    job = load_job(Path("work", to))
    assert Path(str(job.input.path)).samefile(tmp_path / "work/data/my.parquet")
    assert job.output.path == str(Path("work", to).resolve().parent / "out/my")


def test_what_was_not_found_and_what_is_not_used_is_said(tmp_path: Path) -> None:
    data = tmp_path / "sheet.csv"
    heads = ["row uuid", "Frage", *(f"a long heading {i}" for i in range(8))]
    rows = [["a", f"a text of some length {i}", *(f"{i}.5" for _ in heads[2:])] for i in range(4)]
    data.write_text("\n".join(",".join(row) for row in [heads, *rows]), encoding="utf-8")
    said = init(data, "--to", tmp_path / "job.yaml").stdout

    assert "id       none: row uuid has a value twice, or a null; a hash of the prompt" in said
    assert "gold     none found: no answer is judged right or wrong\n" in said
    assert "instruction none: prompts are put to the model as they are\n" in said
    assert "Or write" not in said
    unused = said[said.index("not used ") : said.index(str(tmp_path))]
    assert " ".join(unused.split()) == f"not used {', '.join(heads[2:])}"
    assert max(map(len, unused.splitlines())) <= 80


def test_a_column_that_would_do_as_an_id_is_offered(tmp_path: Path) -> None:
    data = tmp_path / "my.parquet"
    pq.write_table(pa.table({"text": FOUR, "url: of it": FOUR}), data)
    said = " ".join(init(data, "--to", tmp_path / "job.yaml").stdout.split())
    assert "Or write `id: 'url: of it'`: no value of it stood twice" in said
    text = (tmp_path / "job.yaml").read_text(encoding="utf-8")
    assert "\n  # id: 'url: of it'  # unique; without it, a hash of the prompt\n" in text


@pytest.mark.parametrize(("variant", "most"), [("r1-tiny", 4096), ("r1-distill-qwen-7b", 32768)])
def test_max_tokens_is_what_the_model_can_generate(variant: str, most: int, tmp_path: Path) -> None:
    data = tmp_path / "my.parquet"
    pq.write_table(pa.table({"text": FOUR}), data)
    assert init(data, "--variant", variant, "--to", tmp_path / "job.yaml").exit_code == 0
    assert load_job(tmp_path / "job.yaml").sampling.max_tokens == most


def test_odd_names_are_quoted(tmp_path: Path) -> None:
    rows = [{"a: b #c": f"text {i}", "yes": "x", "[k]": 1} for i in range(3)]
    data = tmp_path / "my data (1).jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert init(data, "--to", tmp_path / "jobs/mine.yaml").exit_code == 0

    job = load_job(tmp_path / "jobs/mine.yaml")
    assert job.name == "my-data-1"
    assert job.input.prompt == "a: b #c"
    assert job.output.keep == ["yes", "[k]"]
    assert job.input.path == str(data)
    assert "path: ../my data (1).jsonl" in (tmp_path / "jobs/mine.yaml").read_text()


@pytest.mark.parametrize("name", ["null", "true", "on", "1", "1.5e3"])
def test_a_name_that_yaml_would_read_is_quoted(tmp_path: Path, name: str) -> None:
    data = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({"text": FOUR}), data)
    assert init(data, "--to", tmp_path / "job.yaml").exit_code == 0
    assert load_job(tmp_path / "job.yaml").name == name.split(".")[0]


@pytest.mark.parametrize("name", ["a{{ds}}b", "a${HOME}b"])
def test_a_path_that_a_job_would_fill_in_is_refused(tmp_path: Path, name: str) -> None:
    data = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({"text": FOUR}), data)
    done = init(data, "--to", tmp_path / "job.yaml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"batchr1: {data}: {{{{ and ${{ are filled in where a job names a path. Rename the data.\n"
    )


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine", encoding="utf-8")
    result = init(ROOT / "jobs/data/math.parquet", "--to", path)

    assert result.exit_code == 2
    assert result.stderr == (
        f"batchr1: {path}: is there already. Name another file with --to, or delete it.\n"
    )
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_place_that_takes_no_file_is_refused() -> None:
    for path in ("/proc/x.yaml", "/proc/x/y.yaml", "/dev/null/y.yaml"):
        result = init(ROOT / "jobs/data/math.parquet", "--to", path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"batchr1: {path}: "), result.stderr
        assert result.stderr.count("\n") == 1


def test_data_that_will_not_do_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0]}), tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "none.parquet")

    numbers = init(tmp_path / "numbers.parquet", "--to", tmp_path / "x.yaml")
    assert numbers.exit_code == 2
    assert "no column will do as a prompt (the file has: a)" in numbers.stderr
    assert "no rows to guess columns from" in init(tmp_path / "none.parquet").stderr
    assert init(tmp_path / "missing.parquet").exit_code == 2
    assert not (tmp_path / "x.yaml").exists()


def test_a_variant_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    result = init(
        ROOT / "jobs/data/math.parquet", "--variant", "r1-tinny", "--to", tmp_path / "job.yaml"
    )
    assert result.exit_code == 2
    assert "unknown variant (got 'r1-tinny'). Did you mean r1-tiny?" in result.stderr
    assert not (tmp_path / "job.yaml").exists()
