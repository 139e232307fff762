"""`status` of outputs that share prompts: is the second better than the first?"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from made_output import good_row, table_of, write_output
from replay_job import replay, rows_of, run_replay
from solvable import LENGTHS, ROWS, solvable_job

from batchr1.cli.main import main
from batchr1.report.compare import exact_interval, mean_difference, t_quantile

MATH = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


def status(*args: str | Path) -> str:
    words = ["status", *(str(arg) for arg in args)]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def compared(*args: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(status(*args, "--json"))["comparisons"]
    return found


def made(folder: Path, right: Sequence[bool | None], samples: int = 1, **values: Any) -> Path:
    """An output whose row i has these verdicts, `samples` of them to a prompt."""
    rows = [
        good_row(i // samples, sample=i % samples, correct=verdict, **values)
        for i, verdict in enumerate(right)
    ]
    write_output(folder, [table_of(rows)])
    return folder


# The figures of a real pair of runs, worked out anew.


def shares(output: Path) -> dict[str, Fraction]:
    """Each prompt's share of right samples, counted in plain Python."""
    verdicts: dict[str, list[bool]] = {}
    for row in rows_of(output).select("id", "correct").to_dicts():
        verdicts.setdefault(row["id"], []).append(row["correct"])
    return {id: Fraction(sum(found), len(found)) for id, found in verdicts.items()}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one job by two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (3, 4):
        job = solvable_job(
            folder,
            sampling={"n": 4, "max_tokens": 100, "seed": seed},
            output={"path": f"out/{seed}"},
            stop_when=None,
        )
        assert run_replay(job, replay(groups=LENGTHS)).exit_code == 0
    return folder / "out/3", folder / "out/4"


def test_two_runs_are_compared_prompt_by_prompt(two_runs: tuple[Path, Path]) -> None:
    (found,) = compared(*two_runs)
    first, second = shares(two_runs[0]), shares(two_runs[1])
    differences = [second[id] - first[id] for id in first]
    mean = statistics.fmean(differences)
    # Of 29 degrees of freedom, from a printed table.
    half = 2.045 * statistics.stdev(differences) / math.sqrt(ROWS)

    assert found["prompts"] == ROWS
    assert found["difference"]["value"] == pytest.approx(mean)
    assert found["difference"]["low"] == pytest.approx(mean - half, abs=1e-4)
    assert found["difference"]["high"] == pytest.approx(mean + half, abs=1e-4)
    assert (found["better"], found["worse"], found["equal"]) == (
        sum(d > 0 for d in differences),
        sum(d < 0 for d in differences),
        sum(d == 0 for d in differences),
    )
    assert min(found["better"], found["worse"]) > 0, "else this shows nothing"
    assert set(found["left_out"].values()) == {0}


def test_each_share_is_the_pass_at_1_that_status_gives_of_it_alone(
    two_runs: tuple[Path, Path],
) -> None:
    (found,) = compared(*two_runs)
    for output, share in zip(two_runs, (found["first"], found["second"]), strict=True):
        alone = json.loads(status(output, "--json"))["measures"]["pass_at"]["1"]
        assert {name: share[name] for name in ("value", "low", "high")} == pytest.approx(
            {name: alone[name] for name in ("value", "low", "high")}
        )
        assert (share["interval"], share["samples"]) == ("bootstrap", 4 * ROWS)


# A difference that is known.


def test_what_is_printed_of_two_outputs_with_a_known_difference(tmp_path: Path) -> None:
    """Of 100 prompts 40 are right in both, 30 only in the second, 10 only in the first."""
    first = made(tmp_path / "one", [True] * 50 + [False] * 50)
    made(tmp_path / "two", [True] * 40 + [False] * 10 + [True] * 30 + [False] * 20)
    said = status(first, tmp_path / "two").splitlines()

    # s² = (40 - 100 · 0.2²) / 99, t of 99 degrees = 1.984: 0.2 ± 0.1196.
    at = said.index("  compared on 100 prompts that are judged in both (pass@1, 95% intervals)")
    assert said[at + 1 :] == [
        "    one          50.0% (39.8 to 60.2, exact), 100 samples",
        "    two          70.0% (60.0 to 78.8, exact), 100 samples",
        "    difference  +20.0 (+8.0 to +32.0) points: they differ",
        "    prompts     30 better, 10 worse, 60 equal",
    ]


def test_samples_of_one_prompt_are_no_more_evidence_than_the_prompt(tmp_path: Path) -> None:
    """Ten equal samples of each prompt say what one says, and no more."""
    verdicts = [True, False] * 10, [True, True] * 5 + [True, False] * 5
    for samples in (1, 10):
        for name, each in zip("ab", verdicts, strict=True):
            made(tmp_path / f"{samples}{name}", np.repeat(each, samples).tolist(), samples)
    (one,) = compared(tmp_path / "1a", tmp_path / "1b")
    (ten,) = compared(tmp_path / "10a", tmp_path / "10b")

    assert one["difference"] == pytest.approx(ten["difference"])
    assert (one["first"]["interval"], ten["first"]["interval"]) == ("exact", "bootstrap")
    assert one["notes"] == ["few prompts (20): take the intervals as rough"]


