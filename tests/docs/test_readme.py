"""README and pages say what the code does: job files, columns, commands, recorded output.

`UPDATE_GOLDEN=1 pytest tests/docs/test_readme.py` rewrites the blocks that are derived from the
code.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchr1.cli.export import as_text as export_text
from batchr1.cli.export import command as export_command
from batchr1.cli.main import COMMANDS, main
from batchr1.cli.run import as_text
from batchr1.cli.status.text import as_text as status_text
from batchr1.columns import COLUMNS
from batchr1.dataset.pending import Counts
from batchr1.driver.monitor.summary import Summary
from batchr1.driver.tally import Tally
from batchr1.export.options import ExportOptions
from batchr1.export.select import Step, filters
from batchr1.report.summary import GroupSummary, InFlight, LastRun, OutputSummary

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "README.md"


PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
MAIN_COLUMNS = (
    "id",
    "sample",
    "reasoning",
    "answer",
    "final_answer",
    "correct",
    "reasoning_tokens",
    "truncated",
)


def block(name: str) -> tuple[Path, str]:
    """The page and what stands between `<!-- name -->` and the end of its fence or table."""
    pattern = rf"<!-- {re.escape(name)} -->\n\n?(```.*?\n```|(?:\|[^\n]*\n)+)"
    found = [
        (page, match[1].strip())
        for page in PAGES
        for match in re.finditer(pattern, page.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert len(found) == 1, f"{len(found)} pages have a block {name}"
    return found[0]


def hold(name: str, wanted: str) -> None:
    page, have = block(name)
    if os.environ.get("UPDATE_GOLDEN") and have != wanted:
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(have, wanted), encoding="utf-8")
        pytest.skip("rewritten")
    assert have == wanted


def test_the_job_file_shown_is_the_one_that_ships() -> None:
    hold(
        "jobs/math.yaml",
        "```yaml\n" + (REPOSITORY / "jobs/math.yaml").read_text(encoding="utf-8").strip() + "\n```",
    )


def test_the_columns_shown_are_the_ones_that_are_written() -> None:
    lines = ["| column | type | null | meaning |", "|---|---|---|---|"]
    for c in COLUMNS:
        values = f" ({', '.join(f'`{v}`' for v in c.values)})" if c.values else ""
        lines.append(
            f"| `{c.name}` | {c.type} | {'yes' if c.nullable else ''} | {c.meaning}{values} |"
        )
    hold("columns", "\n".join(lines))


def test_the_main_columns_shown_are_among_them() -> None:
    meanings = {column.name: column.meaning for column in COLUMNS}
    lines = [f"| `{name}` | {meanings[name]} |" for name in MAIN_COLUMNS]
    hold("main columns", "\n".join(["| column | meaning |", "|---|---|", *lines]))
    others = len(COLUMNS) - len(MAIN_COLUMNS)
    assert f"[{others} more](docs/columns.md)" in README.read_text(encoding="utf-8")


def test_the_output_shown_is_what_run_prints() -> None:
    """The figures are those of a real run; the words are the code's."""
    shown = block("make-math")[1].splitlines()[1:-1]
    pattern = (
        r"this run: 240 rows, ([\d,]+) tokens in ([\d,.]+) s, ([\d,]+) tokens/s while generating, "
        r"([\d.]+)% truncated, ([\d.]+)% correct"
    )
    figures = re.search(pattern, shown[1])
    assert figures, shown
    tokens, seconds, rate = (float(figures[i].replace(",", "")) for i in (1, 2, 3))
    truncated, correct = (round(float(figures[i]) * 2.4) for i in (4, 5))
    tally = Tally(done=240, tokens=int(tokens), truncated=truncated, correct=correct, judged=240)
    output = shown[2].removeprefix("output: ")
    summary = Summary("run", output, Counts(240, 1, 240, 0, 0), tally, seconds, rate, 0, None)
    assert shown == as_text(summary, "batchr1 run jobs/math.yaml").splitlines()


def test_the_row_shown_is_what_show_prints() -> None:
    """The row is one of a real run, kept for other tests."""
    kept = REPOSITORY / "tests/data/before_rebuild/output"
    _, command, *shown, _ = block("show")[1].splitlines()
    words = shlex.split(command.removeprefix("$ batchr1 "))
    words = [str(kept) if word == "out/math-r1-tiny" else word for word in words]
    printed = CliRunner().invoke(main, [*words, "--rows", "1"]).stdout
    assert shown == printed.splitlines()


