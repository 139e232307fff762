"""Renderer of a job's prompts, by the model's tokenizer and chat template."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchr1.errors import JobError
from batchr1.job.prompting import TagsSpec
from batchr1.job.spec import JobSpec
from batchr1.output.folder import Output
from batchr1.reasoning.formats import FORMATS, Format, check_name

if TYPE_CHECKING:
    from batchr1.dataset.prompts import Renderer


def local_renderer(
    spec: JobSpec, location: str, revision: str | None, *, day: dt.date | None = None
) -> Renderer:
    """Make the renderer of a job for the model at `location`.

    Raises `ModelError` as `probe` does. `day` is what a template that asks for the date is told;
    None: today.
    """
    from batchr1.dataset.prompts import PromptRenderer, load_tokenizer

    prompting, template = spec.prompting, template_of(spec)
    tokenizer = load_tokenizer(
        location,
        revision=revision,
        trust_remote_code=spec.model.trust_remote_code,
        needs_template=template is None,
    )
    return PromptRenderer(
        tokenizer,
        instruction=prompting.instruction,
        think=prompting.think,
        format=_format_of(prompting.format),
        template=template,
        template_args=prompting.template_args,
        system=prompting.system,
        day=day,
    )


def server_renderer(spec: JobSpec) -> Renderer:
    """Make the renderer of a job whose prompts a server renders."""
    from batchr1.dataset.chat_prompts import ChatRenderer

    prompting = spec.prompting
    return ChatRenderer(
        instruction=prompting.instruction,
        system=prompting.system,
        format=_format_of_server(prompting.format),
    )


def check_format(spec: JobSpec) -> None:
    """Raise `JobError` for a format that has no such name."""
    if isinstance(spec.prompting.format, str):
        try:
            check_name(spec.prompting.format)
        except ValueError as exc:
            raise JobError(f"prompting.format: {exc}. Correct it.") from exc


def template_of(spec: JobSpec) -> str | None:
    """Read the job's own chat template; None without one."""
    path = spec.prompting.template
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise JobError(
            f"prompting.template: {path} cannot be read ({type(exc).__name__}). Give the path of a "
            "Jinja file."
        ) from exc
    if not text.strip():
        raise JobError(f"prompting.template: {path} is empty. Give the path of a Jinja file.")
    return text


def template_digest(spec: JobSpec) -> str | None:
    """Hash the job's own chat template; None without one.

    128 bits, as hexadecimal text.
    """
    text = template_of(spec)
    return None if text is None else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def day_of(output: Output, *, fresh: bool = False, today: dt.date | None = None) -> dt.date:
    """Give the day in an output's prompts: the recorded one, else today."""
    recorded = None
    if not fresh and output.exists():
        recorded = (output.job() or {}).get("prompt_day")
    return dt.date.fromisoformat(recorded) if recorded else today or dt.date.today()


def recorded_prompts(renderer: Renderer) -> dict[str, Any]:
    """List what prompts depend on beyond the spec, for job.json.

    That is their day, and think tags other than R1's.
    """
    found: dict[str, Any] = {}
    if renderer.prompt_day is not None:
        found["prompt_day"] = renderer.prompt_day.isoformat()
    if renderer.format is not None and renderer.format != FORMATS["r1"]:
        found["format"] = renderer.format.to_dict()
    return found


def _format_of(format: str | TagsSpec) -> str | Format:
    if isinstance(format, str):
        return format
    return Format(
        "custom",
        format.open,
        format.close,
        answer_open=(format.answer_open,) if format.answer_open else (),
        answer_close=(format.answer_close,) if format.answer_close else (),
    )


def _format_of_server(format: str | TagsSpec) -> Format | None:
    """The tags of a server's text; None: whichever it shows."""
    found = _format_of(format)
    if isinstance(found, Format):
        return found
    if found == "suffixed":
        raise JobError(
            "prompting.format: suffixed reads the suffix from a vocabulary, and a server shows "
            "none. Give the tags as {open: …, close: …}."
        )
    return None if found == "auto" else FORMATS[found]
