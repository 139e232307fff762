"""A machine with a cache of its own, and the one hub that it knows."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hub_server import model_files
from replay_job import MODEL

REPO = "org/r1-tiny"
FILES = model_files(Path(MODEL))
SHARDED = model_files(Path(MODEL), shards=5)
WANTED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
WEIGHTS = "model.safetensors"
SIZE = sum(len(FILES[name]) for name in WANTED | {WEIGHTS})
TOKEN = "hf_SECRETsecretSECRET"


@dataclass
class Machine:
    """A machine with a cache of its own, that knows one hub."""

    home: Path
    url: str
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        }
        return kept | {"HF_HOME": str(self.home), "HF_ENDPOINT": self.url} | more

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        """`batchr1 fetch` with these words."""
        return self.python("-m", "batchr1", "fetch", *map(str, words), **environment)

    def python(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """A Python of this machine's environment."""
        command = [sys.executable, *words]
        process = subprocess.Popen(
            command,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def fetch(self, *words: str | Path, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=200)
        return process.returncode, out, err

    def snapshot(self, commit: str, repo: str = REPO) -> Path:
        return self.home / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / commit

    def partials(self) -> dict[str, int]:
        """Unfinished files and their sizes in bytes."""
        sizes = {}
        for folder, _, names in os.walk(self.home):  # rglob raises when a folder goes meanwhile
            for name in fnmatch.filter(names, "*.incomplete"):
                with contextlib.suppress(FileNotFoundError):  # it was whole, and got its name
                    sizes[name] = Path(folder, name).stat().st_size
        return sizes
