"""Options of `batchr1 export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from batchr1.errors import UsageError
from batchr1.export.push import PushOptions
from batchr1.output.labels import LABELS

Form = Literal["sft", "raw"]
FileFormat = Literal["parquet", "jsonl"]
Reasoning = Literal["apart", "inline"]
Dedupe = Literal["exact", "none"]
Treatment = Literal["drop", "mark"]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Rows to export, and their form.

    `dedupe` None: exact for sft, none for raw. Raises `UsageError` for values that cannot be, or
    that would have no effect.
    """

    form: Form
    where: str | None = None
    correct_only: bool = False
    drop_flags: tuple[str, ...] = ()
    max_tokens: int | None = None
    per_prompt: int | None = None
    dedupe: Dedupe | None = None
    reasoning: Reasoning | None = None
    format: FileFormat = "parquet"
    test_share: float = 0.0
    overwrite: bool = False
    pass_rate: tuple[float, float] | None = None
    agrees_with_majority: bool = False
    labels: bool = False
    decontaminate: tuple[str, ...] = ()
    benchmark_column: str | None = None
    contaminated: Treatment | None = None
    near_duplicates: Treatment | None = None
    push: PushOptions | None = None
    verdicts: str | None = None
    verdict: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("--max-tokens", self.max_tokens), ("--per-prompt", self.per_prompt)):
            if value is not None and value < 1:
                raise UsageError(
                    f"{name}: too small (got {value}, need at least 1). Give more, or leave it out."
                )
        if not 0 <= self.test_share < 1:
            raise UsageError(
                f"--test-share: not a share of the prompts (got {self.test_share:g}, need at "
                "least 0 and less than 1). Write 0.02 for 2 %."
            )
        if self.contaminated is not None and not self.decontaminate:
            raise _apart("--contaminated", self.contaminated)
        if self.verdict is not None and self.verdicts is None:
            raise UsageError(
                f"--verdict: belongs to --verdicts (got {self.verdict!r} without it). Name the "
                "judge's output, or leave --verdict out."
            )
        if self.form == "raw" and self.reasoning is not None:
            raise UsageError(
                "--reasoning: belongs to --to sft (got --to raw, which keeps the output's own "
                "columns). Leave it out."
            )

    @property
    def needs_labels(self) -> bool:
        """Whether prompts are labelled, for a filter or as columns."""
        return self.labels or self.agrees_with_majority or self.pass_rate is not None

    @property
    def added(self) -> tuple[str, ...]:
        """Columns that the export adds to the output's."""
        marks = {
            "contaminated_by": self.contaminated == "mark",
            "near_duplicate_of": self.near_duplicates == "mark",
            "verdict": self.verdicts is not None,
        }
        return (*(LABELS if self.labels else ()), *(name for name, on in marks.items() if on))

    @property
    def drops_duplicates(self) -> bool:
        return self.dedupe == "exact" or (self.dedupe is None and self.form == "sft")

    @property
    def is_inline(self) -> bool:
        return self.reasoning == "inline"

    @property
    def layout(self) -> Reasoning | None:
        """Place of the reasoning in exported rows; None for raw ones."""
        if self.form == "raw":
            return None
        return "inline" if self.is_inline else "apart"


def file_names(text: str | None, column: str | None) -> tuple[str, ...]:
    """Read the files of --decontaminate, with commas between them.

    Raises `UsageError` for an empty name, or a column without files.
    """
    if text is None:
        if column is not None:
            raise _apart("--benchmark-column", column)
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if "" in names:
        raise UsageError(
            f"--decontaminate: an empty name among the files (got {text!r}, need FILE or "
            "FILE,FILE). Correct it."
        )
    return names


def _apart(option: str, value: str) -> UsageError:
    return UsageError(
        f"{option}: belongs to --decontaminate (got {value!r} without it). Give files of "
        f"benchmarks, or leave {option} out."
    )


def rate_range(text: str | None) -> tuple[float, float] | None:
    """Read a range of rates, such as 0.1..0.9.

    Raises `UsageError` for what is none.
    """
    if text is None:
        return None
    first, dots, last = text.partition("..")
    try:
        low, high = float(first), float(last)
    except ValueError:
        low, high = 1.0, 0.0
    if not dots or not 0 <= low <= high <= 1:
        raise UsageError(
            f"--pass-rate: not a range of rates (got {text!r}, need LOW..HIGH from 0 to 1, such as "
            "0.1..0.9). Correct it."
        )
    return low, high