# What is left out, and why nothing is compared.


def test_only_the_same_prompts_are_compared_and_the_others_counted(tmp_path: Path) -> None:
    first = [good_row(i) for i in range(40)]
    second = [good_row(i, correct=i % 2 == 0) for i in range(2, 45)]
    second[0] |= {"correct": None}
    second[1] |= {"prompt": "What is 1?"}
    second[2] |= {"prompt": "What is 2?", "gold": "2"}
    second[3] |= {"gold": "another"}
    write_output(tmp_path / "a", [table_of(first)])
    write_output(tmp_path / "b", [table_of(second[:9]), table_of(second[9:])], pending=2)
    (found,) = compared(tmp_path / "a", tmp_path / "b")

    assert found["left_out"] == {
        "only_first": 2,
        "only_second": 5,
        "not_judged": 1,
        "other_prompt": 2,
        "other_gold": 1,
    }
    assert (found["prompts"], found["equal"], found["worse"]) == (34, 17, 17)
    assert found["notes"] == ["the second is not complete: its figures may change"]
    said = status(tmp_path / "a", tmp_path / "b")
    assert "left out    2 only in the first, 5 only in the second, 1 not judged in both" in said
    assert max(map(len, said.splitlines()[1:])) <= 80


def test_the_instruction_is_a_setting_and_not_the_prompt(tmp_path: Path) -> None:
    rows = [good_row(i, prompt=f"What is {i} + {i}?{MATH}") for i in range(3)]
    write_output(tmp_path / "a", [table_of(rows)])
    made(tmp_path / "b", [True] * 3)
    job = tmp_path / "b/.batchr1/job.json"
    job.write_text(job.read_text().replace('"instruction": "math"', '"instruction": "none"'))

    assert [one["prompts"] for one in compared(tmp_path / "a", tmp_path / "b")] == [3]


def test_an_instruction_that_the_input_holds_itself_is_the_same(tmp_path: Path) -> None:
    """`math` is not appended to a prompt that has it; a job without one asks the same."""
    for name in "ab":
        made(tmp_path / name, [True] * 3, prompt=f"What is 1 + 1?{MATH}")
    job = tmp_path / "b/.batchr1/job.json"
    job.write_text(job.read_text().replace('"instruction": "math"', '"instruction": "none"'))

    assert [one["prompts"] for one in compared(tmp_path / "a", tmp_path / "b")] == [3]


def test_a_system_message_is_folded_into_the_first_turn_of_the_user(tmp_path: Path) -> None:
    hello = {"role": "assistant", "content": "Hello."}
    kept = [{"role": "system", "content": "Be brief."}, hello, {"role": "user", "content": "1?"}]
    folded = [hello, {"role": "user", "content": "Be brief.\n\n1?"}]
    for name, turns in (("a", kept), ("b", folded)):
        text = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        made(tmp_path / name, [True] * 2, prompt=text, prompt_messages=json.dumps(turns))

    assert [one["prompts"] for one in compared(tmp_path / "a", tmp_path / "b")] == [2]


def test_a_system_message_is_the_same_folded_or_kept(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    kept = {
        "prompt": "system: Be brief.\n\nuser: 1 + 1?",
        "prompt_messages": json.dumps(turns),
    }
    made(tmp_path / "a", [True] * 2, **kept)
    made(tmp_path / "b", [True] * 2, prompt="Be brief.\n\n1 + 1?")
    made(tmp_path / "c", [True] * 2, prompt="1 + 1?")

    found = compared(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert [one["prompts"] for one in found] == [2, 0]


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"right": [None] * 2}, "the second has no verdicts"),
        ({"right": [True] * 2, "prompt": "Other?"}, "prompts of the same id have other texts or"),
        ({"right": [True] * 2, "gold": "7"}, "prompts of the same id have other texts or golds"),
        ({"right": []}, "the second has no verdicts"),
    ],
)
def test_one_line_says_why_there_is_no_comparison(
    tmp_path: Path, second: dict[str, Any], reason: str
) -> None:
    made(tmp_path / "a", [True] * 2)
    made(tmp_path / "b", **second)
    *above, last = status(tmp_path / "a", tmp_path / "b").splitlines()

    assert last.startswith(f"  not compared: {reason}")
    assert not any("compared" in line for line in above)
    (found,) = compared(tmp_path / "a", tmp_path / "b")
    assert (found["prompts"], found["difference"]) == (0, None)


def test_outputs_without_a_common_prompt_are_not_compared(tmp_path: Path) -> None:
    for i in range(3):
        write_output(tmp_path / f"nights/{i}", [table_of([good_row(i)])])
    said = status(tmp_path / "nights/0", tmp_path / "nights/1")
    assert said.endswith("  not compared: they share no prompt\n")
    assert "compared" not in status(tmp_path / "nights/*"), "nights have prompts of their own"
    made(tmp_path / "nights/3", [None])
    assert status(tmp_path / "nights/*").endswith(
        "  not compared: no other output has a judged prompt of 0\n"
    )


