"""Events of `run --log-format json`: their names, fields and lines.

Programs may rely on names and fields: they are only added to. A record becomes an event where it
is logged: `log.info("committed %s", name, extra=event("part_committed", …))`. Every other record
is the event `message`.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number"}
_CODE: Schema = {"type": "integer", "enum": [0, 1, 2, 3, 4, 75]}


@dataclass(frozen=True, slots=True)
class Event:
    """Meaning of an event, and its fields with their JSON schemas."""

    meaning: str
    fields: dict[str, Schema]


_RUN = {"run": _TEXT, "job": _TEXT, "output": _TEXT}
_WORKER = {"worker": _COUNT, "at_s": _NUMBER}
_COUNTS = {"samples": _COUNT, "done": _COUNT, "failed": _COUNT, "spared": _COUNT, "pending": _COUNT}

EVENTS = {
    "run_started": Event("A run holds its output and has work to do.", {**_RUN, **_COUNTS}),
    "going_on": Event(
        "What earlier runs began and did not commit is gone on with.",
        {"generations": _COUNT, "finished": _COUNT, "tokens": _COUNT},
    ),
    "worker_started": Event("A worker's process was started.", _WORKER),
    "worker_ready": Event("Its engine is loaded.", _WORKER),
    "worker_died": Event(
        "It died; unless worker_given_up follows, another one takes its work.", _WORKER
    ),
    "worker_lost": Event("It went with its machine or its connection.", _WORKER),
    "worker_ended": Event("It left in good order.", _WORKER),
    "worker_given_up": Event("It gets no successor.", _WORKER),
    "engine_stepped_down": Event(
        "Memory ran out, and its engine starts again with less.", {"worker": _COUNT}
    ),
    "progress": Event(
        (
            "Every 30 s: samples of this run's, output tokens/s of the last 20 s, seconds that are "
            "left by estimate."
        ),
        {
            "finished": _COUNT,
            "pending": _COUNT,
            "tokens_per_s": _NUMBER,
            "truncated": _NUMBER,
            "eta_s": {"type": ["number", "null"]},
        },
    ),
    "part_committed": Event(
        "A file of results is durable.", {"part": _TEXT, "rows": _COUNT, "tokens": _COUNT}
    ),
    "rows_failed": Event(
        "Rows were written to .batchr1/failed/.", {"rows": _COUNT, "reasons": {"type": "object"}}
    ),
    "storage_retry": Event(
        "A request to storage failed, and is tried again.", {"where": _TEXT, "attempt": _COUNT}
    ),
    "run_stopping": Event(
        "A signal, a window or an error: what is under way is being saved.", {"reason": _TEXT}
    ),
    "run_ended": Event(
        "The run is over; with exit code 75, the same command goes on.",
        {
            **_RUN,
            **_COUNTS,
            "exit_code": _CODE,
            "stopped": {"type": ["string", "null"]},
            "tokens": _COUNT,
            "tokens_per_s": _NUMBER,
            "seconds": _NUMBER,
        },
    ),
    "nothing_to_do": Event(
        "Nothing is pending: an empty night, most often.", {**_RUN, **_COUNTS, "exit_code": _CODE}
    ),
    "failed": Event("The command ends with an error.", {"exit_code": _CODE}),
    "metrics_listening": Event("Metrics are served.", {"url": _TEXT}),
    "metrics_not_written": Event(
        "The metrics file could not be written. The run goes on.", {"path": _TEXT}
    ),
    "on_finish_output": Event("A line that the on_finish command printed.", {}),
    "on_finish_ended": Event("The on_finish command ended well.", {"seconds": _NUMBER}),
    "on_finish_failed": Event(
        "The on_finish command failed. The exit code is what it would be.", {"reason": _TEXT}
    ),
    "message": Event("Anything else that a person may want to know.", {}),
}


def event(name: str, **fields: object) -> dict[str, object]:
    """`extra=` for a log call that makes its record this event."""
    return {"event": name, "event_fields": fields}


# What a terminal obeys or shows as something else: controls of C0 and C1, marks of direction, line
# and paragraph separators, and halves of surrogate pairs.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, *, keep: str = "") -> str:
    """Escape the control characters of a foreign text.

    Users, data and servers give such. On terminals and in logs they would forge lines or colours.
    Those in `keep` stay.
    """

    def escape(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        return _SHORT.get(character, f"\\u{ord(character):04x}")  # as in JSON

    return _CONTROL.sub(escape, str(text))


class TextLines(logging.Formatter):
    """Formatter of records as text: escaped, further lines indented."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(super().format(record), keep="\n\t")
        return text.replace("\n", "\n    ")


class JsonLines(logging.Formatter):
    """Formatter of records as JSON, one object a line.

    Once a run has started, every line names it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run: dict[str, object] = {}

    def format(self, record: logging.LogRecord) -> str:
        name, fields = getattr(record, "event", "message"), getattr(record, "event_fields", {})
        if "run" in fields:
            self._run = {"run": fields["run"]}
        document = {
            "ts": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "event": name,
            "logger": record.name,
            "message": record.getMessage(),
            **self._run,
            **fields,
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        text = json.dumps(document, ensure_ascii=False, default=str)
        # JSON leaves some of them as they are, and knows only this form of escapes.
        return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def schema_document() -> dict[str, object]:
    """Build `schemas/log.schema.json`: the JSON schema of one line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of batchr1 run --log-format json",
        "type": "object",
        "required": ["ts", "level", "event", "logger", "message"],
        "properties": {
            "ts": {"type": "string", "format": "date-time", "description": "When, in UTC."},
            "level": {"enum": ["debug", "info", "warning", "error", "critical"]},
            "event": {"enum": list(EVENTS), "description": "What happened; fields depend on it."},
            "logger": {"type": "string", "description": "Which part of the program says so."},
            "message": {
                "type": "string",
                "description": "The same for people. Its wording may change.",
            },
            "run": {"type": "string", "description": "Which run, once one has started."},
            "exception": {"type": "string", "description": "A traceback."},
        },
        "oneOf": [
            {
                "description": known.meaning,
                "required": list(known.fields),
                "properties": {"event": {"const": name}, **known.fields},
            }
            for name, known in EVENTS.items()
        ],
    }
