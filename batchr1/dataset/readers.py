"""Data files as batches: chosen columns of rows that pass.

Many files are opened a few at a time ahead of their readers, where each request has to travel.
"""

from __future__ import annotations

import gzip
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from batchr1.dataset.bounds import rows_at_a_time
from batchr1.dataset.lines.csv_lines import CsvLines, declared_type
from batchr1.dataset.lines.json_lines import JsonLines
from batchr1.dataset.predicate import Mask
from batchr1.errors import InputError, StorageError
from batchr1.job.spec import InputSpec
from batchr1.storage.errors import is_passing
from batchr1.storage.inputs import InputFile
from batchr1.storage.names import GZIP

BATCH_ROWS = 4096
WHERE_ROWS = 16_384
"""Rows whose columns a predicate sees at a time: a row group may be larger than memory."""
SMALL_BYTES = 2**20
"""Bytes of a file, at most, that is read whole: decoding then asks Python for nothing."""
PEEK_BYTES = 16 * 2**20
"""Bytes of a row group, at most, that are decoded to see its last rows."""

AT_A_TIME = 16
"""Requests under way: a store answers each in tens of milliseconds, whatever else it does."""
_NAMES = {"parquet": "Parquet", "jsonl": "JSON lines", "csv": "CSV", "tsv": "TSV"}
AHEAD = 32
"""Files whose ends are fetched ahead of the reader."""


class Selector(Protocol):
    """Chooses rows of each row group in turn, by `columns`."""

    columns: tuple[str, ...]

    def select(self, tables: Iterator[pa.Table], num_rows: int) -> Mask:
        """Choose among the rows of a row group.

        `tables`: its rows in pieces.
        """
        ...


@dataclass(frozen=True, slots=True)
class Forms:
    """Forms that a job wants of fields in files of lines.

    `as_text`: of JSON lines, fields whose numbers may stand beside text. `as_json`: fields that
    hold values of several shapes. `declared`: types of CSV columns.
    """

    as_text: frozenset[str] = frozenset()
    as_json: frozenset[str] = frozenset()
    declared: Mapping[str, pa.DataType] = field(default_factory=dict)


