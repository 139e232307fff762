"""Rows to be scored, in the model's tokens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from batchr1.backends.base import backend_of
from batchr1.backends.renderers import day_of
from batchr1.dataset.prompts import PromptRenderer, PromptRow
from batchr1.dataset.rendering.turns import RowError
from batchr1.dataset.source import Source
from batchr1.dataset.tokenizer import end_ids_of, joined_encoder, load_tokenizer
from batchr1.errors import InputError, ModelError, OutputError
from batchr1.output.folder import Output
from batchr1.reasoning.formats import R1
from batchr1.reasoning.split import places
from batchr1.reasoning.tags import ThinkTags, text_decoder
from batchr1.records import Failure, Prompt
from batchr1.scoring.columns import Row
from batchr1.scoring.target import Columns, Target
from batchr1.storage.inputs import expand_inputs

if TYPE_CHECKING:
    from batchr1.job.spec import JobSpec
    from batchr1.models.resolve import ModelSource

BATCH_ROWS = 512
_OF_OUTPUT = ["id", "sample", "prompt", "prompt_hash", "token_ids"]


class Rows:
    """Rows of a target, and the vocabulary of their tokens."""

    def __init__(self, target: Target) -> None:
        """Load the tokenizers. Raises `ModelError` where two vocabularies differ."""
        self._target = target
        generator, model = target.generator, target.generator_model
        self._tokenizer = _tokenizer_of(generator, model)
        self.vocabulary = vocabulary_hash(self._tokenizer)
        if model is not target.model:
            scorers = vocabulary_hash(_tokenizer_of(target.spec, target.model))
            if scorers != self.vocabulary:
                raise ModelError(
                    f"{target.uri}: its tokens are of another vocabulary (got {self.vocabulary} "
                    f"of {model.name}, need {scorers} of {target.model.name}). Score its text: "
                    f"give {target.uri}/data with --prompt and --completion."
                )
        location, revision = model.loads_from
        day = None if target.output is None else day_of(target.output)
        renderer = backend_of(generator).renderer(generator, location, revision, day=day)
        self._renderer = cast(PromptRenderer, renderer)
        form = self._renderer.format or R1
        end_ids = end_ids_of(location, revision=revision)
        self._tags = ThinkTags.of(self._tokenizer, format=form, end_ids=end_ids)
        self._decode = text_decoder(self._tokenizer, self._tags)
        self._encode = joined_encoder(self._tokenizer)
        self._source: Source | None = None
        if target.wish.columns is not None:
            self._source = _open_source(target, target.wish.columns)

    def places(self, row: Row) -> tuple[list[int], list[int]]:
        """List the offsets of a row's reasoning and answer tokens."""
        return places(row.token_ids, tags=self._tags, decode=self._decode, opened=row.opened)

    def read(self) -> Iterator[Row | Failure]:
        """Read all rows, in order."""
        if self._source is not None and self._target.wish.columns is not None:
            return self._of_files(self._source, self._target.wish.columns)
        return self._of_output(cast(Output, self._target.output))

    def _of_output(self, output: Output) -> Iterator[Row | Failure]:
        for rel in output.parts():
            table = output.read_part(rel, _OF_OUTPUT)
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                rows = batch.to_pylist()
                prompts = self._rendered([(row["id"], row["prompt"]) for row in rows])
                for row, prompt in zip(rows, prompts, strict=True):
                    yield self._output_row(output, row, prompt)

    def _output_row(self, output: Output, row: dict[str, Any], prompt: Prompt | RowError) -> Row:
        where = f"{output.uri}: row {row['id']!r} (sample {row['sample']})"
        if row["token_ids"] is None:
            raise OutputError(
                f"{where} has no token ids (got null, need output.token_ids: always). Score its "
                "text with --prompt and --completion."
            )
        if isinstance(prompt, RowError) or prompt.digest.hex() != row["prompt_hash"]:
            raise OutputError(
                f"{where} has a prompt that is not made anew from its column (got other tokens: "
                "it held several messages, or the model's chat template changed). Score texts: "
                f"give {output.uri}/data with --prompt and --completion."
            )
        read = [row["prompt_hash"].encode(), array("i", row["token_ids"]).tobytes()]
        ids = row["token_ids"]
        return Row(row["id"], row["sample"], prompt.token_ids, ids, prompt.opened, _hash(read))

    def _of_files(self, source: Source, columns: Columns) -> Iterator[Row | Failure]:
        names = (columns.id, columns.prompt, columns.completion)
        wanted = [*names, *([columns.sample] if columns.sample else [])]
        seen: set[tuple[str, int]] = set()
        for position, whole in source.batches(wanted):
            for at in range(0, whole.num_rows, BATCH_ROWS):
                batch = whole.slice(at, BATCH_ROWS)
                ids, samples = source.ids(batch), _samples(batch, columns)
                keys = list(zip(ids, samples, strict=True))
                for number, key in enumerate(keys):
                    where = f"{position.file}: row {position.row + at + number}"
                    _check_key(where, key, seen, columns)
                texts = batch.column(columns.completion).to_pylist()
                contents = source.contents(batch)
                yield from self._file_rows(cast("list[tuple[str, int]]", keys), contents, texts)

    def _file_rows(
        self, keys: Sequence[tuple[str, int]], contents: Sequence[Any], texts: Sequence[str | None]
    ) -> Iterator[Row | Failure]:
        asked = [(id, text) for (id, _), text in zip(keys, contents, strict=True)]
        prompts = self._rendered(asked)
        shown = [
            self._without_opening(prompt, text or "")
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        encoded = self._encode([[text] for text in shown])
        for at, (id, sample) in enumerate(keys):
            prompt, text = prompts[at], texts[at]
            if isinstance(prompt, RowError):
                yield Failure(id, sample, prompt.reason, prompt.message, 1)
            elif text is None:
                yield Failure(id, sample, "empty_completion", "the completion is null", 1)
            else:
                digest = _hash([str(contents[at]).encode(), text.encode()])
                yield Row(id, sample, prompt.token_ids, encoded[at], prompt.opened, digest)

    def _without_opening(self, prompt: Prompt | RowError, text: str) -> str:
        """Leave out a tag that the prompt has opened already."""
        if isinstance(prompt, RowError) or not prompt.opened:
            return text
        opening = re.match(rf"\s*{re.escape(self._tags.format.open)}\n?", text)
        return text[opening.end() :] if opening else text

    def _rendered(self, asked: Sequence[tuple[str, Any]]) -> list[Prompt | RowError]:
        return self._renderer.render_many([PromptRow(id, text) for id, text in asked])


def vocabulary_hash(tokenizer: Any) -> str:
    """Hash the tokens of a vocabulary with their ids.

    128 bits, as hexadecimal text.
    """
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    text = json.dumps(tokens, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _tokenizer_of(spec: JobSpec, model: ModelSource) -> Any:
    location, revision = model.loads_from
    trust = spec.model.trust_remote_code
    return load_tokenizer(
        location, revision=revision, trust_remote_code=trust, needs_template=False
    )


def _open_source(target: Target, columns: Columns) -> Source:
    """Open data files.

    Errors name the file and the column, not a job's key.
    """
    keep = [columns.completion, *([columns.sample] if columns.sample else [])]
    with _as_options():
        files = expand_inputs(target.spec.input.paths, target.wish.storage)
        source = Source(target.spec.input, keep, files)
    kinds = {field.name: field.type for field in source.kept_schema}
    if not pa.types.is_string(kinds[columns.completion]):
        raise InputError(
            f"{target.uri}: --completion: column {columns.completion!r} has the wrong type (got "
            f"{kinds[columns.completion]}, need text). Name another column."
        )
    if columns.sample is not None and not pa.types.is_integer(kinds[columns.sample]):
        raise InputError(
            f"{target.uri}: --sample: column {columns.sample!r} has the wrong type (got "
            f"{kinds[columns.sample]}, need whole numbers). Name another column."
        )
    return source


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """Take a job's keys out of errors about columns."""
    try:
        yield
    except InputError as exc:
        exc.args = (re.sub(r": (input\.\w+|output\.keep): ", ": ", str(exc), count=1),)
        raise


def _samples(batch: pa.RecordBatch, columns: Columns) -> list[int | None]:
    if columns.sample is None:
        return [0] * batch.num_rows
    found: list[int | None] = batch.column(columns.sample).to_pylist()
    return found


def _check_key(
    where: str, key: tuple[str | None, int | None], seen: set[tuple[str, int]], columns: Columns
) -> None:
    """Raise `InputError` for a null or repeated key."""
    id, sample = key
    if id is None or sample is None:
        name = columns.id if id is None else columns.sample
        raise InputError(f"{where}: column {name!r} is null (need a value in each row). Fill it.")
    if (id, sample) in seen:
        more = "Name a column of samples with --sample, or others with --id."
        raise InputError(f"{where}: the id {id!r} came before (need each once). {more}")
    seen.add((id, sample))


def _hash(read: Sequence[bytes]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for part in read:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()