def test_the_status_shown_is_what_status_prints() -> None:
    """The figures are those of a real run; the lines and their words are the code's."""
    shown = block("status")[1].splitlines()[2:-1]
    text = "\n".join(shown).replace(",", "")
    [tokens] = re.findall(r"tokens +(\d+) generated", text)
    [right, judged] = re.findall(r"correct +(\d+) of (\d+)", text)[0]
    [speed] = re.findall(r"speed +(\d+) tokens/s", text)
    stats = {
        name: {key: float(value) for key, value in re.findall(r"(mean|p50|p95|max) +(\d+)", rest)}
        for name, rest in re.findall(r"^    (\w+_tokens) (.*)$", text, re.MULTILINE)
    }
    groups = [
        GroupSummary(
            name,
            int(n),
            round(int(n) * float(c) / 100),
            int(n),
            round(int(n) * float(t) / 100),
            float(mean),
        )
        for name, n, c, t, mean in re.findall(
            r"family (\w+) +(\d+) rows +([\d.]+)% correct +([\d.]+)% truncated +(\d+) tokens", text
        )
    ]
    summary = OutputSummary(
        output=shown[0].removesuffix(": complete"),
        complete=True,
        done=240,
        failed={},
        pending=0,
        statuses={"closed": 240},
        truncated_in={},
        judged=int(judged),
        correct=int(right),
        tokens=int(tokens),
        token_stats=stats,
        flags={},
        runs=1,
        last_run=LastRun(),
        holder=None,
        in_flight=InFlight(0, 0, 0, 0),
        tokens_per_s=float(speed),
        eta_s=None,
        groups=groups,
    )
    assert shown == status_text(summary, "family").splitlines()
    assert sum(group.rows for group in groups) == 240


def test_the_plan_shown_is_what_plan_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # a machine that has not seen the model
    monkeypatch.chdir(REPOSITORY)
    shown = block("plan")[1].splitlines()[1]
    code = "from batchr1.cli.main import program; program()"
    words = shlex.split(shown.removeprefix("$ batchr1 "))
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    hold("plan", f"```console\n{shown}\n{done.stdout.strip()}\n```")


def test_the_export_shown_is_what_export_prints() -> None:
    """The figures are those of a real export; the words are the code's."""
    shown = block("export")[1].splitlines()[1:-1]
    words = shlex.split(shown[0].removeprefix("$ batchr1 export "))
    params = export_command.make_context(
        "export", words, **main.context_settings
    ).params  # its help option is kept
    names = (
        "form",
        "where",
        "correct_only",
        "drop_flags",
        "max_tokens",
        "per_prompt",
        "dedupe",
        "reasoning",
    )
    options = ExportOptions(
        **{name: params[name] for name in names}, test_share=params["test_share"]
    )
    dest, size = re.findall(r"^(\S+): [\d,]+ rows, parquet, ([\d.]+) MB$", shown[1])[0]
    counts = [int(re.findall(r"[\d,]+", line)[0].replace(",", "")) for line in shown[2:]]
    steps = [
        Step(name, keeps, rows)
        for (name, keeps, _), rows in zip(filters(options), counts[1:], strict=False)
    ]
    splits = {}
    for line in shown[3 + len(steps) :]:
        rows, prompts, tokens = (
            int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", line)
        )
        splits[line.split()[0]] = {"rows": rows, "prompts": prompts, "completion_tokens": tokens}
    summary = {
        "dest": dest,
        "format": "parquet",
        "bytes": float(size) * 1e6,
        "rows_in": counts[0],
        "outputs": [{"output": "out/math-r1-tiny", "rows": counts[0], "complete": True}],
        "other_prompts": 0,
        "rows": sum(split["rows"] for split in splits.values()),
        "steps": [asdict(step) for step in steps],
        "splits": splits,
        "test_share": options.test_share,
        "incomplete": None,
        "contamination": None,
        "near_duplicates": None,
        "verdicts": None,
        "push": None,
    }
    assert shown[1:] == export_text(summary).splitlines()
    assert summary["rows"] == steps[-1].rows


def test_every_command_named_exists_and_every_exit_code_is_listed() -> None:
    text = README.read_text(encoding="utf-8")
    for command in re.findall(
        r"\bbatchr1 (init|run|check|status|show|verify|schema|plan|report|export|variants|fetch)\b",
        text,
    ):
        assert command in COMMANDS, f"README names `batchr1 {command}`, which is not there"
    for code in (
        "0 complete",
        "1 failed for good",
        "2 usage",
        "3 complete but",
        "4 another run",
        "75 stopped",
    ):
        assert code in text


def test_make_targets_named_exist() -> None:
    targets = set(
        re.findall(
            r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    named = re.findall(
        r"^ +make ([a-z ]+?)(?: +#.*)?$", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert named
    for line in named:
        assert set(line.split()) <= targets, f"no such target: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_to_one(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {_anchor(heading) for heading in headings}, f"{target}#{anchor}"


def _anchor(heading: str) -> str:
    """Name a heading as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 1200
