"""`batchr1 report`: the numbers are those of the rows, and nothing that a row holds can do anything
to the page.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from made_output import (
    MAX_TOKENS,
    RUN,
    good_row,
    large_table,
    prose,
    table_of,
    write_large,
    write_output,
)
from odd_files import null_device, read_fifo
from report_page import Page, assert_inert
from s3_fakes import S3

from batchr1.cli.main import main
from batchr1.output.folder import Output
from batchr1.output.run_record import RunRecord
from batchr1.report.numbers import log_edges, read
from batchr1.report.page import MAX_BYTES, quote, render, visible
from batchr1.storage.base import open_storage

BIDI = "\u202egnp.exe\u202c \u2066isolated\u2069 \u061c"
HOSTILE = (
    "<script>document.title = 'owned'; alert(1)</script><img src=x onerror=\"document.title = "
    "'owned'\">"
    "</div></details></body></html><style>body{display:none}</style><iframe "
    "srcdoc='<script>parent.document.title=1'>"
    '" onmouseover="alert(1)" \' </textarea><!-- <svg onload=alert(1)> {{ 7 * 7 }} {% raw %} '
    "&lt;b&gt; &amp; ]]>"
    f" \x00 nul \x1b[31m esc \x7f {BIDI} \u2028 \ufeff javascript:alert(1) <a "
    f"href='javascript:alert(1)'>x</a>"
    " \U000e0041"
)


def report(*args: str | Path) -> Result:
    return CliRunner().invoke(
        main, ["report", *map(str, args)], prog_name="batchr1", catch_exceptions=False
    )


def numbers_of(output: Path | str, **options: Any) -> dict[str, Any]:
    return read(Output(open_storage(output)), **options)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three thousand rows in three parts."""
    folder = tmp_path_factory.mktemp("made") / "out"
    text = prose(200_000)
    write_output(folder, [large_table(first, 1000, text) for first in (0, 1000, 2000)])
    return folder


def rows_of(output: Path) -> pl.DataFrame:
    return pl.read_parquet(output / "data/*.parquet")


def test_the_numbers_are_those_of_the_rows(made: Path) -> None:
    n, rows = numbers_of(made), rows_of(made)
    assert (n["rows"]["done"], n["rows"]["prompts"], n["state"]) == (3000, 750, "complete")
    assert sum(n["outcomes"].values()) == 3000
    assert n["outcomes"]["right"] == n["correct"]["right"] == rows["correct"].sum()
    assert n["truncated"]["rows"] == rows["truncated"].sum() == sum(n["truncated"]["in"].values())
    assert n["truncated"]["by"] == {"max_tokens": rows["truncated"].sum()}
    for name, stats in n["tokens"].items():
        assert stats["total"] == rows[name].sum()
        assert stats["max"] == rows[name].max()
        assert stats["mean"] == pytest.approx(rows[name].mean(), abs=0.05)
    for name, histogram in n["histograms"].items():
        counted = histogram["none"] + sum(b["whole"] + b["truncated"] for b in histogram["bins"])
        assert counted == 3000
        for b in histogram["bins"]:
            inside = rows.filter(pl.col(name).is_between(b["from"], b["to"], closed="left"))
            assert (b["truncated"], b["whole"]) == (
                inside["truncated"].sum(),
                (~inside["truncated"]).sum(),
            )
    for point in n["longer_than"]:
        assert point["rows"] == (rows["completion_tokens"] > point["tokens"]).sum()
    assert n["limits"] == {"max_tokens": MAX_TOKENS}
    assert {"tokens": MAX_TOKENS, "mark": True}.items() <= n["longer_than"][-1].items()
    for by, name in (
        ("by_prompt_length", "prompt_tokens"),
        ("by_completion_length", "completion_tokens"),
    ):
        assert sum(b["rows"] for b in n[by]) == 3000
        for b in n[by]:
            inside = rows.filter(pl.col(name).is_between(b["from"], b["to"], closed="left"))
            assert (b["rows"], b["right"]) == (inside.height, inside["correct"].sum())


