"""Recommended settings of a model: its card's, and its generation_config.json's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchr1.errors import JobError
from batchr1.job.spec import JobSpec
from batchr1.models.catalogue import VARIANTS
from batchr1.models.resolve import ModelSource

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p")


def with_card(spec: JobSpec) -> JobSpec:
    """Fill in what the card of the job's variant says."""
    entry = VARIANTS.get(spec.model.variant or "")
    if entry is None or not entry.defaults:
        return spec
    sections: dict[str, Any] = {}
    for section, values in entry.defaults.items():
        given = getattr(spec, section)
        unset = {k: v for k, v in values.items() if k not in given.model_fields_set}
        sections[section] = given.model_copy(update=unset)
    return spec.model_copy(update=sections)


def with_preset(spec: JobSpec, model: ModelSource) -> JobSpec:
    """Take the model's own sampling with `sampling.preset: model`.

    What the job sets stays. Raises JobError for a model that recommends none.
    """
    if spec.sampling.preset is None:
        return spec
    found = recommended_sampling(model)
    if not found:
        raise JobError(
            f"sampling.preset: {model.name} recommends no sampling (got no values in its "
            "generation_config.json). Remove preset, and set temperature and top_p."
        )
    given = spec.sampling
    unset = {k: v for k, v in found.items() if k not in given.model_fields_set}
    return spec.model_copy(update={"sampling": given.model_copy(update=unset)})


def recommended_sampling(model: ModelSource) -> dict[str, Any]:
    """Read the sampling that a model's generation_config.json names; {} without any.

    Greedy decoding is a temperature of 0; a top_k of 0 is none.
    """
    path = None if model.folder is None else Path(model.folder) / "generation_config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(document, dict):
        return {}
    found = {
        name: document[name]
        for name in SAMPLING_KEYS
        if isinstance(document.get(name), int | float) and not isinstance(document[name], bool)
    }
    if found.get("top_k") == 0:
        found["top_k"] = None
    if document.get("do_sample") is False:
        found["temperature"] = 0.0
    return found
