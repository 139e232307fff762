"""The config.json of a small Llama."""

from __future__ import annotations

CONFIG = {"max_position_embeddings": 4096, "num_hidden_layers": 2}