def test_flags_are_those_that_occur_and_quote_ten_rows_that_have_them(made: Path) -> None:
    n, rows = numbers_of(made), rows_of(made)
    flagged = rows.explode("flags").group_by("flags").len().drop_nulls()
    assert {name: flag["rows"] for name, flag in n["flags"].items()} == dict(flagged.iter_rows())
    assert next(iter(n["flags"])) == "looping"
    for name, flag in n["flags"].items():
        assert len(flag["quoted"]) == min(10, flag["rows"])
        keys = pl.DataFrame(flag["quoted"], schema=["id", "sample"], orient="row").cast(
            {"sample": pl.Int32}
        )
        found = keys.join(rows, on=["id", "sample"])
        assert found.height == len(flag["quoted"])
        assert found["flags"].list.contains(name).all()


def test_the_rows_quoted_are_the_same_however_the_rows_are_cut_into_parts(
    tmp_path: Path, made: Path
) -> None:
    text = prose(200_000)
    whole = pa.concat_tables([large_table(first, 1000, text) for first in (0, 1000, 2000)])
    write_output(
        tmp_path / "other", [whole.slice(2100), whole.slice(0, 100), whole.slice(100, 2000)]
    )
    one, other = (
        read(Output(open_storage(folder)))[1].quoted for folder in (made, tmp_path / "other")
    )
    assert one == other
    assert {"wrong", "truncated", "looping"} <= set(one)


def test_measures_come_by_kept_columns_with_few_values_or_by_the_one_named(made: Path) -> None:
    n, rows = numbers_of(made), rows_of(made)
    assert list(n["measures"]["by"]) == ["subject", "level"]
    by_subject = {one["group"]: one for one in n["measures"]["by"]["subject"]}
    assert len(by_subject) == 8
    for subject, one in by_subject.items():
        right = rows.filter(pl.col("subject") == subject)["correct"].mean()
        assert one["pass_at"]["1"]["value"] == pytest.approx(right)
        assert one["pass_at"]["1"]["low"] <= right <= one["pass_at"]["1"]["high"]  # type: ignore[operator]
    assert list(numbers_of(made, by="truncated_in")["measures"]["by"]) == ["truncated_in"]


def test_every_measure_of_the_page_has_its_interval(tmp_path: Path) -> None:
    rows = [
        good_row(i, sample=sample, correct=(i * i + sample) % 7 < 3, final_answer=str(sample % 2))
        for i in range(40)
        for sample in range(8)
    ]
    output = write_output(tmp_path / "out", [table_of(rows)])
    numbers, found = read(output, by="level")
    text = Page(render(numbers, found).decode()).text
    shown = [numbers["measures"]["all"], *numbers["measures"]["by"]["level"]]
    assert len(shown) == 6
    for one in shown:
        for e in (one["pass_at"]["1"], one["pass_at"]["8"], one["cons_at"]["8"]):
            assert f"{100 * e['low']:.1f} – {100 * e['high']:.1f}" in text
    assert shown[0]["cons_at"]["8"]["low"] < shown[0]["cons_at"]["8"]["high"]
    assert "cons@8 that the majority of their final answers is" in text


def test_a_kept_column_of_long_or_many_values_is_no_table(tmp_path: Path) -> None:
    kept = pa.schema(
        [
            ("solution", pa.string()),
            ("count", pa.int64()),
            ("same", pa.string()),
            ("hard", pa.bool_()),
        ]
    )
    rows = [
        good_row(i, solution="long " * 40, count=i, same="x", hard=i % 2 == 0) for i in range(100)
    ]
    write_output(tmp_path / "out", [table_of(rows, kept)])
    assert list(numbers_of(tmp_path / "out")["measures"]["by"]) == ["hard"]