def test_other_rules_of_verdicts_and_stop_when_are_noted(tmp_path: Path) -> None:
    made(tmp_path / "a", [True, False] * 20)
    write_output(
        tmp_path / "b", [table_of([good_row(i) for i in range(40)])], stop_when={"correct": 1}
    )
    job = tmp_path / "a/.batchr1/job.json"
    document = json.loads(job.read_text())
    document["fingerprint"]["verify.kind"] = "number"
    job.write_text(json.dumps(document))

    assert compared(tmp_path / "a", tmp_path / "b")[0]["notes"] == [
        "they were judged by other rules (verify)",
        "stop_when ends prompts by their right samples: pass@1 is not comparable",
    ]


def test_several_are_compared_with_the_first_in_a_table(tmp_path: Path) -> None:
    made(tmp_path / "outputs/base", [True, False] * 50)
    made(tmp_path / f"outputs/{'long-' * 8}name", [True] * 60 + [False] * 40)
    made(tmp_path / "outputs/same", [True, False] * 50)
    write_output(tmp_path / "outputs/zero", [table_of([good_row(200)])])
    said = status(tmp_path / "outputs/*").splitlines()
    at = said.index("  compared with base by prompt (pass@1, 95% intervals, in points)")

    assert said[at + 1 :] == [
        "                          prompts  right  difference             better  worse",
        "  …g-long-long-long-name      100  60.0%  +10.0 (-4.0 to +24.0)      30     20",
        "  same                        100  50.0%  0.0 (no interval)           0      0",
        "  not compared: 1 of 3, without a judged prompt of it",
        "  notes, and what was left out, are in --json",
    ]
    assert max(map(len, said[at:])) <= 80


# The statistics.


@pytest.mark.parametrize(
    ("degrees", "printed"),
    [
        *[(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (10, 2.228), (29, 2.045)],
        *[(120, 1.980), (1000, 1.962), (9_999, 1.960), (10_000, 1.960)],
    ],
)
def test_quantiles_of_t_are_those_of_printed_tables(degrees: int, printed: float) -> None:
    assert t_quantile(degrees) == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (1, 7), (5, 9), (9, 9), (150, 1000)])
def test_an_exact_interval_ends_where_the_tails_have_a_fortieth(right: int, count: int) -> None:
    """Tails are summed in whole fractions."""

    def tail(ks: range, p: Fraction) -> float:
        return float(sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in ks))

    low, high = (Fraction(end).limit_denominator(10**9) for end in exact_interval(right, count))
    if right:
        assert tail(range(right, count + 1), low) == pytest.approx(0.025, rel=1e-5)
    if right < count:
        assert tail(range(right + 1), high) == pytest.approx(0.025, rel=1e-5)
    assert (low == 0, high == 1) == (right == 0, right == count)


def test_an_exact_interval_of_a_million_rows_sums_few_terms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All terms at each of some hundred looks would take seconds."""
    summed: list[int] = []
    arange = np.arange

    def counted(*args: Any) -> Any:
        found = arange(*args)
        summed.append(found.size)
        return found

    monkeypatch.setattr(np, "arange", counted)
    found = exact_interval(500_000, 1_000_000)
    factorials, *looks = summed
    assert factorials == 1_000_000
    assert 0 < max(looks) < 50_000
    assert found == pytest.approx((0.5 - 1.959964 * 0.0005, 0.5 + 1.959964 * 0.0005), abs=2e-6)


def test_intervals_of_paired_differences_cover_the_truth() -> None:
    """Of prompts with chances of their own, and of samples that share them."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        chance = rng.beta(0.5, 0.5, 40)
        gain = np.clip(chance + rng.normal(0.05, 0.2, 40), 0, 1)
        first, second = rng.binomial(8, chance) / 8, rng.binomial(8, gain) / 8
        found = mean_difference(second - first)
        assert found.low is not None and found.high is not None
        covered += found.low <= TRUTH <= found.high
    assert 0.92 * 400 <= covered <= 0.98 * 400


def _truth() -> float:
    """The mean gain of the prompts above, over two million of them."""
    rng = np.random.default_rng(6)
    chance = rng.beta(0.5, 0.5, 2_000_000)
    return float((np.clip(chance + rng.normal(0.05, 0.2, 2_000_000), 0, 1) - chance).mean())


TRUTH = _truth()


def test_differences_that_are_all_alike_have_no_interval() -> None:
    for differences in ([0.5], [0.1 + 0.2, 0.3], [0.0] * 9):
        found = mean_difference(np.array(differences))
        assert (found.low, found.is_shown) == (None, False)


def test_figures_of_each_output_are_as_without_the_comparison(two_runs: tuple[Path, Path]) -> None:
    both = json.loads(status(*two_runs, "--json"))
    for output, summary in zip(two_runs, both["outputs"], strict=True):
        alone = json.loads(status(output, "--json"))
        assert {k: summary[k] for k in alone if k != "health"} == {
            k: alone[k] for k in alone if k != "health"
        }
    assert pl.read_parquet(two_runs[0] / "data").height == 4 * ROWS
