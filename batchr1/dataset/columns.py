"""Columns that a job names, checked for presence and type."""

from __future__ import annotations

import difflib
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from batchr1.columns import NAMES
from batchr1.dataset.readers import DataFile
from batchr1.dataset.types import Use, is_list, merged, misfit
from batchr1.errors import InputError, JobError
from batchr1.job.spec import InputSpec

# Columns of a row's own sampling are of the same types as these.
_USE_OF_KEY: dict[str, Use] = {
    "temperature": "input.expected_tokens",
    "top_p": "input.expected_tokens",
    "max_tokens": "input.max_tokens",
    "seed": "input.max_tokens",
    "stop": "input.prompt",
}
CSV = ("csv", "tsv")
"""Formats whose files say no types."""
_TAKEN = frozenset(name.casefold() for name in NAMES)


def template_fields(template: str) -> tuple[str, ...]:
    """List the columns that a template names.

    Raises `JobError` for what is no template.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as exc:
        raise JobError(
            f"input.template: braces do not match ({exc}). Write {{{{ and }}}} for literal braces."
        ) from exc
    names = []
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name or name.isdigit() or not name.replace("_", "a").isalnum() or spec or conversion:
            raise JobError(
                f"input.template: {{{name}}} is not a plain column name. Write {{{{ and }}}} "
                f"for "
                f"braces."
            )
        names.append(name)
    if not names:
        raise JobError(
            "input.template: names no column. Write {column} where a column's text belongs."
        )
    return tuple(dict.fromkeys(names))


def kept_columns(
    keep: list[str] | dict[str, str] | str, files: Sequence[DataFile], spec: InputSpec
) -> dict[str, str]:
    """Map each kept column's name in the output to the input's.

    Names are unlike without regard to case: DuckDB, Spark and Trino know no case.
    """
    first = _with_rows(files)[0]
    if keep == "all":
        pairs = [
            (_free_name(name), name)
            for name in dict.fromkeys(first.schema.names)
            if name != spec.id
        ]
        counts = Counter(new.casefold() for new, _ in pairs)
        for new, old in pairs:
            if counts[new.casefold()] > 1:
                raise JobError(
                    f"output.keep: all would give two columns the name {new!r} (one is {old!r} in "
                    f"{first.uri}). "
                    "List the columns to keep, or give them names: keep: {new_name: old_name}."
                )
        return dict(pairs)
    chosen = dict(keep) if isinstance(keep, dict) else {name: name for name in keep}
    parts = _parts_of_id(chosen, spec)
    counts = Counter(new.casefold() for new in chosen)
    for new, old in chosen.items():
        if new in NAMES:
            raise JobError(
                f"output.keep: {new!r} is a column of the output already. Rename it: keep: "
                f"{{input_{new}: {old}}}."
            )
        if new.casefold() in _TAKEN or counts[new.casefold()] > 1:
            other = next(
                n for n in (*NAMES, *chosen) if n != new and n.casefold() == new.casefold()
            )
            raise JobError(
                f"output.keep: {new!r} and {other!r} differ in case only, and many readers know "
                f"none. Rename it: keep: {{input_{new}: {old}}}."
            )
        if new.casefold() in (name.casefold() for name in parts):
            raise JobError(
                f"output.keep: {new!r} is the column of input.id's {parts.get(new, new)!r} "
                f"already. Rename it: keep: {{kept_{new}: {old}}}."
            )
    return {**parts, **chosen}


def _parts_of_id(chosen: Mapping[str, str], spec: InputSpec) -> dict[str, str]:
    """Map columns of a joined id to their names in the output.

    Those that are kept under a chosen name are left out.
    """
    found: dict[str, str] = {}
    for name in spec.id_columns if len(spec.id_columns) > 1 else ():
        new = _free_name(name)
        if name in chosen.values():
            continue
        if new in found:
            raise JobError(
                f"input.id: columns {found[new]!r} and {name!r} would both be {new!r} in the "
                f"output. Give one a name: output.keep: {{{name}_of_input: {name}}}."
            )
        found[new] = name
    return found


def _free_name(name: str) -> str:
    """Name an input column in the output, whose own names are taken."""
    return f"input_{name}" if name.casefold() in _TAKEN else name


def kept_types(files: Sequence[DataFile], kept: dict[str, str]) -> dict[str, pa.DataType]:
    """Find the type of each kept column over all files.

    Null where no file has a value. Raises `InputError` where two files differ.
    """
    having = _with_rows(files)
    found: dict[str, pa.DataType] = {}
    for new, old in kept.items():
        if old not in having[0].schema.names:  # no file has a column: an empty night
            found[new] = pa.null()
            continue
        kind = having[0].schema.field(old).type
        for file in having[1:]:
            here = file.schema.field(old).type
            both = kind if here == kind else merged(kind, here)
            if both is None:
                do = "Convert it"
                if file.file.format in CSV:
                    do = "Name its type in input.types"
                raise InputError(
                    f"{file.uri}: output.keep: column {old!r} has another type than in the first "
                    f"file "
                    f"(got {here}, need {kind}). {do}, or do not keep it."
                )
            kind = both
        found[new] = kind
    return found


def check_columns(
    files: Sequence[DataFile],
    spec: InputSpec,
    template: Sequence[str],
    compared: Sequence[str],
    kept: dict[str, str],
) -> None:
    """Raise `InputError` for a missing, repeated or unfit column.

    Files without a row are not asked: pandas gives their columns any type, or none.
    """
    single: tuple[tuple[Use, str | None], ...] = (
        ("input.prompt", spec.prompt),
        ("input.messages", spec.messages),
        ("input.gold", spec.gold),
        ("input.max_tokens", spec.max_tokens),
        ("input.expected_tokens", spec.expected_tokens),
    )
    wanted: list[tuple[Use, str]] = [("input.template", name) for name in template]
    wanted += [(use, name) for use, name in single if name is not None]
    id_key = "input.id" if len(spec.id_columns) < 2 else f"input.id [{', '.join(spec.id_columns)}]"
    wanted += [("input.where", name) for name in compared]
    wanted += [("output.keep", name) for name in kept.values()]
    seen: list[pa.Schema] = []
    if spec.types and not any(file.file.format in CSV for file in files):
        raise InputError(
            f"{files[0].uri}: input.types: is for CSV and TSV (got {files[0].file.format}, which "
            "has types of its own). Leave it out."
        )
    for file in _with_rows(files):
        if any(file.schema is known or file.schema.equals(known) for known in seen[:8]):
            continue  # thousands of files have one schema
        seen.append(file.schema)
        if file.num_rows == 0 and not file.schema.names:
            if spec.allow_empty:
                continue
            raise InputError(
                f"{file.uri}: not a readable data file (no row, no column). Write it again, or "
                "take it out."
            )
        for name in spec.id_columns:
            _check_column(file, "input.id", name, key=id_key)
        for use, name in wanted:
            _check_column(file, use, name)
        for name in spec.types if file.file.format in CSV else ():
            _check_column(file, "output.keep", name, key="input.types")
        for key, name in spec.sampling.columns.items():
            _check_column(file, _USE_OF_KEY[key], name, key=f"input.sampling.{key}")


def _with_rows(files: Sequence[DataFile]) -> list[DataFile]:
    """The files that have rows; all of them where none has."""
    return [file for file in files if file.num_rows != 0] or list(files)


def _check_column(file: DataFile, use: Use, name: str, *, key: str | None = None) -> None:
    """Raise `InputError` for a column that cannot be used so.

    `key`: the job's, where it is not the use itself.
    """
    names, key = file.schema.names, key or use
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        listed = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        hint = f"Did you mean {near[0]}?" if near else "Name one of these."
        raise InputError(
            f"{file.uri}: {key}: there is no column {name!r} (the file has: {listed}). {hint}"
        )
    if names.count(name) > 1:
        raise InputError(
            f"{file.uri}: {key}: column {name!r} is there twice (got {names.count(name)} columns "
            "of this name, need one). Rename one of them."
        )
    kind = file.schema.field(name).type
    if key == "input.sampling.stop" and is_list(kind):
        kind = kind.value_type
    found = misfit(use, kind)
    if found is not None:
        raise InputError(
            f"{file.uri}: {key}: column {name!r} {found.what} (got {found.got}, need "
            f"{found.need}). "
            "Name another column, or convert it."
        )