def test_a_column_whose_values_are_all_different_is_no_table(tmp_path: Path) -> None:
    rows = [good_row(i, subject=f"uuid-{i}", level=i % 3) for i in range(40)]
    numbers, _ = read(write_output(tmp_path / "out", [table_of(rows)]))

    assert list(numbers["measures"]["by"]) == ["level"]


@pytest.mark.parametrize(
    ("max_tokens", "limits"),
    [(MAX_TOKENS, {"max_tokens": MAX_TOKENS}), (32_768, {"context": 20_480})],
)
def test_a_limit_beyond_the_context_is_the_context(
    tmp_path: Path, max_tokens: int, limits: dict[str, int]
) -> None:
    rows = [good_row(i) for i in range(8)]
    sampling = {"n": 1, "max_tokens": max_tokens}
    numbers, _ = read(write_output(tmp_path / "out", [table_of(rows)], sampling=sampling))

    assert numbers["limits"] == limits


def test_the_tail_is_where_fewer_than_half_of_the_sequences_run(made: Path) -> None:
    time = numbers_of(made)["time"]
    most = max(point["running"] for point in time["points"])
    in_tail = [p for p in time["points"] if p["seconds"] > time["tail"]["since"]]
    assert in_tail
    assert all(p["running"] < most / 2 for p in in_tail)
    assert time["tail"]["seconds"] == pytest.approx(in_tail[-1]["seconds"] - time["tail"]["since"])
    assert 0 < time["tail"]["tokens_share"] < time["tail"]["share"] < 0.2


def test_series_of_runs_stand_one_after_the_other(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [table_of([good_row(i) for i in range(8)])])
    [record] = output.runs()
    output.write_run(record.model_copy(update={"run": RUN.replace("abcd", "abce")}))
    time = numbers_of(tmp_path / "out")["time"]
    seconds = [p["seconds"] for p in time["points"]]
    assert seconds == sorted(seconds)
    assert time["starts"] == [0.0, record.timeline.seconds[-1]]
    assert time["tail"]["since"] > time["starts"][1]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 5), (7, 7), (200, 131_072), (3, 1_000_000)])
def test_the_edges_of_a_histogram_hold_every_value_once(low: int, high: int) -> None:
    edges = log_edges(low, high)
    assert edges[0] <= low
    assert edges[-1] > high
    assert edges == sorted(set(edges))
    assert len([e for e in edges if e > high]) == 1


def write_hostile(folder: Path) -> Output:
    """An output in which every text, also those of kept columns and of the job, is an attack."""
    rows = [
        good_row(
            i,
            id=f"{i} {HOSTILE}",
            sample=i % 2,
            subject=HOSTILE if i % 2 else "plain",
            prompt=HOSTILE,
            gold=HOSTILE,
            reasoning=HOSTILE * 50,
            answer=HOSTILE,
            final_answer=HOSTILE,
            correct=False,
            truncated=i < 4,
            truncated_in="answer" if i < 4 else None,
            flags=["looping", HOSTILE],
        )
        for i in range(12)
    ]
    output = write_output(
        folder, [table_of(rows)], name=HOSTILE, prompting={"instruction": HOSTILE, HOSTILE: HOSTILE}
    )
    job = output.job() or {}
    job |= {
        "digest": HOSTILE,
        "fingerprint": {HOSTILE: HOSTILE},
        "model": dict.fromkeys(job["model"], HOSTILE),
    }
    output.write_job(job)
    [record] = output.runs()
    record.stopped, record.exit_code, record.batchr1 = HOSTILE, 75, HOSTILE
    output.write_run(record)
    return output


def test_hostile_text_is_text(tmp_path: Path) -> None:
    write_hostile(tmp_path / "out")
    assert report(tmp_path / "out", "--by", "subject").exit_code == 0
    page = (tmp_path / "out/report.html").read_bytes()
    assert_inert(page)
    shown = Page(page.decode()).text
    assert "<script>document.title = 'owned'; alert(1)</script>" in shown, "it is there to be read"
    assert "␀ nul ␛[31m esc U+007F U+202Egnp.exeU+202C" in shown
    assert "{{ 7 * 7 }}" in shown


