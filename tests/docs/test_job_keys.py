"""docs/jobs.md lists every key of a job, as the schema has it.

`UPDATE_GOLDEN=1 pytest tests/docs/test_job_keys.py` rewrites the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/jobs.md"
MARK = "<!-- keys -->\n\n"
HEAD = "| key | default | meaning |\n|---|---|---|\n"
# Keys of the scripted engine are for tests and dry runs: the schema has them, the page does not.
LEFT_OUT = {"engine.script"}


def keys(node: dict[str, Any], definitions: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield a line of the table for each key of a section, and for those of its sections."""
    for name, field in node["properties"].items():
        key = above + name
        sections = [
            definitions[option["$ref"].split("/")[-1]]
            for option in [field, *field.get("anyOf", [])]
            if "$ref" in option
        ]
        if not sections or "description" in field:
            yield f"| `{key}` | {default(field)} | {meaning(field)} |"
        for section in sections if key not in LEFT_OUT else ():
            yield from keys(section, definitions, key + ".")


def default(field: dict[str, Any]) -> str:
    if "default" not in field or (isinstance(field["default"], dict) and field["default"]):
        return "—"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def meaning(field: dict[str, Any]) -> str:
    return str(field["description"]).replace("|", "\\|").replace("\n", " ")


def test_the_page_lists_every_key() -> None:
    schema = json.loads((ROOT / "schemas/job.schema.json").read_text(encoding="utf-8"))
    wanted = HEAD + "".join(f"{line}\n" for line in keys(schema, schema["$defs"]))
    text = PAGE.read_text(encoding="utf-8")
    before, have = text.split(MARK)
    if os.environ.get("UPDATE_GOLDEN") and have != wanted:
        PAGE.write_text(before + MARK + wanted, encoding="utf-8")
        pytest.skip("rewritten")

    assert have == wanted
