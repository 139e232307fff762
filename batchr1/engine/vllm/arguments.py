"""Names of vLLM's engine arguments, without importing vLLM.

An import takes seconds, and loads torch into the driver.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from batchr1.errors import JobError, UsageError


def require_vllm() -> Path:
    """The folder of the installed vLLM; a `UsageError` when there is none."""
    folder = _installed()
    if folder is None:
        raise UsageError(
            "vllm: not installed here (need it to run a model). "
            "Install batchr1[cuda] on a machine with GPUs, batchr1[cpu] elsewhere."
        )
    return folder


def _installed() -> Path | None:
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def engine_arg_names() -> tuple[str, ...]:
    """Read the fields of vLLM's `EngineArgs` from its source.

    Compared with 0.32's class; () if it moved, or without vLLM.
    """
    folder = _installed()
    if folder is None or not (path := folder / "engine" / "arg_utils.py").is_file():
        return ()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fields = [
        line.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]
    return tuple(fields)


def refuse_secret(name: str) -> None:
    """Raise `JobError` for an argument that holds a secret."""
    if name == "hf_token":
        raise JobError(
            "model.engine_args.hf_token: a job file holds no secrets (it is copied into the "
            "output). Set HF_TOKEN in the environment."
        )


# Arguments that say which model it is: by them rows would be recorded under a name not theirs.
_ELSEWHERE = {
    "model": "model.variant, model.path or model.repo",
    "tokenizer": "model.path, a folder that holds the tokenizer",
    "revision": "model.revision",
    "tokenizer_revision": "model.revision",
    "code_revision": "model.revision",
    "hf_config_path": "model.path, a folder that holds the config",
    "trust_remote_code": "model.trust_remote_code",
    "lora_modules": "model.adapter",
}


def refuse_another_model(name: str) -> None:
    """Raise `JobError` for an argument that would replace the job's model."""
    if name in _ELSEWHERE:
        raise JobError(
            f"model.engine_args.{name}: would replace the model that rows are recorded as. Leave "
            f"it out, and give {_ELSEWHERE[name]}."
        )


def check_engine_args(names: Iterable[str]) -> None:
    """Raise `JobError` for names that vLLM does not take, and for secrets."""
    wanted = list(names)
    known = engine_arg_names() if wanted else ()
    for name in wanted:
        refuse_secret(name)
        refuse_another_model(name)
        if known and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = (
                f"Did you mean {close[0]}?"
                if close
                else "See `vllm serve --help` for the names (with underscores)."
            )
            raise JobError(f"model.engine_args.{name}: vLLM has no such argument. {hint}")