def test_what_cannot_be_seen_is_named_and_what_scripts_need_is_left() -> None:
    assert visible("a<b>&\"'") == "a&lt;b&gt;&amp;&#34;&#39;"
    assert visible("\u202e") == '<span class="unseen" title="right-to-left override">U+202E</span>'
    for text in (
        "می\u200cخواهم",
        "क्\u200dष",
        "👩\u200d🔬",
        "שלום",
        "tab\tand\nline",
        "½ é 東",
        "\u00a0",
    ):
        assert visible(text) == text


def test_long_texts_are_cut_in_their_middle_and_say_so() -> None:
    assert quote("a" * 6000, chars=6000) == "a" * 6000
    assert quote("a" * 4000 + "b" * 6000, chars=300) == (
        "a" * 200 + '<span class="cut">… 9,700 characters left out …</span>' + "b" * 100
    )
    assert quote(None, chars=10) == '<span class="none">null</span>'


def test_a_page_stays_small_whatever_the_texts(tmp_path: Path) -> None:
    flags = [f"flag_{i:02}" for i in range(20)]
    rows = [
        good_row(i, flags=[flags[i % 20]], reasoning="\u202e<\"'" * 4000, answer="東" * 9000)
        for i in range(200)
    ]
    write_output(tmp_path / "out", [table_of(rows)])
    numbers, found = read(Output(open_storage(tmp_path / "out")))
    assert sum(len(rows) for rows in found.quoted.values()) == 200
    assert len(render(numbers, found)) <= MAX_BYTES


CHROMIUM = next(
    (p for p in map(Path, ("/usr/bin/chromium", "/usr/bin/google-chrome")) if p.exists()), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here (apt-get install chromium)"
)


def chromium(folder: Path, *args: str) -> str:
    """What headless Chromium prints. Without a network: every host name leads nowhere."""
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=4000",
        *args,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout + "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@needs_chromium
def test_hostile_text_does_nothing_in_a_real_browser(tmp_path: Path) -> None:
    """The page as it is, and once more with its policy taken out: escaping alone must do."""
    write_hostile(tmp_path / "out")
    report(tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    bare = re.sub(r"<meta http-equiv=.*?>\n", "", page)
    assert bare != page
    (tmp_path / "bare.html").write_text(bare)
    for path in (tmp_path / "out/report.html", tmp_path / "bare.html"):
        said = chromium(tmp_path, "--dump-dom", path.as_uri())
        found = Page(said)
        assert "owned" not in re.search("<title>(.*?)</title>", said, re.DOTALL)[1].replace(
            "= 'owned'", ""
        )  # type: ignore[index]
        assert not {"script", "iframe", "img", "a"} & set(found.tags)
        assert "CONSOLE" not in said, "neither an error nor a refused request"
    canary = (tmp_path / "bare.html").with_name("canary.html")
    canary.write_text(bare.replace("<main>", "<main><script>document.title = 'owned'</script>", 1))
    said = chromium(tmp_path, "--dump-dom", canary.as_uri())
    assert "<title>owned</title>" in said, "this browser would have run it"


@pytest.mark.slow
@needs_chromium
def test_the_page_asks_the_network_for_nothing(tmp_path: Path, made: Path) -> None:
    report(made, "--to", tmp_path / "page.html")
    log = tmp_path / "net.json"
    said = chromium(
        tmp_path, f"--log-net-log={log}", "--dump-dom", (tmp_path / "page.html").as_uri()
    )
    assert "Sequences running" in said
    urls = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    ours = {
        url
        for url in urls
        if "page.html" in url or not re.match(r"https?://[^/]*(google|gvt1|chrome)", url)
    }
    assert {url for url in ours if url.startswith("http")} == set()


def test_a_report_tells_of_an_output_that_is_not_complete(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(i) for i in range(30)])], pending=70)
    done = report(tmp_path / "out")
    assert re.fullmatch(rf"{tmp_path}/out/report.html: \d\.\d MB about 30 rows\n", done.output)
    shown = Page((tmp_path / "out/report.html").read_text()).text
    assert "This output is not complete: everything below is of the rows that are done." in shown
    assert "70 pending" in shown
    assert "exit code 75: a signal arrived (SIGTERM)" in shown


