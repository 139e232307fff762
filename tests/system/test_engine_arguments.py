"""Engine arguments against the installed vLLM."""

from __future__ import annotations

import json
import subprocess
import sys

from batchr1.engine.vllm.arguments import engine_arg_names, require_vllm


def test_the_names_of_engine_arguments_are_those_of_the_installed_class() -> None:
    code = (
        "import dataclasses, json; from vllm import EngineArgs; print(json.dumps([f.name for f in "
        "dataclasses.fields(EngineArgs)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(engine_arg_names()) == set(json.loads(done.stdout.splitlines()[-1]))


def test_vllm_is_found_without_being_imported() -> None:
    code = (
        "import sys; from batchr1.engine.vllm.arguments import *; "
        "check_engine_args(['max_num_seqs']); print('vllm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert (require_vllm() / "engine").is_dir()