NO_FORMS = Forms()


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file, with its columns as footer or lines say.

    `num_rows` is None where only reading the file tells. `groups`: rows of each row group.
    `int96`: columns of Parquet's old timestamps.
    """

    file: InputFile
    schema: pa.Schema
    num_rows: int | None = None
    groups: tuple[int, ...] = ()
    int96: frozenset[str] = frozenset()
    forms: Forms = NO_FORMS

    @property
    def uri(self) -> str:
        return self.file.uri

    def read(
        self, columns: Sequence[str], selector: Selector | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches of chosen rows.

        Each comes with its first row's number in the file.
        """
        if self.file.format == "parquet":
            return _read_parquet(self, list(columns), selector)
        return _read_lines(self, list(columns), selector)

    def sample(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Some rows: the first, the last, and some between.

        Of a last row group that is large, the first rows.
        """
        if self.file.format != "parquet":
            yield from _sample_lines(self, list(columns), rows)
            return
        with reading(self.file), _opened(self) as parquet:
            groups = parquet.num_row_groups
            places = [0, groups // 3, 2 * groups // 3, groups - 1] if groups else []
            for group in sorted(set(places)):
                first = last = None
                num_batches = 0
                size = parquet.metadata.row_group(group).total_byte_size
                is_read_whole = group == groups - 1 and size <= PEEK_BYTES
                at_a_time = 64
                if is_read_whole:
                    at_a_time = rows_at_a_time(self.file, parquet, group, columns, BATCH_ROWS)
                for batch in _batches(self, parquet, group, columns, at_a_time):
                    first = first if first is not None else _checked(self, batch, columns)
                    last = batch
                    num_batches += 1
                    if not is_read_whole:
                        break
                if first is not None:
                    yield first.slice(0, rows)
                if last is not None and group == groups - 1:
                    end = _checked(self, last, columns)
                    yield _end(end, rows, taken=rows if num_batches == 1 else 0)


def forms_of(spec: InputSpec, template: Sequence[str]) -> Forms:
    """Find the forms of fields that a job names.

    Ids, prompts and right answers of CSV are text as written, whatever they look like.
    """
    texts = [*spec.id_columns, spec.prompt, spec.gold, *template]
    declared = {name: declared_type("text") for name in texts if name is not None}
    if spec.messages:
        declared[spec.messages] = pa.json_()
    declared |= {name: declared_type(kind) for name, kind in spec.types.items()}
    as_text = frozenset([spec.gold] if spec.gold else [])
    return Forms(as_text, frozenset([spec.messages] if spec.messages else []), declared)


def open_file(file: InputFile, names: Sequence[str] | None, forms: Forms = NO_FORMS) -> DataFile:
    """Look at a file's columns, or raise `InputError`.

    Of files of lines, only those in `names` (None: all) have types.
    """
    with reading(file), file.open() as handle:
        if file.format == "parquet":
            with pq.ParquetFile(handle, coerce_int96_timestamp_unit="us") as parquet:
                schema = parquet.schema
                old = {
                    column.path.partition(".")[0]
                    for column in (schema.column(i) for i in range(len(schema)))
                    if column.physical_type == "INT96"
                }
                footer = parquet.metadata
                groups = (footer.row_group(i).num_rows for i in range(footer.num_row_groups))
                return DataFile(
                    file, parquet.schema_arrow, footer.num_rows, tuple(groups), frozenset(old)
                )
        found, has_rows = _lines(file, names, forms).schema(_decompressed(file, handle))
    return DataFile(file, found, None if has_rows else 0, forms=forms)


@contextmanager
def _opened(data: DataFile) -> Iterator[pq.ParquetFile]:
    unit = "us" if data.int96 else None
    with (
        data.file.open() as handle,
        pq.ParquetFile(_content(data, handle), coerce_int96_timestamp_unit=unit) as parquet,
    ):
        yield parquet


def _content(data: DataFile, handle: BinaryIO) -> BinaryIO | pa.BufferReader:
    """A small file in memory; the handle itself of others."""
    if data.file.size > SMALL_BYTES:
        return handle
    content = handle.read(SMALL_BYTES + 1)
    if len(content) <= SMALL_BYTES:
        return pa.BufferReader(content)
    handle.seek(0)  # it has grown since it was listed
    return handle


def _batches(
    data: DataFile, parquet: pq.ParquetFile, group: int, columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Decode a row group's columns, so many rows at a time.

    For a small file, threads cost more than they bring.
    """
    is_large = data.file.size > SMALL_BYTES
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(
        rows, row_groups=[group], columns=columns or None, use_threads=is_large
    )
    return batches


def _end(batch: pa.RecordBatch, rows: int, *, taken: int) -> pa.RecordBatch:
    """The last rows of a batch whose first ones are taken."""
    return batch.slice(min(batch.num_rows, max(taken, batch.num_rows - rows)))


def _read_parquet(
    data: DataFile, columns: list[str], selector: Selector | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with reading(data.file), _opened(data) as parquet:
        row = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            mask = None
            if selector is not None:
                mask = selector.select(_pieces(data, parquet, group, selector), size)
            if mask is None or mask.any():
                offset = 0
                rows = rows_at_a_time(data.file, parquet, group, columns, BATCH_ROWS)
                for batch in _batches(data, parquet, group, columns, rows):
                    end = offset + batch.num_rows
                    kept = _checked(data, batch, columns)
                    if mask is not None:
                        kept = kept.filter(pa.array(mask[offset:end]))
                    yield row + offset, kept
                    offset = end
                _refuse_short(data, group, offset, size)
            row += size


def _pieces(
    data: DataFile, parquet: pq.ParquetFile, group: int, selector: Selector
) -> Iterator[pa.Table]:
    """A row group's columns of a selector, some rows at a time."""
    columns, found = list(selector.columns), 0
    rows = rows_at_a_time(data.file, parquet, group, columns, WHERE_ROWS)
    for batch in _batches(data, parquet, group, columns, rows):
        found += batch.num_rows
        yield pa.table(_checked(data, batch, columns))
    _refuse_short(data, group, found, parquet.metadata.row_group(group).num_rows)


def _refuse_short(data: DataFile, group: int, got: int, need: int) -> None:
    """Raise `InputError` where footer and pages disagree on the rows."""
    if got != need:
        raise InputError(
            f"{data.uri}: not a readable Parquet file (row group {group} has {got:,} rows, its "
            f"footer says {need:,}). Write it again, or take it out."
        )


def _checked(data: DataFile, batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Give the columns of a batch in order, checked as UTF-8.

    Other bytes would surface later, as a crash.
    """
    chosen = batch.select(columns)
    chosen.validate(full=True)
    return chosen


def _read_lines(
    data: DataFile, columns: list[str], selector: Selector | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    compared = list(selector.columns) if selector is not None else []
    names = list(dict.fromkeys([*columns, *compared]))
    types = {name: data.schema.field(name).type for name in names}
    with reading(data.file), data.file.open() as handle:
        lines = _lines(data.file, names, data.forms)
        for row, batch in lines.batches(_decompressed(data.file, handle), types):
            kept = batch.select(columns)
            if selector is not None:
                table = pa.table(batch.select(compared))
                table.validate(full=True)  # polars ends the process where text is not UTF-8
                kept = kept.filter(pa.array(selector.select(iter([table]), batch.num_rows)))
            yield row, kept


def _sample_lines(data: DataFile, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    types = {name: data.schema.field(name).type for name in columns}
    with reading(data.file), data.file.open() as handle:
        last, number = None, 0
        lines = _lines(data.file, columns, data.forms)
        batches = lines.batches(_decompressed(data.file, handle), types)
        for number, (_, batch) in enumerate(batches):
            if number == 0:
                yield batch.slice(0, rows)
            last = batch
        if last is not None:
            yield _end(last, rows, taken=rows if number == 0 else 0)


def _lines(file: InputFile, names: Sequence[str] | None, forms: Forms) -> JsonLines | CsvLines:
    if file.format == "jsonl":
        return JsonLines(file.uri, names, as_text=forms.as_text, as_json=forms.as_json)
    delimiter = "\t" if file.format == "tsv" else ","
    return CsvLines(file.uri, names, delimiter=delimiter, types=forms.declared)


def _decompressed(file: InputFile, handle: BinaryIO) -> BinaryIO:
    if not file.rel.lower().endswith(GZIP):
        return handle
    return cast("BinaryIO", gzip.GzipFile(fileobj=handle, mode="rb"))


def refuse_changed(file: InputFile) -> None:
    """Raise `StorageError` for a file that was replaced since this command began."""
    if file.storage.pins_versions:
        return
    found = file.storage.find_file(file.rel)
    if found is None or found.version != file.version:
        raise StorageError(
            f"{file.uri}: changed since this command began (got "
            f"{'no file' if found is None else 'another version'}, "
            "need the one that its ids were read from). Run the same command again."
        )


@contextmanager
def reading(file: InputFile) -> Iterator[None]:
    """Turn Arrow's complaints about a file into an `InputError`."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError, zlib.error) as exc:
        # Arrow raises OSError without a number when a page cannot be decompressed or decoded.
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        what = _NAMES[file.format]
        raise InputError(
            f"{file.uri}: not a readable {what} file ({_first_line(exc)}). Write it "
            f"again, or take it out."
        ) from exc


def lasting_as_input_error(exc: StorageError) -> StorageError | InputError:
    """Blame the input for what lasts, before a command has begun."""
    cause = exc.__cause__
    if cause is None or is_passing(cause) or isinstance(cause, FileNotFoundError):
        return exc
    return InputError(str(exc))


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")


def open_files(
    files: Sequence[InputFile], names: Sequence[str] | None, forms: Forms
) -> list[DataFile]:
    """Look at every file's columns, many at a time if remote.

    Raises `InputError` for what cannot be read as it stands.
    """

    def look(file: InputFile) -> DataFile:
        return open_file(file, names, forms)

    try:
        if not any(_is_remote(file) for file in files):
            return [look(file) for file in files]
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            try:
                return list(pool.map(look, files))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except StorageError as exc:
        raise lasting_as_input_error(exc) from exc.__cause__


def prefetched(files: Sequence[DataFile], *, at_most: int | None = None) -> Iterator[DataFile]:
    """The files in order, the ends of the next ones being fetched.

    `at_most`: rows that are wanted of them, so that no file is fetched for nothing.
    """
    ahead = AHEAD if at_most is None else max(1, min(AHEAD, at_most))
    if not any(_is_remote(file.file) for file in files[:1]):
        yield from files
        return
    pool = ThreadPoolExecutor(AT_A_TIME)
    waiting: deque[tuple[DataFile, Future[None]]] = deque()
    try:
        for file in files:
            waiting.append((file, pool.submit(_warm, file.file)))
            if len(waiting) >= ahead:
                yield waiting.popleft()[0]
        while waiting:
            yield waiting.popleft()[0]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _warm(file: InputFile) -> None:
    """Cache the end of a file; its reader meets what goes wrong."""
    try:
        with file.open() as handle:
            handle.seek(max(0, file.size - 1))
            handle.read(1)
    except StorageError:
        return


def _is_remote(file: InputFile) -> bool:
    return file.storage.kind != "local"