def test_a_report_on_a_run_that_committed_nothing_yet(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [], pending=100)
    assert report(tmp_path / "out").exit_code == 0
    assert (
        "There is nothing to count before the first part"
        in (tmp_path / "out/report.html").read_text()
    )
    assert json.loads(report(tmp_path / "out", "--json").output)["rows"]["done"] == 0


def test_a_report_on_a_run_whose_engine_never_came_up(tmp_path: Path) -> None:
    output = write_output(tmp_path / "out", [], pending=100)
    output.storage.delete(".batchr1/job.json")
    [record] = output.runs()
    kept = ("run", "started", "batchr1", "job", "plan", "counts_before")
    started = {name: value for name, value in record.to_dict().items() if name in kept}
    output.write_run(RunRecord.model_validate(started | {"state": "running"}))
    assert report(tmp_path / "out").exit_code == 0
    shown = Page((tmp_path / "out/report.html").read_text()).text
    assert "This output is interrupted" in shown
    assert "ended without a word" in shown


def test_a_report_without_gold_or_series_or_kept_columns(tmp_path: Path) -> None:
    rows = [good_row(i, gold=None, correct=None, final_answer=None) for i in range(5)]
    output = write_output(tmp_path / "out", [table_of(rows, pa.schema([]))])
    [record] = output.runs()
    gone = ("timeline", "memory", "plan")
    left = {name: value for name, value in record.to_dict().items() if name not in gone}
    output.write_run(RunRecord.model_validate(left))
    assert report(tmp_path / "out").exit_code == 0
    shown = Page((tmp_path / "out/report.html").read_text()).text
    assert "How many are right" not in shown
    assert "No series of the load was recorded" in shown
    assert numbers_of(tmp_path / "out")["outcomes"] == {"not judged": 5}


def test_a_group_none_of_whose_rows_is_judged_has_no_rates(tmp_path: Path) -> None:
    unjudged = {"subject": "no gold", "gold": None, "correct": None}
    rows = [good_row(i, subject="sums") for i in range(4)]
    rows += [good_row(i, **unjudged) for i in range(4, 8)]
    write_output(tmp_path / "out", [table_of(rows)])
    assert report(tmp_path / "out").exit_code == 0

    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    rates = {
        name: re.sub(r"<[^>]+>|\s", " ", page[page.index(f"<th>{name}</th>") :].split("</tr>")[0])
        for name in ("sums", "no gold")
    }
    assert "100.0 %" in rates["sums"]
    assert rates["no gold"].split()[:4] == ["no", "gold", "4", "–"]


def test_a_report_on_a_real_run(tmp_path: Path, real_output: Path) -> None:
    done = report(real_output, "--to", tmp_path / "page.html")
    assert done.output == f"{tmp_path}/page.html: 0.1 MB about 40 rows\n"
    assert not (real_output / "report.html").exists()
    page = (tmp_path / "page.html").read_text()
    assert_inert(page.encode())
    for title in (
        "Output tokens per second",
        "Sequences running",
        "KV cache in use",
        "Plan against measured",
    ):
        assert title in page
    n = numbers_of(real_output)
    assert n["time"]["points"][-1]["finished"] == 40
    assert (n["nights"][0]["rows"], n["nights"][0]["counted_from"]) == (40, "record")


