"""Names of data files, and of the mark of a complete output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from batchr1.errors import InputError

FileFormat = Literal["parquet", "jsonl", "csv", "tsv"]
Where = Callable[[str], str]

ENDINGS = ".parquet, .jsonl, .csv or .tsv"
"""Endings of data files, for messages."""
GZIP = ".gz"
SUCCESS = "_SUCCESS"

_FORMATS: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_COMPRESSED = {".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".snappy", ".zip"}
_TABLES = (
    (re.compile(r"/_delta_log/"), "a Delta"),
    (re.compile(r"/metadata/[^/]*\.metadata\.json$"), "an Iceberg"),
    (re.compile(r"/\.hoodie/"), "a Hudi"),
    (re.compile(r"/snapshot/snapshot-\d+$"), "a Paimon"),
)


def format_of(rel: str) -> FileFormat | None:
    """Tell a file's format by its ending, in any case, or None.

    Files of lines may be compressed by gzip; Parquet compresses itself.
    """
    name = rel.lower()
    found = _FORMATS.get(Path(name.removesuffix(GZIP)).suffix)
    return None if found == "parquet" and name.endswith(GZIP) else found


def refuse_table(where: Where, rels: Sequence[str]) -> None:
    """Raise `InputError` for a table's folder.

    Its log says which of the files' rows live.
    """
    for rel in rels:
        for mark, kind in _TABLES:
            found = mark.search(f"/{rel}")
            if found is not None:
                folder = f"/{rel}"[: found.start()].lstrip("/")
                log = f"/{rel}"[found.start() :].strip("/").partition("/")[0]
                raise InputError(
                    f"{where(folder)}: the folder of {kind} table (got {log}/, which says "
                    "which files and rows live; need plain files). Write its live rows to "
                    "Parquet files of their own (in Spark: spark.read.table(…).write.parquet(…)), "
                    "and name that folder."
                )


def refuse_compressed(where: Where, rels: Sequence[str]) -> None:
    """Raise `InputError` for compressed data beside files that are not.

    It would be left out.
    """
    for rel in rels:
        *_, inner, outer = ["", "", *Path(rel).suffixes[-2:]]
        if outer.lower() in _COMPRESSED and _FORMATS.get(inner.lower()):
            raise InputError(
                f"{where(rel)}: compressed as a whole (got {inner}{outer} beside files "
                f"that are read, need {ENDINGS}). Decompress it, or name the other files by a glob."
            )


def refuse_name(root: str, rel: str, *, is_key: bool) -> None:
    """Raise `InputError` for a name that no record can hold."""
    try:
        rel.encode()
    except UnicodeEncodeError as exc:
        shown = rel.encode("utf-8", "backslashreplace").decode()
        raise InputError(
            f"{root.rstrip('/')}/{shown}: the file's name is not UTF-8 (got other bytes). Rename "
            "it."
        ) from exc
    if is_key and any(part in (".", "..") for part in rel.split("/")):
        raise InputError(
            f"{root}/{rel}: the key has a part `.` or `..`, which requests drop, so that "
            "another object would be read. Copy the object to another key."
        )
