"""The sections `input` and `output`: where rows come from and go to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from batchr1.job.base import PositiveInt, Seconds, Section

ColumnType = Literal["text", "int", "float", "bool"]


class RowSamplingSpec(Section):
    """Columns with a row's own keys of `sampling`.

    Null in a row takes the job's.
    """

    temperature: str | None = None
    """A column of numbers from 0 to 2."""
    top_p: str | None = None
    """A column of numbers above 0, at most 1."""
    max_tokens: str | None = None
    """A column with a cap of new tokens, below sampling.max_tokens."""
    seed: str | None = None
    """A column of whole numbers in place of sampling.seed."""
    stop: str | None = None
    """A column of text, or of lists of text, in place of sampling.stop."""

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, by key."""
        return self.model_dump(exclude_none=True)


class InputSpec(Section):
    """Where the prompts are, and which columns mean what.

    Give one of `prompt`, `messages` or `template`.
    """

    path: str | list[str]
    """File, glob, folder, or a list of them; local, s3://, hf://datasets/ORG/NAME/PATH, https://
    (files alone), or another address that fsspec reads. Parquet, JSON lines (.jsonl), CSV (.csv) or
    TSV (.tsv)."""
    id: str | list[str] | None = None
    """A column of unique ids, or several that are unique together, such as [id, sample]. Without it
    the id is a hash of the prompt, and equal prompts are one row."""
    prompt: str | None = None
    """A column of text: the user turn."""
    messages: str | None = None
    """A column of chat messages: a list of {role, content}."""
    template: str | None = None
    """Text with {column} in it; {{ and }} stand for braces."""
    gold: str | None = None
    """A column with the right answer."""
    max_tokens: str | None = None
    """A column with a cap of new tokens per row, below sampling.max_tokens."""
    sampling: RowSamplingSpec = RowSamplingSpec()
    """Columns with a row's own temperature, top_p, max_tokens, seed, stop."""
    expected_tokens: str | None = None
    """A column with the expected new tokens per sample, for the plan and the order; null in a row:
    unknown."""
    where: str | None = None
    """A SQL predicate over the input's columns, such as "level >= 4"."""
    types: dict[str, ColumnType] = {}
    """Types of columns of CSV and TSV: text, int, float or bool. Of others the values decide; id,
    prompt, template and gold are text as written."""
    limit: Annotated[int, Field(ge=0)] | None = None
    """Only the first rows (after `where`)."""
    on_changed_prompt: Literal["refuse", "rerun", "keep"] = "refuse"
    """What happens when the input has another prompt for an id that is done: the run is refused,
    the row is generated anew, or it stays as it is. Looked at when an input file has changed
    since."""
    on_changed_gold: Literal["refuse", "rejudge", "keep"] = "refuse"
    """What happens when the input has another right answer for a row that is done: the run is
    refused, the row is judged anew (nothing is generated; kept columns are taken over, too), or it
    stays as it is."""
    exclude: list[str] = []
    """Earlier outputs: rows that are done there are not wanted again. Folders, or globs of folders
    (* within a part of the path), local or s3://. The job's own output is left out, and a glob may
    match nothing."""
    exclude_by: Literal["id", "prompt"] = "id"
    """What makes a row the same as an earlier one: its id, or its prompt as the model is given it,
    whatever its id (a changed prompt is then a new row). By prompt, the whole input is rendered
    before the run."""
    allow_empty: bool = False
    """Whether an input without any row is an empty night (exit code 0) rather than a mistake."""

    @field_validator("id", mode="after")
    @classmethod
    def _names_columns(cls, value: str | list[str] | None) -> str | list[str] | None:
        """Take a list of one for its column."""
        if not isinstance(value, list):
            return value
        if not value:
            raise ValueError("an empty list (need a column or several, or null)")
        twice = next((name for name in value if value.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"column {twice!r} is named twice (need each once)")
        return value[0] if len(value) == 1 else value

    @model_validator(mode="after")
    def _one_prompt(self) -> InputSpec:
        given = [k for k in ("prompt", "messages", "template") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of prompt, messages, template (got {', '.join(given) or 'none'})"
            )
        if self.max_tokens is not None and self.sampling.max_tokens is not None:
            raise ValueError("max_tokens and sampling.max_tokens name one thing (give one of them)")
        return self

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The columns of `id`; none where it hashes the prompt."""
        if self.id is None:
            return ()
        return (self.id,) if isinstance(self.id, str) else tuple(self.id)

    @property
    def cap(self) -> str | None:
        """The column with a row's own cap of new tokens."""
        return self.max_tokens or self.sampling.max_tokens

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)


class OutputSpec(Section):
    """Where results go and how they are cut into files."""

    path: str
    """A folder, local or s3://. One job owns it."""
    keep: list[str] | dict[str, str] | Literal["all"] = []
    """Input columns to carry over: a list, or {new_name: old_name}, or all."""
    rows_per_part: PositiveInt = 2000
    """Rows of a Parquet file, at most."""
    part_every_s: Seconds = 600
    """Finished rows wait at most this long for their file."""
    token_ids: Literal["truncated", "always"] = "truncated"
    """Whose exact token ids are kept: rows that were cut, or every row."""