def test_readers_of_the_output_do_not_mind_the_report(tmp_path: Path) -> None:
    import datasets
    import duckdb

    write_output(tmp_path / "out", [table_of([good_row(i) for i in range(5)])])
    report(tmp_path / "out")
    assert (
        datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))[
            "train"
        ].num_rows
        == 5
    )
    assert duckdb.sql(f"select count(*) from '{tmp_path}/out/data/*.parquet'").fetchall() == [(5,)]


def test_report_json_is_the_numbers_and_writes_no_page_unless_told_where(
    made: Path, tmp_path: Path
) -> None:
    found = json.loads(report(made, "--json").stdout)
    wanted = numbers_of(made)
    assert {**found, "made_at": None} == {
        **json.loads(json.dumps(wanted, default=str)),
        "made_at": None,
    }
    both = report(made, "--json", "--to", tmp_path / "page.html")
    assert json.loads(both.stdout)["rows"]["done"] == 3000
    assert (tmp_path / "page.html").exists()


def test_a_report_on_s3_lies_beside_its_results(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    write_output(s3.storage("out"), [table_of([good_row(i) for i in range(20)])])
    assert report(f"s3://{s3.bucket}/out").output.startswith(
        f"s3://{s3.bucket}/out/report.html: 0."
    )
    page = s3.client().get_object(Bucket=s3.bucket, Key="out/report.html")["Body"].read()
    assert_inert(page)
    assert (
        report(f"s3://{s3.bucket}/out", "--to", f"s3://{s3.bucket}/pages/one.html").exit_code == 0
    )
    assert (
        s3.client().get_object(Bucket=s3.bucket, Key="pages/one.html")["Body"].read()[:15]
        == b"<!doctype html>"
    )


def test_a_page_is_written_into_what_is_no_regular_file(tmp_path: Path, made: Path) -> None:
    device = null_device(tmp_path / "null")
    before = device.lstat()
    assert report(made, "--to", device).exit_code == 0
    after = device.lstat()
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)

    with read_fifo(tmp_path / "fifo") as found:
        assert report(made, "--to", tmp_path / "fifo").exit_code == 0
    assert_inert(found[0])
    assert (tmp_path / "fifo").is_fifo()

    (tmp_path / "link.html").symlink_to(tmp_path / "page.html")
    assert report(made, "--to", tmp_path / "link.html").exit_code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert_inert((tmp_path / "page.html").read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"null", "fifo", "link.html", "page.html"}


