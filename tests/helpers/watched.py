"""What a watched job shows: metrics and log lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from prometheus_client.parser import text_string_to_metric_families

from batchr1.events import EVENTS

ROOT = Path(__file__).parents[2]
LINE = jsonschema.Draft202012Validator(
    json.loads((ROOT / "schemas/log.schema.json").read_text()),
    format_checker=jsonschema.FormatChecker(),
)
ALWAYS = {"ts", "level", "event", "logger", "message"}


def lines_of(stderr: str) -> list[dict[str, Any]]:
    """Every line of stderr, held against the schema; and it has no field that the schema does not
    name.
    """
    lines = [json.loads(line) for line in stderr.splitlines()]
    for line in lines:
        LINE.validate(line)
        assert set(line) - ALWAYS - {"run"} <= set(EVENTS[line["event"]].fields), line
    return lines


def samples_of(text: str) -> dict[str, float]:
    """Metrics as `name{label,…}` without the job's name, by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "name")
            assert sample.labels["name"]
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found