BAD = {
    "nothing there": (
        ["TMP/none"],
        "TMP/none: not an output of batchr1. Give the folder that a job wrote.",
    ),
    "a foreign folder": (
        ["TMP"],
        "TMP: not an output of batchr1. Its folders are: 'TMP/*' names them all.",
    ),
    "no such column": (
        ["TMP/out", "--by", "topic"],
        "TMP/out: --by topic: there is no such column (kept columns: subject, level).",
    ),
    "a page in a folder's place": (
        ["TMP/out", "--to", "TMP/out"],
        "--to TMP/out: is a folder (need a file). Write --to TMP/out/report.html.",
    ),
    "a slash at the end": (
        ["TMP/out", "--to", "TMP/new/"],
        "--to TMP/new/: is a folder (need a file). Write --to TMP/new/report.html.",
    ),
    "a page among the results": (
        ["TMP/out", "--to", "TMP/out/data/report.html"],
        "--to TMP/out/data/report.html: lies among the results (got data/ of the output). Give "
        "another place.",
    ),
    "an unknown store": (
        ["ftp://host/out"],
        "ftp://…: storage of this kind is not supported (got 'ftp', need a path, file:// or "
        "s3://). Copy the data, or use the store's S3 interface with storage.endpoint.",
    ),
    "a part that is damaged": (
        ["TMP/torn"],
        "TMP/torn/data/part-20261120T101500000Z-abcd-0-0-00000.parquet: not a readable part "
        "(REASON). batchr1 publishes whole files only, so something else changed it: delete it, "
        "and its rows run again.",
    ),
    "a run record that is damaged": (
        ["TMP/torn_run"],
        f"TMP/torn_run/.batchr1/runs/{RUN}.json: not the record of a run (got Expecting property "
        "name enclosed in double quotes: line 1 column 2 (char 1)). Something else changed it: put "
        "it back, or delete it (rows stay, this run's figures go).",
    ),
    "a run record with another value": (
        ["TMP/odd_run"],
        f"TMP/odd_run/.batchr1/runs/{RUN}.json: not the record of a run (got tally.done: input "
        "should be a valid integer, unable to parse string as an integer). Something else changed "
        "it: put it back, or delete it (rows stay, this run's figures go).",
    ),
    "a job record that is damaged": (
        ["TMP/odd"],
        "TMP/odd/.batchr1/job.json: not the record of a job (something else changed it). Put it "
        "back, or start over with --fresh (deletes these results).",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_inputs_are_refused_with_one_line(name: str, tmp_path: Path) -> None:
    write_output(tmp_path / "out", [table_of([good_row(i) for i in range(5)])])
    if name == "a part that is damaged":
        [part] = write_output(tmp_path / "torn", [table_of([good_row(0)])]).parts()
        (tmp_path / "torn" / part).write_bytes(b"PAR1 what a pity")
    if name == "a run record that is damaged":
        write_output(tmp_path / "torn_run", [table_of([good_row(0)])])
        (tmp_path / f"torn_run/.batchr1/runs/{RUN}.json").write_text("{what a pity")
    if name == "a run record with another value":
        output = write_output(tmp_path / "odd_run", [table_of([good_row(0)])])
        [record] = output.runs()
        changed = record.to_dict() | {"tally": {"done": "many"}}
        (tmp_path / f"odd_run/.batchr1/runs/{RUN}.json").write_text(json.dumps(changed))
    if name == "a job record that is damaged":
        write_output(tmp_path / "odd", [table_of([good_row(0)])])
        (tmp_path / "odd/.batchr1/job.json").write_text("[]")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    args, message = BAD[name]
    done = report(*(a.replace("TMP", str(tmp_path)) for a in args))
    said = re.sub(
        r"\(Could not open.*?\)\. batchr1",
        "(REASON). batchr1",
        done.stderr.replace(str(tmp_path), "TMP"),
    )
    assert said == f"batchr1: {message}\n"
    assert (done.exit_code, done.stdout) == (2, "")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_a_hundred_thousand_rows_in_a_minute_and_five_megabytes(tmp_path: Path) -> None:
    write_large(tmp_path / "out", 100_000)
    code = (
        "import resource, sys, time; started = time.monotonic(); from batchr1.cli.main import "
        f"main; main(['report', {str(tmp_path / 'out')!r}], standalone_mode=False); "
        "print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, peak_kib = map(float, done.stdout.splitlines()[-1].split())
    size = (tmp_path / "out/report.html").stat().st_size
    print(f"{seconds:.1f} s, {peak_kib / 2**20:.2f} GiB, {size / 1e6:.2f} MB")
    assert seconds < 60
    assert size < 5_000_000
    assert peak_kib < 1.5 * 2**20


def test_a_column_of_a_value_for_each_prompt_is_no_group(tmp_path: Path) -> None:
    kept = pa.schema([("uuid", pa.string()), ("subject", pa.string())])
    rows = [good_row(i, sample=s, uuid=f"u{i}") for i in range(16) for s in range(4)]
    write_output(tmp_path / "out", [table_of(rows, kept)])
    assert list(numbers_of(tmp_path / "out")["measures"]["by"]) == ["subject"]
    assert list(numbers_of(tmp_path / "out", by="uuid")["measures"]["by"]) == ["uuid"]
